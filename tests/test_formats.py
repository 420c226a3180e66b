"""Formats that any scan can have: each is read back by another library, on all 48 axis orders, straight and oblique."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from ball_spine import CENTER_MM
from format_cases import BLOCKS, GRIDS, make_result, make_scan, truth

from pipeline.documents import landmarks_document
from pipeline.formats import check_source, parse_formats, write_formats
from pipeline.images import write_labels
from pipeline.labels import LABELS, NAMES, row_of_name
from pipeline.landmarks import write_csv
from pipeline.results import write_result

VERSIONS = {"spine_loc": "0.1.0"}


def test_all_orders_are_different_grids():
    assert len(set(GRIDS)) == 96
    codes = {nib.aff2axcodes(make_scan(*grid).affine) for grid in GRIDS}
    assert len(codes) == 48


def points_ras(image) -> np.ndarray:
    """Return `(I, J, K, 3)` RAS mm of every voxel, as SimpleITK sees them."""
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    index = np.stack(np.indices(image.GetSize()), axis=-1)
    return (index @ direction.T + image.GetOrigin()) * [-1, -1, 1]


@pytest.mark.parametrize(("axcodes", "oblique"), GRIDS)
def test_nifti_csv_json_ctd_and_slicer(tmp_path, axcodes, oblique):
    result = make_result(make_scan(axcodes, oblique))
    write_labels(tmp_path / "case_segmentation.nii.gz", result.labels, result.scan.affine)
    paths = write_formats(tmp_path, result, ("ctd", "mrk", "per-vertebra"), VERSIONS)
    assert all(path.exists() for path in paths)

    mask = SimpleITK.ReadImage(str(tmp_path / "case_segmentation.nii.gz"))
    labels = SimpleITK.GetArrayFromImage(mask).T
    np.testing.assert_array_equal(labels, truth(points_ras(mask)))

    write_csv(tmp_path / "case_landmarks.csv", result.labelling.landmarks_mm)
    with open(tmp_path / "case_landmarks.csv", newline="") as stream:
        rows = [(int(row["label"]), *(float(row[axis]) for axis in "XYZ")) for row in csv.DictReader(stream)]
    document = json.loads(json.dumps(landmarks_document("case", result.scan.grid, result.labelling)))
    rows += [(vertebra["label"], *vertebra["position_mm"]) for vertebra in document["vertebrae"]]
    assert len(rows) == 6
    for label, x, y, z in rows:
        assert mask[mask.TransformPhysicalPointToIndex((-x, -y, z))] == label
    corner = np.array(document["geometry"]["affine"]) @ [*np.array(mask.GetSize()) - 1, 1]
    assert corner[:3] == pytest.approx(points_ras(mask)[-1, -1, -1], abs=1e-3)

    for name in BLOCKS:
        one = SimpleITK.ReadImage(str(tmp_path / "case_vertebrae" / f"{name}.nii.gz"))
        expected = truth(points_ras(one)) == LABELS[row_of_name(name)]
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(one).T, expected)
    assert len(list((tmp_path / "case_vertebrae").iterdir())) == 3

    image = nib.load(tmp_path / "case_segmentation.nii.gz")
    header, *points = json.loads((tmp_path / "case_ctd.json").read_text())
    assert header == {"direction": list(nib.aff2axcodes(image.affine))}
    assert [point["label"] for point in points] == [19, 28, 20]  # T12, T13, L1: head to foot
    for point, (center, _) in zip(points, BLOCKS.values(), strict=True):
        at_mm = nib.affines.apply_affine(image.affine, [point[axis] for axis in "XYZ"])
        assert at_mm == pytest.approx(CENTER_MM + center, abs=2e-3)

    markups = json.loads((tmp_path / "case_landmarks.mrk.json").read_text())["markups"]
    assert [markup["coordinateSystem"] for markup in markups] == ["LPS"]
    for point in markups[0]["controlPoints"]:
        assert mask[mask.TransformPhysicalPointToIndex(point["position"])] == LABELS[row_of_name(point["label"])]


def test_positions_by_hand(tmp_path):
    """PIR: axis 0 runs back at 1.3 mm, axis 1 down at 1.7 mm, axis 2 right at 2.1 mm; the middle voxel is CENTER_MM."""
    write_formats(tmp_path, make_result(make_scan("PIR", False)), ("ctd", "mrk"), VERSIONS)
    document = json.loads((tmp_path / "case_ctd.json").read_text())
    assert document[0] == {"direction": ["P", "I", "R"]}
    # T12 lies 2.237 mm to the right, 3.121 back, 8.853 up of voxel (9.5, 8, 6): 9.5 + 3.121 / 1.3, 8 - 8.853 / 1.7, ...
    assert document[1] == {"label": 19, "X": 11.901, "Y": 2.792, "Z": 7.065}
    point = json.loads((tmp_path / "case_landmarks.mrk.json").read_text())["markups"][0]["controlPoints"][0]
    assert point["position"] == [28.763, -43.879, -511.147]  # LPS of (-31 + 2.237, 47 - 3.121, -520 + 8.853)
    assert (point["label"], point["id"], point["description"]) == ("T12", "19", "probability 0.875")


def test_the_color_table_has_every_label(tmp_path):
    write_formats(tmp_path, make_result(make_scan("RAS", False)), ("mrk",), VERSIONS)
    lines = [line.split() for line in (tmp_path / "case_colors.ctbl").read_text().splitlines() if line[0] != "#"]
    assert lines[0] == ["0", "background", "0", "0", "0", "0"]
    assert [(int(line[0]), line[1]) for line in lines[1:]] == list(zip(LABELS, NAMES, strict=True))
    colors = [tuple(int(value) for value in line[2:5]) for line in lines[1:]]
    assert len(set(colors)) == 26
    assert all(0 <= value <= 255 for color in colors for value in color)


def test_writing_twice_replaces_the_folder_of_masks(tmp_path):
    result = make_result(make_scan("RAS", False))
    write_result(result, tmp_path, VERSIONS, ("per-vertebra",))
    result.labels[result.labels == 28] = 0
    write_result(result, tmp_path, VERSIONS, ("per-vertebra",))
    assert sorted(path.name for path in (tmp_path / "case_vertebrae").iterdir()) == ["L1.nii.gz", "T12.nii.gz"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_formats_are_parsed():
    assert parse_formats("nifti,csv,json") == ()
    assert parse_formats(" ctd, mrk ,ctd,nifti") == ("ctd", "mrk")
    with pytest.raises(ValueError, match="format 'stl': expected nifti, csv, json, ctd, mrk, dicomseg, rtstruct, per-"):
        parse_formats("ctd,stl")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.delitem(sys.modules, "pipeline.formats.dicomseg", raising=False)
    with pytest.raises(ValueError, match=r"'dicomseg' needs the package highdicom: pip install '.*\[dicom\]'"):
        parse_formats("dicomseg")


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from pipeline.arguments import make_parser; make_parser().format_help()\n"
        "print([name for name in ('torch', 'monai', 'itk', 'pydicom', 'matplotlib') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["dicomseg", "rtstruct"])
def test_dicom_results_need_a_dicom_scan(name):
    with pytest.raises(ValueError, match=rf"case\.nii\.gz: format '{name}' needs a DICOM series"):
        check_source(Path("case.nii.gz"), False, (name,))
