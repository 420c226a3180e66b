"""`vertebrae relabel` on the results of an oblique scan in odd axes, made without any network."""

import json
import os
import shutil
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from ball_spine import ball_spine, save_scan
from test_labelling_document import SCHEMA

from pipeline.candidates import Candidates
from pipeline.cli import main
from pipeline.documents import landmarks_document
from pipeline.files import write_json
from pipeline.images import read_scan
from pipeline.labelling import solve
from pipeline.labels import LABELS, NAMES, channel_of_row, row_of_name
from pipeline.landmarks import present_rows, read_csv, read_json
from pipeline.relabel import moved, parse_anchor
from pipeline.results import write_result
from pipeline.run import Result

SPINE = ("T11", "T12", "L1", "L2", "L3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a scan and its results once, as `vertebrae segment` leaves them."""
    folder = tmp_path_factory.mktemp("made")
    scan, labels, landmarks_mm = ball_spine(SPINE, "PIR", oblique=True, spacing_mm=(2.0, 2.4, 1.8))
    scan = read_scan(save_scan(folder / "in" / "case.nii.gz", scan))
    labelling = solve(candidates_at(landmarks_mm, scan))
    assert [vertebra.name for vertebra in labelling.vertebrae] == list(SPINE)
    result = Result(scan, np.zeros((2, 3)), labelling, labels, {"vert_loc": 0.3})
    write_result(result, folder / "out", {"vert_loc": "0.1.0"})
    return folder, landmarks_mm, labels


@pytest.fixture
def case(made, tmp_path):
    """Return the landmark document of a fresh copy, the true landmarks and the mask."""
    folder, landmarks_mm, labels = made
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out" / "case_landmarks.json", landmarks_mm, labels


def candidates_at(landmarks_mm, scan) -> Candidates:
    rows = [row_of_name(name) for name in SPINE]
    evidence = np.full((len(rows), 25), 0.002)
    for shares, row in zip(evidence, rows, strict=True):
        shares[channel_of_row(row)], shares[channel_of_row(row) + 1] = 0.6, 0.35
    evidence /= evidence.sum(axis=1, keepdims=True)
    view = np.array([landmarks_mm[rows].min(axis=0) - 60, landmarks_mm[rows].max(axis=0) + 60])
    return Candidates(landmarks_mm[rows], np.full(len(rows), 0.9), evidence, view, scan.grid)


def at(landmarks_mm, name: str, off_mm=(0, 0, 0)) -> str:
    return ",".join(f"{value:.1f}" for value in landmarks_mm[row_of_name(name)] + off_mm)


def relabel(path: Path, *options: str) -> int:
    return main(["relabel", str(path), *options])


def mask_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path.with_name("case_segmentation.nii.gz")).dataobj)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_all_outputs(path: Path, landmarks_mm, labels, names) -> None:
    """Every output tells the same names, in the old places."""
    document = json.loads(path.read_text())
    jsonschema.validate(document, SCHEMA)
    assert [vertebra["name"] for vertebra in document["vertebrae"]] == list(names)
    for found_mm in (read_json(path), read_csv(path.with_suffix(".csv"))):
        assert [NAMES[row] for row in present_rows(found_mm)] == sorted(names, key=NAMES.index)
        for before, after in zip(SPINE, names, strict=True):
            assert found_mm[row_of_name(after)] == pytest.approx(landmarks_mm[row_of_name(before)], abs=0.01)
    mask = mask_of(path)
    for before, after in zip(SPINE, names, strict=True):
        np.testing.assert_array_equal(mask == LABELS[row_of_name(after)], labels == LABELS[row_of_name(before)])
    assert document["bundles"] == {"vert_loc": "0.1.0"}
    assert document["seconds"] == {"vert_loc": 0.3}
    assert document["scan_file"] == "../in/case.nii.gz"
    assert len(list(path.parent.iterdir())) == 4


