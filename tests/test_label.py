"""The label server's parts that need no server: clicks, masks and their numbers, bad starts."""

import json
import socket
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ball_spine import ball_spine

from pipeline.cli import main
from pipeline.label import launch
from pipeline.label.answers import VALUES, describe, write_box, write_clicked, write_mask, write_points
from pipeline.label.clicks import beside, clicked_point_mm
from pipeline.label.runner import partial_result
from pipeline.labels import row_of_name
from pipeline.landmarks import absent, present_rows

# A spine that leans: neighbors 25 mm apart in z, 5 mm in y.
FOUND = {"T11": (0, 0, 50), "T12": (0, 5, 25), "L1": (0, 10, 0), "L2": (0, 15, -25)}


def spine(positions: dict) -> np.ndarray:
    landmarks_mm = absent()
    for name, position in positions.items():
        landmarks_mm[row_of_name(name)] = position
    return landmarks_mm


@pytest.mark.parametrize(
    ("name", "clicked", "expected"),
    [
        ("L1", (2, 10, 1), {"T12": "T12", "L2": "L2"}),
        ("L2", (2, 10, 1), {"L1": "T12", "L3": "L2"}),  # the names found are one off; their places count
        ("L1", (0, 8, 12), {"T12": "T12", "L2": "L1"}),  # between two found ones: one was missed
        ("T13", (2, 10, 1), {"T12": "T12", "L1": "L2"}),
        ("C1", (0, 5, 25), {"C2": "L1"}),  # nothing is above C1
        ("L2", (0, 15, -24), {"L1": "L1"}),
    ],
)
def test_a_click_is_given_its_neighbors(name, clicked, expected):
    landmarks_mm = beside(spine(FOUND), np.array(clicked, float), row_of_name(name))
    wanted = spine({name: clicked, **{new: FOUND[old] for new, old in expected.items()}})
    np.testing.assert_array_equal(landmarks_mm, wanted)


def test_without_neighbors_a_click_is_alone():
    landmarks_mm = beside(absent(), np.array([1.0, 2, 3]), 7)
    assert present_rows(landmarks_mm) == [7]


def test_a_clicked_voxel_becomes_millimeters():
    scan = ball_spine(("L1",), "PIR", oblique=True, spacing_mm=(2.0, 2.4, 1.8))[0]
    expected = scan.affine @ [3, 4, 5, 1]
    np.testing.assert_allclose(clicked_point_mm(scan, [[9, 9, 9], [3, 4, 5]]), expected[:3])
    for points in (None, [], [[1, 2]], [["a", 1, 2]], "no"):
        with pytest.raises(ValueError, match="expected one voxel"):
            clicked_point_mm(scan, points)
    for outside in ([-1, 0, 0], [0, 0, scan.array.shape[2]]):
        with pytest.raises(ValueError, match="outside the scan"):
            clicked_point_mm(scan, [outside])


@pytest.fixture
def result(tmp_path, monkeypatch):
    """Return a result with T13 (28) and L1 in the mask, on an oblique grid; files are written to `tmp_path`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scan, labels, _ = ball_spine(("T13", "L1"), "SAL", oblique=True, spacing_mm=(3.0, 2.4, 2.8))
    return partial_result(scan, labels=labels, box_mm=np.array([[-40.0, -50, -60], [-10, 30, 100]]))


def test_values_have_no_gap(result):
    assert list(VALUES.values()) == list(range(1, 27))
    values = np.asarray(nib.load(write_mask(result, {})).dataobj)
    np.testing.assert_array_equal(values == 26, result.labels == 28)
    np.testing.assert_array_equal(values == 20, result.labels == 20)
    clicked = np.asarray(nib.load(write_clicked(result, {"label": "T13"})).dataobj)
    np.testing.assert_array_equal(clicked, result.labels == 28)
    with pytest.raises(ValueError, match=r"result_extension '\.txt': expected"):
        write_mask(result, {"result_extension": ".txt"})


def test_the_box_is_in_lps(result):
    roi = json.loads(Path(write_box(result, {})).read_text())["markups"][0]
    assert roi["center"] == [25.0, 10.0, 20.0]
    assert roi["size"] == [30.0, 80.0, 160.0]


def test_nothing_found_is_an_answer(result):
    scan = result.scan
    empty = partial_result(scan)
    answer = describe(empty, {"spine_loc": "1"}, checked=False)
    assert (answer["vertebrae"], answer["warnings"], answer["spine_box_mm"]) == ([], [], None)
    assert json.loads(Path(write_box(empty, {})).read_text())["markups"] == []
    assert json.loads(Path(write_points(empty, {})).read_text())["markups"][0]["controlPoints"] == []
    json.dumps(answer, allow_nan=False)


@pytest.fixture
def studies(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "a.nii.gz").write_text("")
    return tmp_path / "studies"


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(launch, "check_installed", lambda: None)


def test_a_studies_folder_must_hold_scans(studies, tmp_path, capsys, installed):
    assert main(["label", "--studies", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err == f"vertebrae: {tmp_path / 'no'}: no such folder\n"
    (studies / "a.nii.gz").rename(studies / "a.txt")
    assert main(["label", "--studies", str(studies)]) == 2
    assert f"{studies}: no scan; expected *.nii.gz" in capsys.readouterr().err
    assert not (studies / ".vertebrae").exists()


def test_bundles_and_device_must_be_there(studies, tmp_path, capsys, installed):
    assert main(["label", "--studies", str(studies), "--bundles", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"vertebrae: {tmp_path}: no bundle spine_loc in it\n"
    assert main(["label", "--studies", str(studies), "--device", "abacus"]) == 2
    assert "device 'abacus': expected auto, cpu, cuda" in capsys.readouterr().err


def test_a_port_in_use_is_named(studies, capsys, installed):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["label", "--studies", str(studies), "--port", str(port)]) == 2
        assert f"127.0.0.1:{port}: cannot listen there (Address already in use)" in capsys.readouterr().err
    assert main(["label", "--studies", str(studies), "--port", "99999"]) == 2
    assert "127.0.0.1:99999: cannot listen there" in capsys.readouterr().err


def test_without_monai_label_the_command_says_what_to_install(studies, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "monailabel", None)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    assert main(["label", "--studies", str(studies)]) == 2
    assert "MONAI Label is not installed: pip install '.[label]'" in capsys.readouterr().err
