"""`vertebrae selftest`: what does not change the anatomy must not change the result.

One scan is flipped, stored in other axis orders, moved, resampled, cropped and made noisier. Each result is put back
on the first one's grid and compared with it: same names, points and masks within the tolerances stated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .images import InputError, Scan, read_scan
from .labels import LABELS, NAMES
from .landmarks import present_rows
from .metrics import dice
from .run import NoSpineFound, Result, VertebraePipeline
from .spaces import Grid, resample, scaled, to_voxel, to_world

MOVED_MM = np.array([37.0, -52.0, 111.0])
NOISE_HU = 20.0
COARSER = 1.25
CROP_MM = np.array([60.0, 70.0, 45.0])  # around the landmarks: right-left, front-back, head-foot
WHOLE = 0.99  # share of a vertebra that must be in view for it to count

Pipeline = Callable[[Scan], Result]


@dataclass(frozen=True)
class Variation:
    """One change of a scan.

    Attributes:
        name: what is done.
        change: returns the changed scan, given the scan and its landmarks `(N, 3)` RAS+ mm.
        points_mm: how far a landmark may move.
        dice: how far the overlap of a vertebra may fall.
        moved_mm: `(3,)` by which the patient moves in RAS+.
    """

    name: str
    change: Callable[[Scan, np.ndarray], Scan]
    points_mm: float
    dice: float
    moved_mm: np.ndarray | float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a variation did: vertebrae compared, those lost, gained and off, largest shift, lowest overlap."""

    variation: Variation
    compared: int
    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    points_mm: float = 0.0
    dice: float = 1.0
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether something was compared and everything is within the tolerances."""
        return self.compared > 0 and not (self.failure or self.lost or self.gained or self.off)


def reordered(scan: Scan, order: Sequence[int], signs: Sequence[int]) -> Scan:
    """Return the same scan stored with its array axes in another order, those of sign -1 reversed."""
    array, affine = scan.array.transpose(order), scan.affine.copy()
    affine[:3, :3] = scan.affine[:3, order]
    reverse = np.array(signs) < 0
    affine[:3, 3] = to_world(affine, np.where(reverse, np.array(array.shape) - 1, 0))
    affine[:3, :3] *= signs
    array = array[tuple(slice(None, None, sign) for sign in signs)]
    return replace(scan, array=np.ascontiguousarray(array), affine=affine)


def moved(scan: Scan, offset_mm: np.ndarray) -> Scan:
    """Return the scan with its origin moved in RAS+ mm."""
    affine = scan.affine.copy()
    affine[:3, 3] += offset_mm
    return replace(scan, affine=affine)


def resampled(scan: Scan, factor: float) -> Scan:
    """Return the scan on a grid with voxels larger by a factor along all axes, its first corner in place."""
    shape = tuple(int(n / factor) for n in scan.array.shape)
    grid = Grid((shape[0], shape[1], shape[2]), scaled(scan.affine, factor))
    array = np.rint(resample(scan.array, scan.affine, grid, fill=float(scan.array.min()))).astype(np.int16)
    return replace(scan, array=array, affine=grid.affine)


def cropped(scan: Scan, points_mm: np.ndarray, margin_mm: np.ndarray) -> Scan:
    """Return the part of the scan around `(N, 3)` RAS+ mm, along its own array axes."""
    ends = np.array(np.meshgrid(*np.stack([points_mm.min(0) - margin_mm, points_mm.max(0) + margin_mm]).T))
    index = to_voxel(scan.affine, ends.reshape(3, -1).T)
    low = np.clip(np.floor(index.min(axis=0)), 0, None).astype(int)
    high = np.clip(np.ceil(index.max(axis=0)) + 1, None, scan.array.shape).astype(int)
    affine = scan.affine.copy()
    affine[:3, 3] = to_world(scan.affine, low)
    return replace(scan, array=scan.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], affine=affine)


def noisy(scan: Scan, sigma_hu: float) -> Scan:
    """Return the scan with white noise added, the same in every run."""
    noise = np.random.default_rng(0).normal(0, sigma_hu, scan.array.shape)
    return replace(scan, array=np.rint(np.clip(scan.array + noise, -1024, 3071)).astype(np.int16))


VARIATIONS = (
    Variation("again", lambda scan, _: scan, 0.01, 0.999),
    Variation("all array axes flipped", lambda scan, _: reordered(scan, (0, 1, 2), (-1, -1, -1)), 0.5, 0.97),
    Variation("array axes in the order k, i, j", lambda scan, _: reordered(scan, (2, 0, 1), (1, 1, 1)), 0.5, 0.97),
    Variation("order j, k, i, two of them flipped", lambda scan, _: reordered(scan, (1, 2, 0), (-1, 1, -1)), 0.5, 0.97),
    Variation("moved by 37, -52 and 111 mm", lambda scan, _: moved(scan, MOVED_MM), 0.5, 0.97, MOVED_MM),
    Variation(f"voxels larger by {COARSER}", lambda scan, _: resampled(scan, COARSER), 3.0, 0.80),
    Variation("cropped around the spine", lambda scan, points_mm: cropped(scan, points_mm, CROP_MM), 3.0, 0.80),
    Variation(f"noise of {NOISE_HU:g} HU added", lambda scan, _: noisy(scan, NOISE_HU), 3.0, 0.80),
)


def run_selftest(path: Path | None, device: str = "auto") -> int:
    """Run all variations of a scan, or of a synthetic one, print the table and return the exit code (0 or 4)."""
    pipeline = VertebraePipeline(device)
    outcomes = check(pipeline, read_scan(path) if path else _phantom())
    print(table(outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) else 4


def check(pipeline: Pipeline, scan: Scan, variations: Sequence[Variation] = VARIATIONS) -> list[Outcome]:
    """Return the outcome of every variation; `NoSpineFound` if the unchanged scan shows no spine."""
    first = pipeline(scan)
    points_mm = first.labelling.landmarks_mm[present_rows(first.labelling.landmarks_mm)]
    outcomes = []
    for variation in tqdm(variations, desc="selftest", unit="variation", disable=None):
        changed = variation.change(scan, points_mm)
        try:
            outcomes.append(compare(variation, first, changed.grid, pipeline(changed)))
        except (NoSpineFound, InputError) as error:
            outcomes.append(Outcome(variation, 0, failure=str(error)))
    return outcomes


def compare(variation: Variation, first: Result, grid: Grid, second: Result) -> Outcome:
    """Compare two results on the first one's grid, over the vertebrae that the changed scan holds whole.

    Args:
        variation: what was done.
        first: of the unchanged scan.
        grid: of the changed scan.
        second: its result.
    """
    back = grid.affine.copy()
    back[:3, 3] -= variation.moved_mm
    labels = resample(second.labels, back, first.scan.grid, order=0)
    in_view = resample(np.ones(grid.shape, np.uint8), back, first.scan.grid, order=0) > 0
    all_of, seen = (np.bincount(part, minlength=29) for part in (first.labels.ravel(), first.labels[in_view]))
    own, other = first.labelling.landmarks_mm, second.labelling.landmarks_mm - variation.moved_mm
    before, after = present_rows(own), present_rows(other)
    whole = [row for row in before if seen[LABELS[row]] >= WHOLE * all_of[LABELS[row]]]
    both = [row for row in whole if row in after]
    points_mm = {row: float(np.linalg.norm(own[row] - other[row])) for row in both}
    overlap = {row: dice(labels * in_view, first.labels * in_view, LABELS[row]) for row in both}
    return Outcome(
        variation,
        len(whole),
        lost=tuple(NAMES[row] for row in whole if row not in after),
        gained=tuple(NAMES[row] for row in after if row not in before),
        off=tuple(NAMES[r] for r in both if points_mm[r] > variation.points_mm or overlap[r] < variation.dice),
        points_mm=max(points_mm.values(), default=0.0),
        dice=min(overlap.values(), default=0.0),
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table as text."""
    head = f"{'variation':<36}{'vertebrae':>10}{'points mm':>18}{'lowest Dice':>20}   verdict"
    lines = [head]
    for o in outcomes:
        changes = (("lost", o.lost), ("gained", o.gained), ("off", o.off))
        why = o.failure or ", ".join(f"{what} {' '.join(names)}" for what, names in changes if names)
        points = f"{o.points_mm:.2f} (<= {o.variation.points_mm:.2f})"
        overlap = f"{o.dice:.3f} (>= {o.variation.dice:.3f})"
        verdict = ("same" if o.passed else "CHANGED") + (f": {why}" if why else "")
        lines.append(f"{o.variation.name:<36}{o.compared:>10}{points:>18}{overlap:>20}   {verdict}")
    count = sum(outcome.passed for outcome in outcomes)
    return "\n".join([*lines, f"\n{count} of {len(outcomes)} within the tolerances"])


def _phantom() -> Scan:
    """Return the synthetic scan of the demo: oblique, anisotropic, from about T7 to the sacrum."""
    from .demo import SEED, demo_phantom

    phantom = demo_phantom(SEED)
    return Scan("phantom", phantom.hu, phantom.affine, Path("phantom"))
