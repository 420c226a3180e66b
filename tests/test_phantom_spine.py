"""Spines and their variants: what is asked for is there, and what is drawn is recorded."""

import numpy as np
import pytest
from phantoms import SEED, grid_at, spine_of

from pipeline.labels import LABELS, NAMES, T12_ROW, T13_ROW, row_of_name
from pipeline.landmarks import present_rows
from pipeline.phantom import make_phantom
from pipeline.phantom.grids import PRESETS, draw_grid
from pipeline.phantom.spine import draw_spine
from pipeline.phantom.variants import GRADE_LOSS, VARIANTS, draw_rows, draw_variants, parse_variant
from pipeline.spaces import bounds_mm

L1, T13 = row_of_name("L1"), row_of_name("T13")


@pytest.mark.parametrize(
    ("variant", "end"),
    [
        ("none", ["T11", "T12", "L1", "L2", "L3", "L4", "L5"]),
        ("L6", ["T12", "L1", "L2", "L3", "L4", "L5", "L6"]),
        ("L4-only", ["T10", "T11", "T12", "L1", "L2", "L3", "L4"]),
        ("T13", ["T12", "T13", "L1", "L2", "L3", "L4", "L5"]),
        ("no-T12", ["T10", "T11", "L1", "L2", "L3", "L4", "L5"]),
    ],
)
def test_variants_of_the_spine(variant, end):
    names = [NAMES[row] for row in draw_rows(np.random.default_rng(0), variant)]
    assert names[-7:] == end
    assert names[:17] == list(NAMES[:17])
    spine = spine_of(variant=variant)
    assert len(spine.centers_mm) == len(spine.frames) == len(spine.scales) == len(names)
    assert spine.rows == draw_rows(np.random.default_rng(0), variant)


@pytest.mark.parametrize(
    ("variant", "around", "present", "missing"),
    [
        ("T13", "T13", {19, 28, 20}, set()),
        ("no-T12", "L1", {18, 20}, {19, 28}),
        ("L6", "L6", {24, 25}, {28}),
        ("L4-only", "L4", {22, 23}, {24, 25}),
    ],
)
def test_variants_are_in_the_scan(variant, around, present, missing):
    grid = grid_at(spine_of(variant=variant).at(row_of_name(around)), (14, 18, 40), np.diag([-2.5, -2.2, 2.0]))
    phantom = make_phantom(SEED, variant=variant, grid=grid)
    found = set(np.unique(phantom.labels).tolist())
    assert present <= found
    assert not missing & found
    assert present <= {LABELS[row] for row in present_rows(phantom.landmarks_mm)} | {18, 20, 22, 24}
    if variant == "T13":
        levels = phantom.parameters["levels"]
        assert levels[levels.index("T12") : levels.index("L2")] == ["T12", "T13", "L1"]


def test_variants_come_at_their_rates():
    rng = np.random.default_rng(0)
    drawn = [draw_rows(rng) for _ in range(4000)]
    rates = {
        "T13": np.mean([T13 in rows for rows in drawn]),
        "L6": np.mean([24 in rows for rows in drawn]),
        "L4-only": np.mean([23 not in rows for rows in drawn]),
        "no-T12": np.mean([18 not in rows for rows in drawn]),
    }
    assert rates == pytest.approx({"T13": 0.02, "L6": 0.08, "L4-only": 0.01, "no-T12": 0.02}, abs=0.012)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("T14", "variant 'T14': expected none, L6"),
        ("L6+L4-only", "variant 'L6\\+L4-only': L6 and L4-only exclude each other"),
        ("no-T12+metal+T13", "T13 and no-T12 exclude each other"),
        ("none+metal", "none excludes every other"),
        ("wedge-4", "variant 'wedge-4'"),
    ],
)
def test_impossible_variants(variant, message):
    for refuse in (parse_variant, lambda name: make_phantom(SEED, variant=name)):
        with pytest.raises(ValueError, match=message):
            refuse(variant)


def test_none_is_a_regular_spine():
    document = draw_variants(np.random.default_rng(0), "none").document()
    ribs = document.pop("rib_shares")
    assert not any(document.values())
    assert list(ribs) == [f"T{i}" for i in range(1, 13)]
    assert all(min(pair) > 0.05 for pair in ribs.values())


def test_everything_asked_for_is_drawn_and_nothing_else():
    document = draw_variants(
        np.random.default_rng(4), "L6+wedge-2+crush-3+listhesis+block+transitional+metal"
    ).document()
    assert document["counted"] == ["L6"]
    kinds = sorted((f["kind"], f["grade"]) for f in document["fractures"].values())
    assert kinds == [("crush", 3), ("wedge", 2)]
    assert len(document["listhesis_mm"]) == len(document["fused"]) == 1
    assert document["transitional"]["vertebra"] == "L6"
    assert document["metal"]["vertebrae"]
    upper, lower = document["fused"][0]
    assert not {upper, lower} & set(document["fractures"])
    assert NAMES.index(lower) == NAMES.index(upper) + 1


@pytest.mark.parametrize("name", ["wedge-1", "biconcave-2", "crush-3"])
def test_fracture_grades_state_the_lost_height(name):
    kind, grade = name.split("-")
    for seed in range(5):
        ((row, fracture),) = draw_variants(np.random.default_rng(seed), name).fractures.items()
        low, high = GRADE_LOSS[int(grade)]
        assert (fracture.kind, fracture.grade) == (kind, int(grade))
        assert low <= fracture.loss <= high
        assert row > row_of_name("T3")


