"""Choose the weights of the labelling on what the network gives on phantoms.

    python -m benchmarks.tune_labelling cache candidates.npz --count 30 --seed 11
    python -m benchmarks.tune_labelling score candidates.npz --landmarks DIR
    python -m benchmarks.tune_labelling counts candidates.npz

`cache` runs stages one and two and keeps every candidate (about 10 s a scan), so that `score` can try weights in
seconds. Every third phantom has an unusual count: T13, no T12 or L6; with `--unusual` every one has, and phantoms that
do not show T9 to L4 are left out. `counts` prints what the labelling says of those counts in the phantoms that show so
much, how many it finds where T1 is in view too, and how often it claims one in any phantom without it. `score` prints
one line per set of weights:

- phantoms: identified and all right, in percent;
- each unusual count: found + cannot tell / falsely claimed, in percent, on real configurations (VerSe 2019 centroids,
  the count worked in) that carry the network's evidence, scores, misses and position errors from the phantoms;
- spoiled: identified on real configurations with made-up damage (`benchmarks.spoiled`), mean over all kinds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.cached import Case, EvidencePool, is_wide, load_cases, save_cases
from benchmarks.labelling import VERDICTS, Tally, anomalies, compare, verdicts_on
from benchmarks.phantoms import UNSEEN
from benchmarks.spoiled import DAMAGES, KINDS, read_patients
from pipeline import NoSpineFound, Scan, VertebraePipeline
from pipeline.labelling import Weights, solve
from pipeline.labels import T1_ROW
from pipeline.landmarks import present_rows
from pipeline.phantom import load_shapes, make_phantom

ANOMALIES = ("T13", "no-T12", "L6")
ONE_BY_ONE = {
    "skip": (2.0, 3.0, 4.0, 5.0),
    "evidence": (0.5, 0.7, 1.0),
    "tail": (2.5, 4.0, 8.0),
    "end": (1.0, 1.5, 3.0),
    "unseen": (0.0, 2.0, 3.0),
    "passed": (0.0, 1.5, 6.0),
    "passed_odds": (0.0, 0.5, 1.4),
    "t13": (-4.0, -2.0, -1.5),
    "no_t12": (-2.5, -1.0, -0.5),
    "l6": (-2.5, -1.5, -0.5),
    "l6_odds": (0.0, 0.7, 2.0),
}


def cache(options: argparse.Namespace) -> None:
    """Run stages one and two on phantoms and keep the candidates."""
    checkpoints = {s: getattr(options, s) for s in ("spine_loc", "vert_loc") if getattr(options, s)}
    pipeline = VertebraePipeline(checkpoints=checkpoints)
    library = load_shapes(options.shapes) if options.shapes else None
    cases = []
    for index in tqdm(range(options.count), unit="scan", disable=None):
        turn = index if options.unusual else index // 3 if index % 3 == 2 else None
        variant = None if turn is None else ANOMALIES[turn % 3]
        phantom = make_phantom((UNSEEN, options.seed, index), options.preset, library=library, variant=variant)
        if options.unusual and not is_wide(phantom.landmarks_mm):
            continue
        scan = Scan(f"phantom {index}", phantom.hu, phantom.affine, Path(f"phantom_{index}"))
        try:
            labelling = pipeline.find_vertebrae(scan, pipeline.find_spine(scan))
        except NoSpineFound as reason:
            tqdm.write(f"phantom {index} left out: {reason}")
            continue
        cases.append(Case(labelling.candidates, phantom.landmarks_mm))
    save_cases(options.file, cases)
    print(f"{len(cases)} of {options.count} phantoms (seed {options.seed}, {options.preset}) in {options.file}")


def counts(options: argparse.Namespace) -> None:
    """Print the verdicts on unusual counts in the phantoms themselves."""
    judged = [(case, verdicts_on(case.candidates, Weights())) for case in load_cases(options.file)]
    for kind in KINDS:
        given = [(case, said[kind]) for case, said in judged if case.kind == kind and is_wide(case.truth_mm)]
        claimed = [said[kind] == "present" for case, said in judged if case.kind != kind]
        verdicts = ", ".join(f"{sum(said == verdict for _, said in given)} {verdict}" for verdict in VERDICTS)
        counted = [said == "present" for case, said in given if np.isfinite(case.truth_mm[T1_ROW]).all()]
        print(
            f"{kind:6} in {len(given)} phantoms: {verdicts}; with T1 in view {sum(counted)} of {len(counted)} present; "
            f"claimed in {sum(claimed)} of {len(claimed)} others"
        )


def score(options: argparse.Namespace) -> None:
    """Print one line per set of weights."""
    cases = load_cases(options.file)
    patients = list(read_patients(options.landmarks).values())[options.half == "test" :: 2]
    print(f"{len(cases)} phantoms, {len(patients)} real configurations x {options.repeats}; all in percent")
    heads = "".join(f"{kind:>14}" for kind in KINDS)
    print(f"{'weights':24} {'phantoms':>12} {heads}   spoiled")
    for changes in _sets(options.grid):
        weights, pool = replace(Weights(), **changes), EvidencePool(cases)
        cells = ""
        for kind in KINDS:
            network = (lambda true_mm, rng: pool.spoil(true_mm, rng)[0],) * 2  # noqa: B023 - used at once
            (found, unsure, _), claimed = anomalies(patients * options.repeats, kind, *network, weights)
            cells += f"{100 * found:5.0f}+{100 * unsure:2.0f}/{100 * claimed:5.1f}"
        name = " ".join(f"{key}={value:g}" for key, value in changes.items()) or "default"
        print(
            f"{name:24} {phantoms(cases, weights)!s:>12} {cells}   {100 * spoiled(patients, weights):5.1f}", flush=True
        )


def _sets(grid: list[str]) -> Iterator[dict[str, Any]]:
    """Yield changes to the default weights: all combinations of `grid`, else one weight at a time."""
    if grid:
        axes = {name: values.split(",") for name, values in (item.split("=") for item in grid)}
        for values in product(*axes.values()):
            yield dict(zip(axes, map(float, values), strict=True))
        return
    yield {}
    for name, values in ONE_BY_ONE.items():
        yield from ({name: value} for value in values if value != getattr(Weights(), name))


def phantoms(cases: list[Case], weights: Weights) -> Tally:
    """Return how many bodies of the phantoms are identified."""
    tally = Tally([], [])
    for case in cases:
        found_mm = solve(case.candidates, weights, alternatives=0).landmarks_mm
        tally.add(found_mm, case.truth_mm, present_rows(case.truth_mm))
    return tally


def spoiled(patients: list[np.ndarray], weights: Weights) -> float:
    """Return the share identified on made-up damage, mean over its kinds."""
    method = {"solve": lambda candidates: solve(candidates, weights, alternatives=0).landmarks_mm}
    return float(np.mean([np.mean(compare(patients, damage, method)["solve"].hits) for damage in DAMAGES.values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    make = commands.add_parser("cache", help="run stages one and two on phantoms")
    make.set_defaults(command=cache)
    make.add_argument("file", type=Path)
    make.add_argument("--count", type=int, default=30)
    make.add_argument("--seed", type=int, default=11)
    make.add_argument("--preset", default="mixed")
    make.add_argument("--unusual", action="store_true", help="T13, no T12 and L6 in turn, where T9 to L4 are in view")
    make.add_argument("--shapes", type=Path, help="folder of vertebra masks to mix with the procedural shapes")
    for stage in ("spine_loc", "vert_loc"):
        make.add_argument(f"--{stage.replace('_', '-')}", dest=stage, type=Path, help="other weights")
    tell = commands.add_parser("counts", help="what the labelling says of unusual counts in the phantoms")
    tell.set_defaults(command=counts)
    tell.add_argument("file", type=Path)
    judge = commands.add_parser("score", help="try weights of the labelling")
    judge.set_defaults(command=score)
    judge.add_argument("file", type=Path)
    judge.add_argument("--landmarks", type=Path, required=True, help="folder with verse19_body_centroids.csv")
    judge.add_argument("--half", choices=("tune", "test"), default="tune")
    judge.add_argument("--repeats", type=int, default=2)
    judge.add_argument("--grid", nargs="*", default=[], metavar="WEIGHT=A,B,C", help="try all combinations of these")
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
