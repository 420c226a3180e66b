"""Time of one `vertebrae segment DIR` against one process for each scan, on the same synthetic scans.

python -m benchmarks.cohort --count 10
python -m benchmarks.cohort --count 4 --preset segmentation    # small scans: start-up weighs more
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from pipeline.phantom import write_phantoms
from pipeline.phantom.grids import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=870_001)
    parser.add_argument("--preset", choices=PRESETS, default="localization")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        list(write_phantoms(Path(folder) / "data", options.count, options.seed, options.preset))
        scans = sorted((Path(folder) / "data" / "images").iterdir())
        together = run(scans[0].parent, Path(folder) / "together")
        print(f"shapes: {', '.join('x'.join(map(str, nib.load(scan).shape)) for scan in scans)}", flush=True)
        alone = sum((run(scan, Path(folder) / "alone") for scan in scans), start=np.zeros(2))
        for path in (Path(folder) / "alone").glob("*_segmentation.nii.gz"):
            assert path.read_bytes() == (Path(folder) / "together" / path.name).read_bytes(), path.name
    for name, (wall_s, processor_s) in {"as a cohort": together, "one by one": alone}.items():
        print(f"{options.count} scans {name}: {wall_s:.0f} s, {processor_s:.0f} s of processor time")
    print(
        "a cohort's share: {:.2f} of the time, {:.2f} of the processor time; the same masks".format(*together / alone)
    )


def run(source: Path, output: Path) -> np.ndarray:
    """Return the seconds that one command takes: on the clock, and of all processors."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pipeline.cli", "segment", str(source), "-o", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return np.array([time.perf_counter() - begun, processor_s])


if __name__ == "__main__":
    main()
