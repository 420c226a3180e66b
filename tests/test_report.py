"""The pages of a scan and of a cohort: what they say, that they stand alone, and how they behave in a real browser."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from ball_spine import save_scan
from block_spine import Block, block_spine, center_mm
from browser import CHROMIUM, References, requests_of
from matplotlib import image as matplotlib_image

from pipeline.cli import main
from pipeline.files import write_json
from pipeline.images import Scan, write_labels
from pipeline.labels import row_of_name
from pipeline.report.findings import Named, Notice, read_findings
from pipeline.report.pictures import slices

BLOCKS = (Block("T12"), Block("L1", 16.0, 24.0), Block("L2"))


def document(blocks, warnings=()):
    vertebrae = [
        {
            "label": row_of_name(block.name) + 1,
            "name": block.name,
            "position_mm": center_mm(i, len(blocks)).tolist(),
            "score": 0.9,
            "probability": 0.95 - 0.2 * i,
            "runner_up": "T11" if i == 0 else None,
            "runner_up_probability": 0.03,
        }
        for i, block in enumerate(blocks)
    ]
    names = ["T11", *(block.name for block in blocks[1:])]
    other = {"names": names, "probability": 0.03, "margin": 2.0}
    found = {"format": "vertebrae-landmarks/1", "space": "RAS", "units": "mm", "vertebrae": vertebrae}
    return {**found, "alternatives": [other], "warnings": list(warnings)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three scans: one sound, one with a warning as a sentence, one whose name and warning are nasty."""
    root = tmp_path_factory.mktemp("report")
    spine = block_spine(BLOCKS, "PIL", (1.3, 1.5, 1.7), margin_mm=20)
    spine.hu[:4] = -1000  # air, without which it is no CT
    sentences = {
        "sound": [],
        "unsure": ["no anchor in view: labels may be off by one (probability 0.16)"],
        "a & <b>": [
            {"code": "no-anchor-in-view", "message": "<i>no</i> anchor", "vertebrae": ["L1"]},
            "no anchor in view: labels may be off by one (probability 0.02)",
        ],
    }
    (root / "out").mkdir()
    for name, warnings in sentences.items():
        save_scan(root / "scans" / f"{name}.nii.gz", Scan(name, spine.hu, spine.affine, root))
        write_labels(root / "out" / f"{name}_segmentation.nii.gz", spine.labels, spine.affine)
        write_json(root / "out" / f"{name}_landmarks.json", document(BLOCKS, warnings))
    assert main(["report", str(root / "out"), "--scans", str(root / "scans")]) == 0
    return root


def text_of(folders, name):
    return (folders / "out" / name).read_text(encoding="utf-8")


def test_the_page_says_what_was_found_and_measured(folders):
    text = text_of(folders, "unsure_report.html")
    assert "no anchor in view: labels may be off by one (probability 0.16)" in text
    assert "T12 → T11 (probability 0.03)" in text
    assert '<span class="warn">0.75</span>' in text, "a doubtful name is marked"
    assert re.search("3[1-5] %", text), "L1 lost a third of its front"
    assert '<span class="grade2">2</span>' in text
    assert text.count("<figure>") == len(BLOCKS)


def test_what_is_missing_points_to_its_reason(folders):
    text = text_of(folders, "sound_report.html")
    reasons = re.findall(r"<li><sup>(\d+)</sup> ([^<]*)</li>", text)
    assert [int(number) for number, _ in reasons] == list(range(1, len(reasons) + 1))
    assert "no sound neighbors above and below to compare with" in [reason for _, reason in reasons]
    pointers = set(re.findall(r"–<sup>(\d+)</sup>", text))
    assert pointers == {number for number, _ in reasons}


def test_names_and_warnings_are_escaped(folders):
    for page in ("a & <b>_report.html", "index.html"):
        text = text_of(folders, page)
        assert "<i>no</i>" not in text
        assert "a &amp; &lt;b&gt;" in text
    assert 'href="a%20%26%20%3Cb%3E_report.html"' in text_of(folders, "index.html")


def test_measurements_are_written_as_json(folders):
    measured = json.loads((folders / "out" / "sound_measurements.json").read_text())
    assert [v["name"] for v in measured["vertebrae"]] == ["T12", "L1", "L2"]
    assert measured["vertebrae"][1]["anterior_mm"]["value"] == pytest.approx(16, abs=0.6)


@pytest.mark.parametrize("page", ["unsure_report.html", "index.html"])
def test_pages_refer_to_nothing_outside(folders, page):
    text = text_of(folders, page)
    references = References()
    references.feed(text)
    own = [value for value in references.found if not value.startswith("data:")]
    assert all(value.endswith("_report.html") and "/" not in value for value in own)
    assert len(own) == (3 if page == "index.html" else 0)
    assert not re.search(r"url\(|@import|https?://|\ssrc=", text)


