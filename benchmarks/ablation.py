"""Compare networks, losses and windows of a stage: each trained from random weights, on the same data, as many steps.

    python -m benchmarks.ablation vert_loc --data DIR --steps 300
    python -m benchmarks.ablation vert_seg --data DIR --steps 300 --window 64 112 80 --only shipped norm=instance

A variant is the bundle's own `train.json` with a few keys changed. All are judged on the same windows of the scans in
`val.txt`. Prints Markdown; finished variants are kept in OUT/STAGE.json, so that a killed comparison goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import BasicTimeProfiler
from monai.bundle import ConfigWorkflow

from pipeline.files import atomic_path
from pipeline.stage import bundles_root
from pipeline.training import parse_overrides

from .held_out import judge
from .speed.steps import Multiplications
from .speed.tables import table

SHIPPED = "shipped"
WINDOWS = 4  # of a held-out scan
# For a few hundred steps: the bundles' own rate is for a hundred epochs.
COMMON = {"epochs": 1, "learning_rate": 1e-3, "num_workers": 0, "cache_rate": 0.0,
          "use_tensorboard": False, "show_progress": False}  # fmt: skip
SQUARED_ERROR = {"loss::union_weight": 0.0, "loss::level_weight": 0.0, "loss::dice_weight": 0.0}
PUBLISHED = {"network_def::shared_local": False, "network_def::spatial_input": "local", "rib_filters": 0}


class Variant(NamedTuple):
    """Keys of `train.json`, and what ends the training: "steps", the shipped form's "seconds", or "none" at all."""

    values: dict[str, Any]
    budget: str = "steps"


def variants(stage: str, window: Sequence[int]) -> dict[str, Variant]:
    """Return what is compared, by name; the shipped form first."""
    i, j, k = window
    both = {SHIPPED: {}, "seed=43": {"seed": 43}, "norm=instance": {"network_def::norm": "instance"}}
    if stage == "vert_loc":
        stepped = both | {
            "spatial_input=image": {"network_def::spatial_input": "image"},
            "spatial_input=local": {"network_def::spatial_input": "local"},
            "25 local maps, squared error": PUBLISHED | SQUARED_ERROR,
            "25 local maps": PUBLISHED,
            "squared error": SQUARED_ERROR,
            **{f"height={h}": {"window": [i, j, h]} for h in _multiples(32, k / 2, 1.5 * k)},
            **{f"num_filters={n}": {"num_filters": n} for n in (8, 32)},
        }
        others = {"stem=1": Variant({"stride": 1}, "seconds"), "num_filters=64": Variant({"num_filters": 64}, "none")}
    else:
        sizes = [(i, j, k / 2), (0.75 * i, 0.75 * j, 0.75 * k), (i, j, 1.5 * k)]
        windows = [_multiples(8, *size) for size in sizes]
        stepped = both | {
            "UNet3D": {"network_def::_target_": "pipeline.networks.UNet3D"},
            **{f"window={'x'.join(map(str, size))}": {"window": size} for size in windows},
            **{f"features={n}-{8 * n}": {"features": _doubled(n)} for n in (8, 32)},
        }
        others = {"features=64-512": Variant({"features": _doubled(64)}, "none")}
    return {name: Variant(values) for name, values in stepped.items()} | others


def _multiples(of: int, *values: float) -> list[int]:
    return [max(of, round(value / of) * of) for value in values]


def _doubled(features: int) -> list[int]:
    return [features, 2 * features, 4 * features, 8 * features]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("vert_loc", "vert_seg"))
    parser.add_argument("--data", type=Path, required=True, help="as `vertebrae phantom` writes it")
    parser.add_argument("--steps", type=int, default=300, help="of every variant (default: 300)")
    parser.add_argument("--window", type=int, nargs=3, help="voxels (default: train.json's)")
    parser.add_argument("--scans", type=int, default=12, help="held-out scans to judge by (default: 12)")
    parser.add_argument("--only", nargs="+", help="these variants, after the shipped form")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="keys of train.json for all")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    options = parser.parse_args(arguments)
    common = _common(options)
    every = variants(options.stage, _workflow(options.stage, common).parser.get_parsed_content("window"))
    if unknown := set(options.only or ()) - set(every):
        parser.error(f"{', '.join(sorted(unknown))}: no variant; there are {', '.join(every)}")
    chosen = {name: v for name, v in every.items() if not options.only or name in (SHIPPED, *options.only)}
    print(report(compare(options.stage, common, chosen, options.out)))