def test_short_ribs():
    for seed in range(12):
        ribs = draw_variants(np.random.default_rng(seed), "short-ribs").ribs
        regular = draw_variants(np.random.default_rng(seed), "none").ribs
        assert max(ribs[17]) < 0.33
        assert max(ribs[T12_ROW]) < 0.11
        assert min(regular[17]) > 0.15
        assert min(regular[T12_ROW]) > 0.09
    assert max(draw_variants(np.random.default_rng(0), "T13").ribs[T13_ROW]) < 0.22


def test_a_slipped_vertebra_lies_that_far_in_front():
    """All above moves with it: against the same spine without the slip, everything below lies behind."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        spine = draw_spine(rng, "listhesis")
        ((row, slip),) = spine.variants.slips_mm.items()
        index = spine.rows.index(row)
        assert 4 <= slip <= 12
        step = spine.ends_mm()[index + 1] - spine.centers_mm[index]
        along = spine.frames[index]
        # the step of the regular spine runs along the mean of two frames; the slip adds to its part along the front
        assert (step @ along[:, 1]) < -slip + 14
        assert row in spine.rows[-3:]


def test_fractures_bring_neighbors_together():
    """A crush of 40-60 % takes that share of the body, three quarters of the distance, half above and half below."""
    for seed in range(6):
        spine = draw_spine(np.random.default_rng(seed), "crush-3")
        ((row, fracture),) = spine.variants.fractures.items()
        index = spine.rows.index(row)
        around = np.linalg.norm(np.diff(spine.ends_mm(), axis=0), axis=1)
        expected = 1 - 0.375 * fracture.loss
        growth = [around[i] / around[[j for j in (i - 2, i + 2) if 3 < j < len(around) - 2]].mean() for i in (index,)]
        assert growth[0] < expected * 1.25


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "none"])
def test_a_field_of_view_holds_the_variant(variant):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        spine = draw_spine(rng, variant)
        focus = spine.variants.focus()
        grid = draw_grid(rng, spine, PRESETS["mixed"], focus)
        low, high = bounds_mm(grid)
        heights = [spine.centers_mm[spine.rows.index(row)][2] for row in focus]
        assert focus or variant == "short-ribs"
        assert all(low[2] < z < high[2] for z in heights)


@pytest.mark.parametrize(
    ("variant", "row", "around"), [("block", None, 14), ("transitional", -1, 30), ("biconcave-3", None, 10)]
)
def test_variants_of_shape_are_in_the_mask(variant, row, around):
    """A fused pair touches; a transitional vertebra is wider; a fractured one lower, than the regular neighbor."""
    spine = spine_of((3, 1), variant)
    focus = spine.variants.focus()
    grid = grid_at(spine.centers_mm[spine.rows.index(focus[0])] - [0, 12, 10], (62, 48, 40), np.diag([2.0, 2.0, 1.5]))
    phantom = make_phantom((3, 1), variant=variant, grid=grid)
    labels = phantom.labels
    if variant == "block":
        upper, lower = (LABELS[r] for r in focus)
        touching = (labels[..., 1:] == upper) & (labels[..., :-1] == lower)
        assert touching.sum() > 20
    elif variant == "transitional":
        mask = labels == LABELS[focus[0]]
        low_part = mask[..., : labels.shape[2] // 2]
        assert mask.sum() > 1000
        assert np.ptp(np.argwhere(low_part)[:, 0]) * 2.0 > 60
    else:
        assert labels.max() > 0
        center = phantom.landmarks_mm[focus[0]]
        voxel = np.rint(np.linalg.solve(grid.affine, [*center, 1])[:3]).astype(int)
        assert labels[tuple(voxel)] == LABELS[focus[0]]


@pytest.mark.parametrize("seed", range(6))
def test_spines_go_down_the_body(seed):
    spine = spine_of((seed,), None)
    steps = np.diff(spine.centers_mm, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    assert spine.centers_mm[0].tolist() == [0, 0, 0]
    assert (steps[:, 2] < 0).all()
    assert (lengths > 9).all()
    assert (lengths < 52).all()
    assert lengths[-4:].mean() > 1.4 * lengths[2:6].mean()  # lumbar against cervical
    np.testing.assert_allclose(
        spine.frames.swapaxes(1, 2) @ spine.frames, np.broadcast_to(np.eye(3), spine.frames.shape), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(spine.frames), 1)
    assert (spine.frames[:, 0, 0] > 0.7).all()  # the first axis points right ...
    assert (spine.frames[:, 2, 2] > 0.3).all()  # ... and the third one up
    assert (spine.sacrum_mm - spine.centers_mm[-1])[2] < 0


def test_spinous_processes_of_a_chest_are_steep_together():
    """T9 falls 0.25 more; SD 0.2 between subjects and 0.08 within one: 0.215 in all; L5 has a fifth of it."""
    spines = [draw_spine(np.random.default_rng(seed), "none") for seed in range(400)]
    slopes = np.array([spine.slopes for spine in spines])
    t8, t9, l5 = (slopes[:, row_of_name(name)] for name in ("T8", "T9", "L5"))
    assert t9.mean() == pytest.approx(0.25, abs=0.03)
    assert t9.std() == pytest.approx(0.215, abs=0.02)
    assert l5.mean() == pytest.approx(0, abs=0.01)
    assert l5.std() == pytest.approx(0.215 / 5, abs=0.005)
    assert np.corrcoef(t8, t9)[0, 1] > 0.9


def test_nearest_row_of_a_spine():
    spine = spine_of(variant="no-T12")
    assert np.array_equal(spine.at(L1), spine.centers_mm[spine.rows.index(L1)])
    assert np.array_equal(spine.at(24), spine.centers_mm[-1])
    with_t13 = spine_of(variant="T13")
    assert np.array_equal(with_t13.at(T13), with_t13.centers_mm[19])
