"""The vertebrae of a spine: procedural shapes for every level, or masks from a library, with their variants.

A procedural vertebra is a body with pedicles, joints, laminae and processes, built from the mean sizes of its level
(`morphometry`), each varied; C1 is a ring and C2 carries the dens.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage

from .library import Library
from .morphometry import ATLAS_COLUMNS, ATLAS_MM, AXIS_COLUMNS, AXIS_MM, COLUMNS, TYPICAL_MM
from .shapes import FAR_MM, Shape, broken, cropped, sloped, stretched_to, varied, winged
from .spine import Spine, kind_of

SPACING_MM = 2.0
WAIST = 0.85  # depth of the body behind its middle at half height, against that of the endplates
_LOW_MM, _HIGH_MM = -56.0, 44.0


def procedural_shape(row: int, rng: np.random.Generator, *, share: float = 1.0) -> Shape:
    """Return a vertebra of that level built from simple solids; `share` of the natural variation makes no two alike."""
    kind = kind_of(row)
    sizes = sizes_mm(kind)
    varied_mm = {name: value * float(np.exp(share * rng.normal(0, 0.04))) for name, value in sizes.items()}
    reach_x, reach_y = sizes["tip_x"] + 14, -min(sizes.get("spine_y", 0), sizes.get("end_y", 0), sizes.get("back", 0))
    low, high = np.array([-reach_x, -reach_y - 16, _LOW_MM]), np.array([reach_x, 32.0, _HIGH_MM])
    axes = [np.arange(a, b + 1e-6, SPACING_MM, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance = build(kind, varied_mm, np.abs(x), y, z)
    bumps = rng.standard_normal((12, 12, 10), dtype=np.float32) * np.float32(0.5 * share)
    distance += ndimage.zoom(bumps, np.array(distance.shape) / (12, 12, 10), order=1)
    return cropped(Shape(distance, low, SPACING_MM, "procedural"))


def sizes_mm(kind: int) -> dict[str, float]:
    """Return the mean sizes of a level by name."""
    columns, values = (
        (ATLAS_COLUMNS, ATLAS_MM),
        (AXIS_COLUMNS, AXIS_MM),
        (COLUMNS, TYPICAL_MM[max(kind - 2, 0)]),
    )[min(kind, 2)]
    return dict(zip(columns, values.tolist(), strict=True))


def build(kind: int, sizes: dict[str, float], x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the signed distance of a vertebra at positions in mm that broadcast; `x` is that from its midline."""
    bone = _Bone(x, y, z)
    (_atlas, _axis, _typical)[min(kind, 2)](bone, sizes, kind)
    return bone.distance


class _Bone:
    """A union of simple solids, smooth where they meet; x is already mirrored (`abs`), so each solid comes in pairs."""

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
        self.x, self.y, self.z = x, y, z
        self.distance = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), FAR_MM, dtype=np.float32)

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

    def open_canal(self, center_y: float, half_x: float, half_y: float) -> None:
        """Take an upright elliptic rod away, so that no arch closes the spinal canal."""
        r = np.sqrt((self.x / np.float32(half_x)) ** 2 + ((self.y - np.float32(center_y)) / np.float32(half_y)) ** 2)
        np.maximum(self.distance, (1 - r) * np.float32(min(half_x, half_y)), out=self.distance)

    def body(self, width: float, depth: float, height: float, center_z: float = 0.0, waist: float = 0.08) -> None:
        """Join a vertebral body: a waisted superelliptic cylinder with hollow endplates and a flat back."""
        z = self.z - np.float32(center_z)
        girth = 1 - waist * np.clip(1 - (2 * z / height) ** 2, 0, 1)
        back = np.where(self.y < 0, np.float32(0.92), np.float32(1.0))
        r = ((self.x / (width / 2)) ** 2.4 + (np.abs(self.y) / (depth / 2 * back)) ** 2.4) ** (1 / 2.4) / girth
        side = (r - 1) * min(width, depth) / 2
        hollow = min(1.6, 0.1 * height) * np.clip(1 - r**2, 0, 1)
        end = np.abs(z) - (height / 2 - hollow)
        outside = np.sqrt(np.maximum(side + 1.5, 0) ** 2 + np.maximum(end + 1.5, 0) ** 2)
        self.add(outside + np.minimum(np.maximum(side + 1.5, end + 1.5), 0) - 1.5, blend_mm=0.5)


