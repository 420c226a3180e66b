"""`vertebrae segment` with a pipeline that needs no networks and reads the mask off the HU; run it as a program.

A scan takes FAKE_SECONDS (0.02), one whose name has "slow" in it 30 s; one with "deadly" kills the process.
FAKE_LOG names a file that gets a line "PID NAME" whenever a scan is begun; FAKE_PEAK one that gets "NAME GB", the peak
memory since the line before: that of reading this scan, and those before it that cannot be used.
"""

import os
import signal
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from format_cases import make_result, make_scan

import pipeline.batch
import pipeline.cohort
import pipeline.preview
from pipeline import NoSpineFound
from pipeline.cli import main
from pipeline.memory import peak_gb, reset_peak


class FakePipeline:
    versions = {"spine_loc": "0", "vert_loc": "0", "vert_seg": "0"}  # noqa: RUF012

    def __init__(self, device, checkpoints) -> None:
        pass

    def __call__(self, scan, on_stage=lambda name: None):
        on_stage("spine_loc")
        if log := os.environ.get("FAKE_LOG"):
            with open(log, "a") as stream:
                stream.write(f"{os.getpid()} {scan.name}\n")
        if log := os.environ.get("FAKE_PEAK"):
            with open(log, "a") as stream:
                stream.write(f"{scan.name} {peak_gb():.2f}\n")
            reset_peak()
        if "deadly" in scan.name:
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + (30 if "slow" in scan.name else float(os.environ.get("FAKE_SECONDS", "0.02")))
        while time.monotonic() < end:
            time.sleep(0.01)
        if not (scan.array == 400).any():
            raise NoSpineFound(f"{scan.path}: no spine found in this scan")
        return make_result(scan)


def save_preview(path, *_) -> None:
    Path(path).write_bytes(b"a picture")


def make_cohort(folder: Path, good: int, broken: int) -> Path:
    """Write scans on different grids, named `00`, `01` ..., every tenth or so unusable in one of five ways."""
    folder.mkdir()
    orders = ("RAS", "LPS", "PIR", "SAL", "IRP")
    for index in range(good + broken):
        scan = make_scan(orders[index % 5], bool(index % 2))
        array, affine = scan.array + np.int16(index) * (scan.array == 40), scan.affine
        path = folder / f"{index:02d}.nii.gz"
        kind = index // 10 if index % 10 == 3 and index // 10 < broken else None
        if kind == 1:
            array = array[:, :, 0]
        elif kind == 2:
            array = array.astype(np.float32)
            array[3, 3, 3] = np.nan
        elif kind == 3:
            array = np.where(array == 400, 300 + np.int16(index), array).astype(np.int16)  # no vertebra in it
        elif kind == 4:
            affine = np.diag([9.0, 9.0, 9.0, 1.0])
        nib.save(nib.Nifti1Image(array, affine), path)
        if kind == 0:
            path.write_bytes(path.read_bytes()[:-300])
    return folder


if __name__ == "__main__":
    pipeline.batch.VertebraePipeline = FakePipeline
    pipeline.preview.save_preview = save_preview
    if "FAKE_PEAK" in os.environ:
        pipeline.cohort.reset_peak = lambda: None
    sys.exit(main(sys.argv[1:]))
