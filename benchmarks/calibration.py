"""Are the probabilities of the vertebrae true? Reliability diagram, calibration error, and the temperature that fits.

    python -m benchmarks.calibration candidates.npz --plot reliability.png

The candidates are those of `benchmarks.tune_labelling cache`: the network's own, on phantoms. The temperature is
fitted on every second phantom (least mean -log probability of the true level of every body that has a candidate) and
judged on the others. A vertebra is right if it is identified: its name is that of the nearest true body, within 20 mm.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.cached import MATCH_MM, Case, load_cases
from pipeline import chain, sequences
from pipeline.labelling import Weights, solve
from pipeline.labels import ROWS_BY_LEVEL
from pipeline.landmarks import present_rows
from pipeline.metrics import identified

TEMPERATURES = (0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0)
LEAST = 1e-6  # probabilities below count as this


def outcomes(cases: list[Case], weights: Weights) -> np.ndarray:
    """Return `(V, 2)`: probability of every vertebra named in the cases, and 1 if it is identified."""
    pairs = []
    for case in cases:
        labelling = solve(case.candidates, weights, alternatives=0)
        right = identified(labelling.landmarks_mm, case.truth_mm)
        pairs += [(vertebra.probability, float(right[vertebra.row])) for vertebra in labelling.vertebrae]
    return np.array(pairs).reshape(-1, 2)


def surprise(cases: list[Case], weights: Weights) -> float:
    """Return the mean -log probability of the true level, over all bodies that have a candidate."""
    losses = []
    for case in cases:
        states = sequences.posterior(chain.build(case.candidates, weights)).states
        for row in present_rows(case.truth_mm):
            distance_mm = np.linalg.norm(case.candidates.positions_mm - case.truth_mm[row], axis=1)
            if distance_mm.min(initial=np.inf) <= MATCH_MM:
                chance = states[ROWS_BY_LEVEL.index(row), distance_mm.argmin()]
                losses.append(-np.log(max(float(chance), LEAST)))
    return float(np.mean(losses))


def bins(pairs: np.ndarray, count: int = 10) -> list[tuple[float, float, int]]:
    """Return mean probability, share right and count of vertebrae per equal step of probability, if there are any."""
    step = np.minimum((pairs[:, 0] * count).astype(int), count - 1)
    return [(*pairs[step == s].mean(axis=0), int((step == s).sum())) for s in range(count) if (step == s).any()]


def calibration_error(pairs: np.ndarray) -> float:
    """Return the expected calibration error: distance of probability and share right, weighted by count."""
    rows = bins(pairs)
    return sum(abs(probability - right) * n for probability, right, n in rows) / sum(n for *_, n in rows)


def plot(path: Path, curves: dict[str, np.ndarray]) -> None:
    """Draw share right against probability; the area of a dot is the number of vertebrae."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="calibrated")
    for color, (name, pairs) in zip(("#0072B2", "#D55E00"), curves.items(), strict=False):
        probability, right, count = np.array(bins(pairs)).T
        axes.plot(probability, right, color=color, linewidth=1.2, label=f"{name}: ECE {calibration_error(pairs):.3f}")
        axes.scatter(probability, right, s=8 + 120 * count / count.sum(), color=color, linewidths=0)
    axes.set(xlabel="probability stated", ylabel="share identified")
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="written by `benchmarks.tune_labelling cache`")
    parser.add_argument("--plot", type=Path, help="write the reliability diagram as PNG")
    options = parser.parse_args()
    cases = load_cases(options.file)
    fitting, judging = cases[::2], cases[1::2]
    print(f"{len(fitting)} phantoms to fit, {len(judging)} to judge; temperature, -log probability, calibration error")
    losses = {}
    for temperature in TEMPERATURES:
        weights = replace(Weights(), temperature=temperature)
        losses[temperature] = surprise(fitting, weights)
        error = calibration_error(outcomes(fitting, weights))
        print(f"{temperature:5.1f} {losses[temperature]:7.3f} {error:7.3f}", flush=True)
    fitted = min(losses, key=lambda temperature: losses[temperature])
    curves = {}
    for name, temperature in (("default", Weights().temperature), ("fitted", fitted)):
        pairs = outcomes(judging, replace(Weights(), temperature=temperature))
        curves[f"{name} {temperature:g}"] = pairs
        print(f"{name} temperature {temperature:g}, judged on the others: error {calibration_error(pairs):.3f}")
        for probability, right, count in bins(pairs):
            print(f"  stated {probability:.2f}  right {right:.2f}  of {count}")
    if options.plot:
        plot(options.plot, curves)


if __name__ == "__main__":
    main()
