"""Geometry: expected positions worked out by hand, resampling against a loop over single voxels."""

import itertools
import math

import numpy as np
import pytest

from pipeline.spaces import Grid, average_blocks, bounds_mm, grid_over, resample, scaled, spacing_mm, to_voxel, to_world

# Oblique and anisotropic: i, j, k step 1, 2, 3 mm along (0.6, 0.8, 0), (-0.48, 0.36, 0.8), (0.64, -0.48, 0.6).
AFFINE = np.array([[0.6, -0.96, 1.92, 10], [0.8, 0.72, -1.44, -20], [0, 1.6, 1.8, 30], [0, 0, 0, 1]])
# Stored foot to head, front to back, right to left: i steps 4 mm along +z, j 2 mm along -y, k 1 mm along -x.
STORED = np.array([[0, 0, -1, 50], [0, -2, 0, 60], [4, 0, 0, -70], [0, 0, 0, 1]], dtype=float)
SHAPE = (9, 7, 8)


def random_array(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 50, shape)


def slope(points_mm: np.ndarray) -> np.ndarray:
    """A different slope along x, y and z: linear, so averaging and interpolation must reproduce it."""
    return 3.0 * points_mm[..., 0] - 5.0 * points_mm[..., 1] + 7.0 * points_mm[..., 2] + 11.0


def voxels(shape) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)


def naive(array: np.ndarray, affine: np.ndarray, grid: Grid, fill: float, order: int) -> np.ndarray:
    result = np.full(grid.shape, fill, dtype=float)
    for index in itertools.product(*map(range, grid.shape)):
        position = np.linalg.solve(affine, grid.affine @ [*index, 1])[:3].round(9)
        if all(0 <= p <= n - 1 for p, n in zip(position, array.shape, strict=True)):
            result[index] = array[tuple(map(round, position))] if order == 0 else trilinear(array, position)
    return result


def trilinear(array: np.ndarray, position: np.ndarray) -> float:
    low = [min(math.floor(p), n - 2) for p, n in zip(position, array.shape, strict=True)]
    value = 0.0
    for corner in itertools.product((0, 1), repeat=3):
        weights = [p - a if c else 1 - p + a for p, a, c in zip(position, low, corner, strict=True)]
        value += math.prod(weights) * array[tuple(a + c for a, c in zip(low, corner, strict=True))]
    return value


@pytest.mark.parametrize(
    ("affine", "voxel", "world"),
    [
        (AFFINE, (0, 0, 0), (10, -20, 30)),
        (AFFINE, (4, 3, 5), (19.12, -21.84, 43.8)),  # 10 + 2.4 - 2.88 + 9.6; -20 + 3.2 + 2.16 - 7.2; 30 + 4.8 + 9
        (AFFINE, (-0.5, 1.5, 2.5), (13.06, -22.92, 36.9)),  # 10 - 0.3 - 1.44 + 4.8; -20 - 0.4 + 1.08 - 3.6; ...
        (STORED, (3, 20, 10), (40, 20, -58)),
        (STORED, (0.5, 0, 0), (50, 60, -68)),
    ],
)
def test_world_and_back(affine, voxel, world):
    assert to_world(affine, np.array(voxel)) == pytest.approx(world, abs=1e-9)
    assert to_voxel(affine, np.array(world)) == pytest.approx(voxel, abs=1e-9)


def test_many_points_and_absent_ones():
    points = np.array([[[4, 3, 5], [np.nan] * 3], [[0, 0, 0], [1, 0, 0]]])
    world = to_world(AFFINE, points)
    assert world.shape == (2, 2, 3)
    assert world[0, 0] == pytest.approx([19.12, -21.84, 43.8])
    assert np.isnan(world[0, 1]).all()
    assert world[1, 1] == pytest.approx([10.6, -19.2, 30])


def test_spacing():
    assert spacing_mm(AFFINE) == pytest.approx([1, 2, 3])
    assert spacing_mm(STORED) == pytest.approx([4, 2, 1])


@pytest.mark.parametrize(
    ("factor", "voxel", "world"),
    [
        (2, (0, 0, 0), (10.78, -19.96, 31.7)),  # voxel (0.5, 0.5, 0.5)
        (2, (1, 2, 3), (19.66, -24.12, 48.9)),  # voxel (2.5, 4.5, 6.5): 10 + 1.5 - 4.32 + 12.48, ...
        (3, (1, 0, 0), (13.36, -17.52, 33.4)),  # voxel (4, 1, 1): -20 + 3.2 + 0.72 - 1.44, ...
        (1, (4, 3, 5), (19.12, -21.84, 43.8)),
        (0.5, (0, 0, 0), (9.61, -20.02, 29.15)),  # voxel (-0.25, -0.25, -0.25): 10 - 0.15 + 0.24 - 0.48, ...
    ],
)
def test_scaled_blocks_stay_centered(factor, voxel, world):
    before = AFFINE.copy()
    assert to_world(scaled(AFFINE, factor), np.array(voxel)) == pytest.approx(world, abs=1e-9)
    assert spacing_mm(scaled(AFFINE, factor)) == pytest.approx(np.array([1, 2, 3]) * factor)
    assert np.array_equal(AFFINE, before)


