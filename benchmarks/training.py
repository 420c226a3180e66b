"""Steps per second, waiting for data, and memory of training, per stage, in bfloat16 and float32 side by side.

    python -m benchmarks.training
    python -m benchmarks.training --wide --steps 0    # the specified widths, memory only

The data are two phantoms. On a GPU the peak is measured; elsewhere it is only predicted.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from ignite.handlers import BasicTimeProfiler
from monai.bundle import ConfigWorkflow

from pipeline.cli import main as vertebrae
from pipeline.run import STAGES
from pipeline.stage import bundles_root
from pipeline.training_memory import training_bytes

WIDE = {
    "spine_loc": {"features": [64, 128, 256, 512]},
    "vert_loc": {"num_filters": 64},
    "vert_seg": {"features": [64, 128, 256, 512]},
}
BUDGET_GB = {"spine_loc": 4, "vert_loc": 8, "vert_seg": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8, help="timed steps per stage and precision; 0 = memory only")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--windows", type=int, default=2, help="windows per step")
    parser.add_argument("--wide", action="store_true", help="the specified widths instead of the shipped ones")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, CUDA {torch.cuda.is_available()}, {options.windows} windows a step")
    print(f"{'stage':10} {'precision':9} {'steps/s':>8} {'waiting':>8} {'predicted':>10} {'peak':>8} {'budget':>7}")
    with tempfile.TemporaryDirectory() as folder:
        if options.steps:
            vertebrae(["phantom", "--out", folder, "--count", "2", "--seed", "5", "--preset", "segmentation"])
            names = sorted(path.name.removesuffix(".nii.gz") for path in (Path(folder) / "images").glob("*.nii.gz"))
            for split, name in zip(("train", "val"), names, strict=True):
                (Path(folder) / f"{split}.txt").write_text(f"{name}\n")
        for stage in STAGES:
            for mixed in (True, False):
                print(line(stage, mixed, folder, options), flush=True)


def line(stage: str, mixed: bool, folder: str, options: argparse.Namespace) -> str:
    workflow = ConfigWorkflow(
        str(bundles_root() / stage / "configs" / "train.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundles_root() / stage),
        **{"dataset_dir": folder, "output_dir": f"{folder}/{stage}{mixed}", "mixed_precision": mixed},
        **{
            "epochs": 1,
            "train::data::repeat": options.steps + 2,
            "val_interval": 10**6,
            "num_workers": options.workers,
        },
        **{"windows_per_scan": options.windows, "use_tensorboard": False, "show_progress": False},
        **(WIDE[stage] if options.wide else {}),
    )
    network, loss, window = (workflow.parser.get_parsed_content(key) for key in ("network_def", "loss", "window"))
    channels = workflow.parser["network_def"]["in_channels"]
    needed = training_bytes(network, loss, channels, window, options.windows, mixed_precision=mixed)
    speed, waiting, peak = ("", "", "")
    if options.steps:
        speed, waiting, peak = run(workflow)
    precision = "bfloat16" if mixed else "float32"
    return (
        f"{stage:10} {precision:9} {speed:>8} {waiting:>8} {needed / 1e9:>7.1f} GB {peak:>8} {BUDGET_GB[stage]:>4} GB"
    )


def run(workflow: ConfigWorkflow) -> tuple[str, str, str]:
    """Return steps per second, the share of time spent waiting for data, and the GPU's peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    workflow.initialize()
    trainer, profiler = workflow.parser.get_parsed_content("train::trainer"), BasicTimeProfiler()
    profiler.attach(trainer)
    trainer.run()
    # The first two steps wait for the workers to start and choose kernels.
    wait, work = (times[2:].sum().item() for times in (profiler.dataflow_times, profiler.processing_times))
    count = len(profiler.processing_times) - 2
    peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if torch.cuda.is_available() else "-"
    return f"{count / (wait + work):.2f}", f"{wait / (wait + work):.0%}", peak


if __name__ == "__main__":
    main()
