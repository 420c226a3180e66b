"""The command as a user meets it: exit codes, the one sentence on standard error, and the files it leaves."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ball_spine import ball_spine, save_scan
from oracles import BlindOracle

from pipeline import NoSpineFound, VertebraePipeline
from pipeline.cli import main

NAMES = ("L3", "L4")
GRID = {"spacing_mm": (2.0, 2.6, 3.0)}
SUFFIXES = ("_landmarks.csv", "_landmarks.json", "_preview.png", "_segmentation.nii.gz")


@pytest.fixture(scope="module")
def scan():
    return ball_spine(NAMES, "PIL", oblique=True, **GRID)[0]


@pytest.fixture
def oracle(oracle_pipeline, monkeypatch):
    """Let every new pipeline be the one whose networks know the answer."""
    put_oracle(oracle_pipeline, monkeypatch)
    return oracle_pipeline


def put_oracle(oracle_pipeline, monkeypatch):
    # As large as a ball spine needs: fast. `test_pipeline` has the bundle's own window.
    monkeypatch.setattr(oracle_pipeline.vert_seg.inferer, "window", (64, 72, 64))
    monkeypatch.setattr(VertebraePipeline, "__init__", lambda self, *_, **__: vars(self).update(vars(oracle_pipeline)))


@pytest.fixture(scope="module")
def results(oracle_pipeline, scan, tmp_path_factory) -> Path:
    """Return a folder after `vertebrae segment case.nii.gz -o out` there."""
    folder = tmp_path_factory.mktemp("results")
    image = save_scan(folder / "case.nii.gz", scan)
    with pytest.MonkeyPatch.context() as monkeypatch:
        put_oracle(oracle_pipeline, monkeypatch)
        assert main(["segment", str(image), "-o", str(folder / "out")]) == 0
    return folder


def segment(source: Path, folder: Path, *options: str) -> int:
    return main(["segment", str(source), "-o", str(folder), *options])


def assert_refused(capsys, status: int, expected: int, folder: Path, *parts: str) -> None:
    """One line on standard error with all parts in it, the exit code, and nothing written."""
    captured = capsys.readouterr()
    assert status == expected
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("vertebrae: ")
    for part in parts:
        assert part in captured.err
    assert "Traceback" not in captured.out + captured.err
    assert not folder.is_dir() or list(folder.iterdir()) == []


# Every bad scan, and what the sentence says.
def missing(path: Path, scan) -> None:
    pass


def garbage(path: Path, scan) -> None:
    path.write_bytes(b"this is no image" * 100)


def truncated(path: Path, scan) -> None:
    save_scan(path, scan)
    path.write_bytes(path.read_bytes()[:-2000])


def flat(path: Path, scan) -> None:
    nib.save(nib.Nifti1Image(scan.array[:, :, 0], scan.affine), path)


def series(path: Path, scan) -> None:
    nib.save(nib.Nifti1Image(np.stack([scan.array, scan.array], axis=-1), scan.affine), path)


def magnetic_resonance(path: Path, scan) -> None:
    nib.save(nib.Nifti1Image(((scan.array + 1000) // 4).astype(np.int16), scan.affine), path)


def not_finite(path: Path, scan) -> None:
    array = scan.array.astype(np.float32)
    array[3, 4, 5:7] = np.nan
    nib.save(nib.Nifti1Image(array, scan.affine), path)


def singular(path: Path, scan) -> None:
    plain = path.with_suffix(".plain.nii")
    nib.save(nib.Nifti1Image(scan.array, scan.affine), plain)
    content = bytearray(plain.read_bytes())
    content[296:312] = content[280:296]  # the second row of the sform becomes the first
    plain.unlink()
    path.write_bytes(bytes(content))


def coarse(path: Path, scan) -> None:
    nib.save(nib.Nifti1Image(scan.array, np.diag([8.0, 8.0, 8.0, 1.0])), path)


@pytest.mark.parametrize(
    ("make", "name", "parts"),
    [
        (missing, "none.nii.gz", ["no such file"]),
        (garbage, "garbage.nii.gz", ["cannot be read"]),
        (truncated, "cut.nii.gz", ["cannot be read"]),
        (garbage, "photo.jpg", ["unknown suffix '.jpg'", ".nii.gz"]),
        (flat, "flat.nii.gz", ["2-D image of", "expected a 3-D volume"]),
        (series, "series.nii.gz", ["4-D image of", "x 2 voxels", "expected one 3-D volume"]),
        (magnetic_resonance, "mr.nii.gz", ["not a CT in HU", "values 0 to"]),
        (not_finite, "nan.nii.gz", ["not finite", ": 2"]),
        (singular, "singular.nii", ["affine is singular", "determinant 0"]),
        (coarse, "coarse.nii.gz", ["voxels of 8 x 8 x 8 mm", "0.15 to 7 mm"]),
    ],
)
def test_a_bad_scan_is_one_sentence(make, name, parts, scan, oracle, tmp_path, capsys):
    make(tmp_path / name, scan)
    status = segment(tmp_path / name, tmp_path / "out")
    assert_refused(capsys, status, 2, tmp_path / "out", str(tmp_path / name), *parts)


def test_no_spine_is_exit_code_3(scan, oracle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(oracle.spine_loc, "network", BlindOracle())
    image = save_scan(tmp_path / "case.nii.gz", scan)
    assert_refused(capsys, segment(image, tmp_path / "out"), 3, tmp_path / "out", str(image), "no spine found")


def test_an_empty_folder_is_named(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing here")
    status = segment(tmp_path / "in", tmp_path / "out")
    assert_refused(capsys, status, 2, tmp_path / "out", str(tmp_path / "in"), "no scan in this folder")


@pytest.mark.parametrize("output", ["taken", "taken/below"])
def test_an_output_that_cannot_be_written_is_named(output, scan, oracle, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file, no folder")
    image = save_scan(tmp_path / "case.nii.gz", scan)
    assert_refused(capsys, segment(image, tmp_path / output), 2, tmp_path / "none", str(tmp_path / "taken"))
    assert (tmp_path / "taken").read_text() == "a file, no folder"


@pytest.mark.parametrize("device", ["abacus", "cuda:99", ""])
def test_an_unknown_device_is_named(device, scan, checkpoints, tmp_path, capsys):
    image = save_scan(tmp_path / "case.nii.gz", scan)
    status = segment(image, tmp_path / "out", "--device", device)
    assert_refused(capsys, status, 2, tmp_path / "out", f"device {device!r}")


@pytest.mark.parametrize("stage", ["spine_loc", "vert_loc", "vert_seg"])
@pytest.mark.parametrize("content", ["missing", "garbage", "of another stage"])
def test_a_bad_checkpoint_is_named(stage, content, scan, checkpoints, tmp_path, capsys):
    bad = tmp_path / "bad.pt"
    if content == "garbage":
        bad.write_bytes(b"no weights" * 50)
    elif content == "of another stage":
        bad = checkpoints["vert_seg" if stage == "spine_loc" else "spine_loc"]
    options = [part for name, path in {**checkpoints, stage: bad}.items() for part in (option(name), str(path))]
    image = save_scan(tmp_path / "case.nii.gz", scan)
    status = segment(image, tmp_path / "out", "--device", "cpu", *options)
    assert_refused(capsys, status, 2, tmp_path / "out", str(bad), stage, "weights")


def option(stage: str) -> str:
    return f"--{stage.replace('_', '-')}"


def test_checkpoints_and_device_reach_the_pipeline(scan, checkpoints, tmp_path, monkeypatch, capsys):
    seen = []

    def look(self, scan, on_stage):
        weights = self.spine_loc.network.output.weight  # the only one that no batch norm is folded into
        seen.append((weights.device.type, weights.flatten()[0].item()))
        raise NoSpineFound(f"{scan}: stop here")

    import torch

    monkeypatch.setattr(VertebraePipeline, "__call__", look)
    options = [part for name, path in checkpoints.items() for part in (option(name), str(path))]
    assert segment(save_scan(tmp_path / "case.nii.gz", scan), tmp_path / "out", "--device", "cpu", *options) == 3
    assert seen == [("cpu", torch.load(checkpoints["spine_loc"])["output.weight"].flatten()[0].item())]


def test_the_mask_lies_on_the_scan_s_grid(results):
    written, source = nib.load(results / "out" / "case_segmentation.nii.gz"), nib.load(results / "case.nii.gz")
    assert written.get_data_dtype() == np.uint8
    assert written.shape == source.shape
    np.testing.assert_array_equal(written.affine, source.affine)
    assert set(np.unique(written.dataobj)) == {0, 22, 23}


def test_the_landmark_files_agree(results):
    document = json.loads((results / "out" / "case_landmarks.json").read_text())
    with open(results / "out" / "case_landmarks.csv", newline="") as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == ["label", "X", "Y", "Z"]
    assert [int(line[0]) for line in lines[1:]] == [vertebra["label"] for vertebra in document["vertebrae"]] == [22, 23]
    for line, vertebra in zip(lines[1:], document["vertebrae"], strict=True):
        assert [float(value) for value in line[1:]] == pytest.approx(vertebra["position_mm"], abs=0.01)


def test_the_json_says_where_and_how(results, oracle_pipeline, scan):
    document = json.loads((results / "out" / "case_landmarks.json").read_text())
    assert (document["scan"], document["space"], document["units"]) == ("case", "RAS", "mm")
    assert document["geometry"]["shape"] == list(scan.array.shape)
    assert document["geometry"]["spacing_mm"] == pytest.approx(GRID["spacing_mm"], abs=1e-3)
    np.testing.assert_allclose(document["geometry"]["affine"], scan.affine, atol=1e-4)
    assert document["bundles"] == oracle_pipeline.versions
    assert list(document["seconds"]) == ["spine_loc", "vert_loc", "vert_seg"]
    assert [vertebra["name"] for vertebra in document["vertebrae"]] == list(NAMES)
    assert all(0 < vertebra["score"] <= 1 and 0 < vertebra["probability"] <= 1 for vertebra in document["vertebrae"])
    assert isinstance(document["warnings"], list)


def test_only_the_four_files_are_left(results):
    assert sorted(path.name for path in (results / "out").iterdir()) == [f"case{suffix}" for suffix in SUFFIXES]
    assert (results / "out" / "case_preview.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_voxels_of_a_fifth_of_a_millimeter_work(oracle, tmp_path):
    scan, labels, _ = ball_spine(NAMES, "LPS", spacing_mm=(0.2, 0.2, 2.9), size_mm=(48, 40))
    assert segment(save_scan(tmp_path / "fine.nii.gz", scan), tmp_path / "out") == 0
    written = nib.load(tmp_path / "out" / "fine_segmentation.nii.gz")
    assert written.shape == labels.shape
    assert (np.asarray(written.dataobj) != labels).mean() < 0.03


def test_a_bad_scan_in_a_folder_does_not_stop_the_others(scan, oracle, tmp_path, capsys):
    save_scan(tmp_path / "in" / "b_good.nii.gz", scan)
    flat(tmp_path / "in" / "a_flat.nii.gz", scan)
    coarse(tmp_path / "in" / "c_coarse.nii.gz", scan)
    assert segment(tmp_path / "in", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert "b_good: 2 vertebrae, L3 to L4" in captured.out
    failed = captured.err.splitlines()
    assert [line for line in failed if "a_flat.nii.gz: 2-D image" in line]
    assert [line for line in failed if "c_coarse.nii.gz: voxels of 8" in line]
    assert "2 of 3" in failed[-1]
    journal = ["a_flat_error.txt", "c_coarse_error.txt", "manifest.csv", "manifest.jsonl"]
    expected = sorted([*(f"b_good{suffix}" for suffix in SUFFIXES), *journal])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


def test_finished_scans_are_skipped_unless_told(results, oracle, capsys):
    mask = results / "out" / "case_segmentation.nii.gz"
    first = mask.stat().st_mtime_ns
    assert segment(results / "case.nii.gz", results / "out") == 0
    assert "already done" in capsys.readouterr().out
    assert mask.stat().st_mtime_ns == first
    assert segment(results / "case.nii.gz", results / "out", "--overwrite") == 0
    assert mask.stat().st_mtime_ns > first


def test_strict_tells_a_result_with_warnings_by_its_exit_code(results, scan, oracle, tmp_path, capsys):
    save_scan(tmp_path / "in" / "doubtful.nii.gz", ball_spine(("L2", "L4"), **GRID)[0])  # too near to tell
    save_scan(tmp_path / "in" / "sound.nii.gz", scan)
    assert segment(tmp_path / "in", tmp_path / "out", "--strict") == 4
    error = capsys.readouterr().err
    assert "vertebrae: doubtful: " in error
    assert "off_by_one" in error
    assert "sound" not in error
    names = [f"{name}{suffix}" for name in ("doubtful", "sound") for suffix in SUFFIXES]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "manifest.csv", "manifest.jsonl"}
    assert segment(tmp_path / "in", tmp_path / "out", "--strict") == 4  # all done already
    assert segment(tmp_path / "in" / "sound.nii.gz", tmp_path / "out", "--strict") == 0
    assert segment(tmp_path / "in", tmp_path / "out") == 0


def test_half_a_result_is_redone(results, oracle, tmp_path):
    image = save_scan(tmp_path / "case.nii.gz", ball_spine(NAMES, **GRID)[0])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "case_landmarks.json").write_text("{}")
    assert segment(image, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "case_landmarks.json").read_text())["vertebrae"]


def test_a_failure_while_writing_leaves_nothing(scan, oracle, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "case_preview.png"))

    monkeypatch.setattr("pipeline.preview.save_preview", full)
    image = save_scan(tmp_path / "case.nii.gz", scan)
    assert_refused(capsys, segment(image, tmp_path / "out"), 2, tmp_path / "out", "No space left on device")


def test_two_scans_of_one_name_are_refused(scan, oracle, tmp_path, capsys):
    save_scan(tmp_path / "in" / "case.nii.gz", scan)
    save_scan(tmp_path / "in" / "case.nii", scan)
    status = segment(tmp_path / "in", tmp_path / "out")
    assert_refused(capsys, status, 2, tmp_path / "out", "case.nii.gz", "same name 'case'")


@pytest.mark.parametrize(
    ("arguments", "part"), [(["--count", "0"], "--count 0"), (["--preset", "whale"], "preset 'whale'")]
)
def test_bad_phantom_arguments(arguments, part, tmp_path, capsys):
    assert_refused(capsys, main(["phantom", "--out", str(tmp_path / "out"), *arguments]), 2, tmp_path / "out", part)


def test_version_and_usage(capsys):
    from pipeline import __version__

    for arguments, status in ((["--version"], 0), ([], 2), (["segment", "scan.nii.gz"], 2)):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == status
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("error", [MemoryError("cannot allocate 9 GiB"), RuntimeError("a bug")])
def test_any_failure_leaves_the_other_scans_running(error, oracle, scan, tmp_path, capsys, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("first", "second"):
        save_scan(source / f"{name}.nii.gz", scan)
    segment_one = VertebraePipeline.__call__

    def fail_on_first(self, path, *arguments):
        if "first" in str(path):
            raise error
        return segment_one(self, path, *arguments)

    monkeypatch.setattr(VertebraePipeline, "__call__", fail_on_first)
    assert segment(source, tmp_path / "out") == 1
    assert f"first.nii.gz: {'not enough memory' if isinstance(error, MemoryError) else 'RuntimeError: a bug'}" in (
        capsys.readouterr().err
    )
    assert (tmp_path / "out" / "second_segmentation.nii.gz").is_file()
