"""Reading NIfTI. Everything raises `ValueError` with a reason that does not name the file.

nibabel is imported late, because it brings pydicom along where that is installed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .geometry import VOXEL_SIZE_MM, check_size
from .spaces import spacing_mm

# Where isal is installed, files are unpacked nearly three times as fast as with the standard library.
_GZIP, _CODEC = map(import_module, ("isal.igzip", "isal.isal_zlib") if find_spec("isal") else ("gzip", "zlib"))
_DAMAGED = (zlib.error, _CODEC.error)
_UNITS = {1: ("meter", 1000.0), 3: ("micron", 0.001)}  # by code: name and mm


@dataclass(frozen=True)
class NiftiHeader:
    """Size, `(4, 4)` voxel index to RAS+ mm, type in memory (at most), and what was assumed or repaired."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    warnings: tuple[str, ...]


def read_header(path: Path, *, repair: bool = True) -> NiftiHeader:
    """Read size, type and geometry.

    Args:
        path: the file.
        repair: use the qform where the sform is unusable, and the unit the header states where mm are impossible.
    """
    import nibabel as nib

    try:
        image: Any = nib.load(path)
        dtype, shape = image.get_data_dtype(), tuple(int(n) for n in image.shape)
        affine, warnings = _affine(image, repair=repair)
    except _unreadable() as error:
        raise ValueError(_reason(path, error)) from error
    _one_volume(shape, dtype)
    check_size(shape, dtype.itemsize, path.stat().st_size, compressed=_is_packed(path))
    small = dtype.kind in "iu" and dtype.itemsize <= 2 and image.dataobj.slope == 1
    return NiftiHeader(shape[:3], affine, np.dtype(np.int16 if small else np.float32), warnings)  # type: ignore[arg-type]


def read_voxels(path: Path) -> np.ndarray:
    """Return the `(I, J, K)` voxels, scaled as the header says: int16 if all are integers that fit, else float32."""
    image, raw = read_whole(path)
    return compact(raw.reshape(raw.shape[:3], order="F"), image.dataobj.slope, image.dataobj.inter)


def read_whole(path: Path) -> tuple[Any, np.ndarray]:
    """Return nibabel's image and its voxels as stored, without scale factors.

    The file is read to its very end, where gzip keeps its checksum: nibabel alone stops before, and takes damaged
    voxels for sound ones.
    """
    import nibabel as nib

    try:
        kind: Any = type(nib.load(path))  # NIfTI-1 or NIfTI-2
        with _GZIP.open(path) if _is_packed(path) else open(path, "rb") as stream:
            image = kind.from_file_map({"image": nib.FileHolder(fileobj=stream)}, mmap=False)
            raw = np.asarray(image.dataobj.get_unscaled())
            while stream.read(2**20):
                pass
    except _unreadable() as error:
        raise ValueError(_reason(path, error)) from error
    return image, raw


def compact(raw: np.ndarray, slope: float = 1.0, inter: float = 0.0) -> np.ndarray:
    """Return `slope * raw + inter` as int16 if every value is an integer that fits, else float32, slab by slab."""
    if raw.dtype == np.int16 and (slope, inter) == (1.0, 0.0):
        return raw
    bad, whole = 0, True
    for k in range(raw.shape[2]):
        slab = _scaled(raw[..., k], slope, inter)
        bad += int((~np.isfinite(slab)).sum())
        whole = whole and not bad and bool((np.abs(slab) < 2**15).all() and (slab == np.rint(slab)).all())
    if bad:
        raise ValueError(f"voxels that are not finite (NaN or infinite): {bad}")
    result = np.empty(raw.shape, dtype=np.int16 if whole else np.float32, order="F")
    for k in range(raw.shape[2]):
        result[..., k] = _scaled(raw[..., k], slope, inter)
    return result


def _scaled(slab: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """Return `slope * slab + inter` in double precision; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = slab * np.float64(slope) + inter
        return np.where(np.abs(scaled) <= np.finfo(np.float32).max, scaled, np.inf)


def _one_volume(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse what is not one 3-D volume of real numbers; trailing axes of length one are fine."""
    size = " x ".join(str(n) for n in shape)
    if dtype.kind not in "iuf":
        raise ValueError(f"voxels of type {dtype}; expected one real number each")
    if len(shape) > 3 and max(shape[3:]) > 1:
        raise ValueError(f"{len(shape)}-D image of {size} voxels; expected one 3-D volume")
    if len(shape) < 3 or min(shape) < 1 or min(shape[:3]) < 2:
        raise ValueError(f"2-D image of {size} voxels; expected a 3-D volume")


def _affine(image: Any, *, repair: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine that the header means, and what was assumed or repaired."""
    header, warnings = image.header, []
    affine = np.array(image.affine, dtype=np.float64)
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        warnings.append("no orientation stated (sform and qform code 0): left and right may be swapped")
    if repair and int(header["sform_code"]) and int(header["qform_code"]) and not _usable(affine):
        affine = np.array(header.get_qform(), dtype=np.float64)
        warnings.append("repaired: the sform is unusable, the qform was taken")
    name, unit = _UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    if repair and name and np.isfinite(affine).all() and not _plausible(affine) and _plausible(affine * unit):
        affine[:3] *= unit
        warnings.append(f"repaired: the header's unit is {name}, taken to mm")
    return affine, tuple(warnings)


def _unreadable() -> tuple[type[Exception], ...]:
    """Return what reading a damaged file can raise."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    return OSError, EOFError, ValueError, *_DAMAGED, ImageFileError, HeaderDataError, OverflowError, MemoryError


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _usable(affine: np.ndarray) -> bool:
    return bool(np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3)


def _plausible(affine: np.ndarray) -> bool:
    spacing = spacing_mm(affine)
    return bool(spacing.min() >= VOXEL_SIZE_MM[0] and spacing.max() <= VOXEL_SIZE_MM[1])


def _reason(path: Path, error: Exception) -> str:
    """Return one line on why a file cannot be read."""
    if isinstance(error, _DAMAGED):
        return "cannot be read (the compressed data are damaged)"
    return f"cannot be read ({' '.join(str(error).replace(str(path), path.name).split())[:150]})"
