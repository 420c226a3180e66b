"""DICOM results: read back with pydicom and geometry written out here, on 48 axis orders, straight and oblique."""

import numpy as np
import pydicom
import pytest
from format_cases import BLOCKS, GRIDS, make_result, make_scan, save_series, truth, world_mm
from matplotlib.path import Path as Polygon
from pydicom.sr import _concepts_dict

from pipeline.formats import write_formats
from pipeline.formats.snomed import CODES, code_of
from pipeline.images import read_scan
from pipeline.labels import LABELS, NAMES, row_of_name

VERSIONS = {"spine_loc": "0.1.0"}


def pixel_points_ras(position, orientation, spacing, shape) -> np.ndarray:
    """Return `(rows, columns, 3)` RAS mm of the pixel centers of an image plane (DICOM part 3, C.7.6.2.1.1)."""
    rows, columns = np.indices(shape)
    along_columns, along_rows = np.array(orientation, float).reshape(2, 3)
    points = rows[..., None] * along_rows * float(spacing[0]) + columns[..., None] * along_columns * float(spacing[1])
    return (points + np.array(position, float)) * [-1, -1, 1]


@pytest.fixture(params=GRIDS, ids=lambda grid: f"{grid[0]}-{'oblique' if grid[1] else 'straight'}")
def written(request, tmp_path):
    """Return a scan read from DICOM and the folder with both results."""
    scan = read_scan(save_series(tmp_path / "case", make_scan(*request.param)))
    assert scan.warnings == ()
    write_formats(tmp_path, make_result(scan), ("dicomseg", "rtstruct"), VERSIONS)
    return scan, tmp_path


def test_dicom_results_lie_on_the_images(written):
    scan, folder = written
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, (folder / "case").iterdir())}
    assert_segmentation(pydicom.dcmread(folder / "case_segmentation.dcm"), images)
    assert_structures(pydicom.dcmread(folder / "case_rtstruct.dcm"), images)
    np.testing.assert_array_equal(scan.array == 400, truth(world_mm(scan.array.shape, scan.affine)) > 0)


def assert_segmentation(dataset, images) -> None:
    names = {segment.SegmentNumber: segment.SegmentLabel for segment in dataset.SegmentSequence}
    assert list(names.items()) == [(1, "T12"), (2, "L1"), (3, "T13")]  # in the order of the labels
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    seen = {name: 0 for name in BLOCKS}
    for frame, group in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        name = names[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        points = pixel_points_ras(position, orientation, spacing, frame.shape)
        np.testing.assert_array_equal(frame, truth(points) == LABELS[row_of_name(name)])
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert images[source].ImagePositionPatient == pytest.approx(position, abs=1e-3)
        seen[name] += int(frame.sum())
    assert seen == count_voxels(images.values())


def assert_structures(dataset, images) -> None:
    names = {roi.ROINumber: roi.ROIName for roi in dataset.StructureSetROISequence}
    assert sorted(names.values()) == ["L1", "T12", "T13"]
    seen = {name: 0 for name in BLOCKS}
    for roi in dataset.ROIContourSequence:
        name = names[roi.ReferencedROINumber]
        for contour in roi.ContourSequence:
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            seen[name] += rasterized(contour, image, LABELS[row_of_name(name)])
    assert seen == count_voxels(images.values())


def rasterized(contour, image, label) -> int:
    """Return how many pixel centers of an image lie in a contour; all must have the label."""
    shape = (image.Rows, image.Columns)
    where = image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing
    points = pixel_points_ras(*where, shape).reshape(-1, 3) * [-1, -1, 1]
    corners = np.array(contour.ContourData, float).reshape(-1, 3)
    axes = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    off_plane = (corners - np.array(image.ImagePositionPatient, float)) @ np.cross(*axes)
    assert np.abs(off_plane).max() < 2e-3
    inside = Polygon(corners @ axes.T).contains_points(points @ axes.T)
    assert (truth(points[inside] * [-1, -1, 1]) == label).all()
    return int(inside.sum())


def count_voxels(images) -> dict[str, int]:
    """Return how many pixels of the source images each vertebra holds."""
    planes = [
        pixel_points_ras(i.ImagePositionPatient, i.ImageOrientationPatient, i.PixelSpacing, (i.Rows, i.Columns))
        for i in images
    ]
    return {name: int(sum((truth(plane) == LABELS[row_of_name(name)]).sum() for plane in planes)) for name in BLOCKS}


def test_interpolated_slices_are_not_in_dicom_results(tmp_path):
    scan = read_scan(
        save_series(tmp_path / "case", make_scan("LPS", True), keep=[0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12])
    )
    assert scan.array.shape[2] == 13
    assert "slices missing: 1" in scan.warnings[0]
    write_formats(tmp_path, make_result(scan), ("dicomseg", "rtstruct"), VERSIONS)
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, (tmp_path / "case").iterdir())}
    assert len(images) == 12
    assert_segmentation(pydicom.dcmread(tmp_path / "case_segmentation.dcm"), images)
    assert_structures(pydicom.dcmread(tmp_path / "case_rtstruct.dcm"), images)


