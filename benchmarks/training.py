"""Steps per second, waiting for data, and memory of training, per stage, in bfloat16 and float32 one after the other.

    python -m benchmarks.training
    python -m benchmarks.training --wide --steps 0    # the specified widths, memory predicted only

The data are two phantoms. Prints a table for `docs/training.md`; the machine should have nothing else to do. Measured
memory is the GPU's peak, or on a CPU under Linux how far the process grew beyond what it held before the first step;
every line is a process of its own.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import torch
from ignite.engine import Events
from ignite.handlers import BasicTimeProfiler
from monai.bundle import ConfigWorkflow

from pipeline.cli import main as vertebrae
from pipeline.engines import has_fast_bfloat16
from pipeline.run import STAGES
from pipeline.stage import bundles_root
from pipeline.training_memory import training_bytes

WIDE = {
    "spine_loc": {"features": [64, 128, 256, 512]},
    "vert_loc": {"num_filters": 64},
    "vert_seg": {"features": [64, 128, 256, 512]},
}
BUDGET_GB = {"spine_loc": 4, "vert_loc": 8, "vert_seg": 10}
COLUMNS = ("stage", "precision", "window", "steps/s", "waiting", "predicted", "measured", "budget")
WARM_UP = 2  # the first steps wait for the workers to start, and choose kernels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="timed steps per stage and precision; 0 = memory only")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--windows", type=int, default=2, help="windows per step")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--wide", action="store_true", help="the specified widths instead of the shipped ones")
    options = parser.parse_args()
    print(f"{date.today()}, {machine()}, {options.windows} windows a step, {options.workers} data processes\n")
    print(row(COLUMNS), row(["---"] * len(COLUMNS)), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        if options.steps:
            write_data(folder)
        for stage in options.stages:
            for mixed in (True, False):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    cells = pool.submit(measured, stage, mixed, folder, options).result()
                print(row(cells), flush=True)


def row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """Return what the numbers hold for, and how busy it is."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    fast = "with" if has_fast_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")) else "WITHOUT"
    load = f"load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else "load unknown"
    return f"{torch.get_num_threads()} threads, {gpu}, {fast} fast bfloat16, {load}"


def write_data(folder: str) -> None:
    """Write two phantoms, one to train on; validation is never run."""
    vertebrae(["phantom", "--out", folder, "--count", "2", "--seed", "5", "--preset", "segmentation"])
    names = sorted(path.name.removesuffix(".nii.gz") for path in (Path(folder) / "images").glob("*.nii.gz"))
    for split, name in zip(("train", "val"), names, strict=True):
        (Path(folder) / f"{split}.txt").write_text(f"{name}\n")


def measured(stage: str, mixed: bool, folder: str, options: argparse.Namespace) -> list[str]:
    """Return one line of the table."""
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns that there is no logging file
    workflow = ConfigWorkflow(
        str(bundles_root() / stage / "configs" / "train.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundles_root() / stage),
        **{"dataset_dir": folder, "output_dir": f"{folder}/{stage}{mixed}", "mixed_precision": mixed, "epochs": 1},
        **{"train::data::repeat": options.steps + WARM_UP, "val_interval": 10**6, "num_workers": options.workers},
        **{"windows_per_scan": options.windows, "use_tensorboard": False, "show_progress": False},
        **(WIDE[stage] if options.wide else {}),
    )
    network, loss, window = (workflow.parser.get_parsed_content(key) for key in ("network_def", "loss", "window"))
    channels = workflow.parser["network_def"]["in_channels"]
    needed = training_bytes(network, loss, channels, window, options.windows, mixed_precision=mixed)
    found = run(workflow) if options.steps else ("", "", "")
    precision, size = "bfloat16" if mixed else "float32", "×".join(map(str, window))
    return [stage, precision, size, *found[:2], f"{needed / 1e9:.1f} GB", found[2], f"{BUDGET_GB[stage]} GB"]


def run(workflow: ConfigWorkflow) -> tuple[str, str, str]:
    """Return steps per second, the share of time spent waiting for data, and the peak of memory."""
    workflow.initialize()
    trainer, ema, profiler = (
        *(workflow.parser.get_parsed_content(key) for key in ("train::trainer", "ema")),
        BasicTimeProfiler(),
    )
    before: list[float] = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: before.append(start_of_peak()))
    ema.attach(trainer)
    profiler.attach(trainer)
    trainer.run()
    wait, work = (times[WARM_UP:].sum().item() for times in (profiler.dataflow_times, profiler.processing_times))
    count = len(profiler.processing_times) - WARM_UP
    return f"{count / (wait + work):.2f}", f"{wait / (wait + work):.0%}", peak_since(before[0])


def start_of_peak() -> float:
    """Forget earlier peaks and return what the process holds, in bytes; on a GPU 0, as all of it counts there."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return 0.0
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak_since(before: float) -> str:
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident("VmHWM") - before
    return f"{peak / 1e9:.1f} GB" if peak > 0 else "–"


def resident(field: str) -> float:
    """Return a line of Linux's `status` of this process in bytes; NaN elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), float("nan"))


if __name__ == "__main__":
    main()
