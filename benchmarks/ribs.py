"""At which level ribs pass beside the spine: in scans whose vertebrae are named, and in synthetic ones.

    python -m benchmarks.ribs SCANS RESULTS --count 60

RESULTS holds `NAME_landmarks.csv` of scans that show ribs, as `vertebrae segment` writes them. Prints by how many
levels each rib lies below the center of its own vertebra, 50 mm to its left and right; -1 is at the height of the
vertebra above. A rib's height is what tells a level where neither end of the chest is in view, so the two must agree.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.labels import NAMES
from pipeline.landmarks import present_rows
from pipeline.spaces import Grid, bounds_mm, grid_over, resample

from .beside_phantoms import print_table

STEP_MM = 1.5
ASIDE_MM = 50.0
DEPTH_MM = (-75.0, 15.0)  # behind and in front of the centers
BONE_HU = 180.0
AREA_MM2 = (25.0, 400.0)  # of a rib in a sagittal plane
LEAST_VERTEBRAE = 4
T1, RIBS = 7, 12  # row, count
# Where the ribs T1 to T12 of one torso with labelled ribs lie: tells only which rib a piece of bone belongs to.
EXPECTED = np.array([0.1, -1.0, -1.0, -0.95, -0.85, -0.7, -0.5, -0.35, -0.2, 0.0, 0.25, 0.5])


def offsets(hu: np.ndarray, affine: np.ndarray, landmarks_mm: np.ndarray) -> np.ndarray:
    """Return `(12,)` levels by which each rib lies below its vertebra's center, mean of both sides; NaN = not seen."""
    rows = [row for row in present_rows(landmarks_mm[:25]) if T1 - 2 <= row < T1 + RIBS + 2]
    found: list[list[float]] = [[] for _ in range(RIBS)]
    if len(rows) >= LEAST_VERTEBRAE:
        centers_mm = landmarks_mm[rows][::-1]
        grid = grid_over(bounds_mm(Grid(hu.shape, affine)), STEP_MM)
        bone = resample(hu, affine, grid, fill=-1000.0) > BONE_HU
        x, y, z = (grid.affine[axis, 3] + STEP_MM * np.arange(bone.shape[axis]) for axis in range(3))
        middle, depth = (np.interp(z, centers_mm[:, 2], centers_mm[:, axis]) for axis in (0, 1))
        level = np.interp(z, centers_mm[:, 2], np.array(rows)[::-1] - T1 + 1.0, left=np.nan, right=np.nan)
        for side in (-1, 1):
            column = np.rint((middle + side * ASIDE_MM - x[0]) / STEP_MM).astype(int)
            if column.min() >= 0 and column.max() < len(x):
                plane = bone[column, :, np.arange(len(z))].T  # (y, z)
                for at in _crossings(plane, y[:, None] - depth[None], level):
                    rib = int(np.abs(at - np.arange(1, RIBS + 1) - EXPECTED).argmin())
                    found[rib].append(at - rib - 1)
    return np.array([np.mean(values) if values else np.nan for values in found])


def _crossings(plane: np.ndarray, ahead_mm: np.ndarray, level: np.ndarray) -> list[float]:
    """Return the levels at which ribs pass through a sagittal plane of bone `(y, z)`."""
    labels, count = ndimage.label(plane & (ahead_mm > DEPTH_MM[0]) & (ahead_mm < DEPTH_MM[1]))
    areas = np.bincount(labels.ravel(), minlength=count + 1) * STEP_MM**2
    pieces = [i for i in range(1, count + 1) if AREA_MM2[0] < areas[i] < AREA_MM2[1]]
    heights = [place[1] for place in ndimage.center_of_mass(plane, labels, pieces)]
    found = np.interp(heights, np.arange(len(level)), level)
    return [float(value) for value in found if np.isfinite(value)]


def line(name: str, found: np.ndarray) -> str:
    """Return one line of the table."""
    return f"{name:<34}" + "".join(f"{value:>6.1f}" for value in found)


def seen(hu: np.ndarray, affine: np.ndarray, landmarks_mm: np.ndarray) -> np.ndarray | None:
    """Return `offsets`, or None where no rib was seen."""
    found = offsets(hu, affine, landmarks_mm)
    return found if np.isfinite(found).any() else None


def main() -> None:
    head = f"{'levels below its vertebra':<34}" + "".join(f"{name:>6}" for name in NAMES[T1 : T1 + RIBS])
    print_table(__doc__, head, seen, line)


if __name__ == "__main__":
    main()
