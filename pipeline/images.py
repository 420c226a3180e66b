"""Reading CT scans and writing label maps; every check of what a scan may be.

Arrays keep the order in which they are stored; `affine` maps a voxel index to RAS+ mm.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import dicom, itkfile, nifti
from .files import atomic_path
from .geometry import EXACT_DEG, check_geometry, shear_deg, squared
from .spaces import Grid

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

_OURS = "*_segmentation.nii.gz"


class InputError(ValueError):
    """The scan cannot be used; the message is one sentence naming the file and the value."""


@dataclass(frozen=True)
class Scan:
    """One CT in HU on its own grid.

    Attributes:
        name: file name without its suffixes, or the DICOM folder's name.
        array: `(I, J, K)` HU, int16 or float32, in the order it was stored (no reorientation).
        affine: `(4, 4)` float64, voxel index to RAS+ mm.
        path: where it came from.
        warnings: one sentence for each thing that was assumed or corrected while reading.
        files: of a DICOM series, one per slice in the array's order, None where a missing slice was interpolated.
    """

    name: str
    array: np.ndarray
    affine: np.ndarray
    path: Path
    warnings: tuple[str, ...] = ()
    files: tuple[Path | None, ...] = ()

    @property
    def grid(self) -> Grid:
        """Shape and affine of the scan."""
        return Grid(self.array.shape, self.affine)


@dataclass(frozen=True)
class Header:
    """What a scan's headers say, before any voxel is read.

    Attributes:
        name: as the scan's.
        shape: `(I, J, K)`.
        affine: `(4, 4)` float64, voxel index to RAS+ mm, repaired if that was asked for.
        dtype: of the voxels in memory (at most).
        path: where it came from.
        warnings: what was assumed or repaired.
        stack: the DICOM series, None for other formats.
    """

    name: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    path: Path
    warnings: tuple[str, ...] = ()
    stack: dicom.Stack | None = None


def read_header(path: Path, *, repair: bool = True) -> Header:
    """Read and check a scan's geometry without its voxels.

    Args:
        path: as for `read_scan`.
        repair: as for `read_scan`.

    Raises:
        InputError: as for `read_scan`, unless it is about the voxels.
    """
    path = Path(path)
    try:
        header = _stated(path, repair=repair)
        check_geometry(header.shape, header.affine)
        affine, report = squared(header.shape, header.affine) if repair else (header.affine, ())
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return replace(header, affine=affine, warnings=header.warnings + report)


def read_scan(path: Path, *, repair: bool = True) -> Scan:
    """Read one CT: NIfTI, NRRD, MetaImage, or a folder of one DICOM series.

    Args:
        path: the file or folder.
        repair: mend what is slightly wrong with the geometry, each time with a warning; False refuses such a scan or
            takes it exactly as it is.

    Raises:
        InputError: there is no such file, it cannot be read, or it is not a CT that can be used.
    """
    return read_voxels(read_header(path, repair=repair))


def read_voxels(header: Header) -> Scan:
    """Read the voxels that belong to a header; see `read_scan`."""
    path = header.path
    try:
        if header.stack:
            array = nifti.compact(dicom.read_voxels(header.stack))
        elif _suffix(path).startswith(".nii"):
            array = nifti.read_voxels(path)
        else:
            array = nifti.compact(itkfile.read_file(path))
        array, shifted = _to_hounsfield(array)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    files = header.stack.files if header.stack else ()
    return Scan(header.name, array, header.affine, path, header.warnings + shifted, files)


def find_scans(path: Path) -> list[Path]:
    """Return the scans at a path: a file, a DICOM series folder, or all scans and series directly in a folder.

    Our own segmentations and hidden files are skipped.

    Raises:
        InputError: nothing is there.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        return [path]
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    found = [entry for entry in inside if is_scan_file(entry)]
    found += [folder for folder in (path, *inside) if dicom.is_series(folder)]
    if not found:
        raise InputError(f"{path}: no scan in this folder; expected {', '.join(SUFFIXES)} files or a DICOM series")
    return sorted(found)


