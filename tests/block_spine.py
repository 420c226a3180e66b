"""A spine of blocks with straight faces, whose volumes, heights and angles follow from its numbers, on any grid."""

from dataclasses import dataclass, field

import numpy as np
from ball_spine import CENTER_MM, affine_of

from pipeline.labels import LABELS, row_of_name
from pipeline.landmarks import absent

WIDTH_MM, DEPTH_MM, APART_MM = 40.0, 30.0, 33.0
MARROW_HU, CORTEX_HU, TISSUE_HU = 150.0, 700.0, 20.0
CORTEX_MM = 1.5


@dataclass(frozen=True)
class Block:
    """One vertebra: heights at front and back, and by how many degrees it rises to the right and to the front."""

    name: str
    front_mm: float = 24.0
    back_mm: float = 24.0
    right_deg: float = 0.0
    front_deg: float = 0.0

    @property
    def volume_ml(self) -> float:
        """Body, two pedicles of 6 x 15 x 10 mm, a lamina of 32 x 8 x 16 and a spinous process of 6 x 14 x 16."""
        body = WIDTH_MM * DEPTH_MM * (self.front_mm + self.back_mm) / 2
        return (body + 2 * 6 * 15 * 10 + 32 * 8 * 16 + 6 * 14 * 16) / 1000

    @property
    def axes(self) -> np.ndarray:
        """Right, front and up as columns, RAS+."""
        a, b = np.deg2rad([self.right_deg, self.front_deg])
        right = np.array([np.cos(a), 0, np.sin(a)])
        front = np.array([0, np.cos(b), np.sin(b)])
        front = front - right * (right @ front)
        front /= np.linalg.norm(front)
        return np.stack([right, front, np.cross(right, front)], axis=1)

    def depth_mm(self, local_mm: np.ndarray) -> np.ndarray:
        """Depth below the body's nearest face (negative outside) at `(..., 3)` local mm."""
        x, y, z = np.moveaxis(local_mm, -1, 0)
        height = self.back_mm + (self.front_mm - self.back_mm) * (y / DEPTH_MM + 0.5)
        return np.minimum(np.minimum(WIDTH_MM / 2 - abs(x), DEPTH_MM / 2 - abs(y)), height / 2 - abs(z))

    def arch(self, local_mm: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(local_mm, -1, 0)
        pedicles = (abs(abs(x) - 13) < 3) & (abs(y + 22.5) <= 7.5) & (abs(z) < 5)
        lamina = (abs(x) < 16) & (abs(y + 34) < 4) & (abs(z) < 8)
        return pedicles | lamina | ((abs(x) < 3) & (abs(y + 45) < 7) & (abs(z) < 8))


@dataclass
class BlockSpine:
    labels: np.ndarray
    hu: np.ndarray
    affine: np.ndarray
    landmarks_mm: np.ndarray
    world_mm: np.ndarray = field(repr=False)

    def ball(self, center_mm, radius_mm: float, hu: float) -> None:
        """Fill a ball of the CT."""
        self.hu[np.linalg.norm(self.world_mm - center_mm, axis=-1) < radius_mm] = hu


def center_mm(place: int, count: int) -> np.ndarray:
    return CENTER_MM + [0, 18, 0] + np.array([0, 0, ((count - 1) / 2 - place) * APART_MM])


def block_spine(blocks, axcodes="RAS", spacing_mm=(1.0, 1.2, 1.4), *, oblique=True, margin_mm=26.0) -> BlockSpine:
    """Blocks from head to foot; spacing per array axis."""
    height = APART_MM * (len(blocks) - 1) + 24 + 2 * margin_mm
    size = {**dict.fromkeys("RL", 84), **dict.fromkeys("AP", 126), **dict.fromkeys("SI", height)}
    shape = tuple(int(size[code] / step) for code, step in zip(axcodes, spacing_mm, strict=True))
    affine = affine_of(axcodes, spacing_mm, shape, oblique=oblique)
    world_mm = np.stack(np.indices(shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    labels, hu, landmarks_mm = np.zeros(shape, np.uint8), np.full(shape, TISSUE_HU), absent()
    for i, block in enumerate(blocks):
        row, center = row_of_name(block.name), center_mm(i, len(blocks))
        near = np.abs(world_mm - center).max(axis=-1) < 58
        local_mm = (world_mm[near] - center) @ block.axes
        depth, arch = block.depth_mm(local_mm), block.arch(local_mm)
        labels[near] = np.where((depth > 0) | arch, LABELS[row], labels[near])
        bone = np.where(depth > CORTEX_MM, MARROW_HU, CORTEX_HU)
        hu[near] = np.where((depth > 0) | arch, bone, hu[near])
        landmarks_mm[row] = center
    return BlockSpine(labels, hu.astype(np.int16), affine, landmarks_mm, world_mm)
