"""A box of space on which simple solids are painted: as values (soft tissue) or as signed distances (bone)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from ..spaces import Grid, grid_over, to_voxel


class Canvas:
    """A float32 grid in RAS+ mm.

    Args:
        box_mm: `(2, 3)` region to cover.
        spacing_mm: voxel size.
        value: initial value everywhere.
        warp_mm: `(3, A, B, C)` smooth displacement added to every coordinate, so that solids are not perfect.
    """

    def __init__(self, box_mm: np.ndarray, spacing_mm: float, value: float, warp: Warp | None = None) -> None:
        self.grid: Grid = grid_over(box_mm, spacing_mm)
        self.spacing_mm = spacing_mm
        self.array = np.full(self.grid.shape, value, dtype=np.float32)
        low = self.grid.affine[:3, 3]
        axes = [(low[i] + spacing_mm * np.arange(n)).astype(np.float32) for i, n in enumerate(self.grid.shape)]
        self.xyz = np.stack(np.meshgrid(*axes, indexing="ij"))
        if warp is not None:
            self.xyz += warp.on(self.grid)

    def region(self, low_mm: np.ndarray, high_mm: np.ndarray) -> tuple[slice, slice, slice] | None:
        """Return the slices covering a box, or None where the canvas has no part of it."""
        margin = 2 + 12 / self.spacing_mm  # the warp moves solids by some mm
        low = np.floor(to_voxel(self.grid.affine, low_mm) - margin).astype(int)
        high = np.ceil(to_voxel(self.grid.affine, high_mm) + margin).astype(int)
        low, high = np.maximum(low, 0), np.minimum(high, self.grid.shape)
        if (high <= low).any():
            return None
        return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])

    def nearest(self, points_mm: np.ndarray) -> np.ndarray:
        """Return the value of the voxel nearest to each of `(N, 3)` positions."""
        index = np.rint(to_voxel(self.grid.affine, points_mm)).astype(int)
        index = np.clip(index, 0, np.array(self.grid.shape) - 1)
        return self.array[tuple(index.T)]

    def ellipsoid(self, center: np.ndarray, radii: tuple | np.ndarray, value: float) -> None:
        """Set the inside of an axis-aligned ellipsoid."""
        center, radii = np.asarray(center, dtype=float), np.asarray(radii, dtype=float)
        where = self.region(center - radii, center + radii)
        if where is not None:
            offset = [(self.xyz[i][where] - center[i]) / radii[i] for i in range(3)]
            self.array[where][offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2 < 1] = value

    def tube(self, points: np.ndarray, radius: float | np.ndarray, value: float) -> None:
        """Set the inside of a tube along a polyline; one radius, or one per point."""
        for where, distance in self._segments(points, radius):
            self.array[where][distance < 0] = value

    def join_tube(self, points: np.ndarray, radius: float | np.ndarray) -> None:
        """Unite with a tube; the canvas holds signed distances."""
        for where, distance in self._segments(points, radius):
            np.minimum(self.array[where], distance, out=self.array[where])

    def join_ellipsoid(self, center: np.ndarray, radii: tuple | np.ndarray, *, shell_mm: float = 0.0) -> None:
        """Unite with an ellipsoid, or with its shell of that thickness; distances are approximate."""
        center, radii = np.asarray(center, dtype=float), np.asarray(radii, dtype=float)
        where = self.region(center - radii, center + radii)
        if where is None:
            return
        offset = [(self.xyz[i][where] - center[i]) / radii[i] for i in range(3)]
        r = np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2)
        gradient = np.sqrt(sum((o / radii[i]) ** 2 for i, o in enumerate(offset))) / np.maximum(r, 1e-3)
        distance = (r - 1) / np.maximum(gradient, 1e-3)
        if shell_mm:
            distance = np.abs(distance) - shell_mm / 2
        np.minimum(self.array[where], distance, out=self.array[where])

    def join_block(self, center: np.ndarray, frame: np.ndarray, size: np.ndarray) -> None:
        """Unite with a rounded superelliptic cylinder, like a vertebral body; `frame` `(3, 3)` holds its axes."""
        reach = float(np.linalg.norm(size) / 2)
        where = self.region(np.asarray(center) - reach, np.asarray(center) + reach)
        if where is None:
            return
        offset = [self.xyz[i][where] - center[i] for i in range(3)]
        right, front, up = (sum(float(frame[i, axis]) * offset[i] for i in range(3)) for axis in range(3))
        radius = ((np.abs(right) / (size[0] / 2)) ** 2.6 + (np.abs(front) / (size[1] / 2)) ** 2.6) ** (1 / 2.6)
        side, end = (radius - 1) * min(size[:2]) / 2 + 2, np.abs(up) - size[2] / 2 + 2
        outside = np.hypot(np.maximum(side, 0), np.maximum(end, 0))
        distance = outside + np.minimum(np.maximum(side, end), 0) - 2
        np.minimum(self.array[where], distance, out=self.array[where])

    def _segments(
        self, points: np.ndarray, radius: float | np.ndarray
    ) -> Iterator[tuple[tuple[slice, slice, slice], np.ndarray]]:
        """Yield the region and the signed distance of every piece of a tube."""
        points = np.asarray(points, dtype=float)
        radii = np.broadcast_to(np.asarray(radius, dtype=float), len(points))
        for a, b, ra, rb in zip(points, points[1:], radii, radii[1:], strict=False):
            where = self.region(np.minimum(a, b) - max(ra, rb), np.maximum(a, b) + max(ra, rb))
            if where is None:
                continue
            offset = [self.xyz[i][where] - a[i] for i in range(3)]
            along = b - a
            t = np.clip(sum(o * d for o, d in zip(offset, along, strict=True)) / max(float(along @ along), 1e-6), 0, 1)
            squared = sum((o - t * d) ** 2 for o, d in zip(offset, along, strict=True))
            yield where, np.sqrt(squared) - (ra + t * (rb - ra))


class Warp:
    """A smooth random displacement of space in mm, the same on every canvas of one subject."""

    def __init__(self, rng: np.random.Generator, box_mm: np.ndarray, amplitude_mm: float, length_mm: float) -> None:
        self.grid = grid_over(box_mm, length_mm)
        self.values = rng.normal(0, amplitude_mm, (3, *self.grid.shape)).astype(np.float32)

    def on(self, grid: Grid) -> np.ndarray:
        """Return the displacement `(3, I, J, K)` at the voxels of an axis-aligned grid."""
        to_own = np.linalg.inv(self.grid.affine) @ grid.affine
        return np.stack(
            [
                ndimage.affine_transform(
                    v, to_own[:3, :3], to_own[:3, 3], grid.shape, output=np.float32, order=1, mode="nearest"
                )
                for v in self.values
            ]
        )


def noise_like(rng: np.random.Generator, canvas: Canvas, length_mm: float) -> np.ndarray:
    """Return unit-variance noise on a canvas, correlated over about `length_mm`."""
    coarse = [max(int(np.ceil(n * canvas.spacing_mm / length_mm)) + 2, 3) for n in canvas.grid.shape]
    field = rng.normal(0, 1, coarse).astype(np.float32)
    zoom = np.diag(canvas.spacing_mm / length_mm * np.ones(3))
    out = ndimage.affine_transform(field, zoom, rng.random(3), canvas.grid.shape, output=np.float32, order=1)
    return out / max(float(out.std()), 1e-3)