def test_the_index_counts_warnings_by_kind(folders):
    text = text_of(folders, "index.html")
    assert "3 scans, 2 of them with a warning" in text
    assert "no anchor in view · 2</button>" in text, "a sentence and a code of the same kind are one"
    assert text.index("a &amp; &lt;b&gt;</a>") < text.index("unsure</a>") < text.index("sound</a>")


def test_warnings_of_either_form(tmp_path):
    sentence, code = "only 2 vertebrae: too few", {"code": "cut_short", "message": "the scan ends early"}
    write_json(tmp_path / "x_landmarks.json", document(BLOCKS, [sentence, code]))
    findings = read_findings(tmp_path / "x_landmarks.json")
    assert findings.warnings == (Notice("only", sentence), Notice("cut short", "the scan ends early"))


def test_slices_show_the_right_side_and_the_right_hu():
    """Bright balls at the right and front of L1, and above its front: left and top in the axial and sagittal slice."""
    spine = block_spine([Block("L1")], "PIL", (1.0, 1.2, 1.4), margin_mm=40)
    spine.hu[:] = 0
    spine.ball(center_mm(0, 1) + [14.0, 10.0, 0.0], 5, 800)
    spine.ball(center_mm(0, 1) + [0.0, 10.0, 14.0], 5, 800)
    vertebra = Named("L1", 20, tuple(center_mm(0, 1)), 0.9, "", None)
    (svg,) = slices(spine.hu, spine.labels, spine.affine, [vertebra])
    axial, sagittal = (
        matplotlib_image.imread(io.BytesIO(base64.b64decode(content)), format="jpeg")[..., 0]
        for content in re.findall(r"base64,([^\"]*)", svg)
    )
    # 96 mm in steps of 0.6 mm about a point 14 mm behind the center: 14 right, 10 + 14 front; 10 + 14 front, 14 up.
    for picture, (down, across) in ((axial, (24, 14)), (sagittal, (14, 24))):
        bright = np.argwhere(picture > 200)
        assert bright.mean(axis=0) * 0.6 + 0.3 == pytest.approx([48 - down, 48 - across], abs=0.7)
        assert picture[80, 80] == pytest.approx(255 * 0.2, abs=4), "0 HU in a window from -200 to 800"


