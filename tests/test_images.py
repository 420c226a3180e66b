"""Reading scans: the same world position from every format, and one clear sentence for every bad input."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.images import InputError, find_scans, read_header, read_scan, scan_name, write_labels

# ITK's wrappers warn of their own types when they are loaded; as an error this ends the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")

# Oblique and anisotropic: i, j, k step 1, 2, 3 mm along (0.6, 0.8, 0), (-0.48, 0.36, 0.8), (0.64, -0.48, 0.6).
AFFINE = np.array([[0.6, -0.96, 1.92, 10], [0.8, 0.72, -1.44, -20], [0, 1.6, 1.8, 30], [0, 0, 0, 1]])
SHAPE = (34, 26, 18)
MARK_VOX = (4, 3, 5)
MARK_MM = (19.12, -21.84, 43.8)  # AFFINE @ MARK_VOX by hand: 10 + 2.4 - 2.88 + 9.6, ...

# The same grid in ITK's LPS: x and y change sign.
DIRECTION_LPS = np.array([[-0.6, 0.48, -0.64], [-0.8, -0.36, 0.48], [0, 0.8, 0.6]])
SPACING_MM = (1.0, 2.0, 3.0)
ORIGIN_LPS = (-10.0, 20.0, 30.0)


def make_ct() -> np.ndarray:
    """Air around a soft-tissue block with fat and bone in it, and one brightest voxel."""
    generator = np.random.default_rng(0)
    array = np.full(SHAPE, -1000.0)
    array[2:-2, 2:-2, 1:-1] = generator.normal(40, 20, (30, 22, 16))
    array[2:-2, 2:5, 1:-1] = generator.normal(-100, 15, (30, 3, 16))
    array[14:20, 12:18, 1:-1] = generator.normal(400, 100, (6, 6, 16)).clip(150, 1200)
    array[MARK_VOX] = 1500
    return np.rint(array).astype(np.int16)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def to_itk(array: np.ndarray, origin=ORIGIN_LPS):
    import itk

    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(SPACING_MM)
    image.SetOrigin([float(value) for value in origin])
    image.SetDirection(itk.matrix_from_array(DIRECTION_LPS))
    return image


def save_dicom(folder: Path, array, *, modality="CT", uid="1.2.3", step=(-1.92, 1.44, 1.8), keep=None, tags=None):
    """One file per slice; `step` is the LPS mm from slice to slice, `keep` the slices written."""
    tags = {"0008|0060": modality, "0020|000d": "1.2", "0020|000e": uid, **(tags or {})}
    folder.mkdir(exist_ok=True)
    for k in range(array.shape[2]) if keep is None else keep:
        image = to_itk(array[..., k : k + 1], np.add(ORIGIN_LPS, np.multiply(k, step)))
        # Names run against the positions: the order must come from the positions.
        save_dicom_file(folder / f"{uid}_{99 - k}.dcm", image, tags)
    return folder


def save_dicom_file(path: Path, image, tags: dict[str, str]) -> None:
    import itk

    dictionary = image.GetMetaDataDictionary()
    for tag, value in tags.items():
        dictionary[tag] = value
    image.SetMetaDataDictionary(dictionary)
    dicom_io = itk.GDCMImageIO.New(KeepOriginalUID=True)
    itk.ImageFileWriter[type(image)].New(Input=image, FileName=str(path), ImageIO=dicom_io).Update()


def assert_marked(scan, dtype=np.int16):
    assert scan.array.shape == SHAPE
    assert scan.array.dtype == dtype
    assert scan.affine.dtype == np.float64
    brightest = np.unravel_index(scan.array.argmax(), SHAPE)
    assert brightest == MARK_VOX
    assert scan.affine @ [*brightest, 1] == pytest.approx([*MARK_MM, 1], abs=1e-4)
    assert scan.array[MARK_VOX] == pytest.approx(1500)
    assert scan.array[0, 0, 0] == -1000


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_nifti_world_position(tmp_path, suffix):
    scan = read_scan(save_nifti(tmp_path / f"a.b{suffix}", make_ct()))
    assert_marked(scan)
    assert (scan.name, scan.warnings) == ("a.b", ())
    assert scan.grid.shape == SHAPE


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_itk_world_position(tmp_path, suffix):
    import itk

    itk.imwrite(to_itk(make_ct()), str(tmp_path / f"scan{suffix}"))
    scan = read_scan(tmp_path / f"scan{suffix}")
    assert_marked(scan)
    assert (scan.name, scan.warnings) == ("scan", ())


NRRD_RAS = """NRRD0004
type: short
dimension: 3
space: right-anterior-superior
sizes: 34 26 18
space directions: (0.6,0.8,0) (-0.96,0.72,1.6) (1.92,-1.44,1.8)
space origin: (10,-20,30)
endian: little
encoding: raw

