"""The dictionary transforms that read and resample: where things lie after them, in the scan's own mm."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ball_spine import ball_spine
from grids import OBLIQUE, STORED, image_of, landmarks, world_of
from monai.data import MetaTensor

from pipeline.images import Scan
from pipeline.landmarks import write_csv
from pipeline.spaces import to_voxel
from pipeline.transforms import CheckPlacementd, ReadLabelsd, ReadLandmarksd, ReadScand, ShrinkScand, ToGridd


def slope(points_mm: np.ndarray) -> np.ndarray:
    return 3.0 * points_mm[..., 0] - 5.0 * points_mm[..., 1] + 7.0 * points_mm[..., 2] + 11.0


def scan_of(shape, affine, name="scan") -> Scan:
    return Scan(name, slope(world_of(shape, affine)).astype(np.float32), affine, Path("scan.nii.gz"))


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
    with pytest.raises(ValueError, match=r"a\.nii\.gz: label .* is no vertebra; labels are 1-25"):
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


# --- shrinking


def test_shrink_by_hand():
    """Voxels of 4 x 2 x 1 mm to at most 4 mm: blocks of 1 x 2 x 4; their middles lie 0.5 and 1.5 voxels in."""
    sample = read((9, 24, 20)) | {"label": MetaTensor(torch.zeros(1, 9, 24, 20, dtype=torch.uint8), affine=STORED)}
    sample["label"][0, 3, 5, 10] = 7  # the voxel nearest to the middle of block (3, 2, 2): 4 + 1, 8 + 2
    small = ShrinkScand(("image", "label"), 4.0)(sample)
    assert small["image"].shape == small["label"].shape == (1, 9, 12, 5)
    np.testing.assert_allclose(small["image"].affine[:3, 3], STORED[:3, 3] + [-1.5, -1.0, 0])
    np.testing.assert_allclose(small["image"].numpy()[0], slope(world_of((9, 12, 5), small["image"].affine.numpy())))
    assert small["label"].numpy()[0].nonzero() == ([3], [2], [2])
    where = small["label"].affine.numpy() @ [3, 2, 2, 1]
    np.testing.assert_allclose(where, STORED @ [3, 5, 10, 1])


def test_shrinking_keeps_the_type_and_small_scans():
    image = MetaTensor(torch.full((1, 8, 8, 8), 99, dtype=torch.int16), affine=np.diag([0.5, 0.5, 3, 1]))
    small = ShrinkScand("image", 1.0)({"image": image})["image"]
    assert (small.dtype, small.shape) == (torch.int16, (1, 4, 4, 8))
    assert int(small.min()) == int(small.max()) == 99
    assert ShrinkScand("image", 0.5)({"image": image})["image"] is image


# --- what belongs together


def spine_sample() -> dict:
    scan, labels, landmarks_mm = ball_spine(("T12", "L1", "L2"), "LPS", oblique=True, spacing_mm=(3, 3.5, 4))
    return {
        **{"image": image_of(scan.array, scan.affine), "label": image_of(labels, scan.affine)},
        "landmarks_mm": torch.from_numpy(landmarks_mm),
    }


def shifted(image: MetaTensor, *shift_mm: float) -> MetaTensor:
    affine = image.affine.numpy().copy()
    affine[:3, 3] += shift_mm
    return image_of(image.numpy()[0], affine)


@pytest.mark.parametrize("label", [None, "label"])
def test_what_fits_is_handed_on(label):
    sample = spine_sample()
    assert CheckPlacementd("landmarks_mm", label=label)(sample) == sample


@pytest.mark.parametrize(
    ("change", "label", "message"),
    [
        (lambda s: s["landmarks_mm"].mul_(torch.tensor([-1, -1, 1])), None, "0 of 3 .* inside the scan .* LPS mm they"),
        (lambda s: s["landmarks_mm"].sub_(torch.tensor([0, 0, 27])), "label", "0 of 3 .* mask of their own vertebra"),
        (lambda s: s.update(label=shifted(s["label"], 0, 0, 9)), "label", "label: lies up to 9 mm off image"),
        (lambda s: s["landmarks_mm"].fill_(torch.nan), None, "landmarks_mm: no landmark"),
    ],
    ids=["LPS", "one level off", "mask elsewhere", "none"],
)
def test_what_does_not_fit_is_refused(change, label, message):
    """Without `vertebrae prepare` all of these were trained on without a word."""
    sample = spine_sample()
    change(sample)
    with pytest.raises(ValueError, match=message):
        CheckPlacementd("landmarks_mm", label=label)(sample)
