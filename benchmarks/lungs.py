"""At which level the lungs begin and end: in scans whose vertebrae are named, and in synthetic ones.

    python -m benchmarks.lungs SCANS RESULTS --count 60

RESULTS holds `NAME_landmarks.csv` of scans that show the lungs, as `vertebrae segment` writes them. Levels count from
C1 = 1 to L5 = 24. What a network learns from phantoms about the chest is wrong by as much as these two differ.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.labels import NAMES
from pipeline.landmarks import present_rows
from pipeline.spaces import Grid, bounds_mm, grid_over, resample, to_voxel

from .beside_phantoms import print_table

STEP_MM = 4.0
AIR_HU = -400
LEAST_VOXELS = 2000  # of air inside the body, 0.13 liters: bowel and airway are smaller
LEAST_LEVELS = 11
LEAST_AREA = 100 * 100 / STEP_MM**2  # voxels in a plane, 100 cm2: less is what a narrow scan leaves of them
SHARES = (0.75, 0.5, 0.25)  # of the largest area


def lung_areas(hu: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Return the number of lung voxels in every plane of a grid of 4 mm, from the feet up, and the grid."""
    grid = grid_over(bounds_mm(Grid(hu.shape, affine)), STEP_MM)
    hollow = resample(hu, affine, grid, fill=-1000.0) < AIR_HU
    hollow[:, :, [0, -1]] = False  # or lungs that are cut would open into what lies beyond the scan
    air, _ = ndimage.label(hollow)
    sizes = np.bincount(air.ravel())
    sides = np.concatenate([air[[0, -1]].ravel(), air[:, [0, -1]].ravel()])
    sizes[np.append(sides, 0)] = 0  # around the patient
    return np.isin(air, np.flatnonzero(sizes > LEAST_VOXELS)).sum(axis=(0, 1)), grid


def edges(hu: np.ndarray, affine: np.ndarray, landmarks_mm: np.ndarray) -> np.ndarray | None:
    """Return the levels where the lungs' area passes the shares of its largest: `(2, 3)`, above and below.

    NaN where that is out of view; None with fewer than eleven thoracic vertebrae or without lungs.
    """
    rows = present_rows(landmarks_mm[:25])
    if sum(NAMES[row].startswith("T") for row in rows) < LEAST_LEVELS:
        return None
    areas, grid = lung_areas(hu, affine)
    heights = to_voxel(grid.affine, landmarks_mm[rows])[::-1, 2]
    level = np.interp(np.arange(len(areas)), heights, np.array(rows)[::-1] + 1.0, left=np.nan, right=np.nan)
    areas = np.where(np.isfinite(level), areas, 0)
    middle = int(areas.argmax())
    if areas[middle] < LEAST_AREA:
        return None
    found = np.full((2, len(SHARES)), np.nan)
    for i, share in enumerate(SHARES):
        for side, planes in enumerate((range(middle, len(areas)), range(middle, -1, -1))):
            ends = [k for k in planes if areas[k] < share * areas[middle] and np.isfinite(level[k])]
            found[side, i] = level[ends[0]] if ends else np.nan
    return found


def line(name: str, found: np.ndarray) -> str:
    """Return one line of the table."""
    return f"{name:<34}" + "".join(f"{value:>7.1f}" for value in found.ravel())


def main() -> None:
    shares = "".join(f"{share:>7.0%}" for share in SHARES)
    head = f"{'level at share of area':<34}{shares}{shares}\n{'':<34}{'above':>21}{'below':>21}"
    print_table(__doc__, head, edges, line)


if __name__ == "__main__":
    main()