def _common(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of `train.json` that all variants share."""
    keys: dict[str, Any] = {
        "dataset_dir": str(options.data),
        # Every step takes another item, and every item other windows.
        "train::dataset::data": f"$(@train::data * {options.steps})[:{options.steps} * @batch_size]",
        "validate::dataset::data": f"$@validate::data[:{options.scans}]",
        # Stage three's own validation, on whole scans, would take longer than the training.
        "val_interval": 1 if options.stage == "vert_loc" else 10**6,
    }
    window = {"window": options.window} if options.window else {}
    return {**COMMON, **keys, **window, **parse_overrides(options.set)}


def compare(stage: str, common: dict[str, Any], chosen: dict[str, Variant], out: Path) -> dict[str, dict[str, Any]]:
    """Train and judge what is missing in OUT/STAGE.json; return the results of what was chosen."""
    path = out / f"{stage}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"common": common, "variants": {}}
    if kept["common"] != common:
        raise SystemExit(f"{path} is of other settings ({kept['common']}): name another --out")
    out.mkdir(parents=True, exist_ok=True)
    for name, variant in chosen.items():
        if name not in kept["variants"]:
            limit = kept["variants"][SHIPPED]["seconds"] if variant.budget == "seconds" else float("inf")
            found = {"gmac": giga_multiplications(stage, common | variant.values)}
            if variant.budget != "none":
                found |= train_and_judge(stage, common, variant.values, limit)
            kept["variants"][name] = found
            print(name, found, file=sys.stderr, flush=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(kept, indent=1))
    return {name: kept["variants"][name] for name in chosen}


def train_and_judge(stage: str, common: dict[str, Any], values: dict[str, Any], limit: float) -> dict[str, Any]:
    """Train a variant until its data or `limit` seconds of steps are over; return its cost and its errors."""
    profiler = BasicTimeProfiler()

    def stop(engine: Engine) -> None:
        if float(profiler.processing_times.sum()) >= limit:
            engine.terminate_epoch()

    with tempfile.TemporaryDirectory() as folder:
        workflow = _workflow(stage, common | values | {"output_dir": folder})
        workflow.initialize()
        trainer, ema, inferer = (
            workflow.parser.get_parsed_content(key) for key in ("train::trainer", "ema", "train::inferer")
        )
        profiler.attach(trainer)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)
        workflow.run()
        seconds = profiler.processing_times[: trainer.state.iteration].tolist()
        cost = {"steps": len(seconds), "step_s": median(seconds), "seconds": sum(seconds)}
        found = judge(ema.ema_model, inferer, held_out(stage, common))
        if "val_id_rate" in workflow.evaluator.state.metrics:
            found["identified"] = workflow.evaluator.state.metrics["val_id_rate"]
    del workflow, trainer, ema
    gc.collect()
    return cost | {"errors": found}


def _workflow(stage: str, values: dict[str, Any]) -> ConfigWorkflow:
    bundle = bundles_root() / stage
    config, root = str(bundle / "configs" / "train.json"), str(bundle)
    return ConfigWorkflow(config, logging_file=False, workflow_type="train", bundle_root=root, **values)


def held_out(stage: str, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the windows that all variants are judged on: of scans held out, cut and disturbed as in training."""
    values = {
        "train::data::split": "val",
        "train::dataset::data": common["validate::dataset::data"].replace("validate", "train"),
        "windows_per_scan": WINDOWS,
    }
    dataset = _workflow(stage, common | values).parser.get_parsed_content("train::dataset")
    for i in range(len(dataset)):
        yield from dataset[i]


def giga_multiplications(stage: str, values: dict[str, Any]) -> float:
    """Return 10^9 multiply-accumulates of one window: those of a small one, by the number of voxels."""
    parser = _workflow(stage, values).parser
    network, window = (parser.get_parsed_content(key) for key in ("network_def", "window"))
    side = 2 * network.multiple
    counter = Multiplications(network.eval())
    with torch.no_grad():
        network(torch.zeros(1, network.in_channels, side, side, side))
    return counter.count * float(np.prod(window)) / side**3 / 1e9


def report(results: dict[str, dict[str, Any]]) -> str:
    """Return one line per variant, in Markdown."""
    names = list(results[SHIPPED]["errors"])
    rows = []
    for name, found in results.items():
        cells = [name, f"{found['gmac']:.1f}"]
        trained = "errors" in found
        cells += [str(found["steps"]), f"{found['step_s']:.2f}"] if trained else ["", ""]
        rows.append(cells + [f"{found['errors'][metric]:.3f}" if trained else "" for metric in names])
    return table(["variant", "GMAC a window", "steps", "s a step", *names], rows)


if __name__ == "__main__":
    main()
