"""Targets and network input, against positions worked out by hand."""

import numpy as np
import pytest
import torch
from grids import C1, L1, OBLIQUE, T12, image_of, landmarks

from pipeline.losses import IGNORED
from pipeline.spaces import to_world
from pipeline.targets import DistanceChannelsd, HeatmapTargetd, LabelsToClassesd, RandLandmarksd, beyond_ends


@pytest.mark.parametrize(("stride", "peak"), [(1, (3, 5, 9)), (2, (1, 2, 4))])
def test_heatmap_target_lies_on_the_strided_grid(stride, peak):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [10, -20, 300]
    # The first of two voxels lies half a voxel (1 mm) before the middle of both.
    position_mm = to_world(affine, np.array(peak) * stride + (stride - 1) / 2)
    sample = {"image": image_of(np.zeros((8, 12, 20), np.float32), affine), "landmarks_mm": landmarks(l1=position_mm)}
    target = HeatmapTargetd("label", 3.0, stride)(sample)["label"]
    assert target.shape == (25, 8 // stride, 12 // stride, 20 // stride)
    assert float(target[L1][peak]) == pytest.approx(1, abs=1e-5)
    step = np.exp(-((2.0 * stride) ** 2) / 18)
    for axis in range(3):
        neighbor = tuple(np.array(peak) + np.eye(3, dtype=int)[axis])
        assert float(target[L1][neighbor]) == pytest.approx(step, abs=1e-5)
    assert float(target[[c for c in range(25) if c != L1]].max()) == 0


def test_heatmap_target_on_an_oblique_image():
    sample = {
        "image": image_of(np.zeros((8, 6, 12), np.float32), OBLIQUE),
        "landmarks_mm": landmarks(t13=[19.12, -21.84, 43.8]),
    }  # voxel (4, 3, 5)
    target = HeatmapTargetd("label", 2.0)(sample)["label"]
    assert np.unravel_index(int(target.argmax()), target.shape) == (T12, 4, 3, 5)
    assert float(target[T12, 5, 3, 5]) == pytest.approx(np.exp(-1 / 8), abs=1e-5)
    assert float(target[T12, 4, 2, 5]) == pytest.approx(np.exp(-4 / 8), abs=1e-5)


def test_union_target():
    points = landmarks(t12=[4, 6, 16], l1=[4, 6, 4])
    sample = {"image": image_of(np.zeros((5, 7, 11), np.float32), np.diag([2.0, 2, 2, 1])), "landmarks_mm": points}
    union = HeatmapTargetd("label", 3.0, union=True)(sample)["label"]
    each = HeatmapTargetd("label", 3.0)(sample)["label"]
    assert union.shape == (1, 5, 7, 11)
    assert torch.equal(union[0], each.amax(dim=0))
    assert float(union[0, 2, 3, 8]) == float(union[0, 2, 3, 2]) == pytest.approx(1, abs=1e-5)


def test_landmarks_are_moved_by_chance():
    points = landmarks(c1=[1, 2, 3], l1=[4, 5, 6])
    transform = RandLandmarksd("landmarks_mm", jitter_mm=3.0)
    transform.set_random_state(0)
    shifts = torch.stack([transform({"landmarks_mm": points})["landmarks_mm"] - points for _ in range(400)])
    assert shifts[:, [i for i in range(26) if i not in (C1, L1)]].isnan().all()
    present = shifts[:, [C1, L1]]
    assert float(present.mean().abs()) < 0.25
    assert present.std(dim=0).numpy() == pytest.approx(np.full((2, 3), 3.0), abs=0.45)
    assert points[C1].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("drop", "low", "high"), [(0.0, 0, 0), (0.3, 0.25, 0.35), (1.0, 1, 1)])
def test_landmarks_are_dropped_by_chance(drop, low, high):
    points = torch.zeros(26, 3)
    transform = RandLandmarksd("landmarks_mm", jitter_mm=1.0, drop=drop)
    transform.set_random_state(1)
    moved = torch.stack([transform({"landmarks_mm": points})["landmarks_mm"] for _ in range(100)])
    assert torch.equal(moved.isnan().any(dim=2), moved.isnan().all(dim=2))
    assert low <= float(moved.isnan().float().mean()) <= high


