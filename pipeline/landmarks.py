"""Vertebra landmarks: `(26, 3)` RAS+ mm, one row per vertebra (`labels.NAMES`), NaN row = absent.

A landmark is the center of the vertebral body (C1: of the whole vertebra), as in VerSe.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from .files import atomic_path
from .labels import LABELS, NAMES, NUM_ROWS, row_of_label, row_of_name
from .spaces import spacing_mm, to_world


def absent() -> np.ndarray:
    """Return `(26, 3)` NaN: no vertebra at all."""
    return np.full((NUM_ROWS, 3), np.nan)


def present_rows(landmarks_mm: np.ndarray) -> list[int]:
    """Return the rows that hold a landmark."""
    return [int(row) for row in np.flatnonzero(np.isfinite(landmarks_mm).all(axis=1))]


def write_csv(path: Path, landmarks_mm: np.ndarray) -> None:
    """Write `label,X,Y,Z` (VerSe label, RAS+ mm), one line per present vertebra."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", "X", "Y", "Z"])
        for row in present_rows(landmarks_mm):
            writer.writerow([LABELS[row], *(f"{value:.3f}" for value in landmarks_mm[row])])


def read_csv(path: Path) -> np.ndarray:
    """Read `label,X,Y,Z` in RAS+ mm into `(26, 3)`; the label is a VerSe integer or a name such as `T4`.

    Raises:
        ValueError: a missing column, an unknown label, a label twice or a coordinate that is no number.
    """
    landmarks_mm = absent()
    with open(path, newline="") as stream:
        reader = csv.DictReader(stream)
        if not {"label", "X", "Y", "Z"} <= set(reader.fieldnames or []):
            raise ValueError(f"{path}: expected the columns label,X,Y,Z, found {reader.fieldnames}")
        for line in reader:
            try:
                row = row_of_label(int(line["label"])) if line["label"].isdigit() else row_of_name(line["label"])
                position = _position([line[axis] for axis in "XYZ"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
            if np.isfinite(landmarks_mm[row]).all():
                raise ValueError(f"{path}, line {reader.line_num}: {NAMES[row]} appears twice")
            landmarks_mm[row] = position
    return landmarks_mm


def read_json(path: Path) -> np.ndarray:
    """Read our `NAME_landmarks.json` (`space` must be `RAS`, `units` `mm`) into `(26, 3)`.

    Raises:
        ValueError: the file is not ours, states another space or unit, or has an entry that `read_csv` would refuse.
    """
    try:
        document = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict) or "vertebrae" not in document:
        raise ValueError(f"{path}: no 'vertebrae' list; expected a landmarks file written by vertebrae")
    if (document.get("space"), document.get("units")) != ("RAS", "mm"):
        raise ValueError(f"{path}: space {document.get('space')!r}, units {document.get('units')!r}; expected RAS, mm")
    landmarks_mm = absent()
    for vertebra in document["vertebrae"]:
        try:
            row, position = row_of_label(int(vertebra["label"])), _position(vertebra["position_mm"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, entry {vertebra}: {error}") from None
        if np.isfinite(landmarks_mm[row]).all():
            raise ValueError(f"{path}: {NAMES[row]} appears twice")
        landmarks_mm[row] = position
    return landmarks_mm


def _position(values: Sequence[Any]) -> list[float]:
    """Return three finite numbers; `ValueError` for anything else."""
    position = [float(value) for value in values]
    if len(position) != 3 or not np.isfinite(position).all():
        raise ValueError(f"{position} is no position: expected three numbers")
    return position


def read_landmarks(path: Path) -> np.ndarray:
    """Read a landmark file of either of our two formats, by its suffix."""
    return read_json(path) if str(path).endswith(".json") else read_csv(path)


def body_center_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the `(3,)` RAS+ mm center of the vertebral body in one vertebra's mask.

    The mask is opened with a ball of 0.8 (else 0.7, 0.6) of its largest inscribed radius, which removes the arch and
    the processes; the largest piece's centroid is the body center. On four VerSe masks with expert centroids
    (37 vertebrae) the median error is 0.8 mm.

    Args:
        mask: `(I, J, K)` bool, one vertebra (C1: use the mask's centroid instead).
        affine: its voxel index to RAS+ mm; should be near 1 mm.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("an empty mask has no center")
    spacing = spacing_mm(affine)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)
    for share in (0.8, 0.7, 0.6):
        radius = share * depth.max()
        core = depth >= radius
        opened = ndimage.distance_transform_edt(~core, sampling=spacing) <= radius
        pieces, count = ndimage.label(opened)
        if count:
            largest = 1 + int(np.argmax(ndimage.sum_labels(opened, pieces, range(1, count + 1))))
            if (pieces == largest).sum() >= 0.1 * mask.sum():
                break
    return to_world(affine, np.argwhere(pieces == largest).mean(axis=0) - 1)
