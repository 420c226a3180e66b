"""Everything around the spine of one subject, painted on canvases over the field of view of a scan.

Soft tissue is a canvas of HU, the other bones a canvas of signed distance. All positions hang on the spine.
Values are typical HU of each tissue (aggregated from real scans), drawn anew for every subject.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..labels import T13_ROW
from ..spaces import Grid
from .bone import BoneLook
from .canvas import Canvas, coarse_grid, smooth_noise
from .head import paint_head
from .sacrum import paint_sacrum
from .skeleton import paint_skeleton
from .spine import Spine, kind_of
from .torso import paint_torso
from .vessels import paint_vessels

MARGIN_MM = 8.0
_TISSUE_VOXELS, _BONE_VOXELS = 1.0e6, 3.5e6  # about so many each canvas has


class Body:
    """One subject's surroundings.

    Args:
        spine: the subject's spine.
        grid: the scan to paint for.
        bone: the subject's bone.
        rng: source of randomness.

    Attributes:
        tissue: HU of everything but bone.
        bone: signed distance in mm to ribs, sacrum, pelvis, skull, shoulder girdle and sternum.
        firm: HU by which these bones are denser than the marrow of the trunk, on the grid of `tissue`.
        texture: unit-variance noise on the grid of `tissue`, for marrow.
        girth: size of the trunk against the mean.
        pelvis: size of sacrum and pelvis against the mean.
        fat_mm: thickness of the fat under the skin.
        radius: place between the spine (0) and the skin (1) of neck and trunk, on the grid of `tissue`.
        fillings: positions of metal in the teeth, mm.
        contrast: HU that contrast adds to blood.
        slope: how steeply the ribs fall, against one measured subject.
        drift_mm: how far the organs lie above their mean place, and by how much more per level going up.
    """

    def __init__(self, spine: Spine, grid: Grid, bone: BoneLook, rng: np.random.Generator) -> None:
        self.spine, self.rng, self.look = spine, rng, bone
        self.girth = float(np.exp(rng.normal(0, 0.1)))
        self.fat_mm = float(rng.uniform(6, 38))
        self.contrast = float(rng.uniform(100, 620)) if rng.random() < 0.5 else 0.0
        self.muscle, self.fat = float(rng.uniform(30, 65)), float(rng.uniform(-115, -80))
        self.drift_mm = (float(rng.normal(0, 32)), float(rng.normal(0, 2)))
        self.slope = float(np.clip(np.exp(rng.normal(-0.1, 0.16)), 0.55, 1.25))
        self.pelvis = float(spine.scales[-1].mean() * np.exp(rng.normal(0, 0.04)))
        self._regular_axis()
        volume = float(np.prod(grid.shape)) * abs(float(np.linalg.det(grid.affine[:3, :3])))
        tissue_mm = float(np.clip(np.cbrt(volume / _TISSUE_VOXELS), 2.0, 3.5))
        bone_mm = float(np.clip(np.cbrt(volume / _BONE_VOXELS), 1.2, 2.2))
        bend_grid = coarse_grid(grid, 40.0, 80.0)
        bend = rng.normal(0, 4.0, (3, *bend_grid.shape)).astype(np.float32)
        self.tissue = Canvas(coarse_grid(grid, tissue_mm, MARGIN_MM), -1000.0, bend, bend_grid)
        self.bone = Canvas(coarse_grid(grid, bone_mm, MARGIN_MM), 20.0, 0.3 * bend, bend_grid)
        self.firm = np.zeros(self.tissue.grid.shape, dtype=np.float32)
        self.texture = smooth_noise(rng, self.tissue.grid, 5.0)
        self.radius = np.full(self.tissue.grid.shape, 2.0, dtype=np.float32)
        self.fillings: list[np.ndarray] = []
        self._low_mm = float(self.tissue.xyz[2].min())
        self._height = np.rint(self.tissue.xyz[2] - self._low_mm).astype(np.int32)
        for paint in (paint_torso, paint_head, paint_vessels, _paint_discs, paint_skeleton, paint_sacrum):
            paint(self)

    def _regular_axis(self) -> None:
        """Keep one position per regular level: an extra T13 or L6 stretches the trunk, a missing level shortens it."""
        kept = [i for i, row in enumerate(self.spine.rows) if row != T13_ROW and row < 24]
        self.levels = np.array([float(self.spine.rows[i]) for i in kept])
        self.path = self.spine.centers_mm[kept]

    def near(self, level: float, right: float = 0.0, front: float = 0.0, up: float = 0.0) -> np.ndarray:
        """Return a position relative to the body center at a (fractional) level on the axis C1 = 0 ... L5 = 23."""
        center = np.array([np.interp(level, self.levels, self.path[:, i]) for i in range(3)])
        beyond = min(level, 0.0) * -20 - max(level - 23.0, 0.0) * 30
        return center + np.array([right, front, up + beyond])

    def organ(self, level: float, right: float, front: float, up: float = 0.0) -> np.ndarray:
        """Return a position like `near`, moved by this subject's drift of the organs along the spine."""
        return self.near(level, right, front, up + self.drift_mm[0] + self.drift_mm[1] * (15 - level))

    def profile(self, levels: Sequence[float], values: np.ndarray) -> list[np.ndarray]:
        """Return values by height over the tissue canvas: the spine's x and y, each row of `values`, the level."""
        nodes = np.array([*np.arange(-12.0, 0.0), *self.levels, *np.arange(24.0, 36.0)])
        points = np.array([self.near(node) for node in nodes])
        order = np.argsort(points[:, 2])
        heights = self._low_mm + np.arange(int(self._height.max()) + 1)
        level = np.interp(heights, points[order, 2], nodes[order])
        tables = [np.interp(heights, points[order, 2], points[order, i]) for i in range(2)]
        tables += [np.interp(level, levels, row) for row in values]
        return [table.astype(np.float32)[self._height] for table in (*tables, level)]

    def noise(self, length_mm: float) -> np.ndarray:
        """Return unit-variance noise on the tissue canvas."""
        return smooth_noise(self.rng, self.tissue.grid, length_mm)

    def blood(self) -> float:
        """Return HU of blood: plain, or contrast-filled."""
        return float(self.rng.uniform(30, 55)) + self.contrast

    def harden(self, center: np.ndarray, radii: tuple | np.ndarray, added: float) -> None:
        """Make the bone in an ellipsoid denser than the marrow of the trunk."""
        for where, distance in self.tissue.ellipsoid(center, radii):
            self.firm[where][distance < 0] = added


