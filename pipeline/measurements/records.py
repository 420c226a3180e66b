"""The records of what is measured; a value that is missing always says why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

FORMAT = "vertebrae-measurements/1"


class NotMeasurable(ValueError):  # noqa: N818 - a result, not a mistake
    """The message, a few words, is the reason."""


@dataclass(frozen=True)
class Measure:
    """A number, or `None` and the reason why there is none."""

    value: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Body:
    """The shape of one vertebral body.

    Attributes:
        axes: `(3, 3)`; columns are its right, anterior and up axes, RAS+.
        center_mm: `(3,)` RAS+ mm.
        size_mm: `(3,)` width, depth and mean height.
        heights_mm: `(3,)` anterior, middle, posterior, in the midsagittal plane.
        upper: `(3,)` unit normal of the upper endplate, RAS+, pointing up.
        lower: the same of the lower endplate, also pointing up.
    """

    axes: np.ndarray
    center_mm: np.ndarray
    size_mm: np.ndarray
    heights_mm: np.ndarray
    upper: np.ndarray
    lower: np.ndarray


@dataclass(frozen=True)
class Vertebra:
    """What is measured on one vertebra.

    Attributes:
        name: such as `"T4"`.
        label: VerSe label.
        volume_ml: of the whole mask.
        anterior_mm: height of the body at its front; `middle_mm` and `posterior_mm` at its middle and back.
        anterior_loss: share of the expected height that is missing, 0 to 1 (negative: taller than expected);
            `middle_loss` and `posterior_loss` likewise.
        grade: 0 to 3, Genant's semi-quantitative grade of the largest loss.
        hu: mean HU of the trabecular bone of the body.
    """

    name: str
    label: int
    volume_ml: Measure
    anterior_mm: Measure
    middle_mm: Measure
    posterior_mm: Measure
    anterior_loss: Measure
    middle_loss: Measure
    posterior_loss: Measure
    grade: Measure
    hu: Measure


@dataclass(frozen=True)
class Curve:
    """A curve of the spine in the coronal plane.

    Attributes:
        angle_deg: Cobb angle, positive.
        upper: name of the upper end vertebra.
        lower: name of the lower end vertebra.
        convex: the patient's side to which it bulges, `"left"` or `"right"`.
    """

    angle_deg: float
    upper: str
    lower: str
    convex: str


@dataclass(frozen=True)
class Measurements:
    """What is measured on one scan; `vertebrae` go from head to foot.

    Attributes:
        vertebrae: one record per named vertebra.
        cobb_deg: Cobb angle of the largest curve in the coronal plane.
        curves: that curve, and those above and below it that reach 10 degrees.
        lordosis_deg: lumbar, from the upper endplate of L1 to the lower one of L5.
        kyphosis_deg: thoracic, from the upper endplate of T4 to the lower one of T12.
    """

    vertebrae: tuple[Vertebra, ...]
    cobb_deg: Measure
    curves: tuple[Curve, ...]
    lordosis_deg: Measure
    kyphosis_deg: Measure
    format: str = field(default=FORMAT)

    def document(self) -> dict[str, Any]:
        """Return everything in JSON's own types; numbers are rounded to three digits after the point."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return round(float(value), 3) if isinstance(value, (float, np.floating)) else value
