"""Cohorts with a fake, fast pipeline in a process of its own (`fake_cohort.py`), which may be killed."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from fake_cohort import FakePipeline, make_cohort, save_preview

from benchmarks.kills import CHANGING, compare
from pipeline.cli import main
from pipeline.files import remove_leftovers
from pipeline.images import InputError
from pipeline.manifest import append_record, open_manifest, read_manifest, write_manifest
from pipeline.memory import BASE_GB, BYTES_PER_VOXEL, Budget, forecast_gb, machine_gb, peak_gb, reset_peak
from pipeline.sources import content_sha256, find_sources
from pipeline.timeout import time_limit

TESTS = Path(__file__).parent


def start(*arguments) -> subprocess.Popen:
    """Start a process of its own, to be killed."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, str(TESTS / "fake_cohort.py"), "segment", *map(str, arguments)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments, pipeline: type = FakePipeline) -> tuple[int, str, str]:
    """Run the command here; return its exit code and what it wrote to standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("pipeline.batch.VertebraePipeline", pipeline)
        patch.setattr("pipeline.preview.save_preview", save_preview)
        code = main(["segment", *map(str, arguments)])
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


def records(folder: Path) -> list[dict]:
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CHANGING} for line in lines]


def by_name(folder: Path) -> dict[str, dict]:
    return {record["name"]: record for record in records(folder)}


def kill_after(done: int, folder: Path, *arguments) -> None:
    """Start a run and kill it without warning once that many scans more are done."""
    journal = folder / "manifest.jsonl"

    def count() -> int:
        return journal.read_bytes().count(b'"status": "done"') if journal.is_file() else 0

    before, process = count(), start(*arguments)
    while count() < before + done:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()


@pytest.mark.slow
def test_a_cohort_killed_twice_ends_as_if_it_had_not_been(tmp_path):
    """50 scans, 5 of them broken."""
    source = make_cohort(tmp_path / "in", good=45, broken=5)
    assert run(source, "-o", tmp_path / "whole", "--formats", "ctd,per-vertebra")[0] == 1
    arguments = (source, "-o", tmp_path / "killed", "--resume", "--formats", "ctd,per-vertebra")
    kill_after(11, tmp_path / "killed", *arguments)
    with open(tmp_path / "killed" / "manifest.jsonl", "a") as stream:
        stream.write('{"name": "half a li')  # as a torn write leaves it
    kill_after(17, tmp_path / "killed", *arguments)
    lost = sum(count > 0 for count in read_manifest(tmp_path / "killed")[1].values())
    assert lost <= 1
    code, out, err = run(*arguments)
    assert code == 1
    assert "unchanged since they were done" in out
    assert int(out.splitlines()[-1].split()[0]) >= 28
    assert "vertebrae: 5 of " in err.splitlines()[-1]

    whole, killed = records(tmp_path / "whole"), records(tmp_path / "killed")
    assert [record["name"] for record in whole] == [f"{index:02d}" for index in range(50)]
    assert [record["name"] for record in whole if record["status"] == "failed"] == ["03", "13", "23", "33", "43"]
    assert killed == whole
    outputs = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "killed")]
    assert outputs[0] == outputs[1]
    assert not [name for name in outputs[0] if name.startswith(".")]
    for path in (tmp_path / "whole").glob("*_segmentation.nii.gz"):
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()
    assert table(tmp_path / "whole") == table(tmp_path / "killed")


def table(folder: Path) -> list[dict]:
    with open(folder / "manifest.csv", newline="") as stream:
        return [{key: value for key, value in row.items() if key not in CHANGING} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Return a folder with a small cohort in `in` and its results in `out`."""
    folder = tmp_path_factory.mktemp("cohort")
    make_cohort(folder / "in", good=5, broken=1)
    code, out, _ = run(folder / "in", "-o", folder / "out")
    assert code == 1
    assert "[6/6, 0 s left] 05: 3 vertebrae, T12 to L1" in out
    return folder


