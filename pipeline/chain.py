"""What a labelling of candidates is worth: every term of its score, tabulated for `sequences`.

A state is (candidate, level); `level` is the position in `labels.ROWS_BY_LEVEL`, head to foot. A labelling is a
sequence of states that goes down the body and rises in level. Its score is a sum of logarithms: what the network
says of each chosen candidate, how well each distance fits the pair of levels at the patient's scale, a cost for each
vertebra skipped or unseen, a prior for each anomaly. Choosing nothing at all scores 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .candidates import Candidates
from .labels import L1_ROW, NUM_CHANNELS, NUM_ROWS, ROWS_BY_LEVEL, T1_ROW, T12_ROW, T13_ROW, channel_of_row

T1, T12, T13, L1 = (ROWS_BY_LEVEL.index(row) for row in (T1_ROW, T12_ROW, T13_ROW, L1_ROW))
T11, L5, L6 = T12 - 1, NUM_ROWS - 2, NUM_ROWS - 1

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
WAYS_DOWN = np.stack([DOWN, [0.0, 0.0, -1.0]])  # a spine that ends may have gone on either way
BEYOND = 1.5  # the next vertebra would be whole in view if so many distances beyond an end are


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
        end: multiplies the log-odds of a doubtful first or last candidate, unless the spine itself ends there: bodies
            that are not there lie beyond an end more often than between two others.
        unseen: cost of a first or last candidate beyond which the next vertebra would be in view.
        passed: multiplies by how much the log-odds of a candidate midway between two chosen ones exceeds
            `passed_odds`: bodies that are not there seldom lie just where one is expected.
        passed_odds: see there.
        skip: cost of each vertebra between two chosen ones that has no candidate.
        max_skip: no more than this many in one gap.
        scale_sd: spread of the logarithm of the patient's scale.
        t13: log-odds of a thirteenth thoracic vertebra.
        no_t12: log-odds of only eleven thoracic vertebrae.
        l6: log-odds of a sixth lumbar vertebra.
        l6_odds: an L6 is a doubtful end below this log-odds of its score: few spines go on there.
        temperature: divides the score before it becomes a probability; above 1 = less sure.

    The defaults were chosen with `benchmarks/labelling.py` on every second patient of its table, and checked against
    the network's own candidates with `benchmarks/tune_labelling.py`; those of ends, of bodies passed over and of
    unusual counts on all of both.
    """

    evidence: float = 0.7
    floor: float = 0.05
    presence: float = 3.0
    score: float = 2.0
    distance: float = 1.0
    position_sd_mm: float = 2.5
    tail: float = 2.5
    end: float = 2.0
    unseen: float = 1.0
    passed: float = 3.0
    passed_odds: float = 1.0
    skip: float = 3.0
    max_skip: int = 6
    scale_sd: float = 0.08
    t13: float = -2.5
    no_t12: float = -1.5
    l6: float = -1.0
    l6_odds: float = 1.4
    temperature: float = 1.2


@dataclass(frozen=True)
class Problem:
    """Scores of all states and transitions for 26 levels, `S` patient scales and `N` candidates.

    Attributes:
        candidates: as given.
        weights: as given.
        scale_prior: `(S,)`.
        nodes: `(26, N)` gain of a candidate at a level, against leaving it out.
        edges: `(26, K, S, N, N)`: `[level, k - 1, :, i, j]` from candidate i at `level - k` to candidate j at `level`.
        without_t12: like `edges`, bool: the pair fits best if the spine between them has no T12.
        starts, ends: `(26, N)` gain, 0 or less, of beginning and ending with a candidate; -inf if a pin forbids it.
        pins: level of every candidate that is fixed by hand.
    """

    candidates: Candidates
    weights: Weights
    scale_prior: np.ndarray
    nodes: np.ndarray
    edges: np.ndarray
    without_t12: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    pins: Mapping[int, int]


def build(candidates: Candidates, weights: Weights, pins: Mapping[int, int] | None = None) -> Problem:
    """Tabulate every term of the score; `pins` fixes the level of some candidates (index: level)."""
    count = len(candidates)
    log_scales = np.linspace(-2.5, 2.5, 5) * weights.scale_sd
    offsets_mm = candidates.positions_mm[None] - candidates.positions_mm[:, None]
    distance_mm = np.linalg.norm(offsets_mm, axis=-1)
    pairs = np.flatnonzero(offsets_mm @ DOWN > 0.1 * distance_mm)  # of N * N
    level, step, normal, without = transitions(distance_mm.flat[pairs], log_scales[:, None], weights)
    shape = (NUM_ROWS, weights.max_skip + 2, len(log_scales), count * count)
    edges, without_t12 = np.full(shape, -np.inf), np.zeros(shape, dtype=bool)
    score, lacking = np.maximum(normal, without), without > normal
    score -= _passed(candidates, distance_mm, weights).flat[pairs]
    for index, at in enumerate(zip(level, step - 1, strict=True)):
        edges[at][:, pairs] = score[index]
        if lacking[index].any():
            without_t12[at][:, pairs] = lacking[index]
    full = (*shape[:3], count, count)
    scale_prior = -0.5 * (log_scales / weights.scale_sd) ** 2
    starts, ends = _terminals(candidates, weights)
    problem = Problem(candidates, weights, scale_prior, _nodes(candidates, weights), edges.reshape(full),
                      without_t12.reshape(full), starts, ends, {})  # fmt: skip
    return _pinned(problem, pins) if pins else problem


