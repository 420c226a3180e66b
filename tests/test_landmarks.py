"""Landmark files and the center of a vertebral body."""

import json
import re

import numpy as np
import pytest

from pipeline.landmarks import absent, body_center_mm, present_rows, read_csv, read_json, read_landmarks, write_csv
from pipeline.spaces import to_world

C2, T12, L5, T13 = 1, 18, 23, 25

# Stored foot to head, front to back, right to left: i steps 1.5 mm along +z, j 0.8 mm along -y, k 1.1 mm along -x.
STORED = np.array([[0, 0, -1.1, 50], [0, -0.8, 0, 60], [1.5, 0, 0, -70], [0, 0, 0, 1]])


def some_landmarks() -> np.ndarray:
    landmarks_mm = absent()
    landmarks_mm[C2] = [-12.5, 30.25, 211.0]
    landmarks_mm[L5] = [1.0, -2.0, -3.0]
    landmarks_mm[T13] = [4.0004, 0.1236, -0.0002]
    return landmarks_mm


def our_document(**changes) -> dict:
    vertebrae = [{"label": 2, "position_mm": [-12.5, 30.25, 211]}, {"label": 28, "position_mm": [4, 0.124, 0]}]
    return {"space": "RAS", "units": "mm", "vertebrae": vertebrae, **changes}


def test_absent_and_present():
    assert absent().shape == (26, 3)
    assert present_rows(absent()) == []
    landmarks_mm = some_landmarks()
    landmarks_mm[3] = [1.0, np.nan, 2.0]
    assert present_rows(landmarks_mm) == [C2, L5, T13]


def test_csv_is_readable_by_anyone(tmp_path):
    write_csv(tmp_path / "a.csv", some_landmarks())
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines == [
        "label,X,Y,Z",
        "2,-12.500,30.250,211.000",
        "24,1.000,-2.000,-3.000",
        "28,4.000,0.124,-0.000",
    ]


def test_csv_round_trip(tmp_path):
    write_csv(tmp_path / "a.csv", some_landmarks())
    np.testing.assert_allclose(read_csv(tmp_path / "a.csv"), some_landmarks(), atol=5e-4)


def test_csv_without_landmarks(tmp_path):
    write_csv(tmp_path / "a.csv", absent())
    assert (tmp_path / "a.csv").read_text().split() == ["label,X,Y,Z"]
    assert np.isnan(read_csv(tmp_path / "a.csv")).all()


