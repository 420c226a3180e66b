"""Results on grids of every orientation whose mask is known at every world position, and their scans as DICOM."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
from ball_spine import CENTER_MM, affine_of
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from pipeline.images import Scan
from pipeline.labelling import Labelling, Vertebra
from pipeline.labels import LABELS, NAMES, row_of_name
from pipeline.landmarks import absent
from pipeline.run import Result

ALL_AXCODES = ["".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]
GRIDS = [(codes, oblique) for codes in ALL_AXCODES for oblique in (False, True)]
SHAPE, SPACING_MM = (20, 17, 13), (1.3, 1.7, 2.1)

# Center (from CENTER_MM) and half size in mm, unlike in every direction; no voxel center lies on an edge.
BLOCKS = {
    "T12": ((2.237, -3.121, 8.853), (5.13, 3.77, 2.91)),
    "T13": ((-4.331, 2.417, 1.973), (3.71, 4.93, 2.17)),
    "L1": ((1.119, 4.771, -7.613), (7.19, 2.83, 3.07)),
}


def truth(points_mm: np.ndarray) -> np.ndarray:
    """Return the label at `(..., 3)` RAS+ mm."""
    labels = np.zeros(points_mm.shape[:-1], np.uint8)
    for name, (center, half) in BLOCKS.items():
        labels[(np.abs(points_mm - CENTER_MM - center) < half).all(axis=-1)] = LABELS[row_of_name(name)]
    return labels


def world_mm(shape, affine: np.ndarray) -> np.ndarray:
    """Return `(I, J, K, 3)` positions of the voxel centers."""
    return np.stack(np.indices(shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]


def make_result(scan: Scan) -> Result:
    """Return what a perfect pipeline would find in a scan."""
    landmarks_mm, vertebrae = absent(), []
    for candidate, (name, (center, _)) in enumerate(BLOCKS.items()):
        row = row_of_name(name)
        landmarks_mm[row] = CENTER_MM + center
        vertebrae.append(Vertebra(row, NAMES[row], LABELS[row], landmarks_mm[row], 0.9, 0.875, "L1", 0.1, candidate))
    labels = np.asfortranarray(truth(world_mm(scan.array.shape, scan.affine)))
    labelling = Labelling(tuple(vertebrae), landmarks_mm, warnings=())
    return Result(scan, np.stack([CENTER_MM - 12, CENTER_MM + 12]), labelling, labels)


def make_scan(axcodes: str, oblique: bool, path: Path = Path("case.nii.gz")) -> Scan:
    """Return a small CT (air, soft tissue, bone) on a grid."""
    affine = affine_of(axcodes, SPACING_MM, SHAPE, oblique=oblique)
    world = world_mm(SHAPE, affine)
    array = np.where(np.linalg.norm(world - CENTER_MM, axis=-1) < 12, 40, -1000)
    array[truth(world) > 0] = 400
    return Scan("case", array.astype(np.int16), affine, path)


def save_series(folder: Path, scan: Scan, keep=None, **tags) -> Path:
    """Write a scan as a DICOM series by pydicom; rows are the second array axis, columns the first."""
    folder.mkdir()
    affine_lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)
    directions = affine_lps[:3, :3] / spacing
    for k in range(scan.array.shape[2]) if keep is None else keep:
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"1.2.3.4.{k + 1}"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
        image.Modality, image.InstanceNumber, image.PatientPosition = "CT", k + 1, "HFS"
        image.PatientName, image.PatientID = "Doe^Jane", "42"
        image.ImagePositionPatient = [f"{value:.6f}" for value in affine_lps[:3, :3] @ [0, 0, k] + affine_lps[:3, 3]]
        image.ImageOrientationPatient = [f"{value:.8f}" for value in (*directions[:, 0], *directions[:, 1])]
        image.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]  # between rows, between columns
        image.Rows, image.Columns = scan.array.shape[1], scan.array.shape[0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = np.ascontiguousarray(scan.array[..., k].T).tobytes()
        for name, value in tags.items():
            setattr(image, name, value)
        image.save_as(folder / f"{99 - k}.dcm", enforce_file_format=True)
    return folder
