"""Two predictions of the same scans: what differs, by how much, and where."""

from __future__ import annotations

from typing import Any

from .records import Evaluation, Scan
from .statistics import MEASURES, difference, estimate

CHANGED_DICE = 0.01


def comparison(main: Evaluation, other: Evaluation) -> dict[str, Any]:
    """Return the paired comparison with a second prediction (second minus first), over the scans that both have."""
    second = {scan.scan: scan for scan in other.scans}
    shared = [scan for scan in main.scans if scan.scan in second]
    paired = [second[scan.scan] for scan in shared]
    measures = {
        key: {
            "first": estimate(key, shared),
            "second": estimate(key, paired),
            "difference": difference(key, shared, paired),
        }
        for key in MEASURES
    }
    changed = [entry for a, b in zip(shared, paired, strict=True) if (entry := _change(a, b))]
    changed.sort(key=lambda entry: (entry["hits"][1] - entry["hits"][0], entry["dice_change"] or 0.0))
    return {"prediction": str(other.prediction), "scans": len(shared), "measures": measures, "changed": changed}


def _change(first: Scan, second: Scan) -> dict[str, Any] | None:
    """Return how a scan changed: in its hits or extra names, or by more than a hundredth in mean Dice; else None."""
    hits = [sum(bool(v.hit) for v in scan.vertebrae) for scan in (first, second)]
    means = [estimate("dice", [scan]).value for scan in (first, second)]
    dice = None if means[0] is None or means[1] is None else means[1] - means[0]
    if hits[0] == hits[1] and first.extra == second.extra and abs(dice or 0.0) <= CHANGED_DICE:
        return None
    names = {v.name: bool(v.hit) for v in first.vertebrae}
    return {
        "scan": first.scan,
        "hits": hits,
        "gained": [v.name for v in second.vertebrae if v.hit and not names[v.name]],
        "lost": [v.name for v in second.vertebrae if not v.hit and names[v.name]],
        "extra": [first.extra, second.extra],
        "dice_change": dice,
    }
