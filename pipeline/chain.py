"""What a labelling of candidates is worth: every term of its score, tabulated for `sequences`.

A state is (candidate, level); `level` is the position in `labels.ROWS_BY_LEVEL`, head to foot. A labelling is a
sequence of states that goes down the body and rises in level. Its score is a sum of logarithms: what the network
says of each chosen candidate, how well each distance fits the pair of levels at the patient's scale, a cost for each
vertebra skipped, a prior for each anomaly. Choosing nothing at all scores 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .candidates import Candidates
from .labels import L1_ROW, NUM_CHANNELS, NUM_ROWS, ROWS_BY_LEVEL, T12_ROW, T13_ROW, channel_of_row

T12, T13, L1 = (ROWS_BY_LEVEL.index(row) for row in (T12_ROW, T13_ROW, L1_ROW))
T11, L6 = T12 - 1, NUM_ROWS - 1

# Distance in mm (mean, standard deviation) from C1, C2 ... L5 to the next center: 68 patients, 750 centroids of the
# VerSe 2019 challenge (C1: whole vertebra, others: body). T12-T13 and T13-L1, not in that set, follow T12-L1.
SPACING_MM = np.array([
    (22.4, 4.1), (18.5, 2.5), (16.6, 2.1), (17.1, 1.9), (15.8, 2.5), (17.2, 2.2), (19.0, 1.9),  # C1-C2 ... C7-T1
    (20.4, 2.0), (20.4, 1.7), (20.8, 1.8), (21.0, 1.9), (21.9, 2.3), (21.8, 2.3),  # T1-T2 ... T6-T7
    (22.8, 2.1), (23.7, 2.3), (25.0, 2.1), (26.5, 2.6), (29.0, 2.3), (30.2, 3.2),  # T7-T8 ... T12-L1
    (32.3, 3.3), (33.7, 3.5), (34.4, 3.6), (32.9, 4.1), (31.6, 4.3),  # L1-L2 ... L5-L6
])  # fmt: skip

# Straight down the body, in RAS. From one center to the next lower one the spine leans between 29 degrees forward
# (lumbar) and 80 degrees backward (neck of a bent back) in the same set, so the middle leans 20 degrees backward.
DOWN = -np.array([0.0, np.sin(np.radians(20.0)), np.cos(np.radians(20.0))])


@dataclass(frozen=True)
class Weights:
    """What each part of a sequence is worth, in natural logarithms unless stated.

    Attributes:
        evidence: multiplies the log-probability of a level; below 1 because neighbors err together.
        floor: share of the probability spread over all levels, so that one wrong vertebra cannot veto a chain.
        presence: gain for using a candidate of score 0.5, hence the cost of calling it false.
        score: multiplies the log-odds of the candidate's score.
        distance: multiplies the distance term.
        position_sd_mm: error of a candidate along the spine, widens the distance term.
        tail: the distance term is quadratic up to about this many units and logarithmic beyond.
        skip: cost of each vertebra between two chosen ones that has no candidate.
        max_skip: no more than this many in one gap.
        scale_sd: spread of the logarithm of the patient's scale.
        t13: log-odds of a thirteenth thoracic vertebra. Harder than its frequency (1 %) says, because the network errs
            over several neighbors at once; likewise `no_t12` and `skip`. Chosen on phantoms with the shipped weights.
        no_t12: log-odds of only eleven thoracic vertebrae (2 %).
        l6: log-odds of a sixth lumbar vertebra (8 %).
        temperature: divides the score before it becomes a probability; above 1 = less sure.

    The other defaults were chosen with `benchmarks/labelling.py` on every second patient of its table.
    """

    evidence: float = 0.7
    floor: float = 0.05
    presence: float = 3.0
    score: float = 2.0
    distance: float = 1.0
    position_sd_mm: float = 2.5
    tail: float = 2.5
    skip: float = 4.0
    max_skip: int = 6
    scale_sd: float = 0.08
    t13: float = -6.0
    no_t12: float = -5.0
    l6: float = -3.0
    temperature: float = 1.2


@dataclass(frozen=True)
class Problem:
    """Scores of all states and transitions for 26 levels, `S` patient scales and `N` candidates.

    Attributes:
        candidates: as given.
        weights: as given.
        log_scales: `(S,)` natural logarithms of the patient's size.
        scale_prior: `(S,)`.
        nodes: `(26, N)` gain of a candidate at a level, against leaving it out.
        edges: `(26, K, S, N, N)`: `[level, k - 1, :, i, j]` from candidate i at `level - k` to candidate j at `level`.
    """

    candidates: Candidates
    weights: Weights
    log_scales: np.ndarray
    scale_prior: np.ndarray
    nodes: np.ndarray
    edges: np.ndarray


def build(candidates: Candidates, weights: Weights) -> Problem:
    """Tabulate every term of the score."""
    log_scales = np.linspace(-2.5, 2.5, 7) * weights.scale_sd
    offsets_mm = candidates.positions_mm[None] - candidates.positions_mm[:, None]
    distance_mm = np.linalg.norm(offsets_mm, axis=-1)
    normal, without_t12 = transitions(distance_mm, log_scales[:, None, None], weights)
    edges = np.where(offsets_mm @ DOWN > 0.1 * distance_mm, np.maximum(normal, without_t12), -np.inf)
    scale_prior = -0.5 * (log_scales / weights.scale_sd) ** 2
    return Problem(candidates, weights, log_scales, scale_prior, _nodes(candidates, weights), edges)


def _nodes(candidates: Candidates, weights: Weights) -> np.ndarray:
    """Return the `(26, N)` gain of calling a candidate a level, against leaving it out."""
    log_evidence = np.log((1 - weights.floor) * candidates.evidence + weights.floor / NUM_CHANNELS)
    odds = np.clip(candidates.scores, 0.02, 0.98)
    gain = weights.presence + weights.score * np.log(odds / (1 - odds))
    nodes = gain + weights.evidence * log_evidence[:, [channel_of_row(row) for row in ROWS_BY_LEVEL]].T
    nodes[T13] += weights.t13
    nodes[L6] += weights.l6
    return nodes


def transitions(distance_mm: np.ndarray, log_scale: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of two levels following each other at a distance, if there is a T12 and if there is none.

    Args:
        distance_mm: any shape.
        log_scale: broadcasts with it.
        weights: the result's second axis has length `max_skip + 2`.

    Returns:
        Twice `(26, K, ...)`: `[level, k - 1]` from `level - k` to `level`; -inf where there is no such pair, and in
        the second where the pair does not pass over T12.
    """
    mean_mm, sd_mm, missed = _pairs(weights.max_skip + 2)
    shape = (*mean_mm.shape, *[1] * np.broadcast(distance_mm, log_scale).ndim)
    mean_mm, sd_mm, missed = (table.reshape(shape) for table in (mean_mm, sd_mm, missed))
    log_distance = np.log(np.maximum(distance_mm, 1.0)) - log_scale
    possible = np.where(missed <= weights.max_skip, 0.0, -np.inf)
    normal = _fit(log_distance, mean_mm, sd_mm, weights) - weights.skip * missed + possible
    over = np.s_[L1:, :]
    shorter_mm = np.maximum(mean_mm[over] - SPACING_MM[T11, 0], 1.0)
    without_t12 = np.full_like(normal, -np.inf)
    without_t12[over] = _fit(log_distance, shorter_mm, sd_mm[over], weights) - weights.skip * (missed[over] - 1)
    level, step = np.indices(shape[:2])
    without_t12[level - step - 1 > T11] = -np.inf
    return normal, without_t12 + weights.no_t12 + possible


