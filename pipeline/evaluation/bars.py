"""Values that a measure must reach, for the exit code of a script or a CI job."""

from __future__ import annotations

import operator
import re
from typing import NamedTuple

from .statistics import MEASURES, Estimate

_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


class Bar(NamedTuple):
    """A value that a measure must reach, such as `id_rate>=0.95`."""

    measure: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.measure} {self.sign} {self.limit:g}"

    def met_by(self, found: Estimate) -> bool:
        """Tell whether an estimate meets it; an undefined one does not."""
        return found.value is not None and bool(_OPERATORS[self.sign](found.value, self.limit))


def parse_bar(text: str) -> Bar:
    """Return the bar that a text such as `id_rate>=0.95` states; `ValueError` for anything else."""
    parts = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\d+\.?\d*|\.\d+)\s*", text)
    if not parts:
        raise ValueError(f"--require {text!r}: expected a measure, >=, <=, > or <, and a number: 'id_rate>=0.95'")
    if parts.group(1) not in MEASURES:
        raise ValueError(f"--require {text!r}: no measure {parts.group(1)!r}; there are {', '.join(MEASURES)}")
    return Bar(parts.group(1), parts.group(2), float(parts.group(3)))
