"""Time and memory of `vertebrae` step by step, beside the machine's limits and other networks, all in one run.

    make bench
    python -m benchmarks.speed --slices 200 --plane 256 --repeats 1 --no-peers

Prints Markdown. Everything is measured in turn and several times over, so that a busy moment hits all alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch

from . import tables
from .floors import deflate_seconds, machine_rates
from .peers import PEERS, TimedPeer
from .scans import PLANE, SIZES, make_scan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=list(SIZES), help="of each scan, 0.8 mm apart")
    parser.add_argument("--plane", type=int, default=PLANE, help="voxels across (default: 512)")
    parser.add_argument("--repeats", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--no-peers", action="store_true", help="ours alone: no other networks, no MONAI")
    parser.add_argument("--float32", action="store_true", help="as on a processor that is slow in bfloat16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _run(options, Path(folder))


def _run(options: argparse.Namespace, folder: Path) -> None:
    peers = {} if options.no_peers else {name: TimedPeer(peer) for name, peer in PEERS.items()}
    scans = {slices: _made(folder, slices, options.plane) for slices in options.slices}
    rates, seconds, turns = [], {name: [] for name in peers}, {slices: [] for slices in scans}
    for turn in range(options.repeats):
        _say(f"turn {turn + 1} of {options.repeats}: machine")
        rates.append(machine_rates(next(iter(scans.values()))))
        for name, peer in peers.items():
            _say(f"  one window: {name}")
            seconds[name].append(peer.window_seconds())
        for slices, path in scans.items():
            _say(f"  {path.name}")
            turns[slices].append(_segmented(path, folder, options))
    best = {name: max(rate[name] for rate in rates) for name in rates[0]}
    measured = [_summary(slices, path, turns[slices], folder, peers) for slices, path in scans.items()]
    _report(measured, rates, best, peers, seconds)


def _made(folder: Path, slices: int, plane: int) -> Path:
    _say(f"making {plane}x{plane}x{slices}")
    return make_scan(folder, slices, plane)


def _segmented(scan: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Segment one scan in all ways that are compared; return what was measured, as `tables.Measured` names it."""
    ours = _in_process("ours", scan, folder / "out", *(["--float32"] if options.float32 else []))
    if options.no_peers:
        return {"runs": ours}
    eager = _in_process("ours", scan, folder / "eager", "--eager")
    plain = _in_process("plain_monai", scan, folder / "out", json.dumps(ours["spine_box_mm"]))
    return {"runs": ours, "eager": eager, "plain": plain}


def _in_process(module: str, scan: Path, output_dir: Path, *options: str) -> Any:
    """Segment one scan with a module of this package in a process of its own; return what it measured."""
    command = [sys.executable, "-m", f"{__package__}.{module}", str(scan), str(output_dir), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _summary(
    slices: int, path: Path, turns: list[dict[str, Any]], folder: Path, peers: dict[str, TimedPeer]
) -> tables.Measured:
    view = SIZES[min(SIZES, key=lambda size: abs(size - slices))][0]
    mask = folder / "out" / path.name.replace(".nii.gz", "_segmentation.nii.gz")
    windows = {name: peer.count_windows(turns[0]["runs"]["spine_box_mm"]) for name, peer in peers.items()}
    documents = {key: [turn[key] for turn in turns] for key in turns[0]}
    return tables.Measured(f"{view} ({slices})", deflate=deflate_seconds(mask), windows=windows, **documents)


def _report(
    measured: list[tables.Measured],
    rates: list[dict[str, float]],
    best: dict[str, float],
    peers: dict[str, TimedPeer],
    seconds: dict[str, list[float]],
) -> None:
    arithmetic = "bfloat16" if measured[0].runs[0]["bfloat16"] else "float32"
    facts = {
        "processor": f"{_processor()}, {torch.get_num_threads()} threads",
        "software": f"Python {platform.python_version()}, PyTorch {torch.__version__}",
        "networks run in": arithmetic,
        "measured": f"{date.today()}, {len(rates)} times",
    }
    print(tables.machine_table(facts, rates), end="\n\n")
    print(tables.scans_table(measured), end="\n\n")
    print(tables.steps_table(measured, best), end="\n\n")
    if peers:
        multiplications = {name: peer.multiplications for name, peer in peers.items()}
        print(tables.peers_table(measured, multiplications, seconds), end="\n\n")
        print(tables.plain_table(measured), end="\n\n")
    print("\n".join(f"- {line}" for line in tables.findings(measured, best)))


def _processor() -> str:
    """Return the processor's name, and which of the instructions that matter here it has."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    fields = dict(line.split("\t", 1) for line in lines if "\t" in line)
    values = {name.strip(): value.strip(" :\t") for name, value in fields.items()}
    has = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in values.get("flags", "").split()]
    return f"{values.get('model name') or platform.processor()} ({', '.join(has[:2])})"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
