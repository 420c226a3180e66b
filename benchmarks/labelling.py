"""How well the labelling recovers real spines from spoiled candidates.

    python -m benchmarks.labelling --landmarks DIR

Real centroid tables (VerSe 2019) become candidates with evidence, spoiled at stated rates; nothing here looks at an
image, so the table says what `solve` makes of a given quality of heatmaps, not how good the heatmaps are. `graph` is
the published graph method with its own weights, `graph 0.9` the same with the weight of the heatmap values that does
best on the other half of the patients, `maximum` the strongest candidate of each channel.

Every second patient served to choose the default weights (`--half tune`); the table is of the others (`--half test`).
The mean distances inside `pipeline.chain` come from both halves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cached import is_wide
from benchmarks.graph_method import GraphMethod
from benchmarks.spoiled import DAMAGES, KINDS, Damage, read_patients, spoil, with_anomaly
from pipeline.candidates import Candidates
from pipeline.labelling import Weights, solve
from pipeline.labels import L1_ROW
from pipeline.landmarks import absent, present_rows
from pipeline.metrics import identified

CLEAR = Damage(jitter_mm=3.0, blur=0.5, wobble=0.3)


def channel_maximum(candidates: Candidates, threshold: float = 0.25) -> np.ndarray:
    """Return `(26, 3)` RAS mm: the strongest candidate of each channel, if its peak reaches the threshold."""
    peaks = candidates.scores[:, None] * candidates.evidence
    landmarks_mm = absent()
    for channel in np.flatnonzero(peaks.max(axis=0) >= threshold):
        landmarks_mm[channel] = candidates.positions_mm[peaks[:, channel].argmax()]
    return landmarks_mm


@dataclass(frozen=True)
class Tally:
    """Counts of one method on one kind of damage."""

    hits: list[bool]
    perfect: list[bool]

    def add(self, found_mm: np.ndarray, true_mm: np.ndarray, rows: list[int]) -> None:
        """Count one scan: `perfect` = every body that has a candidate is identified and nothing else is named."""
        right = identified(found_mm, true_mm)[rows]
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


VERDICTS = ("present", "cannot tell", "absent")
Spoiler = Callable[[np.ndarray, np.random.Generator], Candidates]


def anomalies(
    patients: list[np.ndarray], kind: str, changed: Spoiler, usual: Spoiler, weights: Weights
) -> tuple[list[float], float]:
    """Return the share of each verdict on spines with an unusual count, and how often it is claimed on others.

    Only patients who show four vertebrae on both sides of the last rib (T9 to L4) are given a T13 or lose their T12:
    with less in view a shifted count fits as well, and the best answer is that one cannot tell.

    Args:
        patients: `(26, 3)` landmarks without unusual counts.
        kind: `"T13"`, `"no T12"` or `"L6"`.
        changed: makes candidates of a spine with the unusual count.
        usual: makes candidates of a spine as it is.
        weights: of the labelling.
    """
    rng = np.random.default_rng(2)
    plain = [p for p in patients if not np.isfinite(p[L1_ROW + 5]).all()]
    spines = [c for p in plain if is_wide(p) and (c := with_anomaly(p, kind)) is not None]
    given = [verdicts_on(changed(c, rng), weights)[kind] for c in spines]
    claimed = [verdicts_on(usual(p, rng), weights)[kind] == "present" for p in plain]
    return [float(np.mean([g == verdict for g in given])) for verdict in VERDICTS], float(np.mean(claimed))


def verdicts_on(candidates: Candidates, weights: Weights) -> dict[str, str]:
    """Return what the labelling says of every unusual count."""
    found = {v.anomaly: v.verdict for v in solve(candidates, weights, alternatives=0).numbering.verdicts}
    return {kind: found.get(kind, "cannot tell") for kind in KINDS}


def milliseconds(bodies: int, weights: Weights, repeats: int = 20) -> float:
    """Return the median processor time of naming so many random candidates, each possible at all levels."""
    rng = np.random.default_rng(4)
    times = []
    for _ in range(repeats):
        positions_mm = rng.uniform([-20, -40, 0], [20, 40, 25 * bodies], (bodies, 3))
        candidates = Candidates(positions_mm, rng.uniform(0, 1, bodies), rng.dirichlet(np.full(25, 0.3), bodies))
        start = time.process_time()
        solve(candidates, weights)
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times))


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
        "graph 0.9": GraphMethod(everybody[::2], value_weight=0.9),
        "maximum": channel_maximum,
    }
    print(f"{len(patients)} patients x {arguments.repeats}; identified %, all right %")
    for name, damage in DAMAGES.items():
        tallies = compare(patients * arguments.repeats, damage, methods)
        print(f"{name:24}", "   ".join(f"{method} {tally}" for method, tally in tallies.items()), flush=True)
    print("unusual counts; present, cannot tell, absent where it is; claimed where it is not")
    for kind in KINDS:
        verdicts, claimed = anomalies(
            patients * arguments.repeats,
            kind,
            lambda true_mm, rng: spoil(true_mm, CLEAR, rng)[0],
            lambda true_mm, rng: spoil(true_mm, DAMAGES["all, mild"], rng)[0],
            weights,
        )
        print(f"{kind:8}", " ".join(f"{100 * share:5.1f}" for share in verdicts), f"  {100 * claimed:5.1f}")
    for bodies in (10, 25, 40):
        print(f"{bodies} candidates x 26 levels: {milliseconds(bodies, weights):.0f} ms of one core")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landmarks", type=Path, required=True, help="folder with verse19_body_centroids.csv")
    parser.add_argument("--half", choices=("tune", "test"), default="test")
    parser.add_argument("--repeats", type=int, default=5, help="spoiled copies of every patient")
    parser.add_argument("--set", nargs="*", default=[], metavar="WEIGHT=VALUE", help="try other weights")
    return parser.parse_args()


if __name__ == "__main__":
    main()