def test_the_manifest_says_what_was_done(finished):
    done = by_name(finished / "out")["01"]
    assert done["status"] == "done"
    assert done["format"] == "vertebrae-manifest/1"
    assert done["sha256"] == content_sha256(finished / "in" / "01.nii.gz")
    assert done["geometry"]["shape"] == [20, 17, 13]
    assert done["geometry"]["spacing_mm"] == [1.3, 1.7, 2.1]
    assert done["vertebrae"] == ["T12", "T13", "L1"]
    assert done["confidence"] == {"lowest": 0.875, "mean": 0.875}
    assert done["config"] == {"formats": [], "repair": True}
    assert set(done["bundles"]) == {"spine_loc", "vert_loc", "vert_seg"}
    assert all(len(bundle["weights_sha256"]) == 64 for bundle in done["bundles"].values())
    assert [warning.split("[")[1] for warning in done["warnings"]] == ["spacing]"] * 2  # the blocks are 11 mm apart
    assert all((finished / "out" / name).is_file() for name in done["outputs"])
    whole = [json.loads(line) for line in (finished / "out" / "manifest.jsonl").read_text().splitlines()]
    assert list(whole[1]["seconds"]) == ["reading", "writing"]
    assert 0 < whole[1]["peak_memory_gb"] < 4


def test_a_failure_has_its_own_file_and_record(finished):
    failed = by_name(finished / "out")["03"]
    assert failed["status"] == "failed"
    assert "03.nii.gz: cannot be read" in failed["error"]
    assert (finished / "out" / "03_error.txt").read_text() == failed["error"] + "\n"
    rows = table(finished / "out")
    assert [row["status"] for row in rows] == ["done", "done", "done", "failed", "done", "done"]
    assert rows[0]["vertebrae"] == "T12-L1"
    assert rows[0]["lowest_probability"] == "0.875"


