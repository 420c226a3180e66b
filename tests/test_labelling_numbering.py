"""Who decided the count, by how much, and what can be said of unusual counts from a field of view."""

import math
from dataclasses import replace

import numpy as np
import pytest
from test_labelling import between, evidence_of, messages, names_of, spine

from pipeline import chain, sequences
from pipeline.labelling import Labelling, Weights, solve
from pipeline.labels import NAMES, ROWS_BY_LEVEL
from pipeline.numbering import _verdict, score_of
from pipeline.spaces import Grid

LEVELS = [NAMES[row] for row in ROWS_BY_LEVEL]


def verdicts_of(labelling: Labelling) -> dict[str, str]:
    return {verdict.anomaly: verdict.verdict for verdict in labelling.numbering.verdicts}


def codes_of(labelling: Labelling) -> set[str]:
    return {finding.code for finding in labelling.warnings}


@pytest.mark.parametrize(
    ("first", "last", "t13", "l6"),
    [
        ("C1", "L5", "absent", "absent"),
        ("T1", "L5", "absent", "absent"),
        ("T1", "L3", "absent", "cannot tell"),  # no sacrum
        ("T2", "L5", "cannot tell", "absent"),  # eleven, twelve or thirteen with ribs
        ("L2", "L5", "cannot tell", "cannot tell"),  # nothing to count from
        ("C2", "T9", "cannot tell", "cannot tell"),
    ],
)
def test_verdict_needs_the_region_in_view(first, last, t13, l6):
    labelling = solve(spine(between(first, last)))
    assert verdicts_of(labelling) == {"T13": t13, "L6": l6, "no T12": t13}
    for verdict in labelling.numbering.verdicts:
        assert verdict.reason
        assert verdict.probability < 0.1


@pytest.mark.parametrize(("first", "thoracic"), [("T1", "absent"), ("T3", "cannot tell")])
@pytest.mark.parametrize("anomaly", ["T13", "L6", "no T12"])
def test_present_anomaly_is_named_and_probable(anomaly, first, thoracic):
    names = between(first, "L5")
    if anomaly == "T13":
        names.insert(names.index("T12") + 1, "T13")
    elif anomaly == "L6":
        names.append("L6")
    else:
        names.remove("T12")
    candidates = spine(names, blur=0.4)
    if anomaly == "no T12":
        candidates.positions_mm[names.index("L1") :, 2] -= 30.2 - 29.0  # T11-L1 is as far as T12-L1
    labelling = solve(candidates)
    assert names_of(labelling) == names
    assert verdicts_of(labelling) == {"T13": thoracic, "L6": "absent", "no T12": thoracic, anomaly: "present"}
    found = next(verdict for verdict in labelling.numbering.verdicts if verdict.anomaly == anomaly)
    assert found.probability > 0.5
    assert {"T13": "t13", "L6": "l6", "no T12": "no_t12"}[anomaly] in codes_of(labelling)


@pytest.mark.parametrize(
    ("anomaly", "probability", "verdict"),
    [("T13", 0.66, "cannot tell"), ("T13", 0.67, "present"), ("L6", 0.49, "cannot tell"), ("L6", 0.5, "present")],
)
def test_a_claim_takes_more_for_a_t13(anomaly, probability, verdict):
    """An L6 looks alike and is four times as frequent."""
    assert _verdict(anomaly, True, probability, obstacle="").verdict == verdict


def test_sixth_lumbar_vertebra_without_the_last_rib_cannot_be_told():
    labelling = solve(spine(["L2", "L3", "L4", "L5", "L6"], blur=0.3))
    assert names_of(labelling)[-1] == "L6"
    assert verdicts_of(labelling)["L6"] == "cannot tell"


@pytest.mark.parametrize(("last", "verdict"), [("L6", "present"), ("L5", "cannot tell")])
def test_a_scan_that_ends_below_the_last_vertebra_shows_a_sixth_but_cannot_exclude_one(last, verdict):
    candidates = spine([*between("T8", "L5"), *(["L6"] if last == "L6" else [])], blur=0.3)
    candidates.field_of_view_mm[0, 2] = candidates.positions_mm[-1, 2] - 20
    labelling = solve(candidates)
    assert names_of(labelling)[-1] == last
    assert verdicts_of(labelling)["L6"] == verdict


