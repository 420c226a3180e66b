"""The dictionary transforms: where things lie after them, in the scan's own mm and in a window's."""

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.images import Scan
from pipeline.landmarks import absent, write_csv
from pipeline.losses import IGNORED
from pipeline.spaces import to_voxel, to_world
from pipeline.transforms import (
    DistanceChannelsd,
    HeatmapTargetd,
    LabelsToClassesd,
    RandLandmarksd,
    RandWindowd,
    ReadLabelsd,
    ReadLandmarksd,
    ReadScand,
    ToGridd,
)

# Oblique and anisotropic: i, j, k step 1, 2, 3 mm along (0.6, 0.8, 0), (-0.48, 0.36, 0.8), (0.64, -0.48, 0.6).
OBLIQUE = np.array([[0.6, -0.96, 1.92, 10], [0.8, 0.72, -1.44, -20], [0, 1.6, 1.8, 30], [0, 0, 0, 1]])
# Stored foot to head, front to back, right to left: i steps 4 mm along +z, j 2 mm along -y, k 1 mm along -x.
STORED = np.array([[0, 0, -1, 50], [0, -2, 0, 60], [4, 0, 0, -70], [0, 0, 0, 1]], dtype=float)
C1, T12, L1, T13 = 0, 18, 19, 25


def world_of(shape, affine) -> np.ndarray:
    return to_world(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))


def slope(points_mm: np.ndarray) -> np.ndarray:
    return 3.0 * points_mm[..., 0] - 5.0 * points_mm[..., 1] + 7.0 * points_mm[..., 2] + 11.0


def image_of(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine))


def scan_of(shape, affine, name="scan") -> Scan:
    return Scan(name, slope(world_of(shape, affine)).astype(np.float32), affine, Path("scan.nii.gz"))


def landmarks(**rows_mm) -> torch.Tensor:
    landmarks_mm = absent()
    for name, position in rows_mm.items():
        landmarks_mm[{"c1": C1, "t12": T12, "l1": L1, "t13": T13}[name]] = position
    return torch.tensor(landmarks_mm, dtype=torch.float32)


def read(shape=(9, 24, 20), affine=STORED) -> dict:
    return ReadScand("image")({"image": scan_of(shape, affine)})


# --- reading


def test_read_a_scan_in_memory():
    scan = scan_of((9, 24, 20), STORED, "case")
    sample = ReadScand("image")({"image": scan, "other": 5})
    assert sample["image"].shape == (1, 9, 24, 20)
    assert np.array_equal(sample["image"].numpy()[0], scan.array)
    assert np.array_equal(sample["image"].affine.numpy(), STORED)
    assert (sample["image_name"], sample["other"]) == ("case", 5)


