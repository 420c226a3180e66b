"""At which level ribs pass beside the spine, on bars of bone at known heights."""

from types import SimpleNamespace

import numpy as np
import pytest
from phantoms import spine_of

from benchmarks.ribs import offsets
from pipeline.landmarks import absent
from pipeline.phantom.skeleton import rib_mm

# Axes i, j, k step 3 mm back, 2 mm to the right and 2 mm down.
AFFINE = np.array([[0, 2, 0, -90], [-3, 0, 0, 60], [0, 0, -2, 200], [0, 0, 0, 1]], dtype=float)
SHAPE = (50, 91, 201)


def spine() -> np.ndarray:
    """Return T1 at a height of 180 mm and what follows every 25 mm, leaning back."""
    landmarks_mm = absent()
    for row in range(7, 19):
        landmarks_mm[row] = (4, 10 - 2 * (row - 7), 180 - 25 * (row - 7))
    return landmarks_mm


def chest(below_mm: dict[int, float]) -> np.ndarray:
    """Return HU with a bar across the body, 10 mm high and deep, so far below the centers of some vertebrae."""
    _, y, z = (AFFINE[:3, :3] @ np.indices(SHAPE).reshape(3, -1) + AFFINE[:3, 3:]).reshape(3, *SHAPE)
    hu = np.zeros(SHAPE, dtype=np.float32)
    for row, below in below_mm.items():
        _, ahead, up = spine()[row]
        hu[(np.abs(y - ahead + 35) < 6) & (np.abs(z - up + below) < 6)] = 500
    return hu


def test_levels_below_the_own_vertebra():
    # T5 (row 11): 20 mm above its center; T12 (row 18) is the last center, so its rib must not lie below it.
    found = offsets(chest({11: -20.0, 14: -7.5, 17: 5.0}), AFFINE, spine())
    assert found[[4, 7, 10]] == pytest.approx([-0.8, -0.3, 0.2], abs=0.05)
    assert np.isnan(found[[0, 1, 2, 3, 5, 6, 8, 9, 11]]).all()


def test_bone_ahead_of_the_spine_is_no_rib():
    hu = chest({11: -20.0})
    assert np.isnan(offsets(np.roll(hu, -25, axis=0), AFFINE, spine())).all()  # 75 mm to the front


def test_few_vertebrae_tell_nothing():
    landmarks_mm = spine()
    landmarks_mm[10:] = np.nan
    assert np.isnan(offsets(chest({9: -20.0}), AFFINE, landmarks_mm)).all()


@pytest.mark.parametrize(("row", "lowest", "highest"), [(9, -1.3, -0.7), (10, -1.3, -0.7), (18, 0.3, 0.9)])
def test_ribs_of_phantoms_leave_where_real_ribs_do(row, lowest, highest):
    """50 mm aside, ribs T3 and T4 of chest CT pass 0.6 to 1.2 levels above their vertebra, T12 0.6 to 0.8 below."""
    found = []
    for seed in range(12):
        spine = spine_of((seed, 1))
        levels = np.array(spine.rows, dtype=float)
        body = SimpleNamespace(spine=spine, girth=1.0, slope=0.9, levels=levels, path=spine.centers_mm)
        index = spine.rows.index(row)
        aside, _, up = (rib_mm(body, row, 1, 0.3) - spine.centers_mm[index]).T
        level_mm = np.linalg.norm(spine.centers_mm[index - 1] - spine.centers_mm[index])
        found.append(-np.interp(50, aside, up) / level_mm)
    assert lowest < np.median(found) < highest