def test_shift_moves_every_name(case, capsys):
    path, landmarks_mm, labels = case
    before = contents(path.parent)
    assert relabel(path, "--shift", "+1") == 0
    assert "T11 is now T12, T12 is now L1, L1 is now L2" in capsys.readouterr().out
    assert_all_outputs(path, landmarks_mm, labels, ["T12", "L1", "L2", "L3", "L4"])
    document = json.loads(path.read_text())
    assert document["pinned"] == ["T12", "L1", "L2", "L3", "L4"]
    assert document["numbering"]["decided_by"] == "hand"
    assert contents(path.parent)["case_preview.png"] != before["case_preview.png"]


def test_shift_and_back(case):
    path, landmarks_mm, labels = case
    assert relabel(path, "--shift", "-1") == 0
    assert relabel(path, "--shift", "1") == 0
    assert_all_outputs(path, landmarks_mm, labels, SPINE)


def test_shift_from_makes_a_t13(case):
    path, landmarks_mm, labels = case
    assert relabel(path, "--shift", "-1", "--from", "L1") == 0
    assert_all_outputs(path, landmarks_mm, labels, ["T11", "T12", "T13", "L1", "L2"])
    document = json.loads(path.read_text())
    assert document["pinned"] == ["T13", "L1", "L2"]
    assert "t13" in [warning["code"] for warning in document["warnings"]]


def test_anchor_carries_the_rest(case):
    path, landmarks_mm, labels = case
    assert relabel(path, "--anchor", f"L3={at(landmarks_mm, 'L2', (3, -4, 6))}") == 0
    assert_all_outputs(path, landmarks_mm, labels, ["T12", "L1", "L2", "L3", "L4"])
    document = json.loads(path.read_text())
    assert document["pinned"] == ["L3"]
    assert document["vertebrae"][3]["probability"] == 1.0


def test_two_anchors_of_one_vertebra_each(case):
    path, landmarks_mm, labels = case
    options = ["--anchor", f"T10={at(landmarks_mm, 'T11')}", "--anchor", f"l2={at(landmarks_mm, 'L3')}"]
    assert relabel(path, *options) == 0
    assert_all_outputs(path, landmarks_mm, labels, ["T10", "T11", "T12", "L1", "L2"])


def test_exchange_formats_follow(case, capsys):
    """They kept the old names beside the corrected ones."""
    path, landmarks_mm, labels = case
    scan = read_scan(path.parents[1] / "in" / "case.nii.gz")
    result = Result(scan, np.zeros((2, 3)), solve(candidates_at(landmarks_mm, scan)), labels)
    write_result(result, path.parent, {}, ("ctd", "mrk", "per-vertebra"))
    path.with_name("case_report.html").write_text("T11 to L3")
    assert relabel(path, "--shift", "+1") == 0
    assert "case_report.html has the names before: run vertebrae report again" in capsys.readouterr().out
    names = ["T12", "L1", "L2", "L3", "L4"]
    points = json.loads(path.with_name("case_ctd.json").read_text())[1:]
    assert [point["label"] for point in points] == [LABELS[row_of_name(name)] for name in names]
    (markup,) = json.loads(path.with_name("case_landmarks.mrk.json").read_text())["markups"]
    assert [point["label"] for point in markup["controlPoints"]] == names
    folder = path.with_name("case_vertebrae")
    assert sorted(file.name for file in folder.iterdir()) == sorted(f"{name}.nii.gz" for name in names)
    mask = np.asarray(nib.load(folder / "L1.nii.gz").dataobj)
    np.testing.assert_array_equal(mask > 0, labels == LABELS[row_of_name("T12")])


def test_a_file_that_only_looks_like_a_format_is_left_alone(case):
    """Such as the centroids that a data set came with."""
    path, _, _ = case
    path.with_name("case_ctd.json").write_text("[]")
    assert relabel(path, "--shift", "+1") == 0
    assert path.with_name("case_ctd.json").read_text() == "[]"


