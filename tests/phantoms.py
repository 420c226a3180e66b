"""Subjects and grids that the tests of `pipeline.phantom` share."""

import numpy as np

from pipeline.labels import row_of_name
from pipeline.phantom.spine import draw_spine
from pipeline.spaces import Grid

SEED = (7, 3)
L1, T13 = row_of_name("L1"), row_of_name("T13")


def spine_of(seed=SEED, variant="none"):
    """The spine that `make_phantom` draws from this seed."""
    return draw_spine(np.random.default_rng(list(seed)), variant)


def grid_at(center_mm, shape, linear) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = np.asarray(center_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def oblique(shape=(46, 58, 50)) -> Grid:
    """Around L1: axes i, j, k step 2.2 mm down, 1.9 mm left and 2.4 mm back, then all turned by 12 and -15 degrees."""
    a, b = np.deg2rad([12, -15])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    linear = about_z @ about_x @ np.array([[0, -1.9, 0], [0, 0, -2.4], [-2.2, 0, 0]])
    return grid_at(spine_of().at(L1) - [0, 15, 0], shape, linear)
