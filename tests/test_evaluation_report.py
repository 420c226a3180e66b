"""The whole command on two folders: files, exit codes, and the page in a real browser."""

import csv
import json
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from ball_spine import ball_spine
from browser import CHROMIUM, References, requests_of

from pipeline.cli import main
from pipeline.landmarks import write_csv

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def save_mask(path, labels, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three scans; the first prediction lacks the T13 of one and another altogether, and has a stranger."""
    root = tmp_path_factory.mktemp("evaluation")
    for name, levels in (("one", ("T12", "L1", "L2")), ("two", ("T11", "T12", "T13", "L1")), ("three", ("C3", "C4"))):
        scan, labels, landmarks_mm = ball_spine(levels, "LPS", oblique=True, spacing_mm=(1.5, 1.7, 2.0))
        save_mask(root / "truth" / f"{name}_seg.nii.gz", labels, scan.affine)
        (root / "truth" / "landmarks").mkdir(exist_ok=True)
        write_csv(root / "truth" / "landmarks" / f"{name}.csv", landmarks_mm)
        save_mask(root / "second" / f"{name}_segmentation.nii.gz", labels, scan.affine)
        if name == "two":
            labels[labels == 28] = 0
        if name != "three":
            save_mask(root / "first" / f"{name}_segmentation.nii.gz", labels, scan.affine)
        (root / "first" / f"{name}_preview.png").write_bytes(PIXEL)
    save_mask(root / "first" / "stranger_segmentation.nii.gz", labels, scan.affine)
    return root


def evaluate(folders, output, *options, prediction="first"):
    arguments = ["--pred", str(folders / prediction), "--truth", str(folders / "truth"), "-o", str(output)]
    return main(["evaluate", *arguments, *options])


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    assert evaluate(folders, output, "--compare", str(folders / "second")) == 0
    return output


def test_numbers(report):
    document = json.loads((report / "report.json").read_text())
    assert document["counts"]["scans"] == 2
    assert document["counts"]["vertebrae"] == 7
    assert document["counts"]["without_name"] == 1
    assert (document["without_prediction"], document["without_truth"]) == (["three"], ["stranger"])
    assert document["measures"]["id_rate"]["value"] == pytest.approx(6 / 7, abs=1e-5)
    assert document["measures"]["dice"]["value"] == pytest.approx(6 / 7, abs=1e-5)
    assert document["measures"]["d_mean_mm"]["count"] == 6
    assert document["measures"]["rq"]["value"] == pytest.approx((1 + 6 / 7) / 2, abs=1e-5)
    assert document["measures"]["all_right"]["value"] == 0.5
    assert document["comparison"]["measures"]["all_right"]["difference"]["value"] == 0.5
    assert [entry["scan"] for entry in document["comparison"]["changed"]] == ["two"]
    assert document["comparison"]["changed"][0]["gained"] == ["T13"]


def test_tables(report):
    with open(report / "vertebrae.csv", newline="") as stream:
        vertebrae = list(csv.DictReader(stream))
    assert [(v["scan"], v["name"]) for v in vertebrae[:4]] == [
        ("one", "T12"),
        ("one", "L1"),
        ("one", "L2"),
        ("two", "T11"),
    ]
    assert float(vertebrae[0]["dice"]) == 1.0
    t13 = next(v for v in vertebrae if v["name"] == "T13")
    assert (t13["hit"], t13["dice"], t13["hd_mm"]) == ("0", "0", "")
    with open(report / "scans.csv", newline="") as stream:
        scans = {row["scan"]: row for row in csv.DictReader(stream)}
    assert (scans["two"]["missing"], scans["two"]["anomaly"], scans["two"]["all_right"]) == ("T13", "T13", "0")
    assert scans["one"]["prediction_centers"] == "body centers derived from the mask"


def test_neither_networks_nor_plots_are_loaded():
    program = "import sys, pipeline.evaluation; sys.exit(bool({'torch', 'monai', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_exit_codes(folders, tmp_path, capsys):
    assert evaluate(folders, tmp_path / "a", "--require", "dice>=0.999", prediction="second") == 0
    assert "met: dice >= 0.999 (found 1.000)" in capsys.readouterr().out
    assert evaluate(folders, tmp_path / "b", "--require", "id_rate>=0.95", "--require", "dice>0.1") == 4
    assert "MISSED: id_rate >= 0.95" in capsys.readouterr().out
    assert evaluate(folders, tmp_path / "c", "--require", "id_rate~1") == 2
    assert not (tmp_path / "c").exists()
    assert evaluate(folders, tmp_path / "d", prediction="nowhere") == 2


def test_missing_predictions_count_when_asked(folders, tmp_path):
    evaluate(folders, tmp_path, "--count-missing")
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["counts"]["scans"] == 3
    assert document["counts"]["without_mask"] == 3, "T13, and both of the scan without a prediction"


def test_an_unreadable_scan_does_not_stop_the_others(folders, tmp_path, capsys):
    shutil.copytree(folders / "second", tmp_path / "pred")
    (tmp_path / "pred" / "two_segmentation.nii.gz").write_bytes(b"broken")
    arguments = ["--pred", str(tmp_path / "pred"), "--truth", str(folders / "truth"), "-o", str(tmp_path / "report")]
    assert main(["evaluate", *arguments]) == 1
    assert "two_segmentation.nii.gz" in capsys.readouterr().err
    assert json.loads((tmp_path / "report" / "report.json").read_text())["counts"]["scans"] == 2


def test_names_that_do_not_match_are_named(folders, tmp_path, capsys):
    save_mask(tmp_path / "other" / "nobody_seg.nii.gz", np.ones((3, 3, 3), np.uint8), np.eye(4))
    assert (
        main(["evaluate", "--pred", str(tmp_path / "other"), "--truth", str(folders / "truth"), "-o", str(tmp_path)])
        == 2
    )
    assert "no prediction belongs to a scan" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_find_the_same(folders, report, tmp_path):
    evaluate(folders, tmp_path, "--compare", str(folders / "second"), "--workers", "2")
    one, two = (json.loads((folder / "report.json").read_text()) for folder in (report, tmp_path))
    for document in (one, two):
        for scan in document["scans"]:
            del scan["seconds"]
    assert one == two


def test_the_page_refers_to_nothing_outside(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    assert references.found
    assert all(value.startswith("data:") for value in references.found)
    assert not re.search(r"url\(|@import|<script|https?://", text)
    assert text.count("<svg") == 7, "six plots and the matrix"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_the_page_opens_in_a_browser_without_a_failed_request(report, tmp_path):
    asked, shown = requests_of((report / "report.html").read_bytes(), tmp_path)
    assert "How it is measured" in shown
    assert "<svg" in shown
    assert asked == ["/report.html"]
