"""Mean HU of the trabecular bone of a vertebral body.

The region is the front of the body's middle half, well inside the cortex and in front of the basivertebral vein, as in
opportunistic screening (Pickhardt et al., Ann Intern Med 2013;158:588). It is no bone mineral density: HU depend on
tube voltage, kernel and contrast agent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from ..labels import ROWS_BY_LEVEL, row_of_name
from ..spaces import resample, spacing_mm
from .bodies import slab_grid
from .pieces import Piece
from .records import Body, Measure

STEP_MM = 1.0
CORTEX_MM = 3.0  # from the mask's surface, and half a voxel more: cortex and its blur
MIDDLE_HEIGHT, FRONT_DEPTH, MIDDLE_WIDTH = 0.5, 2 / 3, 0.7  # shares of the body that are looked at
SMALLEST_ML = 0.2
METAL_HU, METAL_MM3 = 2500.0, 20.0
FILLED_HU, FILLED_SHARE = 1000.0, 0.01  # trabecular bone stays below
CONTRAST_HU, CONTRAST_ML = 150.0, 1.0  # plain blood and muscle stay below
BELOW_THYROID = "T3"  # the thyroid gland is bright by itself
FRONT_MM, ASIDE_MM, FRONT_STEP_MM, BONE_MM = 42.0, 40.0, 2.0, 6.0


def densities(
    hu: np.ndarray, labels: np.ndarray, pieces: Mapping[int, Piece], bodies: Mapping[int, Body]
) -> dict[int, Measure]:
    """Return the mean HU inside every body, or why it cannot be given, by landmark row.

    Args:
        hu: `(I, J, K)` the scan.
        labels: `(I, J, K)` VerSe labels on the same grid.
        pieces: the masks.
        bodies: the bodies that can be measured.
    """
    found = {row: trabecular_hu(hu, pieces[row], body) for row, body in bodies.items()}
    trunk = [row for row in bodies if ROWS_BY_LEVEL.index(row) >= ROWS_BY_LEVEL.index(row_of_name(BELOW_THYROID))]
    bright = [contrast_in_front(hu, labels, pieces[row].scan.affine, bodies[row]) for row in trunk]
    if sum(bright) * 2 <= len(bright):
        return found
    return {row: _with_contrast(measure) for row, measure in found.items()}


def _with_contrast(measure: Measure) -> Measure:
    """Turn a value into a reason that still states it."""
    if measure.value is None:
        return measure
    return Measure(reason=f"contrast agent in front of the spine; with it {measure.value:.0f} HU")


def trabecular_hu(hu: np.ndarray, piece: Piece, body: Body) -> Measure:
    """Return the mean HU inside one body, or why it cannot be given; contrast agent is not looked for."""
    affine = piece.scan.affine
    grid = slab_grid(body.center_mm, body.axes, body.size_mm / 2 + 8, STEP_MM)
    inside = resample(piece.mask, piece.affine, grid) > 0.5
    values = resample(hu, affine, grid, fill=-1024)
    if (values > METAL_HU).sum() * STEP_MM**3 >= METAL_MM3:
        return Measure(reason="metal in or at the vertebra")
    offsets = np.moveaxis(np.indices(grid.shape), 0, -1) * STEP_MM - (np.array(grid.shape) // 2) * STEP_MM
    share = offsets / (body.size_mm / 2)
    middle = (np.abs(share[..., 0]) < MIDDLE_WIDTH) & (np.abs(share[..., 2]) < MIDDLE_HEIGHT)
    middle &= (share[..., 1] > 1 - 2 * FRONT_DEPTH) & (share[..., 1] < 1)
    depth_mm = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=STEP_MM)[1:-1, 1:-1, 1:-1]
    marrow = values[middle & (depth_mm > CORTEX_MM + spacing_mm(affine).max() / 2)]
    if marrow.size * STEP_MM**3 < SMALLEST_ML * 1000:
        return Measure(reason="too little trabecular bone away from the cortex at this voxel size")
    if (marrow > FILLED_HU).mean() > FILLED_SHARE:
        return Measure(reason="metal or cement in the body")
    return Measure(float(marrow.mean()))


def contrast_in_front(hu: np.ndarray, labels: np.ndarray, affine: np.ndarray, body: Body) -> bool:
    """Tell whether something brighter than plain tissue, and no bone, lies in front of a body: vessels or bowel."""
    reach = np.array([ASIDE_MM, FRONT_MM / 2, max(body.size_mm[2] / 2, 8.0)])
    center = body.center_mm + body.axes[:, 1] * (body.size_mm[1] + FRONT_MM) / 2
    grid = slab_grid(center, body.axes, reach, FRONT_STEP_MM)
    smooth = ndimage.gaussian_filter(resample(hu, affine, grid, fill=-1024), 3.0 / FRONT_STEP_MM)
    bone = resample(labels, affine, grid, order=0) > 0
    apart = ndimage.distance_transform_edt(~bone, sampling=FRONT_STEP_MM) > BONE_MM if bone.any() else ~bone
    pieces, count = ndimage.label((smooth > CONTRAST_HU) & apart)
    sizes = np.bincount(pieces.ravel(), minlength=2)[1:]
    return bool(count and sizes.max() * FRONT_STEP_MM**3 >= CONTRAST_ML * 1000)