def test_moved_landmarks_follow_the_seed():
    moved = []
    for seed in (4, 4, 5):
        transform = RandLandmarksd("landmarks_mm", drop=0.2)
        transform.set_random_state(seed)
        moved.append(transform({"landmarks_mm": torch.zeros(26, 3)})["landmarks_mm"])
    np.testing.assert_array_equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])


def test_distance_channels_are_appended():
    image = image_of(np.random.default_rng(0).normal(size=(8, 6, 12)).astype(np.float32), OBLIQUE)
    sample = {"image": image, "landmarks_mm": landmarks(t13=[19.12, -21.84, 43.8])}
    both = DistanceChannelsd("image", reach_mm=20.0)(sample)["image"]
    assert both.shape == (26, 8, 6, 12)
    assert torch.equal(both[0].as_tensor(), image[0].as_tensor())
    assert float(both[1 + T12, 4, 3, 5]) == pytest.approx(1, abs=1e-3)
    assert float(both[1 + T12, 4, 2, 5]) == pytest.approx(1 - 2 / 20, abs=1e-3)
    assert float(both[1 + T12, 4, 3, 7]) == pytest.approx(1 - 6 / 20, abs=1e-3)
    assert float(both[[c for c in range(1, 26) if c != 1 + T12]].abs().max()) == 0
    assert np.array_equal(both.affine.numpy(), OBLIQUE)


def test_labels_become_classes():
    points = landmarks(c1=[0, 0, 0], t12=[0, 0, 0], t13=[0, 0, 0])
    labels = np.array([0, 1, 2, 19, 20, 25, 26, 27, 28, 0], np.uint8).reshape(1, 2, 5)
    classes = LabelsToClassesd("label")({"label": image_of(labels, OBLIQUE), "landmarks_mm": points})["label"]
    # background; C1; C2 without a landmark; T12; L1 and L6 without; sacrum and coccyx; T13 as T12
    assert classes.flatten().tolist() == [0, 1, 0, 19, 0, 0, 0, 0, 19, 0]
    assert classes.shape == (1, 1, 2, 5)
    assert classes.dtype == torch.int64


def test_t13_without_its_own_landmark_is_not_t12():
    labels = np.array([19, 28, 20], np.uint8).reshape(1, 1, 3)
    sample = {"label": image_of(labels, OBLIQUE), "landmarks_mm": landmarks(t12=[0, 0, 0], l1=[0, 0, 0])}
    assert LabelsToClassesd("label")(sample)["label"].flatten().tolist() == [19, 0, 20]


def test_beyond_the_last_labeled_vertebra_nothing_is_known():
    """Above the plane z = 17 mm; L1 at 4 mm, its neighbor above would be at 30 mm."""
    ends_mm = np.full((2, 2, 3), np.nan)
    ends_mm[0] = [[4, 6, 17], [4, 6, 43]]
    labels = np.zeros((5, 7, 11), np.uint8)
    labels[2, 3, 1:10] = 20
    grid = np.diag([2.0, 2, 2, 1])
    sample = {"label": image_of(labels, grid), "image": image_of(labels, grid), "ends_mm": ends_mm}
    sample["landmarks_mm"] = landmarks(l1=[4, 6, 4])
    classes = LabelsToClassesd("label")(sample)["label"][0]
    assert (classes[:, :, :9][classes[:, :, :9] != 20] == 0).all()  # voxel 8 lies at 16 mm
    assert (classes[:, :, 9:] == IGNORED).sum() == 5 * 7 * 2 - 1
    assert classes[2, 3, 9] == 20  # what is labeled stays, wherever it lies
    target = HeatmapTargetd("target", 3.0)(sample)["target"]
    assert target[:, :, :, :9].isfinite().all()
    assert target[:, :, :, 9:].isnan().all()


def test_beyond_ends_on_an_oblique_grid():
    """A plane through the middle of an oblique grid: voxels on the farther point's side, by their world positions."""
    shape, middle_mm = (8, 6, 12), to_world(OBLIQUE, np.array([3.5, 2.5, 5.5]))
    direction = np.array([0.3, -0.5, 0.8])
    ends_mm = np.full((2, 2, 3), np.nan)
    ends_mm[1] = [middle_mm, middle_mm + 20 * direction]
    world_mm = to_world(OBLIQUE, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))
    unknown = beyond_ends({"ends_mm": ends_mm}, shape, OBLIQUE).numpy()
    assert np.array_equal(unknown, (world_mm - middle_mm) @ direction > 0)
    assert not beyond_ends({}, shape, OBLIQUE).any()