def test_read_a_scan_from_a_file(tmp_path):
    array = np.full((34, 26, 18), -1000, np.int16)
    array[2:-2, 2:-2, 2:-2] = 40
    array[10:14, 10:14, 5:9] = 700
    array[4, 3, 5] = 1500
    nib.save(nib.Nifti1Image(array, OBLIQUE), tmp_path / "case.nii.gz")
    for path in (tmp_path / "case.nii.gz", str(tmp_path / "case.nii.gz")):
        sample = ReadScand("image")({"image": path})
        image = sample["image"]
        assert sample["image_name"] == "case"
        assert np.array_equal(image.numpy()[0], array)
        # the brightest voxel, by hand: 10 + 2.4 - 2.88 + 9.6; -20 + 3.2 + 2.16 - 7.2; 30 + 4.8 + 9
        assert image.affine.numpy() @ [4, 3, 5, 1] == pytest.approx([19.12, -21.84, 43.8, 1], abs=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_read_labels(tmp_path, dtype):
    labels = np.zeros((5, 6, 7), dtype)
    labels[1, 2, 3] = 28
    nib.save(nib.Nifti1Image(labels, OBLIQUE), tmp_path / "a.nii.gz")
    image = ReadLabelsd("label")({"label": str(tmp_path / "a.nii.gz")})["label"]
    assert (image.shape, image.dtype) == ((1, 5, 6, 7), torch.uint8)
    assert image.numpy()[0].nonzero() == ([1], [2], [3])
    assert int(image.max()) == 28
    np.testing.assert_allclose(image.affine.numpy(), OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("value", [0.5, -1, 256])
def test_labels_are_whole_numbers(tmp_path, value):
    nib.save(nib.Nifti1Image(np.full((5, 6, 7), value, np.float32), OBLIQUE), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"a\.nii\.gz: labels must be whole numbers from 0 to 255"):
        ReadLabelsd("label")({"label": tmp_path / "a.nii.gz"})


def test_read_landmarks(tmp_path):
    expected = landmarks(c1=[1.5, -2, 300], t13=[4, 5, 6])
    write_csv(tmp_path / "a.csv", expected.numpy())
    for value in (tmp_path / "a.csv", str(tmp_path / "a.csv"), expected.numpy(), expected):
        found = ReadLandmarksd("landmarks_mm")({"landmarks_mm": value})["landmarks_mm"]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, equal_nan=True)


# --- onto the network's grid


def test_whole_scan_onto_a_grid():
    sample = ToGridd("image", 2.0, 8)(read())
    # x: 50 - 19.5 ... 50.5, y: 60 - 47 ... 61, z: -72 ... -36; 20, 48 and 36 mm are 2, 3 and 3 blocks of 16 mm
    assert sample["image"].shape == (1, 16, 24, 24)
    expected = [[2, 0, 0, 25.5], [0, 2, 0, 14], [0, 0, 2, -77], [0, 0, 0, 1]]  # middle (40.5, 37, -54) less 15, 23, 23
    np.testing.assert_allclose(sample["image"].affine.numpy(), expected)
    np.testing.assert_allclose(sample["grid_affine"].numpy(), expected)
    assert sample["scan_shape"].tolist() == [9, 24, 20]
    assert np.array_equal(sample["scan_affine"].numpy(), STORED)
    assert sample["image"].dtype == torch.float32
    assert float(sample["image"][0, 0, 0, 0]) == -1000  # outside the scan


@pytest.mark.parametrize(("shape", "affine"), [((16, 44, 60), STORED), ((40, 30, 20), OBLIQUE)])
@pytest.mark.parametrize("spacing", [1.3, 2.0, 4.0])
def test_values_stay_where_they_are(shape, affine, spacing):
    sample = ToGridd("image", spacing, 4, fill=-5000.0)(read(shape, affine))
    grid_affine, values = sample["grid_affine"].numpy(), sample["image"].numpy()[0]
    world_mm = world_of(values.shape, grid_affine)
    margin = 2.1 * spacing / np.linalg.norm(affine[:3, :3], axis=0)  # of scan voxels that border blocks may mix with
    position = to_voxel(affine, world_mm)
    inside = ((position >= margin) & (position <= np.array(shape) - 1 - margin)).all(axis=-1)
    assert inside.sum() > 20
    np.testing.assert_allclose(values[inside], slope(world_mm)[inside], rtol=1e-3, atol=0.5)


def test_region_and_margin():
    sample = read() | {"spine_box_mm": np.array([[36.0, 30, -60], [44, 40, -50]])}
    margins = ((1, 2, 3), (2, 4, 1))
    grid = ToGridd("image", 1.0, 1, region="spine_box_mm", margin_mm=margins)(sample)
    # 35 ... 46, 28 ... 44, -63 ... -49
    assert grid["image"].shape == (1, 11, 16, 14)
    np.testing.assert_allclose(grid["grid_affine"].numpy()[:3, 3], [35.5, 28.5, -62.5])
    expected = slope(world_of((11, 16, 14), grid["grid_affine"].numpy()))
    np.testing.assert_allclose(grid["image"].numpy()[0], expected, rtol=1e-3)


def test_region_is_cut_to_the_scan():
    sample = read() | {"spine_box_mm": np.array([[-100.0, 30, -90], [44, 400, -50]])}
    grid = ToGridd("image", 1.0, 1, region="spine_box_mm")(sample)
    # x from 30.5, y up to 61, z from -72
    assert grid["image"].shape == (1, 14, 31, 22)  # 13.5 mm are 14 voxels
    np.testing.assert_allclose(grid["grid_affine"].numpy()[:3, 3], [37.25 - 6.5, 30.5, -71.5])


def test_region_of_landmarks_passes_over_absent_ones():
    sample = read() | {"landmarks_mm": landmarks(t12=[40, 38, -48], l1=[38, 30, -60])}
    grid = ToGridd("image", 1.0, 1, region="landmarks_mm", margin_mm=((1, 1, 1), (1, 1, 1)))(sample)
    assert grid["image"].shape == (1, 4, 10, 14)
    np.testing.assert_allclose(grid["grid_affine"].numpy()[:3, 3], [37.5, 29.5, -60.5])


@pytest.mark.parametrize("missing", [{}, {"spine_box_mm": None}])
def test_without_a_region_the_whole_scan_counts(missing):
    whole = ToGridd("image", 2.0, 8)(read())
    grid = ToGridd("image", 2.0, 8, region="spine_box_mm", margin_mm=((9, 9, 9), (9, 9, 9)))(read() | missing)
    assert torch.equal(grid["image"].as_tensor(), whole["image"].as_tensor())
    assert torch.equal(grid["grid_affine"], whole["grid_affine"])


def test_region_outside_the_scan():
    sample = read() | {"spine_box_mm": np.array([[36.0, 30, 60], [44, 40, 80]])}
    with pytest.raises(ValueError, match=r"spine_box_mm \[\[36.0, .* mm lies outside the scan \[\[30.0, "):
        ToGridd("image", 1.0, region="spine_box_mm")(sample)


def test_region_without_a_position():
    with pytest.raises(ValueError, match="landmarks_mm holds no position"):
        ToGridd("image", 1.0, region="landmarks_mm")(read() | {"landmarks_mm": landmarks()})


# --- random windows

BALL_MM = np.array([33.0, -14.0, 96.0])
BALL_SHAPE = (78, 44, 31)


@cache
def ball_distance_mm() -> np.ndarray:
    return np.linalg.norm(world_of(BALL_SHAPE, OBLIQUE) - BALL_MM, axis=-1)


def ball_sample() -> dict:
    """A soft bright ball at L1 in an oblique scan, labeled 20 within 9 mm, with marks to the right, front and top."""
    distance_mm = ball_distance_mm()
    ball = 1000 * np.exp(-(distance_mm**2) / (2 * 5.0**2)).astype(np.float32)
    landmarks_mm = landmarks(l1=BALL_MM).numpy()
    landmarks_mm[[1, 2, 3]] = BALL_MM + np.array([[10, 0, 0], [0, 10, 0], [0, 0, 10]])
    return {
        "image": image_of(ball, OBLIQUE),
        "label": image_of((20 * (distance_mm < 9)).astype(np.uint8), OBLIQUE),
        "landmarks_mm": torch.from_numpy(landmarks_mm),
    }


def window(seed: int, size=(52, 48, 56), keys=("image", "label"), **options) -> dict:
    options = {"rotate_deg": 20.0, "scale": 0.15, "flip": 0.5, "jitter_mm": (4, 5, 6), "fill": 0.0, **options}
    transform = RandWindowd(keys, 1.5, size, **options)
    transform.set_random_state(seed)
    return transform(ball_sample())


def center_vox(weights: np.ndarray) -> np.ndarray:
    index = np.indices(weights.shape).reshape(3, -1)
    return (index * weights.ravel()).sum(axis=1) / weights.sum()


def axes_of(seed: int, **options) -> np.ndarray:
    """What became of steps to the right, front and top, as columns; millimeters per millimeter."""
    points_mm = window(seed, (6, 4, 8), "image", **options)["landmarks_mm"].double().numpy()
    return (points_mm[[1, 2, 3]] - points_mm[L1]).T / 10


@pytest.mark.parametrize("seed", range(16))
def test_landmarks_and_labels_follow_the_image(seed):
    sample = window(seed)
    position_vox = sample["landmarks_mm"][L1].numpy() / 1.5
    image, label = sample["image"].numpy()[0], sample["label"].numpy()[0]
    assert image.shape == label.shape == (52, 48, 56)
    assert np.abs(center_vox(image) - position_vox).max() < 0.1
    assert np.abs(center_vox(label == 20) - position_vox).max() < 0.35
    assert image[tuple(np.rint(position_vox).astype(int))] > 900
    edge = (label == 20) & (np.roll(label, 1, axis=2) == 0)
    assert np.median(image[edge]) == pytest.approx(1000 * np.exp(-81 / 50), rel=0.25)  # 9 mm from the middle
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 20}


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_window_has_a_frame_of_its_own(key):
    image = window(3)[key]
    assert np.array_equal(image.affine.numpy(), np.diag([1.5, 1.5, 1.5, 1]))


