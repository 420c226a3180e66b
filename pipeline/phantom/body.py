"""Everything around the spine: outline, muscle and fat, organs and vessels, and the other bones.

Soft tissue is a canvas of HU, the other bones a canvas of signed distance. All positions hang on the spine.
Values are typical HU of each tissue (aggregated from real scans), drawn anew for every subject.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..labels import T13_ROW
from .canvas import Canvas, Warp, noise_like
from .spine import Spine

# Outline by level (C1 = 0 ... L5 = 23, 30 = hips): half width, and skin behind and in front of the body centers, mm.
_OUTLINE_LEVEL = [-6, 0, 2, 4, 6, 7.5, 9, 12, 16, 19, 21, 23, 26, 30]
_OUTLINE_MM = np.array(
    [[70, 72, 60, 60, 78, 150, 190, 175, 165, 160, 155, 165, 180, 185]]
    + [[75, 80, 66, 64, 68, 74, 80, 84, 86, 90, 92, 95, 100, 95]]
    + [[100, 95, 75, 55, 55, 70, 115, 165, 172, 150, 128, 120, 115, 100]]
)
# Chest wall by thoracic level T1-T12: half width, half depth, center in front of the body (mm).
_CHEST_LEVEL = [7, 8, 9, 11, 13, 16, 18]
_CHEST_MM = np.array([[62, 88, 105, 125, 135, 138, 130], [42, 55, 68, 85, 95, 98, 92], [28, 38, 48, 58, 62, 62, 58]])


class Body:
    """One subject's surroundings, painted over a box.

    Args:
        spine: the subject's spine.
        box_mm: `(2, 3)` region to paint, RAS+ mm.
        rng: source of randomness.
        bone_spacing_mm: voxel size of the bone canvas; tissue is painted at 3 mm.

    Attributes:
        tissue: HU of everything but bone.
        bone: signed distance in mm to ribs, sacrum, pelvis, skull, shoulder girdle and sternum.
        texture: unit-variance noise over space, for marrow.
    """

    def __init__(
        self, spine: Spine, box_mm: np.ndarray, rng: np.random.Generator, bone_spacing_mm: float = 1.5
    ) -> None:
        self.spine, self.rng = spine, rng
        self.girth = float(np.exp(rng.normal(0, 0.1)))
        self.fat_mm = float(rng.uniform(6, 38))
        self.contrast = float(rng.uniform(100, 600)) if rng.random() < 0.5 else 0.0
        warp = Warp(rng, np.array([[-350, -350, -1100], [350, 350, 300]]), 4.0, 40.0)
        self.tissue = Canvas(box_mm, 3.0, -1000.0, warp)
        self.bone = Canvas(
            box_mm, bone_spacing_mm, 20.0, Warp(rng, np.array([[-350, -350, -1100], [350, 350, 300]]), 1.0, 25.0)
        )
        self.texture = Canvas(box_mm, 3.0, 0.0)
        self.texture.array = noise_like(rng, self.texture, 5.0)
        self._axis()
        self._outline()
        self._chest()
        self._abdomen()
        self._neck()
        self._tubes()
        self._along_the_spine()
        self._ribs()
        self._shoulders()
        self._pelvis()
        self._skull()

    def near(self, row: float, right: float = 0.0, front: float = 0.0, up: float = 0.0) -> np.ndarray:
        """Return a position relative to the body center at a (fractional) level on the axis C1 = 0 ... L5 = 23."""
        center = np.array([np.interp(row, self.levels, self.path[:, i]) for i in range(3)])
        beyond = min(row, 0.0) * -20 - max(row - 23.0, 0.0) * 30
        return center + np.array([right, front, up + beyond])

    def _axis(self) -> None:
        """Keep one position per regular level: an extra T13 or L6 stretches the trunk, a missing level shortens it."""
        kept = [i for i, row in enumerate(self.spine.rows) if row != T13_ROW and row < 24]
        self.levels = np.array([float(self.spine.rows[i]) for i in kept])
        self.path = self.spine.centers_mm[kept]

    def _profile(self, canvas: Canvas, levels: list, values: np.ndarray) -> list[np.ndarray]:
        """Return profiles over the canvas heights: the spine's x and y, then `values` by level; `(1, 1, K)` each."""
        heights = canvas.grid.affine[2, 3] + canvas.spacing_mm * np.arange(canvas.grid.shape[2])
        nodes = [*np.arange(-12.0, 0.0), *self.levels, *np.arange(24.0, 36.0)]
        points = np.array([self.near(node) for node in nodes])
        order = np.argsort(points[:, 2])
        z, node = points[order, 2], np.array(nodes)[order]
        level = np.interp(heights, z, node)
        profiles = [np.interp(heights, z, points[order, i]) for i in range(2)]
        profiles += [np.interp(level, levels, row) for row in values]
        return [p.reshape(1, 1, -1).astype(np.float32) for p in (*profiles, level)]

    def _outline(self) -> None:
        rng, tissue = self.rng, self.tissue
        center_x, center_y, half, behind, front, level = self._profile(tissue, _OUTLINE_LEVEL, _OUTLINE_MM)
        grow = self.girth + np.clip((level - 5) / 8, 0, 1) * (self.fat_mm - 18) / 150
        half, front = half * grow, front * grow
        behind = behind * (0.9 + 0.1 * grow) + np.clip((level - 5) / 8, 0, 1) * (self.fat_mm - 12) * 0.7
        x = np.abs(tissue.xyz[0] - center_x * np.clip(1 - level / 40, 0, 1)) / half
        y = tissue.xyz[1] - center_y
        middle, depth = (front - behind) / 2, (front + behind) / 2
        inside = np.abs((y - middle) / depth)
        r = (x**2.3 + inside**2.3) ** (1 / 2.3)
        head = np.clip((self.near(0, up=95)[2] - tissue.xyz[2]) / 110, 0, 1)
        r = r / np.sqrt(np.maximum(head * (2 - head), 1e-3))
        self.radius = r
        skin = 1 - 2.5 / half
        fat = 1 - (self.fat_mm * np.clip((level - 3) / 5, 0.25, 1) + 4) / np.minimum(half, depth)
        self.muscle = float(rng.uniform(30, 65))
        streaks = noise_like(rng, tissue, 9.0) + 0.6 * noise_like(rng, tissue, 5.0)
        self.fat = float(rng.uniform(-115, -80))
        flesh = np.where(streaks > rng.uniform(0.8, 2.2), self.fat, self.muscle)
        values = np.where(r < fat, flesh, np.where(r < skin, self.fat, 30.0))
        tissue.array[...] = np.where(r < 1, values, -1000.0)
        self._bed_and_arms(center_y, behind)

    def _bed_and_arms(self, center_y: np.ndarray, behind: np.ndarray) -> None:
        rng, tissue = self.rng, self.tissue
        back = float((center_y - behind).min()) - rng.uniform(2, 12)
        curve = tissue.xyz[1] - (back + 0.0012 * tissue.xyz[0] ** 2)
        if rng.random() < 0.7:
            tissue.array[(np.abs(curve + 10) < 3) & (np.abs(tissue.xyz[0]) < 230)] = rng.uniform(-200, 150)
        if rng.random() < 0.5:
            for side in (-1, 1):
                shoulder = self.near(8, side * 195 * self.girth, -5)
                elbow = self.near(19, side * rng.uniform(215, 240) * self.girth, rng.uniform(-30, 60))
                tissue.tube(np.array([shoulder, elbow]), 44, self.muscle)
                self.bone.join_tube(np.array([shoulder, elbow]), 11)

    def _chest(self) -> None:
        rng, tissue = self.rng, self.tissue
        center_x, center_y, half, depth, front, level = self._profile(tissue, _CHEST_LEVEL, _CHEST_MM * self.girth)
        x, y, z = tissue.xyz
        cage = ((np.abs(x - center_x) / half) ** 2.2 + (np.abs(y - center_y - front) / depth) ** 2.2) ** (1 / 2.2)
        dome_z = self.near(18.2)[2] + rng.uniform(-10, 25)
        dome = dome_z + rng.uniform(50, 90) * (
            1 - ((np.abs(x - center_x) - 70) / 80) ** 2 - ((y - center_y - 50) / 95) ** 2
        )
        spine_gap = np.sqrt((x - center_x) ** 2 + (np.minimum(y - center_y + 4, 0) / 1.5 - 0) ** 2)
        inside = (cage < 0.9) & (self.radius < 0.93) & (level > 6.6) & (level < 20)
        mediastinum = np.abs(x - center_x) < np.where(y - center_y > 15, rng.uniform(24, 36), 0)
        lung = inside & (z > dome) & ~mediastinum & ((spine_gap > 26) | (y - center_y > 22))
        tissue.array[inside & mediastinum] = self.fat * 0.5
        density = rng.uniform(-900, -740)
        vessels = np.maximum(noise_like(rng, tissue, 7.0) - 1.5, 0)
        tissue.array[lung] = density + 50 * noise_like(rng, tissue, 15.0)[lung] + 500 * np.clip(vessels[lung], 0, 1.4)
        blood = self._blood()
        shift = rng.normal(0, 15)
        heart = self.near(13.5, -25, 76, shift)
        tissue.ellipsoid(
            heart, np.array((55, 42, 56)) * np.exp(rng.normal(0, 0.1, 3)), self.muscle + 0.4 * (blood - 40)
        )
        for right, ahead, up, size in ((22, -8, 18, 26), (-22, -14, -2, 28), (24, 10, -8, 26), (-20, 6, -18, 24)):
            value = blood * rng.uniform(0.5, 1.0)
            tissue.ellipsoid(heart + [right, ahead, up], np.full(3, size) * rng.uniform(0.8, 1.1), value)

    def _blood(self) -> float:
        """Return HU of blood: plain, or contrast-filled."""
        return float(self.rng.uniform(30, 55)) + self.contrast

    def _abdomen(self) -> None:
        rng, tissue = self.rng, self.tissue
        center_x, center_y, half, _, front, level = self._profile(tissue, _OUTLINE_LEVEL, _OUTLINE_MM * self.girth)
        x, y, _ = tissue.xyz
        cavity = ((x - center_x) / (half * 0.72)) ** 2 + ((y - center_y - 55) / (front * 0.48)) ** 2 < 1
        cavity &= (level > 17) & (level < 27) & (self.radius < 0.85) & (tissue.array > -500)
        pattern = noise_like(rng, tissue, rng.uniform(18, 30))
        bowel = np.where(pattern > 0.4, rng.uniform(10, 50), self.fat)
        bowel[(pattern > 0.9)] = rng.choice([-850.0, 20.0, 40.0, rng.uniform(150, 450)], p=[0.4, 0.25, 0.25, 0.1])
        tissue.array[cavity] = bowel[cavity]
        enhanced = 0.25 * self.contrast

        def move(spread: float) -> float:
            return float(rng.normal(0, spread))

        def size(*radii: float) -> np.ndarray:
            return np.array(radii) * np.exp(rng.normal(0, 0.12, 3))

        if rng.random() < 0.92:
            tissue.ellipsoid(self.near(18, 75, 55, move(18)), size(82, 75, 68), rng.uniform(40, 70) + enhanced)
        tissue.ellipsoid(self.near(17.5, -100, 5, move(18)), size(32, 42, 48), rng.uniform(35, 60) + 1.3 * enhanced)
        stomach = self.near(18, -60, 85, move(15))
        tissue.ellipsoid(stomach, size(50, 38, 45), rng.uniform(0, 60))
        tissue.ellipsoid(stomach + [0, 14, 8], size(36, 18, 26), -900.0 if rng.random() < 0.7 else 30.0)
        for side in (-1, 1):
            kidney = self.near(20 - 0.3 * side, side * rng.uniform(55, 70), -2, move(15))
            tissue.ellipsoid(kidney, size(27, 27, 52), rng.uniform(20, 45) + 1.6 * enhanced)
            tissue.ellipsoid(kidney + [-8 * side, 4, 0], (10, 10, 22), self.fat)
            psoas = [self.near(level, side * (26 + 4 * (level - 19)), 3) for level in (19, 20, 21, 22, 23, 25)]
            tissue.tube(np.array(psoas), np.array([6, 13, 17, 20, 22, 20]) * rng.uniform(0.8, 1.1), self.muscle)
        tissue.ellipsoid(self.near(27, 0, 75), size(45, 40, 38), rng.uniform(0, 20))

    def _neck(self) -> None:
        rng, tissue = self.rng, self.tissue
        airway = [(0, 38, 10), (1, 36, 0), (3, 32, 0), (5, 32, 0), (7, 34, 0), (9, 42, 0), (10.5, 46, 0)]
        points = np.array([self.near(level, rng.normal(0, 1.5), front, up) for level, front, up in airway])
        tissue.tube(points, rng.uniform(6.5, 9.5), -980.0)
        for side in (-1, 1):
            tissue.tube(np.array([points[-1], self.near(11.5, side * 45, 42)]), 6, -960.0)
            vessel = [
                self.near(level, side * right, front) for level, right, front in ((0, 32, 22), (4, 28, 26), (8, 22, 45))
            ]
            tissue.tube(np.array(vessel), 4, self._blood())
            tissue.tube(np.array(vessel) + [side * 10, -2, 0], 6, self._blood())
            tissue.ellipsoid(self.near(6.2, side * 18, 38), (9, 9, 22), rng.uniform(80, 150) + 0.2 * self.contrast)

    def _tubes(self) -> None:
        """Aorta, cava and esophagus, calcified where old."""
        rng, tissue = self.rng, self.tissue
        sway = rng.normal(0, 4)
        aorta = [
            (10, 5, 62),
            (10, -22, 28),
            (12, -24, 24),
            (15, -20 + sway, 26),
            (18, -8 + sway, 32),
            (22.3, -4 + sway, 34),
        ]
        points = np.array([self.near(*node) for node in aorta])
        radius = rng.uniform(9, 15) * np.array([1.2, 1.1, 1.0, 1.0, 0.9, 0.75])
        tissue.tube(points, radius, self._blood())
        cava = np.array(
            [self.near(level, 22 + sway, front) for level, front in ((14, 45), (18, 34), (21, 32), (23, 30))]
        )
        tissue.tube(cava, rng.uniform(8, 12), self._blood() * rng.uniform(0.5, 1))
        for side in (-1, 1):
            tissue.tube(np.array([points[-1], self.near(25, side * 38, 30)]), 6, self._blood())
        gullet = np.array(
            [self.near(level, -6 + rng.normal(0, 2), front) for level, front in ((5, 22), (9, 24), (14, 30), (17, 42))]
        )
        tissue.tube(gullet, 6, self.muscle)
        if rng.random() < 0.4:
            for _ in range(int(rng.integers(2, 14))):
                t, angle = rng.uniform(1.5, 5), rng.uniform(0, 2 * np.pi)
                wall = [np.interp(t, range(6), points[:, i]) for i in range(3)]
                spot = wall + np.interp(t, range(6), radius) * np.array([np.cos(angle), np.sin(angle), 0])
                tissue.ellipsoid(spot, (3.5, 3.5, rng.uniform(3, 7)), rng.uniform(250, 900))

    def _along_the_spine(self) -> None:
        """Discs and the spinal canal; vertebrae are drawn over them later."""
        rng, tissue, spine = self.rng, self.tissue, self.spine
        self.disc = float(rng.uniform(50, 140))
        levels = np.array([self._level(row) for row in spine.rows])
        depth = np.interp(levels, [1, 7, 13, 18, 23], [15, 18, 28, 30, 35]) * spine.scales[:, 1]
        width = np.interp(levels, [1, 7, 13, 18, 23], [20, 30, 32, 39, 48]) * spine.scales[:, 0]
        ends = np.concatenate([spine.centers_mm, spine.sacrum_mm[None]])
        for i in range(1, len(levels)):
            middle = (ends[i] + ends[i + 1]) / 2
            tissue.ellipsoid(middle, (width[i] / 2 + 1, depth[i] / 2 + 1, 9), self.disc)
        canal = spine.centers_mm - spine.frames[:, :, 1] * (depth / 2 + 8)[:, None]
        canal[0] = spine.centers_mm[0] - 8 * spine.frames[0, :, 1]
        tail = spine.sacrum_mm + [0, -16, 0]
        tissue.tube(np.concatenate([canal[:1] + [0, 0, 40], canal, tail[None]]), 8.5, rng.uniform(5, 25))
        tissue.tube(np.concatenate([canal[:1] + [0, 0, 40], canal[:20]]), 4.5, rng.uniform(25, 50))

    def _level(self, row: int) -> float:
        return 18.5 if row == T13_ROW else float(min(row, 23))

    def _ribs(self) -> None:
        rng, spine = self.rng, self.spine
        last = float(np.clip(rng.normal(0.24, 0.1), 0.0, 0.5))
        for i, row in enumerate(spine.rows):
            if not (7 <= row <= 18 or row == T13_ROW):
                continue
            level = self._level(row)
            share = np.interp(level, [7, 10, 14, 16, 17], [0.75, 0.8, 0.82, 0.72, 0.45]) if level <= 17 else last
            if row == T13_ROW:
                share = float(rng.uniform(0.06, 0.22))
            for side in (-1, 1):
                points = self._rib(i, level, side, share * float(rng.uniform(0.93, 1.07)))
                if len(points) > 1:
                    self.bone.join_tube(points, np.append(np.full(len(points) - 1, rng.uniform(4.2, 5.6)), 3.0))
        sternum = [self.near(level, 0, front) for level, front in ((8.5, 62), (10, 80), (12, 118), (14, 140))]
        for offset in (-9, 0, 9):
            self.bone.join_tube(np.array(sternum) * [1, 1, 1] + [offset, 0, 0], 5.5)

    def _rib(self, index: int, level: float, side: int, share: float) -> np.ndarray:
        """Return points of one rib from its joint, around the chest wall and down; `share` of the half circle."""
        center, frame, scale = self.spine.centers_mm[index], self.spine.frames[index], self.spine.scales[index]
        half = np.interp(level, [7, 12, 18], [15, 15, 19]) * scale[0]
        joint = center + frame @ np.array([side * (half + 4), -8, 5 if level < 16.5 else 0])
        tip = center + frame @ np.array([side * (half + 19), -24, 4])
        a, b, front = (np.interp(level, _CHEST_LEVEL, row) * self.girth for row in _CHEST_MM)
        start = np.arctan2(half + 22, front + 22)
        angles = start + np.linspace(0.12, 1.0, 14) * share * (np.pi - start)
        angles = angles[: max(round(14 * min(1, share * 4)), 1)]
        drop = np.interp(level, [7, 10, 15, 18], [35, 75, 105, 80]) * ((angles - start) / np.pi) ** 1.2
        wall = np.stack([side * a * np.sin(angles), front - b * np.cos(angles), -drop], axis=1)
        wall[:, 1] = np.maximum(wall[:, 1], -60)
        if share < 0.03:
            return np.empty((0, 3))
        return np.concatenate([joint[None], tip[None], center + wall])

    def _shoulders(self) -> None:
        rng, bone = self.rng, self.bone
        lift = rng.normal(0, 12)
        for side in (-1, 1):
            notch, tip = self.near(8.5, side * 14, 58), self.near(7.5, side * 155 * self.girth, 0, lift)
            bend = (notch + tip) / 2 + [0, 14, 4]
            bone.join_tube(np.array([notch, bend, tip]), 6)
            top, low = self.near(8, side * 95 * self.girth, -52, lift), self.near(13, side * 92 * self.girth, -62, lift)
            edge = self.near(9, side * 150 * self.girth, -12, lift)
            for a, b in ((top, low), (top, edge), (low, edge), ((top + low) / 2, edge)):
                bone.join_tube(np.array([a, b]), 4.0)
            bone.join_ellipsoid(self.near(8.3, side * 168 * self.girth, -5, lift), (23, 23, 24))

    def _pelvis(self) -> None:
        rng, bone = self.rng, self.bone
        first = self.spine.sacrum_mm
        width = self.girth * rng.uniform(0.95, 1.05)
        steps = np.array([[0, 0, 0], [0, -16, -24], [0, -11, -21], [0, -2, -19], [0, 7, -16]]) * rng.uniform(0.9, 1.1)
        below = first + np.cumsum(steps, axis=0)
        lean = first - self.spine.centers_mm[-1]
        for k, point in enumerate(below):
            up = -(steps[k] if k else 0.5 * lean / np.linalg.norm(lean) + 0.5 * steps[1] / np.linalg.norm(steps[1]))
            up = up / np.linalg.norm(up)
            right = np.array([1.0, 0, 0]) - up[0] * up
            right = right / np.linalg.norm(right)
            frame = np.stack([right, np.cross(up, right), up], axis=1)
            size = np.array([(50, 44, 36, 30, 24)[k], (32, 24, 18, 14, 11)[k], (28, 23, 20, 18, 16)[k]]) * width
            bone.join_block(point, frame, size)
            wing = np.array([(27, 24, 19, 14, 9)[k] * width, 0, 0])
            for side in (-1, 1):
                bone.join_ellipsoid(point + side * wing + [0, -4, 0], ((17, 14, 12, 9, 7)[k], 11 - k, 13))
                bone.join_tube(np.array([point + side * wing * 0.6 + [0, -8, 0], point + [0, -26 + 3 * k, -4]]), 4)
        tail = below[-1] + np.array([[0, 2, -10], [0, 12, -22], [0, 20, -30]])
        bone.join_tube(tail, np.array([6, 5, 4]))
        for side in (-1, 1):
            wing = np.array([[30, -10, 0], [46, -14, -8]]) * [side * width, 1, 1] + first
            bone.join_tube(wing, np.array([16, 12]))
            crest = [(52, -42, -5), (78, -18, 32), (108, 18, 38), (128, 55, 22), (126, 72, -5)]
            cup = first + np.array([side * 88 * width, 38, -78])
            points = np.array(crest) * [side * width, 1, 1] + first
            for a, b in pairwise(points):
                for t in np.linspace(0, 1, 4):
                    bone.join_tube(np.array([a + t * (b - a), cup + (a - cup) * 0.25]), 4.5)
            bone.join_tube(points, 6.5)
            bone.join_ellipsoid(cup, (26, 26, 26), shell_mm=7)
            bone.join_ellipsoid(cup, (22, 22, 22))
            bone.join_tube(np.array([cup, cup + [side * 38, -8, -30], cup + [side * 30, -5, -160]]), 14)
            bone.join_tube(np.array([cup + [-side * 20, 18, -18], first + [side * 8, 72, -105]]), 8)

    def _skull(self) -> None:
        rng, bone, tissue = self.rng, self.bone, self.tissue
        tip = rng.normal(0, 8)
        center = self.near(0, 0, 18 + tip, rng.uniform(74, 84))
        radii = np.array([70, 88, 74]) * np.exp(rng.normal(0, 0.03, 3))
        tissue.ellipsoid(center, radii - 3, rng.uniform(25, 42))
        bone.join_ellipsoid(center, radii, shell_mm=rng.uniform(5, 8))
        foramen = self.near(0, 0, -4, 20)
        for angle in np.linspace(0, 2 * np.pi, 14, endpoint=False):
            ring = foramen + np.array([18 * np.cos(angle), 20 * np.sin(angle), 0])
            bone.join_tube(np.array([ring, foramen + np.array([48 * np.cos(angle), 12 + 55 * np.sin(angle), 14])]), 4)
        for side in (-1, 1):
            bone.join_ellipsoid(self.near(0, side * 22, 4, 15), (9, 13, 8))
            joint = self.near(0, side * 48, 22 + tip, 22)
            angle_of_jaw = self.near(1.2, side * 44, 40 + tip)
            chin = self.near(2.2, side * 8, 92 + tip)
            bone.join_tube(np.array([joint, angle_of_jaw, chin]), 6.5)
            bone.join_ellipsoid(self.near(0, side * 52, -2 + tip, 18), (11, 17, 17))
            cheek = self.near(0, side * 30, 72 + tip, 28)
            bone.join_ellipsoid(cheek, (26, 22, 24), shell_mm=4)
            tissue.ellipsoid(cheek, (22, 18, 20), -900.0)
        bone.join_tube(self.near(0, 0, 85 + tip, 12) + np.array([[-24, -16, 0], [0, 6, 0], [24, -16, 0]]), 7)
        tissue.ellipsoid(self.near(1, 0, 70 + tip), (22, 28, 18), 55.0)