"""
MHA_LPS = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
TransformMatrix = -0.6 -0.8 0 0.48 -0.36 0.8 -0.64 0.48 0.6
Offset = -10 20 30
ElementSpacing = 1 2 3
DimSize = 34 26 18
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


@pytest.mark.parametrize(("name", "header"), [("a.nrrd", NRRD_RAS), ("a.mha", MHA_LPS)])
def test_headers_written_by_hand(tmp_path, name, header):
    (tmp_path / name).write_bytes(header.encode() + make_ct().tobytes(order="F"))
    assert_marked(read_scan(tmp_path / name))


def test_nifti_2(tmp_path):
    nib.save(nib.Nifti2Image(make_ct(), AFFINE), tmp_path / "a.nii.gz")
    assert_marked(read_scan(tmp_path / "a.nii.gz"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 18, 26, 34), np.int16), "4-D image of 34 x 26 x 18 x 3 voxels"),
        (np.zeros((26, 34), np.float32), "2-D image of 34 x 26 x 1 voxels"),
    ],
)
def test_itk_images_of_other_dimensions(tmp_path, array, message):
    import itk

    itk.imwrite(itk.image_from_array(array), tmp_path / "a.mha")
    with pytest.raises(InputError, match=rf"a\.mha: {message}"):
        read_scan(tmp_path / "a.mha")


def test_colors_are_refused(tmp_path):
    import itk

    itk.imwrite(itk.image_from_array(np.zeros((8, 9, 10, 3), np.uint8), is_vector=True), tmp_path / "rgb.nrrd")
    with pytest.raises(InputError, match=r"rgb\.nrrd: 3 values per voxel; expected one"):
        read_scan(tmp_path / "rgb.nrrd")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_itk_types_hold_large_values(tmp_path, dtype):
    import itk

    array = make_ct().astype(np.float64)
    array = array + 1000 if dtype == np.uint16 else array
    array[MARK_VOX] = 40000  # would wrap in int16
    itk.imwrite(to_itk(array.astype(dtype)), str(tmp_path / "big.nrrd"))
    expected = 39000 if dtype == np.uint16 else 40000
    scan = read_scan(tmp_path / "big.nrrd")
    assert scan.array.dtype == np.float32
    assert scan.array[MARK_VOX] == expected
    assert scan.array[0, 0, 0] == -1000


def test_dicom_world_position(tmp_path):
    scan = read_scan(save_dicom(tmp_path / "1.2.series", make_ct()))
    assert_marked(scan)
    assert (scan.name, scan.warnings) == ("1.2.series", ())


def test_dicom_rescale_is_applied(tmp_path):
    scan = read_scan(save_dicom(tmp_path / "a", make_ct(), tags={"0028|1052": "-1024", "0028|1053": "1"}))
    assert_marked(scan)
    assert scan.warnings == ()


def test_dicom_of_many_frames(tmp_path):
    (tmp_path / "frames").mkdir()
    save_dicom_file(tmp_path / "frames" / "all.dcm", to_itk(make_ct()), {"0008|0060": "CT"})
    assert_marked(read_scan(tmp_path / "frames"))


def test_one_dicom_slice_is_refused(tmp_path):
    with pytest.raises(InputError, match="one: 2-D image of 34 x 26 x 1 voxels"):
        read_scan(save_dicom(tmp_path / "one", make_ct(), keep=[3]))


def test_slight_gantry_tilt_is_kept(tmp_path):
    """The third axis follows the slice positions, not the normal that ITK assumes."""
    tilt_mm = 3 * np.tan(np.radians(2))  # sideways along i, per slice
    step = np.add((-1.92, 1.44, 1.8), np.multiply(tilt_mm, (-0.6, -0.8, 0)))
    scan = read_scan(save_dicom(tmp_path / "tilted", make_ct(), step=step))
    assert scan.affine[:3, 2] == pytest.approx([1.92 + 0.6 * tilt_mm, -1.44 + 0.8 * tilt_mm, 1.8], abs=1e-5)


def test_strong_gantry_tilt_is_refused(tmp_path):
    step = np.add((-1.92, 1.44, 1.8), np.multiply(3 * np.tan(np.radians(12)), (-0.6, -0.8, 0)))
    with pytest.raises(InputError, match=r"tilted: .*sheared by 12\.0 degrees"):
        read_scan(save_dicom(tmp_path / "tilted", make_ct(), step=step))


def test_a_missing_slice_is_interpolated(tmp_path):
    folder = save_dicom(tmp_path / "gap", make_ct(), keep=[k for k in range(18) if k != 8])
    scan = read_scan(folder)
    assert_marked(scan)
    assert scan.affine == pytest.approx(AFFINE, abs=1e-4)
    below, above = make_ct()[..., 7].astype(float), make_ct()[..., 9].astype(float)
    np.testing.assert_array_equal(scan.array[..., 8], np.rint((below + above) / 2))
    np.testing.assert_array_equal(np.delete(scan.array, 8, axis=2), np.delete(make_ct(), 8, axis=2))
    place = "6 mm between slices 8 and 9, usually 3 mm"
    assert scan.warnings == (f"repaired: DICOM slices missing: 1 ({place}); interpolated",)
    assert scan.files[8] is None
    assert [file.name for file in scan.files[6:8]] == ["1.2.3_93.dcm", "1.2.3_92.dcm"]  # 99 - k
    with pytest.raises(InputError, match=f"gap: DICOM slices are missing: {place}"):
        read_scan(folder, repair=False)


def test_slightly_uneven_slices_are_taken_as_even(tmp_path):
    folder = save_dicom(tmp_path / "uneven", make_ct(), keep=range(9))
    save_dicom(folder, make_ct(), keep=range(9, 18), step=np.multiply((-1.92, 1.44, 1.8), 1.05))
    # Slice 9 lies at 9 * 3.15 = 28.35 mm, the last at 53.55 mm; even would be 3.15 mm apart, slice 8 off by 1.2 mm.
    scan = read_scan(folder)
    assert scan.warnings == ("DICOM slices are 3 to 4.35 mm apart, taken as even: positions may be off by 1.2 mm",)
    assert scan.affine[:3, 2] == pytest.approx(AFFINE[:3, 2] * 1.05, abs=1e-4)
    with pytest.raises(InputError, match=r"uneven: DICOM slices are 3 to 4\.35 mm apart"):
        read_scan(folder, repair=False)


def test_a_localizer_in_the_series_is_left_out(tmp_path):
    folder = save_dicom(tmp_path / "a", make_ct())
    save_dicom(folder, make_ct()[:20, :20], keep=[17], step=(-2.5, 2, 3))
    (folder / "1.2.3_82.dcm").rename(folder / "scout.dcm")
    save_dicom(folder, make_ct(), keep=[17])
    scan = read_scan(folder)
    assert_marked(scan)
    assert scan.warnings == ("DICOM slices left out because their size or orientation differs: 1",)


def test_a_series_cut_short_is_warned_of(tmp_path):
    folder = save_dicom(tmp_path / "a", make_ct(), keep=range(10), tags={"0020|1002": "18"})
    assert read_scan(folder).warnings == ("the DICOM series states 18 images, but 10 are here: it may be cut short",)


def test_a_series_takes_little_more_memory_than_its_voxels(tmp_path):
    """ITK's own series reader peaks at three times the voxels."""
    array = np.tile(make_ct(), (8, 8, 5))  # 272 x 208 x 90, 9.7 MiB
    save_dicom(tmp_path / "a", array)
    script = (
        "import resource, sys; import numpy, itk; from pathlib import Path; from pipeline import dicom\n"
        "stack = dicom.read_headers(Path(sys.argv[1])); dicom._read_slice(stack.files[0], stack.dtype)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); voxels = dicom.read_voxels(stack); print((peak() - before) * 1024 / voxels.nbytes)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert float(done.stdout) < 1.5


def test_two_missing_slices_are_refused(tmp_path):
    with pytest.raises(InputError, match="gap: DICOM slices are missing: 9 mm between slices 8 and 9, usually 3 mm"):
        read_scan(save_dicom(tmp_path / "gap", make_ct(), keep=[k for k in range(18) if k not in (8, 9)]))


def test_doubled_slices_are_refused(tmp_path):
    folder = save_dicom(tmp_path / "twice", make_ct())
    (folder / "copy.dcm").write_bytes((folder / "1.2.3_90.dcm").read_bytes())
    with pytest.raises(InputError, match="twice: the DICOM slices 10 and 11 share one place"):
        read_scan(folder)


def test_dicom_modality_is_checked(tmp_path):
    with pytest.raises(InputError, match="mr: the DICOM modality is MR; expected CT"):
        read_scan(save_dicom(tmp_path / "mr", make_ct(), modality="MR"))


def test_largest_ct_series_is_chosen(tmp_path):
    folder = save_dicom(tmp_path / "study", make_ct(), uid="1.2.9")
    save_dicom(folder, make_ct(), uid="1.2.3", keep=range(7))
    save_dicom(folder, np.pad(make_ct(), ((0, 0), (0, 0), (0, 2))), uid="1.2.4", modality="PT")
    scan = read_scan(folder)
    assert_marked(scan)
    assert scan.warnings == ("3 DICOM series (PT of 20, CT of 18, CT of 7 slices): the CT series of 18 was read",)


def test_damaged_dicom_slice_is_warned_of(tmp_path):
    folder = save_dicom(tmp_path / "cut", make_ct())
    file = folder / "1.2.3_82.dcm"  # the last slice: no gap shows that it is missing
    file.write_bytes(file.read_bytes()[:-900])
    scan = read_scan(folder)
    assert scan.array.shape == (34, 26, 17)
    value = "element (7FE0,0010) states 1768 bytes but 868 are there"  # 34 x 26 x 2, and 900 cut off
    assert scan.warnings == (f"DICOM files left out: {file.name}: damaged or cut short, {value}",)


def save_scaled(path: Path, stored: np.ndarray, slope: float, inter: float) -> Path:
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(slope, inter)  # nibabel then writes the array as it is
    nib.save(image, path)
    return path


def test_whole_scale_factors_keep_int16(tmp_path):
    scan = read_scan(save_scaled(tmp_path / "whole.nii.gz", make_ct() + np.int16(1000), 1, -1000))
    assert_marked(scan)
    assert scan.warnings == ()


def test_fractional_scale_factors_give_float32(tmp_path):
    scan = read_scan(save_scaled(tmp_path / "half.nii.gz", 2 * make_ct() + np.int16(1), 0.5, 0))
    assert scan.array.dtype == np.float32
    assert np.array_equal(scan.array, make_ct() + 0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.dtype(">i2")])