def test_without_the_scan(folders, tmp_path, capsys):
    shutil.copytree(folders / "out", tmp_path / "out")
    assert main(["report", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "sound_report.html").read_text()
    assert "the scan is not at hand" in text
    assert "image/jpeg" not in text
    assert re.search("3[1-5] %", text)


def test_a_result_of_another_scan_is_refused_and_the_others_written(folders, tmp_path, capsys):
    shutil.copytree(folders / "out", tmp_path / "out", ignore=shutil.ignore_patterns("*.html"))
    small = block_spine(BLOCKS, "PIL", (2.6, 3.0, 3.4), margin_mm=20)
    write_labels(tmp_path / "out" / "unsure_segmentation.nii.gz", small.labels, small.affine)
    assert main(["report", str(tmp_path / "out"), "--scans", str(folders / "scans")]) == 1
    said = capsys.readouterr().err
    assert "unsure_segmentation.nii.gz: not on the grid of" in said
    assert not (tmp_path / "out" / "unsure_report.html").exists()
    assert (tmp_path / "out" / "sound_report.html").exists()
    assert "unsure_segmentation.nii.gz: not on the grid of" in (tmp_path / "out" / "index.html").read_text()


def test_a_mask_with_an_impossible_label_is_refused(folders, tmp_path, capsys):
    """276 is 20, L1, in the lowest eight bits, and was measured as such."""
    shutil.copytree(folders / "out", tmp_path / "out", ignore=shutil.ignore_patterns("*.html"))
    path = tmp_path / "out" / "unsure_segmentation.nii.gz"
    mask = nib.load(path)
    labels = np.asarray(mask.dataobj).astype(np.int16)
    nib.save(nib.Nifti1Image(np.where(labels == 20, 276, labels), mask.affine), path)
    assert main(["report", str(tmp_path / "out")]) == 1
    assert "unsure_segmentation.nii.gz: label 276 is no vertebra" in capsys.readouterr().err
    assert not (tmp_path / "out" / "unsure_report.html").exists()


def test_scans_are_named_as_for_segment(folders, tmp_path):
    """By a list that names them, or by a pattern."""
    (tmp_path / "out").mkdir()
    for suffix in ("_segmentation.nii.gz", "_landmarks.json"):
        shutil.copy(folders / "out" / f"sound{suffix}", tmp_path / "out" / f"first{suffix}")
    (tmp_path / "list.csv").write_text(f"name,path\nfirst,{folders / 'scans' / 'sound.nii.gz'}\n")
    assert main(["report", str(tmp_path / "out"), "--scans", str(tmp_path / "list.csv")]) == 0
    assert "image/jpeg" in (tmp_path / "out" / "first_report.html").read_text()
    shutil.copytree(tmp_path / "out", tmp_path / "other", ignore=shutil.ignore_patterns("*.html"))
    (tmp_path / "a").mkdir()
    shutil.copy(folders / "scans" / "sound.nii.gz", tmp_path / "a" / "first.nii.gz")
    assert main(["report", str(tmp_path / "other"), "--scans", str(tmp_path / "*" / "first.nii.gz")]) == 0
    assert "image/jpeg" in (tmp_path / "other" / "first_report.html").read_text()


def test_a_result_says_where_its_scan_is(folders, tmp_path, capsys):
    """Symptom: `segment B -o OUT --report` called the scan of an earlier result in OUT missing, and exited with 1."""
    shutil.copytree(folders / "out", tmp_path / "out", ignore=shutil.ignore_patterns("*.html", "a & *"))
    shutil.copytree(folders / "scans", tmp_path / "scans")
    path = tmp_path / "out" / "sound_landmarks.json"
    write_json(path, json.loads(path.read_text()) | {"scan_file": "../scans/sound.nii.gz"})
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "image/jpeg" in (tmp_path / "out" / "sound_report.html").read_text()
    assert "image/jpeg" not in (tmp_path / "out" / "unsure_report.html").read_text(), "nobody says where its scan is"

    assert main(["report", str(tmp_path / "out"), "--scans", str(tmp_path / "scans" / "unsure.nii.gz")]) == 0
    assert all("image/jpeg" in (tmp_path / "out" / f"{n}_report.html").read_text() for n in ("sound", "unsure"))
    assert main(["report", str(tmp_path / "out"), "--scans", str(tmp_path / "scans" / "sound.nii.gz")]) == 1
    assert "unsure: no scan of this name is among those given" in capsys.readouterr().err


def test_the_index_names_scans_that_failed(folders, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "torn_error.txt").write_text("torn.nii.gz: cut <short>\nTraceback ...\n")
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "torn.nii.gz: cut &lt;short&gt;</p>" in (tmp_path / "out" / "index.html").read_text()
    for name in ("sound_landmarks.json", "sound_segmentation.nii.gz"):
        shutil.copy(folders / "out" / name, tmp_path / "out")
    assert main(["report", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    assert "1 scan, 0 of them with a warning. 1 failed:</p>" in text
    assert "torn.nii.gz: cut &lt;short&gt;</p>" in text
    assert "sound_report.html" in text


def test_bad_folders(folders, tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no NAME_landmarks.json in this folder" in capsys.readouterr().err
    assert main(["report", str(folders / "out"), "--scans", str(tmp_path / "nowhere")]) == 2


SORT = """<script>{  // names of its own, beside those of the page's script
const heads = [...document.querySelectorAll("#cohort th")];
const rows = () => [...document.querySelectorAll("#cohort tbody tr")];
const names = () => rows().filter((row) => !row.hidden).map((row) => row.cells[0].innerText);
const said = [names()];
heads[1].click(); said.push(names());
heads[0].click(); said.push(names());
document.querySelector(".chips button").click(); said.push(names());
document.body.insertAdjacentHTML("beforeend", "<pre id=said></pre>");
document.querySelector("#said").innerText = JSON.stringify(said);
}</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_the_page_opens_in_a_browser_without_a_failed_request(folders, tmp_path):
    asked, shown = requests_of((folders / "out" / "unsure_report.html").read_bytes(), tmp_path)
    assert asked == ["/report.html"]
    assert shown.count('class="ct"') == 2 + 2 * len(BLOCKS)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_the_index_sorts_and_filters_in_a_browser(folders, tmp_path):
    page = text_of(folders, "index.html").replace("</body>", SORT + "</body>")
    asked, shown = requests_of(page.encode(), tmp_path)
    assert asked == ["/report.html"]
    said = json.loads(
        re.search(r'id="said">(.*?)</pre>', shown)[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )
    assert said[0] == ["a & <b>", "unsure", "sound"], "most warnings first"
    assert said[1] == ["sound", "unsure", "a & <b>"], "fewest first"
    assert said[2] == ["a & <b>", "sound", "unsure"], "by name"
    assert said[3] == ["a & <b>", "unsure"], "only scans with that warning"


def test_no_network_is_loaded():
    program = "import sys, pipeline.report; sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
