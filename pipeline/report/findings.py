"""What `NAME_landmarks.json` says, as the report needs it. The only place here that knows how the file is laid out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..landmarks import read_json


@dataclass(frozen=True)
class Notice:
    """A warning: its kind, the same in every scan, and the sentence."""

    kind: str
    message: str


@dataclass(frozen=True)
class Named:
    """One vertebra as it was named: VerSe label, RAS+ mm, probability 0 to 1, and the next most probable name."""

    name: str
    label: int
    position_mm: tuple[float, float, float]
    probability: float | None
    runner_up: str
    runner_up_probability: float | None


@dataclass(frozen=True)
class Findings:
    """What was found in one scan.

    Attributes:
        name: of the scan.
        vertebrae: head to foot.
        landmarks_mm: `(26, 3)` RAS+ mm, NaN row = absent.
        warnings: in the file's order.
        alternatives: other labellings, as a sentence each.
        seconds: wall time of the whole pipeline; None = not stated.
        scan_file: where the scan lay, seen from the file's folder; empty = not stated.
    """

    name: str
    vertebrae: tuple[Named, ...]
    landmarks_mm: np.ndarray
    warnings: tuple[Notice, ...]
    alternatives: tuple[str, ...]
    seconds: float | None
    scan_file: str


def read_findings(path: Path) -> Findings:
    """Read `NAME_landmarks.json`; what is missing beyond labels and positions stays empty.

    Raises:
        ValueError: see `landmarks.read_json`.
    """
    landmarks_mm = read_json(path)
    document = json.loads(Path(path).read_text())
    seconds = document.get("seconds") or {}
    return Findings(
        name=Path(path).name.removesuffix("_landmarks.json"),
        vertebrae=tuple(_named(entry) for entry in document["vertebrae"]),
        landmarks_mm=landmarks_mm,
        warnings=tuple(_warning(entry) for entry in document.get("warnings") or ()),
        alternatives=tuple(_alternative(entry, document["vertebrae"]) for entry in document.get("alternatives") or ()),
        seconds=sum(seconds.values()) if seconds else None,
        scan_file=document.get("scan_file") or "",
    )


def _named(entry: dict[str, Any]) -> Named:
    x, y, z = (float(value) for value in entry["position_mm"])
    return Named(
        str(entry["name"]),
        int(entry["label"]),
        (x, y, z),
        entry.get("probability"),
        entry.get("runner_up") or "",
        entry.get("runner_up_probability"),
    )


def _warning(entry: Any) -> Notice:
    """Read a warning that is a sentence, or an object with `code` and `message`.

    The kind of a sentence is what stands before its first colon, bracket or number.
    """
    if isinstance(entry, dict):
        message = str(entry.get("message") or entry.get("code") or "")
        return Notice(str(entry.get("code") or _kind(message)).replace("_", " ").replace("-", " "), message)
    return Notice(_kind(str(entry)), str(entry))


def _kind(message: str) -> str:
    return re.split(r"[:(\d]", message, maxsplit=1)[0].strip() or message


def _alternative(entry: dict[str, Any], vertebrae: list[dict[str, Any]]) -> str:
    """Say which vertebrae another labelling renames: the first and the last of them."""
    pairs = [(v["name"], other) for v, other in zip(vertebrae, entry["names"], strict=False) if other != v["name"]]
    if not pairs:
        return ""
    texts = [f"{name} → {other or 'none'}" for name, other in (pairs if len(pairs) < 3 else (pairs[0], pairs[-1]))]
    return f"{' … '.join(texts)} (probability {entry['probability']:.2f})"
