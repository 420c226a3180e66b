"""Run the shipped pipeline on real CT scans and compare with hand-placed body centers where there are any.

    python -m benchmarks.real DIR -o OUT

DIR holds `NAME_ct.nii.gz`, and where known `NAME_ctd.json` in VerSe's form: `direction` first, then `label, X, Y, Z` in
voxels of the image; and `NAME_T12only_seg.nii.gz`, the mask of one vertebra.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np

from pipeline import InputError, NoSpineFound, Result, VertebraePipeline, read_scan
from pipeline.labels import row_of_label
from pipeline.landmarks import absent, present_rows
from pipeline.metrics import best_shift, dice, identified
from pipeline.results import write_result
from pipeline.run import STAGES
from pipeline.spaces import to_world


def read_centers(path: Path, affine: np.ndarray) -> np.ndarray:
    """Return `(26, 3)` RAS+ mm of a VerSe-style centroid file in voxels of the image itself."""
    landmarks_mm = absent()
    for point in json.loads(path.read_text())[1:]:
        landmarks_mm[row_of_label(point["label"])] = to_world(affine, [point["X"], point["Y"], point["Z"]])
    return landmarks_mm


def nearest_errors(predicted_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """Return the distance from every true center to the nearest predicted one, whatever its name."""
    rows, found = present_rows(truth_mm), predicted_mm[present_rows(predicted_mm)]
    return np.linalg.norm(truth_mm[rows][:, None] - found[None], axis=-1).min(axis=1)


def line(name: str, result: Result, folder: Path) -> str:
    """Return one line of the table."""
    labelling = result.labelling
    names = [v.name for v in labelling.vertebrae]
    text = f"{name:<22} {names[0] + '-' + names[-1]:>9} ({len(names):>2})  {sum(result.seconds.values()):>5.1f} s"
    centers = folder / f"{name}_ctd.json"
    if centers.is_file():
        truth = read_centers(centers, result.scan.affine)
        hit = identified(labelling.landmarks_mm, truth)
        error = nearest_errors(labelling.landmarks_mm, truth)
        text += (
            f"  id {hit.sum():>2}/{len(error):<2} shift {best_shift(labelling.landmarks_mm[:25], truth[:25]):+d}"
            f"  found within 10 mm {(error <= 10).sum():>2}/{len(error):<2} median {np.median(error):.1f} mm"
        )
    mask = folder / f"{name}_T12only_seg.nii.gz"
    if mask.is_file():
        truth_mask = np.asarray(nibabel.load(mask).dataobj) > 0
        here = np.bincount(result.labels[truth_mask], minlength=29)
        best = int(here[1:].argmax()) + 1
        text += f"  T12: Dice {dice(result.labels == best, truth_mask, True):.3f} (called label {best})"
    return text


def run(folder: Path, output: Path, checkpoints: dict[str, Path]) -> None:
    """Write the result of every scan of a folder and print its line."""
    pipeline = VertebraePipeline(checkpoints=checkpoints)
    for path in sorted(folder.glob("*_ct.nii.gz")):
        name = path.name.removesuffix("_ct.nii.gz")
        try:
            result = pipeline(read_scan(path))
        except (InputError, NoSpineFound) as error:
            print(f"{name:<22} {error}")
            continue
        write_result(result, output, pipeline.versions)
        print(line(name, result, folder), flush=True)
        for warning in result.labelling.warnings:
            print(f"{'':<22}   {warning}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    for stage in STAGES:
        parser.add_argument(f"--{stage.replace('_', '-')}", dest=stage, type=Path, help="other weights")
    options = parser.parse_args()
    checkpoints = {s: getattr(options, s) for s in STAGES if getattr(options, s)}
    run(options.folder, options.output, checkpoints)


if __name__ == "__main__":
    main()