def test_a_ring_keeps_its_hole(tmp_path):
    """As a vertebra around its canal: nothing of the hole may be inside the contour, in one closed polygon."""
    scan = read_scan(save_series(tmp_path / "case", make_scan("LPS", False)))
    result = make_result(scan)
    result.labels[:] = 0
    result.labels[4:15, 3:14, 4:7] = 20
    result.labels[7:11, 6:9, 4:7] = 0
    write_formats(tmp_path, result, ("rtstruct",), VERSIONS)
    (roi,) = pydicom.dcmread(tmp_path / "case_rtstruct.dcm").ROIContourSequence
    assert [contour.ContourGeometricType for contour in roi.ContourSequence] == ["CLOSED_PLANAR"] * 3
    corners_lps = np.array(roi.ContourSequence[0].ContourData, float).reshape(-1, 3)
    i, j = np.indices((20, 17))
    corners_vox = (corners_lps * [-1, -1, 1] - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3]).T
    inside = Polygon(corners_vox[:, :2]).contains_points(np.stack([i, j], axis=-1).reshape(-1, 2)).reshape(20, 17)
    assert inside.sum() == 11 * 11 - 4 * 3
    np.testing.assert_array_equal(inside, result.labels[..., 4] == 20)


def test_codes_are_those_of_pydicom():
    known = {code: meaning for entry in _concepts_dict.concepts["SCT"].values() for code, (meaning, _) in entry.items()}
    for name in NAMES:
        code, meaning = code_of(name)
        assert known[code] == meaning
    assert set(CODES) == set(NAMES) - {"L6", "T13"}
    assert len(set(CODES.values())) == 24


def test_codes_and_names_in_the_files(tmp_path):
    scan = read_scan(save_series(tmp_path / "case", make_scan("LPS", False)))
    write_formats(tmp_path, make_result(scan), ("dicomseg", "rtstruct"), VERSIONS)
    segmentation = pydicom.dcmread(tmp_path / "case_segmentation.dcm")
    codes = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segmentation.SegmentSequence]
    assert [(code.CodeValue, code.CodingSchemeDesignator) for code in codes] == [
        ("23215003", "SCT"),  # T12
        ("66794005", "SCT"),  # L1
        ("51282000", "SCT"),  # T13: any vertebra
    ]
    structures = pydicom.dcmread(tmp_path / "case_rtstruct.dcm")
    for dataset in (segmentation, structures):
        assert (dataset.PatientName, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (
            "Doe^Jane",
            "1.2.3",
            "1.2.3.5",
        )
    assert (segmentation.Modality, structures.Modality) == ("SEG", "RTSTRUCT")


def test_the_same_result_has_the_same_uid(tmp_path):
    scan = read_scan(save_series(tmp_path / "case", make_scan("LPS", False)))
    uids = []
    for attempt in range(3):
        result = make_result(scan)
        if attempt == 2:
            result.labels[0, 0, 0] = 20
        (tmp_path / str(attempt)).mkdir()
        paths = write_formats(tmp_path / str(attempt), result, ("dicomseg", "rtstruct"), VERSIONS)
        uids.append([pydicom.dcmread(path).SOPInstanceUID for path in paths])
    assert uids[0] == uids[1]
    assert len({*uids[0], *uids[2]}) == 4


def test_anonymized_images_can_be_referred_to(tmp_path):
    folder = save_series(tmp_path / "case", make_scan("LPS", False))
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        del image.PatientName, image.PatientID
        image.save_as(file)
    paths = write_formats(tmp_path, make_result(read_scan(folder)), ("dicomseg", "rtstruct"), VERSIONS)
    assert [pydicom.dcmread(path).PatientID for path in paths] == ["", ""]


@pytest.mark.parametrize("format_name", ["dicomseg", "rtstruct"])
def test_what_cannot_be_written_is_said(tmp_path, format_name):
    scan = read_scan(save_series(tmp_path / "case", make_scan("LPS", False)))
    result = make_result(scan)
    result.labels[:] = 0
    with pytest.raises(ValueError, match="the mask is empty"):
        write_formats(tmp_path, result, (format_name,), VERSIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["case"]