def test_csv_with_names_and_other_columns(tmp_path):
    (tmp_path / "a.csv").write_text("note,Z,label,X,Y\nx,3,Th12,1,2\ny,-6.5,28,4,5e0\n")
    landmarks_mm = read_csv(tmp_path / "a.csv")
    assert present_rows(landmarks_mm) == [T12, T13]
    assert landmarks_mm[T12].tolist() == [1, 2, 3]
    assert landmarks_mm[T13].tolist() == [4, 5, -6.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns label,X,Y,Z, found None"),
        ("label,x,y,z\n1,2,3,4\n", r"expected the columns label,X,Y,Z, found \['label', 'x', 'y', 'z'\]"),
        ("label,X,Y,Z\n1,2,3,4\n26,1,2,3\n", "line 3: label 26 is not a vertebra: expected 1-25"),
        ("label,X,Y,Z\nS1,1,2,3\n", "line 2: 'S1' is not a vertebra name"),
        ("label,X,Y,Z\n1,2,3,4\nC1,5,6,7\n", "line 3: C1 appears twice"),
        ("label,X,Y,Z\n1,2,3,four\n", "line 2: could not convert string to float: 'four'"),
        ("label,X,Y,Z\n1,2,nan,4\n", r"line 2: \[2.0, nan, 4.0\] is no position: expected three numbers"),
        ("label,X,Y,Z\n1,inf,3,4\n", r"line 2: \[inf, 3.0, 4.0\] is no position"),
        ("label,X,Y,Z\n1,2,3\n", "line 2: float.* argument must be"),
        ("label,X,Y,Z\n1.5,2,3,4\n", "line 2: '1.5' is not a vertebra name"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.csv[:,] {message}"):
        read_csv(tmp_path / "bad.csv")


def test_json(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(our_document()))
    landmarks_mm = read_json(tmp_path / "a.json")
    assert present_rows(landmarks_mm) == [C2, T13]
    assert landmarks_mm[C2].tolist() == [-12.5, 30.25, 211]
    assert landmarks_mm[T13].tolist() == [4, 0.124, 0]
    assert np.array_equal(read_landmarks(tmp_path / "a.json"), landmarks_mm, equal_nan=True)


def test_format_follows_the_suffix(tmp_path):
    write_csv(tmp_path / "a.csv", some_landmarks())
    assert present_rows(read_landmarks(tmp_path / "a.csv")) == [C2, L5, T13]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], ": no 'vertebrae' list; expected a landmarks file written by vertebrae"),
        ({"space": "RAS", "units": "mm"}, ": no 'vertebrae' list"),
        (our_document(space="LPS"), ": space 'LPS', units 'mm'; expected RAS, mm"),
        (our_document(units="cm"), ": space 'RAS', units 'cm'; expected RAS, mm"),
        ({"vertebrae": []}, ": space None, units None; expected RAS, mm"),
        (our_document(vertebrae=[{"label": 27, "position_mm": [1, 2, 3]}]), ", entry .*label 27 is not a vertebra"),
        (our_document(vertebrae=[{"label": 2, "position_mm": [1, 2]}]), r", entry .*\[1.0, 2.0\] is no position"),
        (our_document(vertebrae=[{"label": 2}]), ", entry {'label': 2}: 'position_mm'"),
        (our_document(vertebrae=[{"label": 2, "position_mm": [1, 2, 3]}] * 2), ": C2 appears twice"),
    ],
)
def test_bad_json(tmp_path, document, message):
    (tmp_path / "bad.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=re.escape("bad.json") + message):
        read_json(tmp_path / "bad.json")


def test_no_json_at_all(tmp_path):
    (tmp_path / "bad.json").write_text('{"space": "RAS",')
    with pytest.raises(ValueError, match=r"bad\.json: not JSON: Expecting property name"):
        read_json(tmp_path / "bad.json")


def test_center_of_a_plain_block():
    mask = np.zeros((30, 40, 34), bool)
    mask[4:13, 10:33, 6:23] = True  # voxels 4-12, 10-32, 6-22: the middle is (8, 21, 14)
    # z: -70 + 1.5 * 8; y: 60 - 0.8 * 21; x: 50 - 1.1 * 14
    assert body_center_mm(mask, STORED) == pytest.approx([34.6, 43.2, -58], abs=1e-6)


def test_center_of_a_block_that_fills_the_array():
    assert body_center_mm(np.ones((9, 11, 13), bool), STORED) == pytest.approx([43.4, 56, -64], abs=1e-6)


def turned_affine(axes: list[int]) -> np.ndarray:
    """Oblique and anisotropic, the array axes in another order; the middle of (60, 80, 70) lies at (-31, 41, 18)."""
    about_x, about_z = np.deg2rad([17, -24])
    tilt = [[1, 0, 0], [0, np.cos(about_x), -np.sin(about_x)], [0, np.sin(about_x), np.cos(about_x)]]
    turn = [[np.cos(about_z), -np.sin(about_z), 0], [np.sin(about_z), np.cos(about_z), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = (np.array(turn) @ tilt * [1.7, 1.0, -0.8])[:, axes]
    affine[:3, 3] = [-31, 41, 18] - affine[:3, :3] @ [29.5, 39.5, 34.5]
    return affine


def vertebra(world_mm: np.ndarray, center_mm: np.ndarray) -> np.ndarray:
    """A body (ellipse of 34 x 26 mm, 24 mm high) with pedicles, a lamina and a long process behind it."""
    x, y, z = np.moveaxis(world_mm - center_mm, -1, 0)
    body = ((x / 17) ** 2 + (y / 13) ** 2 < 1) & (np.abs(z) < 12)
    pedicles = (np.abs(np.abs(x) - 10) < 3) & (y < 0) & (y > -27) & (np.abs(z - 6) < 4)
    lamina = (np.abs(x) < 14) & (np.abs(y + 28) < 3.5) & (np.abs(z - 2) < 9)
    process = (np.abs(x) < 3.5) & (y < -28) & (y > -40) & (np.abs(z + 6) < 8)
    return body | pedicles | lamina | process


@pytest.mark.parametrize("axes", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_center_of_the_body_and_not_of_the_mask(axes):
    affine = turned_affine(axes)
    shape = (60, 80, 70)
    world_mm = to_world(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))
    center_mm = np.array([-30.2, 55.3, 17.1])
    mask = vertebra(world_mm, center_mm)
    of_mask = world_mm[mask].mean(axis=0)
    assert np.linalg.norm(of_mask - center_mm) > 7
    assert np.linalg.norm(body_center_mm(mask, affine) - center_mm) < 1.0


@pytest.mark.parametrize("crumb", [np.s_[30:33, 2:5, 30:33], np.s_[22:33, 10:28, 6:20]])
def test_only_the_largest_piece_counts(crumb):
    mask = np.zeros((40, 40, 40), bool)
    mask[4:13, 10:33, 6:23] = True
    mask[crumb] = True
    assert body_center_mm(mask, STORED) == pytest.approx([34.6, 43.2, -58], abs=1e-6)


def test_thickness_is_judged_in_mm():
    """In thick slices a body of 5 voxels is as thick as one of 20, and a plate of 6 is thin."""
    mask = np.zeros((30, 60, 40), bool)
    mask[3:8, 5:25, 10:30] = True  # 20 x 20 x 20 mm; the middle is (5, 14.5, 19.5)
    mask[3:23, 25:55, 17:23] = True  # 80 x 30 x 6 mm
    assert body_center_mm(mask, np.diag([4.0, 1, 1, 1])) == pytest.approx([20, 14.5, 19.5], abs=0.6)


def test_empty_mask():
    with pytest.raises(ValueError, match="an empty mask has no center"):
        body_center_mm(np.zeros((4, 5, 6), bool), STORED)
