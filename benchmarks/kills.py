"""A cohort of synthetic scans, some of them broken, whose run is killed without warning, against one left alone.

python -m benchmarks.kills --count 50 --broken 5                  # the command is killed twice
python -m benchmarks.kills --count 12 --broken 2 --ray local      # instead, two of Ray's workers are

Manifests, masks and all other files must be the same in the end. Exit code 1: they are not. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from pipeline.manifest import DONE, FAILED, read_manifest
from pipeline.phantom import write_phantoms

CHANGING = ("seconds", "peak_memory_gb")  # from run to run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--broken", type=int, default=5, help="so many of them, in turn of five kinds")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=880_001, help="of the scans and of the moments")
    parser.add_argument("--ray", metavar="local", help="kill workers of a Ray cluster made here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        make_cohort(folder / "data", options.count, options.broken, options.seed)
        command = [sys.executable, "-m", "pipeline.cli", "segment", str(folder / "data" / "images"), "--resume", "-o"]
        rng = random.Random(options.seed)
        report("left alone", subprocess.run([*command, folder / "whole"], capture_output=True, text=True))
        interrupt = kill_workers if options.ray else kill_command
        with_ray = ["--ray", options.ray, "--ray-cores", "1"] if options.ray else []
        moments = sorted(rng.sample(range(1, options.count - 2), options.kills))
        report("killed", interrupt([*command, folder / "killed", *with_ray], folder / "killed", moments, rng))
        return compare(folder / "whole", folder / "killed")


def make_cohort(folder: Path, count: int, broken: int, seed: int) -> None:
    """Write phantoms, and spoil some, spread over the cohort."""
    list(write_phantoms(folder, count, seed, "segmentation"))
    scans = sorted((folder / "images").iterdir())
    for turn in range(broken):
        SPOILERS[turn % len(SPOILERS)](scans[(2 * turn + 1) * count // (2 * broken)])


def cut_short(scan: Path) -> None:
    scan.write_bytes(scan.read_bytes()[: scan.stat().st_size // 2])


def rewrite(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Callable[[Path], None]:
    """Return what writes a scan anew with other voxels or another affine."""

    def spoil(scan: Path) -> None:
        image: Any = nib.load(scan)
        nib.save(nib.Nifti1Image(*change(np.asarray(image.dataobj), image.affine)), scan)

    return spoil


SPOILERS = (
    cut_short,
    rewrite(lambda hu, affine: (hu[:, :, hu.shape[2] // 2], affine)),  # one slice
    rewrite(lambda hu, affine: (np.where(hu == hu.max(), np.nan, hu).astype(np.float32), affine)),
    rewrite(lambda hu, affine: (np.minimum(hu, 0), affine)),  # neither bone nor muscle
    rewrite(lambda hu, affine: (hu, affine @ np.diag([9, 9, 9, 1]))),  # voxels of a centimeter
)


def kill_command(command: list, output: Path, moments: list[int], rng: random.Random) -> subprocess.CompletedProcess:
    """Kill the command after so many scans, and begin it anew; return its last run."""
    for moment in moments:
        process = wait_until(command, output, moment, rng)
        process.kill()
        process.communicate()
        records, begun = read_manifest(output)
        lost = [name for name, count in begun.items() if count]
        print(f"killed after {len(records)} scans; begun and lost: {', '.join(lost) or 'none'}", flush=True)
    return subprocess.run(command, capture_output=True, text=True)


def kill_workers(command: list, output: Path, moments: list[int], rng: random.Random) -> subprocess.CompletedProcess:
    """Kill a worker of the command's Ray cluster in the midst of a scan, after so many; return the command's run."""
    process = None
    for moment in moments:
        process = wait_until(command, output, moment, rng, process)
        while not (workers := descendants(process.pid, "ray::Worker.segment")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.kill(rng.choice(workers), signal.SIGKILL)
        print(f"a worker killed after {ended(output)} scans, {len(workers)} being at work", flush=True)
    assert process
    out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def wait_until(
    command: list, output: Path, moment: int, rng: random.Random, process: subprocess.Popen | None = None
) -> subprocess.Popen:
    """Start the command unless it runs, and return when it is in the midst of the scans after a number of them."""
    process = process or subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun, already = time.monotonic(), ended(output)
    while (done := ended(output)) < moment:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(rng.random() * (time.monotonic() - begun) / max(1, done - already))  # a part of the time of a scan
    assert process.poll() is None, "over before it was killed"
    return process


def ended(output: Path) -> int:
    """Return how many scans came to an end, good or bad."""
    return len(read_manifest(output)[0])


def descendants(ancestor: int, title: str) -> list[int]:
    """Return the processes below one whose command line begins with a title."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # gone meanwhile
            continue
    below = {ancestor}
    for _ in range(4):  # command, raylet, worker, and one for good measure
        below |= {pid for pid, parent in parents.items() if parent in below}
    return sorted(pid for pid in below if titles.get(pid, "").startswith(title))


def report(name: str, run: subprocess.CompletedProcess) -> None:
    said = [line for line in (run.stdout + run.stderr).splitlines() if "unchanged" in line or "scans failed" in line]
    print(f"{name}: exit code {run.returncode}; {'; '.join(said) or (run.stdout + run.stderr)[-500:]}", flush=True)


def compare(whole: Path, killed: Path) -> int:
    """Print what is the same and what is not; return the exit code."""
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (whole, killed)]
    differing = [name for name in names[0] if name in names[1] and content(whole / name) != content(killed / name)]
    states = Counter(json.loads(line)["status"] for line in (whole / "manifest.jsonl").read_text().splitlines())
    print(f"{states[DONE]} scans done, {states[FAILED]} failed, {len(names[0])} files")
    for what, found in (("files on one side", sorted(set(names[0]) ^ set(names[1]))), ("files that differ", differing)):
        print(f"{what}: {', '.join(found) or 'none'}")
    return int(names[0] != names[1] or bool(differing))


def content(path: Path) -> Any:
    """Return what must be the same: a file's bytes, or its document without times and memory."""
    if path.suffix == ".jsonl":
        return [stable(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return stable(json.loads(path.read_text()))
    if path.name == "manifest.csv":
        with open(path, newline="") as stream:
            return [stable(row) for row in csv.DictReader(stream)]
    return path.read_bytes() if path.is_file() else None


def stable(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in CHANGING}


if __name__ == "__main__":
    sys.exit(main())