def test_whole_numbers_become_int16(tmp_path, dtype):
    assert_marked(read_scan(save_nifti(tmp_path / "whole.nii.gz", make_ct().astype(dtype))))


def test_fractions_stay_float32(tmp_path):
    array = make_ct().astype(np.float64)
    array[6, 6, 6] = 40.25
    scan = read_scan(save_nifti(tmp_path / "fraction.nii", array))
    assert_marked(scan, np.float32)
    assert scan.array[6, 6, 6] == 40.25


def test_trailing_singleton_axis_is_dropped(tmp_path):
    assert_marked(read_scan(save_nifti(tmp_path / "4d.nii.gz", make_ct()[..., None])))


@pytest.mark.parametrize(("offset", "soft_tissue"), [(1000, 40), (1024, 64)])
def test_offset_of_1000_is_subtracted(tmp_path, offset, soft_tissue):
    array = np.maximum(make_ct() + offset, 0).astype(np.uint16)
    scan = read_scan(save_nifti(tmp_path / "shifted.nii.gz", array))
    assert scan.array.dtype == np.int16
    assert np.median(scan.array[4:12, 8:22, 3:-3]) == pytest.approx(soft_tissue, abs=3)
    assert "HU plus about 1000: 1000 was subtracted" in scan.warnings[0]


