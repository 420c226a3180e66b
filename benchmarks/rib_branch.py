"""What stage two's branch for ribs says of the known vertebrae of real scans.

    python -m benchmarks.rib_branch FOLDER [--vert-loc WEIGHTS]

FOLDER holds NAME_ct.nii.gz and, in VerSe's form, NAME_ctd.json. A line per scan: the log-odds of ribs at each body.
Then how many of those with ribs by their names (T1 to T13) and of the others are told rightly.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from pipeline import Scan, VertebraePipeline, read_scan
from pipeline.labels import NAMES, T1_ROW, T12_ROW, T13_ROW
from pipeline.landmarks import present_rows
from pipeline.spaces import scaled, to_voxel

from .real import read_centers


def log_odds_at(pipeline: VertebraePipeline, scan: Scan, truth_mm: np.ndarray) -> np.ndarray:
    """Return the `(N,)` log-odds of ribs at the vertebrae present in `(26, 3)` RAS+ mm."""
    stage = pipeline.vert_loc
    sample = stage.preprocessing({"image": scan, "spine_box_mm": pipeline.find_spine(scan)})
    with torch.inference_mode():
        log_odds = stage.network.ribs(sample["image"][None])[0, 0].numpy()
    affine = scaled(np.asarray(sample["grid_affine"]), sample["image"].shape[1] // log_odds.shape[0])
    where_vox = to_voxel(affine, truth_mm[present_rows(truth_mm)])
    return ndimage.map_coordinates(log_odds, where_vox.T, order=1, mode="nearest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vert-loc", type=Path, help="weights of stage two; the shipped ones if not given")
    options = parser.parse_args()
    pipeline = VertebraePipeline(checkpoints={"vert_loc": options.vert_loc} if options.vert_loc else {})
    right: dict[bool, list[bool]] = {True: [], False: []}
    for centers in sorted(options.folder.glob("*_ctd.json")):
        path = centers.with_name(centers.name.replace("_ctd.json", "_ct.nii.gz"))
        scan = read_scan(path)
        truth_mm = read_centers(centers, scan.affine)
        found = log_odds_at(pipeline, scan, truth_mm)
        rows = present_rows(truth_mm)
        print(f"{path.name:<28}", " ".join(f"{NAMES[r]} {x:+.1f}" for r, x in zip(rows, found, strict=True)))
        for row, value in zip(rows, found, strict=True):
            has = T1_ROW <= row <= T12_ROW or row == T13_ROW
            right[has].append((value > 0) == has)
    for has, name in ((True, "with ribs"), (False, "without")):
        print(f"{name}: {sum(right[has])} of {len(right[has])}")


if __name__ == "__main__":
    main()
