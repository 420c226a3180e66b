"""Vertebra centers of either side in RAS+ mm, in one convention: the center of the vertebral body (C1: of the mask).

Read are this project's `NAME_landmarks.json` and `.csv` (mm) and VerSe's `ctd.json`: voxel indices in the axis order
that its `direction` names (restructured release), or 1 mm steps from a corner (flat release, in two axis orders).
Which of them it is, is decided by which puts the points into their own mask. Without a file, or where the file turns
out to hold centers of mass, 8-15 mm behind the body's center, the centers are derived from the mask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..images import InputError
from ..labels import LABELS, row_of_label
from ..landmarks import absent, present_rows, read_landmarks
from ..spaces import Grid, to_voxel
from ..verse import parse_centroids, placed_mm
from .overlap import Piece, landmark_mm, mask_center_mm

FLAT_FRAMES = ("IPL", "PIR")  # VerSe'19 and VerSe'20, 1 mm
IN_MASK_MM = 3.0
MASK_CENTER_MM = 4.0


class Masks(NamedTuple):
    """The pieces of one side by label, and the lattice they are on."""

    pieces: Mapping[int, Piece]
    lattice: np.ndarray


class Centers(NamedTuple):
    """Centers of one side: `(26, 3)` RAS+ mm, NaN = absent, and a few words on where they come from."""

    positions_mm: np.ndarray
    source: str


def find_centers(path: Path | None, grid: Grid | None, masks: Masks | None) -> Centers:
    """Return the body centers of one side.

    Args:
        path: landmark file; None = there is none.
        grid: the image in whose voxels a VerSe file counts; None = not known.
        masks: this side's own masks; None = no mask file.

    Raises:
        InputError: the file cannot be read, or its points lie outside their own masks or the image.
    """
    masks = masks or Masks({}, np.eye(4))
    if path is None:
        return Centers(_from_masks(masks), "body centers derived from the mask")
    try:
        if masks.pieces and _is_tptbox(path):
            return Centers(_from_masks(masks), "body centers derived from the mask; point file of TPTBox left aside")
        if _is_ours(path):
            positions_mm, source = read_landmarks(path), "landmark file, mm"
        else:
            if grid is None:
                raise ValueError("counts in voxels, but there is neither a mask nor an image that says where they are")
            positions_mm, source = _read_verse(path, grid, masks)
    except ValueError as error:
        message = str(error)
        raise InputError(message if str(path) in message else f"{path}: {message}") from error
    if _are_mask_centers(positions_mm, masks):
        return Centers(_from_masks(masks), "body centers derived from the mask; the file holds centers of mass")
    return Centers(positions_mm, source)


def _from_masks(masks: Masks) -> np.ndarray:
    positions_mm = absent()
    for label, piece in masks.pieces.items():
        positions_mm[row_of_label(label)] = landmark_mm(piece, label, masks.lattice)
    return positions_mm


def _are_mask_centers(positions_mm: np.ndarray, masks: Masks) -> bool:
    """Tell centers of mass: nearer to those of the masks than to the bodies (C1, where both agree, left out)."""
    rows = [row for row in present_rows(positions_mm) if row and LABELS[row] in masks.pieces]
    if not rows:
        return False
    of_mass = np.array([mask_center_mm(masks.pieces[LABELS[row]], masks.lattice) for row in rows])
    if np.median(np.linalg.norm(positions_mm[rows] - of_mass, axis=1)) > MASK_CENTER_MM:
        return False
    bodies = np.array([landmark_mm(masks.pieces[LABELS[row]], LABELS[row], masks.lattice) for row in rows])
    return bool(np.median(np.linalg.norm(positions_mm[rows] - bodies, axis=1)) > MASK_CENTER_MM)


def _is_tptbox(path: Path) -> bool:
    """Tell TPTBox's own point formats, which SPINEPS writes; the one it calls docker is VerSe's."""
    document = None if path.suffix == ".csv" else _load(path)
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and str(first.get("format", "docker")).lower() != "docker"


def _is_ours(path: Path) -> bool:
    return path.suffix == ".csv" or isinstance(_load(path), dict)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None


def _read_verse(path: Path, grid: Grid, masks: Masks) -> tuple[np.ndarray, str]:
    """Return `(26, 3)` RAS+ mm and which frame the file counts in."""
    direction, points = parse_centroids(_load(path))
    frames = [(direction, False), (direction, True)] if direction else []
    frames += [(codes, True) for codes in FLAT_FRAMES]
    placed = [(placed_mm(points, codes, grid, in_mm=millimeters), codes, millimeters) for codes, millimeters in frames]
    checks = [_share_in_mask(positions_mm, masks) for positions_mm, _, _ in placed]
    if checks[0] is None:
        if not direction:
            raise ValueError("states no direction, and there is no mask to tell its axes by")
        best, share = 0, _share_in_image(placed[0][0], grid)
    else:
        best = int(np.argmax([check or 0.0 for check in checks]))
        share = checks[best] or 0.0
    count = len(present_rows(points))
    if share < 0.95 and round((1 - share) * count) > 1:
        where = "image" if checks[0] is None else "mask of the same label"
        raise ValueError(f"only {share:.0%} of its {count} points lie in the {where}; is it of another scan?")
    positions_mm, codes, millimeters = placed[best]
    return positions_mm, f"VerSe file, {'1 mm steps' if millimeters else 'voxels'} along {codes}"


def _share_in_mask(positions_mm: np.ndarray, masks: Masks) -> float | None:
    """Return the share of points within `IN_MASK_MM` of their own mask; None if no point has a mask.

    C1 does not count: its center lies in the canal.
    """
    found = []
    for row in present_rows(positions_mm):
        piece = masks.pieces.get(LABELS[row])
        if piece is not None and row:
            index = to_voxel(masks.lattice, positions_mm[row]) - piece.low
            low, high = (np.clip(np.rint(index + reach), 0, None).astype(int) for reach in (-IN_MASK_MM, IN_MASK_MM))
            window = piece.mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
            found.append(bool((index > -IN_MASK_MM).all() and window.any()))
    return float(np.mean(found)) if found else None


def _share_in_image(positions_mm: np.ndarray, grid: Grid) -> float:
    """Return the share of points inside the image; 1 for no points."""
    index = to_voxel(grid.affine, positions_mm[present_rows(positions_mm)])
    return float(((index >= -0.5) & (index <= np.array(grid.shape) - 0.5)).all(axis=1).mean()) if len(index) else 1.0
