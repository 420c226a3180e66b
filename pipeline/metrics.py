"""What counts as found, and how well a mask fits: the definitions that training and `vertebrae evaluate` share.

Identification follows VerSe (Sekuboyina et al. 2021) in two modes. `strict` is the published definition (Glocker et
al. 2013): the same label is predicted less than 20 mm away, and no other true vertebra is nearer to the prediction.
`organiser` is what VerSe's own code counts: at most 20 mm, and only true vertebrae whose label is also predicted can
be nearer. Surface metrics follow MONAI's definitions on the voxels of a mask that have a face to the outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

HIT_MM = 20.0
MODES = ("strict", "organiser")
MATCHED_IOU = 0.5


class SurfaceScores(NamedTuple):
    """Distances between two surfaces in mm, and the share of both within each tolerance asked for."""

    hd_mm: float
    hd95_mm: float
    assd_mm: float
    nsd: tuple[float, ...]


class PanopticQuality(NamedTuple):
    """Panoptic quality of a set of instances = segmentation quality (mean IoU) x recognition quality (F1)."""

    pq: float
    sq: float
    rq: float


def identified(predicted_mm: np.ndarray, truth_mm: np.ndarray, *, mode: str = "strict") -> np.ndarray:
    """Tell which true landmarks are identified.

    Args:
        predicted_mm: `(N, 3)`, NaN row = absent.
        truth_mm: `(N, 3)`, NaN row = absent.
        mode: `strict` or `organiser`, see above.

    Returns:
        `(N,)` bool; False where the truth or the prediction is absent.
    """
    if mode not in MODES:
        raise ValueError(f"identification mode {mode!r}: expected {' or '.join(MODES)}")
    error = np.linalg.norm(predicted_mm[:, None] - truth_mm[None], axis=-1)  # (prediction, truth)
    own = np.diagonal(error)
    rivals = np.where(np.isfinite(error), error, np.inf)
    if mode == "organiser":
        rivals[:, ~np.isfinite(own)] = np.inf
    with np.errstate(invalid="ignore"):
        near = own < HIT_MM if mode == "strict" else own <= HIT_MM
        return np.isfinite(own) & (rivals.min(axis=1, initial=np.inf) >= own) & near


def id_rate(predicted_mm: np.ndarray, truth_mm: np.ndarray, *, mode: str = "strict") -> float:
    """Return the share of true landmarks that are identified; NaN without any truth."""
    count = np.isfinite(truth_mm).all(axis=1).sum()
    return float(identified(predicted_mm, truth_mm, mode=mode).sum() / count) if count else float("nan")


def localization_errors_mm(predicted_mm: np.ndarray, truth_mm: np.ndarray) -> np.ndarray:
    """Return `(N,)` distances between landmarks of the same label; NaN where either is absent."""
    return np.linalg.norm(predicted_mm - truth_mm, axis=1)


def best_shift(predicted_mm: np.ndarray, truth_mm: np.ndarray, limit: int = 3) -> int:
    """Return by how many levels the predicted labels are off as a whole: +1 if T5 is called T6.

    Rows must be consecutive levels (leave T13 out).
    """
    order = sorted(range(-limit, limit + 1), key=abs)
    return max(order, key=lambda shift: int(identified(shifted(predicted_mm, shift), truth_mm).sum()))


def shifted(landmarks_mm: np.ndarray, shift: int) -> np.ndarray:
    """Return `(N, 3)` landmarks renamed by -`shift` levels, which undoes that shift; NaN where nothing moves in."""
    moved = np.full_like(landmarks_mm, np.nan)
    source = np.arange(len(landmarks_mm)) + shift
    valid = (source >= 0) & (source < len(landmarks_mm))
    moved[valid] = landmarks_mm[source[valid]]
    return moved


def dice(predicted: np.ndarray, truth: np.ndarray, label: int) -> float:
    """Return Dice of one label; NaN if neither mask has it."""
    a, b = predicted == label, truth == label
    return dice_of_counts(int((a & b).sum()), int(a.sum()), int(b.sum()))


def dice_of_counts(both: int, predicted: int, truth: int) -> float:
    """Return Dice from the voxels that two masks share and that each has; NaN if both are empty."""
    return 2 * both / (predicted + truth) if predicted + truth else float("nan")


def surface_scores(predicted_mm: np.ndarray, truth_mm: np.ndarray, tolerances_mm: Sequence[float]) -> SurfaceScores:
    """Compare two surfaces given by their points.

    Args:
        predicted_mm: `(P, 3)` surface voxels of the prediction, mm.
        truth_mm: `(T, 3)` surface voxels of the truth, mm.
        tolerances_mm: up to which distance a point of either counts for the normalized surface Dice.

    Raises:
        ValueError: one of the surfaces is empty; a missing vertebra has no distance and must be counted by itself.
    """
    if not len(predicted_mm) or not len(truth_mm):
        raise ValueError(f"surfaces of {len(predicted_mm)} and {len(truth_mm)} points; expected some on both sides")
    to_truth = KDTree(truth_mm).query(predicted_mm)[0]
    to_predicted = KDTree(predicted_mm).query(truth_mm)[0]
    both = np.concatenate([to_truth, to_predicted])
    return SurfaceScores(
        hd_mm=float(both.max()),
        hd95_mm=float(max(np.percentile(to_truth, 95), np.percentile(to_predicted, 95))),
        assd_mm=float(both.mean()),
        nsd=tuple(float((both <= tolerance).mean()) for tolerance in tolerances_mm),
    )


def panoptic_quality(iou: np.ndarray) -> PanopticQuality:
    """Return the panoptic quality (Kirillov et al. 2019) of instances matched at an IoU above 0.5; NaN without any.

    Args:
        iou: `(P, T)` intersection over union of every predicted with every true instance.
    """
    matched = iou[iou > MATCHED_IOU]
    total = iou.shape[0] + iou.shape[1]
    if not total:
        return PanopticQuality(float("nan"), float("nan"), float("nan"))
    sq, rq = float(matched.mean()) if matched.size else 0.0, 2 * matched.size / total
    return PanopticQuality(sq * rq, sq, rq)
