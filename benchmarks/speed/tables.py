"""The tables, in Markdown: medians, and in brackets the smallest and the largest value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

STEPS = ("start", "read", "spine_loc/resample", "spine_loc/network", "spine_loc",
         "vert_loc/resample", "vert_loc/network", "vert_loc/candidates", "vert_loc/solver", "vert_loc",
         "vert_seg/resample", "vert_seg/distance channels", "vert_seg/network", "vert_seg/resample back",
         "vert_seg/merge", "vert_seg", "write/mask", "write/picture", "write")  # fmt: skip


class Measured(NamedTuple):
    """What was measured of one scan.

    Attributes:
        name: what is in view.
        runs: documents of `ours.measure`.
        deflate: the time zlib takes for the mask.
        windows: by peer.
        eager: documents of `ours.measure` with the networks as they were trained.
        plain: documents of `plain_monai.measure`; None where memory was too small.
    """

    name: str
    runs: list[dict[str, Any]]
    deflate: float
    windows: dict[str, int]
    eager: Sequence[dict[str, Any]] = ()
    plain: Sequence[dict[str, Any] | None] = ()


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median and, of several values, the smallest and the largest."""
    middle = f"{median(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_table(facts: dict[str, str], rates: Sequence[dict[str, float]]) -> str:
    """Return what the machine is and what it can do at best."""
    names = {"float32": ("matrix product float32, GFLOP/s", 1e9), "bfloat16": ("the same in bfloat16", 1e9),
             "memory": ("memory read and written, GB/s", 1e9), "inflate": ("gzip, MB/s out", 1e6)}  # fmt: skip
    rows = [[name, value] for name, value in facts.items()]
    rows += [[text, spread([r[name] / unit for r in rates])] for name, (text, unit) in names.items()]
    return table(["machine", ""], rows)


def scans_table(scans: Sequence[Measured]) -> str:
    """Return one line per scan: what was found, and what it took from start to end."""
    head = ["scan", "vertebrae", "windows", "TMAC (stages 1, 2, 3)", "end to end, s", "without start, s",
            "peak, GB", "forecast, GB"]  # fmt: skip
    rows = []
    for scan in scans:
        run = scan.runs[0]
        counts = [count / 1e12 for count in run["multiplications"].values()]
        found = run["vertebrae"]
        rows.append([
            scan.name, f"{len(found)}, {found[0]} to {found[-1]}", str(run["windows"]),
            f"{sum(counts):.3f} ({', '.join(f'{count:.3f}' for count in counts)})",
            spread([r["end_to_end"] for r in scan.runs]),
            spread([r["end_to_end"] - r["seconds"]["start"] for r in scan.runs]),
            spread([max(r["peaks_gb"].values()) for r in scan.runs], 2), f"{run['forecast_gb']:.2f}",
        ])  # fmt: skip
    return table(head, rows)


def floors(scan: Measured, rates: dict[str, float]) -> dict[str, float]:
    """Return the least time in seconds that steps can take on this machine, for those for which it is known."""
    run = scan.runs[0]
    rate = rates["bfloat16" if run["bfloat16"] else "float32"]
    known = {f"{stage}/network": 2 * count / rate for stage, count in run["multiplications"].items()}
    known["read"] = run["voxel_bytes"] / rates["inflate"]
    known["spine_loc/resample"] = run["voxel_bytes"] / rates["memory"]
    known["write/mask"] = scan.deflate
    return known


def steps_table(scans: Sequence[Measured], rates: dict[str, float]) -> str:
    """Return one line per step: seconds, how often its floor, and the peak of memory while it ran."""
    head = ["step", *(f"{scan.name}: {what}" for scan in scans for what in ("s", "× floor", "peak, GB"))]
    rows = []
    for step in STEPS:
        cells = []
        for scan in scans:
            seconds = [run["seconds"].get(step, 0.0) for run in scan.runs]
            floor = floors(scan, rates).get(step)
            cells += [spread(seconds, 2), f"{median(seconds) / floor:.1f}" if floor else ""]
            cells += [f"{max(run['peaks_gb'].get(step, 0.0) for run in scan.runs):.2f}"]
        rows.append([step if "/" in step or step in ("start", "read") else f"{step}: the rest", *cells])
    return table(head, rows)


