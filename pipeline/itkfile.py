"""MetaImage, NRRD and DICOM of several frames: one file, read by ITK. LPS stays inside.

Everything raises `ValueError` with a reason that does not name the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .geometry import check_size

SMALL = ("char", "unsigned_char", "short")  # types whose every value fits int16
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
TAGS = {
    "modality": "0008|0060",
    "patient_position": "0018|5100",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "pixel_spacing": "0028|0030",
    "images_in_acquisition": "0020|1002",
}
_DAMAGED = "cannot be read; the file is damaged, cut short, not what its suffix says, or its data file is missing"


@dataclass(frozen=True)
class ItkHeader:
    """Size, `(4, 4)` voxel index to RAS+ mm, type in memory, and the DICOM tags it states of `TAGS`."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    tags: dict[str, str]


def file_header(path: Path) -> ItkHeader:
    """Read the header of one file.

    Raises:
        ValueError: ITK cannot read it, it is no volume of one number per voxel, or it promises more than it can hold.
    """
    image_io = _information(path)
    kind = _kind(image_io)
    shape = tuple(int(image_io.GetDimensions(axis)) for axis in range(image_io.GetNumberOfDimensions()))
    size = " x ".join(str(n) for n in shape)
    if not shape:
        raise ValueError(_DAMAGED)
    if image_io.GetNumberOfComponents() != 1:
        raise ValueError(f"{image_io.GetNumberOfComponents()} values per voxel; expected one")
    if len(shape) > 3 and max(shape[3:]) > 1:
        raise ValueError(f"{len(shape)}-D image of {size} voxels; expected one 3-D volume")
    if len(shape) < 3 or min(shape[:3]) < 2:
        size = f"{size} x 1" if len(shape) == 2 else size
        raise ValueError(f"2-D image of {size} voxels; expected a 3-D volume")
    if path.suffix.lower() not in (".mhd", ".nhdr"):  # these only name the file of the voxels
        check_size(shape[:3], int(image_io.GetComponentSize()), path.stat().st_size, compressed=True)
    affine = np.eye(4)
    for axis in range(3):
        affine[:3, axis] = np.array(image_io.GetDirection(axis))[:3] * image_io.GetSpacing(axis)
        affine[axis, 3] = image_io.GetOrigin(axis)
    dtype = np.dtype(np.int16 if kind in SMALL else np.float32)
    return ItkHeader(shape[:3], LPS_TO_RAS @ affine, dtype, stated_tags(image_io))  # type: ignore[arg-type]


def read_file(path: Path) -> np.ndarray:
    """Return the `(I, J, K)` voxels of one file as stored, int16 where every value fits, else float32."""
    import itk

    image_io = _information(path)
    pixel = itk.SS if _kind(image_io) in SMALL else itk.F
    dimensions = 4 if image_io.GetNumberOfDimensions() > 3 else 3
    try:
        reader = itk.ImageFileReader[itk.Image[pixel, dimensions]].New(FileName=str(path), ImageIO=image_io)
        reader.Update()
    except (RuntimeError, MemoryError) as error:
        raise ValueError(_DAMAGED) from error
    image = reader.GetOutput()
    array = itk.array_view_from_image(image).T  # ITK's arrays are (K, J, I)
    return np.array(array.reshape(array.shape[:3], order="F"), order="F")


def stated_tags(image_io: Any) -> dict[str, str]:
    """Return those of `TAGS` that a file states; ITK's own dictionary dies with its reader."""
    dictionary = image_io.GetMetaDataDictionary()
    return {name: str(dictionary[tag]).strip() for name, tag in TAGS.items() if dictionary.HasKey(tag)}


def _kind(image_io: Any) -> str:
    """Return ITK's name of the type of a voxel's number, such as `"short"`."""
    kind = image_io.GetComponentTypeAsString(image_io.GetComponentType())
    if kind == "unknown":
        raise ValueError(_DAMAGED)
    return kind


def _information(path: Path) -> Any:
    """Return ITK's reader of a file after it has read the header."""
    import itk

    try:
        image_io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if image_io is None:
            raise ValueError(_DAMAGED)
        image_io.SetFileName(str(path))
        image_io.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(_DAMAGED) from error
    return image_io
