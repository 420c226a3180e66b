"""Exchange formats: each module writes one, from a `Result`, beside the standard outputs (`docs/formats.md`).

A writer takes `(folder, result, versions)`, writes `NAME_...` there and returns the paths. Modules are imported when
their format is asked for, so that a missing extra matters only then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..run import Result

STANDARD = ("nifti", "csv", "json")  # always written, by `results`
_MODULES = {"ctd": "ctd", "mrk": "slicer", "dicomseg": "dicomseg", "rtstruct": "rtstruct", "per-vertebra": "split"}
NEED_DICOM = ("dicomseg", "rtstruct")

Writer = Callable[[Path, "Result", dict[str, str]], list[Path]]


def parse_formats(text: str) -> tuple[str, ...]:
    """Return the formats named in a text such as `nifti,ctd,dicomseg` that come on top of the standard ones.

    Raises:
        ValueError: an unknown name, or the extra that a format needs is not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in (*STANDARD, *_MODULES):
            raise ValueError(f"format {name!r}: expected {', '.join((*STANDARD, *_MODULES))}")
    wanted = tuple(name for name in names if name in _MODULES)
    for name in wanted:
        _writer(name)
    return wanted


def check_source(path: Path, is_dicom: bool, formats: Sequence[str]) -> None:
    """Raise `ValueError` if a format refers to DICOM images and the scan has none; known before hours of work."""
    for name in formats:
        if name in NEED_DICOM and not is_dicom:
            raise ValueError(f"{path}: format {name!r} needs a DICOM series as input")


def write_formats(folder: Path, result: Result, formats: Sequence[str], versions: dict[str, str]) -> list[Path]:
    """Write every format into a folder and return the paths of what was written."""
    check_source(result.scan.path, bool(result.scan.files), formats)
    return [path for name in formats for path in _writer(name)(folder, result, versions)]


def _writer(name: str) -> Writer:
    try:
        return import_module(f".{_MODULES[name]}", __name__).write
    except ModuleNotFoundError as error:
        raise ValueError(
            f"format {name!r} needs the package {error.name}: pip install '.[dicom]' in the repository"
        ) from error