def test_mask_and_landmarks_still_agree(case):
    path, _, _ = case
    assert relabel(path, "--shift", "2") == 0
    codes = {warning["code"] for warning in json.loads(path.read_text())["warnings"]}
    assert not codes & {"no_mask", "no_landmark", "outside_mask", "pieces", "order"}


def test_a_moved_scan_is_named_by_hand(case, tmp_path, capsys):
    path, _, _ = case
    scan = (tmp_path / "in" / "case.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    before = contents(path.parent)
    assert relabel(path, "--shift", "1") == 2
    assert "no longer at" in capsys.readouterr().err
    assert contents(path.parent) == before
    assert relabel(path, "--shift", "1", "--scan", str(scan)) == 0
    assert [v["name"] for v in json.loads(path.read_text())["vertebrae"]] == ["T12", "L1", "L2", "L3", "L4"]


def test_landmarks_without_a_mask_are_rewritten_alone(tmp_path):
    """A bundle that ran alone leaves no mask and knows no scan."""
    scan, _, landmarks_mm = ball_spine(SPINE)
    path = tmp_path / "case_landmarks.json"
    write_json(path, landmarks_document("case", scan.grid, solve(candidates_at(landmarks_mm, scan))))
    assert relabel(path, "--shift", "1") == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["case_landmarks.csv", "case_landmarks.json"]
    assert [NAMES[row] for row in present_rows(read_csv(path.with_suffix(".csv")))] == ["T12", "L1", "L2", "L3", "L4"]


def test_names_that_fit_no_more_go_only_on_demand(case, capsys):
    path, landmarks_mm, labels = case
    before = contents(path.parent)
    anchor = f"C1={at(landmarks_mm, 'L1')}"
    assert relabel(path, "--anchor", anchor) == 2
    assert "T11, T12 would fit no more and be left out; --drop accepts that" in capsys.readouterr().err
    assert contents(path.parent) == before
    assert relabel(path, "--anchor", anchor, "--drop") == 0
    assert [v["name"] for v in json.loads(path.read_text())["vertebrae"]] == ["C1", "C2", "C3"]
    mask = mask_of(path)
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(mask == 3, labels == LABELS[row_of_name("L3")])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--anchor", "L5"], "--anchor L5: expected NAME=X,Y,Z in RAS mm"),
        (["--anchor", "L5=1,2"], "expected NAME=X,Y,Z"),
        (["--anchor", "L5=1,2,nan"], "expected NAME=X,Y,Z"),
        (["--anchor", "S1=1,2,3"], "'S1' is not a vertebra name"),
        (["--anchor", "L5=0,0,0"], "no vertebra was found within 15 mm of there; the nearest (T11) is"),
        (["--anchor", "L5=@L2", "--anchor", "L4=@L2"], "was already given the name L5"),
        (["--anchor", "L5=@L2", "--anchor", "L5=@L3"], "L5 was already given to another vertebra"),
        (["--anchor", "L5=@L2", "--anchor", "L4=@L3"], "no ordered labelling has L4, L5 where they were put"),
        (["--anchor", "C1=@L2", "--anchor", "L4=@L3"], "no ordered labelling has C1, L4 where they were put"),
        (["--anchor", "L5=@L2", "--from", "T12"], "--from needs --shift"),
        (["--shift", "0"], "nothing to do"),
        (["--shift", "+9"], "--shift +9: T11 to L3 cannot move there"),
        (["--shift", "-2", "--from", "L1"], "L1 to L3 cannot move there: names end at C1 and L6, and T12 stays above"),
        (["--shift", "1", "--from", "L4"], "--from L4: not among the vertebrae of this scan (T11, T12, L1, L2, L3)"),
        (["--shift", "1", "--from", "X4"], "'X4' is not a vertebra name"),
    ],
)
def test_bad_arguments_change_nothing(options, reason, case, capsys):
    path, landmarks_mm, _ = case
    before = contents(path.parent)
    options = [f"{o.split('@')[0]}{at(landmarks_mm, o.split('@')[1])}" if "@" in o else o for o in options]
    assert relabel(path, *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert reason in error
    assert contents(path.parent) == before


def other_grid(path: Path) -> None:
    mask = nib.load(path.with_name("case_segmentation.nii.gz"))
    data = np.asarray(mask.dataobj)
    nib.save(nib.Nifti1Image(data, mask.affine + np.diag([0, 0, 0.1, 0])), path.with_name("case_segmentation.nii.gz"))


def other_labels(path: Path) -> None:
    mask = nib.load(path.with_name("case_segmentation.nii.gz"))
    data = np.asarray(mask.dataobj).copy()
    data[0, 0, 0] = 99
    nib.save(nib.Nifti1Image(data, mask.affine), path.with_name("case_segmentation.nii.gz"))


def half_a_mask(path: Path) -> None:
    mask = path.with_name("case_segmentation.nii.gz")
    mask.write_bytes(mask.read_bytes()[:-200])


def other_scan(path: Path) -> None:
    scan = path.parent.parent / "in" / "case.nii.gz"
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), scan)


