"""Which part of a subject a scan shows: presets of voxel size, field of view, obliqueness and axis order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..spaces import Grid
from .spine import Spine


@dataclass(frozen=True)
class Preset:
    """What kind of scans to make.

    Attributes:
        plane_mm: range of the in-plane voxel size.
        slice_mm: range of the slice thickness; None = as in-plane.
        coarse: share of scans with low resolution instead (`COARSE_MM`).
        width_mm: range of the field of view across, and of its depth relative to that.
        levels: range of how many vertebrae the field of view spans, top to bottom; None = what scans show (`VIEWS`).
        turn_deg: largest rotation of the grid about any axis; half of the scans are straight.
        any_axes: whether the array axes come in any order and direction.
    """

    plane_mm: tuple[float, float]
    slice_mm: tuple[float, float] | None
    coarse: float
    width_mm: tuple[float, float]
    levels: tuple[int, int] | None
    turn_deg: float
    any_axes: bool


PRESETS = {
    "mixed": Preset((0.8, 1.6), (0.9, 3.0), 0.15, (150, 360), None, 12.0, any_axes=True),
    "localization": Preset((1.9, 2.4), (1.9, 2.8), 0.25, (150, 450), None, 10.0, any_axes=False),
    "segmentation": Preset((0.8, 1.3), (0.9, 2.5), 0.0, (130, 180), (3, 6), 10.0, any_axes=False),
}
COARSE_MM = ((2.4, 4.2), (2.0, 6.0))  # in-plane and slice
# Share of scans, and where their first and their last vertebra lie (places along the spine, L5 and more = the last).
# 70% end with the last lumbar vertebra, a quarter are necks: the shares in 162 VerSe scans; chest CT is added to them.
VIEWS = (
    (0.22, (0, 0), (6, 12)),  # neck
    (0.30, (4, 9), (23, 23)),  # trunk
    (0.26, (12, 20), (23, 23)),  # loins
    (0.12, (4, 9), (17, 21)),  # chest
    (0.04, (0, 0), (23, 23)),  # whole spine
    (0.06, (0, 12), (13, 23)),  # any
)
_CUT_MM, _HEAD_MM, _PELVIS_MM = (5, 45), (10, 130), (5, 200)  # in view beyond the outermost centers
_OFF_CENTER = 0.2  # of the scans show the spine near a side of the field of view


def preset_of(name: str) -> Preset:
    """Return a preset; `ValueError` for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def draw_grid(rng: np.random.Generator, spine: Spine, preset: Preset, focus: Sequence[int] = ()) -> Grid:
    """Draw a field of view along the spine, its voxel size, obliqueness and axis order.

    Args:
        rng: source of randomness.
        spine: whom to scan.
        preset: what kind of scan.
        focus: rows that must lie between top and bottom.
    """
    top, last = _span(rng, spine, preset, focus)
    ends = spine.ends_mm()
    whole = preset.levels is None
    high = ends[top, 2] + rng.uniform(*(_HEAD_MM if whole and top == 0 else _CUT_MM))
    low = ends[last - 1, 2] - rng.uniform(*_CUT_MM)
    if last == len(spine.rows):
        low = ends[last, 2] + 10 - rng.uniform(*(_PELVIS_MM if whole else _CUT_MM))
    part = ends[top:last]
    center = (part.min(axis=0) + part.max(axis=0)) / 2
    center[2] = (high + low) / 2
    height = high - low
    width = rng.uniform(*preset.width_mm)
    depth = width * rng.uniform(0.8, 1.0)
    center[:2] += _aside(rng, width, depth)
    spacing = _spacing(rng, preset)
    rotation = _rotation(rng, preset.turn_deg if rng.random() < 0.5 else 0.0)
    order = np.arange(3)
    if preset.any_axes:
        order = rng.permutation(3)
        rotation = rotation * rng.choice([-1, 1], 3)
    shape = np.maximum(np.rint(np.array([width, depth, height]) / spacing), 8).astype(int)[order]
    affine = np.eye(4)
    affine[:3, :3] = (rotation * spacing)[:, order]
    affine[:3, 3] = center - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _span(rng: np.random.Generator, spine: Spine, preset: Preset, focus: Sequence[int]) -> tuple[int, int]:
    """Draw the first vertebra and one past the last, widened to hold the focus."""
    count = len(spine.rows)
    if preset.levels:
        span = min(int(rng.integers(preset.levels[0], preset.levels[1] + 1)), count)
        top = int(rng.integers(0, count - span + 1))
        last = top + span
    else:
        _, first, final = VIEWS[rng.choice(len(VIEWS), p=[view[0] for view in VIEWS])]
        top, last = (int(rng.integers(a, b + 1)) for a, b in (first, final))
        last = count if last == 23 else last + 1
    held = [spine.rows.index(row) for row in focus] or [top]
    return min(top, *held), max(last, max(held) + 1)


def _aside(rng: np.random.Generator, width: float, depth: float) -> np.ndarray:
    """Draw how far the field of view lies to the right and in front of the spine."""
    if rng.random() < _OFF_CENTER:
        room = np.maximum(np.array([width, depth]) / 2 - 35, 5)
        return rng.uniform(-room, room)
    return np.array([rng.normal(0, 0.06) * width, rng.uniform(-0.15, 0.25) * depth * min(width / 300, 1)])


def _spacing(rng: np.random.Generator, preset: Preset) -> np.ndarray:
    """Draw the voxel size `(3,)` across, in depth and along the body."""
    if rng.random() < preset.coarse:
        plane, thick = (rng.uniform(*limits) for limits in COARSE_MM)
    else:
        plane = rng.uniform(*preset.plane_mm)
        thick = rng.uniform(*preset.slice_mm) if preset.slice_mm else plane
    return np.array([plane, plane, thick])


def _rotation(rng: np.random.Generator, limit_deg: float) -> np.ndarray:
    """Return a rotation matrix with angles up to the limit about x, y and z."""
    a, b, c = np.deg2rad(rng.uniform(-limit_deg, limit_deg, 3))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