def test_probability_of_an_absent_t12_is_that_of_all_sequences_without_it():
    candidates = replace(spine(["T10", "T11", "L1", "L2"], blur=0.8), field_of_view_mm=None)
    problem = chain.build(candidates, Weights())
    whole = sequences.posterior(problem)
    # Forbidding the transitions takes exactly their share from the sum over all sequences.
    forbidden = replace(problem, edges=np.where(problem.without_t12, -np.inf, problem.edges))
    share = math.exp(log_sum(forbidden) - log_sum(problem))
    assert 0.01 < whole.without_t12 < 0.99
    assert whole.without_t12 == pytest.approx(1 - share)


def log_sum(problem: chain.Problem) -> float:
    """Return the logarithm of the sum over all sequences, from the probability of choosing nothing."""
    single = sequences.posterior(replace(problem, edges=np.full_like(problem.edges, -np.inf))).states
    # With no pair allowed: p = gain / (1 + sum of gains), per scale alike, so the sum is known by hand.
    gains = np.exp(problem.nodes / problem.weights.temperature)
    prior = np.exp(problem.scale_prior / problem.weights.temperature).sum()
    assert single.sum() == pytest.approx(gains.sum() / (1 + gains.sum()))
    total = 0.0
    for scale, log_prior in enumerate(problem.scale_prior):
        ending = np.zeros_like(problem.nodes)
        for level in range(26):
            before = np.ones(len(problem.nodes[0]))
            for step in range(1, min(level, problem.edges.shape[1]) + 1):
                weight = np.exp(problem.edges[level, step - 1, scale] / problem.weights.temperature)
                before += ending[level - step] @ weight
            ending[level] = gains[level] * before
        total += math.exp(log_prior / problem.weights.temperature) * ending.sum()
    return math.log(total + prior)


def test_margin_is_the_score_lost_by_shifting_all_names():
    names = between("T4", "T9")
    candidates = spine(names, blur=0.8)
    labelling = solve(candidates)
    problem = chain.build(candidates, Weights())
    solution = sequences.solve(problem)
    for shift, margin in zip((-1, 1), labelling.numbering.shift_margins, strict=True):
        levels = [LEVELS.index(name) + shift for name in names]
        gains = [problem.nodes[level, candidate] for candidate, level in enumerate(levels)]
        by_scale = problem.scale_prior + sum(gains) + problem.starts[levels[0], 0] + problem.ends[levels[-1], 5]
        for index in range(5):
            by_scale = by_scale + problem.edges[levels[index + 1], 0, :, index, index + 1]
        assert margin == pytest.approx(solution.score - by_scale.max())
        assert margin > 0


def test_shift_passes_over_what_this_spine_lacks():
    names = [name for name in between("T8", "L3") if name != "T12"]
    candidates = spine(names, blur=0.4)
    candidates.positions_mm[names.index("L1") :, 2] -= 30.2 - 29.0
    problem = chain.build(candidates, Weights())
    solution = sequences.solve(problem)
    assert solution.without_t12
    shifted = [LEVELS.index(name) for name in ["T9", "T10", "T11", "L1", "L2", "L3", "L4"]]
    margin = solution.score - score_of(problem, solution.steps, shifted)
    assert solve(candidates).numbering.shift_margins[1] == pytest.approx(margin)


@pytest.mark.parametrize(
    ("first", "last", "clear", "decided"),
    [
        ("C1", "T6", (), "head"),
        ("T5", "L3", (), "last rib"),
        ("T5", "L5", ("L5",), "sacrum"),  # the ribs say nothing, the sacrum does
        ("T3", "T9", (), ""),
    ],
)
def test_the_anchor_whose_evidence_speaks_most_decides(first, last, clear, decided):
    names = between(first, last)
    candidates = spine(names)
    for index, name in enumerate(names):
        if clear and name not in clear:
            candidates.evidence[index] = np.full(25, 1 / 25)
    numbering = solve(candidates).numbering
    assert numbering.decided_by == decided
    if decided:
        assert numbering.support[decided] == max(numbering.support.values()) > 0


def test_room_below_the_last_vertebra_is_room_in_the_scan():
    """The heatmaps' grid is padded far below a scan that ends under L5: that is no sacrum in view."""
    candidates = spine(between("T8", "L5"))
    last_mm = candidates.positions_mm[-1]
    assert solve(candidates).numbering.anchors == ("sacrum",)
    # Axes: i down, j left, k back, 2 mm each, turned by 10 degrees about x; its last plane is 30 mm below L5.
    turn = math.radians(10)
    down, back = np.array([0, math.sin(turn), -math.cos(turn)]), np.array([0, -math.cos(turn), -math.sin(turn)])
    affine = np.eye(4)
    affine[:3, :3] = 2 * np.stack([down, [-1, 0, 0], back], axis=1)
    shape = (200, 100, 120)
    affine[:3, 3] = last_mm - affine[:3, :3] @ [200 - 15, 50, 60]
    cut = replace(candidates, scan=Grid(shape, affine))
    assert cut.in_view(last_mm)
    assert cut.in_view(last_mm + 28 * down)
    assert not cut.in_view(last_mm + 32 * down)
    assert not cut.in_view(last_mm - 103 * affine[:3, 1] / 2)
    assert solve(cut).numbering.anchors == ()