def test_resume_redoes_what_changed_and_nothing_else(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    source, output = tmp_path / "copy" / "in", tmp_path / "copy" / "out"
    assert "5 of 6 unchanged" in run(source, "-o", output, "--resume")[1]

    shutil.copy(source / "00.nii.gz", source / "03.nii.gz")  # mended
    (source / "01.nii.gz").write_bytes((source / "02.nii.gz").read_bytes())  # changed
    (output / "04_landmarks.csv").unlink()
    code, out, _ = run(source, "-o", output, "--resume")
    assert code == 0
    assert "3 of 6 unchanged" in out
    assert not (output / "03_error.txt").exists()
    assert by_name(output)["03"]["status"] == "done"
    assert by_name(output)["01"]["sha256"] == by_name(output)["02"]["sha256"]

    assert "unchanged" not in run(source, "-o", output, "--resume", "--formats", "ctd")[1]
    assert (output / "05_ctd.json").is_file()
    # Nothing to do: no network is loaded, else the call of None would fail.
    assert "6 of 6 unchanged" in run(source, "-o", output, "--resume", "--formats", "ctd", pipeline=None)[1]


def test_reports_of_one_scan_after_another(finished, tmp_path):
    """Symptom: the second command called the scan of the first one missing, dropped its page and exited with 1."""
    for name in ("00", "01"):
        assert run(finished / "in" / f"{name}.nii.gz", "-o", tmp_path / "out", "--report")[0] == 0
    index = (tmp_path / "out" / "index.html").read_text()
    assert all(f'<a href="{name}_report.html">' in index for name in ("00", "01"))
    assert "image/jpeg" in (tmp_path / "out" / "00_report.html").read_text()
    assert run(finished / "in", "-o", tmp_path / "out", "--report")[0] == 1, "03 is torn"
    assert "03.nii.gz: cannot be read" in (tmp_path / "out" / "index.html").read_text()


def test_models_are_loaded_once(finished, tmp_path):
    made = []

    class Counted(FakePipeline):
        def __init__(self, *arguments) -> None:
            made.append(arguments)

    run(finished / "in", "-o", tmp_path / "out", "--device", "cpu", pipeline=Counted)
    assert made == [("cpu", {})]


def test_a_timeout_stops_one_scan_only(finished, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(finished / "in" / "00.nii.gz", tmp_path / "in" / "a_slow.nii.gz")
    shutil.copy(finished / "in" / "01.nii.gz", tmp_path / "in" / "b.nii.gz")
    begun = time.monotonic()
    code, out, err = run(tmp_path / "in", "-o", tmp_path / "out", "--timeout", "0.5")
    assert code == 1
    assert time.monotonic() - begun < 25
    assert "a_slow.nii.gz: not done after 0.5 s (--timeout)" in err
    assert "b: 3 vertebrae" in out
    failed = by_name(tmp_path / "out")["a_slow"]
    assert failed["status"] == "failed"
    assert (tmp_path / "out" / "a_slow_error.txt").read_text() == failed["error"] + "\n", "no traceback"


def test_a_scan_that_kills_the_process_is_given_up(finished, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(finished / "in" / "00.nii.gz", tmp_path / "in" / "a_deadly.nii.gz")
    shutil.copy(finished / "in" / "01.nii.gz", tmp_path / "in" / "b.nii.gz")
    (tmp_path / "out").mkdir()
    for _ in range(3):  # what three dead processes leave
        append_record(tmp_path / "out", {"name": "a_deadly", "status": "started"})
    code, out, err = run(tmp_path / "in", "-o", tmp_path / "out", "--resume")
    assert code == 1
    assert "a_deadly.nii.gz: the process died 3 times on this scan" in err
    assert "b: 3 vertebrae" in out


def test_too_large_for_the_limit(finished, tmp_path):
    code, _, err = run(finished / "in" / "00.nii.gz", "-o", tmp_path / "out", "--max-memory", "0.5")
    assert code == 2
    assert "00.nii.gz: 20 x 17 x 13 voxels need about " in err
    assert "GB of memory, more than 0.5 GB (--max-memory)" in err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--timeout", "0", "--timeout 0: expected more than 0"),
        ("--max-memory", "-3", "--max-memory -3: expected more than 0"),
        ("--formats", "ctd,stl", "format 'stl': expected nifti"),
    ],
)
def test_bad_options_are_one_sentence(finished, tmp_path, option, value, sentence):
    code, _, err = run(finished / "in", "-o", tmp_path / "out", option, value)
    assert code == 2
    assert sentence in err
    assert not (tmp_path / "out").exists()


def test_lists_name_their_scans(finished, tmp_path):
    shutil.copytree(finished / "in", tmp_path / "scans")
    text = "name,path\nfirst,scans/00.nii.gz\n,scans/01.nii.gz\ngone,scans/none.nii.gz\n"
    (tmp_path / "list.csv").write_text(text)
    sources = find_sources(tmp_path / "list.csv")
    assert [source.name for source in sources] == ["first", "01", "gone"]
    code, _, err = run(tmp_path / "list.csv", "-o", tmp_path / "out")
    assert code == 1
    assert "none.nii.gz: no such file" in err
    assert [(r["name"], r["status"]) for r in records(tmp_path / "out")] == [
        ("first", "done"),
        ("01", "done"),
        ("gone", "failed"),
    ]
    assert json.loads((tmp_path / "out" / "first_landmarks.json").read_text())["scan"] == "first"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a column 'path'"),
        ("file\na.nii.gz\n", "expected a column 'path'"),
        ("path\n\n,\n", "line 2: no path"),
        ("path,name\na.nii.gz,../b\n", "line 2: '../b' cannot be the name of a file"),
        ("path,name\na.nii,x\nb.nii,x\n", "same name 'x'"),
    ],
)
def test_bad_lists_are_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_sources(tmp_path / "list.csv")


def test_patterns_take_folders_into_the_names(tmp_path):
    for subject in ("sub-1", "sub-2"):
        (tmp_path / "data" / subject).mkdir(parents=True)
        (tmp_path / "data" / subject / "ct.nii.gz").write_bytes(b"")
        (tmp_path / "data" / subject / "ct_segmentation.nii.gz").write_bytes(b"")
        (tmp_path / "data" / subject / "notes.txt").write_bytes(b"")
    sources = find_sources(str(tmp_path / "data" / "**" / "*"))
    assert [source.name for source in sources] == ["sub-1_ct", "sub-2_ct"]
    assert [source.name for source in find_sources(str(tmp_path / "data" / "sub-1" / "*.nii.gz"))] == ["ct"]
    with pytest.raises(InputError, match="no scan matches"):
        find_sources(str(tmp_path / "*.mha"))


