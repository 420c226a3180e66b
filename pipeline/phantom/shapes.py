"""Vertebra shapes as signed distances in the vertebra's own frame, and what bends and breaks them.

Frame: origin at the center of the vertebral body (C1: of the whole bone), x right, y anterior, z up, mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .variants import Fracture

FAR_MM = 20.0
_LAMINA_MM = -30.0  # y of the laminae of the chest and the loins; a spinous process lies behind them


@dataclass(frozen=True)
class Shape:
    """Signed distance in mm (negative inside) on a grid in the vertebra's frame.

    Attributes:
        distance_mm: `(A, B, C)` float32.
        low_mm: `(3,)` position of voxel (0, 0, 0).
        spacing_mm: voxel size.
        source: where the shape comes from.
    """

    distance_mm: np.ndarray
    low_mm: np.ndarray
    spacing_mm: float
    source: str

    @property
    def high_mm(self) -> np.ndarray:
        """Position of the last voxel."""
        return self.low_mm + self.spacing_mm * (np.array(self.distance_mm.shape) - 1)

    @property
    def volume_ml(self) -> float:
        """Volume inside."""
        return float((self.distance_mm < 0).sum()) * self.spacing_mm**3 / 1000

    def positions(self) -> np.ndarray:
        """Return `(3, A, B, C)` positions of the voxels."""
        axes = [
            low + self.spacing_mm * np.arange(n, dtype=np.float32)
            for low, n in zip(self.low_mm, self.distance_mm.shape, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def sample(self, local_mm: np.ndarray) -> np.ndarray:
        """Return the signed distance at `(3, ...)` positions in the vertebra's frame; far outside it is `FAR_MM`."""
        index = (local_mm - self.low_mm.reshape(3, *[1] * (local_mm.ndim - 1))) / self.spacing_mm
        return ndimage.map_coordinates(
            self.distance_mm, index, order=1, mode="constant", cval=FAR_MM, prefilter=False, output=np.float32
        )


EMPTY = Shape(np.full((2, 2, 2), FAR_MM, np.float32), np.zeros(3), 1.0, "outside")


def cropped(shape: Shape, margin_mm: float = 6.0) -> Shape:
    """Return the shape on the smallest grid that holds everything nearer than a margin."""
    near = ndimage.find_objects((shape.distance_mm < margin_mm).astype(np.uint8))
    if not near:
        return shape
    low = np.array([s.start for s in near[0]])
    return Shape(shape.distance_mm[near[0]], shape.low_mm + shape.spacing_mm * low, shape.spacing_mm, shape.source)


