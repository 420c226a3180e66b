"""DICOM series through ITK, slice by slice: the headers first, then the voxels straight into their place.

Positions are turned from DICOM's LPS here. Everything raises `ValueError` with a reason that does not name
the folder: `images.read_scan` adds it. ITK is imported late, because that takes seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .dicomfiles import choose_series, is_dicom
from .itkfile import LPS_TO_RAS, SMALL, TAGS, file_header, read_file, stated_tags

MAX_GAP_MM = 7.0  # the coarsest voxels accepted: a vertebra cannot hide in a gap of this width


@dataclass(frozen=True)
class Stack:
    """A DICOM series as its headers describe it.

    Attributes:
        files: in the order of the third array axis, None where a slice is missing and will be interpolated; one file
            for all slices if it has several frames.
        shape: `(I, J, K)`.
        affine: `(4, 4)` voxel index to RAS+ mm.
        dtype: int16 where every value fits, else float32.
        warnings: what was left out, assumed or repaired.
        tags: what the first file states, see `itkfile.TAGS`.
    """

    files: tuple[Path | None, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    warnings: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Slice:
    """What the header of one file says: linear part and position in LPS mm, size in voxels."""

    file: Path
    size: tuple[int, int]
    in_plane: np.ndarray
    position_mm: np.ndarray
    dtype: np.dtype
    tags: dict[str, str]


def is_series(folder: Path) -> bool:
    """Return whether a folder directly holds DICOM files (other than our own results)."""
    return folder.is_dir() and any(is_dicom(file) for file in sorted(folder.iterdir()))


def read_headers(folder: Path, *, repair: bool = True) -> Stack:
    """Read the headers of the largest CT series of a folder.

    Args:
        folder: other series in it are named in a warning.
        repair: fill gaps of up to `MAX_GAP_MM` and take slightly uneven slices as even, each with a warning.

    Raises:
        ValueError: no series, no CT, or slices that do not form one regular stack.
    """
    files, warnings = choose_series(folder)
    if len(files) == 1:
        header = file_header(files[0])
        return Stack(tuple(files), header.shape, header.affine, header.dtype, warnings, header.tags)
    slices, odd = _alike([_read_slice_header(file) for file in files])
    first = slices[0]
    normal = np.cross(*(first.in_plane / np.linalg.norm(first.in_plane, axis=0)).T)
    slices.sort(key=lambda item: float(item.position_mm @ normal))
    first, positions_mm = slices[0], np.array([item.position_mm for item in slices])
    counts, uneven = _count_steps((positions_mm - positions_mm[0]) @ normal, repair=repair)
    places: list[Path | None] = [first.file]
    for item, count in zip(slices[1:], counts, strict=True):
        places += [None] * (count - 1) + [item.file]
    affine = np.eye(4)
    affine[:3, :2], affine[:3, 3] = first.in_plane, first.position_mm
    affine[:3, 2] = (positions_mm[-1] - positions_mm[0]) / (len(places) - 1)
    dtype = np.result_type(*{item.dtype for item in slices})
    warnings += odd + uneven + _check_count(slices)
    return Stack(tuple(places), (*first.size, len(places)), LPS_TO_RAS @ affine, dtype, warnings, first.tags)


def read_voxels(stack: Stack) -> np.ndarray:
    """Return the `(I, J, K)` voxels of a series; beside the result, only one slice is in memory at a time.

    Raises:
        ValueError: a file is damaged.
    """
    if len(stack.files) == 1 and stack.files[0] is not None:
        return read_file(stack.files[0])
    array = np.empty(stack.shape, dtype=stack.dtype, order="F")
    for k, file in enumerate(stack.files):
        if file is not None:
            array[..., k] = _read_slice(file, stack.dtype)
    present = np.flatnonzero([file is not None for file in stack.files])
    for k in (k for k, file in enumerate(stack.files) if file is None):
        low, high = present[present < k].max(), present[present > k].min()
        share = (k - low) / (high - low)
        between = (1 - share) * array[..., low].astype(np.float32) + share * array[..., high]
        array[..., k] = np.rint(between) if array.dtype == np.int16 else between
    return array


def _information(file: Path) -> Any:
    """Return ITK's reader of one DICOM file after it has read the header."""
    import itk

    image_io = itk.GDCMImageIO.New(FileName=str(file))
    try:
        image_io.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"the DICOM file {file.name} is damaged or no image") from error
    return image_io


