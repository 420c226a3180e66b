"""Geometry: voxel indices, RAS+ millimetres, and resampling onto a regular grid.

`affine` is `(4, 4)` float64 and maps a voxel index to RAS+ mm; a voxel's index names its center.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

CORNERS = np.ones((3, 3, 3), dtype=bool)  # voxels of one piece may touch at a corner: thin bone on a coarse grid does


class Grid(NamedTuple):
    """A regular sampling of space: `shape` `(I, J, K)` and `affine` `(4, 4)`, voxel index to RAS+ mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray


def to_world(affine: np.ndarray, points_vox: np.ndarray) -> np.ndarray:
    """Return `(..., 3)` RAS+ mm of `(..., 3)` voxel indices."""
    affine = np.asarray(affine, dtype=np.float64)
    return np.asarray(points_vox, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def to_voxel(affine: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    """Return `(..., 3)` fractional voxel indices of `(..., 3)` RAS+ mm."""
    return to_world(np.linalg.inv(affine), points_mm)


def spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Return the `(3,)` voxel size in mm along the array axes."""
    return np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)


def scaled(affine: np.ndarray, factor: float) -> np.ndarray:
    """Return the affine of the grid whose voxels are `factor` blocks of the given one's (centers stay centered)."""
    result = np.array(affine, dtype=np.float64)
    result[:3, 3] += result[:3, :3] @ np.full(3, (factor - 1) / 2)
    result[:3, :3] *= factor
    return result


def bounds_mm(grid: Grid) -> np.ndarray:
    """Return the `(2, 3)` low and high RAS corner of the field of view, voxel edges included, by all eight corners."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    world = to_world(grid.affine, corners)
    return np.stack([world.min(axis=0), world.max(axis=0)])


def grid_over(box_mm: np.ndarray, spacing: float, multiple: int = 1) -> Grid:
    """Return the RAS-aligned isotropic grid centered on a box and covering it.

    Args:
        box_mm: `(2, 3)` low and high corner in RAS+ mm.
        spacing: voxel size in mm.
        multiple: every axis length is rounded up to a multiple of this, as a pooling network needs.
    """
    low, high = np.asarray(box_mm, dtype=np.float64)
    blocks = np.maximum(np.ceil((high - low) / (spacing * multiple) - 1e-6), 1)
    shape = (blocks * multiple).astype(int)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (low + high) / 2 - spacing * (shape - 1) / 2
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def resample(
    array: np.ndarray,
    affine: np.ndarray,
    grid: Grid,
    *,
    order: int = 1,
    fill: float = 0.0,
    warp_vox: np.ndarray | None = None,
) -> np.ndarray:
    """Sample an array onto a grid, averaging first where the grid is at least twice as coarse.

    The array keeps its stored order and type; only the part under the grid is touched.

    Args:
        array: `(I, J, K)` of any real type.
        affine: its voxel index to RAS+ mm.
        grid: where to sample.
        order: 1 = linear, 0 = nearest (then nothing is averaged).
        fill: value outside the array's outermost voxel centers.
        warp_vox: `(3, *grid.shape)`, added to every position of the grid in its voxels; None = nothing is deformed.

    Returns:
        `grid.shape`; float32 for linear, the array's own type for nearest.
    """
    to_source = np.linalg.inv(affine) @ grid.affine
    reach = 0.0 if warp_vox is None else float(np.abs(warp_vox).max())
    array, to_source = _crop(array, to_source, grid.shape, reach)
    if min(array.shape) == 0:
        return np.full(grid.shape, fill, dtype=np.float32 if order else array.dtype)
    if order:
        array, to_source = _block_mean(array, to_source)
    to_source = _shrunk(to_source, array.shape)
    if warp_vox is not None:
        index = np.indices(grid.shape, dtype=np.float32) + warp_vox
        index = np.tensordot(to_source[:3, :3].astype(np.float32), index, axes=1)
        index += to_source[:3, 3].astype(np.float32).reshape(3, 1, 1, 1)
        kind = np.float32 if order else array.dtype
        return ndimage.map_coordinates(array, index, kind, order, mode="constant", cval=fill, prefilter=False)
    if order == 1 and _is_aligned(to_source, grid.shape):
        return _sample_lines(array, to_source, grid.shape, fill)
    return ndimage.affine_transform(
        array,
        to_source[:3, :3],
        to_source[:3, 3],
        output_shape=grid.shape,
        output=np.float32 if order else array.dtype,
        order=order,
        mode="constant",
        cval=fill,
        prefilter=False,
    )


def _is_aligned(to_source: np.ndarray, shape: tuple[int, int, int]) -> bool:
    """Tell whether every axis of a grid runs along an axis of the source, to a millionth of a voxel."""
    travel = np.sort(np.abs(to_source[:3, :3]) * shape, axis=1)  # in source voxels, along each source axis
    one_each = len(set(np.abs(to_source[:3, :3]).argmax(axis=1))) == 3
    return one_each and bool((travel[:, 1] < 1e-6).all())


def _sample_lines(array: np.ndarray, to_source: np.ndarray, shape: tuple[int, int, int], fill: float) -> np.ndarray:
    """Interpolate linearly along one axis after the other, plane by plane of the axis stored slowest."""
    axes = np.abs(to_source[:3, :3]).argmax(axis=0)  # the source axis along which each grid axis runs
    array, result = array.transpose(axes), np.full(shape, fill, dtype=np.float32)
    lines = [_line(to_source[s, g], to_source[s, 3], shape[g], array.shape[g]) for g, s in enumerate(axes)]
    slow = int(np.argmax(np.abs(array.strides)))
    (inside, *plane, weight), rows, columns = (lines[g] for g in (slow, *(g for g in range(3) if g != slow)))
    source, target = np.moveaxis(array, slow, 0), np.moveaxis(result, slow, 0)[inside, rows[0], columns[0]]
    for k, (low, high) in enumerate(zip(*plane, strict=True)):
        values = source[low].astype(np.float32)
        if weight[k]:
            values += weight[k] * (source[high] - values)
        values = _between(values[rows[1]], values[rows[2]], rows[3][:, None])
        target[k] = _between(values[:, columns[1]], values[:, columns[2]], columns[3])
    return result


def _line(step: float, start: float, count: int, length: int) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
    """Return which of `count` positions lie on a line of voxels, the voxels below and above, and the latter's share."""
    position = start + step * np.arange(count)
    found = np.flatnonzero((position >= 0) & (position <= length - 1))
    inside = slice(found[0], found[-1] + 1) if len(found) else slice(0, 0)
    low = np.floor(position[inside]).astype(int)
    return inside, low, np.minimum(low + 1, length - 1), (position[inside] - low).astype(np.float32)


def _between(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return `low + share * (high - low)`, made in the memory of the second."""
    high -= low
    high *= share
    high += low
    return high


def _crop(
    array: np.ndarray, to_source: np.ndarray, shape: tuple[int, int, int], reach: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the array to the voxels a grid of `shape`, grown by `reach` voxels, can touch; the mapping follows."""
    sides = [(-1.0 - reach, n + reach) for n in shape]
    corners = to_world(to_source, np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3))
    low = np.clip(np.floor(corners.min(axis=0)) - 1, 0, array.shape).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 2, low, array.shape).astype(int)
    moved = to_source.copy()
    moved[:3, 3] -= low
    return array[low[0] : high[0], low[1] : high[1], low[2] : high[2]], moved


def _shrunk(to_source: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Move positions towards the middle by 1e-9, so that no rounding error puts the outermost voxels outside."""
    middle = (np.array(shape) - 1) / 2
    moved = to_source.copy()
    moved[:3] *= 1 - 1e-9
    moved[:3, 3] += 1e-9 * middle
    return moved


def block_factors(steps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return how many voxels to average along each axis for a grid `steps` voxels coarser; at least 1."""
    return np.maximum(np.floor(np.minimum(steps, shape) + 1e-6), 1).astype(int)


def _block_mean(array: np.ndarray, to_source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average whole blocks so that the coarser grid does not alias; the mapping follows."""
    steps = np.abs(to_source[:3, :3]).max(axis=1)  # source voxels per grid step, along each source axis
    factors = block_factors(steps, array.shape)
    if (factors == 1).all():
        return array, to_source
    moved = to_source.copy()
    moved[:3] /= factors[:, None]
    moved[:3, 3] -= (factors - 1) / (2 * factors)
    return average_blocks(array, factors), moved


def average_blocks(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the float32 mean over blocks of `factors` voxels; the last block of an axis repeats its border."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            array = _average(array, axis, factor)
    return array


def _average(array: np.ndarray, axis: int, factor: int) -> np.ndarray:
    """Return the float32 mean over blocks along one axis; nothing of the array's size is copied."""
    count, rest = divmod(array.shape[axis], factor)
    whole, last = np.split(array, [count * factor], axis=axis)
    blocks = whole.reshape(*array.shape[:axis], count, factor, *array.shape[axis + 1 :])
    means = blocks.mean(axis=axis + 1, dtype=np.float32)
    if not rest:
        return means
    total = last.sum(axis=axis, dtype=np.float32, keepdims=True)
    total += (factor - rest) * last.take([-1], axis=axis).astype(np.float32)
    return np.concatenate([means, total / np.float32(factor)], axis=axis)
