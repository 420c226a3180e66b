"""The vertebral body inside a vertebra's mask: its axes, heights and endplates.

The mask is looked at in two slabs through the body, a midsagittal and a midcoronal one. In both, the spinal canal
separates the body from the arch, so the connected piece at the landmark is the body. Its upper and lower outline,
each a parabola from rim to rim, give the heights at the front, in the middle and at the back, as in six-point
morphometry (Hurxthal 1968; Genant et al. 1993), and the tilt of the endplates, for which the line through their rims
counts, as in Cobb's method (Cobb 1948). The body is then looked at again along its own axes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.optimize import least_squares

from ..spaces import Grid, resample, spacing_mm, to_voxel, to_world
from .pieces import Piece, meets_padding
from .records import Body, NotMeasurable

STEP_MM = 1.0
SLAB_MM = 5.0  # to either side: within the canal, whose half width is 8 mm or more
REACH_MM = 36.0  # from the center, within the slab
RIM = 0.06  # of the extent, at either end: rounded edges and lips, left out of the fit
ROUNDS = 2
MAX_TILT_DEG = 45.0
LOWEST = 0.45  # of the height in the middle: lower columns are not the body's
FEWEST_COLUMNS = 8
SPIKE_MM = 0.5
WALL = 0.6  # of the height, around the middle: there the walls tell how the body leans
MAX_RESIDUAL_MM = 3.5
BULGE = 1.15
COARSEST = 0.25  # of the height of the body: thicker voxels cannot tell it


class _Outline(NamedTuple):
    """A section: its extent `(2,)` mm, both endplates as parabolas `(3,)` over it (-1 ... 1), the lean of its walls."""

    extent_mm: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    lean: float

    @property
    def slopes(self) -> np.ndarray:
        """Rise per mm of the line through the rims: upper, lower."""
        return np.array([self.upper[1], self.lower[1]]) / (np.ptp(self.extent_mm) / 2)

    @property
    def heights_mm(self) -> np.ndarray:
        """Heights at the high end, in the middle and at the low end."""
        between = self.upper - self.lower
        return np.array([between.sum(), between[0], between[0] - between[1] + between[2]])


def find_body(piece: Piece, center_mm: np.ndarray, up: np.ndarray, anterior: np.ndarray) -> Body:
    """Return the body of a vertebra.

    Args:
        piece: its mask.
        center_mm: `(3,)` RAS+ mm near the center of the body.
        up: `(3,)` direction along the spine towards the head; need not be exact, nor of length one.
        anterior: `(3,)` direction towards its front; need not be at right angles to `up`.

    Raises:
        NotMeasurable: the body is cut, too coarse, or not to be told in the mask.
    """
    axes, center = body_axes(up, anterior), np.asarray(center_mm, dtype=np.float64)
    for _ in range(ROUNDS):
        sagittal = _outline(piece, center, axes, along=1)
        center = center + axes[:, 1] * sagittal.extent_mm.mean() + axes[:, 2] * (sagittal.upper + sagittal.lower)[0] / 2
        coronal = _outline(piece, center, axes, along=0)
        center = center + axes[:, 0] * coronal.extent_mm.mean()
        upper, lower = (_unit(axes @ [-coronal.slopes[i], -sagittal.slopes[i], 1.0]) for i in (0, 1))
        body = Body(
            axes,
            center,
            np.array([np.ptp(coronal.extent_mm), np.ptp(sagittal.extent_mm), sagittal.heights_mm.mean()]),
            sagittal.heights_mm,
            upper,
            lower,
        )
        trust = min(float(body.size_mm[2] / body.size_mm[1]), 1.0)  # the walls of a flat body tell little
        axes = body_axes(axes @ [0.0, trust * sagittal.lean, 1.0], axes[:, 1])
    _check(body, piece, up)
    return body


def body_axes(up: np.ndarray, anterior: np.ndarray) -> np.ndarray:
    """Return `(3, 3)` right, anterior and up unit axes as columns: `up` is kept, `anterior` made square to it."""
    up = _unit(up)
    anterior = _unit(anterior - up * (up @ anterior))
    return np.stack([np.cross(anterior, up), anterior, up], axis=1)


def slab_grid(center_mm: np.ndarray, axes: np.ndarray, reach_mm: np.ndarray, step_mm: float = STEP_MM) -> Grid:
    """Return the grid along `axes` around a center that reaches `(3,)` mm to either side."""
    half = np.rint(np.asarray(reach_mm) / step_mm).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * step_mm
    affine[:3, 3] = center_mm - affine[:3, :3] @ half
    shape = 2 * half + 1
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _outline(piece: Piece, center: np.ndarray, axes: np.ndarray, *, along: int) -> _Outline:
    """Return the body's outline in the slab that runs `along` axis 0 (coronal) or 1 (sagittal)."""
    reach = np.full(3, REACH_MM)
    reach[1 - along] = SLAB_MM
    grid = slab_grid(center, axes, reach)
    share = np.moveaxis(resample(piece.mask, piece.affine, grid), along, 0)  # (along, across, up)
    inside = _piece_at_center(share > 0.5)
    beyond = None if piece.beyond is None else resample(piece.beyond, piece.affine, grid)
    whole = np.moveaxis(inside, 0, along)
    if _near_edge(whole, grid, piece.scan) or meets_padding(whole, beyond, STEP_MM**2):
        raise NotMeasurable("body cut by the field of view")
    upper, lower = _ends(share, inside), -_ends(share[..., ::-1], inside[..., ::-1])
    present = inside.any(axis=2)
    counts = present.sum(axis=1)
    means = [np.where(present, ends, 0).sum(axis=1) / np.maximum(counts, 1) * STEP_MM for ends in (upper, lower)]
    columns = _columns_of_body(np.where(counts >= present.shape[1] / 2, means[0] - means[1], 0))
    middle, half = (columns[0] + columns[-1]) / 2, len(columns) / 2
    where = (columns - middle) / half
    kept = np.abs(where) <= 1 - 2 * RIM
    fits = [_parabola(where[kept], ends[columns][kept]) for ends in means]
    extent = (np.array([middle - half, middle + half]) - grid.shape[along] // 2) * STEP_MM
    return _Outline(extent, fits[0], fits[1], _lean(inside[columns], fits[0][0] - fits[1][0]))


def _columns_of_body(heights_mm: np.ndarray) -> np.ndarray:
    """Return the places of the unbroken run of columns around the middle that are as high as a body.

    Transverse processes, lips and a bridge of false mask across the canal are lower.
    """
    middle = len(heights_mm) // 2
    typical = np.median(heights_mm[middle - 4 : middle + 5])
    runs, _ = ndimage.label(heights_mm >= LOWEST * typical) if typical > 0 else (np.zeros(len(heights_mm)), 0)
    columns = np.flatnonzero(runs == runs[middle]) if runs[middle] else np.zeros(0, dtype=int)
    if len(columns) < FEWEST_COLUMNS:
        raise NotMeasurable("no vertebral body at the landmark in the mask")
    return columns


def _lean(inside: np.ndarray, height_mm: float) -> float:
    """Return by how much the middle line of a section `(along, across, up)` moves along per step up."""
    middle, reach = inside.shape[2] // 2, max(int(WALL * height_mm / 2 / STEP_MM), 1)
    levels = np.arange(middle - reach, middle + reach + 1)
    area = inside[..., levels].sum(axis=1)
    midline = (area * np.arange(len(inside))[:, None]).sum(axis=0) / np.maximum(area.sum(axis=0), 1)
    return float(np.polyfit(levels, midline, 1)[0])


def _parabola(where: np.ndarray, heights_mm: np.ndarray) -> np.ndarray:
    """Return the `(3,)` coefficients, constant first, of the parabola through an endplate; spikes count little."""
    basis = np.polynomial.polynomial.polyvander(where, 2)
    start = np.linalg.lstsq(basis, heights_mm, rcond=None)[0]
    fit = least_squares(
        lambda p: basis @ p - heights_mm, start, jac=lambda p: basis, loss="soft_l1", f_scale=SPIKE_MM
    ).x
    ragged = float(np.std(basis @ fit - heights_mm))
    if ragged > MAX_RESIDUAL_MM:
        raise NotMeasurable(f"endplate ragged in the mask ({ragged:.1f} mm)")
    return fit


def _piece_at_center(inside: np.ndarray) -> np.ndarray:
    """Return the connected piece that fills most of the center of a slab."""
    pieces, _ = ndimage.label(inside)
    core = tuple(slice(n // 2 - 6, n // 2 + 7) if n > 13 else slice(None) for n in inside.shape)
    sizes = np.bincount(pieces[core].ravel())
    if len(sizes) < 2:
        raise NotMeasurable("no vertebral body at the landmark in the mask")
    return pieces == 1 + int(np.argmax(sizes[1:]))


def _ends(share: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return how far above the middle sample the piece ends in every column `(A, B)`, between samples where share = ½.

    Columns without the piece hold any number.
    """
    count = inside.shape[2]
    last = count - 1 - np.argmax(inside[..., ::-1], axis=2)
    following = np.minimum(last + 1, count - 1)
    here, there = (np.take_along_axis(share, i[..., None], axis=2)[..., 0] for i in (last, following))
    beyond = np.clip((here - 0.5) / np.maximum(here - there, 1e-3), 0, 1)
    return last + beyond - count // 2


def _near_edge(inside: np.ndarray, grid: Grid, scan: Grid) -> bool:
    """Tell whether a piece comes within a voxel of the end of the field of view."""
    index = to_voxel(scan.affine, to_world(grid.affine, np.argwhere(inside)))
    room = np.maximum(STEP_MM / spacing_mm(scan.affine), 1.0) - 1e-3
    return bool((index < room).any() or (index > np.array(scan.shape) - 1 - room).any())


def _check(body: Body, piece: Piece, up: np.ndarray) -> None:
    """Refuse what no vertebral body looks like."""
    tilt = np.degrees(np.arccos(np.clip(body.axes[:, 2] @ _unit(up), -1, 1)))
    if tilt > MAX_TILT_DEG:
        raise NotMeasurable(f"endplates {tilt:.0f} degrees off the line of the spine")
    width, depth, height = body.size_mm
    if not (8 < depth < 55 and 10 < width < 75 and 3 < height < 50 and body.heights_mm.min() > 0):
        raise NotMeasurable(f"no shape of a vertebral body ({width:.0f} x {depth:.0f} x {height:.0f} mm)")
    front, middle, back = body.heights_mm
    if middle > BULGE * (front + back) / 2:
        raise NotMeasurable("endplates bulge outwards in the mask, which no body does")
    thick = float(np.linalg.norm(piece.scan.affine[:3, :3].T @ body.axes[:, 2]))
    if thick > COARSEST * height:
        raise NotMeasurable(f"voxels of {thick:.1f} mm along a body {height:.0f} mm high are too coarse")


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