def test_offset_with_negative_padding(tmp_path):
    array = make_ct() + np.int16(1024)
    array[:1] = -2000
    scan = read_scan(save_nifti(tmp_path / "padded.nii.gz", array))
    assert (scan.array.min(), scan.array.max()) == (-1000, 1524)
    assert len(scan.warnings) == 1


def test_missing_orientation_is_warned_of(tmp_path):
    image = nib.Nifti1Image(make_ct(), None)
    image.header.set_zooms(SPACING_MM)
    nib.save(image, tmp_path / "lost.nii.gz")
    assert "sform and qform code 0" in read_scan(tmp_path / "lost.nii.gz").warnings[0]


def bone_only() -> np.ndarray:
    array = make_ct()
    return np.where(array >= 150, array, -1024).astype(np.int16)


def cropped() -> np.ndarray:
    """No air at all: soft tissue, a little fat, bone."""
    array = make_ct()
    return np.where(array == -1000, 50, array).astype(np.int16)


@pytest.mark.parametrize("make", [bone_only, cropped, lambda: make_ct().clip(-250, 650)])
def test_unusual_ct_is_accepted_as_it_is(tmp_path, make):
    scan = read_scan(save_nifti(tmp_path / "unusual.nii.gz", make()))
    assert np.array_equal(scan.array, make())
    assert scan.warnings == ()


