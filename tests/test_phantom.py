"""Synthetic scans: the truth lies where it says, on every grid, and the same seed gives the same bytes."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from phantoms import SEED, grid_at, oblique, spine_of

from pipeline.labels import LABELS, NAMES, ROWS_BY_LEVEL, row_of_name
from pipeline.landmarks import body_center_mm, present_rows
from pipeline.phantom import PRESETS, make_phantom
from pipeline.phantom.exposure import draw_look, expose, outside_view
from pipeline.phantom.generate import Phantom, _at_edge
from pipeline.phantom.grids import COARSE_MM, draw_grid
from pipeline.spaces import Grid, bounds_mm, spacing_mm, to_voxel, to_world

L1 = row_of_name("L1")


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """About three lumbar vertebrae on an oblique grid."""
    return make_phantom(SEED, variant="none", grid=oblique())


def test_arrays(phantom):
    assert phantom.hu.shape == phantom.labels.shape == (46, 58, 50)
    assert (phantom.hu.dtype, phantom.labels.dtype) == (np.int16, np.uint8)
    assert np.array_equal(phantom.affine, oblique().affine)
    assert phantom.landmarks_mm.shape == (26, 3)
    assert phantom.hu.min() >= -1024
    assert set(np.unique(phantom.labels)) <= {0, *LABELS}


def test_same_seed_same_bytes(phantom):
    again = make_phantom(list(SEED), variant="none", grid=oblique())
    assert again.hu.tobytes() == phantom.hu.tobytes()
    assert again.labels.tobytes() == phantom.labels.tobytes()
    assert again.parameters == phantom.parameters
    assert json.dumps(phantom.parameters)
    np.testing.assert_array_equal(again.landmarks_mm, phantom.landmarks_mm)


def test_other_seed_other_scan():
    first, second = (make_phantom((7, index), grid=oblique((12, 9, 8))) for index in (3, 4))
    assert not np.array_equal(first.hu, second.hu)
    assert first.parameters["bone"] != second.parameters["bone"]
    assert first.parameters["look"] != second.parameters["look"]


def test_landmarks_are_the_centers_in_view(phantom):
    spine, grid = spine_of(), oblique()
    index = to_voxel(grid.affine, spine.centers_mm)
    inside = ((index >= 0) & (index <= np.array(grid.shape) - 1)).all(axis=1)
    assert present_rows(phantom.landmarks_mm) == [spine.rows[i] for i in np.flatnonzero(inside)]
    assert len(present_rows(phantom.landmarks_mm)) >= 3
    for row in present_rows(phantom.landmarks_mm):
        np.testing.assert_array_equal(phantom.landmarks_mm[row], spine.centers_mm[spine.rows.index(row)])


@pytest.mark.parametrize(("beyond_vox", "names"), [(0.3, ["L1"]), (-0.3, ["T12", "L1", "L2"])])
def test_field_of_view_ends_at_the_outermost_voxel_centers(beyond_vox, names):
    """T12 and L2 lie that far above the highest and below the lowest slice."""
    high_mm, middle_mm, low_mm = (spine_of().at(row_of_name(name)) for name in ("T12", "L1", "L2"))
    step = (high_mm[2] - low_mm[2]) / (7 + 2 * beyond_vox)
    center_mm = [middle_mm[0], middle_mm[1], (high_mm[2] + low_mm[2]) / 2]
    grid = grid_at(center_mm, (16, 16, 8), np.diag([3.0, 3.0, step]))
    landmarks_mm = make_phantom(SEED, variant="none", grid=grid).landmarks_mm
    assert [NAMES[row] for row in present_rows(landmarks_mm)] == names


def test_landmarks_lie_in_their_own_label(phantom):
    for row in present_rows(phantom.landmarks_mm):
        voxel = np.rint(to_voxel(phantom.affine, phantom.landmarks_mm[row])).astype(int)
        assert phantom.labels[tuple(voxel)] == LABELS[row]


def test_landmarks_are_body_centers(phantom):
    assert len(phantom.complete) >= 1
    for name in phantom.complete:
        row = row_of_name(name)
        found_mm = body_center_mm(phantom.labels == LABELS[row], phantom.affine)
        assert np.linalg.norm(found_mm - phantom.landmarks_mm[row]) < 2.5


def test_masks_follow_each_other_down_the_body(phantom):
    heights = [
        to_world(phantom.affine, np.argwhere(phantom.labels == LABELS[row])).mean(axis=0)[2]
        for row in ROWS_BY_LEVEL
        if (phantom.labels == LABELS[row]).sum() > 50
    ]
    assert len(heights) >= 3
    assert (np.diff(heights) < -15).all()


def test_complete_vertebrae_touch_no_border(phantom):
    inner = phantom.labels[1:-1, 1:-1, 1:-1]
    for row in present_rows(phantom.landmarks_mm):
        whole = (inner == LABELS[row]).sum() == (phantom.labels == LABELS[row]).sum()
        assert whole == (NAMES[row] in phantom.complete)
    assert any(share < 0.98 for share in phantom.parameters["share_in_view"].values())


def test_bone_is_brighter_than_what_surrounds_it(phantom):
    assert np.median(phantom.hu[phantom.labels > 0]) > np.median(phantom.hu[phantom.labels == 0]) + 40


def test_the_same_subject_on_another_grid():
    """Any order and direction of the axes shows the same labels at the same places."""
    grid = oblique((16, 12, 14))
    labels = make_phantom(SEED, variant="none", grid=grid).labels
    flipped = grid.affine @ np.array([[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, -1, 13], [0, 0, 0, 1]])
    turned = Grid((14, 16, 12), flipped[:, [2, 0, 1, 3]])
    other = make_phantom(SEED, variant="none", grid=turned).labels
    assert (labels > 0).sum() > 300
    assert np.array_equal(other.transpose(1, 2, 0)[::-1, :, ::-1], labels)


@pytest.mark.parametrize("slice_mm", [3.0, 5.2])
def test_labels_of_thick_slices_are_those_at_the_middle_of_the_slice(slice_mm):
    """Slices of 2.5 mm and more were labeled a quarter of their thickness beside their middle."""
    center_mm = spine_of().at(L1)
    thick = make_phantom(
        SEED, variant="none", grid=grid_at(center_mm, (16, 22, 7), np.diag([2.0, 2.0, slice_mm]))
    ).labels
    thin = make_phantom(
        SEED, variant="none", grid=grid_at(center_mm, (16, 22, 21), np.diag([2.0, 2.0, slice_mm / 3]))
    ).labels
    assert (thick > 0).sum() > 300
    assert np.array_equal(thick, thin[..., 1::3])


@pytest.mark.parametrize("name", PRESETS)
def test_drawn_grids(name):
    preset, spine = PRESETS[name], spine_of()
    codes, turns, coarse = set(), [], 0
    for seed in range(30):
        grid = draw_grid(np.random.default_rng(seed), spine, preset)
        size = sorted(spacing_mm(grid.affine))
        fine_mm = np.array([preset.plane_mm, preset.slice_mm or preset.plane_mm])
        every_mm = np.array([*fine_mm, *COARSE_MM]) if preset.coarse else fine_mm
        assert every_mm.min() - 1e-9 <= size[0]
        assert size[2] <= every_mm.max() + 1e-9
        coarse += size[2] > fine_mm.max() + 1e-9
        assert min(grid.shape) >= 8
        low_mm, high_mm = bounds_mm(grid)
        assert ((spine.centers_mm > low_mm) & (spine.centers_mm < high_mm)).all(axis=1).sum() >= 2
        codes.add("".join(nib.aff2axcodes(grid.affine)))
        unit = grid.affine[:3, :3] / spacing_mm(grid.affine)
        np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-9)
        turns.append(np.rad2deg(np.arccos(np.abs(unit).max(axis=0).clip(max=1))).max())
    assert (len(codes) > 10) if preset.any_axes else (codes == {"RAS"})
    assert 0 < coarse < 20 if preset.coarse else coarse == 0
    assert 5 < sum(turn < 1e-3 for turn in turns) < 25  # half of the scans are straight
    assert 3 < max(turns) < 2 * preset.turn_deg


def test_as_many_scans_as_in_verse_end_below_the_last_lumbar_vertebra():
    spine = spine_of()
    grids = [draw_grid(np.random.default_rng(seed), spine, PRESETS["localization"]) for seed in range(200)]
    low_mm = np.array([bounds_mm(grid)[0][2] for grid in grids])
    assert 0.5 < (low_mm < spine.centers_mm[-1, 2]).mean() < 0.75
    assert (low_mm < spine.sacrum_mm[2] - 100).mean() > 0.15  # and show most of the sacrum
    assert min(low_mm) > spine.sacrum_mm[2] - 260


def test_a_round_field_of_view_hides_what_lies_outside():
    """Slices along j, 30 x 20 voxels of 2 x 3 mm: the shorter side, 60 mm, is the diameter."""
    grid = grid_at([0, 0, 0], (30, 7, 20), np.array([[2.0, 0, 0], [0, 0, 3], [0, 4, 0]]))
    look = replace(draw_look(np.random.default_rng(0)), circle=1.0, padding=-1024.0)
    hidden = outside_view(grid, look)
    assert hidden.shape == (30, 7, 20)
    # voxel (i, k) lies at 2 (i - 14.5), 3 (k - 9.5) mm; radius 30 mm
    for i, k, out in ((0, 9, False), (14, 0, False), (0, 0, True), (4, 3, False), (4, 1, True), (25, 18, True)):
        assert hidden[i, 3, k] == out
    hu = expose(np.zeros(grid.shape, np.float32), grid, look, np.random.default_rng(1))
    assert (hu[hidden] == -1024).all()
    assert not outside_view(grid, replace(look, circle=0.0)).any()


def test_landmarks_outside_a_round_field_of_view_are_absent():
    for index in range(40):
        phantom = make_phantom((9, index), grid=grid_at([0, 0, 0], (6, 5, 4), np.eye(3) * 40), variant="none")
        if phantom.parameters["look"]["circle"]:
            break
    hidden = phantom.hu == phantom.parameters["look"]["padding"]
    assert not phantom.labels[hidden].any()


def test_a_vertebra_cut_by_a_round_field_of_view_is_not_complete():
    """Label 19 lies beside hidden voxels, 20 apart from them, 21 in the first slice."""
    labels = np.zeros((7, 8, 9), dtype=np.uint8)
    labels[3, 2, 2:4], labels[4, 5, 5], labels[5, 3, 0] = 19, 20, 21
    hidden = np.zeros(labels.shape, dtype=bool)
    hidden[1:3, 2] = True
    assert _at_edge(labels, np.zeros_like(hidden)) == {0, 21}
    assert _at_edge(labels, hidden) == {0, 19, 21}


@pytest.mark.parametrize("sharpen", [0.0, 0.8])
def test_noise_has_the_drawn_spread(sharpen):
    """A smooth kernel shows the drawn SD; sharpening does not touch the noise added after it."""
    grid = grid_at([0, 0, 0], (40, 42, 38), np.diag([0.9, 1.1, 2.0]))
    look = replace(draw_look(np.random.default_rng(0)), noise=40.0, gain=1.0, offset=12.0, sharpen=sharpen, circle=0.0)
    hu = expose(np.full(grid.shape, 100, np.float32), grid, look, np.random.default_rng(1))
    assert hu.dtype == np.int16
    assert hu.mean() == pytest.approx(112, abs=3)
    assert hu.std() == pytest.approx(40, rel=0.06)


def test_bone_is_brighter_at_a_low_voltage():
    looks = [draw_look(np.random.default_rng(i)) for i in range(60)]
    assert {look.kv_gain for look in looks if look.kv == 80} == {1.35}
    assert {look.kv for look in looks} == {80, 100, 120, 140}
    assert all(5 <= look.noise <= 100 for look in looks)


def test_metal_is_bright_and_casts_streaks():
    spine = spine_of(variant="metal")
    row = spine.variants.metal.rows[0]
    grid = grid_at(spine.at(row) - [0, 15, 0], (40, 44, 24), np.diag([2.0, 2.0, 2.0]))
    phantom = make_phantom(SEED, variant="metal", grid=grid)
    assert (phantom.hu > 2300).sum() > 20
    assert phantom.parameters["variants"]["metal"]["vertebrae"][0] == NAMES[row]
    plain = make_phantom(
        SEED, variant="none", grid=grid_at(spine_of().at(row) - [0, 15, 0], (20, 22, 12), np.eye(3) * 4)
    )
    assert (plain.hu > 2300).sum() == 0
