"""A box of space on which simple solids are painted: as values (soft tissue) or as signed distances (bone).

A canvas has the axes of the scan it is made for, only coarser, so that bringing it to the scan is interpolation
along one axis after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..spaces import Grid, spacing_mm, to_voxel, to_world

Region = tuple[slice, slice, slice]
Solid = Iterator[tuple[Region, np.ndarray]]


def coarse_grid(grid: Grid, spacing: float, margin_mm: float = 0.0) -> Grid:
    """Return the grid of isotropic `spacing` mm with the axes of `grid`, covering it and a margin."""
    step = spacing_mm(grid.affine)
    size = np.array(grid.shape) * step + 2 * margin_mm
    shape = np.maximum(np.ceil(size / spacing).astype(int) + 1, 2)
    affine = np.eye(4)
    affine[:3, :3] = grid.affine[:3, :3] / step * spacing
    middle = to_world(grid.affine, (np.array(grid.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def positions(source: Grid, grid: Grid) -> list[np.ndarray]:
    """Return where the voxels of `grid` lie on each axis of `source`, clipped to it; both have the same axes."""
    to_source = np.linalg.inv(source.affine) @ grid.affine
    return [
        np.clip(to_source[i, i] * np.arange(n) + to_source[i, 3], 0, source.shape[i] - 1)
        for i, n in enumerate(grid.shape)
    ]


def upsample(array: np.ndarray, source: Grid, grid: Grid) -> np.ndarray:
    """Interpolate linearly from a grid to another one with the same axes; beyond the edge the last value holds."""
    where = positions(source, grid)
    for axis in (2, 1, 0):  # the last step, the largest, then copies whole planes
        position = where[axis]
        low = np.minimum(position.astype(np.intp), array.shape[axis] - 2)
        share = (position - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        first, second = array.take(low, axis), array.take(low + 1, axis)
        second -= first
        second *= share
        first += second
        array = first
    return array


def smooth_noise(rng: np.random.Generator, grid: Grid, length_mm: float) -> np.ndarray:
    """Return unit-variance noise on a grid, correlated over about `length_mm`."""
    source = coarse_grid(grid, length_mm, length_mm)
    noise = upsample(rng.standard_normal(source.shape, dtype=np.float32), source, grid)
    return noise / max(float(noise.std()), 1e-3)


class Canvas:
    """A float32 grid in RAS+ mm.

    Args:
        grid: what to cover.
        value: initial value everywhere.
        warp: `(3, A, B, C)` smooth displacement in mm on the grid `warp_grid`, so that solids are not perfect.
        warp_grid: see `warp`; it has the same axes.
    """

    def __init__(self, grid: Grid, value: float, warp: np.ndarray | None = None, warp_grid: Grid | None = None) -> None:
        self.grid = grid
        self.spacing_mm = float(spacing_mm(grid.affine)[0])
        self.array = np.full(grid.shape, value, dtype=np.float32)
        axes = [np.arange(n, dtype=np.float32).reshape([-1 if i == j else 1 for j in range(3)])
                for i, n in enumerate(grid.shape)]  # fmt: skip
        self.xyz = np.empty((3, *grid.shape), dtype=np.float32)
        for i in range(3):
            row = grid.affine[i].astype(np.float32)
            self.xyz[i] = row[0] * axes[0] + row[1] * axes[1] + (row[2] * axes[2] + row[3])
            if warp is not None and warp_grid is not None:
                self.xyz[i] += upsample(warp[i], warp_grid, grid)

    def region(self, low_mm: np.ndarray, high_mm: np.ndarray) -> Region | None:
        """Return the slices covering a box, or None where the canvas has no part of it."""
        corners = np.array(np.meshgrid(*np.stack([low_mm, high_mm]).T, indexing="ij")).reshape(3, -1).T
        reach = to_voxel(self.grid.affine, corners)
        margin = 2 + 12 / self.spacing_mm  # the warp moves solids by some mm
        low = np.maximum(np.floor(reach.min(axis=0) - margin).astype(int), 0)
        high = np.minimum(np.ceil(reach.max(axis=0) + margin).astype(int), self.grid.shape)
        if (high <= low).any():
            return None
        return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])

    def fill(self, solid: Solid, value: float) -> None:
        """Set the inside of a solid."""
        for where, distance in solid:
            self.array[where][distance < 0] = value

    def join(self, solid: Solid, *, shell_mm: float = 0.0) -> None:
        """Unite with a solid, or with its shell of that thickness; the canvas holds signed distances."""
        for where, distance in solid:
            wall = np.abs(distance) - shell_mm / 2 if shell_mm else distance
            np.minimum(self.array[where], wall, out=self.array[where])

    def carve(self, solid: Solid) -> None:
        """Take a solid away; the canvas holds signed distances."""
        for where, distance in solid:
            np.maximum(self.array[where], -distance, out=self.array[where])

    def local(self, where: Region, center: np.ndarray, frame: np.ndarray | None = None) -> list[np.ndarray]:
        """Return the three coordinates of a region from a center, along the columns of a frame `(3, 3)`."""
        offset = [self.xyz[i][where] - np.float32(center[i]) for i in range(3)]
        if frame is None:
            return offset
        return [sum(np.float32(frame[i, axis]) * offset[i] for i in range(3)) for axis in range(3)]

    def ellipsoid(self, center: np.ndarray, radii: tuple | np.ndarray, frame: np.ndarray | None = None) -> Solid:
        """Yield an ellipsoid, turned by a frame where one is given; distances are approximate."""
        center, radii = np.asarray(center, dtype=float), np.asarray(radii, dtype=float)
        reach = radii if frame is None else np.full(3, radii.max())
        where = self.region(center - reach, center + reach)
        if where is None:
            return
        offset = [o / np.float32(r) for o, r in zip(self.local(where, center, frame), radii, strict=True)]
        r = np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2)
        gradient = np.sqrt(sum((o / np.float32(radii[i])) ** 2 for i, o in enumerate(offset)))
        yield where, (r - 1) * np.maximum(r, 1e-3) / np.maximum(gradient, 1e-3)

    def block(self, center: np.ndarray, frame: np.ndarray, size: np.ndarray) -> Solid:
        """Yield a rounded superelliptic cylinder, like a vertebral body; `frame` `(3, 3)` holds its axes."""
        reach = float(np.linalg.norm(size) / 2)
        where = self.region(np.asarray(center) - reach, np.asarray(center) + reach)
        if where is None:
            return
        right, front, up = self.local(where, center, frame)
        radius = ((np.abs(right) / (size[0] / 2)) ** 2.6 + (np.abs(front) / (size[1] / 2)) ** 2.6) ** (1 / 2.6)
        edge = min(2.0, float(size[2]) / 3)
        side, end = (radius - 1) * min(size[:2]) / 2 + edge, np.abs(up) - size[2] / 2 + edge
        outside = np.hypot(np.maximum(side, 0), np.maximum(end, 0))
        yield where, outside + np.minimum(np.maximum(side, end), 0) - edge

    def tube(self, points: np.ndarray, radius: float | np.ndarray) -> Solid:
        """Yield the pieces of a tube along a polyline; one radius, or one per point."""
        points = np.asarray(points, dtype=float)
        radii = np.broadcast_to(np.asarray(radius, dtype=float), len(points))
        for a, b, ra, rb in zip(points, points[1:], radii, radii[1:], strict=False):
            where = self.region(np.minimum(a, b) - max(ra, rb), np.maximum(a, b) + max(ra, rb))
            if where is None:
                continue
            offset = self.local(where, a)
            along = (b - a).astype(np.float32)
            t = sum(o * d for o, d in zip(offset, along, strict=True)) / max(float(along @ along), 1e-6)
            t = np.clip(t, 0, 1)
            squared = sum((o - t * d) ** 2 for o, d in zip(offset, along, strict=True))
            yield where, np.sqrt(squared) - (np.float32(ra) + t * np.float32(rb - ra))