def scaled_to(high: float) -> np.ndarray:
    array = make_ct().astype(np.float32)
    return (array - array.min()) / np.ptp(array) * high


def mr_like() -> np.ndarray:
    """Broad tissue distribution over 0..2000, dark background."""
    return np.random.default_rng(1).gamma(4, 200, SHAPE).clip(0, 2000).astype(np.int16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.full(SHAPE, 7, np.int16), "every voxel is 7"),
        (lambda: scaled_to(1.0), "not a CT in HU: values 0 to 1;"),
        (lambda: scaled_to(2.0) - 1, "not a CT in HU: values -1 to 1;"),
        (lambda: np.rint(scaled_to(255)).astype(np.uint8), "not a CT in HU: values 0 to 255;"),
        (mr_like, r"not a CT in HU: values \d+ to \d+;"),
        (lambda: (make_ct() > 200) * np.uint8(20), "not a CT in HU: values 0 to 20;"),
        (lambda: make_ct().clip(-1000, 100), "not a CT in HU: values -1000 to 100;"),
        (lambda: make_ct().astype(np.uint16), "not a CT in HU: values"),  # negative values wrapped to 64536
        (
            lambda: np.where(np.arange(18) < 2, np.nan, make_ct()),
            r"not finite \(NaN or infinite\): 1768$",
        ),  # 2 * 34 * 26
        (lambda: np.where(make_ct() == 1500, np.inf, make_ct()), r"not finite \(NaN or infinite\): 1$"),
        (lambda: make_ct()[:, :, 0], "2-D image of 34 x 26 voxels"),
        (lambda: make_ct()[:, :1], "2-D image of 34 x 1 x 18 voxels"),
        (lambda: np.stack([make_ct()] * 3, axis=-1), "4-D image of 34 x 26 x 18 x 3 voxels"),
        (lambda: make_ct()[:, :, :6], "only 18 mm along one axis; at least 20 mm"),
        (lambda: make_ct().astype(np.complex64), "voxels of type complex64"),
    ],
)
def test_bad_voxels_are_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=f"bad.nii.gz: .*{message}"):
        read_scan(save_nifti(tmp_path / "bad.nii.gz", make()))


