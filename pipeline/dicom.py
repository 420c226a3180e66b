"""Reading through ITK: DICOM series, MetaImage and NRRD. ITK's LPS exists only in this module.

Every function returns `(array, affine, warnings)` with the array `(I, J, K)` as stored and the affine in RAS+ mm, and
raises `ValueError` with a reason that does not name the file: `images.read_scan` adds the name. ITK is imported late,
because that takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Volume = tuple[np.ndarray, np.ndarray, tuple[str, ...]]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DAMAGED = "cannot be read; the file is damaged, cut short, not what its suffix says, or its data file is missing"
_MODALITY, _POSITION, _ORIENTATION = "0008|0060", "0020|0032", "0020|0037"


def is_series(folder: Path) -> bool:
    """Return whether a folder directly holds DICOM files."""
    return folder.is_dir() and any(_is_dicom(file) for file in sorted(folder.iterdir()))


def read_file(path: Path) -> Volume:
    """Read one MetaImage or NRRD file, or one DICOM file of several frames.

    Raises:
        ValueError: ITK cannot read it, or a voxel holds more than one number.
    """
    import itk

    try:
        image_io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if image_io is None:
            raise ValueError(_DAMAGED)
        image_io.SetFileName(str(path))
        image_io.ReadImageInformation()
        image_type = _image_type(image_io)
        reader = itk.ImageFileReader[image_type].New(FileName=str(path), ImageIO=image_io)
        reader.Update()
    except RuntimeError as error:
        raise ValueError(_DAMAGED) from error
    image = reader.GetOutput()
    array = itk.array_from_image(image).T  # ITK's arrays are (K, J, I)
    return array, _LPS_TO_RAS @ _affine_lps(image), ()


def read_series(folder: Path) -> Volume:
    """Read the largest CT series of a DICOM folder; other series and uneven slices are warned of.

    Raises:
        ValueError: no series, no CT, unreadable slices, or slices that do not form one regular stack.
    """
    import itk

    files, warnings = _choose_series(folder)
    if len(files) == 1:
        array, affine, _ = read_file(Path(files[0]))
        return array, affine, warnings
    try:
        image_io = itk.GDCMImageIO.New(FileName=files[0])
        image_io.ReadImageInformation()
        reader = itk.ImageSeriesReader[_image_type(image_io)].New(FileNames=files, ImageIO=image_io)
        reader.Update()
    except RuntimeError as error:
        raise ValueError("cannot be read; a slice is damaged or differs in size from the others") from error
    affine, uneven = _stack_affine(_affine_lps(reader.GetOutput()), list(reader.GetMetaDataDictionaryArray()))
    return itk.array_from_image(reader.GetOutput()).T, _LPS_TO_RAS @ affine, warnings + uneven


def _is_dicom(file: Path) -> bool:
    """Tell a DICOM file by the mark after its preamble; the index file DICOMDIR is none."""
    if not file.is_file() or file.name.startswith(".") or file.name == "DICOMDIR":
        return False
    with open(file, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _image_type(image_io: Any) -> Any:
    """Choose ITK's image type: int16 where every value of the file's type fits, else float32."""
    import itk

    if image_io.GetNumberOfComponents() != 1:
        raise ValueError(f"{image_io.GetNumberOfComponents()} values per voxel; expected one")
    kind = image_io.GetComponentTypeAsString(image_io.GetComponentType())
    pixel = itk.SS if kind in ("char", "unsigned_char", "short") else itk.F
    return itk.Image[pixel, 4 if image_io.GetNumberOfDimensions() > 3 else 3]


def _affine_lps(image: Any) -> np.ndarray:
    """Return the `(4, 4)` voxel index to LPS mm of the first three axes of an ITK image."""
    import itk

    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection())[:3, :3] * np.asarray(image.GetSpacing())[:3]
    affine[:3, 3] = np.asarray(image.GetOrigin())[:3]
    return affine


def _choose_series(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return the files of the CT series with most files, in the order of their positions, and what was left out."""
    import itk

    names = itk.GDCMSeriesFileNames.New(Directory=str(folder))
    series = [list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]
    if not series:
        raise ValueError("no DICOM image series in this folder")
    ranked = sorted(((_modality(files[0]), files) for files in series), key=lambda pair: -len(pair[1]))
    usable = [files for modality, files in ranked if modality in ("CT", "")]
    if not usable:
        raise ValueError(f"the DICOM modality is {ranked[0][0]}; expected CT")
    warnings = []
    if len(series) > 1:
        sizes = ", ".join(f"{modality or 'unnamed'} of {len(files)}" for modality, files in ranked)
        warnings.append(f"{len(series)} DICOM series ({sizes} slices): the CT series of {len(usable[0])} was read")
    lost = sum(_is_dicom(file) for file in folder.iterdir()) - sum(len(files) for files in series)
    if lost > 0:
        warnings.append(f"DICOM files left out, damaged or no images: {lost}")
    return usable[0], tuple(warnings)


