"""Do mask and landmarks agree with each other and with anatomy? Every doubt becomes a `findings.Finding`."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .chain import DOWN, L1, SPACING_MM, T12, Weights
from .findings import Finding
from .labels import C1_ROW, LABELS, NAMES, ROWS_BY_LEVEL, row_of_label
from .landmarks import present_rows
from .spaces import CORNERS, spacing_mm, to_voxel, to_world

# Volume in ml of C1 ... L5 as on masks of two to four adults a level (VerSe, TotalSegmentator, two open meshes); L6
# as L5, T13 as T12. Only the proportions matter: every patient's own size is taken out.
VOLUME_ML = dict(zip(
    [*NAMES[:25], "T13"],
    [16.3, 19.5, 12.8, 12.9, 14.3, 15.1, 17.6, 23.2, 25.7, 25.5, 27.3, 29.3, 32.4, 34.9, 36.7, 33.5, 36.4, 40.2, 45.6,
     64.5, 63.1, 66.9, 67.9, 67.8, 67.8, 45.6], strict=True))  # fmt: skip
SIZE_FACTOR = 1.7  # larger or smaller than this times the expected volume is an outlier
SPACING_UNITS = 4.0  # standard deviations of the logarithm of a distance, at the patient's scale
GAP = 1.6  # times the expected distance: room for another one (largest of 678 in 72 scans of VerSe 2019: 1.35)
OUTSIDE_MM = 2.0  # a landmark this far from its mask is outside it, on coarse grids one voxel
RING_MM = 15.0  # for C1, whose center lies in the canal: 9 to 11 mm from its bone in phantoms


class _Piece(NamedTuple):
    """What is known of one label: `(3,)` RAS+ mm centroid, volume in ml, pieces, and whether it touches the border."""

    centroid_mm: np.ndarray
    volume_ml: float
    pieces: int
    cut: bool


def check(labels: np.ndarray, affine: np.ndarray, landmarks_mm: np.ndarray) -> tuple[Finding, ...]:
    """Return what does not fit.

    Args:
        labels: `(I, J, K)` uint8 VerSe labels.
        affine: `(4, 4)`, voxel index to RAS+ mm.
        landmarks_mm: `(26, 3)` RAS+ mm, NaN row = absent.
    """
    rows = [row for row in ROWS_BY_LEVEL if row in present_rows(landmarks_mm)]
    masks = _measure(labels, affine)
    return (
        *_missing(rows, masks),
        *_outside(rows, masks, labels, affine, landmarks_mm),
        *_pieces(masks),
        *_order(rows, masks),
        *_sizes(masks),
        *_spacings(rows, landmarks_mm),
    )


def _measure(labels: np.ndarray, affine: np.ndarray) -> dict[int, _Piece]:
    """Return what is known of every vertebra's mask, by row; labels that are no vertebra are not looked at."""
    voxel_ml = float(np.prod(spacing_mm(affine))) / 1000
    result = {}
    turned = ndimage.find_objects(labels.T, max_label=max(LABELS))  # NIfTI's first axis is the fastest
    for label, box in enumerate(turned, start=1):
        if box is None or label not in LABELS:
            continue
        box = box[::-1]
        own = labels[box] == label
        start = np.array([side.start for side in box])
        cut = bool((start == 0).any() or any(s.stop == n for s, n in zip(box, labels.shape, strict=True)))
        inside_vox = np.array(ndimage.center_of_mass(own)) + start
        count, volume_ml = int(ndimage.label(own, CORNERS)[1]), voxel_ml * float(own.sum())
        result[row_of_label(label)] = _Piece(to_world(affine, inside_vox), volume_ml, count, cut)
    return result


def _missing(rows: list[int], masks: dict[int, _Piece]) -> list[Finding]:
    without = [_about("no_mask", row, "has a landmark but no mask") for row in rows if row not in masks]
    return without + [_about("no_landmark", row, "has a mask but no landmark") for row in masks if row not in rows]


def _about(code: str, row: int, sentence: str) -> Finding:
    return Finding(code, f"{NAMES[row]} {sentence}", (NAMES[row],))