def around_networks(scan: Measured, rates: dict[str, float]) -> tuple[float, float]:
    """Return the median time of all but networks and start, and its floor: inflate, one pass over the scan, deflate."""
    outside = [
        sum(value for step, value in run["seconds"].items() if step != "start" and not step.endswith("/network"))
        for run in scan.runs
    ]
    known = floors(scan, rates)
    return median(outside), known["read"] + known["spine_loc/resample"] + known["write/mask"]


def peers_table(scans: Sequence[Measured], multiplications: dict[str, int], seconds: dict[str, list[float]]) -> str:
    """Return one line per peer: a window's cost, and for every scan its windows, seconds and how often ours that is."""
    head = ["peer", "GMAC a window", "s a window", *(f"{scan.name}: {what}" for scan in scans
            for what in ("windows", "TMAC", "s", "× ours"))]  # fmt: skip
    rows = []
    for name, times in seconds.items():
        cells = [name, f"{multiplications[name] / 1e9:.0f}", spread(times, 2)]
        for scan in scans:
            windows = scan.windows[name]
            total = windows * median(times)
            cells += [str(windows), f"{windows * multiplications[name] / 1e12:.2f}", f"{total:.0f}"]
            cells += [f"{total / _without_start(scan):.1f}"]
        rows.append(cells)
    return table(head, rows)


def plain_table(scans: Sequence[Measured]) -> str:
    """Return one line per scan: what straightforward MONAI takes, and how often ours that is."""
    rows = []
    for scan in scans:
        runs = [run for run in scan.plain if run]
        if len(runs) < len(scan.plain):
            rows.append([scan.name, *["memory too small"] * 7])
            continue
        stages = [spread([run["seconds"][stage] for run in runs]) for stage in ("spine_loc", "vert_loc", "vert_seg")]
        total, peaks = [sum(run["seconds"].values()) for run in runs], [max(run["peaks_gb"].values()) for run in runs]
        ours, our_peak = _without_start(scan), median(max(run["peaks_gb"].values()) for run in scan.runs)
        rows.append([scan.name, *stages, spread(total), f"{median(total) / ours:.1f}",
                     spread(peaks, 2), f"{median(peaks) / our_peak:.1f}"])  # fmt: skip
    head = ["straightforward MONAI", "stage 1, s", "stage 2, s", "stage 3, s", "all, s", "× ours", "peak, GB", "× ours"]
    return table(head, rows)


def _without_start(scan: Measured) -> float:
    return median(run["end_to_end"] - run["seconds"]["start"] for run in scan.runs)


def _against_eager(scan: Measured) -> str:
    """Return how often the networks' time theirs in eager float32 is."""
    stages = scan.runs[0]["multiplications"]
    ours, eager = (
        [median(run["seconds"][f"{stage}/network"] for run in runs) for stage in stages]
        for runs in (scan.runs, scan.eager)
    )
    ratios = ", ".join(f"{theirs / own:.1f}" for theirs, own in zip(eager, ours, strict=True))
    return f"networks {sum(ours):.2f} s, in eager float32 {sum(eager) / sum(ours):.1f} × that (by stage {ratios})"


def findings(scans: Sequence[Measured], rates: dict[str, float]) -> list[str]:
    """Return what the bars of the project ask, one line each."""
    lines = []
    for scan in scans:
        seconds, floor = around_networks(scan, rates)
        lines.append(f"{scan.name}: all but networks and start {seconds:.2f} s, {seconds / floor:.1f} × its floor")
        if scan.eager:
            lines.append(f"{scan.name}: {_against_eager(scan)}")
    first, last = scans[0], scans[-1]
    if first is not last:
        took = [_without_start(scan) for scan in (first, last)]
        peaks = [max(max(r["peaks_gb"].values()) for r in scan.runs) for scan in (first, last)]
        size = last.runs[0]["voxel_bytes"] / first.runs[0]["voxel_bytes"]
        ratios = f"{took[1] / took[0]:.1f} × the time, {peaks[1] / peaks[0]:.2f} × the memory"
        lines.append(f"{last.name} against {first.name}: {size:.1f} × the voxels, {ratios}")
    return lines
