"""How well the labelling recovers real spines from spoiled candidates.

    python -m benchmarks.labelling --landmarks DIR

Real centroid tables (VerSe 2019) become candidates with evidence, spoiled at stated rates; nothing here looks at an
image, so the table says what `solve` makes of a given quality of heatmaps, not how good the heatmaps are. Every
second patient served to choose the default weights (`--half tune`); the table is of the others (`--half test`). The
mean distances inside `pipeline.chain` come from both halves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graph_method import GraphMethod
from benchmarks.spoiled import DAMAGES, Damage, read_patients, spoil, with_anomaly
from pipeline.candidates import Candidates
from pipeline.labelling import Weights, solve
from pipeline.labels import L1_ROW
from pipeline.landmarks import absent, present_rows

CLEAR = Damage(jitter_mm=3.0, blur=0.5, wobble=0.3)


def channel_maximum(candidates: Candidates, threshold: float = 0.25) -> np.ndarray:
    """Return `(26, 3)` RAS mm: the strongest candidate of each channel, if its peak reaches the threshold."""
    peaks = candidates.scores[:, None] * candidates.evidence
    landmarks_mm = absent()
    for channel in np.flatnonzero(peaks.max(axis=0) >= threshold):
        landmarks_mm[channel] = candidates.positions_mm[peaks[:, channel].argmax()]
    return landmarks_mm


def identified(found_mm: np.ndarray, true_mm: np.ndarray, rows: list[int]) -> np.ndarray:
    """Return for each row whether the landmark of its name is within 20 mm and nearest to it of all true bodies."""
    true_rows = present_rows(true_mm)
    result = []
    for row in rows:
        distance_mm = np.linalg.norm(true_mm[true_rows] - found_mm[row], axis=1)
        own = distance_mm[true_rows.index(row)]
        result.append(bool(np.isfinite(own) and own <= 20 and own <= distance_mm.min()))
    return np.array(result)


@dataclass(frozen=True)
class Tally:
    """Counts of one method on one kind of damage."""

    hits: list[bool]
    perfect: list[bool]

    def add(self, found_mm: np.ndarray, true_mm: np.ndarray, rows: list[int]) -> None:
        """Count one scan: `perfect` = every body that has a candidate is identified and nothing else is named."""
        right = identified(found_mm, true_mm, rows)
        self.hits.extend(right)
        self.perfect.append(bool(right.all() and set(present_rows(found_mm)) == set(rows)))

    def __str__(self) -> str:
        """Return identification rate and all-right rate in percent."""
        return f"{100 * np.mean(self.hits):5.1f} {100 * np.mean(self.perfect):5.1f}"


Method = Callable[[Candidates], np.ndarray]


def compare(patients: list[np.ndarray], damage: Damage, methods: dict[str, Method]) -> dict[str, Tally]:
    """Return the tally of each method; the same candidates for all."""
    tallies = {name: Tally([], []) for name in methods}
    rng = np.random.default_rng(0)
    for true_mm in patients:
        candidates, rows = spoil(true_mm, damage, rng)
        for name, method in methods.items():
            tallies[name].add(method(candidates), true_mm, rows)
    return tallies


def calibration(patients: list[np.ndarray], weights: Weights) -> list[tuple[float, float, int]]:
    """Return mean probability, share right and count per tenth of probability, over all kinds of damage."""
    rng = np.random.default_rng(1)
    pairs = []
    for damage in DAMAGES.values():
        for true_mm in patients:
            labelling = solve(spoil(true_mm, damage, rng)[0], weights)
            for vertebra in labelling.vertebrae:
                real = bool(np.isfinite(true_mm[vertebra.row]).all())
                right = real and identified(labelling.landmarks_mm, true_mm, [vertebra.row])[0]
                pairs.append((vertebra.probability, float(right)))
    values = np.array(pairs)
    tenth = np.minimum((values[:, 0] * 10).astype(int), 9)
    return [(*values[tenth == t].mean(axis=0), int((tenth == t).sum())) for t in range(10) if (tenth == t).any()]


def anomalies(patients: list[np.ndarray], weights: Weights) -> dict[str, tuple[float, float]]:
    """Return per anomaly the share found where it is, on clear evidence, and claimed where it is not, on mildly bad."""
    result = {}
    for kind in ("T13", "no T12", "L6"):
        rng = np.random.default_rng(2)
        changed = [with_anomaly(p, kind) for p in patients]
        true = [claims(p, kind, CLEAR, weights, rng) for p in changed if p is not None]
        plain = [p for p in patients if not np.isfinite(p[L1_ROW + 5]).all()]
        false = [claims(p, kind, DAMAGES["all, mild"], weights, rng) for p in plain]
        result[kind] = (float(np.mean(true)), float(np.mean(false)))
    return result


def claims(true_mm: np.ndarray, kind: str, damage: Damage, weights: Weights, rng: np.random.Generator) -> bool:
    """Return whether the labelling of one spoiled spine reports an anomaly."""
    labelling = solve(spoil(true_mm, damage, rng)[0], weights)
    if kind == "no T12":
        return any("absent" in warning for warning in labelling.warnings)
    return any(vertebra.name == kind for vertebra in labelling.vertebrae)


def main() -> None:
    """Print the tables."""
    arguments = _arguments()
    changes: dict[str, Any] = {name: float(value) for name, value in (item.split("=") for item in arguments.set)}
    weights = replace(Weights(), **changes)
    everybody = list(read_patients(arguments.landmarks).values())
    patients = everybody[arguments.half == "test" :: 2]
    methods: dict[str, Method] = {
        "solve": lambda candidates: solve(candidates, weights, alternatives=0).landmarks_mm,
        "graph": GraphMethod(everybody[::2]),
        "maximum": channel_maximum,
    }
    print(f"{len(patients)} patients x {arguments.repeats}; identified %, all right %")
    for name, damage in DAMAGES.items():
        tallies = compare(patients * arguments.repeats, damage, methods)
        print(f"{name:24}", "   ".join(f"{method} {tally}" for method, tally in tallies.items()), flush=True)
    for kind, (found, claimed) in anomalies(patients * arguments.repeats, weights).items():
        print(f"{kind:8} found {100 * found:5.1f} %   falsely claimed {100 * claimed:5.1f} %")
    bins = calibration(patients, weights)
    error = sum(abs(p - r) * n for p, r, n in bins) / sum(n for _, _, n in bins)
    print(f"probability, share right, count; calibration error {error:.3f}")
    for probability, right, count in bins:
        print(f"{probability:.2f} {right:.2f} {count}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landmarks", type=Path, required=True, help="folder with verse19_body_centroids.csv")
    parser.add_argument("--half", choices=("tune", "test"), default="test")
    parser.add_argument("--repeats", type=int, default=5, help="spoiled copies of every patient")
    parser.add_argument("--set", nargs="*", default=[], metavar="WEIGHT=VALUE", help="try other weights")
    return parser.parse_args()


if __name__ == "__main__":
    main()
