"""How far a vertebra reaches around its landmark: by its level, the spine's direction and the patient's size."""

from __future__ import annotations

import itertools

import numpy as np

from .chain import SPACING_MM
from .labels import NUM_ROWS, ROWS_BY_LEVEL, T13_ROW
from .landmarks import present_rows

REAR_MM = -25.0  # forward of the landmark: where the front and the rear part of a vertebra meet
# Per level, mm at the mean patient's size: half width, front, bottom and top of the front part (body and what stands
# out beside it), then back, bottom, top and half width of the rear part (arch and processes). The 40th percentile of
# 24 synthetic spines, `python -m benchmarks.windows --seed 31 --fit 40`: no vertebra fills the corners of two boxes.
EXTENT_MM = np.repeat(
    [
        (41, 20, -12, 14, -29, -12, -4, 15),  # C1
        (28, 9, -16, 22, -45, -20, -7, 11),  # C2
        (29, 10, -9, 12, -37, -13, 1, 6),  # C3 to C6
        (36, 10, -11, 12, -50, -13, 2, 11),  # C7, T1
        (31, 11, -12, 17, -55, -27, 13, 36),  # T2 to T4
        (21, 15, -12, 18, -56, -35, 16, 35),  # T5 to T8
        (21, 16, -11, 20, -54, -24, 17, 31),  # T9, T10
        (24, 16, -13, 23, -57, -20, 22, 25),  # T11 to T13
        (25, 19, -15, 16, -67, -27, 23, 40),  # L1, L2
        (47, 19, -14, 19, -65, -22, 23, 45),  # L3 to L6
    ],
    [1, 1, 4, 2, 3, 4, 2, 3, 2, 4],
    axis=0,
)
MARGIN_MM = 1.0
SCALES = (0.8, 1.2)  # of patients; what lies beyond is an error of the landmarks


def extents_mm(landmarks_mm: np.ndarray) -> np.ndarray:
    """Return the box around every vertebra.

    Args:
        landmarks_mm: `(26, 3)` RAS+ mm; a NaN row is an absent vertebra.

    Returns:
        `(26, 2, 3)` low and high corner, RAS+ mm; NaN for an absent one.
    """
    present = present_rows(landmarks_mm)
    rows = [row for row in ROWS_BY_LEVEL if row in present]
    boxes = np.full((NUM_ROWS, 2, 3), np.nan)
    scale = patient_scale(landmarks_mm)
    for row, frame in zip(rows, frames(landmarks_mm[rows]), strict=True):
        corners = landmarks_mm[row] + scale * _corners(EXTENT_MM[ROWS_BY_LEVEL.index(row)]) @ frame.T
        boxes[row] = corners.min(axis=0) - MARGIN_MM, corners.max(axis=0) + MARGIN_MM
    return boxes


def patient_scale(landmarks_mm: np.ndarray) -> float:
    """Return the patient's size relative to the mean: the median over neighbors of their distance; 1 without any."""
    rows = [row for row in ROWS_BY_LEVEL if row != T13_ROW]
    ratios = np.linalg.norm(np.diff(landmarks_mm[rows], axis=0), axis=1) / SPACING_MM[:, 0]
    known = ratios[np.isfinite(ratios)]
    return float(np.clip(np.median(known), *SCALES)) if known.size else 1.0


def frames(points_mm: np.ndarray) -> np.ndarray:
    """Return `(N, 3, 3)` for `(N, 3)` points head to foot; columns are right, forward and up along the chain there."""
    up = -np.gradient(points_mm, axis=0) if len(points_mm) > 1 else np.zeros_like(points_mm)
    up = _unit(up + [0, 0, 1e-6])
    right = _unit([1.0, 0, 0] - up * up[:, :1])
    return np.stack([right, np.cross(up, right), up], axis=2)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _corners(extent_mm: np.ndarray) -> np.ndarray:
    """Return the `(16, 3)` corners of the two boxes of one row of `EXTENT_MM`."""
    wide, front, low, high, back, rear_low, rear_high, rear_wide = extent_mm
    fore = (-wide, wide), (REAR_MM, front), (low, high)
    rear = (-rear_wide, rear_wide), (back, REAR_MM), (rear_low, rear_high)
    return np.array([*itertools.product(*fore), *itertools.product(*rear)], dtype=float)