def _pinned(problem: Problem, pins: Mapping[int, int]) -> Problem:
    """Return the problem whose every sequence gives the pinned candidates their levels."""
    nodes, edges, starts, ends = (a.copy() for a in (problem.nodes, problem.edges, problem.starts, problem.ends))
    for candidate, level in pins.items():
        gain = nodes[level, candidate]
        nodes[level], nodes[:, candidate] = -np.inf, -np.inf
        nodes[level, candidate] = gain
        starts[level + 1 :], ends[:level] = -np.inf, -np.inf
        for after in range(level + 1, NUM_ROWS):
            edges[after, after - level :] = -np.inf  # none passes over a pinned level
    return replace(problem, nodes=nodes, edges=edges, starts=starts, ends=ends, pins=dict(pins))


def _log_odds(candidates: Candidates) -> np.ndarray:
    """Return `(N,)` of a body being at a candidate, as far as its score tells."""
    chance = np.clip(candidates.scores, 0.02, 0.98)
    return np.log(chance / (1 - chance))


def _terminals(candidates: Candidates, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the gain, 0 or less, of beginning and ending with a candidate: `(26, N)` each."""
    log_odds = _log_odds(candidates)
    doubt = weights.end * np.minimum(log_odds, 0.0)
    starts = np.tile(doubt, (NUM_ROWS, 1))
    ends = starts.copy()
    starts[1:] -= weights.unseen * np.stack([_room(candidates, -next_mm(level - 1)) for level in range(1, NUM_ROWS)])
    ends[:L5] -= weights.unseen * np.stack([_room(candidates, next_mm(level)) for level in range(L5)])
    starts[0], ends[L5] = 0.0, 0.0
    ends[L6] = weights.end * np.minimum(log_odds - weights.l6_odds, 0.0)
    return starts, ends


def _room(candidates: Candidates, distance_mm: float) -> np.ndarray:
    """Return `(N,)`: whether the next vertebra, so far below each candidate (above: negative), would be in view."""
    points_mm = candidates.positions_mm[:, None] + BEYOND * distance_mm * WAYS_DOWN
    return np.asarray(candidates.in_view(points_mm).all(axis=1))


def next_mm(level: int) -> float:
    """Return the mean distance from a level to the next lower one; from L6, that to it."""
    return float(SPACING_MM[min(level if level <= T12 else level - 1, len(SPACING_MM) - 1), 0])


def _passed(candidates: Candidates, distance_mm: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the cost of going from one candidate to another past those between them: `(N, N)`."""
    sure = weights.passed * np.maximum(_log_odds(candidates) - weights.passed_odds, 0.0)
    to, onward, whole = distance_mm[:, :, None], distance_mm[None], distance_mm[:, None]  # (from, past, to)
    midway = (to + onward < 1.02 * whole) & (np.minimum(to, onward) > 0.4 * whole)
    return midway.swapaxes(1, 2) @ sure


def _nodes(candidates: Candidates, weights: Weights) -> np.ndarray:
    """Return the `(26, N)` gain of calling a candidate a level, against leaving it out."""
    log_evidence = np.log((1 - weights.floor) * candidates.evidence + weights.floor / NUM_CHANNELS)
    gain = weights.presence + weights.score * _log_odds(candidates)
    nodes = gain + weights.evidence * log_evidence[:, [channel_of_row(row) for row in ROWS_BY_LEVEL]].T
    nodes[T13] += weights.t13
    nodes[L6] += weights.l6
    return nodes


def transitions(
    distance_mm: np.ndarray, log_scale: np.ndarray, weights: Weights
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the score of two levels following each other at a distance, if there is a T12 and if there is none.

    Args:
        distance_mm: any shape.
        log_scale: broadcasts with it.
        weights: decide how many vertebrae may be missing between the two.

    Returns:
        For all `V` possible pairs of levels: the lower level `(V,)`, how many levels it is below the upper one `(V,)`,
        and twice `(V, ...)` the score; -inf in the second where the pair does not pass over T12.
    """
    level, step, mean_mm, sd_mm, missed = _pairs(weights.max_skip)
    log_distance = np.log(np.maximum(distance_mm, 1.0)) - log_scale
    column = (-1, *[1] * log_distance.ndim)
    normal = _fit(log_distance, mean_mm.reshape(column), sd_mm.reshape(column), weights)
    normal -= (weights.skip * missed).reshape(column)
    without_t12 = np.full_like(normal, -np.inf)
    over = (level >= L1) & (level - step <= T11)
    shorter_mm = np.maximum(mean_mm[over] - SPACING_MM[T11, 0], 1.0)
    without_t12[over] = _fit(log_distance, shorter_mm.reshape(column), sd_mm[over].reshape(column), weights)
    without_t12[over] += (weights.no_t12 - weights.skip * (missed[over] - 1)).reshape(column)
    return level, step, normal, without_t12


@cache
def _pairs(max_skip: int) -> tuple[np.ndarray, ...]:
    """Return lower level, levels between, mean and standard deviation in mm and vertebrae missed, each `(V,)`."""
    result = []
    for level in range(NUM_ROWS):
        for step in range(1, min(max_skip + 2, level) + 1):
            previous = level - step
            gaps = [g for g in range(previous, level) if not (g == T13 and previous < T13 < level)]
            table = SPACING_MM[[g if g <= T12 else g - 1 for g in gaps]]  # gap g: level g to the next
            if len(gaps) - 1 <= max_skip:
                result.append((level, step, table[:, 0].sum(), np.hypot.reduce(table[:, 1]), len(gaps) - 1))
    return tuple(np.array(column) for column in zip(*result, strict=True))


def _fit(log_distance: np.ndarray, mean_mm: np.ndarray, sd_mm: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the log-density (0 at best) of distances: log-normal with a heavy tail."""
    spread = np.hypot(sd_mm, np.sqrt(2) * weights.position_sd_mm) / mean_mm
    units = (log_distance - np.log(mean_mm)) / spread
    return -weights.distance * weights.tail * np.log1p(units**2 / (2 * weights.tail))
