"""The report on disk: `report.html`, `report.json`, `scans.csv`, `vertebrae.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import atomic_path, write_json
from .bars import Bar
from .comparison import comparison
from .page import page
from .records import Evaluation, Scan, Vertebra
from .statistics import MEASURES, Estimate, estimate, strata

FORMAT = "vertebrae-evaluation/1"
STRATA_MEASURES = ("id_rate", "id_rate_organiser", "d_mean_mm", "dice", "hd95_mm", "assd_mm", "nsd_2mm")


def write_report(output: Path, main: Evaluation, bars: Mapping[Bar, bool], other: Evaluation | None = None) -> Path:
    """Write the four files and return the path of the page.

    Args:
        output: folder, made if need be.
        main: the evaluation.
        bars: whether each bar is met.
        other: the evaluation to compare with.
    """
    output.mkdir(parents=True, exist_ok=True)
    document = report_document(main, bars, other)
    write_json(output / "report.json", _plain(document))
    vertebrae = [v for scan in main.scans for v in scan.vertebrae]
    _write_csv(output / "vertebrae.csv", [f.name for f in fields(Vertebra)], [asdict(v) for v in vertebrae])
    rows = [scan_row(scan) for scan in main.scans]
    _write_csv(output / "scans.csv", list(rows[0]), rows)
    with atomic_path(output / "report.html") as temporary:
        temporary.write_text(page(document, main), encoding="utf-8")
    return output / "report.html"


def report_document(main: Evaluation, bars: Mapping[Bar, bool], other: Evaluation | None) -> dict[str, Any]:
    """Return everything that the report states; estimates and records are still objects."""
    vertebrae = [v for scan in main.scans for v in scan.vertebrae]
    return {
        "format": FORMAT,
        "version": __version__,
        "prediction": str(main.prediction),
        "truth": str(main.truth),
        "counts": {
            "scans": len(main.scans),
            "patients": len({scan.subject for scan in main.scans}),
            "vertebrae": len(vertebrae),
            "without_name": sum(v.hit is not None and v.error_mm is None for v in vertebrae),
            "without_mask": sum(v.dice is not None and v.hd_mm is None for v in vertebrae),
            "extra": sum(len(scan.extra) for scan in main.scans),
            "cut": sum(len(scan.cut) for scan in main.scans),
        },
        "without_prediction": main.without_prediction,
        "without_truth": main.without_truth,
        "failures": main.failures,
        "bars": [{"bar": str(bar), "met": met} for bar, met in bars.items()],
        "measures": {key: estimate(key, main.scans) for key in MEASURES},
        "strata": strata(STRATA_MEASURES, main.scans),
        "shifts": _shifts(main.scans),
        "scans": main.scans,
        "comparison": comparison(main, other) if other else None,
    }


def scan_row(scan: Scan) -> dict[str, Any]:
    """Return the line of a scan in `scans.csv` and in the page's table."""
    known = [v for v in scan.vertebrae if v.hit is not None]
    keys = ("id_rate_organiser", "precision", "d_mean_mm", "dice", "hd95_mm", "assd_mm", "nsd_2mm")
    return {
        "scan": scan.scan,
        "prediction": scan.prediction,
        "anomaly": scan.anomaly,
        "spacing": scan.spacing,
        "vertebrae": len(known),
        "identified": sum(bool(v.hit) for v in known),
        "id_rate": estimate_of_one("id_rate", scan),
        **{key: estimate_of_one(key, scan) for key in keys},
        "pq": scan.pq,
        "all_right": scan.all_right,
        "shift": scan.shift,
        "missing": " ".join(v.name for v in known if v.error_mm is None),
        "extra": " ".join(scan.extra),
        "cut": " ".join(scan.cut),
        "truth_centers": scan.sources[0],
        "prediction_centers": scan.sources[1],
        "seconds": scan.seconds,
    }


def estimate_of_one(key: str, scan: Scan) -> float | None:
    """Return a measure of a single scan; None = undefined."""
    return estimate(key, [scan]).value


def _shifts(scans: Sequence[Scan]) -> dict[str, int]:
    """Return how many scans are off by how many levels."""
    shifts = [scan.shift for scan in scans if scan.shift is not None]
    return {f"{shift:+d}": shifts.count(shift) for shift in sorted(set(shifts))}


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})


def _cell(value: Any) -> Any:
    """Return a table cell: six digits, yes or no as 1 and 0, nothing for what is undefined."""
    if isinstance(value, bool):
        return int(value)
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def _plain(value: Any) -> Any:
    """Return JSON's own types; numbers are rounded to six digits."""
    if isinstance(value, (Estimate, Scan)):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
