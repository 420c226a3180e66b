"""Name the vertebrae on parts of real scans: more chances to be wrong than the whole scans offer, and harder ones.

    python -m benchmarks.crops DIR [DIR ...] --vert-loc model.pt other.pt --spine-loc another.pt

DIR as in `benchmarks.real`; scans without centers are passed over. Every scan is taken whole, without its lower, its
upper and both its ends, narrow, and mirrored. Prints identified of asked, and by how many levels most names are off,
for the shipped weights and with each of those given in place of one stage's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from pipeline import NoSpineFound, Scan, VertebraePipeline, read_scan
from pipeline.landmarks import absent, present_rows
from pipeline.metrics import best_shift, identified
from pipeline.spaces import to_voxel, to_world

from .real import read_centers

WIDTH_MM = 150.0  # of narrow scans
EDGE_VOXELS = 3  # centers nearer to a cut are not asked for


def axis_along(affine: np.ndarray, direction: int) -> int:
    """Return the array axis that runs most nearly along x, y or z (0, 1, 2)."""
    return int(np.flatnonzero(nibabel.io_orientation(affine)[:, 0] == direction)[0])


def cropped(scan: Scan, axis: int, start: float, end: float) -> Scan:
    """Return the part between two voxel positions along an array axis."""
    low, high = max(round(start), 0), min(round(end), scan.array.shape[axis])
    affine = scan.affine.copy()
    affine[:3, 3] += low * affine[:3, axis]
    kept = np.take(scan.array, range(low, high), axis=axis)
    return replace(scan, array=np.ascontiguousarray(kept), affine=affine, files=())


def mirrored(scan: Scan, landmarks_mm: np.ndarray) -> tuple[Scan, np.ndarray]:
    """Return the patient with left and right exchanged, on the same grid, and the centers there."""
    axis = axis_along(scan.affine, 0)
    index = to_voxel(scan.affine, landmarks_mm)
    index[:, axis] = scan.array.shape[axis] - 1 - index[:, axis]
    flipped = np.ascontiguousarray(np.flip(scan.array, axis))
    return replace(scan, array=flipped, files=()), to_world(scan.affine, index)


def parts(scan: Scan, landmarks_mm: np.ndarray) -> Iterator[tuple[str, Scan, np.ndarray]]:
    """Yield name, scan and `(26, 3)` RAS+ mm centers well inside it of every part."""
    up, across = axis_along(scan.affine, 2), axis_along(scan.affine, 0)
    height = scan.array.shape[up]
    middle = np.nanmean(to_voxel(scan.affine, landmarks_mm)[:, across])
    half = WIDTH_MM / 2 / np.linalg.norm(scan.affine[:3, across])
    rises = scan.affine[2, up] > 0
    ends = {"without the lower end": (0.4, 1.0), "without the upper end": (0.0, 0.6), "without both ends": (0.15, 0.85)}
    whole = [("whole", scan, landmarks_mm)]
    for name, (low, high) in ends.items():
        start, end = (low, high) if rises else (1 - high, 1 - low)
        whole.append((name, cropped(scan, up, start * height, end * height), landmarks_mm))
    whole.append(("narrow", cropped(scan, across, middle - half, middle + half), landmarks_mm))
    whole.append(("mirrored", *mirrored(scan, landmarks_mm)))
    for name, part, centers_mm in whole:
        index = to_voxel(part.affine, centers_mm)
        inside = ((index >= EDGE_VOXELS) & (index <= np.array(part.array.shape) - 1 - EDGE_VOXELS)).all(axis=1)
        yield name, part, np.where(inside[:, None], centers_mm, np.nan)


def named(pipelines: dict[str, VertebraePipeline], scan: Scan) -> dict[str, np.ndarray]:
    """Return the `(26, 3)` landmarks that each set of weights finds; all NaN where there is no spine."""
    found = {name: absent() for name in pipelines}
    for name, pipeline in pipelines.items():
        with suppress(NoSpineFound):
            found[name] = pipeline.find_vertebrae(scan, pipeline.find_spine(scan)).landmarks_mm
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    for stage in ("spine_loc", "vert_loc"):
        flag = f"--{stage.replace('_', '-')}"
        parser.add_argument(flag, dest=stage, type=Path, nargs="*", default=[], help="other weights to compare")
    options = parser.parse_args()
    pipelines = {"shipped": VertebraePipeline()}
    for stage in ("spine_loc", "vert_loc"):
        others = getattr(options, stage)
        pipelines |= {path.stem: VertebraePipeline(checkpoints={stage: path}) for path in others}
    hits: dict[str, list[tuple[int, int]]] = {name: [] for name in pipelines}
    for centers in sorted(path for folder in options.folders for path in folder.glob("*_ctd.json")):
        name = centers.name.removesuffix("_ctd.json")
        scan = read_scan(centers.parent / f"{name}_ct.nii.gz")
        for part, piece, true_mm in parts(scan, read_centers(centers, scan.affine)):
            if not (rows := present_rows(true_mm)):
                continue
            cells = []
            for weights, found_mm in named(pipelines, piece).items():
                hits[weights].append((int(identified(found_mm, true_mm)[rows].sum()), len(rows)))
                shift = best_shift(found_mm[:25], true_mm[:25])
                cells.append(f"{weights} {hits[weights][-1][0]:>2}/{len(rows):<2} {shift:+d}")
            print(f"{name:<20} {part:<22} " + "   ".join(cells), flush=True)
    for weights, counts in hits.items():
        found, asked = np.sum(counts, axis=0)
        right = sum(hit == all_of for hit, all_of in counts)
        print(f"{weights}: {found} of {asked} vertebrae identified, every one right in {right} of {len(counts)} parts")


if __name__ == "__main__":
    main()
