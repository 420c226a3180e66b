"""How far spinous processes fall: in scans that were segmented, and in synthetic ones.

    python -m benchmarks.processes SCANS RESULTS --count 60

RESULTS holds `NAME_landmarks.csv` and `NAME_segmentation.nii.gz` as `vertebrae segment` writes them. Prints by how many
levels the tip of each spinous process lies below the center of its own body, in the midline; 1 is at the height of the
body below. In real scans that is as good as their segmentation; in synthetic ones it is their exact mask.
"""

from __future__ import annotations

import numpy as np

from pipeline.labels import LABELS, NAMES
from pipeline.landmarks import present_rows
from pipeline.measurements.bodies import body_axes
from pipeline.spaces import to_world

from .beside_phantoms import print_table

T1, COUNT = 7, 16  # T1 to L4
MIDLINE_MM = 6.0
TIP_SHARE = 0.03  # of the midline's voxels, those farthest back
LEAST_ML = 1.5  # of the midline in view


def falls(labels: np.ndarray, affine: np.ndarray, landmarks_mm: np.ndarray) -> np.ndarray | None:
    """Return `(16,)` levels by which the tips of T1 to L4 lie below their bodies; NaN = not seen; None = none seen.

    Only whole vertebrae between two others are measured: these tell the direction of the spine and the height of a
    level.
    """
    cut = {int(v) for axis in range(3) for i in (0, 1, -2, -1) for v in np.unique(labels.take(i, axis))}
    rows = present_rows(landmarks_mm[:24])
    found = np.full(COUNT, np.nan)
    for row in rows:
        if row >= T1 and {row - 1, row + 1} <= set(rows) and LABELS[row] not in cut:
            up = (landmarks_mm[row - 1] - landmarks_mm[row + 1]) / 2
            found[row - T1] = _fall(labels == LABELS[row], affine, landmarks_mm[row], up)
    return found if np.isfinite(found).any() else None


def _fall(mask: np.ndarray, affine: np.ndarray, center_mm: np.ndarray, up_mm: np.ndarray) -> float:
    """Return how many steps `up_mm` the tip of the midline of a vertebra lies below its center."""
    level_mm = float(np.linalg.norm(up_mm))
    axes = body_axes(up_mm, np.array([0.0, 1, 0]))
    offset_mm = (to_world(affine, np.argwhere(mask)) - center_mm) @ axes  # right, anterior, up
    middle = offset_mm[np.abs(offset_mm[:, 0]) < MIDLINE_MM]
    if len(middle) * abs(np.linalg.det(affine[:3, :3])) < 1000 * LEAST_ML:
        return np.nan
    tip = middle[middle[:, 1] <= np.quantile(middle[:, 1], TIP_SHARE)]
    return float(-tip[:, 2].mean() / level_mm)


def line(name: str, found: np.ndarray) -> str:
    """Return one line of the table."""
    return f"{name:<34}" + "".join(f"{value:>5.1f}" for value in found)


def main() -> None:
    head = f"{'levels below its body':<34}" + "".join(f"{name:>5}" for name in NAMES[T1 : T1 + COUNT])
    print_table(__doc__, head, falls, line, masks=True)


if __name__ == "__main__":
    main()
