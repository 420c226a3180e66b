"""The record of a cohort: `manifest.jsonl` grows by a line per scan, so that a killed run loses only the scan in hand.

At the end it is rewritten in the order of the scans, and `manifest.csv` beside it for spreadsheets.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import atomic_path
from .run import STAGES, Result
from .spaces import spacing_mm

JOURNAL, TABLE = "manifest.jsonl", "manifest.csv"
FORMAT = "vertebrae-manifest/1"
STARTED, DONE, FAILED = "started", "done", "failed"
COLUMNS = (
    *("name", "status", "vertebrae", "count", "lowest_probability", "warnings", "error", "seconds"),
    *("peak_memory_gb", "shape", "spacing_mm", "input", "sha256"),
)

Record = dict[str, Any]
_LOCK = threading.Lock()  # the writer's lines and those of the main thread must not mix


def read_manifest(folder: Path) -> tuple[dict[str, Record], dict[str, int]]:
    """Return the last record of every scan by name, and how often each was started without coming to an end.

    A last line that a killed process left half-written is ignored.

    Raises:
        ValueError: another line is no record; the file is not ours.
    """
    records: dict[str, Record] = {}
    started: dict[str, int] = {}
    path = folder / JOURNAL
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name, status = record["name"], record["status"]
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                continue
            raise ValueError(f"{path}, line {number}: not a record of a scan") from None
        if status == STARTED:
            started[name] = started.get(name, 0) + 1
        else:
            records[name], started[name] = record, 0
    return records, started


def open_manifest(folder: Path) -> None:
    """Cut off a half-written last line, so that the next one starts on its own."""
    path = folder / JOURNAL
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def append_record(folder: Path, record: Record) -> None:
    """Add one line and make sure that it is on the disk."""
    with _LOCK, open(folder / JOURNAL, "a") as stream:
        stream.write(json.dumps(record, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def write_manifest(folder: Path, names: Sequence[str]) -> None:
    """Rewrite the manifest, one line per scan: those named, in their order, then others of earlier runs; if any."""
    records, _ = read_manifest(folder)
    if not records:
        return
    order = [name for name in names if name in records] + sorted(set(records) - set(names))
    with atomic_path(folder / JOURNAL) as temporary:
        temporary.write_text("".join(json.dumps(records[name], allow_nan=False) + "\n" for name in order))
    with atomic_path(folder / TABLE) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(_row(records[name]) for name in order)


def result_facts(result: Result) -> Record:
    """Return what the manifest keeps of a result: geometry, vertebrae, confidence, warnings, seconds."""
    vertebrae = result.labelling.vertebrae
    probabilities = [vertebra.probability for vertebra in vertebrae]
    affine = result.scan.affine
    return {
        "geometry": {
            "shape": list(result.scan.array.shape),
            "spacing_mm": spacing_mm(affine).round(4).tolist(),
            "affine": affine.round(6).tolist(),
        },
        "vertebrae": [vertebra.name for vertebra in vertebrae],
        "confidence": {
            "lowest": round(min(probabilities), 3),
            "mean": round(sum(probabilities) / len(probabilities), 3),
        },
        "warnings": [str(warning) for warning in result.warnings],
        "seconds": dict(result.seconds),
    }


def bundle_facts(checkpoints: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return version and SHA-256 of the weights of every bundle, without loading a network."""
    from .stage import bundles_root

    facts = {}
    for name in STAGES:
        bundle = bundles_root() / name
        weights = Path(checkpoints.get(name, bundle / "models" / "model.pt"))
        version = json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
        if not weights.is_file():
            raise ValueError(f"{weights}: no weights for {name} there")
        facts[name] = {"version": version, "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    return facts


def _row(record: Record) -> list[Any]:
    """Return one line of the table."""
    names, geometry = record.get("vertebrae", []), record.get("geometry", {})
    flat = {
        **record,
        "vertebrae": f"{names[0]}-{names[-1]}" if names else "",
        "count": len(names),
        "lowest_probability": record.get("confidence", {}).get("lowest", ""),
        "warnings": "; ".join(record.get("warnings", [])),
        "seconds": round(sum(record.get("seconds", {}).values()), 1),
        "shape": "x".join(str(n) for n in geometry.get("shape", [])),
        "spacing_mm": "x".join(f"{value:g}" for value in geometry.get("spacing_mm", [])),
    }
    return [flat.get(column, "") for column in COLUMNS]
