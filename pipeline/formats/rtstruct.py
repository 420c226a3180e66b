"""DICOM RT Structure Set: closed contours on the source's slices, for planning systems. Needs the extra `dicom`."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import contourpy
import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from scipy import ndimage

from .. import __version__
from ..files import atomic_path
from ..itkfile import LPS_TO_RAS
from ..preview import color_of_label
from ..run import Result
from ..spaces import to_world
from .snomed import code_of
from .source import present_labels, read_source, stable_uid

_COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID"),
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # retired, but what the referenced study has to state


def write(folder: Path, result: Result, versions: dict[str, str]) -> list[Path]:
    """Write `NAME_rtstruct.dcm`: one ROI per vertebra, contours half-way between voxel centers, holes by keyholes."""
    source, indices = read_source(result.scan)
    present = present_labels(result.labels)
    images = _image_references(source, indices)
    structures = _structure_set(source[0], result.labels, list(images.values()))
    affine_lps = LPS_TO_RAS @ result.scan.affine
    boxes = ndimage.find_objects(result.labels)
    for number, (label, name) in enumerate(present, start=1):
        contours = []
        for k, polygon_vox in _polygons(result.labels, label, boxes[label - 1]):
            if k in images:
                contours.append(_contour(to_world(affine_lps, polygon_vox), images[k]))
        _add_roi(structures, number, label, name, contours)
    path = folder / f"{result.scan.name}_rtstruct.dcm"
    with atomic_path(path) as temporary:
        structures.save_as(temporary, enforce_file_format=True)
    return [path]


def _polygons(labels: np.ndarray, label: int, box: tuple[slice, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield slice index and `(N, 3)` voxel positions of every closed outline of one label, slice by slice."""
    low = np.array([part.start for part in box])
    mask = np.pad(labels[box] == label, ((1, 1), (1, 1), (0, 0))).astype(np.float32)
    for k in range(mask.shape[2]):
        lines = contourpy.contour_generator(z=mask[..., k], fill_type="OuterOffset").filled(0.5, 2.0)
        for points, offsets in zip(*lines, strict=True):
            ij = _keyhole([points[a:b] for a, b in pairwise(offsets)])[:, ::-1]
            yield int(k + low[2]), np.column_stack([ij + low[:2] - 1, np.full(len(ij), k + low[2])])


def _keyhole(rings: list[np.ndarray]) -> np.ndarray:
    """Join an outer ring and its holes, each `(N, 2)` and closed, into one ring through cuts of no width."""
    outer = rings[0][:-1]
    for hole in rings[1:]:
        distance = np.linalg.norm(outer[:, None] - hole[None, :-1], axis=-1)
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        turned = np.roll(hole[:-1], -j, axis=0)
        outer = np.concatenate([outer[: i + 1], turned, turned[:1], outer[i:]])
    return outer


def _image_references(source: list[Dataset], indices: list[int]) -> dict[int, Dataset]:
    """Return what refers to the image of each slice index."""
    references = {}
    frames = int(getattr(source[0], "NumberOfFrames", 1))
    for position, k in enumerate(indices if frames == 1 else range(frames)):
        image = source[position if frames == 1 else 0]
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        if frames > 1:
            reference.ReferencedFrameNumber = k + 1
        references[k] = reference
    return references


def _contour(points_lps: np.ndarray, image: Dataset) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = Sequence([image])
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points_lps)
    contour.ContourData = [f"{value:.3f}" for value in points_lps.ravel()]
    return contour


def _structure_set(first: Dataset, labels: np.ndarray, images: list[Dataset]) -> Dataset:
    """Return the structure set without its ROIs."""
    now = datetime.datetime.now()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name in _COPIED:
        setattr(dataset, name, getattr(first, name))
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = stable_uid(first, labels, "structure set")
    dataset.SeriesInstanceUID = stable_uid(first, labels, "structure set series")
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "RTSTRUCT", 901, "Vertebrae"
    dataset.OperatorsName = ""
    dataset.Manufacturer, dataset.SoftwareVersions = "vertebrae", __version__
    dataset.StructureSetLabel, dataset.ApprovalStatus = "VERTEBRAE", "UNAPPROVED"
    dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.FrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = ""
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = Sequence(images)
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_MANAGEMENT, first.StudyInstanceUID
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = Sequence([study])
    dataset.ReferencedFrameOfReferenceSequence = Sequence([frame])
    dataset.StructureSetROISequence = Sequence()
    dataset.ROIContourSequence = Sequence()
    dataset.RTROIObservationsSequence = Sequence()
    return dataset


def _add_roi(structures: Dataset, number: int, label: int, name: str, contours: list[Dataset]) -> None:
    """Add one vertebra to the three lists that describe it."""
    roi, contour, observation, code = Dataset(), Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "AUTOMATIC"
    roi.ReferencedFrameOfReferenceUID = structures.FrameOfReferenceUID
    contour.ReferencedROINumber = number
    contour.ROIDisplayColor = (255 * color_of_label(label)).round().astype(int).tolist()
    contour.ContourSequence = Sequence(contours)
    code.CodeValue, code.CodeMeaning = code_of(name)
    code.CodingSchemeDesignator = "SCT"
    observation.ObservationNumber, observation.ReferencedROINumber = number, number
    observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
    observation.RTROIIdentificationCodeSequence = Sequence([code])
    structures.StructureSetROISequence.append(roi)
    structures.ROIContourSequence.append(contour)
    structures.RTROIObservationsSequence.append(observation)