def _paint_discs(body: Body) -> None:
    """Discs and the spinal canal; vertebrae are drawn over them later."""
    rng, tissue, spine = body.rng, body.tissue, body.spine
    kinds = np.array([float(kind_of(row)) for row in spine.rows])
    depth = np.interp(kinds, [1, 7, 13, 18, 23], [15, 18, 28, 30, 35]) * spine.scales[:, 1]
    width = np.interp(kinds, [1, 7, 13, 18, 23], [20, 30, 32, 39, 48]) * spine.scales[:, 0]
    ends, fused = spine.ends_mm(), {lower for _, lower in spine.variants.fused}
    for i in range(1, len(kinds)):
        up = ends[i] - ends[i + 1]
        length = float(np.linalg.norm(up))
        frame = frame_along(up, spine.frames[i])
        grown = i + 1 < len(kinds) and spine.rows[i + 1] in fused
        value = body.look.marrow if grown else body.look.disc + rng.normal(0, 6)
        size = np.array([width[i] + 1.5, depth[i] + 1.5, 0.75 * length])
        tissue.fill(tissue.block((ends[i] + ends[i + 1]) / 2, frame, size), value)
    canal = spine.centers_mm - spine.frames[:, :, 1] * (depth / 2 + 8)[:, None]
    canal[0] = spine.centers_mm[0] - 8 * spine.frames[0, :, 1]
    tail = spine.sacrum_mm + [0, -16, 0]
    tissue.fill(tissue.tube(np.concatenate([canal[:1] + [0, 0, 25], canal, tail[None]]), 8.5), rng.uniform(5, 25))
    tissue.fill(tissue.tube(np.concatenate([canal[:1] + [0, 0, 25], canal[:20]]), 4.5), rng.uniform(25, 50))


def frame_along(up: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return the frame `(3, 3)` whose third axis points along `up` and whose first is nearest to that of `like`."""
    up = up / np.linalg.norm(up)
    right = like[:, 0] - (like[:, 0] @ up) * up
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(up, right), up], axis=1)