def is_scan_file(path: Path) -> bool:
    """Tell by its name whether a file may be a scan, and is not one of our own masks."""
    return path.is_file() and bool(_suffix(path)) and not path.name.startswith(".") and not path.match(_OURS)


def scan_name(path: Path) -> str:
    """Return the file's name without its scan suffix; a folder's name stays whole."""
    name = Path(os.path.abspath(path)).name
    return name if Path(path).is_dir() else name[: len(name) - len(_suffix(Path(name)))]


def write_labels(path: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    """Write a label map as NIfTI on exactly the given grid.

    Both of the header's affines are set; the qform is left out where the affine is sheared and it cannot say so.

    Args:
        path: ends in `.nii.gz` or `.nii`.
        labels: `(I, J, K)` uint8.
        affine: `(4, 4)`, voxel index to RAS+ mm.
    """
    import nibabel as nib

    if labels.ndim != 3 or labels.dtype != np.uint8:
        raise ValueError(f"labels are {labels.ndim}-D {labels.dtype}; expected 3-D uint8")
    image = nib.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    if shear_deg(affine) < EXACT_DEG:
        image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)  # nibabel's gzip level is 1 by default


def _suffix(path: Path) -> str:
    """Return which of `SUFFIXES` a name ends in, empty for none."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")


def _stated(path: Path, *, repair: bool) -> Header:
    """Return what the headers say, by the reader for the path's suffix; nothing is checked that needs the geometry."""
    if not path.exists():
        raise ValueError("no such file or folder")
    suffix = _suffix(path)
    if path.is_dir():
        stack = dicom.read_headers(path, repair=repair)
        return Header(scan_name(path), stack.shape, stack.affine, stack.dtype, path, stack.warnings, stack)
    if not suffix:
        hint = "; give the folder of a DICOM series" if path.suffix.lower() in (".dcm", "") else ""
        raise ValueError(f"unknown suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}{hint}")
    if suffix.startswith(".nii"):
        stated = nifti.read_header(path, repair=repair)
        return Header(scan_name(path), stated.shape, stated.affine, stated.dtype, path, stated.warnings)
    header = itkfile.file_header(path)
    return Header(scan_name(path), header.shape, header.affine, header.dtype, path)


def _to_hounsfield(array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the array in HU, shifted if it is stored with an offset; refuse what is no CT by its values.

    HU means bone (something above 150) and air (0.1 % below -300) or fat (0.5 % from -300 to -30).
    """
    low, high = array.min(), array.max()
    if low == high:
        raise ValueError(f"every voxel is {low:g}; nothing to see")
    step = int(np.ceil((array.size / 2e6) ** (1 / 3)))
    sample = array[::step, ::step, ::step]
    if _has_offset(sample):
        array = np.maximum(array, 0)
        array -= 1000
        return array, (f"values {low:g} to {high:g} are not HU but HU plus about 1000: 1000 was subtracted",)
    air, fat = (sample < -300).mean(), ((sample >= -300) & (sample < -30)).mean()
    if high < 150 or (air < 0.001 and fat < 0.005):
        expected = f"expected bone above 150, and air below -300 (here {air:.2%}) or fat below -30 (here {fat:.2%})"
        raise ValueError(f"not a CT in HU: values {low:g} to {high:g}; {expected}")
    return array, ()


def _has_offset(sample: np.ndarray) -> bool:
    """Tell a CT stored as HU + 1000 (or 1024): soft tissue, a narrow peak about 1000, makes up most of the body.

    The lowest value does not count: it may be padding such as -2000.
    """
    body = sample[sample >= 300]
    if sample.max() < 1400 or body.size < 100 or (sample < 300).mean() < 0.01:
        return False
    counts, edges = np.histogram(body, bins=np.arange(300, 3000, 25))
    peak = edges[counts.argmax()]
    negative = ((sample < 0) & (sample > sample.min())).mean()
    return bool(negative < 0.001 and 850 <= peak <= 1150 and ((body >= 850) & (body <= 1150)).mean() > 0.5)
