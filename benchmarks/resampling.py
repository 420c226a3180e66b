"""Compare our one resampling with MONAI's Orientation + Spacing, from a stored scan to each stage's grid.

    python -m benchmarks.resampling

Prints seconds (median of three, one thread) and the largest difference in HU away from the border.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from scipy import ndimage

from pipeline.spaces import Grid, bounds_mm, grid_over, resample

SHAPE, SPACING_MM = (512, 512, 300), (0.8, 0.8, 1.0)


def smooth_scan() -> tuple[np.ndarray, np.ndarray]:
    """Return an LPS scan `SHAPE` int16, smooth enough that both ways should agree, and its affine."""
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.normal(0, 1, (32, 32, 19)), 1.0)
    array = ndimage.zoom(coarse * 2000, np.array(SHAPE) / coarse.shape, order=1).astype(np.int16)
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    affine[:3, 3] = (205, 190, -150)
    return array, affine


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    seconds, result = [], None
    for _ in range(3):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def main() -> None:
    torch.set_num_threads(1)
    array, affine = smooth_scan()
    scan = Grid(array.shape, affine)
    view = bounds_mm(scan)
    spine = np.stack([view[0] + [140, 110, 10], view[1] - [140, 130, 10]])
    print(f"{'to':<28}{'ours s':>8}{'MONAI s':>9}{'ratio':>7}{'max |difference| HU':>21}")
    for name, box, spacing in (
        ("8 mm, whole scan", view, 8.0),
        ("2 mm, whole scan", view, 2.0),
        ("1 mm, spine box", spine, 1.0),
    ):
        grid = grid_over(box, spacing)
        ours, values = timed(lambda box=box, grid=grid: resample(array, affine, grid, fill=-1000.0))

        def monai(spacing: float = spacing) -> np.ndarray:
            image = MetaTensor(torch.from_numpy(array)[None].float(), affine=torch.from_numpy(affine))
            return Spacing((spacing,) * 3, mode="bilinear")(Orientation("RAS", labels=None)(image))

        theirs, image = timed(monai)
        same = resample(image[0].numpy(), np.asarray(image.affine), grid, fill=-1000.0)
        inner = tuple(slice(3, -3) for _ in range(3))
        difference = np.abs(values[inner] - same[inner]).max()
        print(f"{name:<28}{ours:>8.2f}{theirs:>9.2f}{theirs / ours:>7.1f}{difference:>21.1f}")


if __name__ == "__main__":
    main()