def test_the_sum_is_of_the_content(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"same")
    (tmp_path / "b.nii.gz").write_bytes(b"same")
    # SHA-256 of "same", from sha256sum.
    expected = "0967115f2813a3541eaef77de9d9d5773f1c0c04314b0bbfe4ff3b3b1c55b5d5"
    assert content_sha256(tmp_path / "a.nii.gz") == content_sha256(tmp_path / "b.nii.gz") == expected
    for folder, names in (("one", ("x", "y")), ("two", ("y", "x"))):
        (tmp_path / folder).mkdir()
        for name, byte in zip(names, (b"1", b"2"), strict=True):
            (tmp_path / folder / name).write_bytes(bytes(128) + b"DICM" + byte)
    assert content_sha256(tmp_path / "one") == content_sha256(tmp_path / "two")
    (tmp_path / "two" / "x").write_bytes(bytes(128) + b"DICM3")
    assert content_sha256(tmp_path / "one") != content_sha256(tmp_path / "two")
    (tmp_path / "c.mhd").write_bytes(b"header")
    (tmp_path / "c.raw").write_bytes(b"voxels")
    before = content_sha256(tmp_path / "c.mhd")
    (tmp_path / "c.raw").write_bytes(b"others")
    assert content_sha256(tmp_path / "c.mhd") != before


def test_the_benchmark_of_kills_sees_what_differs(finished, tmp_path, capsys):
    """Times and memory may differ, nothing else."""
    shutil.copytree(finished / "out", tmp_path / "out")
    journal, mask = tmp_path / "out" / "manifest.jsonl", tmp_path / "out" / "04_segmentation.nii.gz"
    journal.write_text(re.sub(r'"reading": [\d.]+', '"reading": 99', journal.read_text()))
    assert compare(finished / "out", tmp_path / "out") == 0
    assert "5 scans done, 1 failed" in capsys.readouterr().out
    journal.write_text(journal.read_text().replace('"T13"', '"L2"', 1))
    mask.write_bytes(mask.read_bytes()[:-1])
    assert compare(finished / "out", tmp_path / "out") == 1
    assert "files that differ: 04_segmentation.nii.gz, manifest.jsonl" in capsys.readouterr().out
    mask.unlink()
    assert compare(finished / "out", tmp_path / "out") == 1
    assert "files on one side: 04_segmentation.nii.gz" in capsys.readouterr().out


def test_a_manifest_survives_a_torn_line(tmp_path):
    append_record(tmp_path, {"name": "b", "status": "done"})
    append_record(tmp_path, {"name": "a", "status": "started"})
    with open(tmp_path / "manifest.jsonl", "a") as stream:
        stream.write('{"name": "a", "sta')
    assert read_manifest(tmp_path) == ({"b": {"name": "b", "status": "done"}}, {"a": 1, "b": 0})
    open_manifest(tmp_path)
    append_record(tmp_path, {"name": "a", "status": "failed", "error": "x"})
    write_manifest(tmp_path, ["a"])
    assert [json.loads(line)["name"] for line in (tmp_path / "manifest.jsonl").read_text().splitlines()] == ["a", "b"]


def test_a_manifest_of_something_else_is_refused(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("hello\nworld\n")
    with pytest.raises(ValueError, match=r"manifest.jsonl, line 1: not a record"):
        read_manifest(tmp_path)


def test_leftovers_of_the_dead_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".{dead.pid}.case").mkdir()
    (tmp_path / f".{dead.pid}.case" / "half.nii.gz").write_bytes(b"")
    (tmp_path / f".{dead.pid}.case.json").write_bytes(b"")
    (tmp_path / f".{os.getpid()}.mine").write_bytes(b"")
    (tmp_path / ".hidden.txt").write_bytes(b"")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{os.getpid()}.mine", ".hidden.txt"]


