"""Which vertebra is which, decided for the whole spine at once, with a probability and the next-best answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from . import chain, sequences
from .candidates import Candidates, find_candidates, no_candidates
from .chain import Weights
from .findings import Finding
from .labels import LABELS, NAMES, ROWS_BY_LEVEL
from .landmarks import absent
from .numbering import Numbering, OpenEnd, decide, open_ends
from .sequences import Solution, Step
from .spaces import Grid

DOUBTFUL = 0.1  # a shifted chain of this probability is worth a warning ...
DOUBTFUL_UNANCHORED = 0.03  # ... and of this one where no end of the spine is in view: networks shift whole chains


@dataclass(frozen=True)
class Vertebra:
    """One vertebra.

    Attributes:
        row: landmark row.
        name: such as `"T4"`.
        label: VerSe label.
        position_mm: `(3,)` RAS+ mm.
        score: how sure the network is that a body is here, 0 to 1.
        probability: of this level here, over all labellings.
        runner_up: name of the next most probable level here.
        runner_up_probability: its probability.
        candidate: index of the candidate it is.
    """

    row: int
    name: str
    label: int
    position_mm: np.ndarray
    score: float
    probability: float
    runner_up: str
    runner_up_probability: float
    candidate: int


@dataclass(frozen=True)
class Alternative:
    """Another labelling that gives at least one vertebra another level.

    Attributes:
        names: one per vertebra of the chosen labelling; `""` where this one leaves it out.
        landmarks_mm: `(26, 3)` RAS+ mm, NaN row = absent.
        margin: how much lower its score is, in natural logarithms before the temperature.
        probability: mean over the vertebrae it renames of the probability of the new name.
    """

    names: tuple[str, ...]
    landmarks_mm: np.ndarray
    margin: float
    probability: float


@dataclass(frozen=True)
class Labelling:
    """The chosen labelling, head to foot.

    Attributes:
        vertebrae: empty if no vertebra was found.
        landmarks_mm: `(26, 3)` RAS+ mm, NaN row = absent.
        alternatives: most likely first; the first is the exact runner-up.
        numbering: how the count was decided.
        warnings: what the user should look at.
        candidates: all that were found, chosen or not: what it takes to decide again.
        pinned: names given by hand.
        open_ends: where the chain ends although the scan goes on.
    """

    vertebrae: tuple[Vertebra, ...] = ()
    landmarks_mm: np.ndarray = field(default_factory=absent)
    alternatives: tuple[Alternative, ...] = ()
    numbering: Numbering = field(default_factory=Numbering)
    warnings: tuple[Finding, ...] = (Finding("no_vertebra", "no vertebra found"),)
    candidates: Candidates = field(default_factory=no_candidates)
    pinned: tuple[str, ...] = ()
    open_ends: tuple[OpenEnd, ...] = ()


def label_spine(
    heatmaps: np.ndarray, affine: np.ndarray, weights: Weights | None = None, *, scan: Grid | None = None
) -> Labelling:
    """Find and name the vertebrae in `(25, I, J, K)` heatmaps in [0, 1].

    Args:
        heatmaps: on any grid, which may reach beyond the scan.
        affine: `(4, 4)`, their voxel index to RAS+ mm.
        weights: of the parts of the score.
        scan: what the scanner saw; None = all the heatmaps cover.
    """
    return solve(replace(find_candidates(heatmaps, affine), scan=scan), weights)


def solve(
    candidates: Candidates,
    weights: Weights | None = None,
    *,
    alternatives: int = 3,
    pins: Mapping[int, int] | None = None,
) -> Labelling:
    """Name the candidates; see `chain` for the score.

    Args:
        candidates: what to choose from.
        weights: of the parts of the score.
        alternatives: how many other labellings to return at most.
        pins: level (position in `ROWS_BY_LEVEL`) by index of the candidates that are named by hand.

    Raises:
        ValueError: no labelling agrees with the pins.
    """
    if len(candidates) == 0:
        return Labelling(candidates=candidates)
    problem = chain.build(candidates, weights or Weights(), pins)
    solution = sequences.solve(problem)
    if not solution.steps:
        if pins:
            names = ", ".join(NAMES[ROWS_BY_LEVEL[level]] for level in sorted(pins.values()))
            raise ValueError(f"no ordered labelling has {names} where they were put")
        return Labelling(candidates=candidates)
    vertebrae = tuple(_vertebra(step, candidates, solution.posterior.states) for step in solution.steps)
    numbering, ends = decide(problem, solution), tuple(open_ends(candidates, solution))
    return Labelling(
        vertebrae,
        _landmarks(solution.steps, candidates),
        tuple(_alternatives(problem, solution, candidates, alternatives)),
        numbering,
        tuple(_warnings(solution, vertebrae, numbering, ends)),
        candidates,
        tuple(vertebra.name for vertebra in vertebrae if vertebra.candidate in problem.pins),
        ends,
    )


def _row(step: Step) -> int:
    return ROWS_BY_LEVEL[step.level]


def _landmarks(steps: tuple[Step, ...], candidates: Candidates) -> np.ndarray:
    landmarks_mm = absent()
    for step in steps:
        landmarks_mm[_row(step)] = candidates.positions_mm[step.candidate]
    return landmarks_mm


def _vertebra(step: Step, candidates: Candidates, posterior: np.ndarray) -> Vertebra:
    chances = posterior[:, step.candidate].copy()
    probability = float(chances[step.level])
    chances[step.level] = -1.0
    second = int(chances.argmax())
    row = _row(step)
    return Vertebra(
        row=row,
        name=NAMES[row],
        label=LABELS[row],
        position_mm=candidates.positions_mm[step.candidate],
        score=float(candidates.scores[step.candidate]),
        probability=probability,
        runner_up=NAMES[ROWS_BY_LEVEL[second]],
        runner_up_probability=max(float(chances[second]), 0.0),
        candidate=step.candidate,
    )


def _alternatives(problem: chain.Problem, solution: Solution, candidates: Candidates, count: int) -> list[Alternative]:
    """Return the best sequences that rename a chosen vertebra, best first, each set of names once."""
    chosen = {step.candidate: step.level for step in solution.steps}
    through = solution.best_through.max(axis=1)  # (26, N)
    for candidate in range(len(candidates)):
        through[chosen.get(candidate, slice(None)), candidate] = -np.inf  # unchosen: no level of it counts
    result: dict[tuple[str, ...], Alternative] = {}
    known: dict[Step, float] = {}  # states of the sequences found, and their scores
    for flat in np.argsort(-through, axis=None, kind="stable"):
        level, candidate = (int(i) for i in np.unravel_index(flat, through.shape))
        score = float(through[level, candidate])
        if len(result) == count or not np.isfinite(score):
            break
        if np.isclose(known.get(Step(candidate, level), np.inf), score):
            continue  # the best sequence through this state is one of those found
        scale = int(solution.best_through[level, :, candidate].argmax())
        steps = tuple(sequences.trace(problem, solution.down, solution.up, (level, scale, candidate)))
        known |= {step: score for step in steps if np.isclose(through[step.level, step.candidate], score)}
        alternative = _alternative(steps, chosen, solution, score, candidates)
        result.setdefault(alternative.names, alternative)
    return list(result.values())


def _alternative(
    steps: tuple[Step, ...], chosen: dict[int, int], solution: Solution, score: float, candidates: Candidates
) -> Alternative:
    renamed = {step.candidate: step for step in steps}
    names = tuple(NAMES[_row(renamed[c])] if c in renamed else "" for c in chosen)
    new = [step for step in steps if chosen.get(step.candidate, step.level) != step.level]
    chances = [solution.posterior.states[step.level, step.candidate] for step in new]
    return Alternative(names, _landmarks(steps, candidates), solution.score - score, float(np.mean(chances)))


def _warnings(
    solution: Solution, vertebrae: tuple[Vertebra, ...], numbering: Numbering, ends: tuple[OpenEnd, ...]
) -> list[Finding]:
    """Return what the user should look at."""
    result = []
    shift = max(numbering.shift_probabilities)
    if shift > (DOUBTFUL if numbering.anchors else DOUBTFUL_UNANCHORED):
        where = "" if numbering.anchors else "no anchor in view: "
        result.append(Finding("off_by_one", f"{where}labels may be off by one (probability {shift:.2f})"))
    for step, after, above, below in zip(solution.steps, solution.steps[1:], vertebrae, vertebrae[1:], strict=False):
        missing = [level for level in range(step.level + 1, after.level) if level != chain.T13]
        if chain.T12 in missing and solution.without_t12:
            missing.remove(chain.T12)
            sentence = f"T12 seems to be absent: {below.name} follows {above.name}"
            result.append(Finding("no_t12", sentence, (above.name, below.name)))
        names = tuple(NAMES[ROWS_BY_LEVEL[level]] for level in missing)
        if names:
            result.append(
                Finding("not_found", f"{', '.join(names)} not found between {above.name} and {below.name}", names)
            )
    for vertebra in vertebrae:
        if vertebra.name in ("T13", "L6"):
            sentence = f"{vertebra.name} found (probability {vertebra.probability:.2f})"
            result.append(Finding(vertebra.name.lower(), sentence, (vertebra.name,)))
    for end in ends:
        found, why = ("nothing found", "it should be in view") if end.searched else ("not searched", "the scan goes on")
        sentence = f"{found} {end.side} {end.name}, although {why}"
        result.append(Finding("end_not_found", sentence, (end.name,)))
    return result