def with_linear(linear) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, :3] = linear
    return affine


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (with_linear([[1, 2, 0], [1, 2, 0], [0, 0, 3]]), r"singular \(determinant 0\)"),
        (with_linear([[1, 0, 0], [0, 2, np.nan], [0, 0, 3]]), "holds nan"),
        (with_linear(np.diag([0.001, 0.001, 0.002])), "voxels of 0.001 x 0.001 x 0.002 mm; expected 0.15 to 7 mm"),
        (with_linear(np.diag([1, 2, 7.1])), "voxels of 1 x 2 x 7.1 mm"),
        (with_linear(np.diag([8, 8, 8])), r"voxels of 8 x 8 x 8 mm; expected 0.15 to 7 mm"),
        (with_linear([[1, 0, 0], [0, 2, 2], [0, 0, 2]]), "sheared by 45.0 degrees"),
    ],
)
def test_bad_affines_are_refused(tmp_path, affine, message):
    image = nib.Nifti1Image(make_ct(), None)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    image.header["sform_code"] = 1
    (tmp_path / "bad.nii").write_bytes(image.header.binaryblock + bytes(4) + make_ct().tobytes(order="F"))
    data = bytearray((tmp_path / "bad.nii").read_bytes())
    data[108:112] = np.float32(352).tobytes()  # vox_offset
    data[344:348] = b"n+1\0"
    (tmp_path / "bad.nii").write_bytes(data)
    with pytest.raises(InputError, match=f"bad.nii: .*{message}"):
        read_scan(tmp_path / "bad.nii")


@pytest.mark.parametrize("size_mm", [0.2, 7.0])
def test_extreme_voxels_are_accepted(tmp_path, size_mm):
    array = np.pad(make_ct(), ((0, 70), (0, 76), (0, 84)), constant_values=-1000)
    affine = np.diag([-size_mm, size_mm, -size_mm, 1])
    assert read_scan(save_nifti(tmp_path / "ct.nii.gz", array, affine)).affine == pytest.approx(affine)


def test_shear_of_a_tilted_gantry_is_kept(tmp_path):
    affine = with_linear([[1, 0, 0], [0, 2, 3 * np.tan(np.radians(4.9))], [0, 0, 3]])
    scan = read_scan(save_nifti(tmp_path / "ct.nii.gz", make_ct(), affine))
    assert scan.affine == pytest.approx(affine, abs=1e-6)
    assert scan.warnings == ()


def test_shear_of_rounding_is_repaired(tmp_path):
    """The directions j and k are 0.2 degrees too close: each is turned by 0.1 degree, the middle stays."""
    half = np.radians(0.1)
    sheared = with_linear([[1, 0, 0], [0, 2 * np.cos(half), 3 * np.sin(half)], [0, 2 * np.sin(half), 3 * np.cos(half)]])
    path = save_nifti(tmp_path / "ct.nii.gz", make_ct(), sheared)
    scan = read_scan(path)
    assert scan.affine[:3, :3] == pytest.approx(np.diag([1.0, 2, 3]), abs=1e-6)
    middle = [16.5, 12.5, 8.5, 1]
    assert scan.affine @ middle == pytest.approx(sheared @ middle, abs=1e-5)
    # The farthest voxel is 25 mm in j and 25.5 mm in k from the middle: 36 mm * 0.1 degree = 0.06 mm.
    assert scan.warnings == ("repaired: axes 0.200 degrees off right angles, voxels moved by up to 0.06 mm",)
    kept = read_scan(path, repair=False)
    assert kept.affine == pytest.approx(sheared, abs=1e-5)
    assert kept.warnings == ()


