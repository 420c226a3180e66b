"""Where lungs begin and end, on a block of a body with boxes of air."""

import numpy as np
import pytest

from benchmarks.lungs import edges
from pipeline.landmarks import absent

# Axes i, j, k step 5 mm back, 4 mm to the right and 3 mm down.
AFFINE = np.array([[0, 4, 0, -120], [-5, 0, 0, 90], [0, 0, -3, 150], [0, 0, 0, 1]], dtype=float)
SHAPE = (40, 62, 134)


def chest(top_mm: float, bottom_mm: float) -> np.ndarray:
    """Return HU of a body with a lung on each side, 60 x 100 mm across, between two heights."""
    x, y, z = (AFFINE[:3, :3] @ np.indices(SHAPE).reshape(3, -1) + AFFINE[:3, 3:]).reshape(3, *SHAPE)
    hu = np.where((np.abs(x) < 105) & (np.abs(y) < 80), 40.0, -1000.0)
    hu[(np.abs(np.abs(x) - 50) < 30) & (np.abs(y) < 50) & (z < top_mm) & (z > bottom_mm)] = -850
    return hu.astype(np.float32)


def spine(first: int = 7, last: int = 19) -> np.ndarray:
    """Return T1 at a height of 120 mm and what follows every 25 mm."""
    landmarks_mm = absent()
    for row in range(first, last):
        landmarks_mm[row] = (0, -40, 120 - 25 * (row - 7))
    return landmarks_mm


def test_levels_of_the_edges():
    found = edges(chest(70.0, -105.0), AFFINE, spine())
    assert found[0] == pytest.approx(10.0, abs=0.2)  # 50 mm below T1, level 8
    assert found[1] == pytest.approx(17.0, abs=0.2)  # 225 mm below it


def test_an_edge_out_of_view_has_no_level():
    found = edges(chest(70.0, -300.0), AFFINE, spine())
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_nothing_without_lungs_or_levels():
    assert edges(chest(0.0, 0.0), AFFINE, spine()) is None
    assert edges(chest(70.0, -105.0), AFFINE, spine(last=17)) is None
