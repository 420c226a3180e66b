"""One vertebra cut out of a label map, and whether the field of view cuts it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..spaces import Grid, to_world

MARGIN_VOX = 4
PADDING_HU = -1000.0  # or less: what scanners put beyond a round field of view
CONTACT_VOX, CONTACT_MM2 = 2, 20.0  # a mask so close to padding, on so much of its surface, is cut there


class Piece(NamedTuple):
    """One vertebra's mask: `(A, B, C)` float32 of 0 and 1, its affine, and the grid of the whole scan.

    `beyond`, of the same shape, is 1 outside a round field of view; None where nothing is.
    """

    mask: np.ndarray
    affine: np.ndarray
    scan: Grid
    beyond: np.ndarray | None = None


def padding_of(hu: np.ndarray | None) -> np.ndarray | None:
    """Return where a scan may be padding: its lowest value, if that is low enough; None = nowhere."""
    return hu == hu.min() if hu is not None and hu.min() <= PADDING_HU else None


def cut_piece(
    labels: np.ndarray, affine: np.ndarray, label: int, box: tuple[slice, ...], padding: np.ndarray | None = None
) -> Piece:
    """Return one vertebra of a label map, in its box and some voxels around it.

    Args:
        labels: `(I, J, K)`.
        affine: `(4, 4)`, voxel index to RAS+ mm.
        label: whose mask.
        box: where it is.
        padding: `(I, J, K)` true where the scan has the value of padding; single voxels may have it by chance.
    """
    grown = tuple(slice(max(side.start - MARGIN_VOX, 0), side.stop + MARGIN_VOX) for side in box)
    own = np.array(affine, dtype=np.float64)
    own[:3, 3] = to_world(affine, np.array([side.start for side in grown]))
    mask = (labels[grown] == label).astype(np.float32)
    beyond = None if padding is None else ndimage.binary_opening(padding[grown]).astype(np.float32)
    scan = Grid(labels.shape, np.asarray(affine))
    return Piece(mask, own, scan, beyond if beyond is not None and beyond.any() else None)


def meets_padding(mask: np.ndarray, beyond: np.ndarray | None, area_mm2: float) -> bool:
    """Tell whether a mask is cut by a round field of view; `area_mm2` is that of a voxel's face."""
    if beyond is None:
        return False
    contact = ndimage.binary_dilation(mask > 0.5, iterations=CONTACT_VOX) & (beyond > 0.5)
    return bool(contact.sum() * area_mm2 >= CONTACT_MM2)