def test_an_unusable_sform_gives_way_to_the_qform(tmp_path):
    image = nib.Nifti1Image(make_ct(), AFFINE)
    image.set_qform(AFFINE, code=1)
    nib.save(image, tmp_path / "ct.nii")
    content = bytearray((tmp_path / "ct.nii").read_bytes())
    content[296:312] = content[280:296]  # the second row of the sform becomes the first
    (tmp_path / "ct.nii").write_bytes(content)
    scan = read_scan(tmp_path / "ct.nii")
    assert_marked(scan)
    assert scan.warnings == ("repaired: the sform is unusable, the qform was taken",)
    with pytest.raises(InputError, match="affine is singular"):
        read_scan(tmp_path / "ct.nii", repair=False)


def test_meters_are_taken_to_millimeters(tmp_path):
    image = nib.Nifti1Image(make_ct(), AFFINE)
    image.set_sform(np.diag([0.001, 0.001, 0.001, 1]) @ AFFINE, code=1)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "ct.nii.gz")
    scan = read_scan(tmp_path / "ct.nii.gz")
    assert_marked(scan)
    assert scan.warnings == ("repaired: the header's unit is meter, taken to mm",)
    with pytest.raises(InputError, match="is the unit mm"):
        read_scan(tmp_path / "ct.nii.gz", repair=False)


@pytest.mark.parametrize("path", ["oblique.nii.gz", "oblique.nii", "oblique.mha", "series"])
def test_headers_tell_what_reading_will_find(tmp_path, path):
    import itk

    if path == "series":
        save_dicom(tmp_path / path, make_ct(), keep=[k for k in range(18) if k != 4])
    elif path.endswith("mha"):
        itk.imwrite(to_itk(make_ct()), str(tmp_path / path))
    else:
        save_nifti(tmp_path / path, make_ct())
    header, scan = read_header(tmp_path / path), read_scan(tmp_path / path)
    assert (header.name, header.shape, header.dtype) == (scan.name, SHAPE, np.int16)
    np.testing.assert_array_equal(header.affine, scan.affine)
    assert header.warnings == scan.warnings


@pytest.mark.parametrize("name", ["huge.nii", "huge.nii.gz", "huge.mha", "huge.nrrd"])
def test_a_header_that_promises_too_much_is_refused_at_once(tmp_path, name):
    if ".nii" in name:
        header = nib.Nifti1Image(make_ct(), AFFINE).header
        header["dim"][1:4] = (3000, 3000, 3000)
        content = header.binaryblock[:344] + b"n+1\0" + bytes(4) + bytes(1000)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    else:
        header = (MHA_LPS if name.endswith("mha") else NRRD_RAS).replace("34 26 18", "1500 1500 1500")
        (tmp_path / name).write_bytes(header.encode() + bytes(1000))
    with pytest.raises(InputError, match=rf"{name}: cannot be read: .*(more than any CT|do not fit into a file)"):
        read_scan(tmp_path / name)