def test_bounds_need_all_eight_corners():
    # i steps (3, 4, 0), j (-8, 6, 0), k (0, 0, -4); edges at -0.5 and 9.5, 4.5, 1.5.
    affine = np.array([[3, -8, 0, 100], [4, 6, 0, -50], [0, 0, -4, 7], [0, 0, 0, 1]], dtype=float)
    # x: 100 - 1.5 - 36 ... 100 + 28.5 + 4; y: -50 - 2 - 3 ... -50 + 38 + 27; z: 7 - 6 ... 7 + 2
    np.testing.assert_allclose(bounds_mm(Grid((10, 5, 2), affine)), [[62.5, -55, 1], [132.5, 15, 9]])


def test_bounds_of_a_stored_order():
    # z: -70 - 2 ... -70 + 4 * 8.5; y: 60 - 2 * 6.5 ... 60 + 1; x: 50 - 7.5 ... 50.5
    np.testing.assert_allclose(bounds_mm(Grid(SHAPE, STORED)), [[42.5, 47, -72], [50.5, 61, -36]])


def test_grid_over_a_box():
    grid = grid_over(np.array([[-10, 5, 100], [11, 14, 137]]), 2.0, multiple=4)
    assert grid.shape == (12, 8, 20)  # 21, 9 and 37 mm are 3, 2 and 5 blocks of 8 mm
    # centered on (0.5, 9.5, 118.5): the first voxel lies 11, 7 and 19 mm before it
    np.testing.assert_allclose(grid.affine, [[2, 0, 0, -10.5], [0, 2, 0, 2.5], [0, 0, 2, 99.5], [0, 0, 0, 1]])
    np.testing.assert_allclose(bounds_mm(grid), [[-11.5, 1.5, 98.5], [12.5, 17.5, 138.5]])


def test_grid_over_whole_blocks_and_over_a_point():
    grid = grid_over(np.array([[-3, -4, 5], [-3 + 6.0000001, 4, 5]]), 1.0, multiple=2)
    assert grid.shape == (6, 8, 2)
    np.testing.assert_allclose(grid.affine[:3, 3], [-2.5, -3.5, 4.5], atol=1e-6)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("affine", [AFFINE, STORED])
def test_onto_its_own_grid_nothing_changes(affine, order):
    """The outermost voxels of an oblique grid used to vanish: a rounding error put them outside."""
    array = random_array().astype(np.float32)
    same = resample(array, affine, Grid(SHAPE, affine), order=order, fill=-1000)
    np.testing.assert_allclose(same, array, atol=1e-3)


@pytest.mark.parametrize(("order", "dtype", "result"), [(0, np.uint8, np.uint8), (1, np.int16, np.float32)])
@pytest.mark.parametrize("affine", [AFFINE, STORED])
def test_resample_agrees_with_a_loop(affine, order, dtype, result):
    array = random_array().clip(0, 255).astype(dtype)
    # turned against the array, partly outside, every step below two voxels
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]]) * [0.9, 1.1, 0.7]
    center = to_world(affine, (np.array(SHAPE) - 1) / 2)
    own = np.eye(4)
    own[:3, :3], own[:3, 3] = turn, center - turn @ [5.2, 4.1, 6.3]
    grid = Grid((12, 10, 13), own)
    sampled = resample(array, affine, grid, order=order, fill=7)
    expected = naive(array, affine, grid, 7, order)
    assert sampled.dtype == result
    assert (expected == 7).any()
    assert (expected != 7).mean() > 0.3
    if order:
        np.testing.assert_allclose(sampled, expected, atol=0.01)
    else:
        assert np.array_equal(sampled, expected)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("memory", ["C", "F"])
def test_resample_along_the_axes_agrees_with_a_loop(axes, memory):
    array = np.array(random_array().clip(0, 255), dtype=np.int16, order=memory)
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([-0.8, 1.3, 2.0]))[:, axes]
    affine[:3, 3] = [50, -60, 70]
    own = np.diag([1.1, -0.9, 0.7, 1.0])
    center = to_world(affine, (np.array(SHAPE) - 1) / 2)
    own[:3, 3] = center - own[:3, :3] @ [3.2, 4.1, 12.3]
    grid = Grid((10, 11, 17), own)
    sampled, expected = resample(array, affine, grid, fill=7), naive(array, affine, grid, 7, 1)
    assert (expected == 7).any()
    assert (expected != 7).mean() > 0.1
    np.testing.assert_allclose(sampled, expected, atol=0.01)


