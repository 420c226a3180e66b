"""Which vertebra is which, decided for the whole spine at once, with a probability and the next-best answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import chain, sequences
from .candidates import Candidates, find_candidates
from .chain import Weights
from .labels import LABELS, NAMES, ROWS_BY_LEVEL
from .landmarks import absent
from .sequences import Solution, Step

SURE = 0.9  # an anchor's probability
DOUBTFUL = 0.1  # a shifted chain of this probability is worth a warning ...
DOUBTFUL_UNANCHORED = 0.03  # ... and of this one where no end of the spine is in view: networks shift whole chains
BELOW_MM = 45.0  # more room than the next body would need


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
    """

    row: int
    name: str
    label: int
    position_mm: np.ndarray
    score: float
    probability: float
    runner_up: str
    runner_up_probability: float


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
        shift_probabilities: of all vertebrae really being one level nearer the head, and one nearer the sacrum.
        anchors: what fixes the count: `"head"` (C1 or C2 is sure), `"sacrum"` (L5 or L6 is, and nothing below it).
        warnings: sentences for the user.
    """

    vertebrae: tuple[Vertebra, ...] = ()
    landmarks_mm: np.ndarray = field(default_factory=absent)
    alternatives: tuple[Alternative, ...] = ()
    shift_probabilities: tuple[float, float] = (0.0, 0.0)
    anchors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ("no vertebra found",)


def label_spine(heatmaps: np.ndarray, affine: np.ndarray, weights: Weights | None = None) -> Labelling:
    """Find and name the vertebrae in `(25, I, J, K)` heatmaps in [0, 1]; `affine` maps voxel index to RAS+ mm."""
    return solve(find_candidates(heatmaps, affine), weights)


def solve(candidates: Candidates, weights: Weights | None = None, *, alternatives: int = 3) -> Labelling:
    """Name the candidates; see `chain` for the score."""
    weights = weights or Weights()
    if len(candidates) == 0:
        return Labelling()
    problem = chain.build(candidates, weights)
    solution = sequences.solve(problem)
    if not solution.steps:
        return Labelling()
    vertebrae = tuple(_vertebra(step, candidates, solution.posterior) for step in solution.steps)
    shifts = _shift_probabilities(solution)
    anchors = _anchors(vertebrae, candidates.field_of_view_mm)
    others = tuple(_alternatives(problem, solution, candidates, alternatives))
    return Labelling(
        vertebrae,
        _landmarks(solution.steps, candidates),
        others,
        shifts,
        anchors,
        tuple(_warnings(solution, vertebrae, max(shifts), anchors)),
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
        runner_up_probability=float(chances[second]),
    )


def _shift_probabilities(solution: Solution) -> tuple[float, float]:
    """Return the mean probability of the chosen vertebrae for the level above and the level below theirs."""
    result = []
    for shift in (-1, 1):
        levels = [_neighbor(step.level, shift) for step in solution.steps]
        values = [
            0.0 if level is None else solution.posterior[level, step.candidate]
            for level, step in zip(levels, solution.steps, strict=True)
        ]
        result.append(float(np.mean(values)))
    return result[0], result[1]


def _neighbor(level: int, shift: int) -> int | None:
    """Return the level one up (-1) or down (+1), T13 passed over; None beyond the ends."""
    level += shift
    if level == chain.T13:
        level += shift
    return level if 0 <= level < len(ROWS_BY_LEVEL) else None


def _alternatives(problem: chain.Problem, solution: Solution, candidates: Candidates, count: int) -> list[Alternative]:
    """Return the best sequences that rename a chosen vertebra, best first, each set of names once."""
    chosen = {step.candidate: step.level for step in solution.steps}
    through = solution.best_through.copy()
    for candidate in range(len(candidates)):
        through[chosen.get(candidate, slice(None)), :, candidate] = -np.inf  # unchosen: no level of it counts
    result: dict[tuple[str, ...], Alternative] = {}
    for flat in np.argsort(-through, axis=None, kind="stable"):
        level, scale, candidate = (int(i) for i in np.unravel_index(flat, through.shape))
        if len(result) == count or not np.isfinite(through[level, scale, candidate]):
            break
        steps = tuple(sequences.trace(problem, solution.down, solution.up, (level, scale, candidate)))
        renamed = {step.candidate: step for step in steps}
        names = tuple(NAMES[_row(renamed[c])] if c in renamed else "" for c in chosen)
        new = [step for step in steps if chosen.get(step.candidate, step.level) != step.level]
        chances = [solution.posterior[step.level, step.candidate] for step in new]
        margin = solution.score - float(through[level, scale, candidate])
        result.setdefault(names, Alternative(names, _landmarks(steps, candidates), margin, float(np.mean(chances))))
    return list(result.values())


def _anchors(vertebrae: tuple[Vertebra, ...], field_of_view_mm: np.ndarray | None) -> tuple[str, ...]:
    """Return the ends of the spine that are in view and named with certainty."""
    first, last = vertebrae[0], vertebrae[-1]
    found = ["head"] if first.name in ("C1", "C2") and first.probability > SURE else []
    room_mm = 0.0 if field_of_view_mm is None else last.position_mm[2] - field_of_view_mm[0, 2]
    if last.name in ("L5", "L6") and last.probability > SURE and room_mm > BELOW_MM:
        found.append("sacrum")
    return tuple(found)


def _warnings(solution: Solution, vertebrae: tuple[Vertebra, ...], shift: float, anchors: tuple[str, ...]) -> list[str]:
    """Return what the user should look at."""
    result = []
    if shift > (DOUBTFUL if anchors else DOUBTFUL_UNANCHORED):
        where = "" if anchors else "no anchor in view: "
        result.append(f"{where}labels may be off by one (probability {shift:.2f})")
    for step, after, above, below in zip(solution.steps, solution.steps[1:], vertebrae, vertebrae[1:], strict=False):
        missing = [level for level in range(step.level + 1, after.level) if level != chain.T13]
        if chain.T12 in missing and solution.without_t12:
            missing.remove(chain.T12)
            result.append(f"T12 seems to be absent: {below.name} follows {above.name}")
        if missing:
            names = ", ".join(NAMES[ROWS_BY_LEVEL[level]] for level in missing)
            result.append(f"{names} not found between {above.name} and {below.name}")
    for vertebra in vertebrae:
        if vertebra.name in ("T13", "L6"):
            result.append(f"{vertebra.name} found (probability {vertebra.probability:.2f})")
    return result
