"""The DICOM images a result refers to."""

from __future__ import annotations

import hashlib

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from ..images import Scan
from ..labels import LABELS, NAMES
from ..spaces import spacing_mm

# Attributes that must be there, though they may be empty; anonymized files often lack them.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)


def read_source(scan: Scan) -> tuple[list[pydicom.Dataset], list[int]]:
    """Return the headers of a scan's DICOM slices and the index of each along the third array axis.

    Interpolated slices have no file and are left out; a file of several frames is one header for all slices.

    Raises:
        ValueError: the scan is no DICOM series, or its images lack what a reference needs.
    """
    present = [(k, file) for k, file in enumerate(scan.files) if file is not None]
    if not present:
        raise ValueError(f"{scan.path}: no DICOM series")
    datasets = [pydicom.dcmread(file, stop_before_pixels=True) for _, file in present]
    for dataset in datasets:
        for name in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            if name not in dataset:
                raise ValueError(f"{scan.path}: the DICOM images have no {name}, nothing can refer to them")
        if "SliceThickness" not in dataset:
            dataset.SliceThickness = round(float(spacing_mm(scan.affine)[2]), 4)
        for name in _MAY_BE_EMPTY:
            if name not in dataset:
                setattr(dataset, name, "")
    return datasets, [k for k, _ in present]


def present_labels(labels: np.ndarray) -> list[tuple[int, str]]:
    """Return label and name of every vertebra with a voxel, in the order of the labels.

    Raises:
        ValueError: there is none; these formats cannot be empty.
    """
    counts = np.bincount(labels.ravel(order="K"), minlength=256)
    present = [(label, name) for label, name in zip(LABELS, NAMES, strict=True) if counts[label]]
    if not present:
        raise ValueError("the mask is empty; a DICOM SEG or RTSTRUCT cannot be")
    return present


def stable_uid(dataset: pydicom.Dataset, labels: np.ndarray, kind: str) -> str:
    """Return a UID that is the same for the same series, mask and kind: an archive then sees no second copy."""
    digest = hashlib.sha256(np.ascontiguousarray(labels.T).data).hexdigest()
    return str(generate_uid(entropy_srcs=[str(dataset.SeriesInstanceUID), digest, kind]))
