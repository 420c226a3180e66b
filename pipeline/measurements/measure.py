"""Measure one scan: every vertebra inside its own box, then what holds between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from ..labels import LABELS, NAMES, ROWS_BY_LEVEL
from ..landmarks import present_rows
from ..spaces import to_world
from .angles import between, coronal_curves
from .bodies import find_body
from .density import densities
from .heights import losses
from .pieces import Piece, cut_piece, meets_padding, padding_of
from .records import Body, Measure, Measurements, NotMeasurable, Vertebra

HEADWARDS = np.array([0.0, 0.0, 1.0])
FORWARDS = np.array([0.0, 1.0, 0.0])
PROCESSES_MM = 3.0  # a mask whose center of mass is nearer to the body's center has no processes that tell its back
FULLEST = 1.1  # body height against distance to the next body; sound bodies stay below 1
NO_BODY = {"C1": "C1 has no body", "C2": "C2's body bears the dens"}


def measure(
    labels: np.ndarray, affine: np.ndarray, landmarks_mm: np.ndarray, hu: np.ndarray | None = None
) -> Measurements:
    """Return everything that can be measured on a scan.

    Args:
        labels: `(I, J, K)` uint8 VerSe labels.
        affine: `(4, 4)`, voxel index to RAS+ mm.
        landmarks_mm: `(26, 3)` body centers, RAS+ mm, NaN row = absent.
        hu: `(I, J, K)` the scan on the same grid; None = not at hand, so densities are missing.
    """
    present = present_rows(landmarks_mm)
    rows = [row for row in ROWS_BY_LEVEL if row in present]
    boxes = ndimage.find_objects(labels, max_label=max(LABELS))
    padding = padding_of(hu)
    pieces = {row: _piece(labels, affine, LABELS[row], boxes[LABELS[row] - 1], padding) for row in rows}
    found = _bodies(rows, pieces, _refined(landmarks_mm, _bodies(rows, pieces, landmarks_mm)))
    hus = _densities(labels, pieces, found, hu)
    vertebrae = tuple(_vertebra(row, pieces[row], found, hus[row]) for row in rows)
    cobb, curves = coronal_curves(found)
    lordosis, kyphosis = between(found, "L1", "L5", 1), between(found, "T4", "T12", -1)
    return Measurements(vertebrae, cobb, curves, lordosis, kyphosis)


def _piece(
    labels: np.ndarray, affine: np.ndarray, label: int, box: tuple[slice, ...] | None, padding: np.ndarray | None
) -> Piece | None:
    return cut_piece(labels, affine, label, box, padding) if box else None


def _bodies(
    rows: list[int], pieces: Mapping[int, Piece | None], landmarks_mm: np.ndarray
) -> dict[int, Body | NotMeasurable]:
    """Return every vertebra's body, or why there is none."""
    backs = [_forward_mm(pieces[row], landmarks_mm[row]) for row in rows]
    found: dict[int, Body | NotMeasurable] = {}
    for i, row in enumerate(rows):
        piece, around = pieces[row], slice(max(i - 1, 0), i + 2)
        line = landmarks_mm[rows[around]]
        up = line[0] - line[-1] if len(line) > 1 else HEADWARDS
        forward = np.sum(backs[around], axis=0)  # with the neighbors': processes are seldom quite symmetric
        try:
            if piece is None:
                raise NotMeasurable("no mask")
            if NAMES[row] in NO_BODY:
                raise NotMeasurable(NO_BODY[NAMES[row]])
            body = find_body(piece, landmarks_mm[row], up, forward if forward.any() else FORWARDS)
            _check_disc(body, landmarks_mm[row], line)
            found[row] = body
        except NotMeasurable as reason:
            found[row] = reason
    return found


def _refined(landmarks_mm: np.ndarray, found: Mapping[int, Body | NotMeasurable]) -> np.ndarray:
    """Return the landmarks moved to the centers of the bodies: a network's are some mm off, which turns the axes."""
    refined = landmarks_mm.copy()
    for row, body in found.items():
        if isinstance(body, Body):
            refined[row] = body.center_mm
    return refined


def _check_disc(body: Body, center_mm: np.ndarray, line_mm: np.ndarray) -> None:
    """Refuse a body that leaves no room for a disc, by its distance to the farther one of its neighbors."""
    apart_mm = np.linalg.norm(line_mm - center_mm, axis=1).max()
    if len(line_mm) > 1 and body.size_mm[2] > FULLEST * apart_mm:
        raise NotMeasurable("body as high in the mask as its distance to the next: the mask reaches into the disc")


def _forward_mm(piece: Piece | None, center_mm: np.ndarray) -> np.ndarray:
    """Return `(3,)` from a vertebra's center of mass to that of its body, zero where that tells nothing."""
    if piece is None:
        return np.zeros(3)
    offset = center_mm - to_world(piece.affine, np.array(ndimage.center_of_mass(piece.mask)))
    return offset if np.linalg.norm(offset) > PROCESSES_MM else np.zeros(3)


def _vertebra(row: int, piece: Piece | None, found: Mapping[int, Body | NotMeasurable], hu: Measure) -> Vertebra:
    body = found[row]
    if isinstance(body, Body):
        front, middle, back = (Measure(float(height)) for height in body.heights_mm)
    else:
        front = middle = back = Measure(reason=str(body))
    return Vertebra(NAMES[row], LABELS[row], _volume_ml(piece), front, middle, back, *losses(row, found), hu)


def _volume_ml(piece: Piece | None) -> Measure:
    if piece is None:
        return Measure(reason="no mask")
    voxel_mm3 = abs(float(np.linalg.det(piece.affine[:3, :3])))
    if _touches_edge(piece) or meets_padding(piece.mask, piece.beyond, voxel_mm3 ** (2 / 3)):
        return Measure(reason="cut by the field of view")
    return Measure(float(piece.mask.sum() * voxel_mm3 / 1000))


def _touches_edge(piece: Piece) -> bool:
    """Tell whether a mask reaches the first or last voxel of the scan along any axis."""
    own = np.argwhere(piece.mask)
    start = np.rint(np.linalg.solve(piece.scan.affine, piece.affine[:, 3])[:3]).astype(int)
    return bool(
        (own.min(axis=0) + start == 0).any() or (own.max(axis=0) + start == np.array(piece.scan.shape) - 1).any()
    )


def _densities(
    labels: np.ndarray,
    pieces: Mapping[int, Piece | None],
    found: Mapping[int, Body | NotMeasurable],
    hu: np.ndarray | None,
) -> dict[int, Measure]:
    """Return the mean HU by landmark row, or why it is missing."""
    if hu is None:
        return {row: Measure(reason="the scan is not at hand") for row in found}
    bodies = {row: body for row, body in found.items() if isinstance(body, Body)}
    known = densities(hu, labels, {row: piece for row, piece in pieces.items() if piece}, bodies)
    return {row: known.get(row, Measure(reason=str(body))) for row, body in found.items()}
