"""Draw a spine: which vertebrae, where their bodies are, how each is turned and scaled.

Distances, tilts and their spread are the means measured on the body centroids of VerSe'19 (80 CT scans,
Sekuboyina et al. 2021). Frame: RAS+ mm with C1 at the origin, patient upright along z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ..labels import NAMES, T12_ROW, T13_ROW
from .variants import Variants, draw_variants

# Body center to the next lower one, C1-C2 ... L5-L6: length in mm, sagittal tilt in degrees (positive = backward).
PAIR_LENGTH_MM = np.array(
    [22.4, 18.5, 16.6, 17.1, 16.0, 17.2, 19.0, 20.4, 20.4, 20.8, 21.0, 21.9, 21.8, 22.8, 23.7, 25.0]
    + [26.5, 29.0, 30.2, 32.3, 33.7, 34.4, 32.9, 31.6]
)
PAIR_TILT_DEG = np.array(
    [10.0, 9.0, 12.0, 15.0, 18.0, 20.0, 24.0, 27.0, 26.0, 23.0, 19.0, 13.4, 9.8, 0.3, -3.2, -6.4]
    + [-5.7, -9.8, -12.4, -14.4, -9.3, -0.9, 12.2, 16.0]
)
L5_TO_S1_MM, L5_TO_S1_TILT_DEG = 31.0, 32.0
# How much more than the mean shapes (`morphometry`) the spinous processes of T5 to T12 fall, per mm backward: what is
# missing to chest CT (`python -m benchmarks.processes`). Then the SD between subjects and that within one.
SLOPES = np.array([0.05, -0.15, -0.15, 0.0, 0.25, 0.2, 0.15, 0.1])
SLOPE_SD, SLOPE_NOISE = 0.2, 0.08
_T5_ROW = 11
DISC_SHARE = 0.25  # of the distance between two bodies


@dataclass(frozen=True)
class Spine:
    """One subject's vertebrae, head to foot (N of them).

    Attributes:
        rows: landmark rows (`labels.NAMES`).
        centers_mm: `(N, 3)` body centers, RAS+ mm.
        frames: `(N, 3, 3)`; columns are the vertebra's right, anterior and up axes.
        scales: `(N, 3)` size along those axes relative to the mean vertebra of that level.
        sacrum_mm: `(3,)` center of the first sacral segment.
        sacral_tilt: how far the axis of S1 leans backward going down, radians.
        slopes: `(N,)` by how many mm more than usual a spinous process falls per mm backward.
        variants: what is special about this spine.
    """

    rows: tuple[int, ...]
    centers_mm: np.ndarray
    frames: np.ndarray
    scales: np.ndarray
    sacrum_mm: np.ndarray
    sacral_tilt: float
    slopes: np.ndarray
    variants: Variants

    def at(self, row: int) -> np.ndarray:
        """Return the `(3,)` center of a row, or of the nearest one present."""
        levels = np.array([level_of(r) for r in self.rows])
        return self.centers_mm[int(np.argmin(np.abs(levels - level_of(row))))]

    def ends_mm(self) -> np.ndarray:
        """Return `(N + 1, 3)`: the body centers and that of the first sacral segment."""
        return np.concatenate([self.centers_mm, self.sacrum_mm[None]])


def level_of(row: int) -> float:
    """Place of a row on the axis C1 = 0 ... L6 = 24, T13 between T12 and L1."""
    return T12_ROW + 0.5 if row == T13_ROW else float(row)


def kind_of(row: int) -> int:
    """Return the row whose shape a vertebra has: T13 looks like T12, L6 like L5."""
    return T12_ROW if row == T13_ROW else min(row, 23)


def draw_spine(rng: np.random.Generator, variant: str | None = None) -> Spine:
    """Draw one subject's spine; `variant` as in `variants.draw_variants`."""
    variants = draw_variants(rng, variant)
    rows = variants.rows
    pairs = np.minimum([T12_ROW if r == T13_ROW else r for r in rows], len(PAIR_LENGTH_MM) - 1)
    subject = np.exp(rng.normal(0, 0.07))
    growth = np.exp(0.03 * _smooth(rng, len(rows), 1.5))
    lengths = np.append(PAIR_LENGTH_MM[pairs][:-1], L5_TO_S1_MM) * subject * growth
    lengths = lengths * _shortened(variants)
    tilt, bend = _draw_angles(rng, pairs)
    tilt = tilt + _kyphosis(variants)
    steps = lengths[:, None] * np.stack([np.sin(bend), -np.sin(tilt), -np.cos(tilt) * np.cos(bend)], axis=1)
    frames = _frames(rng, steps)
    ends = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    for row, slip in variants.slips_mm.items():
        index = rows.index(row)
        ends[index + 1 :] -= slip * frames[index, :, 1]
    return Spine(
        rows=rows,
        centers_mm=ends[:-1],
        frames=frames,
        scales=_scales(rng, rows, subject, growth),
        sacrum_mm=ends[-1],
        sacral_tilt=float(np.clip(tilt[-1] + np.deg2rad(rng.normal(14, 6)), 0.2, 1.3)),
        slopes=_slopes(rng.spawn(1)[0], rows),
        variants=variants,
    )


