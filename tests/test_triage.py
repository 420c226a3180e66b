"""`vertebrae check`: what it says of good, odd and broken scans, with networks replaced by a look at known places."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from ball_spine import CENTER_MM
from format_cases import BLOCKS, make_scan, save_series

from pipeline import NoSpineFound, VertebraePipeline
from pipeline.cli import main
from pipeline.labels import NUM_CHANNELS, channel_of_row, row_of_name
from pipeline.sources import find_sources
from pipeline.spaces import to_voxel
from pipeline.triage import better_turn, check_scan


class Networks:
    """Finds a vertebra where there is bone at its known world position, or always, then with doubts about its level."""

    always = False

    def __init__(self, *_) -> None:
        pass

    def find_spine(self, scan):
        return None

    def find_vertebrae(self, scan, spine_box_mm):
        found, evidence = [], np.zeros((len(BLOCKS), NUM_CHANNELS))
        for candidate, (name, (center, _)) in enumerate(BLOCKS.items()):
            index, row = tuple(np.rint(to_voxel(scan.affine, CENTER_MM + center)).astype(int)), row_of_name(name)
            seen = scan.array[index] == 400
            evidence[candidate, channel_of_row(row)] = 0.9 if seen else 0.3
            if seen or self.always:
                found.append(SimpleNamespace(name=name, row=row, score=0.8, candidate=candidate))
        if not found:
            raise NoSpineFound("none")
        return SimpleNamespace(vertebrae=found, candidates=SimpleNamespace(evidence=evidence))


@pytest.fixture
def check(monkeypatch, capsys):
    """Return a function that runs the command and gives its exit code, text and JSON documents."""
    monkeypatch.setattr("pipeline.run.VertebraePipeline", Networks)

    def run(*arguments):
        text = (main(["check", *map(str, arguments)]), capsys.readouterr().out)[1]
        code = main(["check", *map(str, arguments), "--json"])
        return code, text, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def save(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def turned(scan, x: int, y: int, z: int) -> np.ndarray:
    """Return a wrong affine of the scan: its middle, CENTER_MM, stays, the signs of the world's axes do not."""
    turn = np.diag([x, y, z, 1.0])
    turn[:3, 3] = CENTER_MM * (1 - np.array([x, y, z]))
    return turn @ scan.affine


@pytest.mark.parametrize(("axcodes", "oblique"), [("RAS", False), ("PIR", False), ("LPS", True), ("SAL", True)])
def test_a_good_scan(check, tmp_path, axcodes, oblique):
    scan = make_scan(axcodes, oblique)
    code, text, (document,) = check(save(tmp_path / "case.nii.gz", scan.array, scan.affine))
    assert code == 0
    assert document["usable"]
    assert document["readable"]
    geometry = document["geometry"]
    assert geometry["axcodes"] == axcodes
    assert (geometry["shape"], geometry["spacing_mm"], geometry["shear_deg"]) == ([20, 17, 13], [1.3, 1.7, 2.1], 0)
    assert (geometry["oblique_deg"] > 5) == oblique
    assert (document["hounsfield"]["lowest"], document["hounsfield"]["highest"]) == (-1000, 400)
    shares = [document["hounsfield"][key] for key in ("air", "soft_tissue", "bone")]
    assert shares == pytest.approx([(scan.array == value).mean() for value in (-1000, 40, 400)], abs=1e-4)
    assert document["spine"] == {"found": True, "region": "T12 to L1", "vertebrae": ["T12", "T13", "L1"]}
    assert document["orientation"]["best"] == "as stated"
    assert document["warnings"] == []
    assert "case: usable\n  grid: 20x17x13 voxels of 1.3x1.7x2.1 mm, axes " + axcodes in text
    air, soft, bone = (f"{share:.0%}" for share in shares)
    assert f"\n  values: -1000 to 400 HU; {air} air, {soft} soft tissue, {bone} bone\n" in text
    assert "sheared" not in text
    assert "spine: T12 to L1" in text


@pytest.mark.parametrize(
    ("signs", "name"),
    [
        ((1, 1, -1), "head and foot swapped"),
        ((1, -1, 1), "front and back swapped"),
        ((1, -1, -1), "both swapped"),
    ],
)
def test_a_wrong_orientation_is_told(check, tmp_path, signs, name):
    scan = make_scan("LPS", False)
    code, text, (document,) = check(save(tmp_path / "case.nii.gz", scan.array, turned(scan, *signs)))
    assert document["orientation"]["best"] == name
    warning = f"the spine looks as if the orientation were wrong: {name} (then T12 to L1)"
    assert document["warnings"] == [warning]
    assert f"  warning: {warning}" in text
    assert code == (0 if document["spine"]["found"] else 3)


