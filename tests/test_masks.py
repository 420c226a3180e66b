"""Stage three at inference: windows along the spine, probabilities, labels on the scan's own grid."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks.windows import shares_outside, whole_spine
from pipeline.extents import extents_mm, patient_scale
from pipeline.labels import LABELS, ROWS_BY_LEVEL
from pipeline.landmarks import absent
from pipeline.masks import assemble, plan_windows, vertebra_probabilities
from pipeline.metrics import dice
from pipeline.spaces import CORNERS, Grid, bounds_mm, to_voxel, to_world

T12, L1, T13 = 18, 19, 25
SIZE = (96, 80, 128)
REACH_MM = 64.0


def oblique_affine(middle_mm, shape) -> np.ndarray:
    """Axes i, j, k step 2.4 mm down, 1.1 mm left and 1.7 mm back, then all turned; the middle lies where asked."""
    a, b = np.deg2rad([13, -21])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.array([[0, -1.1, 0], [0, 0, -1.7], [-2.4, 0, 0]])
    affine[:3, 3] = np.asarray(middle_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def ras_affine(low_mm, spacing: float) -> np.ndarray:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low_mm
    return affine


def distance_mm(shape, affine, point_mm) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.linalg.norm(to_world(affine, voxels) - np.asarray(point_mm), axis=-1)


def spine(rows, step_mm=25.0) -> np.ndarray:
    """Landmarks head to foot in level order, swinging 40 mm to the side and 30 mm to the front."""
    landmarks_mm = absent()
    for i, row in enumerate(row for row in ROWS_BY_LEVEL if row in rows):
        z = 600 - step_mm * i
        landmarks_mm[row] = [-12 + 40 * np.sin(z / 120), 35 + 30 * np.cos(z / 150), z]
    return landmarks_mm


# --- windows


# What a table row of the test says: half width 20, front 10, -12 to 14 high; behind -25 back to -40, -30 to 8, 6 wide.
EXTENT = (20, 10, -12, 14, -40, -30, 8, 6)


@pytest.fixture
def plain_extents(monkeypatch):
    monkeypatch.setattr("pipeline.extents.EXTENT_MM", np.tile(EXTENT, (26, 1)))
    monkeypatch.setattr("pipeline.extents.SPACING_MM", np.full((24, 2), 20.0))


@pytest.mark.parametrize("rows", [range(24), range(26), [0], [3, 4, 17, 18, 25, 19]])
def test_every_vertebra_lies_whole_in_one_window(rows):
    landmarks_mm = spine(rows)
    windows, boxes = plan_windows(landmarks_mm, 1.0, (132, 132, 128)), extents_mm(landmarks_mm)
    assert [row for window in windows for row in window.rows] == [row for row in ROWS_BY_LEVEL if row in rows]
    for window in windows:
        assert window.grid.shape == (132, 132, 128)
        low, high = bounds_mm(window.grid)
        own = boxes[list(window.rows)]
        assert (own.min(axis=(0, 1)) >= low - 1e-6).all()
        assert (own.max(axis=(0, 1)) <= high + 1e-6).all()
        np.testing.assert_allclose(own.min(axis=(0, 1)) - low, high - own.max(axis=(0, 1)))  # in the middle


def test_window_by_hand(plain_extents):
    landmarks_mm = absent()
    landmarks_mm[L1] = [10, -20, 300]
    np.testing.assert_allclose(extents_mm(landmarks_mm)[L1], [[-11, -61, 269], [31, -9, 315]])
    (window,) = plan_windows(landmarks_mm, 1.0, SIZE)
    # the middle of the box is (10, -35, 292); half of 95, 79 and 127 mm before it
    np.testing.assert_allclose(window.grid.affine, ras_affine([10 - 47.5, -35 - 39.5, 292 - 63.5], 1.0))
    (coarse,) = plan_windows(landmarks_mm, 2.0, (48, 40, 64))
    np.testing.assert_allclose(coarse.grid.affine, ras_affine([10 - 47, -35 - 39, 292 - 63], 2.0))


@pytest.mark.parametrize(
    ("step_mm", "size", "groups"),
    [
        (24, (42, 52, 70), [2, 2]),
        (24.1, (42, 52, 70), [1, 1, 1, 1]),
        (12, (42, 52, 70), [3, 1]),
        (24, (41, 52, 70), [1, 1, 1, 1]),
        (24, (42, 51, 70), [1, 1, 1, 1]),
        (24, (90, 90, 118), [4]),
        (24, (90, 90, 117), [3, 1]),
    ],
)
def test_neighbors_share_a_window_while_they_fit(plain_extents, monkeypatch, step_mm, size, groups):
    """One of them, upright, takes 42 x 52 x 46 mm with the margin; others must fit into what is left."""
    monkeypatch.setattr("pipeline.extents.SPACING_MM", np.full((24, 2), step_mm))  # the patient is of mean size
    landmarks_mm = absent()
    landmarks_mm[8:12] = [[5, 6, 300 - step_mm * i] for i in range(4)]
    assert [len(window.rows) for window in plan_windows(landmarks_mm, 1.0, size)] == groups


def test_extents_follow_the_spine_and_the_patient(plain_extents):
    """Steps of 22 mm where 20 are usual, 3 : 4 to the left and down: all is 1.1 times as large, and leans to the right.

    Up points along (0.6, 0, 0.8), right along (0.8, 0, -0.6): a corner (x, y, z) lies at 0.8 x + 0.6 z to the right
    and 0.8 z - 0.6 x above the landmark.
    """
    landmarks_mm = absent()
    landmarks_mm[8:11] = np.array([[1, 2, 3]]) - 22 * np.outer(np.arange(3), [0.6, 0, 0.8])
    low = [-16 - 7.2, -40, -24 - 3.6]  # corners (-20, -12), back, (6, -30)
    high = [16 + 8.4, 10, 11.2 + 12]  # corners (20, 14), front, (-20, 14)
    expected = landmarks_mm[9] + 1.1 * np.array([low, high]) + [[-1], [1]]
    np.testing.assert_allclose(extents_mm(landmarks_mm)[9], expected, atol=1e-4)
    assert np.isnan(extents_mm(landmarks_mm)[[7, 11, T13]]).all()


@pytest.mark.parametrize(("step_mm", "scale"), [(4.0, 0.8), (18.0, 0.9), (200.0, 1.2)])
def test_size_of_a_patient_has_limits(plain_extents, step_mm, scale):
    landmarks_mm = absent()
    landmarks_mm[[16, 17, T12, T13, L1, 20]] = step_mm * np.outer(np.arange(6), [0, 0, -1])
    assert patient_scale(landmarks_mm) == pytest.approx(scale)


def test_patient_without_neighbors_is_of_mean_size():
    landmarks_mm = absent()
    assert patient_scale(landmarks_mm) == 1
    landmarks_mm[[3, 5]] = [[0, 0, 50], [0, 0, 0]]
    assert patient_scale(landmarks_mm) == 1


@pytest.mark.parametrize("direction", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_extents_of_impossible_spines_are_finite(direction):
    landmarks_mm = absent()
    landmarks_mm[8:11] = 20 * np.outer(np.arange(3), direction)
    assert np.isfinite(extents_mm(landmarks_mm)[8:11]).all()


@pytest.mark.slow
def test_windows_of_a_whole_spine():
    """Of a spine of mean size: seven at most, and every vertebra as good as whole."""
    count, outside = shares_outside(whole_spine(32, 0))
    assert len(outside) >= 23
    assert count <= 7
    assert max(outside.values()) < 0.02


def test_small_windows_hold_one_vertebra_each():
    windows = plan_windows(spine(range(5)), 1.0, (32, 40, 48))
    assert [window.rows for window in windows] == [(0,), (1,), (2,), (3,), (4,)]


def test_no_landmarks_no_windows():
    assert plan_windows(absent(), 1.0, SIZE) == []


# --- probabilities


class BallOracle:
    """Calls everything within a radius of a landmark its vertebra; reads the distance channels only."""

    def __init__(self, radius_mm: float = 9.0) -> None:
        self.threshold, self.inputs = 1 - radius_mm / REACH_MM, []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x)
        background = torch.zeros_like(x[:, :1])
        return torch.cat([background, (x[:, 1:] - self.threshold) * 60], dim=1)  # about 1 per mm


IMAGE_SHAPE, IMAGE_LOW_MM = (40, 36, 62), (-60.0, -30.0, 400.0)


def probabilities(landmarks_mm, network, size=(32, 28, 40), shape=IMAGE_SHAPE):
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    affine = ras_affine(IMAGE_LOW_MM, 2.0)
    pieces = vertebra_probabilities(image, affine, landmarks_mm, network, size=size, reach_mm=REACH_MM, fill=-0.5)
    return image, affine, list(pieces)


def three_landmarks() -> np.ndarray:
    landmarks_mm = absent()
    landmarks_mm[[3, 4, 6]] = [[-20.3, 2.1, 490.6], [-17.2, 5.4, 470.1], [-11.5, 8.8, 428.9]]
    return landmarks_mm


def test_probabilities_lie_around_their_landmarks():
    network, landmarks_mm = BallOracle(), three_landmarks()
    _, affine, pieces = probabilities(landmarks_mm, network)
    assert [row for row, _, _ in pieces] == [3, 4, 6]
    for row, probability, own in pieces:
        assert probability.shape == (32, 28, 40)
        assert probability.dtype == np.float32
        start = to_voxel(affine, own[:3, 3])
        np.testing.assert_allclose(start, np.rint(start), atol=1e-9)  # on the image's voxels
        distance = distance_mm(probability.shape, own, landmarks_mm[row])
        clear = np.abs(distance - 9) > 0.1
        assert np.array_equal((probability > 0.5)[clear], (distance < 9)[clear])


def test_network_input():
    network, landmarks_mm = BallOracle(), three_landmarks()
    _, _, pieces = probabilities(landmarks_mm, network)
    assert len(network.inputs) == len({tuple(own[:3, 3]) for _, _, own in pieces})
    for x, (_, _, own) in zip(network.inputs, pieces, strict=True):
        assert x.shape == (1, 26, 32, 28, 40)
        for row in range(25):
            expected = 0.0
            if row in (3, 4, 6):
                expected = 1 - np.minimum(distance_mm(x.shape[2:], own, landmarks_mm[row]), REACH_MM) / REACH_MM
            np.testing.assert_allclose(x[0, 1 + row], expected, atol=1e-3)


def test_levels_out_of_reach_can_be_left_out():
    """T13 shares the channel of T12; the landmark 68 mm above the first window shows in no voxel of it."""
    landmarks_mm = three_landmarks()
    landmarks_mm[[2, T12, T13]] = [[-20.3, 2.1, 490.6 + 107], [-11, 9, 410], [-11, 9, 395]]
    full, sparse = BallOracle(), BallOracle()
    image, affine, every_level = probabilities(landmarks_mm, full)
    options = {"size": (32, 28, 40), "reach_mm": REACH_MM, "fill": -0.5, "every_level": False}
    in_reach = list(vertebra_probabilities(image, affine, landmarks_mm, sparse, **options))
    for (row, probability, own), (other_row, other, other_own) in zip(in_reach, every_level, strict=True):
        assert row == other_row
        assert np.array_equal(own, other_own)
        assert np.array_equal(probability, other)
    for x, every in zip(sparse.inputs, full.inputs, strict=True):
        shows = [0, *(1 + n for n in range(25) if every[0, 1 + n].max() > 0)]
        assert torch.equal(x, every[:, shows])
    assert {x.shape[1] for x in sparse.inputs} != {26}


@pytest.mark.parametrize("corner", [*itertools.product((0, 1), repeat=3), (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("size", [(32, 28, 40), (48, 44, 72)])
def test_windows_at_the_border_of_the_image(corner, size):
    """The window shows each voxel where it lies, and the fill value beyond the image."""
    network, landmarks_mm = BallOracle(), absent()
    middle_mm = np.array(IMAGE_LOW_MM) + 2.0 * np.array(corner) * (np.array(IMAGE_SHAPE) - 1) + [0.4, -0.3, 0.2]
    landmarks_mm[5] = 0
    landmarks_mm[5] = middle_mm - extents_mm(landmarks_mm)[5].mean(axis=0)
    image, affine, ((_, _, own),) = probabilities(landmarks_mm, network, size)
    assert np.abs(own[:3, 3] + np.array(size) - 1 - middle_mm).max() <= 1 + 1e-6  # to the nearest voxel of 2 mm
    start = np.rint(to_voxel(affine, own[:3, 3])).astype(int)
    padded = np.pad(image[0].numpy(), 100, constant_values=-0.5)
    expected = padded[tuple(slice(100 + s, 100 + s + n) for s, n in zip(start, size, strict=True))]
    np.testing.assert_array_equal(network.inputs[0][0, 0], expected)


@pytest.mark.parametrize("offset_mm", [(-400, 0, 0), (400, 0, 0), (0, 0, 500), (0, -300, -600)])
def test_landmark_far_outside_the_image(offset_mm):
    network, landmarks_mm = BallOracle(), absent()
    landmarks_mm[5] = np.array(IMAGE_LOW_MM) + offset_mm
    probabilities(landmarks_mm, network)
    assert (network.inputs[0][:, 0] == -0.5).all()


def test_t12_and_t13_are_told_apart_by_their_landmarks():
    landmarks_mm = absent()
    landmarks_mm[T12], landmarks_mm[T13] = [-20, 2, 480], [-12, 8, 459]
    _, _, pieces = probabilities(landmarks_mm, BallOracle(16.0))  # the balls of the shared class overlap
    assert [row for row, _, _ in pieces] == [T12, T13]
    for row, probability, own in pieces:
        to_own = distance_mm(probability.shape, own, landmarks_mm[row])
        to_other = distance_mm(probability.shape, own, landmarks_mm[{T12: T13, T13: T12}[row]])
        clear = (np.abs(to_own - to_other) > 1e-6) & (np.abs(np.minimum(to_own, to_other) - 16) > 0.1)
        assert np.array_equal((probability > 0.5)[clear], ((to_own < to_other) & (to_own < 16))[clear])


@pytest.mark.parametrize("row", [T12, T13])
def test_t12_or_t13_alone_keeps_the_whole_class(row):
    landmarks_mm = absent()
    landmarks_mm[[row, L1]] = [[-20, 2, 480], [-12, 8, 452]]
    _, _, pieces = probabilities(landmarks_mm, BallOracle(12.0))
    assert [found for found, _, _ in pieces] == [row, L1]
    _, probability, own = pieces[0]
    distance = distance_mm(probability.shape, own, landmarks_mm[row])
    assert np.array_equal(probability > 0.5, distance < 12)


def test_no_landmarks_no_network():
    assert probabilities(absent(), None)[2] == []


# --- labels on the scan

SCAN_SHAPE = (44, 70, 52)
MIDDLE_MM = (-14.0, 3.0, 463.0)
SCAN = Grid(SCAN_SHAPE, oblique_affine(MIDDLE_MM, SCAN_SHAPE))


def ball(row: int, center_mm, radius_mm=11.0, peak=1.0, shape=(34, 30, 38), spacing=1.5):
    """One piece: a soft ball of that radius at the level of one half, in a window around it."""
    low_mm = np.rint(np.asarray(center_mm) - spacing * np.array(shape) / 2)
    affine = ras_affine(low_mm, spacing)
    distance = distance_mm(shape, affine, center_mm)
    return row, (peak / (1 + np.exp(distance - radius_mm))).astype(np.float32), affine


@pytest.mark.parametrize(("row", "label"), [(0, 1), (L1, 20), (T13, 28)])
def test_label_lies_where_the_probability_lies(row, label):
    center_mm = np.array(MIDDLE_MM) + [3.3, -4.1, 6.2]
    labels = assemble(iter([ball(row, center_mm)]), SCAN)
    assert (labels.shape, labels.dtype) == (SCAN_SHAPE, np.uint8)
    distance = distance_mm(SCAN_SHAPE, SCAN.affine, center_mm)
    clear = np.abs(distance - 11) > 0.3
    assert np.array_equal(labels[clear], np.where(distance < 11, label, 0)[clear])


def test_labels_on_a_stored_grid_by_hand():
    """Three bright voxels of a window, each on one voxel of a scan that is stored foot to head and right to left."""
    affine = np.array([[0, 0, -1, 50], [0, -1, 0, 60], [1.5, 0, 0, -70], [0, 0, 0, 1]])
    probability = np.zeros((9, 13, 17), np.float32)
    probability[3:6, 6, 8] = 0.9
    labels = assemble(iter([(L1, probability, ras_affine([30, 30, -48], 1.0))]), Grid((40, 48, 28), affine))
    # (33 ... 35, 36, -40) mm: i = 30 / 1.5, j = 60 - 36, k = 50 - 33 ... 50 - 35
    assert np.argwhere(labels).tolist() == [[20, 24, 15], [20, 24, 16], [20, 24, 17]]
    assert int(labels.max()) == 20


@pytest.mark.parametrize("order", [1, -1])
def test_the_larger_probability_wins_in_any_order(order):
    center_mm = np.array(MIDDLE_MM)
    weak, strong = ball(3, center_mm - [0, 0, 6], peak=0.8), ball(4, center_mm + [0, 0, 6])
    labels = assemble(iter([weak, strong][::order]), SCAN)
    to_weak = distance_mm(SCAN_SHAPE, SCAN.affine, center_mm - [0, 0, 6])
    to_strong = distance_mm(SCAN_SHAPE, SCAN.affine, center_mm + [0, 0, 6])
    p_weak, p_strong = 0.8 / (1 + np.exp(to_weak - 11)), 1 / (1 + np.exp(to_strong - 11))
    clear = (np.abs(p_weak - p_strong) > 0.05) & (np.abs(np.maximum(p_weak, p_strong) - 0.5) > 0.05)
    expected = np.where(np.maximum(p_weak, p_strong) < 0.5, 0, np.where(p_weak > p_strong, 4, 5))
    assert (labels == expected)[clear].mean() > 0.999
    assert {4, 5} <= set(np.unique(labels))


def test_one_half_is_not_enough():
    assert not assemble(iter([ball(3, MIDDLE_MM, peak=0.5)]), SCAN).any()
    assert not assemble(iter([(3, np.zeros((5, 6, 7), np.float32), np.eye(4))]), SCAN).any()


def test_only_the_largest_piece_of_a_vertebra_is_kept():
    row, probability, affine = ball(6, MIDDLE_MM)
    probability[2:6, 2:6, 2:6] = 1.0
    labels = assemble(iter([(row, probability, affine)]), SCAN)
    alone = assemble(iter([ball(6, MIDDLE_MM)]), SCAN)
    assert np.array_equal(labels, alone)


def test_holes_are_filled_and_canals_are_not():
    probability = np.zeros((14, 13, 15), np.float32)
    probability[3:11, 3:10, 3:12] = 0.9
    whole = probability > 0.5
    probability[5:8, 5:7, 5:9] = 0.0  # closed on all sides
    probability[9, 8, :] = 0.0  # runs through
    whole[9, 8, :] = False
    labels = assemble(iter([(6, probability, np.eye(4))]), Grid((14, 13, 15), np.eye(4)))
    assert np.array_equal(labels == 7, whole)


def test_bone_that_touches_at_a_corner_is_one_piece():
    """On coarse grids a spinous process hung on by a corner, and was thrown away."""
    probability = np.zeros((12, 11, 13), np.float32)
    probability[2:6, 2:6, 2:6] = 1.0
    probability[6:9, 6:9, 6:9] = 1.0
    labels = assemble(iter([(6, probability, np.eye(4))]), Grid((12, 11, 13), np.eye(4)))
    assert np.array_equal(labels == 7, probability > 0.5)


@pytest.mark.parametrize("order", [1, -1])
def test_a_stray_piece_takes_nothing_from_a_neighbor(order):
    neighbor = ball(7, MIDDLE_MM, peak=0.9)
    row, probability, affine = ball(6, np.array(MIDDLE_MM) + [0, 0, 26], shape=(34, 30, 60))
    probability[tuple(np.rint(to_voxel(affine, MIDDLE_MM)).astype(int))] = 1.0
    labels = assemble(iter([neighbor, (row, probability, affine)][::order]), SCAN)
    assert np.array_equal(labels == 8, assemble(iter([neighbor]), SCAN) == 8)
    assert (labels == 7).any()


def test_a_vertebra_cut_in_two_by_a_neighbor_keeps_one_piece():
    long = np.zeros((34, 30, 38), np.float32)
    affine = ras_affine(np.array(MIDDLE_MM) - [25, 22, 28], 1.5)
    long[14:20, 12:18, 4:36] = 0.7
    neighbor_mm = np.array(MIDDLE_MM) + [0, 0, 6]
    labels = assemble(iter([(3, long, affine), ball(4, neighbor_mm, radius_mm=9)]), SCAN)
    for label in (4, 5):
        assert ndimage.label(labels == label, CORNERS)[1] == 1
    below = to_world(SCAN.affine, np.argwhere(labels == 4))[:, 2]
    assert below.max() < neighbor_mm[2]  # the longer part lies below the neighbor


def test_nothing_outside_the_scan():
    outside = [ball(3, np.array(MIDDLE_MM) + offset) for offset in ([0, 0, 200], [-300, 0, 0], [0, 400, 0])]
    assert not assemble(iter(outside), SCAN).any()
    assert not assemble(iter([]), SCAN).any()


def test_a_vertebra_at_the_border_of_the_scan_is_cut():
    edge_mm = to_world(SCAN.affine, np.array([0, 35, 51]))
    labels = assemble(iter([ball(3, edge_mm)]), SCAN)
    distance = distance_mm(SCAN_SHAPE, SCAN.affine, edge_mm)
    clear = np.abs(distance - 11) > 0.3
    assert np.array_equal(labels[clear], np.where(distance < 11, 4, 0)[clear])
    assert labels[0, 35, 51] == 4


def test_from_landmarks_to_labels_on_the_scan():
    rows = [16, 17, T12, T13, L1]
    landmarks_mm = spine(rows, step_mm=26)
    middle_mm = np.nanmean(landmarks_mm, axis=0)
    shape = (84, 92, 60)
    scan = Grid(shape, oblique_affine(middle_mm, shape))
    low_mm = middle_mm - [70, 70, 110]
    pieces = vertebra_probabilities(
        torch.zeros(1, 70, 60, 110), ras_affine(low_mm, 2.0), landmarks_mm, BallOracle(12.0),
        size=(48, 40, 64), reach_mm=REACH_MM, fill=-0.5,
    )  # fmt: skip
    labels = assemble(pieces, scan)
    assert set(np.unique(labels)) == {0, 17, 18, 19, 28, 20}
    for row in rows:
        truth = np.where(distance_mm(shape, scan.affine, landmarks_mm[row]) < 12, LABELS[row], 0)
        assert dice(labels, truth, LABELS[row]) > 0.97
        center_mm = to_world(scan.affine, np.argwhere(labels == LABELS[row]).mean(axis=0))
        assert np.linalg.norm(center_mm - landmarks_mm[row]) < 0.3