def test_forecast():
    million = (100, 100, 100)
    assert forecast_gb(million, np.dtype(np.int16)) == pytest.approx(BASE_GB + BYTES_PER_VOXEL / 1000)
    assert forecast_gb(million, np.dtype(np.float32)) == pytest.approx(BASE_GB + (BYTES_PER_VOXEL + 2) / 1000)
    assert 0.2 < machine_gb() < 1e5


def test_the_peak_is_measured_anew():
    block = np.ones(40_000_000)  # 0.32 GB
    high = peak_gb()
    assert high > 0.32
    del block
    reset_peak()
    if sys.platform == "linux":
        assert peak_gb() < high - 0.2


def test_the_budget_lets_one_in_and_others_when_there_is_room():
    budget, order = Budget(10.0), []
    budget.enter(20.0)  # alone: always

    def wait(gb: float) -> None:
        budget.enter(gb)
        order.append(gb)

    waiting = threading.Thread(target=wait, args=(4.0,))
    waiting.start()
    time.sleep(0.05)
    assert order == []
    budget.leave(20.0)
    waiting.join(timeout=5)
    assert order == [4.0]
    wait(6.0)
    assert budget.used_gb == 10.0


def sleep_forever() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:  # as some libraries do
            continue


def test_time_limit():
    with time_limit(0.05, "a.nii"):
        pass
    time.sleep(0.1)  # the alarm is off
    with time_limit(None, "a.nii"):
        time.sleep(0.01)
    with pytest.raises(TimeoutError, match=r"a\.nii: not done after 0\.05 s"):
        limited_sleep()


def limited_sleep() -> None:
    with time_limit(0.05, "a.nii"):
        sleep_forever()


def test_the_next_scan_is_read_and_the_last_one_written_meanwhile(finished, tmp_path, monkeypatch):
    """While a scan is computed, the next one is being read and the last one is being written."""
    from pipeline import cohort

    reading, writing, seen = threading.Event(), threading.Event(), []
    write_result, read_voxels = cohort.write_result, cohort.read_voxels

    def read(header):
        reading.set()
        return read_voxels(header)

    def write(*arguments):
        writing.set()
        return write_result(*arguments)

    class Waiting(FakePipeline):
        def __call__(self, scan, on_stage):
            ahead = scan.name == "02" or reading.wait(timeout=20)
            behind = scan.name == "00" or writing.wait(timeout=20)
            reading.clear()
            writing.clear()
            seen.append((scan.name, ahead, behind))
            return super().__call__(scan, on_stage)

    monkeypatch.setattr(cohort, "read_voxels", read)
    monkeypatch.setattr(cohort, "write_result", write)
    (tmp_path / "in").mkdir()
    for name in ("00", "01", "02"):
        shutil.copy(finished / "in" / f"{name}.nii.gz", tmp_path / "in")
    assert run(tmp_path / "in", "-o", tmp_path / "out", pipeline=Waiting)[0] == 0
    assert seen == [("00", True, True), ("01", True, True), ("02", True, True)]


@pytest.mark.skipif(not shutil.which("awk"), reason="no awk on this machine")
def test_the_slurm_recipe_gives_every_scan_to_one_task(tmp_path):
    """The line of docs/cohorts.md as it stands there, for 3 tasks and 7 scans."""
    text = (TESTS.parent / "docs" / "cohorts.md").read_text()
    (recipe,) = (line for line in text.splitlines() if line.startswith("awk "))
    (tmp_path / "LIST.csv").write_text("path\n" + "".join(f"{name}.nii.gz\n" for name in "abcdefg"))
    parts = []
    for task in "012":
        variables = {**os.environ, "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_ID": task, "part": f"{task}.csv"}
        subprocess.run(["sh", "-c", recipe], check=True, cwd=tmp_path, env=variables)
        parts.append([source.name for source in find_sources(tmp_path / f"{task}.csv")])
    assert sorted(name for part in parts for name in part) == list("abcdefg")
    assert sorted(map(len, parts)) == [2, 2, 3]
