"""Fit the mean shapes of the procedural vertebrae to a folder of vertebra masks, and print the table.

    python -m benchmarks.morphometry --shapes SHAPES [--steps 800] [--sizes STATISTICS]

Tips and joints are read off the masks; then every size moves by random steps that are kept when the mean overlap with
the masks of its level grows, less a small price for leaving the start. Left and right count as two masks, so that the
shapes stay symmetric. With `--sizes` the fit starts from the table as it stands, and pays for every measured volume,
extent and body size of the level that it misses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from pipeline.labels import NAMES
from pipeline.phantom import load_shapes
from pipeline.phantom.shapes import Shape
from pipeline.phantom.vertebrae import build, sizes_mm

from .realism import SIZE_SD, VOLUME_SD, sizes_of_level

STEP_MM = 2.2  # of the positions where shapes are compared
SOFT_MM = 0.5
PRICE, READ_PRICE = 0.0004, 0.004  # of moving one size by 3 mm, and one that was read off the masks
LEAST_MM = 1.8  # of a radius
SIZE_PRICE = 0.02  # of one size that is one SD off, times its square


def landmarks_of(shapes: tuple[Shape, ...], kind: int) -> dict[str, float]:
    """Return the sizes that can be read off the masks of a level, averaged: tips, joints, pedicle, lamina."""
    found: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value)

    for shape in shapes:
        x, y, z = shape.positions()[:, shape.distance_mm < -0.5]
        x = np.abs(x)
        tip = x > x.max() - 4
        if kind == 0:
            mass = (x > 13) & (x < 24)
            note(tip_x=x.max() - 4, tip_y=y[tip].mean(), tip_z=z[tip].mean(), mass_x=18.5, mass_y=y[mass].mean())
            note(mass_z=z[mass].mean(), front=y[x < 6].max() - 3.3, back=y[x < 6].min() + 2.9)
            note(rear_z=z[(x < 5) & (y < y.min() + 8)].mean(), facet_z=z[mass].max() - 5, facet_y=y[mass].mean() - 2)
            continue
        wall = -float(sizes_mm(kind)["depth"]) / 2  # the back of the body
        behind = y < wall - 4
        upper, lower = behind & (x > 8), behind & (x > 6)
        top, low = z > z[upper].max() - 4, z < z[lower].min() + 4
        end = y < y.min() + 6
        lamina = (x < 3) & (y < wall - 8) & (np.abs(z + 3) < 7)
        note(tip_x=x.max() - 3.5, tip_y=y[tip].mean(), tip_z=z[tip].mean())
        note(lower_x=x[lower & low].mean(), lower_y=y[lower & low].mean(), lower_z=z[lower].min() + 4)
        note(lamina_y=y[lamina].max() - 3)
        if kind == 1:
            note(end_x=x[end].mean(), end_y=y.min() + 5, end_z=z[end].mean())
            note(dens_z=z[x < 4].max() - 5, dens_y=y[(x < 4) & (z > z.max() - 8)].mean())
            continue
        pedicle = (np.abs(y - wall + 5) < 2) & (x < 24) & (z > -8)
        pillar = (y < wall - 5) & (y > y[lamina].max() - 4) & (np.abs(z) < 6) & (x < 25)
        note(upper_x=x[upper & top].mean(), upper_y=y[upper & top].mean(), upper_z=z[upper].max() - 4)
        note(spine_y=y.min() + 5, end_z=z[end].mean(), pedicle_x=x[pedicle].mean(), pedicle_z=z[pedicle].mean())
        note(pillar_x=x[pillar].mean(), pillar_y=y[pillar].mean())
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def extents_mm(distance: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the extents `(3,)` of half a shape (x > 0) from its signed distance at a grid of positions `(3, ...)`.

    A ball of that radius around a point outside reaches the shape, one around a point inside lies in it: both bound
    the extent from below, finer than the grid.
    """
    near = np.abs(distance) < 1.5 * STEP_MM
    d, (x, y, z) = distance[near], points[:, near]
    return np.array([2 * (x - d).max(), (y - d).max() - (y + d).min(), (z - d).max() - (z + d).min()])


