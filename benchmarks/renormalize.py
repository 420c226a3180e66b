"""Measure the batch norms of stage two anew: a mean of several weights has activations of its own.

    python -m benchmarks.renormalize mean.pt out.pt --scans DIR --only local

Every scan in DIR is taken in its spine box, as in use; the statistics are the even mean over the scans.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from pipeline import NoSpineFound, VertebraePipeline, read_scan
from pipeline.images import find_scans
from pipeline.stage import Stage, bundles_root, write_weights

from .average import read_state


def measure_norms(network: nn.Module, run: Callable[[], None], only: str = "") -> dict[str, torch.Tensor]:
    """Return the running statistics of the batch norms whose names begin with `only`, each batch in `run` alike."""
    norms = {
        name: norm
        for name, norm in network.named_modules()
        if isinstance(norm, nn.BatchNorm3d) and name.startswith(only)
    }
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    run()
    network.eval()
    parts = ("running_mean", "running_var")
    return {f"{name}.{part}": getattr(norm, part).clone() for name, norm in norms.items() for part in parts}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("target", type=Path, metavar="OUT")
    parser.add_argument("--scans", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", default="", metavar="NAME", help="of which batch norms, such as local (default: all)")
    options = parser.parse_args()
    pipeline = VertebraePipeline()
    stage = Stage(bundles_root() / "vert_loc", torch.device("cpu"), options.weights, fold=False)

    def run() -> None:
        for path in tqdm(find_scans(options.scans), unit="scan", disable=None):
            scan = read_scan(path)
            with suppress(NoSpineFound):
                stage({"image": scan, "spine_box_mm": pipeline.find_spine(scan)})

    write_weights(read_state(options.weights) | measure_norms(stage.network, run, options.only), options.target)


if __name__ == "__main__":
    main()
