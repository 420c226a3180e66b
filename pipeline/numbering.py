"""How the count was decided: anchors in view, margin to the shifted count, and verdicts on unusual counts.

A chain of vertebrae is named by counting from something known. Three places can tell their level by themselves: the
head (C1, C2), the last rib (between T12 and L1) and the sacrum (below L5). Without one of them in view, or with
evidence that is divided, the count may be off by one; this module says how far off that is, in the solver's units.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .candidates import Candidates
from .chain import L1, L5, L6, T1, T11, T12, T13, WAYS_DOWN, Problem, next_mm
from .labels import NAMES, ROWS_BY_LEVEL
from .sequences import Solution, Step

SURE = 0.9  # probability of an anchor, and of what a verdict calls absent
CLAIMED = {"T13": 2 / 3, "L6": 0.5, "no T12": 0.5}  # of what one calls present; T13 is rare, and an L6 looks alike
BELOW_MM = 45.0  # more room than the next body would need
ANCHORS = {"head": ("C1", "C2"), "last rib": ("T12", "T13", "L1"), "sacrum": ("L5", "L6")}


@dataclass(frozen=True)
class Verdict:
    """Whether a spine has an unusual number of vertebrae.

    Attributes:
        anomaly: `"T13"`, `"L6"` or `"no T12"`.
        verdict: `"present"`, `"absent"` or `"cannot tell"`.
        probability: of its presence, over all labellings.
        reason: what the verdict rests on, or why there is none.
    """

    anomaly: str
    verdict: str
    probability: float
    reason: str


@dataclass(frozen=True)
class OpenEnd:
    """An end of the chain although the scan goes on there.

    Attributes:
        name: of the last vertebra.
        side: `"above"` or `"below"` it.
        beyond_mm: `(3,)` RAS+ mm, twice the distance to the next vertebra beyond it, or once if the scan ends between.
        searched: whether the heatmaps reach that far.
    """

    name: str
    side: str
    beyond_mm: np.ndarray
    searched: bool


@dataclass(frozen=True)
class Numbering:
    """How the count was decided.

    Attributes:
        anchors: `"head"` (C1 or C2 is sure), `"sacrum"` (L5 or L6 is, and nothing below it); only these end the spine.
        decided_by: the anchor whose evidence speaks most for this count, or `"hand"`; `""` = none in view does.
        support: how much the evidence of each anchor in view adds to the margin, in natural logarithms.
        shift_margins: how much lower the score is if every vertebra were one level nearer the head, and one nearer
            the sacrum, in natural logarithms before the temperature; infinite if that is impossible.
        shift_probabilities: of the two shifts, mean over the vertebrae.
        verdicts: one per anomaly.
    """

    anchors: tuple[str, ...] = ()
    decided_by: str = ""
    support: dict[str, float] = field(default_factory=dict)
    shift_margins: tuple[float, float] = (0.0, 0.0)
    shift_probabilities: tuple[float, float] = (0.0, 0.0)
    verdicts: tuple[Verdict, ...] = ()


def decide(problem: Problem, solution: Solution) -> Numbering:
    """Return how the count of a solution with at least one vertebra was decided."""
    steps, posterior = solution.steps, solution.posterior.states
    order = own_levels(solution)
    shifted = [[neighbor(order, step.level, shift) for step in steps] for shift in (-1, 1)]
    lower = (score_of(problem, steps, levels) for levels in shifted)
    margins = [max(solution.score - score, 0.0) for score in lower]
    support = _support(problem, steps, shifted[int(np.argmin(margins))])
    best = "hand" if problem.pins else max(support, key=lambda name: support[name], default="")
    chances = [
        np.mean([0.0 if n is None else posterior[n, s.candidate] for n, s in zip(levels, steps, strict=True)])
        for levels in shifted
    ]
    return Numbering(
        _anchors(solution, problem.candidates),
        best if problem.pins or (best and support[best] > 0) else "",
        support,
        (margins[0], margins[1]),
        (float(chances[0]), float(chances[1])),
        verdicts(problem.candidates, solution),
    )


def own_levels(solution: Solution) -> list[int]:
    """Return the levels of this patient's spine, head to foot: T13 only if it was found, no T12 if it is absent."""
    chosen = {step.level for step in solution.steps}
    without = ({T13} - chosen) | ({T12} if solution.without_t12 else set())
    return [level for level in range(len(ROWS_BY_LEVEL)) if level not in without]


def neighbor(order: list[int], level: int, shift: int) -> int | None:
    """Return the level `shift` places further down a spine; None beyond its ends."""
    place = order.index(level) + shift
    return order[place] if 0 <= place < len(order) else None


