"""Identification, localization and overlap; VerSe's definitions (Sekuboyina et al. 2021)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

HIT_MM = 20.0


def identified(predicted_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """Tell which true landmarks are identified: same label predicted, nearest to this truth, at most 20 mm away.

    Args:
        predicted_mm: `(N, 3)`, NaN row = absent.
        truth_mm: `(N, 3)`, NaN row = absent.

    Returns:
        `(N,)` bool; False where the truth or the prediction is absent.
    """
    error = np.linalg.norm(predicted_mm[:, None] - truth_mm[None], axis=-1)  # (prediction, truth)
    own = np.diagonal(error)
    with np.errstate(invalid="ignore"):
        nearest = np.where(np.isfinite(error), error, np.inf).min(axis=1) >= own
        return np.isfinite(own) & nearest & (own <= HIT_MM)


def id_rate(predicted_mm: np.ndarray, truth_mm: np.ndarray) -> float:
    """Return the share of true landmarks that are identified; NaN without any truth."""
    count = np.isfinite(truth_mm).all(axis=1).sum()
    return float(identified(predicted_mm, truth_mm).sum() / count) if count else float("nan")


def localization_errors_mm(predicted_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """Return `(N,)` distances between landmarks of the same label; NaN where either is absent."""
    return np.linalg.norm(predicted_mm - truth_mm, axis=1)


def best_shift(predicted_mm: np.ndarray, truth_mm: np.ndarray, limit: int = 3) -> int:
    """Return by how many levels the predicted labels are off as a whole: +1 if T5 is called T6.

    Rows must be consecutive levels (leave T13 out).
    """
    scores = {}
    for shift in sorted(range(-limit, limit + 1), key=abs):
        moved = np.full_like(predicted_mm, np.nan)
        source = np.arange(len(predicted_mm)) + shift
        valid = (source >= 0) & (source < len(predicted_mm))
        moved[valid] = predicted_mm[source[valid]]
        scores[shift] = int(identified(moved, truth_mm).sum())
    return max(scores, key=lambda shift: scores[shift])


def dice(predicted: np.ndarray, truth: np.ndarray, label: int) -> float:
    """Return Dice of one label; NaN if neither mask has it."""
    a, b = predicted == label, truth == label
    size = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / size if size else float("nan")


def heatmap_identification(heatmaps: Tensor, target: Tensor, voxel_mm: float) -> np.ndarray:
    """Tell per channel whether the plain maximum of the heatmap hits the target within 20 mm.

    Args:
        heatmaps: `(C, I, J, K)` prediction.
        target: `(C, I, J, K)`; a channel has a landmark where its maximum exceeds 0.5.
        voxel_mm: voxel size of both.

    Returns:
        `(C,)` float32: 1 = hit, 0 = missed or below 0.05 everywhere, NaN = no landmark.
    """
    hits = np.full(len(target), np.nan, dtype=np.float32)
    for channel in (target.flatten(1).amax(dim=1) > 0.5).nonzero().flatten().tolist():
        found, true = (np.unravel_index(int(x[channel].argmax()), target.shape[1:]) for x in (heatmaps, target))
        near = voxel_mm * np.linalg.norm(np.array(found) - np.array(true)) <= HIT_MM
        hits[channel] = near and float(heatmaps[channel].max()) > 0.05
    return hits