def body_mm(kind: int, sizes: dict[str, float]) -> np.ndarray:
    """Return width, depth and height `(3,)` of the body: runs of bone along the axes through its center."""
    line = np.linspace(0, 40, 161, dtype=np.float32)

    def run(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
        outside = build(kind, sizes, *(c.reshape(-1, 1, 1) for c in np.broadcast_arrays(x, y, z))).ravel() >= 0
        return float(line[outside.argmax()])

    zero = np.zeros(1, dtype=np.float32)
    front, back, up, down = (run(zero, *yz) for yz in ((line, zero), (-line, zero), (zero, line), (zero, -line)))
    return np.array([2 * run(line, zero, zero), front + back, up + down])


def fit(
    kind: int, shapes: tuple[Shape, ...], steps: int, rng: np.random.Generator, measured: np.ndarray | None
) -> tuple[dict[str, float], float]:
    """Return the fitted sizes of a level and the mean overlap (Dice) they reach.

    `measured` `(7,)` holds volume (ml), extents and body sizes (mm) to keep to; NaN = unknown.
    """
    low = np.min([shape.low_mm for shape in shapes], axis=0)
    high = np.max([shape.high_mm for shape in shapes], axis=0)
    high[0] = max(high[0], -low[0])
    axes = [np.arange(a, b, STEP_MM, dtype=np.float32) for a, b in zip([STEP_MM / 2, *low[1:]], high, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    points = np.stack(np.broadcast_arrays(x, y, z))
    mirrored = points * np.array([-1, 1, 1], dtype=np.float32).reshape(3, 1, 1, 1)
    masks = [(shape.sample(p) < 0).astype(np.float32) for shape in shapes for p in (points, mirrored)]
    read = landmarks_of(shapes, kind)
    sizes = sizes_mm(kind) if measured is not None else {**sizes_mm(kind), **read}
    names, start = list(sizes), np.array(list(sizes.values()))
    price = np.array([READ_PRICE if name in read else PRICE for name in names])
    radius = np.array([name.endswith(("_r", "_half")) for name in names])

    def overlap(distance: np.ndarray) -> float:
        own = 1 / (1 + np.exp(np.clip(distance / SOFT_MM, -30, 30)))
        return float(np.mean([2 * (own * mask).sum() / (own.sum() + mask.sum()) for mask in masks]))

    def misses(distance: np.ndarray, named: dict[str, float]) -> float:
        if measured is None:
            return 0.0
        volume_ml = 2 * STEP_MM**3 * (1 / (1 + np.exp(np.clip(distance / SOFT_MM, -30, 30)))).sum() / 1000
        own = np.array([volume_ml, *extents_mm(distance, points), *body_mm(kind, named)])
        return float(np.nansum(((own / measured - 1) / [VOLUME_SD, *[SIZE_SD] * 6]) ** 2))

    def score(values: np.ndarray) -> float:
        named = dict(zip(names, values.tolist(), strict=True))
        distance = build(kind, named, x, y, z)
        price_paid = float((price * ((values - start) / 3) ** 2).sum())
        return overlap(distance) - price_paid - SIZE_PRICE * misses(distance, named)

    best, reached, width = start, score(start), 1.2
    for _ in range(steps):
        moved = best + rng.normal(0, width, len(best)) * (rng.random(len(best)) < 0.2)
        moved = np.where(radius, np.maximum(moved, LEAST_MM), moved)
        found = score(moved)
        width = min(width * 1.15, 3.0) if found > reached else max(width * 0.985, 0.25)
        if found > reached:
            best, reached = moved, found
    return dict(zip(names, best.tolist(), strict=True)), overlap(
        build(kind, dict(zip(names, best.tolist(), strict=True)), x, y, z)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=Path, required=True)
    parser.add_argument("--levels", nargs="*", help="names of levels (default: all)")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--sizes", type=Path, help="a JSON file with `vertebra_size`, as `benchmarks.realism` reads it")
    options = parser.parse_args()
    table = json.loads(options.sizes.read_text())["vertebra_size"]["per_level"] if options.sizes else {}
    for kind, shapes in sorted(load_shapes(options.shapes).items()):
        if options.levels and NAMES[kind] not in options.levels:
            continue
        measured = sizes_of_level(table[NAMES[kind]]) if NAMES[kind] in table else None
        sizes, reached = fit(kind, shapes, options.steps, np.random.default_rng(kind), measured)
        values = ", ".join(f"{round(value, 1):g}" for value in sizes.values())
        print(f"    [{values}],  # {NAMES[kind]} {reached:.3f}", flush=True)


if __name__ == "__main__":
    main()
