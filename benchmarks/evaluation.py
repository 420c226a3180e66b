"""Time and memory of `vertebrae evaluate` per scan: 512 x 512 x 500 voxels of 0.8 x 0.8 x 1 mm, 20 vertebrae.

    python -m benchmarks.evaluation --count 3

The truth is a row of bodies with arches and processes and has VerSe's centroid file; the prediction is the same,
moved by a voxel, once with a landmark file and once without one, so that its centers are derived from the mask.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from pipeline.evaluation.folders import find_cases
from pipeline.evaluation.scoring import score_scan

SHAPE, AFFINE = (512, 512, 500), np.diag([-0.8, -0.8, 1.0, 1.0])
LABELS, STEP = range(5, 25), 24  # C5 to L5, one every 24 mm


def vertebra(step: int) -> np.ndarray:
    """Return a `(120, 120, 24)` mask: a body, an arch behind it and three processes."""
    x, y, z = (np.indices((120, 120, STEP)).T - [60, 40, 11]).T * np.array([0.8, 0.8, 1]).reshape(3, 1, 1, 1)
    body = (x / 20) ** 2 + (y / 15) ** 2 < 1
    arch = np.abs(np.hypot(x, y - 24) - 11) < 3
    processes = ((np.abs(y - 24) < 4) & (np.abs(x) < 38) & (np.abs(x) > 11)) | ((np.abs(x) < 3) & (y > 34) & (y < 58))
    return (body & (np.abs(z) < 10)) | ((arch | processes) & (np.abs(z) < 5 + step % 2))


def write_scan(folder: Path, name: str, offset: int) -> None:
    """Write the mask and the centroids, all moved by some voxels along each axis."""
    labels, points = np.zeros(SHAPE, np.uint8), [{"direction": ["L", "P", "S"]}]
    for i, label in enumerate(LABELS):
        low = np.array([196, 220, 490 - STEP * (i + 1)]) + offset
        labels[tuple(slice(a, a + n) for a, n in zip(low, (120, 120, STEP), strict=True))] += np.uint8(
            label
        ) * vertebra(i)
        points.append({"label": label, **dict(zip("XYZ", (low + [60, 40, 11]).tolist(), strict=True))})
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / f"{name}_seg.nii.gz")
    (folder / f"{name}_ctd.json").write_text(json.dumps(points))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        truth, prediction = Path(folder, "truth"), Path(folder, "pred")
        for side, offset in ((truth, 0), (prediction, 1)):
            side.mkdir()
            for i in range(options.count):
                write_scan(side, f"scan{i}", offset)
        for given in ("landmark file", "derived centers"):
            truths, predictions = find_cases(truth), find_cases(prediction)
            for name, case in truths.items():
                start, cpu = time.perf_counter(), time.process_time()
                scan = score_scan(case, predictions[name])
                wall, cpu = time.perf_counter() - start, time.process_time() - cpu
                hits = sum(bool(v.hit) for v in scan.vertebrae)
                print(f"{given:<16} {name}: {wall:5.1f} s wall, {cpu:5.1f} s CPU, {hits} identified")
            for path in prediction.glob("*_ctd.json"):
                path.unlink()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
