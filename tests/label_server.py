"""A live server of `vertebrae label` with networks that know the answer, in a process of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import torch
from conftest import BUNDLES

ORACLES = {"spine_loc": "SpineOracle", "vert_loc": "LandmarkOracle", "vert_seg": "MaskOracle"}
SMALL = {"vert_seg": {"window": [40, 64, 56]}}  # voxels of 1 mm; a ball is 34 x 26 x 19 mm


def oracle_bundles(folder: Path) -> Path:
    """Return a folder of the three bundles with the networks of `oracles.py`."""
    for name, oracle in ORACLES.items():
        bundle = shutil.copytree(BUNDLES / name, folder / name, ignore=shutil.ignore_patterns("models"))
        path = bundle / "configs" / "inference.json"
        changes = {"network_def": {"_target_": f"oracles.{oracle}"}, **SMALL.get(name, {})}
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        (bundle / "models").mkdir()
        torch.save({}, bundle / "models" / "model.pt")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """Starts the command, waits until it answers, and ends it."""

    def __init__(self, studies: Path, bundles: Path, log: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = log
        here = Path(__file__).parent
        paths = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
        options = ["--studies", str(studies), "--bundles", str(bundles), "--device", "cpu"]
        command = [sys.executable, "-m", "pipeline.cli", "label", *options, "--port", self.url.rpartition(":")[2]]
        with open(log, "w") as stream:
            self.process = subprocess.Popen(
                command,
                cwd=log.parent,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )
        self.wait()

    def wait(self, seconds: float = 400) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/info/", timeout=5).read()
                return
            except OSError:
                time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"no answer from the server:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
