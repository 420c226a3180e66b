"""Angles between endplates: Cobb angles in the coronal plane, lordosis and kyphosis in the sagittal plane.

Method: Cobb, Instr Course Lect 1948;5:261. The planes are the patient's own, x-z and y-z of RAS+ mm. CT is taken lying
down, where curves are smaller than in the standing radiographs for which normal values are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..labels import NAMES, ROWS_BY_LEVEL, row_of_name
from .heights import Found
from .records import Body, Curve, Measure, NotMeasurable

SCOLIOSIS_DEG = 10.0  # Scoliosis Research Society: smaller curves are none
FEWEST = 3  # vertebrae that make a curve
UPPERMOST = "T1"  # the uncinate and transverse processes of the neck hide the ends of its endplates
CORONAL, SAGITTAL = 0, 1  # the world axis that lies in the plane beside z
NO_CURVE = f"fewer than {FEWEST} neighboring vertebrae from {UPPERMOST} down can be measured"


def tilt_deg(normal: np.ndarray, axis: int) -> float:
    """Return by how many degrees an endplate rises towards +x (axis 0) or +y (axis 1) where it meets that plane.

    Args:
        normal: `(3,)` RAS+, pointing up.
        axis: `CORONAL` or `SAGITTAL`.
    """
    return float(np.degrees(np.arctan2(-normal[axis], normal[2])))


def coronal_curves(found: Found) -> tuple[Measure, tuple[Curve, ...]]:
    """Return the Cobb angle of the largest curve, and the curves: that one, and those beside it from 10 degrees on.

    The end vertebrae, from T1 down, are those that give the largest angle. Only the longest unbroken row of measurable
    bodies is searched; bodies with a coronal wedge count like all others.
    """
    first = ROWS_BY_LEVEL.index(row_of_name(UPPERMOST))
    rows = longest_chain({row: body for row, body in found.items() if ROWS_BY_LEVEL.index(row) >= first})
    if len(rows) < FEWEST:
        return Measure(reason=NO_CURVE), ()
    bodies = [found[row] for row in rows]
    upper = np.array([tilt_deg(body.upper, CORONAL) for body in bodies if isinstance(body, Body)])
    lower = np.array([tilt_deg(body.lower, CORONAL) for body in bodies if isinstance(body, Body)])
    angles = upper[:, None] - lower[None, :]  # positive: convex to the right
    main = _largest(angles, 0, len(rows) - 1)
    if main is None:
        return Measure(reason=NO_CURVE), ()
    curves = [*_beside(angles, 0, main[0]), main, *_beside(angles, main[1], len(rows) - 1)]
    named = tuple(_curve(angles[pair], rows[pair[0]], rows[pair[1]]) for pair in curves)
    return Measure(abs(float(angles[main]))), named


def between(found: Found, upper: str, lower: str, sign: int) -> Measure:
    """Return the sagittal angle from the upper endplate of one vertebra to the lower one of another.

    Args:
        found: bodies by landmark row.
        upper: name of the upper vertebra.
        lower: name of the lower vertebra.
        sign: 1 = lordosis is positive, -1 = kyphosis is.
    """
    first, last = (found.get(row_of_name(name), NotMeasurable("not in view")) for name in (upper, lower))
    if isinstance(first, NotMeasurable) or isinstance(last, NotMeasurable):
        ends = ((upper, first), (lower, last))
        return Measure(reason="; ".join(f"{name}: {end}" for name, end in ends if isinstance(end, NotMeasurable)))
    return Measure(sign * (tilt_deg(first.upper, SAGITTAL) - tilt_deg(last.lower, SAGITTAL)))


def longest_chain(found: Mapping[int, object]) -> list[int]:
    """Return the rows of the longest unbroken row of measurable bodies, head to foot.

    A level that anatomy lacks (T12, T13, L5, L6) does not break it; one that is in view and cannot be measured does.
    """
    chains: list[list[int]] = [[]]
    for row in ROWS_BY_LEVEL:
        if isinstance(found.get(row), Body):
            chains[-1].append(row)
        elif row in found:
            chains.append([])
    return max(chains, key=len)


def _largest(angles: np.ndarray, first: int, last: int) -> tuple[int, int] | None:
    """Return the pair of end vertebrae between two places with the largest angle; None if they are too near."""
    pairs = [(i, j) for i in range(first, last + 1) for j in range(i + FEWEST - 1, last + 1)]
    return max(pairs, key=lambda pair: abs(angles[pair]), default=None)


def _beside(angles: np.ndarray, first: int, last: int) -> Sequence[tuple[int, int]]:
    """Return the largest curve between two places, if it is one."""
    pair = _largest(angles, first, last)
    return [pair] if pair is not None and abs(angles[pair]) >= SCOLIOSIS_DEG else []


def _curve(angle: float, upper: int, lower: int) -> Curve:
    return Curve(abs(float(angle)), NAMES[upper], NAMES[lower], "right" if angle > 0 else "left")
