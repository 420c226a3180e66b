"""What viewers are sent and send, in every app alike: values of a mask, names with positions, a box. RAS+ mm.

Viewers take the value v for the v-th name of a list, so values must have no gap: T13, VerSe's 28, is 26 here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..labels import LABELS, NAMES, row_of_name
from ..landmarks import absent

VALUES = dict(zip(NAMES, range(1, len(NAMES) + 1), strict=True))
DOCUMENT_KEYS = ("space", "units", "vertebrae", "alternatives", "numbering", "warnings")  # of the landmark document


def values_of(labels: np.ndarray) -> np.ndarray:
    """Return the uint8 values of `VALUES` for an array of VerSe labels; 0 stays 0."""
    table = np.zeros(256, np.uint8)
    table[list(LABELS)] = list(VALUES.values())
    return table[labels]


def requested_landmarks_mm(value: Any) -> np.ndarray:
    """Return `(26, 3)` of a request's `landmarks`, such as `{"L3": [x, y, z]}`.

    Raises:
        ValueError: it is something else, or names no vertebra.
    """
    if not isinstance(value, dict) or not value:
        raise ValueError(f'landmarks {value!r}: expected names with positions in RAS mm, {{"L3": [x, y, z]}}')
    landmarks_mm = absent()
    for name, position in value.items():
        landmarks_mm[row_of_name(name)] = numbers(position, (3,), f"landmark {name}")
    return landmarks_mm


def numbers(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return a request's value as finite numbers of a shape; `ValueError` if it is something else."""
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{what} {value!r}: expected {' x '.join(map(str, shape))} numbers, RAS mm")
    return array
