"""Disturbed chests: what moves by how much, and what stays."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.chest import RandChestd, sloped


def chest(rows: tuple[int, int] = (8, 9), **options) -> tuple[np.ndarray, np.ndarray]:
    """Return a window of 2 mm whose values are 100 y + z in voxels, before and after `RandChestd`: `(x, y, z)`."""
    _, y, z = np.indices((61, 40, 30))
    image = MetaTensor(torch.from_numpy(100.0 * y + z)[None], affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    landmarks_mm = torch.full((26, 3), torch.nan)
    landmarks_mm[list(rows)] = torch.tensor([[60.0, 20.0, 50.0], [60.0, 10.0, 10.0]])  # the upper one lies 10 mm ahead
    transform = RandChestd("image", ahead_mm=(30.0, 30.0), shift_mm=8.0, **options)
    transform.set_random_state(3)
    changed = transform({"image": image, "landmarks_mm": landmarks_mm})["image"]
    return image.numpy()[0], changed.numpy()[0]


def test_front_moves_along_the_spine():
    before, after = (values[30] for values in chest(prob=1.0, hidden=0.0, slope=0.0))
    # 30 mm ahead of the line: beyond y = 40 mm, voxel 20, at the lower landmark and below, voxel 25 at the upper one.
    np.testing.assert_array_equal(after[:21, :6], before[:21, :6])
    np.testing.assert_array_equal(after[:26, 25:], before[:26, 25:])
    shift = (after - before)[30, 15]
    assert shift == round(shift)
    assert 0 < abs(shift) <= 4
    np.testing.assert_array_equal(after[26:, 5:25], before[26:, 5:25] + shift)


def test_front_is_hidden():
    before, after = (values[30] for values in chest(prob=1.0, hidden=1.0, slope=0.0))
    assert len(np.unique(after[26:])) == 1
    assert -120 <= after[30, 15] <= 60
    np.testing.assert_array_equal(after[:20], before[:20])


def test_pelvis_stays_in_front():
    """L3 at 50 mm, L4 at 10 mm: voxels 0 to 4 lie below L4; 30 mm ahead of it is beyond voxel 20."""
    before, after = (values[30] for values in chest((21, 22), prob=1.0, hidden=1.0, slope=0.0))
    np.testing.assert_array_equal(after[:, :5], before[:, :5])
    assert (after[26:, 5:] != before[26:, 5:]).all()


def test_sides_fall_with_their_distance_from_the_spine():
    before, after = chest(prob=0.0, slope=0.3, beside_mm=20.0)
    np.testing.assert_array_equal(after[20:41], before[20:41])  # within 20 mm of x = 60 mm, voxel 30
    shift = (after - before)[:, 20, 15]
    np.testing.assert_array_equal(shift, shift[::-1])
    assert abs(shift[0]) == pytest.approx(2 * abs(shift[10]), abs=1)  # 40 and 20 mm beyond
    assert abs(shift[0]) > 2


def test_chest_stays_where_nothing_is_drawn():
    before, after = chest(prob=0.0, slope=0.0)
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_a_positive_slope_lets_the_sides_fall(slope):
    """2 mm voxels, spine at x = 20 mm: 30 mm aside, 20 beyond the still middle, a plane at voxel 15 falls by 10 mm."""
    values = torch.zeros(1, 31, 3, 30)
    values[..., 15] = 1.0
    fallen = sloped(values, 2.0, 20.0, 10.0, slope)
    np.testing.assert_array_equal(fallen[0, [5, 10, 15], 1].argmax(dim=1), [15, 15, 15])  # x = 10, 20 and 30 mm
    assert int(fallen[0, 25, 1].argmax()) == 15 - 5 * np.sign(slope)
