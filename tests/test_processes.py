"""How far spinous processes fall, on blocks with a process at a known height."""

import numpy as np
import pytest

from benchmarks.processes import falls
from pipeline.labels import LABELS
from pipeline.landmarks import absent
from pipeline.spaces import to_world

# Axes i, j, k step 1.5 mm back, 2 mm to the right and 1 mm down.
AFFINE = np.array([[0, 2, 0, -30], [-1.5, 0, 0, 30], [0, 0, -1, 60], [0, 0, 0, 1]], dtype=float)
SHAPE = (70, 31, 121)
T8 = 14


def chest(fall_mm: float, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and landmarks of T7 to T9, 25 mm apart; the process of T8 ends 50 mm behind its center."""
    landmarks_mm = absent()
    for row in (T8 - 1, T8, T8 + 1):
        landmarks_mm[row] = (0, 0, 25.0 * (T8 - row))
    x, y, z = to_world(AFFINE, np.indices(shape).reshape(3, -1).T).T.reshape(3, *shape)
    body = (np.abs(x) < 20) & (np.abs(y) < 14) & (np.abs(z) < 10)
    process = (np.abs(x) < 4) & (y < 0) & (y > -50) & (np.abs(z - fall_mm * y / 50) < 4)
    return np.where(body | process, LABELS[T8], 0).astype(np.uint8), landmarks_mm


@pytest.mark.parametrize(("fall_mm", "levels"), [(0.0, 0.0), (25.0, 1.0), (12.5, 0.5)])
def test_levels_below_the_own_body(fall_mm, levels):
    labels, landmarks_mm = chest(fall_mm)
    found = falls(labels, AFFINE, landmarks_mm)
    # The last 3 % of the midline lie 46.5 and 48 mm behind, where 0.93 and 0.96 of the fall is done.
    assert found[T8 - 7] == pytest.approx(0.945 * levels, abs=0.015)
    assert np.isnan(np.delete(found, T8 - 7)).all()


def test_a_cut_process_tells_nothing():
    labels, landmarks_mm = chest(25.0, (45, 31, 121))  # ends 36 mm behind the center
    assert labels[-1].any()
    assert falls(labels, AFFINE, landmarks_mm) is None


def test_a_vertebra_without_a_neighbor_tells_nothing():
    labels, landmarks_mm = chest(25.0)
    landmarks_mm[T8 + 1] = np.nan
    assert falls(labels, AFFINE, landmarks_mm) is None