def _outside(
    rows: list[int], masks: dict[int, _Piece], labels: np.ndarray, affine: np.ndarray, landmarks_mm: np.ndarray
) -> list[Finding]:
    """Find landmarks without a voxel of their own mask within reach; one voxel's diagonal is always within reach."""
    step_mm = spacing_mm(affine)
    result = []
    for row in rows:
        reach_mm = max(RING_MM if row == C1_ROW else OUTSIDE_MM, float(np.linalg.norm(step_mm)))
        reach_vox = np.ceil(reach_mm / step_mm).astype(int)
        middle = np.rint(to_voxel(affine, landmarks_mm[row])).astype(int)
        low, high = np.maximum(middle - reach_vox, 0), np.maximum(middle + reach_vox + 1, 0)
        near = labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        own_mm = to_world(affine, np.argwhere(near == LABELS[row]) + low)
        if row not in masks or (np.linalg.norm(own_mm - landmarks_mm[row], axis=1) <= reach_mm).any():
            continue
        inside = near[tuple(np.clip(middle - low, 0, np.array(near.shape) - 1))] if near.size else 0
        where = f"in the mask of {NAMES[row_of_label(inside)]}" if inside in LABELS else "outside its mask"
        result.append(_about("outside_mask", row, f"has its landmark {where}"))
    return result


def _pieces(masks: dict[int, _Piece]) -> list[Finding]:
    return [_about("pieces", row, f"has a mask of {m.pieces} pieces") for row, m in masks.items() if m.pieces > 1]


def _order(rows: list[int], masks: dict[int, _Piece]) -> list[Finding]:
    result = []
    for above, below in pairwise(row for row in rows if row in masks):
        if (masks[below].centroid_mm - masks[above].centroid_mm) @ DOWN <= 0:
            sentence = f"the mask of {NAMES[below]} does not lie below that of {NAMES[above]}"
            result.append(Finding("order", sentence, (NAMES[above], NAMES[below])))
    return result


def _sizes(masks: dict[int, _Piece]) -> list[Finding]:
    """Compare whole vertebrae with the table, at the patient's own size: the median of at least four."""
    ratios = {row: m.volume_ml / VOLUME_ML[NAMES[row]] for row, m in masks.items() if not m.cut and m.volume_ml > 0}
    if len(ratios) < 4:
        return []
    usual = float(np.median(list(ratios.values())))
    result = []
    for row, ratio in ratios.items():
        if not 1 / SIZE_FACTOR < ratio / usual < SIZE_FACTOR:
            sentence = f"has {ratio / usual:.1f} times the volume expected from the other vertebrae"
            result.append(_about("size", row, sentence))
    return result


def _spacings(rows: list[int], landmarks_mm: np.ndarray) -> list[Finding]:
    """Compare distances of neighbors with the table, at the patient's own scale."""
    pairs, ratios, spreads = [], [], []
    for above, below in pairwise(rows):
        level, after = ROWS_BY_LEVEL.index(above), ROWS_BY_LEVEL.index(below)
        if after - level == 1 or (level, after) == (T12, L1):
            mean_mm, sd_mm = SPACING_MM[level if level <= T12 else level - 1]
            pairs.append((above, below))
            ratios.append(np.log(np.linalg.norm(landmarks_mm[below] - landmarks_mm[above]) / mean_mm))
            spreads.append(np.hypot(sd_mm, np.sqrt(2) * Weights.position_sd_mm) / mean_mm)
    scale = np.clip(np.median(ratios), -2 * Weights.scale_sd, 2 * Weights.scale_sd) if pairs else 0.0
    result = []
    for (above, below), ratio, spread in zip(pairs, ratios, spreads, strict=True):
        if abs(ratio - scale) > SPACING_UNITS * spread or ratio - scale > np.log(GAP):
            distance_mm = np.linalg.norm(landmarks_mm[below] - landmarks_mm[above])
            sentence = f"{NAMES[above]} and {NAMES[below]} are {distance_mm:.0f} mm apart"
            sentence += f", expected about {distance_mm * np.exp(scale - ratio):.0f} mm"
            result.append(Finding("spacing", sentence, (NAMES[above], NAMES[below])))
    return result
