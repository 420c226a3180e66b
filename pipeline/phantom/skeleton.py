"""Ribs, sternum, shoulder girdle, pelvis and hips, as signed distances."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from .spine import level_of
from .torso import CHEST_LEVEL, CHEST_MM, CHEST_POWER

if TYPE_CHECKING:
    from .body import Body

# Where a rib leaves its vertebra, in the vertebra's own frame, and how it falls per length: close to there and farther
# on. By thoracic level (T1 = 7); from one subject with labelled ribs, and where the ribs of three chest CT lie beside
# the spine (`benchmarks.ribs`).
_TIP_LEVEL = [7, 8, 9, 10, 11, 12, 16, 17, 18]
_TIP_MM = np.array([[-22, -21, -27, -32, -35, -37, -37, -37, -37], [8, 18, 18, 15.5, 13.5, 13, 11.5, 9.5, -1]])
_FALL_LEVEL = [7, 8, 9, 10, 14, 15, 16, 17, 18]
_FALL = np.array(
    [[0.7, 0.22, 0.22, 0.22, 0.29, 0.42, 0.53, 0.66, 0.72], [0.6, 0.55, 0.54, 0.57, 0.5, 0.56, 0.66, 0.7, 0.7]]
)
_STEP_MM = 10.0
_NEAR_MM, _BLEND_MM = 35.0, 60.0  # how far the first fall goes, and until a rib has reached the chest wall


def paint_skeleton(body: Body) -> None:
    """Unite the bones around the spine; skull and sacrum have modules of their own."""
    _join_ribs(body)
    _join_sternum(body)
    _join_shoulders(body)
    _join_pelvis(body)


def _join_ribs(body: Body) -> None:
    bone, thick = body.bone, body.rng.uniform(4.0, 5.4)
    for row, shares in body.spine.variants.ribs.items():
        for side, share in zip((-1, 1), shares, strict=True):
            points = rib_mm(body, row, side, share)
            if len(points) > 1:
                radius = np.append(np.full(len(points) - 1, thick), 3.0)
                bone.join(bone.tube(points, radius))


def rib_mm(body: Body, row: int, side: int, share: float) -> np.ndarray:
    """Return `(P, 3)` points of one rib from its joint, around the chest wall and down; none for a share under 0.03.

    The wall is that of the height where the rib runs, which is up to four levels below its joint in front; the first
    rib alone keeps to its own narrow ring.

    Args:
        body: the subject.
        row: its vertebra.
        side: -1 left, 1 right.
        share: length as a share of the way to the midline in front.
    """
    if share < 0.03:
        return np.empty((0, 3))
    level = level_of(row)
    joint, tip, aside = _leaving_mm(body, row, side)
    turns = np.linspace(0, np.pi, 60)
    wall = _chest_wall(body, np.full(60, level), turns)
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(wall, axis=1), axis=0)))
    start = np.interp(aside, wall[0, :25], arc[:25])
    length = share * (arc[-1] - start)
    along = np.append(np.arange(0, length, _STEP_MM), length)
    near, far = (np.clip(np.interp(level, _FALL_LEVEL, values) * body.slope, 0, 0.9) for values in _FALL)
    fall = np.where(along[1:] <= _NEAR_MM, near, far)
    turn = np.interp(start + np.cumsum(np.diff(along) * np.sqrt(1 - fall**2)), arc, turns)
    height = tip[2] - np.cumsum(np.diff(along) * fall)
    levels = np.interp(height, body.path[::-1, 2], body.levels[::-1])
    right, front = _chest_wall(body, level + np.interp(level, [7, 8], [0.2, 1]) * (levels - level), turn)
    middle = [np.interp(levels, body.levels, body.path[:, i]) for i in range(2)]
    share_of_wall = np.clip(along[1:] / _BLEND_MM, 0, 1)
    share_of_wall = share_of_wall**2 * (3 - 2 * share_of_wall)
    depth = tip[1] + share_of_wall * (middle[1] + front - tip[1])
    return np.concatenate([joint[None], tip[None], np.stack([middle[0] + side * right, depth, height], axis=1)])


def _leaving_mm(body: Body, row: int, side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a rib's joint and where it touches the transverse process `(3,)`, and how far aside it meets the wall."""
    index, level = body.spine.rows.index(row), level_of(row)
    center, frame, scale = body.spine.centers_mm[index], body.spine.frames[index], body.spine.scales[index]
    half = np.interp(level, [7, 12, 18], [15, 15, 19]) * scale[0]
    joint = center + frame @ np.array([side * (half + 4), -8, 5 if level < 16.5 else 0])
    behind, above = (np.interp(level, _TIP_LEVEL, values) for values in _TIP_MM)
    tip = center + frame @ np.array([side * (half + 19), behind, above])
    return joint, tip, float(half + 24)


