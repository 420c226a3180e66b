"""The report's drawings, as inline SVG: one mark per vertebra, level by level, and the confusion of levels.

Colors come from the page's style sheet, so that they follow its light and dark mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from ..labels import NAMES, ROWS_BY_LEVEL
from .records import Vertebra

LEVELS = tuple(NAMES[row] for row in ROWS_BY_LEVEL)
WIDTH, HEIGHT = 920, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 34
CELL = 23
NOTHING = "–"


def shown_levels(names: Sequence[str]) -> list[str]:
    """Return the levels from the first to the last of the given names, head to foot; T13 and L6 only if named."""
    present = [level for level in LEVELS if level in names]
    if not present:
        return []
    first, last = LEVELS.index(present[0]), LEVELS.index(present[-1])
    return [level for level in LEVELS[first : last + 1] if level in present or level not in ("T13", "L6")]


def level_plot(
    vertebrae: Sequence[Vertebra], value: Callable[[Vertebra], float | None], title: str, unit: str = ""
) -> str:
    """Return a plot of one value per vertebra against its level, with the mean of every level as a bar.

    Args:
        vertebrae: all of them; those without a value are left out.
        value: what to draw.
        title: read out to those who cannot see it.
        unit: of the vertical axis; "" = a share from 0 to 1.
    """
    values = [(v, float(x)) for v in vertebrae if (x := value(v)) is not None]
    levels = shown_levels([v.name for v in vertebrae])
    if not values:
        return ""
    top = _round_up(max(x for _, x in values)) if unit else 1.0
    step = (WIDTH - LEFT - RIGHT) / len(levels)

    def place_y(x: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - x / top)

    parts = [*_axes(top, unit, place_y), *_level_names(levels, step)]
    for index, level in enumerate(levels):
        own = [(v, x) for v, x in values if v.name == level]
        parts += _level_marks(own, LEFT + (index + 0.5) * step, step, place_y, unit)
    return _svg(WIDTH, HEIGHT, title, parts)


def _level_marks(
    own: Sequence[tuple[Vertebra, float]], center: float, step: float, place_y: Callable[[float], float], unit: str
) -> list[str]:
    """Return the dots of one level, spread sideways so that they do not hide each other, and their mean."""
    parts = []
    for k, (v, x) in enumerate(own):
        offset = (((k * 0.618) % 1) - 0.5) * step * 0.6
        kind = "dot" if v.hit is not False else "dot miss"
        hint = escape(f"{v.scan} {v.name}: {x:.3g} {unit}".strip())
        dot = f'<circle class="{kind}" cx="{center + offset:.1f}" cy="{place_y(x):.1f}" r="2.6">'
        parts.append(f"{dot}<title>{hint}</title></circle>")
    if own:
        mean = place_y(float(np.mean([x for _, x in own])))
        ends = f'x1="{center - step * 0.36:.1f}" x2="{center + step * 0.36:.1f}"'
        parts.append(f'<line class="mean" {ends} y1="{mean:.1f}" y2="{mean:.1f}"/>')
    return parts


def rate_plot(vertebrae: Sequence[Vertebra], title: str) -> str:
    """Return the strict identification rate of every level as a bar, with its counts."""
    known = [v for v in vertebrae if v.hit is not None]
    levels = shown_levels([v.name for v in known])
    if not levels:
        return ""
    step = (WIDTH - LEFT - RIGHT) / len(levels)
    floor = HEIGHT - BOTTOM
    parts = [*_axes(1.0, "", lambda x: TOP + (floor - TOP) * (1 - x)), *_level_names(levels, step)]
    for index, level in enumerate(levels):
        own = [bool(v.hit) for v in known if v.name == level]
        if own:
            height = (floor - TOP) * np.mean(own)
            left = LEFT + (index + 0.18) * step
            hint = f"<title>{level}: {sum(own)} of {len(own)}</title>"
            size = f'x="{left:.1f}" width="{step * 0.64:.1f}"'
            parts.append(f'<rect class="all" {size} y="{TOP}" height="{floor - TOP}">{hint}</rect>')
            parts.append(f'<rect class="hit" {size} y="{floor - height:.1f}" height="{height:.1f}">{hint}</rect>')
    return _svg(WIDTH, HEIGHT, title, parts)


def confusion_plot(pairs: Sequence[tuple[str, str]]) -> str:
    """Return the matrix of true against predicted levels; the last row and column stand for nothing there.

    Args:
        pairs: (true name, predicted name), "" = nothing.
    """
    counts = Counter((true or NOTHING, called or NOTHING) for true, called in pairs)
    rows = [*shown_levels([name for pair in pairs for name in pair if name]), NOTHING]
    largest = max(counts.values(), default=1)
    size = LEFT + CELL * len(rows) + 8
    parts = []
    for i, name in enumerate(rows):
        at = LEFT + CELL * (i + 0.5)
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{name}</text>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{LEFT - 8}" text-anchor="middle">{name}</text>')
    for i, true in enumerate(rows):
        for j, called in enumerate(rows):
            place = f'x="{LEFT + CELL * j}" y="{LEFT + CELL * i}" width="{CELL - 1}" height="{CELL - 1}"'
            count = counts[true, called]
            kind = "cell" if not count else "cell right" if true == called else "cell wrong"
            strength = 0.25 + 0.75 * count / largest if count else 1
            parts.append(f'<rect class="{kind}" {place} style="fill-opacity:{strength:.2f}"/>')
            if count:
                middle = f'x="{LEFT + CELL * (j + 0.5):.1f}" y="{LEFT + CELL * (i + 0.5) + 4:.1f}"'
                hint = f"<title>true {true}, predicted {called}: {count}</title>"
                parts.append(f'<text class="count" {middle} text-anchor="middle">{count}{hint}</text>')
    return _svg(size, size, "True levels (rows) against predicted ones (columns)", parts)


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{body}</svg>'
    )


def _round_up(value: float) -> float:
    """Return the next 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    return float(next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value))


def _axes(top: float, unit: str, place_y: Callable[[float], float]) -> list[str]:
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = place_y(share * top)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{share * top:g}" + (f" {unit}" if unit and share == 1 else "")
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return parts


def _level_names(levels: Sequence[str], step: float) -> list[str]:
    places = [(LEFT + (index + 0.5) * step, name) for index, name in enumerate(levels)]
    y = HEIGHT - BOTTOM + 18
    return [f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{name}</text>' for x, name in places]