@cache
def _pairs(reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `(26, reach)` mean and standard deviation in mm from `level - k` to `level`, and vertebrae between."""
    mean_mm, sd_mm, missed = np.ones((NUM_ROWS, reach)), np.ones((NUM_ROWS, reach)), np.full((NUM_ROWS, reach), np.inf)
    for level in range(NUM_ROWS):
        for step in range(1, min(reach, level) + 1):
            previous = level - step
            gaps = [g for g in range(previous, level) if not (g == T13 and previous < T13 < level)]
            table = SPACING_MM[[g if g <= T12 else g - 1 for g in gaps]]  # gap g: level g to the next
            mean_mm[level, step - 1] = table[:, 0].sum()
            sd_mm[level, step - 1] = np.hypot.reduce(table[:, 1])
            missed[level, step - 1] = len(gaps) - 1
    return mean_mm, sd_mm, missed


def _fit(log_distance: np.ndarray, mean_mm: np.ndarray, sd_mm: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the log-density (0 at best) of distances: log-normal with a heavy tail."""
    spread = np.hypot(sd_mm, np.sqrt(2) * weights.position_sd_mm) / mean_mm
    units = (log_distance - np.log(mean_mm)) / spread
    return -weights.distance * weights.tail * np.log1p(units**2 / (2 * weights.tail))
