"""What a click needs: stage three with the clicked landmark alone, with its neighbors', with all.

python -m benchmarks.click [--seed 77] [--device cpu]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from pipeline import VertebraePipeline
from pipeline.annotations import read_mask
from pipeline.images import read_scan
from pipeline.labels import LABELS, NAMES
from pipeline.landmarks import absent, present_rows, read_csv
from pipeline.metrics import dice
from pipeline.phantom import write_phantoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for _ in write_phantoms(Path(folder), 1, options.seed, "segmentation"):
            pass
        (image,) = (Path(folder) / "images").iterdir()
        name = image.name.partition(".")[0]
        scan, landmarks_mm = read_scan(image), read_csv(Path(folder) / "landmarks" / f"{name}.csv")
        truth, _ = read_mask(Path(folder) / "segmentations" / f"{name}_seg.nii.gz")
    rows = present_rows(landmarks_mm)
    place = len(rows) // 2
    pipeline = VertebraePipeline(options.device)
    for what, kept in (
        ("alone", rows[place : place + 1]),
        ("with neighbors", rows[place - 1 : place + 2]),
        ("all", rows),
    ):
        given = absent()
        given[kept] = landmarks_mm[kept]
        value = dice(pipeline.segment(scan, given), truth, LABELS[rows[place]])
        print(f"{NAMES[rows[place]]} {what:15} {len(kept)} landmarks, Dice {np.round(value, 3)}")


if __name__ == "__main__":
    main()
