"""Count the windows of stage three on whole synthetic spines, and what of each vertebra lies outside its window.

    python -m benchmarks.windows [--spines 24] [--seed 32] [--fit PERCENTILE]

Nothing is rendered: the vertebrae are sampled from their exact shapes every 2 mm. `--fit` prints the table
`pipeline.extents.EXTENT_MM` as that percentile of the spines' own extents, level by level as it is grouped there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from pipeline.extents import EXTENT_MM, REAR_MM, frames, patient_scale
from pipeline.labels import NAMES, ROWS_BY_LEVEL
from pipeline.landmarks import absent, present_rows
from pipeline.masks import plan_windows
from pipeline.phantom.scan import sample_vertebra
from pipeline.phantom.spine import draw_spine
from pipeline.phantom.vertebrae import vertebra_shape
from pipeline.spaces import bounds_mm, grid_over, to_world

SIZE = (112, 112, 128)  # of the shipped bundle, at 1 mm
STEP_MM = 2.0
AROUND_MM = np.array([[-90.0, -100, -75], [90, 60, 75]])


@dataclass(frozen=True)
class Spine:
    """Landmarks `(26, 3)` and, by row, the `(N, 3)` positions inside each vertebra, RAS+ mm."""

    landmarks_mm: np.ndarray
    inside_mm: dict[int, np.ndarray]


def whole_spine(seed: int, index: int) -> Spine:
    rng = np.random.default_rng([seed, index])
    spine = draw_spine(rng)
    landmarks_mm, inside_mm = absent(), {}
    for i, (row, center) in enumerate(zip(spine.rows, spine.centers_mm, strict=True)):
        landmarks_mm[row] = center
        grid = grid_over(center + AROUND_MM, STEP_MM)
        found = sample_vertebra(spine, i, vertebra_shape(spine, i, rng, None), grid)
        assert found
        where, distance = found
        inside_mm[row] = to_world(grid.affine, np.argwhere(distance < 0) + [s.start for s in where])
    return Spine(landmarks_mm, inside_mm)


def shares_outside(spine: Spine) -> tuple[int, dict[int, float]]:
    """Return how many windows there are, and by row the share of the vertebra that lies outside its window."""
    windows = plan_windows(spine.landmarks_mm, 1.0, SIZE)
    shares = {}
    for window in windows:
        low, high = bounds_mm(window.grid)
        for row in window.rows:
            points = spine.inside_mm[row]
            shares[row] = float(((points < low) | (points > high)).any(axis=1).mean())
    return len(windows), shares


def own_extents(spine: Spine) -> dict[int, np.ndarray]:
    """Return by row what `EXTENT_MM` holds, of this spine alone and at scale 1."""
    rows = [row for row in ROWS_BY_LEVEL if row in present_rows(spine.landmarks_mm)]
    scale, found = patient_scale(spine.landmarks_mm), {}
    for row, frame in zip(rows, frames(spine.landmarks_mm[rows]), strict=True):
        local = (spine.inside_mm[row] - spine.landmarks_mm[row]) @ frame / scale
        fore, rear = local[local[:, 1] >= REAR_MM], local[local[:, 1] < max(REAR_MM, local[:, 1].min() + 4)]
        (_, front, top), low = fore.max(axis=0), fore[:, 2].min()
        back, rear_low, rear_high = rear[:, 1].min(), rear[:, 2].min(), rear[:, 2].max()
        wide, rear_wide = (np.abs(part[:, 0]).max() for part in (fore, rear))
        found[row] = np.array([wide, front, low, top, back, rear_low, rear_high, rear_wide])
    return found


def print_fit(spines: list[Spine], percentile: float) -> None:
    extents = [own_extents(spine) for spine in spines]
    _, first = np.unique(EXTENT_MM, axis=0, return_index=True)
    for levels in np.split(np.arange(len(EXTENT_MM)), np.sort(first)[1:]):
        rows = [ROWS_BY_LEVEL[level] for level in levels]
        values = np.array([extent[row] for extent in extents for row in rows if row in extent])
        outward = np.where(EXTENT_MM[levels[0]] < 0, -1, 1)
        row = np.ceil(np.percentile(values * outward, percentile, axis=0)) * outward
        print(f"({', '.join(f'{value:.0f}' for value in row)}),  # {NAMES[rows[0]]} to {NAMES[rows[-1]]}")


def print_counts(spines: list[Spine]) -> None:
    counts, shares = zip(*(shares_outside(spine) for spine in spines), strict=True)
    outside = np.array([share for spine in shares for share in spine.values()])
    print(f"{len(spines)} spines, {len(outside)} vertebrae")
    print(f"windows: {np.mean(counts):.2f} (median {np.median(counts):.0f}, {min(counts)} to {max(counts)})")
    print(f"outside their window: {outside.mean():.4%} of their volume, {outside.max():.2%} of the one cut most")
    print("cut at all, by more than 0.1 %, 0.5 %:", *(int((outside > limit).sum()) for limit in (0, 0.001, 0.005)))
    by_size = sorted(zip((patient_scale(spine.landmarks_mm) for spine in spines), counts, strict=True))
    print("windows by the patient's size:", ", ".join(f"{scale:.2f}: {count}" for scale, count in by_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spines", type=int, default=24)
    parser.add_argument("--seed", type=int, default=32)
    parser.add_argument("--fit", type=float, metavar="PERCENTILE")
    arguments = parser.parse_args()
    spines = [whole_spine(arguments.seed, index) for index in range(arguments.spines)]
    if arguments.fit is not None:
        print_fit(spines, arguments.fit)
    print_counts(spines)


if __name__ == "__main__":
    main()