def _modality(file: str) -> str:
    """Return the modality a DICOM file states, empty if it states none."""
    import itk

    image_io = itk.GDCMImageIO.New(FileName=file)
    try:
        image_io.ReadImageInformation()
    except RuntimeError:
        return "not an image"  # a report or a structure set: never chosen
    dictionary = image_io.GetMetaDataDictionary()
    return str(dictionary[_MODALITY]).strip() if dictionary.HasKey(_MODALITY) else ""


def _stack_affine(affine_lps: np.ndarray, slices: list[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine whose third axis runs from the first slice to the last, and a warning if steps differ.

    Args:
        affine_lps: `(4, 4)` of the first slice; ITK assumes a third axis along the normal, wrong for a tilted gantry.
        slices: one ITK dictionary per slice, in array order.
    """
    positions_mm = _numbers(slices, _POSITION)
    turned = np.abs(np.diff(_numbers(slices, _ORIENTATION), axis=0)).max()
    if turned > 1e-3:
        raise ValueError(f"the DICOM slices differ in orientation (direction cosines by {turned:.3f})")
    affine = affine_lps.copy()
    affine[:3, 2] = (positions_mm[-1] - positions_mm[0]) / (len(slices) - 1)
    along_mm = (positions_mm - positions_mm[0]) @ np.cross(
        *(affine_lps[:3, :2] / np.linalg.norm(affine_lps[:3, :2], axis=0)).T
    )
    return affine, _check_steps(along_mm)


def _check_steps(along_mm: np.ndarray) -> tuple[str, ...]:
    """Warn of uneven slice positions `(K,)` in mm along the normal; refuse doubled slices and wide gaps."""
    steps_mm = np.diff(along_mm) * np.sign(along_mm[-1] or 1.0)
    usual_mm = float(np.median(steps_mm))
    if steps_mm.min() < 0.01:
        at = int(steps_mm.argmin())
        raise ValueError(f"the DICOM slices {at + 1} and {at + 2} share one place or are out of order")
    if steps_mm.max() > 2.05 * usual_mm:
        at = int(steps_mm.argmax())
        reason = f"{steps_mm[at]:g} mm between slices {at + 1} and {at + 2}, usually {usual_mm:g} mm"
        raise ValueError(f"DICOM slices are missing: {reason}")
    if np.ptp(steps_mm) <= 0.05 * usual_mm:
        return ()
    off_mm = np.abs(along_mm - np.linspace(0, along_mm[-1], len(along_mm))).max()
    steps = f"{steps_mm.min():g} to {steps_mm.max():g} mm"
    return (f"DICOM slices are {steps} apart, taken as even: positions may be off by {off_mm:.1f} mm",)


def _numbers(slices: list[Any], tag: str) -> np.ndarray:
    """Return `(K, n)` numbers of one tag of every slice."""
    if not all(dictionary.HasKey(tag) for dictionary in slices):
        raise ValueError(f"a DICOM slice has no tag {tag.replace('|', ',')} (position or orientation)")
    return np.array([[float(number) for number in str(dictionary[tag]).split("\\")] for dictionary in slices])