def no_candidate(path: Path) -> None:
    document = json.loads(path.read_text())
    document["vertebrae"][0]["candidate"] = 12
    path.write_text(json.dumps(document))


def no_geometry(path: Path) -> None:
    document = json.loads(path.read_text())
    document["geometry"].pop("affine")
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (other_grid, "case_segmentation.nii.gz: shape (48, 36, 75) or position differs"),
        (other_labels, "case_segmentation.nii.gz: label 99 is no vertebra"),
        (half_a_mask, "case_segmentation.nii.gz: cannot be read"),
        (other_scan, "case.nii.gz: shape"),
        (no_candidate, "case_landmarks.json: 'vertebrae' is damaged: a candidate that is not listed"),
        (no_geometry, "case_landmarks.json: 'candidates' is damaged: 'geometry' is damaged: 'affine' is missing"),
        (lambda path: path.unlink(), "case_landmarks.json: No such file"),
    ],
)
def test_damaged_results_are_named_and_left_alone(damage, reason, case, capsys):
    path, _, _ = case
    damage(path)
    before = contents(path.parent)
    assert relabel(path, "--shift", "1") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert reason.split(" (")[0] in error
    assert contents(path.parent) == before


def test_a_failure_half_way_restores_everything(case, monkeypatch, capsys):
    path, _, _ = case
    before, replace = contents(path.parent), os.replace

    def fail_at_the_preview(source, target):
        if Path(target) == path.with_name("case_preview.png") and "before" not in str(source):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr("pipeline.results.os.replace", fail_at_the_preview)
    assert relabel(path, "--shift", "1") == 2
    assert "No space left" in capsys.readouterr().err
    assert contents(path.parent) == before


@pytest.mark.parametrize(
    ("names", "shift", "first", "expected"),
    [
        (["T11", "T12", "L1"], 1, None, ["T12", "L1", "L2"]),
        (["T11", "T12", "L1"], 1, "T12", ["L1", "L2"]),  # leaves no T12
        (["T12", "L1", "L2"], -1, "L1", ["T13", "L1"]),
        (["T12", "T13", "L1"], 1, None, ["T13", "L1", "L2"]),
        (["T12", "T13", "L1"], 1, "T13", ["L1", "L2"]),
        (["T12", "T13", "L1"], -1, None, ["T11", "T12", "T13"]),
        (["L4", "L5"], 1, None, ["L5", "L6"]),
        (["C3", "C4"], -2, None, ["C1", "C2"]),
    ],
)
def test_moved_names(names, shift, first, expected):
    now = dict(enumerate(names, start=5))
    start = len(names) - len(expected)
    assert moved(now, shift, first) == dict(zip(range(5 + start, 5 + len(names)), expected, strict=True))


def test_anchor_is_read():
    name, position_mm = parse_anchor("th9= -3.5,20,4e2")
    assert name == "T9"
    assert position_mm.tolist() == [-3.5, 20.0, 400.0]
