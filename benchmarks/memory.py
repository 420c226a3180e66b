"""Peak memory and time of `vertebrae segment` on a large scan, in a process of its own.

    python -m benchmarks.memory --shape 512 512 500

The scan is a synthetic spine at 0.8 x 0.8 x 1 mm; the peak is the resident set that the system reports at the end.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.phantom import make_phantom, write_phantom
from pipeline.phantom.spine import draw_spine
from pipeline.spaces import Grid

SEED = (870_000, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 500))
    options = parser.parse_args()
    spine = draw_spine(np.random.default_rng(list(SEED)), "none")
    affine = np.diag([-0.8, -0.8, 1.0, 1.0])
    affine[:3, 3] = (spine.at(14) + [0, 40, 0]) - affine[:3, :3] @ ((np.array(options.shape) - 1) / 2)
    with tempfile.TemporaryDirectory() as folder:
        print(f"Making a {'x'.join(map(str, options.shape))} scan ...", flush=True)
        phantom = make_phantom(SEED, variant="none", grid=Grid(tuple(options.shape), affine))
        write_phantom(Path(folder), "large", phantom)
        del phantom
        command = [
            sys.executable,
            "-m",
            "pipeline.cli",
            "segment",
            f"{folder}/images/large.nii.gz",
            "-o",
            f"{folder}/out",
        ]
        start = time.perf_counter()
        code = subprocess.run(command, check=False).returncode
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"exit code {code}, {seconds:.0f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
