"""Start a server on a folder of scans."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from ..run import STAGES, _device

MAIN = '"""Tells MONAI Label which app to run."""\n\nfrom pipeline.label.app import VertebraeApp as App  # noqa: F401\n'
PACKAGES = Path(__file__).parents[2]  # the folder that holds the package
SUFFIXES = ("*.nii.gz", "*.nii", "*.nrrd", "*.mha")


def serve(
    studies: Path, *, host: str = "127.0.0.1", port: int = 8000, device: str = "auto", bundles: Path | None = None
) -> None:
    """Serve the scans of a folder until the process is stopped.

    MONAI Label writes `labels/` and `datastore_v2.json` into the folder, the server its own files into `.vertebrae/`.

    Args:
        studies: folder with the scans directly in it.
        host: address to listen at.
        port: port to listen at.
        device: as for `VertebraePipeline`.
        bundles: as for `VertebraePipeline`.

    Raises:
        ValueError: MONAI Label is not installed, the folder holds no scan, a bundle or the device is not there, or the
            port is taken.
    """
    scans = check_studies(studies)
    check_installed()
    check_bundles(bundles)
    _device(device)
    check_free(host, port)
    work = prepare(studies.resolve() / ".vertebrae")
    conf = {"device": device} | ({"bundles": str(bundles.resolve())} if bundles else {})
    address = f"http://{host}:{port}"
    print(f"{len(scans)} scans of {studies} at {address}, in a browser: {address}/spine/", flush=True)
    options = [text for pair in conf.items() for text in ("--conf", *pair)]
    options += f"--host {host} --port {port} --uvicorn_app pipeline.label.server:app --log_level warning".split()
    sys.argv = ["monailabel", "start_server", "--app", str(work), "--studies", str(studies.resolve()), *options]
    from monailabel.main import Main

    Main().run()


def check_studies(studies: Path) -> list[str]:
    """Return the names of the scans in a folder; `ValueError` if there is none."""
    if not studies.is_dir():
        raise ValueError(f"{studies}: no such folder")
    names = sorted(path.name for path in studies.iterdir() if path.is_file() and path.name[0] != ".")
    scans = [name for name in names if any(fnmatch(name, suffix) for suffix in SUFFIXES)]
    if not scans:
        raise ValueError(f"{studies}: no scan; expected {', '.join(SUFFIXES)} directly in it")
    return scans


def check_installed() -> None:
    """Refuse to go on without MONAI Label."""
    if importlib.util.find_spec("monailabel") is None:
        command = "pip install '.[label]' && pip install --no-deps monailabel==0.8.5"
        raise ValueError(f"MONAI Label is not installed: {command}")


def check_bundles(folder: Path | None) -> None:
    """Refuse a folder that lacks one of the three bundles; None = those that came along."""
    for stage in STAGES if folder else ():
        if not (Path(str(folder)) / stage / "configs" / "inference.json").is_file():
            raise ValueError(f"{folder}: no bundle {stage} in it")


def check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened at."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"{host}:{port}: cannot listen there ({reason}); choose another --port or --host"
            ) from None


def prepare(work: Path) -> Path:
    """Make the server's folder, and set the environment of the server and of the processes it starts; return it."""
    for name in ("uploads", "sessions"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "main.py").write_text(MAIN)
    paths = [str(PACKAGES), os.environ.get("PYTHONPATH", "")]
    if not usable("pydicom_seg"):
        paths.insert(0, str(Path(__file__).parent / "stand_in"))
    sys.path[:0] = [path for path in paths if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ["TMPDIR"] = tempfile.tempdir = str(work / "uploads")  # so that uploads are in a folder of their own
    os.environ["MONAI_LABEL_SESSION_PATH"] = str(work / "sessions")
    os.environ["MONAI_LABEL_AUTO_UPDATE_SCORING"] = "false"
    os.chdir(work / "uploads")  # empty: no scan's name is also that of a file here
    return work


def usable(module: str) -> bool:
    """Return whether a module is installed and loads."""
    try:
        return importlib.import_module(module) is not None
    except ImportError:
        return False