def resampled(shape: Shape, spacing_mm: float, grow_mm: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the low corner and the positions `(3, A, B, C)` of a grid over a shape, grown on all sides."""
    low, high = shape.low_mm - grow_mm, shape.high_mm + grow_mm
    axes = [np.arange(a, b + spacing_mm, spacing_mm, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    return low, np.stack(np.meshgrid(*axes, indexing="ij"))


def varied(shape: Shape, other: Shape | None, rng: np.random.Generator, spacing_mm: float = 1.5) -> Shape:
    """Return a shape scaled, twisted, bent and softly deformed, blended with another one of its level if given."""
    low, local = resampled(shape, spacing_mm, 3.0)
    stretch = np.exp(rng.normal(0, 0.03, 3))
    twist, lean = np.deg2rad(rng.normal(0, 1.5)), rng.normal(0, 0.02)
    x, y, z = (c / np.float32(s) for c, s in zip(local, stretch, strict=True))
    moved = np.stack([x + np.float32(twist) * y, y - np.float32(twist) * x, z + np.float32(lean) * x])
    for axis in range(3):
        bumps = rng.normal(0, 0.9, [max(int(n * spacing_mm / 14), 2) + 1 for n in local.shape[1:]])
        moved[axis] += ndimage.zoom(bumps.astype(np.float32), np.array(local.shape[1:]) / bumps.shape, order=1)
    distance, source = shape.sample(moved), shape.source
    if other is not None and other is not shape:
        share = np.float32(rng.uniform(0.1, 0.9))
        distance = distance + share * (other.sample(moved) - distance)
        source = f"{shape.source} + {other.source}"
    return cropped(Shape(distance, low, spacing_mm, source))


def broken(shape: Shape, fracture: Fracture, depth_mm: float) -> Shape:
    """Return a shape whose body has lost height; its center stays where it is.

    Args:
        shape: the whole vertebra.
        fracture: kind and lost share of the height: in front (wedge), in the middle (biconcave), everywhere (crush).
        depth_mm: depth of the body.
    """
    local = shape.positions()
    if fracture.kind == "wedge":
        local[1] -= wedge_shift_mm(fracture.loss, depth_mm)
        share = np.clip(local[1] / depth_mm + 0.5, 0, 1)
    elif fracture.kind == "biconcave":
        radius = np.hypot(local[0] / 1.25, local[1]) / (0.5 * depth_mm)
        share = np.clip(1.05 - radius**2, 0, 1)
    else:
        share = np.clip((local[1] + 0.75 * depth_mm) / (0.25 * depth_mm), 0, 1)
        bulge = 1 + 0.12 * fracture.loss * share
        local[:2] /= bulge
    local[2] /= 1 - fracture.loss * share
    return Shape(shape.sample(local), shape.low_mm, shape.spacing_mm, shape.source)


def wedge_shift_mm(loss: float, depth_mm: float) -> float:
    """Return how far a wedge, highest behind, is moved forward so that its centroid stays: that of a trapezium."""
    return depth_mm * loss / (12 * (1 - loss / 2))


def sloped(shape: Shape, slope: float) -> Shape:
    """Return a shape whose spinous process falls by `slope` mm more per mm that it lies behind the laminae."""
    reach_mm = max(_LAMINA_MM - float(shape.low_mm[1]), 0.0)
    low, local = resampled(shape, shape.spacing_mm, np.array([0, 0, abs(slope) * reach_mm]))
    behind_mm = np.maximum(_LAMINA_MM - local[1], 0)
    local[2] += np.float32(slope) * behind_mm
    return cropped(Shape(shape.sample(local), low, shape.spacing_mm, shape.source))


def stretched_to(shape: Shape, up_mm: float, down_mm: float, depth_mm: float) -> Shape:
    """Return a shape whose body reaches further up and down by the given mm, to grow together with a neighbor."""
    low, local = resampled(shape, shape.spacing_mm, np.array([0, 0, max(up_mm, down_mm) + 2]))
    inside = np.clip((local[1] + 0.8 * depth_mm) / (0.2 * depth_mm), 0, 1)
    height = 0.4 * depth_mm
    for sign, more in ((1, up_mm), (-1, down_mm)):
        half = local[2] * sign > 0
        local[2][half] /= (1 + inside * more / height)[half]
    return Shape(shape.sample(local), low, shape.spacing_mm, shape.source)


def winged(shape: Shape, sides: tuple[str, ...], width_mm: float) -> Shape:
    """Return a last lumbar vertebra whose transverse processes reach down to the wings of the sacrum."""
    low, local = resampled(shape, shape.spacing_mm, np.array([14.0, 4.0, 10.0]))
    distance = shape.sample(local)
    for side in sides:
        sign = -1.0 if side == "left" else 1.0
        a = np.array([sign * 0.5 * width_mm, -14.0, -2.0], dtype=np.float32)
        d = np.array([sign * 24.0, -2.0, -12.0], dtype=np.float32)
        offset = [local[i] - a[i] for i in range(3)]
        t = np.clip(sum(o * v for o, v in zip(offset, d, strict=True)) / float(d @ d), 0, 1)
        gap = np.sqrt(sum((o - t * v) ** 2 for o, v in zip(offset, d, strict=True))) - (7 + 4 * t)
        np.minimum(distance, gap, out=distance)
    return cropped(Shape(distance, low, shape.spacing_mm, shape.source))