def _chest_wall(body: Body, levels: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return `(2, P)` distance to the side and to the front of the spine, from behind (turn 0) to the front (pi)."""
    a, b, front = (np.interp(levels, CHEST_LEVEL, values) * body.girth for values in CHEST_MM)
    sine, cosine = np.sin(turns).clip(0), np.cos(turns)
    power = 2 / CHEST_POWER
    return np.stack([a * sine**power, front - b * np.sign(cosine) * np.abs(cosine) ** power])


def _lower_levels(body: Body) -> float:
    """Return by how many levels sternum and collarbones lie lower: they go down with the ribs."""
    return 1.2 * (body.slope - 1)


def _join_sternum(body: Body) -> None:
    bone = body.bone
    lower = _lower_levels(body)
    nodes = ((9.2, 85), (10.5, 104), (12.5, 122), (15.2, 132))
    line = np.array([body.near(level + lower, 0, front * body.girth) for level, front in nodes])
    for offset in (-9, 0, 9):
        bone.join(bone.tube(line + [offset, 0, 0], 5.5))


def _join_shoulders(body: Body) -> None:
    rng, bone, girth = body.rng, body.bone, body.girth
    lift = rng.normal(0, 14)
    lower = _lower_levels(body)
    for side in (-1, 1):
        notch, tip = body.near(8.9 + lower, side * 14, 78 * girth), body.near(7.5, side * 155 * girth, 0, lift)
        bend = (notch + tip) / 2 + [0, 14, 4]
        bone.join(bone.tube(np.array([notch, bend, tip]), 6))
        top, low = body.near(8, side * 95 * girth, -52, lift), body.near(13, side * 92 * girth, -62, lift)
        edge = body.near(9, side * 150 * girth, -12, lift)
        for t in np.linspace(0, 1, 6):
            bone.join(bone.tube(np.array([top + t * (low - top), edge]), 2.6))
        bone.join(bone.tube(np.array([top, low]), 4.0))
        bone.join(bone.tube(np.array([(3 * top + low) / 4 + [0, -12, 0], tip]), 4.5))
        head = body.near(8.3, side * 168 * girth, -5, lift)
        bone.join(bone.ellipsoid(head, (23, 23, 24)))
        bone.join(bone.tube(np.array([head, head + [side * 14, 5, -150]]), 12))


def _join_pelvis(body: Body) -> None:
    """Iliac wings beside the sacrum, acetabula, femoral heads, pubic arch."""
    bone, first = body.bone, body.spine.sacrum_mm + [0, 0, body.rng.normal(6, 6)]
    for side in (-1, 1):
        mirror = np.array([side, 1, 1]) * body.pelvis
        crest = [(46, -58, -22), (52, -52, 4), (66, -28, 28), (100, 12, 40), (128, 55, 22), (126, 72, -5)]
        points = np.array(crest) * mirror + first
        cup = first + np.array([88, 38, -78]) * mirror
        foot = first + np.array([56, -8, -56]) * mirror
        for a, b in pairwise(points):
            for t in np.linspace(0, 1, 8):
                start = a + t * (b - a)
                bone.join(bone.tube(np.array([start, (foot + cup) / 2 + (start - cup) * 0.3]), 4.2))
        bone.join(bone.tube(points, 6.0))
        bone.join(bone.ellipsoid(cup, (26, 26, 26)), shell_mm=7)
        bone.join(bone.ellipsoid(cup, (22, 22, 22)))
        shaft = np.array([cup, cup + [side * 38, -8, -30], cup + [side * 30, -5, -160]])
        bone.join(bone.tube(shaft, 14))
        bone.join(bone.tube(np.array([cup + [-side * 20, 18, -18], first + [side * 8, 72, -105]]), 8))
        bone.join(bone.tube(np.array([cup + [-side * 12, -20, -20], cup + [-side * 22, -26, -55]]), 10))
