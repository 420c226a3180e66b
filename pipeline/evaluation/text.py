"""Numbers as text, the same on the screen and in the page."""

from __future__ import annotations

from .statistics import MEASURES, Estimate


def number(value: float | None, key: str, sign: str = "") -> str:
    """Return a value of a measure as text: mm with two digits, shares with three, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:{sign}.2f} mm" if MEASURES[key].unit else f"{value:{sign}.3f}"


def interval(found: Estimate, key: str) -> str:
    """Return the interval of an estimate as text, "" without one."""
    if found.low is None or found.high is None:
        return ""
    digits = 2 if MEASURES[key].unit else 3
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"
