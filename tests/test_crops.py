"""Parts of a scan and where its centers are in them, on a grid whose axes run back, right and down."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.crops import parts
from pipeline import Scan
from pipeline.landmarks import absent, present_rows
from pipeline.spaces import to_voxel

# Axes i, j, k step 5 mm back, 4 mm to the right and 3 mm down.
AFFINE = np.array([[0, 4, 0, -120], [-5, 0, 0, 90], [0, 0, -3, 150], [0, 0, 0, 1]], dtype=float)
SHAPE = (30, 62, 100)


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[Scan, np.ndarray]]:
    """Return the parts of a scan with T1 (row 7) at a height of 120 mm, 30 mm to the right, and two every 60 mm."""
    array = np.zeros(SHAPE, dtype=np.int16)
    landmarks_mm = absent()
    for row in range(7, 11):
        landmarks_mm[row] = (30, 0, 120 - 60 * (row - 7))
        i, j, k = to_voxel(AFFINE, landmarks_mm[row]).round().astype(int)
        array[i, j, k] = row  # on a voxel: (90 - 0) / 5, (30 + 120) / 4 = 37.5, (150 - z) / 3
    whole = Scan("scan", array, AFFINE, Path("scan.nii.gz"))
    return {name: (scan, centers_mm) for name, scan, centers_mm in parts(whole, landmarks_mm)}


def test_heights_count_from_the_feet_whatever_the_axis(found):
    # 100 voxels of 3 mm: T1 to T4 lie at voxels 10, 30, 50 and 70 from the top.
    assert present_rows(found["whole"][1]) == [7, 8, 9, 10]
    assert present_rows(found["without the lower end"][1]) == [7, 8, 9]  # the upper 60 voxels
    assert present_rows(found["without the upper end"][1]) == [9, 10]  # from voxel 40
    assert present_rows(found["without both ends"][1]) == [8, 9, 10]  # 15 to 85
    assert found["without both ends"][0].array.shape == (30, 62, 70)
    assert found["narrow"][0].array.shape == (30, 37, 100)  # 18.75 voxels to each side of 37.5: 19 to 55


@pytest.mark.parametrize(
    "name", ["whole", "without the lower end", "without the upper end", "without both ends", "narrow", "mirrored"]
)
def test_centers_follow_their_voxels(found, name):
    scan, centers_mm = found[name]
    for row in present_rows(centers_mm):
        (voxel,) = np.argwhere(scan.array == row)
        np.testing.assert_allclose(to_voxel(scan.affine, centers_mm[row]), voxel, atol=0.51)


def test_left_and_right_are_exchanged(found):
    # The middle of the scan is at -120 + 4 * 61 / 2 = 2 mm: 30 mm to the right becomes -26.
    np.testing.assert_allclose(found["mirrored"][1][7], [-26, 0, 120])
