"""The whole pipeline on scans whose answer is known: real bundles, real geometry, networks that know (`oracles.py`)."""

import nibabel as nib
import numpy as np
import pytest
from ball_spine import ball_spine, save_scan
from oracles import BlindOracle, NothingOracle

from pipeline import NoSpineFound, VertebraePipeline
from pipeline.labels import LABELS, row_of_name
from pipeline.landmarks import present_rows, read_csv
from pipeline.metrics import dice
from pipeline.numbering import OpenEnd
from pipeline.results import write_result
from pipeline.run import reaching

NAMES = ("T11", "T12", "L1", "L2")


def assert_found(result, names, labels, landmarks_mm):
    assert [vertebra.name for vertebra in result.labelling.vertebrae] == list(names)
    found_mm = result.labelling.landmarks_mm
    assert present_rows(found_mm) == present_rows(landmarks_mm)
    # Found: 0.2 mm and 0.99. Half a voxel forgotten in stage two is 1.8 mm, a whole one in stage three a Dice of 0.89.
    assert np.nanmax(np.linalg.norm(found_mm - landmarks_mm, axis=1)) < 0.5
    assert result.labels.dtype == np.uint8
    assert set(np.unique(result.labels)) == set(np.unique(labels))
    for name in names:
        assert dice(result.labels, labels, LABELS[row_of_name(name)]) > 0.97


@pytest.mark.parametrize("oblique", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SAL"])
def test_every_orientation_gives_the_same_answer(oracle_pipeline, axcodes, oblique):
    scan, labels, landmarks_mm = ball_spine(NAMES, axcodes, oblique=oblique)
    result = oracle_pipeline(scan)
    assert result.scan is scan
    assert result.labels.shape == scan.array.shape
    assert_found(result, NAMES, labels, landmarks_mm)


def test_two_vertebrae_are_enough(oracle_pipeline):
    scan, labels, landmarks_mm = ball_spine(("L3", "L4"), "LAS", spacing_mm=(2.2, 1.4, 3.1))
    assert_found(oracle_pipeline(scan), ("L3", "L4"), labels, landmarks_mm)


def test_a_file_gives_files_on_its_own_grid(oracle_pipeline, tmp_path):
    scan, _, landmarks_mm = ball_spine(("L3", "L4"), "PIR", oblique=True, spacing_mm=(2.0, 2.4, 1.8))
    stages = []
    result = oracle_pipeline(save_scan(tmp_path / "case_7.nii.gz", scan), stages.append)
    assert stages == ["spine_loc", "vert_loc", "vert_seg"]
    assert list(result.seconds) == stages
    write_result(result, tmp_path / "out", oracle_pipeline.versions)

    written, source = nib.load(tmp_path / "out" / "case_7_segmentation.nii.gz"), nib.load(tmp_path / "case_7.nii.gz")
    assert written.get_data_dtype() == np.uint8
    assert written.shape == source.shape
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), result.labels)
    found_mm = read_csv(tmp_path / "out" / "case_7_landmarks.csv")
    assert np.nanmax(np.linalg.norm(found_mm - landmarks_mm, axis=1)) < 0.5


def test_the_stages_hand_over_world_positions(oracle_pipeline):
    scan, _, landmarks_mm = ball_spine(("L3", "L4"), "SAL", oblique=True)
    box_mm = oracle_pipeline.find_spine(scan)
    present = landmarks_mm[present_rows(landmarks_mm)]
    assert (box_mm[0] < present).all()
    assert (present < box_mm[1]).all()
    everywhere = oracle_pipeline.find_vertebrae(scan).landmarks_mm  # without the box: the whole scan
    np.testing.assert_allclose(everywhere, oracle_pipeline.find_vertebrae(scan, box_mm).landmarks_mm, atol=1.0)


LONG = ("T6", "T7", "T8", "T9", "T10", "T11", "T12", "L1", "L2")


@pytest.mark.parametrize("axcodes", ["RAS", "PIR"])
@pytest.mark.parametrize("part", [slice(0, 4), slice(3, 5), slice(6, 9)], ids=["top", "middle", "bottom"])
def test_a_box_that_ends_in_the_middle_of_the_spine_does_not_end_the_search(oracle_pipeline, axcodes, part):
    scan, _, landmarks_mm = ball_spine(LONG, axcodes, oblique=True)
    seen = landmarks_mm[present_rows(landmarks_mm)][part]
    labelling = oracle_pipeline.find_vertebrae(scan, np.stack([seen.min(axis=0) - 10, seen.max(axis=0) + 10]))
    assert [vertebra.name for vertebra in labelling.vertebrae] == list(LONG)
    assert np.nanmax(np.linalg.norm(labelling.landmarks_mm - landmarks_mm, axis=1)) < 1.0  # half a voxel
    assert labelling.open_ends == ()


def test_a_wider_box_reaches_the_scans_end_on_the_open_sides_only():
    box_mm, view_mm = np.array([[-20.0, -30, 100], [20, 30, 300]]), np.array([[-90.0, -80, -50], [90, 80, 900]])
    below = OpenEnd("T7", "below", np.array([5.0, -70, 20]), searched=False)
    above = OpenEnd("C4", "above", np.array([-45.0, 0, 380]), searched=False)
    np.testing.assert_array_equal(reaching(box_mm, [below], view_mm), [[-20, -70, -50], [20, 30, 300]])
    np.testing.assert_array_equal(reaching(box_mm, [above, below], view_mm), [[-45, -70, -50], [20, 30, 900]])


def test_no_spine_is_said_and_not_guessed(oracle_pipeline, monkeypatch):
    scan, _, _ = ball_spine(("L3", "L4"))
    monkeypatch.setattr(oracle_pipeline.spine_loc, "network", BlindOracle())
    with pytest.raises(NoSpineFound, match=r"balls\.nii\.gz: no spine"):
        oracle_pipeline(scan)


def test_a_spine_without_vertebrae_is_no_spine(oracle_pipeline, monkeypatch):
    scan, _, _ = ball_spine(("L3", "L4"))
    monkeypatch.setattr(oracle_pipeline.vert_loc, "network", NothingOracle())
    with pytest.raises(NoSpineFound, match=r"balls\.nii\.gz: .*no vertebra"):
        oracle_pipeline(scan)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pt: no weights for spine_loc"):
        VertebraePipeline(device="cpu", checkpoints={"spine_loc": tmp_path / "nowhere.pt"})
