"""Cohorts on a local Ray cluster, with the fake pipeline of `fake_cohort.py`; workers are killed in mid-run."""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_cohort import make_cohort
from test_batch import by_name, records, run, start, table

from pipeline.cli import main
from pipeline.images import InputError
from pipeline.manifest import read_manifest
from pipeline.ray_cluster import places

pytest.importorskip("ray")


def lines(log: Path) -> list[list[str]]:
    """Return process and scan of every computation that was begun."""
    return [line.split() for line in log.read_text().splitlines()] if log.is_file() else []


def start_on_ray(log: Path, begun: int, *arguments) -> subprocess.Popen:
    """Start a run and wait until so many scans are begun. Ray gives itself 30 s to start, too few on a busy machine."""
    for _ in range(4):
        process = start(*arguments, "--ray", "local")
        while process.poll() is None and len(lines(log)) < begun:
            time.sleep(0.02)
        if process.poll() is None:
            return process
        said = process.communicate()[1]
        assert "no Ray cluster there (The current node timed out during startup" in said, said
    raise AssertionError("Ray does not start")


@pytest.mark.slow
def test_a_worker_killed_in_mid_run_loses_nothing_and_nothing_is_done_twice(tmp_path, monkeypatch):
    """12 scans: one broken, one that takes too long, one that kills its worker; and one worker is killed besides."""
    source, log = make_cohort(tmp_path / "in", good=11, broken=1), tmp_path / "log"
    shutil.move(source / "07.nii.gz", source / "07_slow.nii.gz")
    shutil.move(source / "09.nii.gz", source / "09_deadly.nii.gz")
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.setenv("FAKE_SECONDS", "1")
    process = start_on_ray(log, 4, source, "-o", tmp_path / "out", "--ray-cores", "1", "--timeout", "5")
    pid, victim = lines(log)[3]
    os.kill(int(pid), signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 1, err
    assert "Traceback" not in out + err

    found = by_name(tmp_path / "out")
    failed = {name: record["error"] for name, record in found.items() if record["status"] == "failed"}
    assert list(failed) == ["03", "07_slow", "09_deadly"]
    assert "07_slow.nii.gz: not done after 5 s (--timeout)" in failed["07_slow"]
    assert "09_deadly.nii.gz: the process died 3 times on this scan" in failed["09_deadly"]
    assert all(
        (tmp_path / "out" / f"{name}_error.txt").read_text() == f"{failed[name]}\n" for name in ("03", "09_deadly")
    )

    begun = Counter(name for _, name in lines(log))
    expected = dict.fromkeys(found, 1) | {victim: 2, "09_deadly": 3}
    del expected["03"]  # cannot be read, hence never came to a worker
    assert begun == expected
    assert len({pid for pid, _ in lines(log)}) >= 4, "four were killed"
    assert not list((tmp_path / "out").glob(".*"))

    for name in ("07_slow", "09_deadly"):
        (source / f"{name}.nii.gz").unlink()
    monkeypatch.delenv("FAKE_SECONDS")
    assert run(source, "-o", tmp_path / "plain")[0] == 1
    same = [record for record in records(tmp_path / "out") if record["name"] not in ("07_slow", "09_deadly")]
    assert same == records(tmp_path / "plain")
    for path in (tmp_path / "plain").glob("*_segmentation.nii.gz"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()

    # Without Ray, a second run has nothing to do but what failed: the manifest is the same.
    assert "9 of 10 unchanged" in run(source, "-o", tmp_path / "out", "--resume")[1]
    assert read_manifest(tmp_path / "out")[1]["09_deadly"] == 0
    assert len(table(tmp_path / "out")) == 12


THREE = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 64.0}]


@pytest.mark.parametrize(
    ("nodes", "device", "cores", "expected"),
    [
        ([{"CPU": 2.0}], "auto", 4, (1, {"num_cpus": 2})),
        ([{"CPU": 2.0}], "auto", 1, (2, {"num_cpus": 1})),
        ([{"CPU": 9.0}, {"CPU": 16.0}, {"memory": 1e9}], "auto", 4, (6, {"num_cpus": 4})),
        (THREE, "cuda", 8, (6, {"num_gpus": 1, "num_cpus": 2})),
        ([{"CPU": 1.0, "GPU": 2.0}], "cuda", 4, (2, {"num_gpus": 1, "num_cpus": 1})),
        ([{"CPU": 16.0, "GPU": 4.0}], "cpu", 8, (2, {"num_cpus": 8})),
    ],
)
def test_places(nodes, device, cores, expected):
    assert places(nodes, device, cores) == expected


def test_a_cluster_without_cores_is_refused():
    with pytest.raises(InputError, match="no machine of the cluster has a core"):
        places([{"memory": 1e9}], "auto", 4)


def test_bad_options_are_one_sentence(tmp_path, capsys, monkeypatch):
    source = make_cohort(tmp_path / "in", good=2, broken=0)
    assert main(["segment", str(source), "-o", str(tmp_path / "out"), "--ray", "local", "--ray-cores", "0"]) == 2
    assert "--ray-cores 0: expected 1 or more" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    code, _, err = run(source, "-o", tmp_path / "out", "--ray", "local")
    assert code == 2
    assert "--ray needs the package ray: pip install '.[ray]' in the repository" in err
