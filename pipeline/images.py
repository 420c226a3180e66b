"""Reading CT scans and writing label maps; every check of what a scan may be.

Arrays keep the order in which they are stored; `affine` maps a voxel index to RAS+ mm.
"""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from . import dicom
from .files import atomic_path
from .spaces import Grid, spacing_mm

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
VOXEL_SIZE_MM = (0.15, 7.0)  # neighboring vertebrae, 15 mm apart in the neck, cannot be told apart above
MIN_EXTENT_MM = 20.0
MAX_SHEAR_DEG = 5.0

_OURS = "*_segmentation.nii.gz"
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)


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
    """

    name: str
    array: np.ndarray
    affine: np.ndarray
    path: Path
    warnings: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """Shape and affine of the scan."""
        return Grid(self.array.shape, self.affine)


def read_scan(path: Path) -> Scan:
    """Read one CT: NIfTI, NRRD, MetaImage, or a folder of one DICOM series.

    Raises:
        InputError: there is no such file, it cannot be read, or it is not a CT that can be used.
    """
    path = Path(path)
    try:
        array, affine, warnings = _read_volume(path)
        _check_geometry(array.shape, affine)
        array, shifted = _to_hounsfield(array)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return Scan(scan_name(path), array, affine, path, warnings + shifted)


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
    found = [entry for entry in inside if entry.is_file() and _suffix(entry) and not entry.match(_OURS)]
    found += [folder for folder in (path, *inside) if dicom.is_series(folder)]
    if not found:
        raise InputError(f"{path}: no scan in this folder; expected {', '.join(SUFFIXES)} files or a DICOM series")
    return sorted(found)


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
    if labels.ndim != 3 or labels.dtype != np.uint8:
        raise ValueError(f"labels are {labels.ndim}-D {labels.dtype}; expected 3-D uint8")
    image = nib.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    if _shear_deg(affine) < 0.01:
        image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)  # nibabel's gzip level is 1 by default


def _suffix(path: Path) -> str:
    """Return which of `SUFFIXES` a name ends in, empty for none."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")


def _read_volume(path: Path) -> dicom.Volume:
    """Read what is stored, in the smallest type that holds it."""
    if not path.exists():
        raise ValueError("no such file or folder")
    suffix = _suffix(path)
    if path.is_file() and suffix.startswith(".nii"):
        return _read_nifti(path)
    if path.is_file() and not suffix:
        hint = "; give the folder of a DICOM series" if path.suffix.lower() in (".dcm", "") else ""
        raise ValueError(f"unknown suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}{hint}")
    raw, affine, warnings = dicom.read_series(path) if path.is_dir() else dicom.read_file(path)
    return _compact(_one_volume(raw)), affine, warnings


def _read_nifti(path: Path) -> dicom.Volume:
    """Read a NIfTI file to its very end, where gzip keeps its checksum; the scale factors are applied."""
    try:
        kind: Any = type(nib.load(path))  # NIfTI-1 or NIfTI-2
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as stream:
            image = kind.from_file_map({"image": nib.FileHolder(fileobj=stream)}, mmap=False)
            raw = np.asarray(image.dataobj.get_unscaled())
            stream.read()
    except _UNREADABLE as error:
        reason = " ".join(str(error).replace(str(path), path.name).split())[:150]
        raise ValueError(f"cannot be read ({reason})") from error
    array = _compact(_one_volume(raw), image.dataobj.slope, image.dataobj.inter)
    if int(image.header["sform_code"]) or int(image.header["qform_code"]):
        return array, np.array(image.affine, dtype=np.float64), ()
    warning = "no orientation stated (sform and qform code 0): left and right may be swapped"
    return array, np.array(image.affine, dtype=np.float64), (warning,)


def _one_volume(raw: np.ndarray) -> np.ndarray:
    """Return a 3-D view, without trailing axes of length one."""
    size = " x ".join(str(n) for n in raw.shape)
    if raw.dtype.kind not in "iuf":
        raise ValueError(f"voxels of type {raw.dtype}; expected one real number each")
    if raw.ndim > 3 and max(raw.shape[3:]) > 1:
        raise ValueError(f"{raw.ndim}-D image of {size} voxels; expected one 3-D volume")
    if raw.ndim < 3 or min(raw.shape[:3]) < 2:
        raise ValueError(f"2-D image of {size} voxels; expected a 3-D volume")
    return raw.reshape(raw.shape[:3], order="F")


def _compact(raw: np.ndarray, slope: float = 1.0, inter: float = 0.0) -> np.ndarray:
    """Return `slope * raw + inter` as int16 if every value is an integer that fits, else float32, slab by slab."""
    if raw.dtype == np.int16 and (slope, inter) == (1.0, 0.0):
        return raw
    bad, whole = 0, True
    for k in range(raw.shape[2]):
        slab = raw[..., k] * np.float64(slope) + inter
        bad += int((~np.isfinite(slab)).sum())
        whole = whole and not bad and bool((np.abs(slab) < 2**15).all() and (slab == np.rint(slab)).all())
    if bad:
        raise ValueError(f"voxels that are not finite (NaN or infinite): {bad}")
    result = np.empty(raw.shape, dtype=np.int16 if whole else np.float32, order="F")
    for k in range(raw.shape[2]):
        result[..., k] = raw[..., k] * np.float64(slope) + inter
    return result


def _check_geometry(shape: tuple[int, ...], affine: np.ndarray) -> None:
    """Refuse an affine or a size that no CT has."""
    if not np.isfinite(affine).all():
        raise ValueError(f"the affine holds {affine[~np.isfinite(affine)][0]}")
    if np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError(f"the affine is singular (determinant {np.linalg.det(affine[:3, :3]):.3g})")
    spacing = spacing_mm(affine)
    sizes = " x ".join(f"{value:.4g}" for value in spacing)
    low, high = VOXEL_SIZE_MM
    if spacing.min() < low - 1e-4 or spacing.max() > high + 1e-4:
        raise ValueError(f"voxels of {sizes} mm; expected {low} to {high:g} mm (is the unit mm?)")
    if _shear_deg(affine) > MAX_SHEAR_DEG:
        raise ValueError(f"axes are sheared by {_shear_deg(affine):.1f} degrees (a tilted gantry?); resample it first")
    extent = np.array(shape) * spacing
    if extent.min() < MIN_EXTENT_MM:
        raise ValueError(f"only {extent.min():.3g} mm along one axis; at least {MIN_EXTENT_MM:g} mm are needed")


def _shear_deg(affine: np.ndarray) -> float:
    """Return by how many degrees the array axes differ most from being at right angles."""
    axes = affine[:3, :3] / spacing_mm(affine)
    return float(np.degrees(np.arcsin(np.clip(np.abs(np.triu(axes.T @ axes, 1)).max(), 0, 1))))


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
