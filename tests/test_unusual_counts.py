"""Which unusual count landmarks show, and whether enough is in view to tell it."""

import numpy as np
import pytest

from benchmarks.cached import is_wide, kind_of_count
from pipeline.labels import row_of_name
from pipeline.landmarks import absent


def spine(first: str, last: str, *, without: str = "", extra: str = "") -> np.ndarray:
    """Return landmarks from one name to another, C1 to L5."""
    landmarks_mm = absent()
    landmarks_mm[row_of_name(first) : row_of_name(last) + 1] = 0.0
    if extra:
        landmarks_mm[row_of_name(extra)] = 0.0
    if without:
        landmarks_mm[row_of_name(without)] = np.nan
    return landmarks_mm


@pytest.mark.parametrize(
    ("landmarks_mm", "kind", "wide"),
    [
        (spine("T9", "L4"), "none", True),
        (spine("T10", "L5"), "none", False),
        (spine("T1", "L3"), "none", False),
        (spine("C1", "L5", extra="T13"), "T13", True),
        (spine("T9", "L5", without="T12"), "no T12", True),
        (spine("T10", "L5", without="T12"), "no T12", False),
        (spine("T9", "L5", extra="L6"), "L6", True),
        (spine("C1", "T11"), "none", False),  # T12 is out of view, not absent
    ],
)
def test_unusual_counts_and_what_shows_them(landmarks_mm, kind, wide):
    assert kind_of_count(landmarks_mm) == kind
    assert is_wide(landmarks_mm) is wide
