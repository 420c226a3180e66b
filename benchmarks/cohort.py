"""Time of one `vertebrae segment DIR` against one process for each scan, on the same synthetic scans.

python -m benchmarks.cohort --count 4
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.phantom import write_phantoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=870_001)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        list(write_phantoms(Path(folder) / "data", options.count, options.seed, "localization"))
        scans = sorted((Path(folder) / "data" / "images").iterdir())
        together = run(scans[0].parent, Path(folder) / "together")
        alone = sum(run(scan, Path(folder) / "alone") for scan in scans)
        for path in (Path(folder) / "alone").glob("*_segmentation.nii.gz"):
            assert path.read_bytes() == (Path(folder) / "together" / path.name).read_bytes(), path.name
    print(f"{options.count} scans: {together:.0f} s as a cohort, {alone:.0f} s one by one, the same masks")


def run(source: Path, output: Path) -> float:
    """Return the seconds that one command takes."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "pipeline.cli", "segment", str(source), "-o", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