def _shortened(variants: Variants) -> np.ndarray:
    """Return `(N,)` factors of the steps: lost body height and lost discs bring neighbors together."""
    factor = np.ones(len(variants.rows))
    for row, fracture in variants.fractures.items():
        lost = (1 - DISC_SHARE) / 2 * fracture.loss * {"wedge": 0.45, "biconcave": 0.3, "crush": 1.0}[fracture.kind]
        index = variants.rows.index(row)
        factor[index] -= lost
        factor[max(index - 1, 0)] -= lost
    for upper, _ in variants.fused:
        factor[variants.rows.index(upper)] *= 0.9
    if variants.transitional:
        factor[-1] *= 0.92
    return factor


def _kyphosis(variants: Variants) -> np.ndarray:
    """Return `(N,)` radians added to the tilt of the steps: a wedged body bends the spine forward."""
    added = np.zeros(len(variants.rows))
    for row, fracture in variants.fractures.items():
        if fracture.kind == "wedge":
            index, angle = variants.rows.index(row), 0.7 * np.arctan(fracture.loss * 0.8)
            added[:index] += angle / 2
            added[index:] -= angle / 2
    return added


def _smooth(rng: np.random.Generator, count: int, width: float) -> np.ndarray:
    """Return a unit-variance random sequence correlated over about `width` levels."""
    noise = gaussian_filter1d(rng.normal(size=count + 40), width)[20:-20]
    return noise / np.sqrt(1 / (2 * width * np.sqrt(np.pi)))


def _draw_angles(rng: np.random.Generator, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sagittal tilt and the coronal bend of every step, the last one to the sacrum, in radians."""
    mean = np.append(PAIR_TILT_DEG[pairs][:-1], L5_TO_S1_TILT_DEG)
    count = len(pairs)
    spread = np.interp(np.arange(count), [0, 6, 10, 24], [9, 9, 6, 6])
    tilt = mean * rng.uniform(0.6, 1.3) + rng.normal(0, 4) + spread * _smooth(rng, count, 2.0)
    bend = rng.normal(0, 1.5) + 2.0 * _smooth(rng, count, 2.0)
    if rng.random() < 0.2:  # scoliosis
        phase, length = rng.uniform(0, 2 * np.pi), rng.uniform(10, 24)
        bend = bend + rng.uniform(6, 25) * np.sin(2 * np.pi * np.arange(count) / length + phase)
    return np.deg2rad(tilt), np.deg2rad(bend)


def _frames(rng: np.random.Generator, steps: np.ndarray) -> np.ndarray:
    """Turn every vertebra along the curve, with a small twist of its own."""
    up = -steps / np.linalg.norm(steps, axis=1, keepdims=True)
    up = up + np.concatenate([up[:1], up[:-1]])
    up = up / np.linalg.norm(up, axis=1, keepdims=True)
    twist = np.deg2rad(2.0 * _smooth(rng, len(up), 2.0) + rng.normal(0, 2))
    right = np.stack([np.cos(twist), np.sin(twist), np.zeros_like(twist)], axis=1)
    right = right - (right * up).sum(axis=1, keepdims=True) * up
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(up, right), up], axis=2)


def _scales(rng: np.random.Generator, rows: tuple[int, ...], subject: float, growth: np.ndarray) -> np.ndarray:
    """Heights follow the spacing of the discs; widths follow the subject with some freedom."""
    width = subject * rng.uniform(0.93, 1.07) * (1 + 0.02 * _smooth(rng, len(rows), 1.5))
    depth = subject * rng.uniform(0.93, 1.07) * (1 + 0.02 * _smooth(rng, len(rows), 1.5))
    height = subject * growth * rng.uniform(0.94, 1.03)
    return np.stack([width, depth, height], axis=1)


def _slopes(rng: np.random.Generator, rows: tuple[int, ...]) -> np.ndarray:
    """Spinous processes of one chest are steep or level together; those of the neck and the loins hardly differ."""
    levels = [level_of(row) for row in rows]
    mean = np.interp(levels, np.arange(len(SLOPES)) + _T5_ROW, SLOPES, left=0, right=0)
    share = np.interp(levels, [6, 10, 17, 20], [0.2, 1, 1, 0.2])
    return mean + share * (rng.normal(0, SLOPE_SD) + SLOPE_NOISE * _smooth(rng, len(rows), 1.5))


def names(spine: Spine) -> list[str]:
    """Return the names of the vertebrae, head to foot."""
    return [NAMES[row] for row in spine.rows]