def _read_slice_header(file: Path) -> _Slice:
    """Read position, orientation, size and type of one slice."""
    image_io = _information(file)
    tags = stated_tags(image_io)
    for name in ("position", "orientation", "pixel_spacing"):
        if name not in tags:
            what = f"{name.replace('_', ' ')} (tag {TAGS[name].replace('|', ',')})"
            raise ValueError(f"the DICOM slice {file.name} states no {what}")
    in_plane = np.array([np.array(image_io.GetDirection(axis)) * image_io.GetSpacing(axis) for axis in (0, 1)]).T
    position_mm = np.array([float(number) for number in tags["position"].split("\\")])
    if position_mm.shape != (3,) or not np.isfinite(position_mm).all():
        raise ValueError(f"the DICOM slice {file.name} has the position {tags['position']}")
    size = (int(image_io.GetDimensions(0)), int(image_io.GetDimensions(1)))
    kind = image_io.GetComponentTypeAsString(image_io.GetComponentType())
    dtype = np.dtype(np.int16 if kind in SMALL else np.float32)
    return _Slice(file, size, in_plane[:3], position_mm, dtype, tags)


def _alike(slices: list[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Leave out the few slices that differ in size or direction from the many, such as a localizer."""
    keys = [(item.size, tuple((item.in_plane.ravel() / 2e-3).round().astype(int).tolist())) for item in slices]
    template = slices[keys.index(Counter(keys).most_common(1)[0][0])]
    same = [
        item for item in slices if item.size == template.size and np.abs(item.in_plane - template.in_plane).max() < 2e-3
    ]
    if len(same) == len(slices):
        return slices, ()
    if len(same) < 0.9 * len(slices):
        raise ValueError(f"{len(slices) - len(same)} of {len(slices)} DICOM slices differ in size or orientation")
    return same, (f"DICOM slices left out because their size or orientation differs: {len(slices) - len(same)}",)


def _count_steps(along_mm: np.ndarray, *, repair: bool) -> tuple[list[int], tuple[str, ...]]:
    """Return how many slice distances lie between each two neighbors, and a warning if not all are one.

    Args:
        along_mm: `(K,)` positions along the normal.
        repair: see `read_headers`.

    Raises:
        ValueError: doubled slices, a gap too wide, or anything uneven without `repair`.
    """
    steps_mm = np.diff(along_mm) * np.sign(along_mm[-1] or 1.0)
    usual_mm = float(np.median(steps_mm))
    if steps_mm.min() < 0.01:
        at = int(steps_mm.argmin())
        raise ValueError(f"the DICOM slices {at + 1} and {at + 2} share one place")
    counts = np.clip(np.rint(steps_mm / usual_mm), 1, 1e6).astype(int)
    at, missing = int(steps_mm.argmax()), int((counts - 1).sum())
    place = f"{steps_mm[at]:.4g} mm between slices {at + 1} and {at + 2}, usually {usual_mm:.4g} mm"
    if missing and (not repair or steps_mm.max() > MAX_GAP_MM or np.abs(steps_mm - counts * usual_mm).max() > 0.3):
        raise ValueError(f"DICOM slices are missing: {place}")
    warnings = [f"repaired: DICOM slices missing: {missing} ({place}); interpolated"] if missing else []
    if np.ptp(steps_mm / counts) > 0.05 * usual_mm:
        places = np.cumsum([0, *counts])
        off_mm = np.abs(np.abs(along_mm) - places * abs(along_mm[-1]) / places[-1]).max()
        steps = f"DICOM slices are {steps_mm.min():.4g} to {steps_mm.max():.4g} mm apart"
        if not repair:
            raise ValueError(steps)
        warnings.append(f"{steps}, taken as even: positions may be off by {off_mm:.1f} mm")
    return counts.tolist(), tuple(warnings)


def _check_count(slices: list[_Slice]) -> tuple[str, ...]:
    """Warn if the series states more images than there are: it was cut short."""
    stated = slices[0].tags.get("images_in_acquisition", "")
    if not stated.isdigit() or int(stated) <= len(slices):
        return ()
    return (f"the DICOM series states {stated} images, but {len(slices)} are here: it may be cut short",)


def _read_slice(file: Path, dtype: np.dtype) -> np.ndarray:
    """Return the `(I, J)` voxels of one slice."""
    import itk

    pixel = itk.SS if dtype == np.int16 else itk.F
    image_io = itk.GDCMImageIO.New(FileName=str(file))
    reader = itk.ImageFileReader[itk.Image[pixel, 2]].New(FileName=str(file), ImageIO=image_io)
    try:
        reader.Update()
    except RuntimeError as error:
        raise ValueError(f"the DICOM slice {file.name} is damaged") from error
    return itk.array_from_image(reader.GetOutput()).T