def score_of(problem: Problem, steps: tuple[Step, ...], levels: list[int | None]) -> float:
    """Return the score of the same candidates at other levels (None: left out), at the scale that suits it best."""
    kept = [(step.candidate, level) for step, level in zip(steps, levels, strict=True) if level is not None]
    score = problem.scale_prior + sum(problem.nodes[level, candidate] for candidate, level in kept)
    if kept:
        (first, top), (last, bottom) = kept[0], kept[-1]
        score = score + problem.starts[top, first] + problem.ends[bottom, last]
    for (a, level), (b, after) in pairwise(kept):
        if after - level > problem.edges.shape[1]:
            return -np.inf  # shifted over T12 and T13, more is skipped than any sequence may
        score = score + problem.edges[after, after - level - 1, :, a, b]
    return float(score.max())


def _support(problem: Problem, steps: tuple[Step, ...], shifted: list[int | None]) -> dict[str, float]:
    """Return by how much each anchor in view prefers its own levels to the shifted ones."""
    result: dict[str, float] = {}
    for step, level in zip(steps, shifted, strict=True):
        for anchor, names in ANCHORS.items():
            if NAMES[ROWS_BY_LEVEL[step.level]] in names:
                own = problem.nodes[step.level, step.candidate]
                other = 0.0 if level is None else problem.nodes[level, step.candidate]
                if np.isfinite(other):  # a level given by hand supports nothing
                    result[anchor] = result.get(anchor, 0.0) + float(own - other)
    return result


def _anchors(solution: Solution, candidates: Candidates) -> tuple[str, ...]:
    """Return the ends of the spine that are in view and named with certainty."""
    first, last = solution.steps[0], solution.steps[-1]
    sure = [solution.posterior.states[step.level, step.candidate] > SURE for step in (first, last)]
    found = ["head"] if first.level <= 1 and sure[0] else []
    if last.level >= L5 and sure[1] and room_below(candidates, solution):
        found.append("sacrum")
    return tuple(found)


def room_below(candidates: Candidates, solution: Solution) -> bool:
    """Tell whether a further vertebra would be in view below the last one."""
    last_mm = candidates.positions_mm[solution.steps[-1].candidate]
    return bool(candidates.in_view(last_mm + BELOW_MM * WAYS_DOWN).all())


def open_ends(candidates: Candidates, solution: Solution) -> list[OpenEnd]:
    """Return every end of the chain beyond which a whole vertebra should be in the scan, or was not searched for."""
    steps, result = solution.steps, []
    if len(steps) < 2:
        return []
    for end, inner, side in ((steps[0], steps[1], "above"), (steps[-1], steps[-2], "below")):
        if end.level == 0 or end.level >= L5:
            continue
        end_mm, name = candidates.positions_mm[end.candidate], NAMES[ROWS_BY_LEVEL[end.level]]
        way = end_mm - candidates.positions_mm[inner.candidate]
        next_center_mm, beyond_mm = (end_mm + n * way / np.linalg.norm(way) * next_mm(end.level) for n in (1, 2))
        if candidates.in_scan(beyond_mm):
            result.append(OpenEnd(name, side, beyond_mm, bool(candidates.searched(beyond_mm))))
        elif candidates.in_scan(next_center_mm) and not candidates.searched(next_center_mm):
            result.append(OpenEnd(name, side, next_center_mm, searched=False))
    return result


def verdicts(candidates: Candidates, solution: Solution) -> tuple[Verdict, ...]:
    """Return what the solution says of every unusual count, or why it cannot."""
    levels = [step.level for step in solution.steps]
    states = solution.posterior.states
    junction = levels[0] <= T11 and levels[-1] >= L1
    above = "" if levels[0] <= T1 else "T1 is not in view: thoracic vertebrae cannot be counted"
    hidden = "" if junction else "the last rib is not in view: it takes T11 or higher and L1 or lower in one scan"
    if levels[0] > L1:
        below = "L1 is not in view: lumbar vertebrae cannot be counted"
    elif levels[-1] < L5:
        below = "L5 is not in view"
    elif levels[-1] == L5 and not room_below(candidates, solution):
        below = "what follows the last vertebra is not in view"
    else:
        below = ""
    return (
        _verdict("T13", T13 in levels, float(states[T13].sum()), hidden, above),
        _verdict("L6", L6 in levels, float(states[L6].sum()), below),
        _verdict("no T12", solution.without_t12, solution.posterior.without_t12, hidden, above),
    )


def _verdict(anomaly: str, chosen: bool, probability: float, obstacle: str, doubt: str = "") -> Verdict:
    """Return what is said of an anomaly: nothing with an obstacle; with a doubt, never that it is absent."""
    probability = min(probability, 1.0)
    if obstacle:
        return Verdict(anomaly, "cannot tell", probability, obstacle)
    if chosen and probability >= CLAIMED[anomaly]:
        return Verdict(anomaly, "present", probability, "part of the chosen labelling")
    if doubt:
        return Verdict(anomaly, "cannot tell", probability, doubt)
    if not chosen and probability <= 1 - SURE:
        return Verdict(anomaly, "absent", probability, "the region is in view and every vertebra in it was counted")
    return Verdict(anomaly, "cannot tell", probability, "the evidence is divided")
