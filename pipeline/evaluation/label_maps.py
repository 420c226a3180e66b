"""Reading a vertebra mask of any of the usual tools as VerSe labels.

| what | how it is told |
|---|---|
| VerSe, this project, SPINEPS | 1-25, 28; left out: sacrum, coccyx (26, 27), discs, end plates (101-128, 201-228) |
| TotalSegmentator, one file | names in the NIfTI header's extension; else values from 34 to 99, which VerSe has not |
| TotalSegmentator, a folder | files `vertebrae_L1.nii.gz` |
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..images import InputError
from ..labels import LABELS, NAMES, row_of_name
from ..nifti import read_whole

_NAMED = re.compile(r"vertebrae_([CTL]\d+)", re.IGNORECASE)
_TABLE_ENTRY = re.compile(r"<Label\b[^>]*\bKey=\"(\d+)\"[^>]*>\s*(?:<!\[CDATA\[)?\s*([\w.-]+)")
_NOT_VERTEBRAE = {26, 27, *range(101, 129), *range(201, 229)}

# TotalSegmentator's task "total" since version 2 counts up from the sacrum: L5 = 27 ... L1 = 31, T12 = 32 ... C1 = 50.
_TOTALSEGMENTATOR = {27 + step: LABELS[23 - step] for step in range(24)}
_ONLY_TOTALSEGMENTATOR = range(34, 100)


def read_label_map(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a mask file, or a folder of `vertebrae_NAME.nii.gz`, as VerSe labels.

    Returns:
        `(I, J, K)` uint8 with 0, 1-25 and 28, and its `(4, 4)` affine to RAS+ mm.

    Raises:
        InputError: it cannot be read, is not 3-D, holds values that are no labels, or its labels cannot be told apart.
    """
    path = Path(path)
    try:
        return _read_parts(path) if path.is_dir() else _read_file(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {' '.join(str(error).replace(str(path), path.name).split())}") from error


def vertebra_parts(folder: Path) -> dict[int, Path]:
    """Return TotalSegmentator's files `vertebrae_NAME.nii.gz` of a folder by VerSe label."""
    parts = {}
    for path in sorted(folder.glob("vertebrae_*.nii*")):
        if named := _NAMED.fullmatch(path.name.split(".nii")[0]):
            parts[LABELS[row_of_name(named.group(1))]] = path
    return parts


def _read_parts(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    parts = vertebra_parts(folder)
    if not parts:
        raise ValueError("no file vertebrae_NAME.nii.gz in this folder")
    labels: np.ndarray | None = None
    affine = np.eye(4)
    for label, path in parts.items():
        image, raw = read_whole(path)
        mask = _integers(image, raw)
        if labels is None:
            labels, affine = np.zeros(mask.shape, np.uint8), np.array(image.affine, dtype=np.float64)
        if mask.shape != labels.shape or not np.allclose(image.affine, affine, atol=1e-3):
            raise ValueError(f"{path.name} is on another grid than the files before it")
        labels[mask > 0] = label
    assert labels is not None
    return labels, affine


def _read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image, raw = read_whole(path)
    values = _integers(image, raw)
    affine = np.array(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError("the affine is not finite or singular")
    table = np.zeros(256, np.uint8)
    counts = sum(np.bincount(values[..., k].ravel(), minlength=256) for k in range(values.shape[2]))
    for value, label in _scheme(image, np.flatnonzero(counts)).items():
        table[value] = label
    return table[values], affine


def _integers(image: Any, raw: Any) -> np.ndarray:
    """Return the stored voxels of an image as `(I, J, K)` uint8, slab by slab; refuse anything else than labels."""
    slope, inter = image.dataobj.slope, image.dataobj.inter
    if raw.ndim < 3 or max(raw.shape[3:], default=1) > 1:
        raise ValueError(f"{raw.ndim}-D image of {' x '.join(map(str, raw.shape))} voxels; expected one 3-D label map")
    raw = raw.reshape(raw.shape[:3], order="F")
    if raw.dtype == np.uint8 and (slope, inter) == (1.0, 0.0):
        return raw
    result = np.empty(raw.shape, np.uint8, order="F")
    for k in range(raw.shape[2]):
        slab = raw[..., k] if (slope, inter) == (1.0, 0.0) else raw[..., k] * np.float64(slope) + inter
        whole = np.rint(slab)
        # A scale factor leaves rounding errors; NaN fails both comparisons.
        wrong = ~((np.abs(slab - whole) < 1e-3) & (whole >= 0) & (whole < 256))
        if wrong.any():
            raise ValueError(f"value {slab[wrong][0]:g} is no label; expected a mask with integers from 0 to 255")
        result[..., k] = whole
    return result


def _scheme(image: Any, values: np.ndarray) -> dict[int, int]:
    """Return the VerSe label of every value that is a vertebra."""
    named = _header_names(image)
    if named:
        return named
    present = {int(value) for value in values} - {0}
    if any(value in _ONLY_TOTALSEGMENTATOR for value in present):
        return _TOTALSEGMENTATOR
    unknown = present - set(LABELS) - _NOT_VERTEBRAE
    if unknown:
        raise ValueError(
            f"label {min(unknown)} is neither VerSe's (1-25, 28) nor clearly TotalSegmentator's, and the header "
            "names no labels"
        )
    return {label: label for label in LABELS}


def _header_names(image: Any) -> dict[int, int]:
    """Return the VerSe label by value of the label table that TotalSegmentator keeps in the header; empty for none."""
    found = {}
    for extension in getattr(image.header, "extensions", ()):
        content = extension.get_content()
        text = content.decode("utf-8", "ignore") if isinstance(content, bytes) else str(content)
        for value, name in _TABLE_ENTRY.findall(text):
            if (named := _NAMED.fullmatch(name)) and named.group(1).upper() in NAMES:
                found[int(value)] = LABELS[row_of_name(named.group(1))]
    return found
