"""Vertebra shapes as signed distances in the vertebra's own frame: procedural ones, or masks from a folder.

Frame: origin at the center of the vertebral body (C1: of the whole bone), x right, y anterior, z up, mm.
Sizes are the mean extents measured on expert masks and bone meshes; proportions of arch and processes follow
published morphometry (Panjabi et al. 1991, 1992).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..labels import T13_ROW, row_of_name

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

    def sample(self, local_mm: np.ndarray) -> np.ndarray:
        """Return the signed distance at `(3, ...)` positions in the vertebra's frame; far outside it is +20 mm."""
        index = (local_mm - self.low_mm.reshape(3, *[1] * (local_mm.ndim - 1))) / self.spacing_mm
        return ndimage.map_coordinates(self.distance_mm, index, order=1, mode="constant", cval=20.0, prefilter=False)


def procedural_shape(row: int, rng: np.random.Generator) -> Shape:
    """Return a vertebra of that level built from ellipsoids and capsules, no two alike."""
    axes = [
        np.arange(low, high + 1e-6, SPACING_MM, dtype=np.float32) for low, high in zip(_LOW_MM, _HIGH_MM, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    bone = _Bone(np.abs(x), y, z, rng)
    if row == 0:
        _atlas(bone)
    elif row == 1:
        _axis(bone)
    else:
        _typical(bone, 18 if row == T13_ROW else min(row, 23))
    bumps = ndimage.zoom(rng.normal(0, 1, (12, 12, 10)), np.array(bone.distance.shape) / (12, 12, 10), order=1)
    distance = bone.distance + 0.5 * bumps.astype(np.float32)
    return Shape(distance.astype(np.float32), _LOW_MM, SPACING_MM, "procedural")


class _Bone:
    """A union of simple solids, smooth where they meet; x is already mirrored (`abs`), so each solid comes in pairs."""

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> None:
        self.x, self.y, self.z, self.rng = x, y, z, rng
        self.distance = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), 20.0, dtype=np.float32)

    def vary(self, value: float, share: float = 0.08) -> float:
        return float(value * np.exp(self.rng.normal(0, share)))

    def add(self, distance: np.ndarray, blend_mm: float = 2.0) -> None:
        """Join a solid by polynomial smooth minimum."""
        h = np.clip(0.5 + 0.5 * (self.distance - distance) / blend_mm, 0, 1)
        self.distance = self.distance + (distance - self.distance) * h - blend_mm * h * (1 - h)

    def capsule(self, start: tuple, end: tuple, radius: float, flatten: tuple = (1.0, 1.0, 1.0)) -> None:
        """Join a rod; `flatten` > 1 makes it thinner along that axis."""
        f = np.array(flatten)
        a, b = np.array(start) * f, np.array(end) * f
        p = [self.x * f[0] - a[0], self.y * f[1] - a[1], self.z * f[2] - a[2]]
        d = b - a
        t = np.clip((p[0] * d[0] + p[1] * d[1] + p[2] * d[2]) / max(float(d @ d), 1e-6), 0, 1)
        squared = sum((p[i] - t * d[i]) ** 2 for i in range(3))
        self.add((np.sqrt(squared) - radius) / float(f.max()) ** 0.5)

    def body(self, width: float, depth: float, height: float, center_z: float = 0.0, waist: float = 0.08) -> None:
        """Join a vertebral body: a waisted superelliptic cylinder with hollow endplates and a flat back."""
        z = self.z - center_z
        girth = 1 - waist * np.clip(1 - (2 * z / height) ** 2, 0, 1)
        back = np.where(self.y < 0, 0.92, 1.0)
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


def _atlas(bone: _Bone) -> None:
    """C1: a ring with lateral masses; no body."""
    vary = bone.vary
    half_x, front, back = vary(21, 0.04), vary(17, 0.05), vary(-24, 0.05)
    bone.capsule((half_x - 2, 4, -4), (half_x, 2, 5), 7.0)
    bone.capsule((half_x, 0, 0), (vary(40, 0.05), -2, 0), 4.0)
    arc = np.linspace(0, np.pi / 2, 5)
    rear = [(half_x * np.sin(a), back * np.cos(a), 0) for a in arc]
    fore = [(half_x * 0.9 * np.sin(a), 6 + (front - 6) * np.cos(a), 0) for a in arc]
    for points, radius in ((rear, 3.4), (fore, 3.8)):
        for start, end in pairwise(points):
            bone.capsule(start, end, radius)


def _axis(bone: _Bone) -> None:
    """C2: body with dens, superior facets, a stout bifid spinous process."""
    vary = bone.vary
    bone.body(vary(21, 0.05), vary(16.5, 0.05), vary(20, 0.05), center_z=-6)
    bone.capsule((0, 0, 0), (0, vary(1.5), vary(19, 0.07)), vary(5.2))
    bone.capsule((12, -2, 0), (15, -3, 4), 6.5)
    bone.capsule((15, -6, -4), (vary(26), -7, -7), 3.0)
    bone.capsule((13, -9, -4), (16, -14, -14), 4.8)
    bone.capsule((14, -12, -5), (0, -26, -9), 3.8, (1, 1, 0.7))
    bone.capsule((0, -26, -9), (4, vary(-40, 0.05), -16), 4.2)


@lru_cache(maxsize=4)
def load_shapes(folder: Path) -> dict[int, tuple[Shape, ...]]:
    """Read a folder of single-vertebra masks with an `index.json` into shapes by landmark row.

    The index states `voxel_mm`, `origin_voxel` (body center) and per item `file` and `level`.

    Raises:
        ValueError: the folder has no index or not one usable mask.
    """
    import nibabel

    index_path = Path(folder) / "index.json"
    if not index_path.is_file():
        raise ValueError(f"{folder}: no index.json; expected a folder of vertebra masks with an index")
    index = json.loads(index_path.read_text())
    shapes: dict[int, list[Shape]] = {}
    for item in index["items"]:
        mask = np.asarray(nibabel.load(index_path.parent / item["file"]).dataobj) > 0
        if mask.any() and not item.get("touches_box", False):
            shape = _shape_of_mask(mask, np.array(index["origin_voxel"]), float(index["voxel_mm"]), item["source"])
            shapes.setdefault(row_of_name(item["level"]), []).append(shape)
    if not shapes:
        raise ValueError(f"{folder}: not one usable vertebra mask")
    return {row: tuple(found) for row, found in shapes.items()}


def _shape_of_mask(mask: np.ndarray, origin_vox: np.ndarray, voxel_mm: float, source: str) -> Shape:
    """Return the signed distance of a mask, cut to its neighborhood and smoothed below a voxel."""
    where = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = np.array([max(s.start - 4, 0) for s in where])
    cut = mask[tuple(slice(a, s.stop + 4) for a, s in zip(low, where, strict=True))]
    signed = ndimage.distance_transform_edt(~cut) - ndimage.distance_transform_edt(cut)
    signed = ndimage.gaussian_filter(signed.astype(np.float32), 0.8) * voxel_mm
    return Shape(signed, (low - origin_vox) * voxel_mm, voxel_mm, source)


def draw_shape(row: int, rng: np.random.Generator, library: dict[int, tuple[Shape, ...]] | None) -> Shape:
    """Return a shape for a level: from the library three times in four where it has that level, else procedural."""
    known = 18 if row == T13_ROW else min(row, 23)
    if library and library.get(known) and rng.random() < 0.75:
        choices = library[known]
        return choices[int(rng.integers(len(choices)))]
    return procedural_shape(row, rng)
