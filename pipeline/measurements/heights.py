"""Loss of vertebral body height and its grade.

Anterior and middle heights are compared with the posterior one of the same vertebra, the posterior one with those of
its neighbors; where the posterior height is itself reduced, all three are compared with what the neighbors predict
(Eastell et al. 1991; McCloskey et al. 1993). Thresholds of the grades: Genant et al., J Bone Miner Res 1993;8:1137.
Genant's grades are a visual reading by a radiologist; these are his thresholds on measured heights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..labels import NAMES, ROWS_BY_LEVEL, row_of_name
from .records import Body, Measure, NotMeasurable

GRADES = (0.20, 0.25, 0.40)  # mild, moderate, severe from these losses on
GRADED = ("T4", "L4")  # the levels for which Genant et al. define them
NEIGHBORHOOD = 2  # levels up and down in which a neighbor may stand in

Found = Mapping[int, "Body | NotMeasurable"]  # by landmark row


class Losses(NamedTuple):
    """Losses at the front, in the middle and at the back, and the grade of the largest."""

    anterior: Measure
    middle: Measure
    posterior: Measure
    grade: Measure


def losses(row: int, found: Found) -> Losses:
    """Return the losses of one vertebra, given the bodies of all vertebrae in view."""
    body = found[row]
    if isinstance(body, NotMeasurable):
        missing = Measure(reason=str(body))
        return Losses(missing, missing, missing, missing)
    front, middle, back = body.heights_mm
    expected = expected_posterior_mm(row, found)
    if isinstance(expected, NotMeasurable):
        posterior, reference = Measure(reason=str(expected)), back
    else:
        posterior = Measure(float(1 - back / expected))
        reference = expected if 1 - back / expected >= GRADES[0] else back
    anterior, central = (Measure(float(1 - height / reference)) for height in (front, middle))
    known = [loss.value for loss in (anterior, central, posterior) if loss.value is not None]
    return Losses(anterior, central, posterior, _grade(row, known))


def grade_of(loss: float) -> int:
    """Return Genant's grade of a loss: 0 below 20 %, 1 to 25 %, 2 to 40 %, 3 above."""
    return int(np.searchsorted(GRADES, loss, side="right"))


def expected_posterior_mm(row: int, found: Found) -> float | NotMeasurable:
    """Return the posterior height that the neighbors of a vertebra predict, linear between them, or why there is none.

    The nearest vertebra above and below counts, at most two levels away, that is measurable and not itself wedged.
    """
    place = ROWS_BY_LEVEL.index(row)
    nearest = []
    for step in (-1, 1):
        for away in range(1, NEIGHBORHOOD + 1):
            other = found.get(_row_at(place + step * away))
            if isinstance(other, Body) and 1 - other.heights_mm[0] / other.heights_mm[2] < GRADES[0]:
                nearest.append((step * away, float(other.heights_mm[2])))
                break
    if len(nearest) < 2:
        return NotMeasurable("no sound neighbors above and below to compare with")
    places, heights = zip(*nearest, strict=True)
    return float(np.interp(0, places, heights))


def _row_at(place: int) -> int:
    """Return the landmark row at a place from head to foot, -1 beyond either end."""
    return ROWS_BY_LEVEL[place] if 0 <= place < len(ROWS_BY_LEVEL) else -1


def _grade(row: int, found: Sequence[float]) -> Measure:
    first, last = (ROWS_BY_LEVEL.index(row_of_name(name)) for name in GRADED)
    if not first <= ROWS_BY_LEVEL.index(row) <= last:
        return Measure(reason=f"grades are defined for {GRADED[0]} to {GRADED[1]}, not for {NAMES[row]}")
    return Measure(grade_of(max(found)))
