"""Click a vertebra and say its name: one point, one mask.

Stage three names bone relative to the landmarks. With the clicked one alone it takes its neighbors in as well, so the
next found body above and the next below the click are handed to it too, under the names that the click implies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..images import Scan
from ..labelling import Labelling
from ..labels import ROWS_BY_LEVEL, T13_ROW, row_of_name
from ..landmarks import absent, present_rows
from ..run import Result, VertebraePipeline
from ..spaces import to_world

SAME_BODY_MM = 10.0  # a body found this near the click is the clicked one


def segment_click(pipeline: VertebraePipeline, found: Result, request: dict[str, Any]) -> Result:
    """Return a result whose labels hold the vertebra that was clicked, and parts of its neighbors.

    Args:
        pipeline: for its third stage.
        found: what the first two stages found in the scan; only the positions count, not the names.
        request: `label`, the name, and `foreground`, one voxel `[i, j, k]` (the last of them, if more).

    Raises:
        ValueError: no name, no point, or a point outside the scan.
    """
    row = row_of_name(str(request.get("label") or ""))
    clicked_mm = clicked_point_mm(found.scan, request.get("foreground"))
    landmarks_mm = beside(found.labelling.landmarks_mm, clicked_mm, row)
    labels = pipeline.segment(found.scan, landmarks_mm)
    return replace(found, labelling=Labelling(warnings=found.labelling.warnings), labels=labels)


def clicked_point_mm(scan: Scan, points: Any) -> np.ndarray:
    """Return the RAS+ mm of the last of `points` `(N, 3)` voxels; `ValueError` if it is none or outside the scan."""
    try:
        voxel = np.array(points[-1], dtype=float).reshape(3)
    except (IndexError, KeyError, TypeError, ValueError):
        raise ValueError(f"foreground {points!r}: expected one voxel such as [[120, 88, 40]]") from None
    if not ((voxel >= -0.5) & (voxel <= np.array(scan.array.shape) - 0.5)).all():
        size = " x ".join(map(str, scan.array.shape))
        raise ValueError(f"foreground {points[-1]}: outside the scan of {size} voxels")
    return to_world(scan.affine, voxel)


def beside(found_mm: np.ndarray, clicked_mm: np.ndarray, row: int) -> np.ndarray:
    """Return `(26, 3)` RAS+ mm: the click under its name, and the next found body above and below it.

    Args:
        found_mm: `(26, 3)` RAS+ mm of the bodies found, under whatever names.
        clicked_mm: `(3,)`.
        row: landmark row of the vertebra clicked.
    """
    levels = [level for level in ROWS_BY_LEVEL if level in (row, *range(T13_ROW))]
    place = levels.index(row)
    landmarks_mm = absent()
    landmarks_mm[row] = clicked_mm
    bodies = found_mm[present_rows(found_mm)]
    bodies = bodies[np.linalg.norm(bodies - clicked_mm, axis=1) > SAME_BODY_MM]
    for step, near in ((-1, bodies[bodies[:, 2] > clicked_mm[2]]), (1, bodies[bodies[:, 2] < clicked_mm[2]])):
        if len(near) and 0 <= place + step < len(levels):
            nearest = np.linalg.norm(near - clicked_mm, axis=1).argmin()
            landmarks_mm[levels[place + step]] = near[nearest]
    return landmarks_mm
