"""How real the phantoms are: sizes, overlap with real masks, HU, speed, and a page beside real scans.

    python -m benchmarks.realism --data DATA [--out docs/images]

`DATA` holds `statistics.json` (measured sizes), `vertebra_library/` (masks with an index) and `ct/` (real scans);
without `--data` only the speed is measured. Prints the tables of `docs/phantoms.md` and writes its pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from tqdm import tqdm

from pipeline.labels import NAMES, row_of_name
from pipeline.phantom import load_shapes, make_phantom
from pipeline.phantom.shapes import Shape, resampled
from pipeline.phantom.spine import draw_spine
from pipeline.phantom.vertebrae import procedural_shape
from pipeline.spaces import Grid

from .realism_figures import write_histograms, write_page

DRAWS = 20  # procedural vertebrae per level
UNSEEN = 990_000  # first number of every seed here; training scans start with another
# Between subjects: SD of size in VerSe'19 (log scale of the spacing), three times that for a volume.
SIZE_SD, VOLUME_SD = 0.07, 0.21


def body_runs_mm(shape: Shape) -> np.ndarray:
    """Return the body's width, depth and height `(3,)`: median run of bone through points near the center."""
    runs = []
    for axis, others in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1))):
        lengths = []
        for a in (-2.0, 0.0, 2.0):
            for b in (-2.0, 0.0, 2.0):
                line = np.zeros((3, 241))
                line[axis] = np.linspace(-60, 60, 241)
                line[others[0]], line[others[1]] = a, b
                outside = np.flatnonzero(shape.sample(line) >= 0)
                low, high = outside[outside < 120], outside[outside > 120]
                lengths.append(line[axis][high.min()] - line[axis][low.max()] if len(low) and len(high) else np.nan)
        runs.append(np.nanmedian(lengths))
    return np.array(runs)


def sizes_of(shape: Shape) -> np.ndarray:
    """Return volume (ml), whole extent (3 x mm) and body width, depth, height (3 x mm)."""
    inside = np.argwhere(shape.distance_mm < 0)
    extent = (np.ptp(inside, axis=0) + 1) * shape.spacing_mm
    return np.concatenate([[shape.volume_ml], extent, body_runs_mm(shape)])


def sizes_of_level(truth: dict) -> np.ndarray:
    """Return the measured volume (ml), extents and body sizes (mm) `(7,)` of a level; NaN = not measured."""
    body = truth["body_width_depth_height_mm"] or [np.nan] * 3
    return np.array([truth["volume_ml"], *truth["whole_extent_RL_AP_SI_mm"], *body], dtype=float)


def size_table(data: Path) -> None:
    """Print every level's procedural sizes, and how many measured SDs they lie from the measured ones."""
    measured = json.loads((data / "statistics.json").read_text())["vertebra_size"]["per_level"]
    spread = np.array([VOLUME_SD, *[SIZE_SD] * 6])
    print("\n| level | volume ml | extent mm | body mm | SDs off: volume, extent, body |\n|---|---|---|---|---|")
    worst = []
    for name, truth in measured.items():
        own = np.mean([sizes_of(procedural_shape(row_of_name(name), _rng(name, i))) for i in range(DRAWS)], axis=0)
        real = sizes_of_level(truth)
        off = (own / real - 1) / spread
        worst.append(off)
        cells = [f"{own[0]:.0f} / {real[0]:.0f}", *(_pair(own[i : i + 3], real[i : i + 3]) for i in (1, 4))]
        print(f"| {name} | {' | '.join(cells)} | {', '.join(f'{v:+.1f}' for v in off if np.isfinite(v))} |")
    off = np.abs(np.array(worst))
    known = np.isfinite(off)
    within = [f"{(off[known] <= limit).mean():.0%} within {limit} SD" for limit in (1, 2)]
    print(f"\n{known.sum()} sizes: {', '.join(within)}")


def _pair(own: np.ndarray, real: np.ndarray) -> str:
    if not np.isfinite(real).all():
        return "none"
    return f"{' × '.join(f'{v:.0f}' for v in own)} / {' × '.join(f'{v:.0f}' for v in real)}"


def _rng(name: str, index: int) -> np.random.Generator:
    return np.random.default_rng([UNSEEN, row_of_name(name), index])


def rigid_dice(shape: Shape, real: Shape, step_mm: float = 2.5) -> float:
    """Return the Dice overlap of two shapes after the rotation and shift of the first that make it largest."""
    _, points = resampled(real, step_mm, 4.0)
    flat = points.reshape(3, -1)
    target = real.sample(flat) < 0

    def overlap(move: np.ndarray, soft: bool = True) -> float:
        moved = _rotation(move[:3]).T @ (flat - 10 * move[3:, None])
        distance = shape.sample(moved)
        own = 1 / (1 + np.exp(np.clip(distance, -20, 20))) if soft else (distance < 0).astype(float)
        return float(2 * (own * target).sum() / (own.sum() + target.sum()))

    best = minimize(lambda move: -overlap(move), np.zeros(6), method="Powell", options={"maxfev": 150, "xtol": 0.02})
    return max(overlap(best.x, soft=False), overlap(np.zeros(6), soft=False))


def _rotation(angles: np.ndarray) -> np.ndarray:
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    return np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]]) @ about_y @ about_x


def overlap_table(data: Path) -> None:
    """Print, per level, the mean Dice of procedural vertebrae with the real masks after rigid alignment."""
    library = load_shapes(data / "vertebra_library")
    means = {}
    for row, shapes in tqdm(sorted(library.items()), unit="level", disable=None):
        found = [rigid_dice(procedural_shape(row, _rng(NAMES[row], i)), real) for i, real in enumerate(shapes)]
        means[NAMES[row]] = float(np.mean(found))
    print("\n| " + " | ".join(means) + " |\n|" + "---|" * len(means))
    print("| " + " | ".join(f"{v:.2f}" for v in means.values()) + " |")
    low = min(means, key=means.__getitem__)
    print(f"\nmean Dice {np.mean(list(means.values())):.3f}, lowest {low} {means[low]:.3f}")


def speed() -> None:
    """Print the seconds of one core for a crop of 160 x 160 x 700 mm at 1 mm."""
    seconds = []
    make_phantom((UNSEEN, 0), grid=Grid((8, 8, 8), np.eye(4)))  # first-call costs
    for index in range(5):
        spine = draw_spine(np.random.default_rng([UNSEEN, index]))
        affine = np.eye(4)
        affine[:3, 3] = (spine.centers_mm[0] + spine.sacrum_mm) / 2 - [80, 80, 350]
        start = time.process_time()
        make_phantom((UNSEEN, index), grid=Grid((160, 160, 700), affine))
        seconds.append(time.process_time() - start)
    print(f"\n160 x 160 x 700 mm at 1 mm: {', '.join(f'{s:.1f}' for s in seconds)} s of one core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="*", choices=("speed", "sizes", "overlap", "histograms", "page"))
    options = parser.parse_args()
    wanted = options.only or ["speed", *(["sizes", "overlap", "histograms", "page"] if options.data else [])]
    if options.data is None and set(wanted) - {"speed"}:
        parser.error("--data: needed for everything but speed")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        {
            "speed": speed,
            "sizes": lambda: size_table(options.data),
            "overlap": lambda: overlap_table(options.data),
            "histograms": lambda: write_histograms(options.data, options.out / "phantom_hu.png"),
            "page": lambda: write_page(options.data, options.out / "phantom_page.jpg"),
        }[name]()


if __name__ == "__main__":
    main()
