"""Windows as another acquisition would have shown them: what is averaged, what is cut away, and what stays."""

import numpy as np
import pytest
import torch
from grids import image_of

from pipeline.acquisition import RandFieldOfViewd, RandThickSlicesd, thick_slices
from pipeline.landmarks import absent


def test_thick_slices_by_hand():
    """Six voxels to two slices of three, centers at 1 and 4, and back on the line between them."""
    values = np.array([0.0, 3, 6, 10, 10, 13])
    np.testing.assert_allclose(thick_slices(6, 3.0, 1 / 3) @ values, [3, 3, 3 + 8 / 3, 3 + 16 / 3, 11, 11])


@pytest.mark.parametrize("step", [1.0, 1.7, 2.5, 4.0])
@pytest.mark.parametrize("start", [-0.5, 0.1, 0.5])
def test_thick_slices_move_nothing(step, start):
    mix = thick_slices(40, step, start)
    np.testing.assert_allclose(mix.sum(axis=1), 1)
    ramp = mix @ np.arange(40.0)
    assert np.abs(ramp - np.arange(40))[6:-6].max() < 0.51  # a whole number of slices: exact, but for the grid's phase
    blob = np.exp(-((np.arange(40) - 18.4) ** 2) / (2 * 4.0**2))
    seen = mix @ blob
    assert (seen * np.arange(40)).sum() / seen.sum() == pytest.approx(18.4, abs=0.25)


def test_thick_slices_blur_one_axis():
    image = image_of(np.random.default_rng(0).normal(size=(16, 18, 20)).astype(np.float32), np.eye(4))
    transform = RandThickSlicesd("image", spacing_mm=1.0, largest_mm=4.0, prob=1.0)
    for seed in range(6):
        transform.set_random_state(seed)
        seen = transform({"image": image})["image"].numpy()[0]
        spread = [np.diff(seen, axis=axis).std() for axis in range(3)]
        assert sorted(spread)[0] < 0.8 * sorted(spread)[1]
    assert RandThickSlicesd("image", spacing_mm=8.0, prob=1.0)({"image": image})["image"] is image


def spine_window() -> dict:
    """Six vertebrae 24 mm apart in 400 x 400 x 520 mm of 8 mm voxels, brighter than air everywhere."""
    landmarks_mm = torch.from_numpy(absent()).float()
    landmarks_mm[10:16] = torch.tensor([[200.0, 180 + 4 * i, 380 - 24 * i] for i in range(6)])
    noise = np.random.default_rng(0).uniform(-100, 300, (50, 50, 65)).astype(np.float32)
    return {"image": image_of(noise, np.diag([8.0, 8, 8, 1])), "landmarks_mm": landmarks_mm}


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_field_of_view_is_a_box_around_the_vertebrae_that_stay(seed):
    sample = spine_window()
    before, landmarks_mm = sample["image"].numpy()[0], sample["landmarks_mm"].numpy()
    transform = RandFieldOfViewd("image", prob=1.0, length_mm=(60, 120), beside_mm=(20, 40))
    transform.set_random_state(seed)
    result = transform(sample)
    after, kept_mm = result["image"].numpy()[0], result["landmarks_mm"].numpy()
    index = np.argwhere(after != -1000)
    low, high = index.min(axis=0), index.max(axis=0)
    box = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    np.testing.assert_array_equal(after[box], before[box])
    assert (after == -1000).sum() == after.size - after[box].size
    present = np.isfinite(kept_mm[:, 0])
    assert 1 <= present.sum() <= 6
    np.testing.assert_array_equal(kept_mm[present], landmarks_mm[present])
    inside = (landmarks_mm >= 8 * (low - 1)) & (landmarks_mm <= 8 * (high + 1))
    assert not (present & ~inside.all(axis=1)).any()
    reach_mm = np.stack([kept_mm[present].min(axis=0) - 8 * low, 8 * high - kept_mm[present].max(axis=0)])
    assert (reach_mm[:, :2] > 20 - 8).all()  # no voxel center nearer than 20 mm was cut away, none farther than 40 kept
    assert (reach_mm[:, :2] <= 40).all()
    assert 60 - 16 <= 8 * (high - low)[2] <= 120
    assert (sample["image"].numpy()[0] == before).all()  # the cached scan stays whole


def test_a_field_of_view_stays_whole_without_luck_and_without_vertebrae():
    sample = spine_window()
    assert RandFieldOfViewd("image", prob=0.0)(sample)["image"] is sample["image"]
    sample["landmarks_mm"] = torch.from_numpy(absent())
    assert RandFieldOfViewd("image", prob=1.0)(sample)["image"] is sample["image"]