def test_an_end_in_the_middle_of_the_scan_is_a_finding():
    names = between("T5", "T10")
    candidates = spine(names)
    candidates.field_of_view_mm[:, 2] = candidates.positions_mm[-1, 2] - 120, candidates.positions_mm[0, 2] + 15
    labelling = solve(candidates)
    assert [f.message for f in labelling.warnings if f.code == "end_not_found"] == [
        "nothing found below T10, although it should be in view"
    ]
    assert [(end.name, end.side, end.searched) for end in labelling.open_ends] == [("T10", "below", True)]


def test_an_end_of_the_search_is_no_end_of_the_scan():
    """The heatmaps end 20 mm below T10, the scan 120 mm: T11 is not there because nobody looked."""
    candidates = spine(between("T5", "T10"))
    top_mm, last_mm = candidates.positions_mm[0], candidates.positions_mm[-1]
    candidates.field_of_view_mm[:, 2] = last_mm[2] - 20, top_mm[2] + 15
    low_mm = last_mm - [100, 100, 120]
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = low_mm + 1
    scan = Grid((100, 100, math.ceil((top_mm[2] + 15 - low_mm[2]) / 2)), affine)
    labelling = solve(replace(candidates, scan=scan))
    assert [f.message for f in labelling.warnings if f.code == "end_not_found"] == [
        "not searched below T10, although the scan goes on"
    ]
    (end,) = labelling.open_ends
    assert not end.searched
    way_mm = end.beyond_mm - last_mm
    assert np.linalg.norm(way_mm) == pytest.approx(2 * 26.5)  # T10 to T11: 26.5 mm in chain.SPACING_MM
    assert solve(candidates).open_ends == ()  # where the scan ends is unknown


def test_pinned_level_carries_the_chain():
    names = between("T4", "T9")
    labelling = solve(spine(names), pins={2: LEVELS.index("T7")})  # really T6
    assert names_of(labelling) == between("T5", "T10")
    assert labelling.pinned == ("T7",)
    assert labelling.vertebrae[2].probability == pytest.approx(1.0)
    assert labelling.numbering.decided_by == "hand"
    assert labelling.numbering.shift_margins == (math.inf, math.inf)


def test_pins_agree_with_exhaustive_conditioning():
    """A pinned solution is the best of the free problem's sequences through that state, with the same score."""
    candidates = spine(between("T10", "L1"), blur=1.0)
    free = sequences.solve(chain.build(candidates, Weights()))
    for level in (LEVELS.index("T10"), LEVELS.index("T12"), LEVELS.index("T13")):
        pinned = sequences.solve(chain.build(candidates, Weights(), {1: level}))
        assert pinned.score == pytest.approx(free.best_through[level, :, 1].max())
        assert pinned.posterior.states[level, 1] == pytest.approx(1.0)


def test_pins_that_contradict_each_other_are_refused():
    candidates = spine(between("T4", "T9"))
    with pytest.raises(ValueError, match="no ordered labelling has T5, T8 where they were put"):
        solve(candidates, pins={1: LEVELS.index("T8"), 4: LEVELS.index("T5")})


def test_a_level_nobody_saw_can_be_pinned():
    candidates = spine(["L3"])
    candidates.evidence[0] = evidence_of("L3", 0.1)
    labelling = solve(candidates, pins={0: LEVELS.index("C4")})
    assert names_of(labelling) == ["C4"]
    assert "no vertebra found" not in messages(labelling)


def test_a_shift_that_skips_more_than_any_sequence_may_is_impossible():
    """T4-T11 with six missing moves to T5-L1 in a spine without T12: nine levels apart."""
    problem = chain.build(spine(["T4", "T11"]), Weights())
    steps = (sequences.Step(0, LEVELS.index("T4")), sequences.Step(1, LEVELS.index("T11")))
    assert math.isfinite(score_of(problem, steps, [step.level for step in steps]))
    assert score_of(problem, steps, [LEVELS.index("T5"), LEVELS.index("L1")]) == -math.inf
