"""Random windows: what lies where in a window's own frame."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from conftest import BUNDLES
from grids import C1, L1, OBLIQUE, image_of, landmarks, world_of
from phantoms import spine_of

from pipeline.elastic import Deformation
from pipeline.landmarks import absent
from pipeline.masks import plan_windows
from pipeline.spaces import to_world
from pipeline.windows import CONTROL_POINTS, RandWindowd, RandWindowsd

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


# --- deformation


@pytest.mark.parametrize("seed", range(12))
def test_landmarks_and_labels_follow_a_deformation(seed):
    """The ball is small against the deformation, so that its middle stays its middle."""
    sample = window(seed, size=(72, 68, 76), elastic_mm=8.0, jitter_mm=(2, 2, 2))
    position_vox = sample["landmarks_mm"][L1].numpy() / 1.5
    assert np.abs(center_vox(sample["image"].numpy()[0] ** 4) - position_vox).max() < 0.3
    assert np.abs(center_vox(sample["label"].numpy()[0] == 20) - position_vox).max() < 0.5


def test_every_second_window_is_deformed():
    options = {"rotate_deg": 0, "scale": 0, "flip": 0, "jitter_mm": (0, 0, 0), "elastic_mm": 8.0}
    moved = []
    for seed in range(60):
        points_mm = window(seed, (72, 68, 76), "image", **options)["landmarks_mm"].numpy()
        moved.append(np.linalg.norm(points_mm[1] - points_mm[L1] - [10, 0, 0]) > 1e-3)
    assert 18 < sum(moved) < 42


def test_a_deformation_that_would_fold_is_refused():
    with pytest.raises(ValueError, match=r"elastic_mm 20 would fold windows of \(32, 40, 48\) voxels; at most 5.2"):
        RandWindowd("image", 2.0, (32, 40, 48), elastic_mm=20)  # 2 mm x 31 / 3 intervals / 4


def deformation(seed: int, size=(31, 40, 52), reach_vox=2.0) -> Deformation:
    control = np.random.default_rng(seed).uniform(-reach_vox, reach_vox, (3, *[CONTROL_POINTS] * 3))
    return Deformation(control, size)


def test_a_constant_deformation_is_a_shift():
    control = np.broadcast_to(np.array([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1), (3, *[CONTROL_POINTS] * 3))
    still = Deformation(np.array(control), (8, 9, 10))
    np.testing.assert_allclose(still.on_grid(), control[:, :1, :1, :1] * np.ones((3, 8, 9, 10)), atol=1e-5)
    np.testing.assert_allclose(still.undo(np.array([[4.0, 4, 4]])), [[3, 6, 3.5]], atol=1e-6)


def test_a_deformation_by_hand():
    """One control point moved: a quarter, two thirds and a sixth of a cubic B-spline, times each other."""
    control = np.zeros((3, *[CONTROL_POINTS] * 3))
    control[0, 2, 2, 2] = 9.0
    bend = Deformation(control, (31, 31, 31))  # control points 1 ... 4 lie at voxels 0, 10, 20, 30
    assert bend.at(np.array([[10.0, 10, 10]]))[0] == pytest.approx([9 * (2 / 3) ** 3, 0, 0])
    assert bend.at(np.array([[20.0, 10, 10]]))[0] == pytest.approx([9 * (2 / 3) ** 2 / 6, 0, 0])
    assert bend.on_grid()[0, 20, 10, 0] == pytest.approx(9 * (2 / 3) / 36, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_deformation_and_its_inverse(seed):
    bend = deformation(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, bend.size), indexing="ij"), axis=-1).reshape(-1, 3)
    np.testing.assert_allclose(bend.at(grid.astype(float)), bend.on_grid().reshape(3, -1).T, atol=1e-5)
    points = np.array([[3.2, 17.9, 40.3], [-20, 3, 70], [np.nan] * 3])
    back = bend.undo(points + bend.at(points))
    np.testing.assert_allclose(back[:2], points[:2], atol=1e-4)
    assert np.isnan(back[2]).all()


def test_ends_follow_the_window():
    """The plane beyond which nobody labeled moves with the landmarks."""
    sample = ball_sample() | {"ends_mm": np.full((2, 2, 3), np.nan)}
    sample["ends_mm"][0] = [BALL_MM + [0, 0, 10], BALL_MM + [0, 10, 0]]
    transform = RandWindowd("image", 1.5, (72, 68, 76), rotate_deg=20, scale=0.1, flip=1.0, elastic_mm=8.0)
    transform.set_random_state(3)
    moved = transform(sample)
    np.testing.assert_allclose(moved["ends_mm"][0], moved["landmarks_mm"][[3, 2]], atol=1e-4)
    assert moved["ends_mm"][1].isnan().all()


# --- several windows, thick slices


def test_several_windows_of_one_scan():
    transform = RandWindowsd(("image", "label"), 3, spacing_mm=2.0, size=(10, 12, 14), rotate_deg=20)
    transform.set_random_state(0)
    windows = transform(ball_sample())
    assert [window["image"].shape for window in windows] == [(1, 10, 12, 14)] * 3
    assert not torch.equal(windows[0]["image"].as_tensor(), windows[1]["image"].as_tensor())
    with pytest.raises(ValueError, match="0 windows per scan"):
        RandWindowsd("image", 0, spacing_mm=2.0, size=(10, 12, 14))


def test_stage_three_trains_where_inference_looks():
    """Window centers as seen from the vertebrae read there: in training an offset and a shift, at inference boxes."""
    train, inference = (
        json.loads((BUNDLES / "vert_seg" / "configs" / f"{n}.json").read_text()) for n in ("train", "inference")
    )
    (windows,) = (t for t in train["train"]["random_transforms"] if "RandWindowsd" in t["_target_"])
    apart = []
    for seed in range(8):
        spine = spine_of((seed, 0))
        landmarks_mm = absent()
        landmarks_mm[list(spine.rows)] = spine.centers_mm
        for window in plan_windows(landmarks_mm, inference["spacing_mm"], tuple(inference["window"])):
            center_mm = to_world(window.grid.affine, (np.array(window.grid.shape) - 1) / 2)
            apart += [center_mm - landmarks_mm[row] for row in window.rows]
    apart = np.array(apart)
    np.testing.assert_allclose(apart.mean(axis=0), windows["offset_mm"], atol=3.0)
    reached = np.abs(apart - windows["offset_mm"]) <= np.array(train["jitter_mm"])
    assert (reached[:, :2].mean(axis=0) > 0.95).all()  # head-foot, every window shows several vertebrae
