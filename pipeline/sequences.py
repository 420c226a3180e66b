"""The best labelling, the best ones that differ, and the probability of each: exact dynamic programming.

All sweeps carry one value per (level, patient scale, candidate) over the terms tabulated by `chain`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .chain import Problem, Weights, transitions
from .labels import NUM_ROWS


@dataclass(frozen=True)
class Step:
    """One chosen vertebra: the candidate's index and its level (position in `ROWS_BY_LEVEL`)."""

    candidate: int
    level: int


Reduce = Callable[[np.ndarray], np.ndarray]


def best(values: np.ndarray) -> np.ndarray:
    """Return the maximum over the first axis."""
    return values.max(axis=0)


def total(values: np.ndarray) -> np.ndarray:
    """Return the logarithm of the summed exponentials over the first axis; -inf stays -inf."""
    peak = values.max(axis=0)
    safe = np.where(np.isfinite(peak), peak, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - safe).sum(axis=0)) + safe


def sweep_down(problem: Problem, reduce: Reduce) -> np.ndarray:
    """Return `(26, S, N)`: the score of all sequences that end in a state, the state included."""
    result = _empty(problem)
    for level in range(NUM_ROWS):
        options = result[_before(problem, level)][..., None] + _arriving(problem, level)  # (P, S, from, to)
        starts = np.zeros((1, *result.shape[1:]))
        result[level] = problem.nodes[level] + reduce(np.concatenate([starts, _flat(options.swapaxes(1, 2))]))
    return result


def sweep_up(problem: Problem, reduce: Reduce) -> np.ndarray:
    """Return `(26, S, N)`: the score of all continuations of a state, the state excluded; 0 = it may end there."""
    result = _empty(problem)
    for level in reversed(range(NUM_ROWS)):
        after = _after(problem, level)
        below = problem.nodes[after][:, None] + result[after]  # (P, S, to)
        options = problem.edges[after, after - level - 1] + below[:, :, None]  # (P, S, from, to)
        ends = np.zeros((1, *result.shape[1:]))
        result[level] = reduce(np.concatenate([ends, _flat(np.moveaxis(options, 3, 1))]))
    return result


def _empty(problem: Problem) -> np.ndarray:
    return np.full((NUM_ROWS, len(problem.scale_prior), problem.nodes.shape[1]), -np.inf)


def _flat(options: np.ndarray) -> np.ndarray:
    """Return `(P, N, ...)` as `(P * N, ...)`."""
    return options.reshape(-1, *options.shape[2:])


def _before(problem: Problem, level: int) -> np.ndarray:
    """Return the levels a level can follow, nearest first."""
    return np.arange(level - 1, max(level - problem.edges.shape[1], 0) - 1, -1)


def _after(problem: Problem, level: int) -> np.ndarray:
    """Return the levels that can follow a level, nearest first."""
    return np.arange(level + 1, min(level + problem.edges.shape[1], NUM_ROWS - 1) + 1)


def _arriving(problem: Problem, level: int) -> np.ndarray:
    """Return `(P, S, N, N)`: the edges into a level from each level of `_before`."""
    return problem.edges[level, : len(_before(problem, level))]


def trace(problem: Problem, down: np.ndarray, up: np.ndarray, through: tuple[int, int, int]) -> list[Step]:
    """Return the best sequence through a state `(level, scale, candidate)`, head to foot, from two `best` sweeps."""
    level, scale, candidate = through
    head: list[Step] = []
    while True:
        head.append(Step(candidate, level))
        before = _before(problem, level)
        options = down[before, scale] + _arriving(problem, level)[:, scale, :, candidate]  # (P, from)
        if options.max(initial=0.0) <= 0:
            break
        index, candidate = (int(i) for i in np.unravel_index(options.argmax(), options.shape))
        level = int(before[index])
    return head[::-1] + _trace_down(problem, up, through)


def _trace_down(problem: Problem, up: np.ndarray, through: tuple[int, int, int]) -> list[Step]:
    """Return the best continuation below a state, the state excluded."""
    level, scale, candidate = through
    tail: list[Step] = []
    while up[level, scale, candidate] > 0:
        after = _after(problem, level)
        edges = problem.edges[after, after - level - 1, scale, candidate]  # (P, to)
        options = edges + problem.nodes[after] + up[after, scale]
        index, candidate = (int(i) for i in np.unravel_index(options.argmax(), options.shape))
        level = int(after[index])
        tail.append(Step(candidate, level))
    return tail


@dataclass(frozen=True)
class Solution:
    """The best sequence and what is needed to ask for others.

    Attributes:
        steps: head to foot; empty if choosing nothing scores best.
        score: of the best sequence.
        posterior: `(26, N)` probability of a candidate having a level, over all sequences and scales.
        best_through: `(26, S, N)` score of the best sequence through each state.
        down, up: the two `best` sweeps.
        without_t12: whether the sequence passes over T12 because the spine has none.
    """

    steps: tuple[Step, ...]
    score: float
    posterior: np.ndarray
    best_through: np.ndarray
    down: np.ndarray
    up: np.ndarray
    without_t12: bool


def solve(problem: Problem) -> Solution:
    """Return the best sequence and the probability of every state."""
    down, up = sweep_down(problem, best), sweep_up(problem, best)
    best_through = down + up + problem.scale_prior[:, None]
    level, scale, candidate = (int(i) for i in np.unravel_index(best_through.argmax(), best_through.shape))
    score = float(best_through.max())
    steps = tuple(trace(problem, down, up, (level, scale, candidate))) if score > 0 else ()
    lacking = _lacks_t12(steps, problem.candidates.positions_mm, problem.log_scales[scale], problem.weights)
    return Solution(steps, score, posterior(problem), best_through, down, up, lacking)


def posterior(problem: Problem) -> np.ndarray:
    """Return `(26, N)`: share of all sequences, weighted by score, in which a candidate has a level."""
    temperature = problem.weights.temperature
    warm = replace(
        problem,
        nodes=problem.nodes / temperature,
        edges=problem.edges / temperature,
        scale_prior=problem.scale_prior / temperature,
    )
    down = sweep_down(warm, total)
    through = down + sweep_up(warm, total) + warm.scale_prior[:, None]  # (26, S, N)
    ends = (down + warm.scale_prior[:, None]).reshape(-1)  # every sequence ends exactly once
    everything = total(np.concatenate([ends, warm.scale_prior]))  # ... or is empty
    return np.exp(total(np.moveaxis(through, 1, 0)) - everything)


def _lacks_t12(steps: tuple[Step, ...], positions_mm: np.ndarray, log_scale: float, weights: Weights) -> bool:
    """Return whether a sequence passes from T11 or higher to L1 or lower because there is no T12."""
    for step, after in pairwise(steps):
        distance_mm = np.asarray(np.linalg.norm(positions_mm[after.candidate] - positions_mm[step.candidate]))
        normal, without = transitions(distance_mm, np.asarray(log_scale), weights)
        if without[after.level, after.level - step.level - 1] > normal[after.level, after.level - step.level - 1]:
            return True
    return False