def _typical(bone: _Bone, s: dict[str, float], kind: int) -> None:
    """C3 to L5: body, pedicles, joints, laminae, transverse and spinous processes."""
    wall = -s["depth"] / 2
    pillar = (s["pillar_x"], s["pillar_y"], 0.0)
    bone.body(s["width"], s["depth"], s["height"])
    start = (s["pedicle_x"] - 1, wall + 3, s["pedicle_z"])
    bone.capsule(start, (s["pedicle_x"] + 2, s["pillar_y"] + 3, s["pedicle_z"]), s["pedicle_r"], (1, 1, 0.75))
    bone.capsule(pillar, (s["upper_x"], s["upper_y"], s["upper_z"]), s["joint_r"])
    bone.capsule(pillar, (s["lower_x"], s["lower_y"], s["lower_z"]), s["joint_r"] * 0.95)
    for top, fall in ((s["lamina_top"], 3), (s["lamina_low"], 2)):
        bone.capsule((s["pillar_x"] - 1, s["pillar_y"], top), (0, s["lamina_y"], top - fall), s["lamina_r"])
    tip = (s["tip_x"], s["tip_y"], s["tip_z"])
    if kind < 7:
        bone.capsule((s["width"] / 2 - 2, wall + 6, 0), (s["tip_x"], wall + 6, -2), 3.0)
        bone.capsule((s["width"] / 2 - 2, 0, s["height"] / 2 - 2), (s["width"] / 2 - 1, 1, s["height"] / 2 + 2.5), 2.0)
        bone.capsule(pillar, tip, s["tip_r"])
    else:
        root = (s["pillar_x"], s["pillar_y"] + 1, s["pedicle_z"])
        bone.capsule(root, tip, s["tip_r"], (1, 1, 0.75 if kind > 18 else 1))
    flat = s["spine_half"] / s["spine_r"]
    bone.capsule((0, s["lamina_y"], s["spine_z"]), (0, s["spine_y"], s["end_z"]), s["spine_half"], (flat, 1, 1))
    bone.open_canal(WAIST * wall - 6, 7.5, 5.5)


def _atlas(bone: _Bone, s: dict[str, float], _: int) -> None:
    """C1: a ring with lateral masses; no body."""
    x, y, z = s["mass_x"], s["mass_y"], s["mass_z"]
    bone.capsule((x - 2, y + 3, z - 3), (x + 2, y - 3, z + 5), s["mass_r"])
    bone.capsule((x + 1, s["facet_y"] + 5, s["facet_z"]), (x + 3, s["facet_y"] - 5, s["facet_z"]), s["facet_r"])
    bone.capsule((x + 3, y - 1, z), (s["tip_x"], s["tip_y"], s["tip_z"]), s["tip_r"])
    arc = np.linspace(0, np.pi / 2, 5)
    rear = [((x + 2) * np.sin(a), s["back"] * np.cos(a), s["rear_z"] * np.cos(a)) for a in arc]
    fore = [(x * 0.9 * np.sin(a), 6 + (s["front"] - 6) * np.cos(a), z) for a in arc]
    for points, radius in ((rear, s["ring_r"]), (fore, s["fore_r"])):
        for start, end in pairwise(points):
            bone.capsule(start, end, radius)


def _axis(bone: _Bone, s: dict[str, float], _: int) -> None:
    """C2: body with dens, superior facets, a stout bifid spinous process."""
    bone.body(s["width"], s["depth"], s["height"], center_z=s["body_z"])
    bone.capsule((0, 0, 0), (0, s["dens_y"], s["dens_z"]), s["dens_r"])
    facet = (s["facet_x"], s["facet_y"], s["facet_z"])
    bone.capsule((s["facet_x"] - 3, facet[1], facet[2] - 2), (facet[0] + 1, facet[1], facet[2] + 1), s["facet_r"])
    bone.capsule((facet[0], facet[1] - 3, facet[2] - 7), (s["tip_x"], s["tip_y"], s["tip_z"]), s["tip_r"])
    lower = (s["lower_x"], s["lower_y"], s["lower_z"])
    bone.capsule((facet[0] - 1, facet[1] - 5, facet[2] - 6), lower, s["lower_r"])
    lamina = (0.0, s["lamina_y"], s["lamina_z"])
    bone.capsule((s["lower_x"] - 1, s["lower_y"] + 1, -5), lamina, s["lamina_r"], (1, 1, 0.7))
    bone.capsule(lamina, (s["end_x"], s["end_y"], s["end_z"]), s["end_r"])


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
    shape = sloped(draw_shape(row, rng, library), float(spine.slopes[index]))
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
    return TYPICAL_MM[max(kind_of(row) - 2, 0), :3]
