"""What holds of every labelling, whatever the candidates: searched for counterexamples with hypothesis."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.candidates import Candidates
from pipeline.chain import DOWN
from pipeline.findings import CODES
from pipeline.labelling import Labelling, solve
from pipeline.labels import NAMES, ROWS_BY_LEVEL

LEVELS = [NAMES[row] for row in ROWS_BY_LEVEL]


@st.composite
def candidates(draw) -> Candidates:
    """Draw up to 14 bodies: anywhere in a column of any height, or on a line, with evidence of any sharpness."""
    count = draw(st.integers(1, 14))
    unit = st.floats(0, 1, width=32)
    positions = draw(hnp.arrays(np.float64, (count, 3), elements=unit)) * [60, 80, draw(st.floats(1, 700))]
    if draw(st.booleans()):
        positions[:, 2] = 25.0 * np.arange(count)[::-1] + draw(st.floats(-300, 300))
    logits = draw(hnp.arrays(np.float64, (count, 25), elements=unit)) * draw(st.sampled_from([0.0, 5.0, 40.0]))
    evidence = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = draw(hnp.arrays(np.float64, count, elements=unit))
    view = np.stack([positions.min(axis=0) - draw(st.floats(0, 200)), positions.max(axis=0) + 50])
    return Candidates(positions, scores, evidence / evidence.sum(axis=1, keepdims=True), view)


def assert_sound(labelling: Labelling, given: Candidates) -> None:
    levels = [ROWS_BY_LEVEL.index(vertebra.row) for vertebra in labelling.vertebrae]
    assert levels == sorted(set(levels))
    chosen = [vertebra.candidate for vertebra in labelling.vertebrae]
    assert len(chosen) == len(set(chosen))
    for vertebra in labelling.vertebrae:
        np.testing.assert_array_equal(vertebra.position_mm, given.positions_mm[vertebra.candidate])
        np.testing.assert_array_equal(vertebra.position_mm, labelling.landmarks_mm[vertebra.row])
        assert 0 <= vertebra.runner_up_probability <= 1
        assert vertebra.probability + vertebra.runner_up_probability <= 1 + 1e-9
    assert np.isfinite(labelling.landmarks_mm).all(axis=1).sum() == len(chosen)
    for above, below in itertools.pairwise(labelling.vertebrae):
        assert (below.position_mm - above.position_mm) @ DOWN > 0
    reported = {name for finding in labelling.warnings if finding.code == "not_found" for name in finding.vertebrae}
    lacking = {"T12"} if any(finding.code == "no_t12" for finding in labelling.warnings) else set()
    for above, below in itertools.pairwise(levels):
        assert set(LEVELS[above + 1 : below]) - {"T13"} - lacking <= reported
    assert all(finding.code in CODES and finding.message for finding in labelling.warnings)
    assert labelling.vertebrae or labelling.warnings
    for verdict in labelling.numbering.verdicts:
        assert 0 <= verdict.probability <= 1
        named = {"T13": "T13" in reported_names(labelling), "L6": "L6" in reported_names(labelling)}
        assert verdict.verdict != "present" or named.get(verdict.anomaly, bool(lacking))
    margins = [alternative.margin for alternative in labelling.alternatives]
    assert margins == sorted(margins)
    assert all(margin >= -1e-9 for margin in margins)
    chosen_names = tuple(vertebra.name for vertebra in labelling.vertebrae)
    assert chosen_names not in [alternative.names for alternative in labelling.alternatives]


def reported_names(labelling: Labelling) -> set[str]:
    return {vertebra.name for vertebra in labelling.vertebrae}


@settings(max_examples=60, deadline=None)
@given(candidates())
def test_any_candidates_give_a_sound_labelling(given):
    assert_sound(solve(given), given)


@settings(max_examples=40, deadline=None)
@given(candidates(), st.integers(0, 13), st.integers(0, 25))
def test_any_pin_is_kept(given, index, level):
    index = min(index, len(given) - 1)
    labelling = solve(given, pins={index: level})
    assert_sound(labelling, given)
    assert (index, LEVELS[level]) in [(vertebra.candidate, vertebra.name) for vertebra in labelling.vertebrae]
    assert labelling.pinned == (LEVELS[level],)
