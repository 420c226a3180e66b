"""Candidates with known answers, and a naive search over all sequences as the oracle of the dynamic program."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline import chain, sequences
from pipeline.candidates import Candidates, find_candidates
from pipeline.labelling import Labelling, Weights, label_spine, solve
from pipeline.labels import NAMES, ROWS_BY_LEVEL, channel_of_row, row_of_name

LEVELS = [NAMES[row] for row in ROWS_BY_LEVEL]
# Distance in mm from each level to the next one, by hand from the table's source.
STEP_MM = dict(zip(LEVELS[:19], [22.4, 18.5, 16.6, 17.1, 15.8, 17.2, 19.0, 20.4, 20.4, 20.8, 21.0, 21.9, 21.8, 22.8,
                                 23.7, 25.0, 26.5, 29.0, 30.2], strict=True))  # fmt: skip
STEP_MM |= {"T13": 30.2, "L1": 32.3, "L2": 33.7, "L3": 34.4, "L4": 32.9, "L5": 31.6}


LOG_SCALES = [-0.2, -0.1, 0.0, 0.1, 0.2]  # a spread of 0.08, five times between -2.5 and 2.5


def evidence_of(name: str, blur: float = 0.6) -> np.ndarray:
    """Return (25,) probabilities around the channel of a level."""
    channel = channel_of_row(row_of_name(name))
    values = np.exp(-0.5 * ((np.arange(25) - channel) / blur) ** 2) + 1e-3
    return values / values.sum()


def spine(names: list[str], looks: dict[str, str] | None = None, blur: float = 0.6) -> Candidates:
    """Return one candidate per name on a gentle curve; `looks` names what the network takes a vertebra for.

    The field of view ends 60 mm beyond a C1, an L5 or an L6, 20 mm beyond other ends.
    """
    down_mm = np.cumsum([0.0] + [STEP_MM[name] for name in names[:-1]])
    positions_mm = np.stack([0 * down_mm + 5, 20 * np.sin(down_mm / 150), 700 - down_mm], axis=1)
    evidence = np.stack([evidence_of((looks or {}).get(name, name), blur) for name in names])
    above_mm, below_mm = 60 if names[0] == "C1" else 20, 60 if names[-1] in ("L5", "L6") else 20
    field_mm = np.array([[-90.0, -90.0, positions_mm[-1, 2] - below_mm], [100.0, 90.0, 700.0 + above_mm]])
    return Candidates(positions_mm, np.full(len(names), 0.9), evidence, field_mm)


def without(candidates: Candidates, index: int) -> Candidates:
    keep = np.arange(len(candidates)) != index
    return replace(
        candidates,
        positions_mm=candidates.positions_mm[keep],
        scores=candidates.scores[keep],
        evidence=candidates.evidence[keep],
    )


def adding(candidates: Candidates, position_mm: np.ndarray, score: float, evidence: np.ndarray) -> Candidates:
    return replace(
        candidates,
        positions_mm=np.vstack([candidates.positions_mm, position_mm]),
        scores=np.append(candidates.scores, score),
        evidence=np.vstack([candidates.evidence, evidence]),
    )


def between(first: str, last: str) -> list[str]:
    names = [name for name in LEVELS if name != "T13"]
    return names[names.index(first) : names.index(last) + 1]


def names_of(labelling: Labelling) -> list[str]:
    return [vertebra.name for vertebra in labelling.vertebrae]


def messages(labelling: Labelling) -> list[str]:
    return [finding.message for finding in labelling.warnings]


def test_clean_chain():
    candidates = spine(between("C1", "L5"))
    labelling = solve(candidates)
    assert names_of(labelling) == between("C1", "L5")
    assert labelling.numbering.anchors == ("head", "sacrum")
    assert labelling.warnings == ()
    assert min(vertebra.probability for vertebra in labelling.vertebrae) > 0.9
    np.testing.assert_array_equal(labelling.landmarks_mm[:24], candidates.positions_mm)
    assert np.isnan(labelling.landmarks_mm[24:]).all()
    first = labelling.vertebrae[0]
    assert (first.row, first.label, first.score) == (0, 1, 0.9)


def test_order_of_candidates_does_not_matter():
    candidates = spine(between("T3", "L2"))
    order = np.random.default_rng(0).permutation(len(candidates))
    mixed = Candidates(candidates.positions_mm[order], candidates.scores[order], candidates.evidence[order])
    assert names_of(solve(mixed)) == between("T3", "L2")


def test_missing_detection_leaves_a_gap():
    names = between("T2", "L3")
    labelling = solve(without(spine(names), names.index("T7")))
    assert names_of(labelling) == [name for name in names if name != "T7"]
    assert "T7 not found between T6 and T8" in messages(labelling)


@pytest.mark.parametrize("sideways_mm", [0.0, 30.0])
def test_false_candidate_is_left_out(sideways_mm):
    names = between("T2", "L3")
    candidates = spine(names)
    middle_mm = candidates.positions_mm[4:6].mean(axis=0) + np.array([sideways_mm, 0, 0])
    labelling = solve(adding(candidates, middle_mm, 0.5, evidence_of("T6", 1.0)))
    assert names_of(labelling) == names
    np.testing.assert_array_equal([v.position_mm for v in labelling.vertebrae], candidates.positions_mm)


def scored(candidates: Candidates, index: int, score: float) -> Candidates:
    scores = candidates.scores.copy()
    scores[index] = score
    return replace(candidates, scores=scores)


def test_doubtful_candidate_beyond_an_end_is_left_out():
    # Its score is worth 3 + 2 log(1/3) = 0.8, its evidence 0.7 log(0.66) = -0.3; to end with it takes 2 log(3) = 2.2.
    names = between("T3", "T11")
    assert names_of(solve(scored(spine(names), -1, 0.25))) == names[:-1]
    assert names_of(solve(scored(spine(names), 0, 0.25))) == names[1:]
    assert names_of(solve(scored(spine(names), 4, 0.25))) == names


@pytest.mark.parametrize(("passed", "score", "named"), [(3.0, 0.9, True), (0.0, 0.9, False), (3.0, 0.6, False)])
def test_sure_body_midway_between_two_is_not_passed_over(passed, score, named):
    """Seven look like C3 to T2, one like nothing, seven like T3 to T9.

    To name all, seven must change their level, 0.7 log(7.4) = 1.4 each. To pass over the one costs what it is worth,
    3 + 2 log(9) - 0.7 log(25) = 5.1, 3.6 less at a score of 0.6, and 3.2 for a gap of 41 instead of 20.4 mm.
    `passed` adds 3 (log(9) - 1) = 3.6, and nothing at 0.6, whose log-odds are below 1.
    """
    names = between("C3", "T10")
    seen = dict(zip(between("T4", "T10"), between("T3", "T9"), strict=True))
    candidates = scored(spine(names, looks=seen, blur=0.5), names.index("T3"), score)
    candidates.evidence[names.index("T3")] = 1 / 25
    chosen = solve(candidates, Weights(passed=passed)).vertebrae
    assert (names.index("T3") in [vertebra.candidate for vertebra in chosen]) == named


@pytest.mark.parametrize(("beyond_mm", "cost"), [(24.0, 0.0), (27.0, 1.0)])
def test_end_beyond_which_the_next_vertebra_is_in_view_costs(beyond_mm, cost):
    """Above C7 the next center is 17.2 mm away: 1.5 times that are 25.8 mm straight up, 24.2 mm of it up if leaning."""
    candidates = spine(between("C7", "T4"))
    candidates.field_of_view_mm[:, 2] = candidates.positions_mm[-1, 2] - 20, candidates.positions_mm[0, 2] + beyond_mm
    problem = chain.build(candidates, Weights())
    assert problem.starts[LEVELS.index("C7"), 0] == -cost
    assert problem.starts[0, 0] == 0.0, "above C1 there is none"
    assert not problem.ends[:, 4].any()


@pytest.mark.parametrize(("beyond_mm", "cost"), [(48.0, 0.0), (52.0, 1.0)])
def test_so_does_one_below(beyond_mm, cost):
    """From L4 to L5 are 32.9 mm, 1.5 times that 49.4 mm."""
    candidates = spine(between("T12", "L4"))
    candidates.field_of_view_mm[0, 2] = candidates.positions_mm[-1, 2] - beyond_mm
    problem = chain.build(candidates, Weights())
    assert [problem.ends[LEVELS.index(name), 4] for name in ("L4", "L5", "L6")] == [-cost, 0.0, 0.0]


def test_spine_itself_may_end_with_a_doubtful_candidate():
    names = between("C1", "L5")
    assert names_of(solve(scored(scored(spine(names), 0, 0.25), -1, 0.25))) == names


@pytest.mark.parametrize(("score", "last"), [(0.8, "L6"), (0.4, "L5")])
def test_sixth_lumbar_vertebra_must_be_sure(score, last):
    """Of 0.8 it is worth 3 + 2 log(4) - 1 = 4.8; of 0.4, 3 - 2 log(1.5) - 1 - 2 (1.4 + log(1.5)) = -2.4."""
    names = [*between("T9", "L5"), "L6"]
    assert names_of(solve(scored(spine(names, blur=0.3), -1, score)))[-1] == last


def test_wrong_evidence_at_one_vertebra_is_overruled():
    names = between("C3", "T10")
    labelling = solve(spine(names, looks={"T4": "L2"}))
    assert names_of(labelling) == names


def test_neighbors_that_look_swapped_stay_in_order():
    names = between("T5", "L4")
    assert names_of(solve(spine(names, looks={"T9": "T10", "T10": "T9"}))) == names


def test_bent_neck_beyond_the_horizontal():
    names = between("C2", "T6")
    candidates = spine(names)
    positions_mm = candidates.positions_mm.copy()
    step = names.index("C6")
    positions_mm[step + 1 :] += positions_mm[step] - positions_mm[step + 1]  # C7 on C6 ...
    positions_mm[step + 1 :] += [0, -17.0, 1.5]  # ... then 95 degrees backward of straight down
    assert names_of(solve(replace(candidates, positions_mm=positions_mm))) == names


def test_ambiguous_chain_says_so():
    names = between("T4", "T9")
    candidates = spine(names)
    shifted = np.roll(candidates.evidence, 1, axis=1)
    labelling = solve(replace(candidates, evidence=(candidates.evidence + shifted) / 2))
    assert names_of(labelling) in (names, between("T5", "T10"))
    assert max(vertebra.probability for vertebra in labelling.vertebrae) < 0.7
    assert max(labelling.numbering.shift_probabilities) > 0.3
    assert labelling.numbering.anchors == ()
    assert any("no anchor in view: labels may be off by one" in warning for warning in messages(labelling))
    alternative = labelling.alternatives[0]
    assert list(alternative.names) in (names, between("T5", "T10"))
    assert list(alternative.names) != names_of(labelling)
    assert alternative.probability > 0.3
    assert labelling.vertebrae[2].runner_up == alternative.names[2]
    assert labelling.vertebrae[2].runner_up_probability == pytest.approx(alternative.probability, abs=0.1)


def test_thirteenth_thoracic_vertebra():
    names = [*between("C1", "T12"), "T13", *between("L1", "L5")]
    labelling = solve(spine(names, blur=0.4))
    assert names_of(labelling) == names
    thirteenth = labelling.vertebrae[names.index("T13")]
    assert (thirteenth.row, thirteenth.label) == (25, 28)
    assert any(warning.startswith("T13 found") for warning in messages(labelling))
    np.testing.assert_array_equal(labelling.landmarks_mm[25], thirteenth.position_mm)


def test_absent_twelfth_thoracic_vertebra():
    names = [name for name in between("C1", "L5") if name != "T12"]
    candidates = spine(names, blur=0.4)
    candidates.positions_mm[names.index("L1") :, 2] -= 30.2 - 29.0  # T11-L1 is as far as T12-L1
    labelling = solve(candidates)
    assert names_of(labelling) == names
    assert "T12 seems to be absent: L1 follows T11" in messages(labelling)


def test_overlooked_twelfth_thoracic_vertebra_is_a_gap():
    names = between("C1", "L5")
    labelling = solve(without(spine(names), names.index("T12")))
    assert "T12 not found between T11 and L1" in messages(labelling)


def test_sixth_lumbar_vertebra():
    names = between("T8", "L6")
    labelling = solve(spine(names, blur=0.4))
    assert names_of(labelling) == names
    assert labelling.numbering.anchors == ("sacrum",)
    assert any(warning.startswith("L6 found") for warning in messages(labelling))


def test_sacrum_is_no_anchor_at_the_edge_of_the_image():
    candidates = spine(between("T8", "L5"))
    candidates.field_of_view_mm[0, 2] = candidates.positions_mm[-1, 2] - 20
    assert solve(candidates).numbering.anchors == ()


@pytest.mark.parametrize("names", [["L3"], ["T12", "L1"], ["C1", "C2"]])
def test_short_chains(names):
    assert names_of(solve(spine(names))) == names


def test_nothing_found():
    labelling = label_spine(np.zeros((25, 4, 5, 6), dtype=np.float32), np.eye(4))
    assert labelling.vertebrae == ()
    assert labelling.landmarks_mm.shape == (26, 3)
    assert np.isnan(labelling.landmarks_mm).all()
    assert messages(labelling) == ["no vertebra found"]


def random_candidates(rng: np.random.Generator, count: int, size_mm: float) -> Candidates:
    evidence = rng.dirichlet(np.full(25, 0.3), count)
    return Candidates(rng.uniform(0, size_mm, (count, 3)) * [0.1, 0.2, 1], rng.uniform(0, 1, count), evidence)


@pytest.mark.parametrize("seed", range(40))
def test_any_input_gives_an_ordered_labelling(seed):
    rng = np.random.default_rng(seed)
    candidates = random_candidates(rng, int(rng.integers(1, 25)), float(rng.uniform(1, 600)))
    labelling = solve(candidates)
    levels = [ROWS_BY_LEVEL.index(vertebra.row) for vertebra in labelling.vertebrae]
    assert levels == sorted(set(levels))
    positions = [tuple(vertebra.position_mm) for vertebra in labelling.vertebrae]
    assert len(positions) == len(set(positions))
    for vertebra in labelling.vertebrae:
        assert 0 <= vertebra.runner_up_probability <= 1
        assert 0 <= vertebra.probability <= 1
        assert vertebra.probability + vertebra.runner_up_probability <= 1 + 1e-9
    posterior = sequences.posterior(chain.build(candidates, Weights())).states
    assert posterior.sum(axis=0).max(initial=0) <= 1 + 1e-9  # a candidate has one level at most ...
    assert posterior.sum(axis=1).max(initial=0) <= 1 + 1e-9  # ... and a level one candidate
    margins = [alternative.margin for alternative in labelling.alternatives]
    assert margins == sorted(margins)
    assert min(margins, default=0.0) >= -1e-9
    for above, below in itertools.pairwise(levels):
        skipped = [LEVELS[level] for level in range(above + 1, below) if LEVELS[level] != "T13"]
        assert all(any(name in warning for warning in messages(labelling)) for name in skipped)


def naive_pair(above: str, below: str, distance_mm: float, log_scale: float, weights: Weights) -> float:
    """Score one transition from the definition: the better of a normal spine and one without T12."""
    passed = [name for name in LEVELS[LEVELS.index(above) : LEVELS.index(below)] if name not in {"T13"} - {above}]
    options = [(passed, 0.0)]
    if "T12" in passed[1:] and below != "T13":
        options.append(([name for name in passed if name != "T11"], weights.no_t12))
    scores = []
    for steps, prior in options:
        mean_mm = sum(STEP_MM[name] for name in steps)
        sd_mm = math.hypot(*(chain.SPACING_MM[min(LEVELS.index(n), 18) if n in LEVELS[:20] else LEVELS.index(n) - 1, 1]
                             for n in passed))  # fmt: skip
        spread = math.hypot(sd_mm, math.sqrt(2) * weights.position_sd_mm) / mean_mm
        units = (math.log(distance_mm / mean_mm) - log_scale) / spread
        fit = -weights.distance * weights.tail * math.log1p(units**2 / (2 * weights.tail))
        scores.append(fit + prior - weights.skip * (len(steps) - 1))
    return max(scores)


def naive_ends(scores: list[float], first: str, last: str, weights: Weights) -> float:
    """Score beginning and ending with two candidates: a doubtful one costs its log-odds, where the spine goes on.

    An L6 costs what its log-odds lack of 1.4.
    """
    top = 0.0 if first == "C1" else math.log(scores[0] / (1 - scores[0]))
    bottom = 0.0 if last == "L5" else math.log(scores[1] / (1 - scores[1])) - (weights.l6_odds if last == "L6" else 0.0)
    return weights.end * (min(top, 0.0) + min(bottom, 0.0))


def naive_passed(candidates: Candidates, above: int, below: int, weights: Weights) -> float:
    """Score what lies between two candidates: what is sure, near the line and not near either."""
    ends_mm, cost = candidates.positions_mm[[above, below]], 0.0
    whole_mm = math.dist(*ends_mm)
    for place_mm, score in zip(candidates.positions_mm, np.clip(candidates.scores, 0.02, 0.98), strict=True):
        parts_mm = [math.dist(place_mm, end_mm) for end_mm in ends_mm]
        if sum(parts_mm) < 1.02 * whole_mm and min(parts_mm) > 0.4 * whole_mm:
            cost += weights.passed * max(math.log(score / (1 - score)) - weights.passed_odds, 0.0)
    return cost


def all_sequences(candidates: Candidates, problem: chain.Problem, levels: list[int]) -> dict[tuple, list[float]]:
    """Score every sequence over some levels at every scale; the keys are tuples of (candidate, level)."""
    weights = problem.weights
    result: dict[tuple, list[float]] = {(): list(problem.scale_prior)}
    for count in range(1, len(candidates) + 1):
        for chosen in itertools.permutations(range(len(candidates)), count):
            offsets_mm = np.diff(candidates.positions_mm[list(chosen)], axis=0)
            if any(offset @ chain.DOWN <= 0.1 * np.linalg.norm(offset) for offset in offsets_mm):
                continue
            for names in itertools.combinations(levels, count):
                steps = tuple(zip(chosen, names, strict=True))
                gain = sum(problem.nodes[level, candidate] for candidate, level in steps)
                sure = [float(np.clip(candidates.scores[chosen[i]], 0.02, 0.98)) for i in (0, -1)]
                gain += naive_ends(sure, LEVELS[names[0]], LEVELS[names[-1]], weights)
                gain -= sum(naive_passed(candidates, a, b, weights) for a, b in itertools.pairwise(chosen))
                result[steps] = [
                    prior + gain + sum(
                        naive_pair(LEVELS[a], LEVELS[b], float(np.linalg.norm(offset)), log_scale, weights)
                        for (a, b), offset in zip(itertools.pairwise(names), offsets_mm, strict=True)
                    )
                    for prior, log_scale in zip(problem.scale_prior, LOG_SCALES, strict=True)
                ]  # fmt: skip
    return result


@pytest.mark.parametrize("seed", range(6))
def test_dynamic_program_equals_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    candidates = random_candidates(rng, 4, 120.0)
    levels = [[16, 17, 18, 19, 20], [0, 1, 2, 3, 4], [17, 18, 20, 21, 25]][seed % 3]
    problem = chain.build(candidates, Weights(temperature=1.7, presence=4.0))
    nodes = np.full_like(problem.nodes, -np.inf)
    nodes[levels] = problem.nodes[levels]
    problem = replace(problem, nodes=nodes)
    everything = all_sequences(candidates, problem, levels)
    solution = sequences.solve(problem)

    scores = {steps: max(values) for steps, values in everything.items()}
    best = max(scores, key=scores.__getitem__)
    assert solution.score == pytest.approx(scores[best])
    assert tuple((step.candidate, step.level) for step in solution.steps) == best
    weight = {steps: sum(math.exp(v / 1.7) for v in values) for steps, values in everything.items()}
    for candidate, level in itertools.product(range(4), levels):
        through = [steps for steps in everything if (candidate, level) in steps]
        expected = max(scores[steps] for steps in through)
        assert solution.best_through[level, :, candidate].max() == pytest.approx(expected)
        share = sum(weight[steps] for steps in through) / sum(weight.values())
        assert solution.posterior.states[level, candidate] == pytest.approx(share)


@pytest.mark.parametrize("seed", range(4))
def test_first_alternative_is_the_best_that_renames(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    candidates = random_candidates(rng, 3, 90.0)
    levels = [17, 18, 19, 20]
    build = chain.build
    masked = np.full((26, 1), -np.inf)
    masked[levels] = 0.0
    monkeypatch.setattr(chain, "build", lambda *args: (lambda p: replace(p, nodes=p.nodes + masked))(build(*args)))
    weights = Weights(presence=5.0)
    labelling = solve(candidates, weights)
    scores = {s: max(v) for s, v in all_sequences(candidates, chain.build(candidates, weights), levels).items()}
    best = max(scores, key=scores.__getitem__)
    chosen = dict(best)
    renaming = {s: v for s, v in scores.items() if any(chosen.get(c, level) != level for c, level in s)}
    second = max(renaming, key=renaming.__getitem__)
    assert names_of(labelling) == [LEVELS[level] for _, level in best]
    renamed = dict(second)
    assert labelling.alternatives[0].names == tuple(LEVELS[renamed[c]] if c in renamed else "" for c in chosen)
    assert labelling.alternatives[0].margin == pytest.approx(scores[best] - scores[second])


# Axes i, j, k step 4 mm along -y, 4 mm along +x, 4 mm along +z; voxel (0, 0, 0) at (-10, 20, 30).
AFFINE = np.array([[0, 4, 0, -10], [-4, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]], dtype=float)


def blobs(centers_vox: dict[str, tuple[float, float, float]], shape: tuple[int, int, int] = (14, 16, 24)) -> np.ndarray:
    """Return (25, I, J, K) Gaussians of 6 mm in 4 mm voxels, a tenth of each in the next channel."""
    heatmaps = np.zeros((25, *shape), dtype=np.float32)
    grid = np.indices(shape)
    for name, center in centers_vox.items():
        distance_vox = np.linalg.norm(grid - np.reshape(center, (3, 1, 1, 1)), axis=0)
        blob = 0.9 * np.exp(-0.5 * (distance_vox * 4 / 6) ** 2)
        heatmaps[row_of_name(name)] += 0.9 * blob
        heatmaps[row_of_name(name) + 1] += 0.1 * blob
    return heatmaps


def test_candidate_is_in_millimeters_between_voxels():
    heatmaps = blobs({"L2": (5.25, 6.0, 15.4), "L3": (6.0, 7.5, 6.75)})
    candidates = find_candidates(heatmaps, AFFINE)
    order = np.argsort(-candidates.positions_mm[:, 2])
    # x = 4 j - 10, y = 20 - 4 i, z = 4 k + 30
    expected_mm = [[14.0, -1.0, 91.6], [20.0, -4.0, 57.0]]
    np.testing.assert_allclose(candidates.positions_mm[order], expected_mm, atol=0.05)
    np.testing.assert_allclose(candidates.field_of_view_mm, [[-12, -34, 28], [52, 22, 124]])
    assert candidates.scores.max() <= 0.9
    np.testing.assert_allclose(candidates.evidence.sum(axis=1), 1)
    np.testing.assert_allclose(candidates.evidence[order, [20, 21]], 0.9, atol=0.01)
    np.testing.assert_allclose(candidates.evidence[order, [21, 22]], 0.1, atol=0.01)


def test_label_spine_from_heatmaps():
    labelling = label_spine(blobs({"L2": (5.25, 6.0, 15.4), "L3": (6.0, 7.5, 6.75)}), AFFINE)
    assert names_of(labelling) == ["L2", "L3"]
    np.testing.assert_allclose(labelling.landmarks_mm[21], [20.0, -4.0, 57.0], atol=0.05)


def test_level_peaks_separate_bodies_that_run_together():
    heatmaps = np.zeros((25, 9, 9, 30), dtype=np.float32)
    levels = np.arange(30) / 4  # a tube: the sum is flat along k, C1, C2 ... every 4 voxels
    for channel in range(8):
        heatmaps[channel, 4, 4] = 0.9 * np.exp(-0.5 * ((levels - channel) / 0.4) ** 2)
    heatmaps /= np.maximum(heatmaps.sum(axis=0) / 0.9, 1e-6)
    heatmaps[:, 4, 4] *= (np.abs(np.arange(30) - 15) < 14)[None]
    labelling = label_spine(heatmaps, np.diag([4.0, 4.0, 4.0, 1.0]) * [1, 1, -1, 1])
    assert len(labelling.vertebrae) >= 6


def test_peak_at_the_edge_and_close_peaks():
    heatmaps = blobs({"T9": (0.0, 8.0, 12.0), "T10": (0.0, 9.0, 13.0)})
    candidates = find_candidates(heatmaps, AFFINE)
    assert len(candidates) == 1  # 5.7 mm apart: one body


def test_wrong_number_of_channels():
    with pytest.raises(ValueError, match=r"\(26, 4, 5, 6\)"):
        find_candidates(np.zeros((26, 4, 5, 6)), np.eye(4))