def test_missing_file_and_unknown_suffix(tmp_path):
    with pytest.raises(InputError, match=r"none\.nii\.gz: no such file"):
        read_scan(tmp_path / "none.nii.gz")
    (tmp_path / "scan.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"scan.jpg: unknown suffix '.jpg'; expected .nii.gz"):
        read_scan(tmp_path / "scan.jpg")
    (tmp_path / "slice.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match="give the folder of a DICOM series"):
        read_scan(tmp_path / "slice.dcm")
    with pytest.raises(InputError, match="no DICOM image series in this folder"):
        read_scan(tmp_path)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.mha", "scan.nrrd", "scan.mhd", "scan.nhdr"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "header"])
def test_damaged_files_are_refused(tmp_path, name, damage):
    import itk

    path = tmp_path / name
    if name.startswith("scan.nii"):
        save_nifti(path, make_ct())
    else:
        itk.imwrite(to_itk(make_ct()), str(path))
    if damage == "cut" and name in ("scan.mhd", "scan.nhdr"):
        path.with_suffix(".raw").unlink()  # the voxels lie in a second file
    else:
        whole = path.read_bytes()
        contents = {"empty": b"", "text": b"hello " * 200, "cut": whole[: len(whole) * 3 // 4], "header": whole[:200]}
        path.write_bytes(contents[damage])
    with pytest.raises(InputError, match=f"{re.escape(name)}: cannot be read") as caught:
        read_scan(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["gzip", "isal.igzip"])
def test_damaged_gzip_contents(tmp_path, monkeypatch, module):
    monkeypatch.setattr("pipeline.nifti._GZIP", pytest.importorskip(module))
    path = save_nifti(tmp_path / "flip.nii.gz", make_ct())
    data = bytearray(path.read_bytes())
    assert_marked(read_scan(path))
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"flip.nii.gz: cannot be read"):
        read_scan(path)


def test_find_scans(tmp_path):
    for name in ("b.nii.gz", "a.mha", "b_segmentation.nii.gz", ".123.c.nii.gz", "notes.txt", "a.raw", "D.NRRD"):
        (tmp_path / name).write_bytes(b"")
    series = save_dicom(tmp_path / "series", make_ct(), keep=range(2))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "deep.nii.gz").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    names = [path.name for path in find_scans(tmp_path)]
    assert names == ["D.NRRD", "a.mha", "b.nii.gz", "series"]
    assert find_scans(series) == [series]
    assert find_scans(tmp_path / "b.nii.gz") == [tmp_path / "b.nii.gz"]


def test_find_scans_without_any(tmp_path):
    (tmp_path / "x_segmentation.nii.gz").write_bytes(b"")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))}: no scan in this folder"):
        find_scans(tmp_path)
    with pytest.raises(InputError, match="absent: no such file or folder"):
        find_scans(tmp_path / "absent")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("x/sub-1.2_ct.nii.gz", "sub-1.2_ct"), ("a.NII", "a"), ("a.nrrd", "a"), ("a.mha", "a"), ("a.b", "a.b")],
)
def test_scan_name(path, expected):
    assert scan_name(Path(path)) == expected


def test_scan_name_of_a_folder(tmp_path):
    (tmp_path / "case.nii").mkdir()
    assert scan_name(tmp_path / "case.nii") == "case.nii"
    assert scan_name(tmp_path / "case.nii" / ".") == "case.nii"


@pytest.mark.parametrize(
    ("affine", "qform_code"),
    [(AFFINE, 1), (AFFINE @ np.diag([-1, 1, 1, 1]), 1), (with_linear([[1, 0.05, 0], [0, 2, 0], [0, 0.1, 3]]), 0)],
)
@pytest.mark.parametrize("name", ["out.nii.gz", "out.nii"])
def test_written_labels_lie_on_the_scan(tmp_path, affine, qform_code, name):
    labels = np.zeros(SHAPE, np.uint8)
    labels[MARK_VOX] = 28
    write_labels(tmp_path / name, labels, affine)
    image = nib.load(tmp_path / name)
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(image.dataobj), labels)
    assert np.array_equal(image.affine.astype(np.float32), affine.astype(np.float32))
    assert image.header.get_sform(coded=True)[1] == 1
    assert image.header.get_qform(coded=True)[1] == qform_code
    if qform_code:
        assert image.header.get_qform() == pytest.approx(affine, abs=1e-4)
    assert image.header.get_zooms() == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0), abs=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_written_labels_lie_on_the_scan_for_itk(tmp_path):
    import itk

    write_labels(tmp_path / "out.nii.gz", np.ones(SHAPE, np.uint8), AFFINE)
    image = itk.imread(str(tmp_path / "out.nii.gz"))
    expected_lps = (-MARK_MM[0], -MARK_MM[1], MARK_MM[2])
    assert tuple(image.TransformIndexToPhysicalPoint(MARK_VOX)) == pytest.approx(expected_lps, abs=1e-4)


def test_writing_the_same_labels_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, np.ones(SHAPE, np.uint8), AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())) == 352 + 34 * 26 * 18


@pytest.mark.parametrize("labels", [np.zeros(SHAPE, np.int16), np.zeros((1, *SHAPE), np.uint8)])
def test_only_uint8_volumes_are_written(tmp_path, labels):
    with pytest.raises(ValueError, match="expected 3-D uint8"):
        write_labels(tmp_path / "out.nii.gz", labels, AFFINE)
    assert list(tmp_path.iterdir()) == []