def test_a_slice_as_thick_as_the_grid_is_wide():
    """The grid lies between two voxels along one axis, and on the only voxel of another."""
    array = np.array([[[10], [20]], [[30], [60]]], np.int16)  # (2, 2, 1)
    grid = Grid((1, 2, 1), np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert resample(array, np.eye(4), grid).tolist() == [[[20], [40]]]


def test_last_block_repeats_the_border():
    array = np.array([3, 6, 9, 12, 15, 30, 0, 6], np.int16).reshape(8, 1, 1)
    assert average_blocks(array, np.array([3, 1, 1])).ravel().tolist() == [6, 19, 4]  # (0 + 6 + 6) / 3


def test_blocks_are_averaged():
    array = random_array((8, 12, 6)).astype(np.float32)
    halved = resample(array, AFFINE, Grid((4, 6, 3), scaled(AFFINE, 2)))
    expected = [
        [[array[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2].mean() for k in range(3)] for j in range(6)]
        for i in range(4)
    ]
    np.testing.assert_allclose(halved, expected, atol=1e-3)


def test_fine_stripes_do_not_alias():
    array = np.zeros((40, 30, 20), np.int16)
    array[::2] = 100
    coarse = resample(array, np.eye(4), grid_over(np.array([[4, 4, 4], [32, 24, 14]]), 4.0), fill=-1000)
    np.testing.assert_allclose(coarse, 50, atol=1e-3)


def test_nearest_is_never_averaged():
    labels = np.zeros((40, 30, 20), np.uint8)
    labels[::2] = 24
    coarse = resample(labels, np.eye(4), grid_over(np.array([[4, 4, 4], [32, 24, 14]]), 5.0), order=0)
    assert set(np.unique(coarse)) <= {0, 24}
    assert coarse.dtype == np.uint8


@pytest.mark.parametrize("affine", [AFFINE, STORED])
@pytest.mark.parametrize("spacing", [0.7, 2.3, 3.6, 5.0])
def test_a_slope_stays_a_slope(affine, spacing):
    """Catches every half-voxel shift: any averaging and interpolation must keep a linear image as it is."""
    shape = (60, 50, 40)
    array = slope(to_world(affine, voxels(shape))).astype(np.float32)
    middle_mm = to_world(affine, (np.array(shape) - 1) / 2 + [3.3, -2.2, 1.1])
    grid = grid_over(np.stack([middle_mm - 9, middle_mm + [9, 8, 7]]), spacing)
    expected = slope(to_world(grid.affine, voxels(grid.shape)))
    np.testing.assert_allclose(resample(array, affine, grid), expected, rtol=1e-4)


def test_coarser_along_one_axis_only():
    """Thick slices, stored foot to head first: the axis that is coarse already must not be averaged."""
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    array = np.zeros((12, 22, 20), np.float32)
    array[6] = 90
    grid = Grid((5, 5, 12), np.array([[4, 0, 0, 1.5], [0, 4, 0, 1.5], [0, 0, 5, 0], [0, 0, 0, 1.0]]))
    np.testing.assert_allclose(resample(array, affine, grid)[2, 2], np.where(np.arange(12) == 6, 90, 0), atol=1e-4)


def test_incomplete_blocks_at_the_end_are_not_darker():
    array = np.full((9, 11, 7), 70, np.int16)
    np.testing.assert_allclose(resample(array, AFFINE, Grid((5, 6, 4), scaled(AFFINE, 2))), 70, atol=1e-3)


@pytest.mark.parametrize("offset_mm", [(500, 0, 0), (-500, 0, 0), (0, 0, 400), (0, -400, 0)])
@pytest.mark.parametrize("order", [0, 1])
def test_grid_outside_is_filled(offset_mm, order):
    array = random_array().astype(np.int16)
    grid = grid_over(np.array([[-5.0] * 3, [4, 5, 6]]) + [10, -20, 30] + np.array(offset_mm), 2.0)
    outside = resample(array, AFFINE, grid, order=order, fill=-1000)
    assert outside.shape == grid.shape
    assert (outside == -1000).all()
    assert outside.dtype == (np.float32 if order else np.int16)


def test_the_array_is_left_alone():
    array = random_array().astype(np.int16)
    array.flags.writeable = False
    resample(array, AFFINE, grid_over(np.array([[0, -40, 20], [20, 0, 50]]), 6.0))
