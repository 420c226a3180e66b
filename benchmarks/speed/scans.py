"""The scans: one synthetic patient, seen from the loins only up to the whole spine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.phantom import make_phantom, write_phantom
from pipeline.phantom.spine import draw_spine
from pipeline.spaces import Grid

SEED = (870_000, 1)
SPACING_MM = (0.8, 0.8, 0.8)
# By number of slices: what is in view, and the place along the spine in the middle (0 = C1).
SIZES = {200: ("lumbar", 22), 500: ("thorax and abdomen", 16), 800: ("full spine", 12)}
PLANE = 512


def scan_grid(slices: int, plane: int, center: int) -> Grid:
    """Return a grid stored left to right, back to front and upwards (LPS), a vertebra behind its middle."""
    step = np.array(SPACING_MM) * [PLANE / plane, PLANE / plane, 1]  # always the same field of view across
    affine = np.diag([-step[0], -step[1], step[2], 1.0])
    middle_mm = draw_spine(np.random.default_rng(list(SEED)), "none").at(center) + [0, 40, 0]
    shape = (plane, plane, slices)
    affine[:3, 3] = middle_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def make_scan(folder: Path, slices: int, plane: int = PLANE) -> Path:
    """Write one scan and its truth into a data folder and return the path of the CT."""
    _, center = SIZES[min(SIZES, key=lambda size: abs(size - slices))]
    name = f"{slices}_slices"
    write_phantom(folder, name, make_phantom(SEED, variant="none", grid=scan_grid(slices, plane, center)))
    return folder / "images" / f"{name}.nii.gz"