def test_only_left_and_right_are_mirrored():
    handedness = []
    for seed in range(40):
        axes = axes_of(seed)
        assert axes[2, 2] > 0.7  # what was up stays up ...
        assert axes[1, 1] > 0.7  # ... and in front stays in front
        handedness.append(np.sign(np.linalg.det(axes)))
        assert np.sign(axes[0, 0]) == handedness[-1]
    assert 10 < handedness.count(-1.0) < 30


@pytest.mark.parametrize(("flip", "sign"), [(0.0, 1), (1.0, -1)])
def test_flip_probability(flip, sign):
    assert {np.sign(np.linalg.det(axes_of(seed, flip=flip))) for seed in range(8)} == {sign}


def test_rotation_and_scale_stay_in_their_range():
    sizes, angles = [], []
    for seed in range(40):
        axes = axes_of(seed, flip=0.0)
        sizes.append(np.linalg.norm(axes, axis=1))
        turn = axes / sizes[-1][:, None]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-4)  # scaled along the window's axes: no shear
        angles.append(np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    assert np.exp(-0.2) - 1e-3 <= np.min(sizes) < 0.93
    assert 1.07 < np.max(sizes) <= np.exp(0.2) + 1e-3
    assert 12 < max(angles) < 20 * 3**0.5 + 1


def test_plain_window_by_hand():
    """No chance but where: the landmark lies the offset away from the middle of the window."""
    plain = {"rotate_deg": 0, "scale": 0, "flip": 0, "jitter_mm": (0, 0, 0)}
    sample = ball_sample()
    sample["landmarks_mm"][[1, 2, 3]] = torch.nan
    transform = RandWindowd(("image", "label"), 2.0, (30, 26, 34), offset_mm=(3, -18, 1), fill=0.0, **plain)
    moved = transform(sample)
    # the middle is voxel (14.5, 12.5, 16.5), at (29, 25, 33) mm
    assert moved["landmarks_mm"][L1].tolist() == pytest.approx([26, 43, 32], abs=1e-4)
    assert center_vox(moved["label"].numpy()[0] == 20) == pytest.approx([13, 21.5, 16], abs=0.3)


def test_jitter_stays_in_its_range():
    still = {"rotate_deg": 0, "scale": 0, "flip": 0}
    # a random landmark is the start, so the three marks are left out
    shifts = []
    for seed in range(40):
        sample = ball_sample()
        sample["landmarks_mm"][[1, 2, 3]] = torch.nan
        transform = RandWindowd("image", 2.0, (8, 6, 10), jitter_mm=(3, 6, 12), **still)
        transform.set_random_state(seed)
        shifts.append(transform(sample)["landmarks_mm"][L1].numpy() - [7, 5, 9])
    assert (np.abs(shifts) <= np.array([3, 6, 12]) + 1e-4).all()
    assert (np.ptp(shifts, axis=0) > np.array([4, 8, 16])).all()


@pytest.mark.parametrize(("apart_mm", "left"), [(28, 2), (32, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_far_landmarks_are_dropped(axis, apart_mm, left):
    sample = ball_sample()
    sample["landmarks_mm"][[1, 2, 3]] = torch.nan
    sample["landmarks_mm"][C1] = sample["landmarks_mm"][L1] + apart_mm * torch.eye(3)[axis]
    moved = RandWindowd("image", 2.0, (10, 10, 10), keep_mm=20.0)(sample)["landmarks_mm"]
    # one of the two lies in the middle, at 9 mm; kept are -20 ... 40 mm along each axis
    assert int(torch.isfinite(moved).all(dim=1).sum()) == left
    assert (moved[[C1, L1]] == 9).all(dim=1).sum() == 1


@pytest.mark.parametrize("around", ["landmark", "scan"])
def test_a_scan_without_landmarks_has_windows_too(around):
    sample = ball_sample()
    sample["landmarks_mm"][:] = torch.nan
    moved = RandWindowd(("image", "label"), 1.5, (20, 24, 28), around=around)(sample)
    assert moved["image"].shape == (1, 20, 24, 28)
    assert moved["landmarks_mm"].isnan().all()


def test_windows_anywhere_lie_in_the_scan():
    centers = []
    for seed in range(30):
        sample = ball_sample()
        transform = RandWindowd("image", 2.0, (8, 8, 8), around="scan", keep_mm=1000.0)
        transform.set_random_state(seed)
        centers.append(BALL_MM + 7 - transform(sample)["landmarks_mm"][L1].numpy())
    corners = to_world(OBLIQUE, np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in BALL_SHAPE])).reshape(3, -1).T)
    assert (np.array(centers) >= corners.min(axis=0) - 1e-3).all()
    assert (np.array(centers) <= corners.max(axis=0) + 1e-3).all()
    assert (np.ptp(centers, axis=0) > 0.5 * np.ptp(corners, axis=0)).all()


def test_windows_follow_the_seed():
    first, again, other = window(5), window(5), window(6)
    for key in ("image", "label", "landmarks_mm"):
        np.testing.assert_array_equal(np.asarray(first[key]), np.asarray(again[key]))
    assert not np.array_equal(first["image"].numpy(), other["image"].numpy())


def test_the_sample_itself_is_left_alone():
    sample = ball_sample()
    before = {key: value.clone() for key, value in sample.items()}
    RandWindowd(("image", "label"), 1.5, (20, 24, 28), rotate_deg=10)(sample)
    for key, value in before.items():
        np.testing.assert_array_equal(np.asarray(sample[key]), np.asarray(value))


# --- targets and network input


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
    assert classes.flatten().tolist() == [0, 1, IGNORED, 19, IGNORED, IGNORED, 0, 0, 19, 0]
    assert classes.shape == (1, 1, 2, 5)
    assert classes.dtype == torch.int64


def test_t13_without_its_own_landmark_is_ignored():
    labels = np.array([19, 28, 20], np.uint8).reshape(1, 1, 3)
    sample = {"label": image_of(labels, OBLIQUE), "landmarks_mm": landmarks(t12=[0, 0, 0], l1=[0, 0, 0])}
    assert LabelsToClassesd("label")(sample)["label"].flatten().tolist() == [19, IGNORED, 20]
