"""The vertebrae of a spine: procedural shapes for every level, or masks from a library, with their variants.

Sizes are the mean extents measured on expert masks and bone meshes; proportions of arch and processes follow
published morphometry (Panjabi et al. 1991, 1992).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage

from .library import Library
from .shapes import FAR_MM, Shape, broken, cropped, stretched_to, varied, winged
from .spine import Spine, kind_of

SPACING_MM = 2.0
_LOW_MM, _HIGH_MM = np.array([-58.0, -76.0, -54.0]), np.array([58.0, 38.0, 44.0])

# C3 ... L5: body width, depth and height; whole extent right-left, front-back, top-bottom (mm).
_BODY_MM = np.array(
    [[25, 18, 15], [26, 18, 14.5], [27, 18, 14], [29, 19, 13.5], [30, 18.5, 15.5], [33, 18, 17], [30, 19, 18.5]]
    + [[28, 21, 19], [27, 23, 19.5], [28, 24.5, 20], [30, 27, 20], [32, 29, 20.5], [33, 30, 20.5], [34, 30, 20.5]]
    + [[37, 30, 21], [38, 30, 23], [39, 31, 24.5], [41.5, 33, 26.5], [42, 33.5, 27], [43, 33.5, 27], [45, 35, 27]]
    + [[48.5, 35, 26.5]]
)
_EXTENT_MM = np.array(
    [[57, 47, 28], [58, 46, 28], [60, 51, 28], [62, 57, 28], [70, 62, 30], [78, 65, 35], [77, 67, 43], [71, 69, 50]]
    + [[69, 73, 52], [70, 73, 55], [71, 73, 58], [68, 75, 58], [66, 76, 57], [62, 73, 50], [59, 73, 45]]
    + [[52, 75, 45], [53, 78, 46], [74, 87, 52], [87, 88, 52], [93, 89, 51], [96, 88, 48], [99, 82, 46]]
)


def procedural_shape(row: int, rng: np.random.Generator) -> Shape:
    """Return a vertebra of that level built from ellipsoids and capsules, no two alike."""
    kind = kind_of(row)
    reach = _EXTENT_MM[max(kind - 2, 0)] * 0.55 + 8
    low, high = np.maximum(_LOW_MM, [-reach[0] - 6, -2 * reach[1], -99]), np.minimum(_HIGH_MM, [reach[0] + 6, 99, 99])
    axes = [np.arange(a, b + 1e-6, SPACING_MM, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    bone = _Bone(np.abs(x), y, z, rng)
    (_atlas, _axis, _typical)[min(kind, 2)](bone, kind)
    bumps = rng.standard_normal((12, 12, 10), dtype=np.float32)
    bone.distance += 0.5 * ndimage.zoom(bumps, np.array(bone.distance.shape) / (12, 12, 10), order=1)
    return cropped(Shape(bone.distance, low, SPACING_MM, "procedural"))


class _Bone:
    """A union of simple solids, smooth where they meet; x is already mirrored (`abs`), so each solid comes in pairs."""

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> None:
        self.x, self.y, self.z, self.rng = x, y, z, rng
        self.distance = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), FAR_MM, dtype=np.float32)

    def vary(self, value: float, share: float = 0.08) -> float:
        return float(value * np.exp(self.rng.normal(0, share)))

    def add(self, distance: np.ndarray, blend_mm: float = 2.0) -> None:
        """Join a solid by polynomial smooth minimum."""
        share = np.clip((self.distance - distance) * np.float32(0.5 / blend_mm) + np.float32(0.5), 0, 1)
        self.distance += share * (distance - self.distance - np.float32(blend_mm) * (1 - share))

    def capsule(self, start: tuple, end: tuple, radius: float, flatten: tuple = (1.0, 1.0, 1.0)) -> None:
        """Join a rod; `flatten` > 1 makes it thinner along that axis."""
        f = np.array(flatten, dtype=np.float32)
        a, b = np.array(start, dtype=np.float32) * f, np.array(end, dtype=np.float32) * f
        p, d = [self.x * f[0] - a[0], self.y * f[1] - a[1], self.z * f[2] - a[2]], b - a
        length = max(float(d @ d), 1e-6)
        t = np.clip((p[0] * d[0] + p[1] * d[1] + p[2] * d[2]) / np.float32(length), 0, 1)
        squared = sum((p[i] - t * d[i]) ** 2 for i in range(3))
        self.add((np.sqrt(squared) - np.float32(radius)) / np.sqrt(f.max()))

    def body(self, width: float, depth: float, height: float, center_z: float = 0.0, waist: float = 0.08) -> None:
        """Join a vertebral body: a waisted superelliptic cylinder with hollow endplates and a flat back."""
        z = self.z - np.float32(center_z)
        girth = 1 - waist * np.clip(1 - (2 * z / height) ** 2, 0, 1)
        back = np.where(self.y < 0, np.float32(0.92), np.float32(1.0))
        r = ((self.x / (width / 2)) ** 2.4 + (np.abs(self.y) / (depth / 2 * back)) ** 2.4) ** (1 / 2.4) / girth
        side = (r - 1) * min(width, depth) / 2
        hollow = min(self.vary(1.6, 0.4), 0.2 * height) * np.clip(1 - r**2, 0, 1)
        end = np.abs(z) - (height / 2 - hollow)
        outside = np.sqrt(np.maximum(side + 1.5, 0) ** 2 + np.maximum(end + 1.5, 0) ** 2)
        self.add(outside + np.minimum(np.maximum(side + 1.5, end + 1.5), 0) - 1.5, blend_mm=0.5)


def _typical(bone: _Bone, row: int) -> None:
    """C3 to L5: body, pedicles, laminae, articular, transverse and spinous processes."""
    vary = bone.vary
    width, depth, height = (vary(value, 0.03) for value in _BODY_MM[row - 2])
    reach_x, reach_y, reach_z = (vary(value, 0.05) for value in _EXTENT_MM[row - 2])
    cervical, lumbar = row < 7, row > 18
    canal_x = vary(np.interp(row, [2, 6, 9, 15, 19, 23], [12, 12.5, 9, 8.5, 11, 13]))  # half width
    canal_y = vary(np.interp(row, [2, 6, 9, 15, 19, 23], [14, 14, 15, 15, 16.5, 17]))  # depth
    wall = -depth / 2
    back = wall - canal_y
    pedicle = vary(np.interp(row, [2, 7, 11, 18, 23], [3.2, 3.6, 3.2, 4.2, 5.6]))
    bone.body(width, depth, height)
    bone.capsule((canal_x - 1, wall + 3, height * 0.2), (canal_x + 2, wall - 7, height * 0.15), pedicle, (1, 1, 0.75))
    for top in (0.15, -0.3):
        bone.capsule((canal_x + 2, wall - canal_y * 0.55, height * top), (0, back - 2, height * (top - 0.2)), 3.2)
    facet = canal_x + (6 if cervical else 3)
    low = -height / 2 - vary(5 if cervical else 9)
    bone.capsule((facet, back + 5, 0), (facet, back + 6, height / 2 + 3), 5 if cervical else 3.8)
    bone.capsule((facet - 1, back + 3, 0), (facet - 2.5, back + 1, low), 4.5 if cervical else 3.6)
    tip_x = reach_x / 2 - 2.5
    if cervical:
        bone.capsule((width / 2 - 2, wall + 6, 0), (tip_x, wall + 6, -2), 3.0)
        bone.capsule((facet, wall - 2, 0), (tip_x, wall - 1, -2), 2.8)
        bone.capsule((width / 2 - 2, 0, height / 2 - 2), (width / 2 - 1, 1, height / 2 + 2.5), 2.0)  # uncus
    elif lumbar:
        bone.capsule((canal_x + 4, wall - 6, 2), (tip_x, wall - 10, 3), 3.6, (1, 1, 0.6))
    else:
        bone.capsule((canal_x + 4, wall - 9, 3), (tip_x, back - vary(4), 5), 4.2)
    thick = 2.4 if cervical else 3.0
    half = vary(8.5 if lumbar else 4.5)
    tip_y = -(reach_y - depth / 2) + 3
    tip_z = -vary(10.0) if lumbar else -(reach_z - height / 2 - 8) + half
    bone.capsule((0, back - 3, -height * 0.25), (0, tip_y, tip_z), half, (half / thick, 1, 1))


def _atlas(bone: _Bone, _: int) -> None:
    """C1: a ring with lateral masses; no body."""
    vary = bone.vary
    half_x, front, back = vary(18.5, 0.04), vary(17, 0.05), vary(-24, 0.05)
    bone.capsule((half_x - 2, 6, -5), (half_x + 2, -1, 4), 6.5)
    bone.capsule((half_x + 1, 5, 5), (half_x + 3, -6, 4), 5.0)
    bone.capsule((half_x + 3, 0, -1), (vary(39, 0.05), -3, -2), 4.0)
    arc = np.linspace(0, np.pi / 2, 5)
    rear = [((half_x + 2) * np.sin(a), back * np.cos(a), 0) for a in arc]
    fore = [(half_x * 0.9 * np.sin(a), 6 + (front - 6) * np.cos(a), -1) for a in arc]
    for points, radius in ((rear, 2.9), (fore, 3.3)):
        for start, end in pairwise(points):
            bone.capsule(start, end, radius)


def _axis(bone: _Bone, _: int) -> None:
    """C2: body with dens, superior facets, a stout bifid spinous process."""
    vary = bone.vary
    bone.body(vary(21, 0.05), vary(16.5, 0.05), vary(20, 0.05), center_z=-6)
    bone.capsule((0, 0, 0), (0, vary(1.5), vary(19, 0.07)), vary(5.2))
    bone.capsule((12, -2, 0), (15, -3, 4), 6.5)
    bone.capsule((15, -6, -4), (vary(26), -7, -7), 3.0)
    bone.capsule((13, -9, -4), (16, -14, -14), 4.8)
    bone.capsule((14, -12, -5), (0, -26, -9), 3.8, (1, 1, 0.7))
    bone.capsule((0, -26, -9), (4, vary(-40, 0.05), -16), 4.2)


def draw_shape(row: int, rng: np.random.Generator, library: Library | None) -> Shape:
    """Return a shape for a level: from the library three times in four where it has that level, else procedural."""
    known = kind_of(row)
    if library and library.get(known) and rng.random() < 0.75:
        choices = library[known]
        first, second = rng.integers(len(choices), size=2)
        return varied(choices[first], choices[second] if rng.random() < 0.4 else None, rng)
    return procedural_shape(row, rng)


def vertebra_shape(spine: Spine, index: int, rng: np.random.Generator, library: Library | None = None) -> Shape:
    """Return the shape of one vertebra of a spine, with what its variants do to it."""
    row, variants = spine.rows[index], spine.variants
    shape = draw_shape(row, rng, library)
    depth = body_size_mm(row)[1]
    if row in variants.fractures:
        shape = broken(shape, variants.fractures[row], depth)
    for upper, lower in variants.fused:
        if row in (upper, lower):
            i = spine.rows.index(upper)
            apart = np.linalg.norm(spine.centers_mm[i + 1] - spine.centers_mm[i]) / spine.scales[index, 2]
            more = max(float(apart) / 2 - 0.46 * body_size_mm(row)[2], 1.0)
            shape = stretched_to(shape, more if row == lower else 0.0, more if row == upper else 0.0, depth)
    if variants.transitional and index == len(spine.rows) - 1:
        shape = winged(shape, variants.transitional, float(body_size_mm(row)[0]))
    return shape


def body_size_mm(row: int) -> np.ndarray:
    """Return the mean width, depth and height `(3,)` of the body of a level."""
    return _BODY_MM[max(kind_of(row) - 2, 0)]