def test_bodies_of_an_upside_down_spine_that_look_like_other_levels(check, monkeypatch, tmp_path):
    """Symptom: a short scan stored upside down passed, because its bodies were found as surely as ever."""
    monkeypatch.setattr(Networks, "always", True)
    scan = make_scan("RAS", False)
    _, _, (document,) = check(save(tmp_path / "case.nii.gz", scan.array, turned(scan, 1, 1, -1)))
    assert document["spine"]["found"]
    assert document["orientation"]["best"] == "head and foot swapped"
    assert document["orientation"]["evidence"]["head and foot swapped"] == pytest.approx(3 * 0.8 * 0.9)
    _, _, (document,) = check(save(tmp_path / "case.nii.gz", scan.array, scan.affine))
    assert document["warnings"] == []


def test_another_orientation_must_be_clearly_better():
    evidence = {"as stated": 1.0, "head and foot swapped": 1.1, "both swapped": 0.2}
    assert better_turn(evidence, "as stated") == "as stated"
    assert better_turn(evidence, "both swapped") == "head and foot swapped"
    assert better_turn({"as stated": 0.0, "both swapped": 0.0}, "as stated") == "as stated"


def test_no_spine_is_exit_code_3(check, tmp_path):
    scan = make_scan("RAS", False)
    array = np.where(scan.array == 400, 300, scan.array).astype(np.int16)
    code, text, (document,) = check(save(tmp_path / "case.nii.gz", array, scan.affine))
    assert code == 3
    assert not document["usable"]
    assert document["readable"]
    assert document["spine"]["found"] is False
    assert "case: no spine found" in text


def test_without_networks_nothing_is_said_of_the_spine(monkeypatch, tmp_path):
    scan = make_scan("RAS", False)
    save(tmp_path / "case.nii.gz", scan.array, scan.affine)
    monkeypatch.setattr(VertebraePipeline, "__init__", None)  # must not be called
    assert main(["check", str(tmp_path / "case.nii.gz"), "--quick"]) == 0
    (source,) = find_sources(tmp_path / "case.nii.gz")
    document = check_scan(source)
    assert document["usable"]
    assert "spine" not in document
    assert "orientation" not in document


def test_dicom_facts_and_holes(check, tmp_path):
    scan = make_scan("LPS", False)
    folder = save_series(tmp_path / "case", scan, keep=[k for k in range(13) if k != 5], PatientPosition="FFP")
    code, text, (document,) = check(folder)
    assert code == 0
    assert document["dicom"] == {"modality": "CT", "patient_position": "FFP", "slices": 12}
    assert document["geometry"]["shape"] == [20, 17, 13]
    assert document["warnings"][0].startswith("repaired: DICOM slices missing: 1 (4.2 mm between slices 5 and 6")
    assert "DICOM: modality CT, patient position FFP, slices 12" in text
    code, text, (document,) = check(folder, "--no-repair")
    assert code == 2
    assert "case: DICOM slices are missing" in document["reason"]


def test_repairs_are_reported_and_can_be_refused(check, tmp_path):
    scan = make_scan("RAS", False)
    affine = scan.affine.copy()
    affine[0, 1] = 0.01  # the second axis, 1.7 mm long, leans by 0.34 degrees
    path = save(tmp_path / "case.nii.gz", scan.array, affine)
    _, _, (document,) = check(path, "--quick")
    assert document["warnings"][0].startswith("repaired: axes 0.337 degrees off right angles")
    assert document["geometry"]["shear_deg"] == 0
    _, text, (document,) = check(path, "--quick", "--no-repair")
    assert document["geometry"]["shear_deg"] == pytest.approx(0.337, abs=1e-3)
    assert "axes RAS, sheared by 0.34 degrees" in text
    assert document["warnings"] == []


def test_a_folder_is_checked_to_its_end(check, tmp_path):
    scan = make_scan("RAS", False)
    save(tmp_path / "a.nii.gz", scan.array[:, :, 0], scan.affine)
    save(tmp_path / "b.nii.gz", scan.array, scan.affine)
    save(tmp_path / "c.nii.gz", ((scan.array + 1000) // 4).astype(np.int16), scan.affine)
    code, text, documents = check(tmp_path)
    assert code == 1
    assert [document["usable"] for document in documents] == [False, True, False]
    assert "a.nii.gz: 2-D image of 20 x 17 voxels" in documents[0]["reason"]
    assert "c.nii.gz: not a CT in HU: values 0 to 350" in documents[2]["reason"]
    assert documents[2]["geometry"]["shape"] == [20, 17, 13]  # known although the voxels are of no use
    assert "b: usable" in text


def test_too_large_for_the_machine(check, tmp_path, monkeypatch):
    scan = make_scan("RAS", False)
    path = save(tmp_path / "case.nii.gz", scan.array, scan.affine)
    monkeypatch.setattr("pipeline.triage.machine_gb", lambda: 1.0)
    monkeypatch.setattr("pipeline.triage.read_voxels", None)  # must not be called
    code, _, (document,) = check(path)
    assert code == 2
    assert document["memory"]["machine_gb"] == 1.0
    assert "needs more memory than this machine has" in document["reason"]
