"""The self-test on networks that know the answer, and on results that are wrong in one way each."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ball_spine import ball_spine
from nibabel.affines import apply_affine

from pipeline.cli import main
from pipeline.images import InputError
from pipeline.labels import LABELS, row_of_name
from pipeline.run import NoSpineFound
from pipeline.selftest import (
    MOVED_MM,
    VARIATIONS,
    Outcome,
    Variation,
    check,
    cropped,
    moved,
    noisy,
    reordered,
    resampled,
    table,
)

NAMES = ("T12", "L1", "L2")
GRID = {"axcodes": "PIL", "oblique": True, "spacing_mm": (1.5, 1.9, 2.3)}


@pytest.fixture(scope="module")
def spine():
    return ball_spine(NAMES, **GRID)


def ideal(scan):
    """What a perfect pipeline finds: balls are told by their HU, so any change of the grid carries them along."""
    landmarks_mm, labels = np.full((26, 3), np.nan), np.zeros(scan.array.shape, np.uint8)
    for name in NAMES:
        row = row_of_name(name)
        inside = np.abs(scan.array - (280.0 + 14.0 * row)) < 6
        if inside.any():
            landmarks_mm[row] = apply_affine(scan.affine, np.argwhere(inside).mean(axis=0))
            labels[inside] = LABELS[row]
    return SimpleNamespace(scan=scan, labels=labels, labelling=SimpleNamespace(landmarks_mm=landmarks_mm))


def brightest_mm(scan):
    """World position of one voxel that a marker makes unique."""
    return apply_affine(scan.affine, np.unravel_index(scan.array.argmax(), scan.array.shape))


def marked(spine, index=(11, 23, 7)):
    scan = spine[0]
    array = scan.array.copy()
    array[index] = 3000
    return replace(scan, array=array), apply_affine(scan.affine, index)


def test_a_reordered_scan_is_the_same_in_the_world(spine):
    scan, where_mm = marked(spine)
    changed = reordered(scan, (2, 0, 1), (-1, 1, -1))
    i, j, k = scan.array.shape
    assert changed.array.shape == (k, i, j)
    assert changed.array[k - 1 - 7, 11, j - 1 - 23] == 3000
    assert brightest_mm(changed) == pytest.approx(where_mm)


def test_a_moved_scan_is_elsewhere(spine):
    scan, where_mm = marked(spine)
    assert brightest_mm(moved(scan, MOVED_MM)) - where_mm == pytest.approx([37, -52, 111])


def test_a_cropped_scan_keeps_its_place_and_what_is_near(spine):
    scan, where_mm = marked(spine)
    changed = cropped(scan, where_mm[None], np.array([9.0, 9.0, 9.0]))
    assert brightest_mm(changed) == pytest.approx(where_mm)
    assert max(changed.array.shape) < min(scan.array.shape)


def test_a_resampled_scan_keeps_its_corner_and_its_content(spine):
    scan = spine[0]
    changed = resampled(scan, 1.25)
    corner = [apply_affine(s.affine, [-0.5, -0.5, -0.5]) for s in (scan, changed)]
    assert corner[0] == pytest.approx(corner[1])
    assert changed.array.shape == tuple(int(n / 1.25) for n in scan.array.shape)
    bone_mm = [apply_affine(s.affine, np.argwhere(s.array > 150)).mean(axis=0) for s in (scan, changed)]
    assert bone_mm[1] == pytest.approx(bone_mm[0], abs=0.2), "half a voxel would be 0.7 mm or more"


def test_noise_is_the_same_in_every_run_and_of_the_stated_size(spine):
    one, two = noisy(spine[0], 20.0), noisy(spine[0], 20.0)
    np.testing.assert_array_equal(one.array, two.array)
    tissue = spine[0].array == 20
    assert (one.array[tissue] - 20.0).std() == pytest.approx(20, rel=0.02)


def test_a_perfect_pipeline_passes_everything_that_keeps_the_voxels(spine):
    exact = [v for v in VARIATIONS if "larger" not in v.name and "noise" not in v.name]
    outcomes = check(ideal, spine[0], exact)
    assert len(outcomes) == 6
    for outcome in outcomes:
        assert outcome.passed
        assert outcome.compared == 3
        assert outcome.points_mm < 1e-6
        assert outcome.dice == 1.0


def spoiled(spoil):
    """A pipeline whose second and later results are spoiled."""
    calls = []

    def pipeline(scan):
        result = ideal(scan)
        calls.append(scan)
        return spoil(result) if len(calls) > 1 else result

    return pipeline


def loses_l2(result):
    result.labelling.landmarks_mm[row_of_name("L2")] = np.nan
    return result


def gains_l3(result):
    result.labelling.landmarks_mm[row_of_name("L3")] = 0.0
    return result


def moves_l1(result):
    result.labelling.landmarks_mm[row_of_name("L1")] += [0.0, 0.0, 0.7]
    return result


def shifts_the_mask(result):
    result.labels = np.roll(result.labels, 2, axis=0)
    return result


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (loses_l2, "CHANGED: lost L2"),
        (gains_l3, "CHANGED: gained L3"),
        (moves_l1, "CHANGED: off L1"),
        (moves_l1, "0.70 (<= 0.50)"),
        (shifts_the_mask, "CHANGED: off T12 L1 L2"),
    ],
)
def test_each_way_to_be_wrong_is_told(spine, spoil, said):
    flipped = next(v for v in VARIATIONS if "flipped" in v.name)
    (outcome,) = check(spoiled(spoil), spine[0], [flipped])
    assert not outcome.passed
    assert said in table([outcome])
    assert "0 of 1 within the tolerances" in table([outcome])


def test_vertebrae_that_a_crop_cuts_do_not_count(spine):
    cut = Variation("cut", lambda s, points: cropped(s, points[1:2], np.array([40, 40, 16.0])), 0.5, 0.97)
    (outcome,) = check(ideal, spine[0], [cut])
    assert outcome.compared == 1, "only L1 is whole"
    assert outcome.lost == ()


@pytest.mark.parametrize("error", [NoSpineFound("no spine found"), InputError("not a CT")])
def test_a_scan_that_is_no_longer_accepted_fails(spine, error):
    def refuse(result):
        raise error

    (outcome,) = check(spoiled(refuse), spine[0], VARIATIONS[:1])
    assert not outcome.passed
    assert str(error) in table([outcome])


def test_nothing_compared_is_no_success():
    assert not Outcome(VARIATIONS[0], 0).passed


def test_exit_codes(monkeypatch):
    def outcome(off):
        return [Outcome(VARIATIONS[1], 3, off=off)]

    monkeypatch.setattr("pipeline.selftest.VertebraePipeline", lambda device: None)
    monkeypatch.setattr("pipeline.selftest._phantom", lambda: None)
    for off, code in (((), 0), (("L1",), 4)):
        monkeypatch.setattr("pipeline.selftest.check", lambda pipeline, scan, off=off: outcome(off))
        assert main(["selftest"]) == code


@pytest.mark.slow
def test_the_real_pipeline_with_knowing_networks_passes(oracle_pipeline, spine):
    outcomes = check(oracle_pipeline, spine[0])
    assert all(outcome.passed for outcome in outcomes), table(outcomes)
    assert all(outcome.compared == 3 for outcome in outcomes)
