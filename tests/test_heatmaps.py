"""Heatmaps and distance channels: positions in mm onto oblique grids."""

import math

import numpy as np
import pytest
import torch

from pipeline.heatmaps import distance_channels, gaussian_heatmaps, squared_distances

# Oblique on purpose: axes i, j, k step 3 mm along +y, 2 mm along -x, 4 mm along +z.
AFFINE = torch.tensor([[0, -2, 0, 10], [3, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]], dtype=torch.float64)
# i, j, k step 1, 2, 3 mm along (0.6, 0.8, 0), (-0.48, 0.36, 0.8), (0.64, -0.48, 0.6).
OBLIQUE = torch.tensor([[0.6, -0.96, 1.92, 10], [0.8, 0.72, -1.44, -20], [0, 1.6, 1.8, 30], [0, 0, 0, 1]]).double()
SHEARED = torch.tensor([[1.5, 0.3, 0, -90], [0, 2, 0.4, 40], [0.2, 0, -2.5, 700], [0, 0, 0, 1]]).double()
SHAPE = (4, 5, 6)
C1, T12, L1, T13 = 0, 18, 19, 25


def landmarks(**rows_mm) -> torch.Tensor:
    result = torch.full((26, 3), torch.nan)
    for name, position in rows_mm.items():
        result[{"c1": C1, "t12": T12, "l1": L1, "t13": T13}[name]] = torch.tensor(position)
    return result


def naive_distance(point_mm, shape, affine) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world_mm = voxels @ affine.numpy()[:3, :3].T + affine.numpy()[:3, 3]
    return np.linalg.norm(world_mm - np.asarray(point_mm), axis=-1)


@pytest.mark.parametrize(
    ("voxel", "expected_mm"),
    [((1, 2, 3), 0.0), ((2, 2, 3), 3.0), ((1, 3, 3), 2.0), ((1, 2, 2), 4.0), ((2, 3, 3), 13**0.5), ((0, 0, 0), 13.0)],
)
def test_distances_are_in_mm(voxel, expected_mm):
    points_mm = torch.tensor([[500.0, 0, 0], [6.0, 23.0, 42.0]])  # the second is AFFINE @ (1, 2, 3), by hand
    squared = squared_distances(points_mm, SHAPE, AFFINE)
    assert squared.shape == (2, *SHAPE)
    assert squared.dtype == torch.float32
    assert float(squared[1][voxel]) == pytest.approx(expected_mm**2, abs=1e-3)


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE, SHEARED])
def test_distances_agree_with_a_coordinate_volume(affine):
    shape = (14, 17, 11)
    inside_mm = (affine[:3, :3] @ torch.tensor([7.3, 4.2, 8.9]).double() + affine[:3, 3]).float()
    points_mm = torch.stack([inside_mm, inside_mm + torch.tensor([60.0, -30.0, 20.0]), torch.full((3,), torch.nan)])
    distance = squared_distances(points_mm, shape, affine).sqrt()
    for row in range(2):
        np.testing.assert_allclose(distance[row], naive_distance(points_mm[row], shape, affine), atol=5e-3)
    assert distance[2].isnan().all()


@pytest.mark.parametrize(
    ("voxel", "squared_mm"), [((1, 2, 3), 0), ((2, 2, 3), 9), ((1, 1, 3), 4), ((1, 2, 4), 16), ((0, 1, 4), 29)]
)
def test_heatmap_values(voxel, squared_mm):
    heatmaps = gaussian_heatmaps(landmarks(l1=[6.0, 23.0, 42.0]), SHAPE, AFFINE, sigma_mm=3.0)
    assert heatmaps.shape == (25, *SHAPE)
    assert heatmaps.dtype == torch.float32
    assert float(heatmaps[L1][voxel]) == pytest.approx(math.exp(-squared_mm / 18), abs=1e-5)
    assert heatmaps[torch.arange(25) != L1].abs().max() == 0


def test_heatmap_peaks_between_voxels():
    """A center is not rounded to a voxel: half a voxel off along k, it is the same on both sides."""
    heatmaps = gaussian_heatmaps(landmarks(c1=[6.0, 23.0, 44.0]), SHAPE, AFFINE, sigma_mm=3.0)
    assert float(heatmaps[C1][1, 2, 3]) == pytest.approx(math.exp(-4 / 18), abs=1e-5)
    assert float(heatmaps[C1][1, 2, 4]) == pytest.approx(math.exp(-4 / 18), abs=1e-5)


@pytest.mark.parametrize(
    ("voxel", "expected"),
    [((1, 2, 3), 1.0), ((2, 2, 3), 0.7), ((1, 3, 3), 0.8), ((1, 2, 5), 0.2), ((3, 2, 3), 0.4), ((1, 2, 0), 0.0)],
)
def test_distance_channel_values(voxel, expected):
    channels = distance_channels(landmarks(l1=[6.0, 23.0, 42.0]), SHAPE, AFFINE, reach_mm=10.0)
    assert channels.shape == (25, *SHAPE)
    assert float(channels[L1][voxel]) == pytest.approx(expected, abs=1e-4)
    assert channels[torch.arange(25) != L1].abs().max() == 0


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE, SHEARED])
def test_distance_channels_agree_with_a_coordinate_volume(affine):
    shape = (14, 17, 11)
    point_mm = (affine[:3, :3] @ torch.tensor([7.3, 4.2, 8.9]).double() + affine[:3, 3]).float()
    points_mm = landmarks(c1=point_mm.tolist())
    channels = distance_channels(points_mm, shape, affine)
    expected = 1 - np.minimum(naive_distance(point_mm, shape, affine), 64) / 64
    np.testing.assert_allclose(channels[C1], expected, atol=2e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: gaussian_heatmaps(p, SHAPE, AFFINE, sigma_mm=2.0),
        lambda p: distance_channels(p, SHAPE, AFFINE, reach_mm=10.0),
    ],
)
def test_t13_joins_the_channel_of_t12(make):
    t12_mm, t13_mm = [6.0, 23.0, 50.0], [6.0, 23.0, 34.0]
    both = make(landmarks(t12=t12_mm, t13=t13_mm))
    assert float(both[T12][1, 2, 5]) == pytest.approx(1, abs=1e-4)
    assert float(both[T12][1, 2, 1]) == pytest.approx(1, abs=1e-4)
    assert torch.equal(both[T12], torch.maximum(make(landmarks(t12=t12_mm))[T12], make(landmarks(t12=t13_mm))[T12]))
    assert torch.equal(make(landmarks(t13=t13_mm)), make(landmarks(t12=t13_mm)))


@pytest.mark.parametrize("position_mm", [[500.0, 23, 42], [6.0, -400, 42], [6.0, 23, 900]])
def test_far_landmarks_do_not_show(position_mm):
    assert gaussian_heatmaps(landmarks(l1=position_mm), SHAPE, AFFINE, sigma_mm=6.0).abs().max() < 1e-6
    assert distance_channels(landmarks(l1=position_mm), SHAPE, AFFINE).abs().max() == 0


def test_no_landmarks():
    assert gaussian_heatmaps(landmarks(), SHAPE, AFFINE, sigma_mm=6.0).abs().max() == 0
    assert distance_channels(landmarks(), SHAPE, AFFINE).abs().max() == 0
