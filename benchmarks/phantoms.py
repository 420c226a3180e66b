"""Run the shipped pipeline on unseen synthetic scans and print what it finds.

    python -m benchmarks.phantoms --count 20 --seed 7

Scans have mixed fields of view, spacings, orientations and anatomy; their seeds are never used for training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline import NoSpineFound, Scan, VertebraePipeline
from pipeline.evaluation.overlap import compare_surfaces, cut_out, lattice_of
from pipeline.labels import LABELS, NAMES
from pipeline.landmarks import present_rows
from pipeline.metrics import best_shift, dice, identified, localization_errors_mm
from pipeline.phantom import Phantom, load_shapes, make_phantom
from pipeline.phantom.library import Library
from pipeline.run import STAGES, Result
from pipeline.spaces import Grid

UNSEEN = 880_000  # first number of every seed here; training scans start with another


def score(phantom: Phantom, result: Result | None) -> dict:
    """Return the numbers of one scan; a scan without a result has found nothing."""
    truth = phantom.landmarks_mm
    predicted = result.labelling.landmarks_mm if result else np.full_like(truth, np.nan)
    labels = result.labels if result else np.zeros_like(phantom.labels)
    rows = present_rows(truth)
    whole = [row for row in range(len(NAMES)) if NAMES[row] in phantom.complete]
    hit, error = identified(predicted, truth), localization_errors_mm(predicted, truth)
    return {
        "rows": rows,
        "hits": [bool(hit[row]) for row in rows],
        "errors_mm": [float(error[row]) for row in rows if hit[row]],
        "dice": [dice(labels, phantom.labels, LABELS[row]) for row in whole],
        "hd95_mm": surface_errors_mm(labels, phantom, [LABELS[row] for row in whole]),
        "shift": best_shift(predicted[:25], truth[:25]),
        "same_grid": bool(result is None or result.labels.shape == phantom.hu.shape),
        "seconds": sum(result.seconds.values()) if result else 0.0,
        "warnings": list(result.labelling.warnings) if result else ["no spine found"],
    }


def surface_errors_mm(labels: np.ndarray, phantom: Phantom, wanted: list[int]) -> list[float]:
    """Return the 95 % Hausdorff distance of the wanted labels that were found at all."""
    shape = (int(labels.shape[0]), int(labels.shape[1]), int(labels.shape[2]))
    lattice = lattice_of(Grid(shape, phantom.affine))
    found, truth = (cut_out(array, phantom.affine, lattice) for array in (labels, phantom.labels))
    return [compare_surfaces(found[label], truth[label]).hd95_mm for label in wanted if label in found]


def measure(
    pipeline: VertebraePipeline, count: int, seed: int, preset: str = "mixed", library: Library | None = None
) -> list[dict]:
    """Run the pipeline on unseen synthetic scans, printing a line each; return the numbers of every scan."""
    scores = []
    columns = (("scan", 4), ("shape", 15), ("voxel mm", 15), ("in view", 9), ("id", 7), ("shift", 5), ("error", 6))
    tqdm.write(" ".join(f"{name:>{width}}" for name, width in (*columns, ("Dice", 6), ("s", 5))))
    for index in tqdm(range(count), unit="scan", disable=None):
        phantom = make_phantom((UNSEEN, seed, index), preset, library=library)
        scan = Scan(f"phantom {index}", phantom.hu, phantom.affine, Path(f"phantom_{index}"))
        try:
            result = pipeline(scan)
        except NoSpineFound:
            result = None
        found = score(phantom, result)
        scores.append(found)
        rows = found["rows"]
        spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0)
        tqdm.write(
            f"{index:>4} {'x'.join(map(str, phantom.hu.shape)):>15} {'x'.join(f'{s:.2f}' for s in spacing):>15} "
            f"{(NAMES[rows[0]] + '-' + NAMES[rows[-1]]) if rows else '-':>9} {sum(found['hits']):>3}/{len(rows):<3} "
            f"{found['shift']:>+5} {np.median(found['errors_mm'] or [np.nan]):>6.1f} "
            f"{np.mean(found['dice'] or [np.nan]):>6.3f} {found['seconds']:>5.1f}"
        )
    return scores


def summary(scores: list[dict]) -> dict[str, float]:
    """Return the numbers over all scans of `measure`."""
    pooled = {key: [v for s in scores for v in s[key]] for key in ("hits", "errors_mm", "dice", "hd95_mm")}
    return {
        "scans": len(scores),
        "vertebrae": len(pooled["hits"]),
        "spine_found": float(np.mean([bool(s["seconds"]) for s in scores])),
        "id_rate": float(np.mean(pooled["hits"])),
        "all_right": float(np.mean([all(s["hits"]) for s in scores])),
        "error_mm": float(np.median(pooled["errors_mm"] or [np.nan])),
        "dice": float(np.mean(pooled["dice"] or [np.nan])),
        "hd95_mm": float(np.median(pooled["hd95_mm"] or [np.nan])),
        "whole": len(pooled["dice"]),
        "same_grid": sum(s["same_grid"] for s in scores),
    }


def sentence(found: dict[str, float]) -> str:
    """Return a summary in words."""
    return (
        f"{found['scans']} synthetic scans, {found['vertebrae']} vertebrae: spine found in {found['spine_found']:.0%}, "
        f"identification rate {found['id_rate']:.3f}, every vertebra right in {found['all_right']:.0%} of scans, "
        f"median error {found['error_mm']:.2f} mm, mean Dice {found['dice']:.3f} over {found['whole']} whole "
        f"vertebrae, median HD95 {found['hd95_mm']:.1f} mm, output on the scan's grid in {found['same_grid']} of "
        f"{found['scans']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--preset", default="mixed")
    parser.add_argument("--shapes", type=Path, help="folder of vertebra masks to mix with the procedural shapes")
    parser.add_argument("--report", type=Path, help="also write every scan's numbers as JSON")
    for stage in STAGES:
        parser.add_argument(f"--{stage.replace('_', '-')}", dest=stage, type=Path, help="other weights")
    options = parser.parse_args()
    checkpoints = {s: getattr(options, s) for s in STAGES if getattr(options, s)}
    library = load_shapes(options.shapes) if options.shapes else None
    scores = measure(VertebraePipeline(checkpoints=checkpoints), options.count, options.seed, options.preset, library)
    print(f"\n{sentence(summary(scores))}")
    if options.report:
        options.report.write_text(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
