"""`vertebrae demo`: an unseen synthetic scan, oblique and anisotropic, through the shipped pipeline, with its truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .images import Scan
from .labels import LABELS, NAMES, row_of_name
from .landmarks import present_rows
from .metrics import dice, identified, localization_errors_mm
from .phantom import Phantom, make_phantom, write_phantom
from .phantom.spine import draw_spine
from .results import write_result
from .run import Result, VertebraePipeline
from .spaces import Grid

SEED = 990_000  # never used for training


def run_demo(folder: Path, seed: int) -> None:
    """Make the scan, run the pipeline, print the table, leave everything in the folder."""
    print(f"Making a synthetic thoracolumbar CT (seed {seed}), turned 11 degrees, voxels 0.9 x 0.9 x 2 mm ...")
    phantom = demo_phantom(seed)
    write_phantom(folder, "demo", phantom)
    print("Loading the three bundles ...")
    pipeline = VertebraePipeline()
    scan = Scan("demo", phantom.hu, phantom.affine, folder / "images" / "demo.nii.gz")
    result = pipeline(scan, lambda stage: print(f"  {stage}"))
    files = write_result(result, folder, pipeline.versions)
    print(table(phantom, result))
    print("\nWritten:")
    for path in files:
        print(f"  {path}")


def demo_phantom(seed: int) -> Phantom:
    """Return a scan from about T7 to the sacrum on an oblique, anisotropic LPS-like grid."""
    spine = draw_spine(np.random.default_rng([SEED, seed]), "none")
    top_mm = spine.at(row_of_name("T7"))
    center_mm = (top_mm + spine.sacrum_mm) / 2 + [0, 10, 0]
    turn = math.radians(11)
    rotation = np.array([[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * [-0.9, -0.9, 2.0]
    shape = (200, 200, int((top_mm[2] - spine.sacrum_mm[2] + 60) / 2))
    affine[:3, 3] = center_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return make_phantom((SEED, seed), variant="none", grid=Grid(shape, affine))


def table(phantom: Phantom, result: Result) -> str:
    """Return one line per vertebra (found, landmark error, Dice) and the seconds per stage."""
    predicted, truth = result.labelling.landmarks_mm, phantom.landmarks_mm
    hit, error = identified(predicted, truth), localization_errors_mm(predicted, truth)
    rows = present_rows(truth)
    lines = ["", f"{'vertebra':<10}{'found':<8}{'error mm':>9}{'Dice':>8}   in view"]
    scores = []
    for row in rows:
        overlap = dice(result.labels, phantom.labels, LABELS[row])
        whole = NAMES[row] in phantom.complete
        scores += [overlap] if whole else []
        mark = "yes" if hit[row] else ("moved" if np.isfinite(error[row]) else "no")
        distance = f"{error[row]:9.1f}" if np.isfinite(error[row]) else f"{'-':>9}"
        lines.append(f"{NAMES[row]:<10}{mark:<8}{distance}{overlap:8.3f}   {'whole' if whole else 'cut'}")
    extra = [NAMES[row] for row in present_rows(predicted) if row not in rows]
    found = np.nanmedian(error[rows]) if np.isfinite(error[rows]).any() else float("nan")
    mean = np.mean(scores) if scores else float("nan")
    lines.append(
        f"\nidentified {int(hit[rows].sum())} of {len(rows)}, median error {found:.1f} mm, "
        f"mean Dice {mean:.3f} over {len(scores)} whole vertebrae; named but not in view: {', '.join(extra) or 'none'}"
    )
    lines.append("seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items()))
    return "\n".join(lines)
