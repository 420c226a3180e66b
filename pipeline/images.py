"""Reading CT scans and writing label maps; every check of what a scan may be. (to be written)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .spaces import Grid


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
    """

    name: str
    array: np.ndarray
    affine: np.ndarray
    path: Path

    @property
    def grid(self) -> Grid:
        """Shape and affine of the scan."""
        return Grid(self.array.shape, self.affine)  # type: ignore[arg-type]
