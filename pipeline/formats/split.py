"""One binary mask per vertebra, on the scan's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..images import write_labels
from ..labels import LABELS, NAMES
from ..run import Result


def write(folder: Path, result: Result, versions: dict[str, str]) -> list[Path]:
    """Write the folder `NAME_vertebrae` with `T4.nii.gz` and so on (uint8, 0 and 1) and return the folder."""
    target = folder / f"{result.scan.name}_vertebrae"
    target.mkdir()
    present = np.flatnonzero(np.bincount(result.labels.ravel(order="K"), minlength=256))
    for label, name in zip(LABELS, NAMES, strict=True):
        if label in present:
            mask = (result.labels == label).view(np.uint8)
            write_labels(target / f"{name}.nii.gz", mask, result.scan.affine)
    return [target]
