"""Make the shipped weights: synthetic scans, training of the three bundles, comparison with the shipped ones, export.

    python -m benchmarks.campaign OUT [--budget cpu|gpu|tiny] [--shapes SHAPES] [--real DATA/ct] [--install]

Every step is skipped or continued where an earlier run left it, so a killed campaign goes on when it is started again.
The stages are judged one by one, on scans of `benchmarks.phantoms --seed 7`, each beside the best of the others. New
weights replace the old ones in `bundles/` with `--install`, and only where their score is higher.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import VertebraePipeline
from pipeline.cli import main as vertebrae
from pipeline.files import atomic_path
from pipeline.phantom import load_shapes
from pipeline.run import STAGES
from pipeline.stage import bundles_root, export_weights
from pipeline.training import train

from . import real
from .phantoms import measure, sentence, summary

CHOOSING_SEED = 7  # of the scans that weights are chosen by; results are reported on others


@dataclass(frozen=True)
class Budget:
    """How much to make and to train.

    Attributes:
        scans: how many scans of each preset.
        unusual: how many more of the whole spine's preset with each count of `UNUSUAL`.
        judged: how many unseen scans the weights are compared on.
        train: values of `train.json` per stage.
    """

    scans: dict[str, int]
    unusual: int
    judged: int
    train: dict[str, dict[str, Any]]


# Organs, ribs and the size of synthetic patients are guesses that must not tell a level: docs/experiments.md.
_CHEST = {"front_prob": 0.8, "rib_slope": 0.15, "scale": 0.2}
_CPU = {"num_workers": 0, "cache_rate": 0.0, "val_interval": 4, "use_tensorboard": False}
_GPU = {"num_workers": 12, "cache_rate": 1.0, "val_interval": 5}
_TINY = {**_CPU, "epochs": 1, "val_interval": 1, "elastic_mm": 0.0, "windows_per_scan": 1, "show_progress": False}
BUDGETS = {
    # Several hours on two cores.
    "cpu": Budget(
        {"localization": 600, "segmentation": 400},
        100,
        40,
        {
            "spine_loc": {**_CPU, "epochs": 8, "learning_rate": 1e-3, "lr_gamma": 0.75},
            "vert_loc": {
                **_CPU,
                **_CHEST,
                "epochs": 12,
                "learning_rate": 3e-4,
                "lr_gamma": 0.9,
                "window": [96, 96, 160],
            },
            "vert_seg": {**_CPU, "epochs": 12, "learning_rate": 1e-3, "lr_gamma": 0.85, "window": [64, 112, 80]},
        },
    ),
    # One large GPU with a dozen cores to make the data.
    "gpu": Budget(
        {"localization": 2000, "segmentation": 1500},
        300,
        60,
        {
            "spine_loc": {**_GPU, "epochs": 10, "learning_rate": 1e-3, "lr_gamma": 0.8, "batch_size": 4},
            "vert_loc": {**_GPU, **_CHEST, "epochs": 30, "learning_rate": 5e-4, "lr_gamma": 0.93, "batch_size": 4},
            "vert_seg": {**_GPU, "epochs": 30, "learning_rate": 1e-3, "lr_gamma": 0.93, "batch_size": 4},
        },
    ),
    # A rehearsal in minutes.
    "tiny": Budget(
        {"localization": 10, "segmentation": 10},
        1,
        1,
        {
            "spine_loc": {**_TINY},
            "vert_loc": {**_TINY, **_CHEST, "window": [64, 64, 64]},
            "vert_seg": {**_TINY, "window": [48, 48, 48], "val_window": [64, 64, 64]},
        },
    ),
}
PRESET = {"spine_loc": "localization", "vert_loc": "localization", "vert_seg": "segmentation"}
SEEDS = {"localization": 101, "segmentation": 102}
UNUSUAL = {"T13": 103, "no-T12": 104, "L6": 105}  # and their seeds


def make_scans(out: Path, budget: Budget, shapes: Path | None) -> dict[str, Path]:
    """Write what is missing of the training scans; return the folder of every preset."""
    folders = {preset: out / "data" / preset for preset in budget.scans}
    for preset, count in budget.scans.items():
        _make(folders[preset], preset, count, SEEDS[preset], shapes)
    for variant, seed in UNUSUAL.items():
        _make(folders["localization"], "localization", budget.unusual, seed, shapes, variant)
    return folders


def _make(folder: Path, preset: str, count: int, seed: int, shapes: Path | None, variant: str | None = None) -> None:
    """Write what is missing of one set of scans."""
    order = ["--preset", preset, "--count", str(count), "--seed", str(seed), "--workers", str(os.cpu_count() or 1)]
    if vertebrae(["phantom", "--out", str(folder), *order, *_given("--shapes", shapes), *_given("--variant", variant)]):
        raise SystemExit(f"{folder}: the training scans could not be made")


def _given(option: str, value: Path | str | None) -> list[str]:
    return [option, str(value)] if value else []


def train_stage(stage: str, out: Path, data: Path, values: dict[str, Any], start: str | None = "shipped") -> Path:
    """Train one stage from the shipped weights or from random ones, or go on; return them in half precision."""
    done = out / "weights" / f"{stage}.pt"
    if not done.is_file():
        done.parent.mkdir(parents=True, exist_ok=True)
        best = train(data, out / "runs", stage, checkpoint=start, resume=True, announce=print, **values)[stage]
        export_weights(best, done)
    return done


def score(found: dict[str, float]) -> float:
    """Return what weights are chosen by: the mean of identification rate and Dice, a lost scan counting as 0."""
    return (found["id_rate"] + (found["dice"] if found["dice"] == found["dice"] else 0.0)) / 2


def judge(out: Path, name: str, checkpoints: dict[str, Path], count: int, library: Any) -> dict[str, float]:
    """Return the summary of a set of weights, measured once."""
    report = out / "judged" / f"{name}.json"
    if not report.is_file():
        print(f"\n{name}")
        found = summary(measure(VertebraePipeline(checkpoints=checkpoints), count, CHOOSING_SEED, library=library))
        report.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(report) as temporary:
            temporary.write_text(json.dumps(found, indent=1))
    return json.loads(report.read_text())


def choose(out: Path, new: dict[str, Path], budget: Budget, shapes: Path | None) -> dict[str, Path]:
    """Return the new weights that improve the score, each judged beside those chosen before it."""
    library = load_shapes(shapes) if shapes else None
    kept: dict[str, Path] = {}
    best = judge(out, "shipped", {}, budget.judged, library)
    for stage, path in new.items():
        found = judge(out, f"new_{stage}", {**kept, stage: path}, budget.judged, library)
        if score(found) > score(best):
            kept, best = {**kept, stage: path}, found
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--budget", choices=BUDGETS, default="cpu")
    parser.add_argument("--shapes", type=Path, help="folder of vertebra masks to mix with the procedural shapes")
    parser.add_argument("--real", type=Path, help="folder of real scans to run the result on (see benchmarks.real)")
    parser.add_argument("--from-scratch", action="store_true", help="start from random weights, not the shipped ones")
    parser.add_argument("--install", action="store_true", help="put improved weights into bundles/")
    options = parser.parse_args()
    budget, start = BUDGETS[options.budget], time.monotonic()
    folders = make_scans(options.out, budget, options.shapes)
    origin = None if options.from_scratch else "shipped"
    new = {s: train_stage(s, options.out, folders[PRESET[s]], budget.train[s], origin) for s in STAGES}
    kept = choose(options.out, new, budget, options.shapes)
    for report in sorted((options.out / "judged").glob("*.json")):
        print(f"{report.stem}: {sentence(json.loads(report.read_text()))}")
    print(f"improved: {', '.join(kept) or 'none'}; {(time.monotonic() - start) / 60:.0f} minutes")
    if options.real:
        real.run(options.real, options.out / "real", kept)
    if options.install:
        for stage, path in kept.items():
            with atomic_path(bundles_root() / stage / "models" / "model.pt") as temporary:
                shutil.copyfile(path, temporary)


if __name__ == "__main__":
    main()
