"""The best labelling, the best ones that differ, and the probability of each: exact dynamic programming.

All sweeps carry one value per (level, patient scale, candidate) over the terms tabulated by `chain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .chain import Problem
from .labels import NUM_ROWS


@dataclass(frozen=True)
class Step:
    """One chosen vertebra: the candidate's index and its level (position in `ROWS_BY_LEVEL`)."""

    candidate: int
    level: int


def sweep_down(problem: Problem) -> np.ndarray:
    """Return `(26, S, N)`: the score of the best sequence that ends in a state, the state included."""
    result = _empty(problem)
    for level in range(NUM_ROWS):
        before = _before(problem, level)
        options = result[before][..., None] + problem.edges[level, : len(before)]  # (P, S, from, to)
        arriving = options.max(axis=(0, 2), initial=-np.inf)
        result[level] = problem.nodes[level] + np.maximum(problem.starts[level], arriving)
    return result


def sweep_up(problem: Problem) -> np.ndarray:
    """Return `(26, S, N)`: the score of the best continuation of a state, the state excluded; 0 = it may end there."""
    result = _empty(problem)
    for level in reversed(range(NUM_ROWS)):
        after = _after(problem, level)
        below = problem.nodes[after][:, None] + result[after]  # (P, S, to)
        options = problem.edges[after, after - level - 1] + below[:, :, None]  # (P, S, from, to)
        result[level] = np.maximum(problem.ends[level], options.max(axis=(0, 3), initial=-np.inf))
    return result


def _empty(problem: Problem) -> np.ndarray:
    return np.full((NUM_ROWS, len(problem.scale_prior), problem.nodes.shape[1]), -np.inf)


def _before(problem: Problem, level: int) -> np.ndarray:
    """Return the levels a level can follow, nearest first."""
    return np.arange(level - 1, max(level - problem.edges.shape[1], 0) - 1, -1)


def _after(problem: Problem, level: int) -> np.ndarray:
    """Return the levels that can follow a level, nearest first."""
    return np.arange(level + 1, min(level + problem.edges.shape[1], NUM_ROWS - 1) + 1)


def trace(problem: Problem, down: np.ndarray, up: np.ndarray, through: tuple[int, int, int]) -> list[Step]:
    """Return the best sequence through a state `(level, scale, candidate)`, head to foot, from the two sweeps."""
    level, scale, candidate = through
    head: list[Step] = []
    while True:
        head.append(Step(candidate, level))
        before = _before(problem, level)
        options = down[before, scale] + problem.edges[level, : len(before), scale, :, candidate]  # (P, from)
        if options.max(initial=-np.inf) <= problem.starts[level, candidate]:
            break
        index, candidate = (int(i) for i in np.unravel_index(options.argmax(), options.shape))
        level = int(before[index])
    return head[::-1] + _trace_down(problem, up, through)


def _trace_down(problem: Problem, up: np.ndarray, through: tuple[int, int, int]) -> list[Step]:
    """Return the best continuation below a state, the state excluded."""
    level, scale, candidate = through
    tail: list[Step] = []
    while up[level, scale, candidate] > problem.ends[level, candidate]:
        after = _after(problem, level)
        edges = problem.edges[after, after - level - 1, scale, candidate]  # (P, to)
        options = edges + problem.nodes[after] + up[after, scale]
        index, candidate = (int(i) for i in np.unravel_index(options.argmax(), options.shape))
        level = int(after[index])
        tail.append(Step(candidate, level))
    return tail


@dataclass(frozen=True)
class Posterior:
    """Probabilities over all sequences and patient scales.

    Attributes:
        states: `(26, N)` of a candidate having a level.
        without_t12: of the spine passing over T12 because it has none.
    """

    states: np.ndarray
    without_t12: float


@dataclass(frozen=True)
class Solution:
    """The best sequence and what is needed to ask for others.

    Attributes:
        steps: head to foot; empty if choosing nothing scores best, or if no sequence agrees with the pins.
        score: of the best sequence.
        posterior: see there.
        best_through: `(26, S, N)` score of the best sequence through each state.
        down, up: the two sweeps.
        without_t12: whether the sequence passes over T12 because the spine has none.
    """

    steps: tuple[Step, ...]
    score: float
    posterior: Posterior
    best_through: np.ndarray
    down: np.ndarray
    up: np.ndarray
    without_t12: bool


def solve(problem: Problem) -> Solution:
    """Return the best sequence and the probability of every state."""
    down, up = sweep_down(problem), sweep_up(problem)
    best_through = down + up + problem.scale_prior[:, None]
    level, scale, candidate = (int(i) for i in np.unravel_index(best_through.argmax(), best_through.shape))
    score = float(best_through.max())
    chosen = np.isfinite(score) if problem.pins else score > 0
    steps = tuple(trace(problem, down, up, (level, scale, candidate))) if chosen else ()
    lacking = any(
        problem.without_t12[b.level, b.level - a.level - 1, scale, a.candidate, b.candidate] for a, b in pairwise(steps)
    )
    return Solution(steps, score, posterior(problem), best_through, down, up, lacking)


def posterior(problem: Problem) -> Posterior:
    """Return the share of all sequences, weighted by score, in which a candidate has a level, or T12 is absent.

    Sums of products of exponentials: scores of whole sequences stay far below the largest float's logarithm, 709.
    """
    temperature = problem.weights.temperature
    nodes, edges = np.exp(problem.nodes / temperature), np.exp(problem.edges / temperature)
    starts, ends, prior = (np.exp(a / temperature) for a in (problem.starts, problem.ends, problem.scale_prior))
    down, up = np.zeros_like(_empty(problem)), np.zeros_like(_empty(problem))
    passing = 0.0
    for level in range(NUM_ROWS):
        before = _before(problem, level)
        arriving = np.einsum("psi,psij->sj", down[before], edges[level, : len(before)], optimize=True)
        down[level] = nodes[level] * (starts[level] + arriving)
    for level in reversed(range(NUM_ROWS)):
        after = _after(problem, level)
        below = nodes[after][:, None] * up[after]  # (P, S, to)
        leaving = edges[after, after - level - 1]  # (P, S, from, to)
        up[level] = ends[level] + np.einsum("psij,psj->si", leaving, below, optimize=True)
        if (lacking := problem.without_t12[after, after - level - 1]).any():
            passing += np.einsum("s,si,psij,psj->", prior, down[level], leaving * lacking, below, optimize=True)
    empty = 0.0 if problem.pins else prior.sum()
    everything = empty + np.einsum("s,lsi,li->", prior, down, ends)  # every sequence ends exactly once
    if everything == 0:
        return Posterior(np.zeros_like(nodes), 0.0)
    return Posterior(np.einsum("s,lsi,lsi->li", prior, down, up) / everything, float(passing / everything))
