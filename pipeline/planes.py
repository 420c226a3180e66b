"""Planes bent along the spine, so that a bent spine stays in view from end to end, and what a scan shows on them.

The sagittal plane bends only left-right and the coronal one only front-back: each picture is a true projection, in RAS+
mm, of y (front to back) or x (right to left) against z (upwards).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from .spaces import Grid, bounds_mm, to_voxel

STEP_MM = 0.5
BEYOND_MM = 30.0  # shown above the first and below the last landmark
MIN_HEIGHT_MM = 120.0


class View(NamedTuple):
    """One picture: the world axis it shows from high (left) to low (right), and how far it reaches off the spine."""

    caption: str
    axis: int
    letters: tuple[str, str]  # at the left and the right edge
    reach_mm: tuple[float, float]  # towards low and high coordinates


class Plane(NamedTuple):
    """A bent plane: z of its rows `(H,)`, x or y of its columns `(W,)` and all its points `(H, W, 3)`, RAS+ mm."""

    heights_mm: np.ndarray
    columns_mm: np.ndarray
    points_mm: np.ndarray


VIEWS = (View("Sagittal", 1, ("A", "P"), (85.0, 65.0)), View("Coronal", 0, ("R", "L"), (75.0, 75.0)))


def spine_curve_mm(landmarks_mm: np.ndarray, heights_mm: np.ndarray) -> np.ndarray:
    """Return the `(H, 3)` RAS+ mm points of the spine at `(H,)` heights z: smooth through the landmarks, else straight.

    Args:
        landmarks_mm: `(N, 3)` RAS+ mm in any order, N >= 1; one alone gives a vertical line. Of two within 1 mm of
            height the upper is left out, because there is one point per height.
        heights_mm: `(H,)` z in mm.
    """
    ordered = landmarks_mm[np.argsort(landmarks_mm[:, 2])]
    ordered = ordered[np.diff(ordered[:, 2], prepend=-np.inf) > 1.0]
    if len(ordered) == 1:
        return np.column_stack([np.broadcast_to(ordered[0, :2], (len(heights_mm), 2)), heights_mm])
    within = np.clip(heights_mm, ordered[0, 2], ordered[-1, 2])
    beyond = (heights_mm - within)[:, None]
    reach = min(2, len(ordered) - 1)
    foot, head = ordered[reach] - ordered[0], ordered[-1] - ordered[-1 - reach]
    slope = np.clip(np.where(beyond < 0, foot[:2] / foot[2], head[:2] / head[2]), -1, 1)
    return np.column_stack([PchipInterpolator(ordered[:, 2], ordered[:, :2])(within) + beyond * slope, heights_mm])


def bent_planes(grid: Grid, positions_mm: np.ndarray) -> list[Plane]:
    """Return a plane per entry of `VIEWS`, bent along `(N, 3)` RAS+ mm landmarks; without any, straight."""
    field_mm = bounds_mm(grid)
    through_mm = positions_mm if len(positions_mm) else field_mm.mean(axis=0)[None]
    curve_mm = spine_curve_mm(through_mm, _heights_mm(positions_mm, field_mm))
    return [_plane(curve_mm, view, field_mm) for view in VIEWS]


def reformat(
    array: np.ndarray, affine: np.ndarray, points_mm: np.ndarray, *, order: int = 1, fill: float = 0.0
) -> np.ndarray:
    """Sample an `(I, J, K)` array at `(..., 3)` RAS+ mm points, without converting or copying the array.

    Args:
        array: of any real type.
        affine: `(4, 4)`, its voxel index to RAS+ mm.
        points_mm: where to sample.
        order: 1 = linear, 0 = nearest.
        fill: value outside the array.

    Returns:
        `points_mm.shape[:-1]`; float32 for linear, the array's own type for nearest.
    """
    points_vox = np.moveaxis(to_voxel(affine, points_mm), -1, 0)
    result_type = np.float32 if order else array.dtype
    return ndimage.map_coordinates(array, points_vox, result_type, order=order, cval=fill, prefilter=False)


def _heights_mm(positions_mm: np.ndarray, field_mm: np.ndarray) -> np.ndarray:
    """Return the z of the rows, foot to head: the landmarks and some more, within the field of view."""
    low, high = field_mm[:, 2]
    if len(positions_mm):
        bottom, top = positions_mm[:, 2].min(), positions_mm[:, 2].max()
        more = max(BEYOND_MM, (MIN_HEIGHT_MM - (top - bottom)) / 2)
        low, high = max(low, bottom - more), min(high, top + more)
    return np.arange(low, max(high, low + 10), STEP_MM) + STEP_MM / 2


def _plane(curve_mm: np.ndarray, view: View, field_mm: np.ndarray) -> Plane:
    """Return the plane through a `(H, 3)` curve, spread along the view's axis within the field of view."""
    across_mm = curve_mm[:, view.axis]
    low = max(field_mm[0, view.axis], across_mm.min() - view.reach_mm[0])
    high = min(field_mm[1, view.axis], across_mm.max() + view.reach_mm[1])
    columns_mm = np.arange(max(high, low + 10), low, -STEP_MM) - STEP_MM / 2
    points_mm = np.repeat(curve_mm[:, None], len(columns_mm), axis=1)
    points_mm[:, :, view.axis] = columns_mm
    return Plane(curve_mm[:, 2], columns_mm, points_mm)
