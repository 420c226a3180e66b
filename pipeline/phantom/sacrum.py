"""Sacrum and coccyx: five fused, tapering bodies with wide wings, foramina, a canal, and remnants of discs.

The angle at the promontory and the curve follow mean anatomy (sacral slope about 40 degrees).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .body import Body

_LENGTH_MM = np.array([28.0, 24.0, 20.0, 17.0])  # between the centers of S1 ... S5
_TURN_DEG = np.array([2.0, -4.0, -20.0, -24.0])  # how much each step leans less backward than the one before
_WIDTH_MM, _DEPTH_MM = np.array([46.0, 34, 28, 24, 20]), np.array([27.0, 19, 15, 12, 9])
_TOP_WIDTH_MM, _TOP_DEPTH_MM = 51.0, 34.0  # of the upper end of S1, half a segment above its center
_WING_MM = np.array([[38.0, -6, 2], [36, -8, 0], [26, -6, 0], [17, -4, 0], [10, -2, 0]])  # center of the wing
_WING_RADII_MM = np.array([[27, 19, 17], [24, 17, 17], [16, 12, 14], [11, 8, 11], [8, 5, 9.0]])


def paint_sacrum(body: Body) -> None:
    """Unite the sacrum with the bones of a body, and open its canal, foramina and remnant discs."""
    size = body.pelvis
    centers, frames = sacral_segments(body, size)
    _join_bodies(body, centers, frames, size)
    _join_wings(body, centers, frames, size)
    _open_discs(body, centers, frames, size)
    _open_canal(body, centers, frames, size)
    for center, frame in zip(centers, frames, strict=True):
        for side in (-1, 1):
            body.harden(center + frame[:, 0] * side * 34 * size, (20, 20, 16), -0.4 * body.look.marrow)


def sacral_segments(body: Body, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return centers `(5, 3)` and frames `(5, 3, 3)` of S1 ... S5."""
    right = body.spine.frames[-1][:, 0] * [1, 1, 0]
    right = right / np.linalg.norm(right)
    forward = np.array([-right[1], right[0], 0])
    turns = _TURN_DEG * body.rng.uniform(0.6, 1.3) + body.rng.normal(0, 3, 4)
    tilts = body.spine.sacral_tilt + np.deg2rad(np.concatenate([[0], np.cumsum(turns)]))
    downs = -np.sin(tilts)[:, None] * forward - np.cos(tilts)[:, None] * np.array([0, 0, 1.0])
    steps = (_LENGTH_MM * size)[:, None] * (downs[:-1] + downs[1:]) / 2
    centers = body.spine.sacrum_mm + np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    frames = np.stack([np.tile(right, (5, 1)), np.cross(-downs, right), -downs], axis=2)
    return centers, frames


def _join_bodies(body: Body, centers: np.ndarray, frames: np.ndarray, size: float) -> None:
    """Fused bodies: thin slabs that taper from the wide upper end of S1."""
    bone, nodes = body.bone, np.arange(-0.4, 4.31, 0.2)
    taper = body.rng.uniform(0.4, 1.2)  # how much of the mean widening towards the promontory
    for node in nodes:
        k = min(max(int(node), 0), 3)
        center = centers[k] + (node - k) * (centers[k + 1] - centers[k])
        frame = frames[min(int(node + 0.5), 4)]
        width, depth = (
            np.interp(node, [-0.5, 0, 1, 2, 3, 4], [own[0] + taper * (top - own[0]), *own]) * size
            for top, own in ((_TOP_WIDTH_MM, _WIDTH_MM), (_TOP_DEPTH_MM, _DEPTH_MM))
        )
        bone.join(bone.block(center, frame, np.array([width, depth, 0.3 * _LENGTH_MM[k] * size])))
    tail = centers[-1] + np.array([[0, 0, -6], [0, 4, -16], [0, 12, -28], [0, 20, -34]])
    bone.join(bone.tube(tail, np.array([6, 5.5, 5, 3.5])))


def _join_wings(body: Body, centers: np.ndarray, frames: np.ndarray, size: float) -> None:
    """Wings, the joints for L5, and the arches that close the canal behind."""
    bone = body.bone
    for k, (center, frame) in enumerate(zip(centers, frames, strict=True)):
        for side in (-1, 1):
            wing = center + frame @ (_WING_MM[k] * [side, 1, 1] * size)
            bone.join(bone.ellipsoid(wing, _WING_RADII_MM[k] * size, frame))
        if k < 4:
            crest = center + frame @ np.array([0, -_DEPTH_MM[k] * 0.5 * size - 15 + k, -2])
            arch = [center + frame @ np.array([side * (20 - 3 * k), -12 + k, 0]) for side in (-1, 1)]
            bone.join(bone.tube(np.array([arch[0], crest, arch[1]]), 3.5))
            bone.join(bone.tube(np.array([crest + frame[:, 2] * 7, crest - frame[:, 2] * 8]), 3.0))
    for side in (-1, 1):
        foot = centers[0] + frames[0] @ np.array([side * 21 * size, -17, 2])
        bone.join(bone.tube(np.array([foot, foot + frames[0] @ np.array([side * 1.0, -2, 14])]), 5.5))


def _open_discs(body: Body, centers: np.ndarray, frames: np.ndarray, size: float) -> None:
    """Remnant discs: flat hollows that do not reach the rim; a lumbar-like first one in some."""
    rng, bone, tissue = body.rng, body.bone, body.tissue
    for k, (rate, most) in enumerate(((0.9, 4.0), (0.6, 2.5), (0.3, 1.5))):
        high = rng.uniform(0.3, 1.0) * most * (1.7 if k == 0 and rng.random() < 0.15 else 1.0)
        if rng.random() < rate:
            middle = (centers[k] + centers[k + 1]) / 2
            share = rng.uniform(0.3, 0.46)
            width, depth = (_WIDTH_MM[k : k + 2].mean() * size, _DEPTH_MM[k : k + 2].mean() * size)
            radii = np.array([share * width, share * depth, max(high, 0.8)])
            bone.carve(bone.ellipsoid(middle, radii, frames[k]))
            tissue.fill(tissue.ellipsoid(middle, radii + 2, frames[k]), body.look.disc)


def _open_canal(body: Body, centers: np.ndarray, frames: np.ndarray, size: float) -> None:
    """The sacral canal, and four pairs of foramina from front to back, filled with fat and nerves."""
    bone, tissue = body.bone, body.tissue
    canal = np.array([c + f @ np.array([0, -0.5 * d * size - 7 + k, 0])
                      for k, (c, f, d) in enumerate(zip(centers, frames, _DEPTH_MM, strict=True))])  # fmt: skip
    radius = np.array([8.0, 6.5, 5, 4, 3])
    bone.carve(bone.tube(canal, radius))
    tissue.fill(tissue.tube(canal, radius), 0.4 * body.fat)
    for k in range(4):
        middle, frame = (centers[k] + centers[k + 1]) / 2, frames[k]
        for side in (-1, 1):
            line = np.array([middle + frame @ np.array([side * (0.42 * _WIDTH_MM[k] + 4) * size, y, 0])
                             for y in (24.0, -26.0)])  # fmt: skip
            bone.carve(bone.tube(line, (5.0 - 0.6 * k) * size))
            tissue.fill(tissue.tube(line, (5.0 - 0.6 * k) * size), 0.5 * body.fat)
