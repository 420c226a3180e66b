"""The index of a cohort: one line per scan, sortable by every column and filtered by warning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from .. import __version__, pages
from ..measurements import Measure, Measurements
from .findings import Findings
from .page import DASH, largest_loss, level_range, number

COLUMNS = (
    ("scan", "text"),
    ("warnings", "number"),
    ("levels", "text"),
    ("vertebrae", "number"),
    ("least certain", "number"),
    ("height loss", "number"),
    ("grade", "number"),
    ("Cobb", "number"),
    ("lordosis", "number"),
    ("kyphosis", "number"),
    ("L1 HU", "number"),
)


class Entry(NamedTuple):
    """One scan of the cohort, without its pictures."""

    findings: Findings
    measurements: Measurements


def index_page(entries: Sequence[Entry], failures: Sequence[str] = ()) -> str:
    """Return the page as text, most warnings first.

    Args:
        entries: the scans.
        failures: a sentence for each scan without a page.
    """
    ordered = sorted(entries, key=lambda entry: (-len(entry.findings.warnings), entry.findings.name))
    kinds = Counter(kind for entry in entries for kind in {w.kind for w in entry.findings.warnings})
    count = sum(bool(entry.findings.warnings) for entry in entries)
    more = f" {len(failures)} failed:" if failures else ""
    parts = [f"<p>{len(entries)} {'scan' if len(entries) == 1 else 'scans'}, {count} of them with a warning.{more}</p>"]
    parts += [f'<p class="warn">{escape(sentence)}</p>' for sentence in failures]
    chips = [_chip(kind, n) for kind, n in kinds.most_common()]
    parts += [f'<div class="chips">{"".join(chips)}</div>'] if chips else []
    parts.append(_table(ordered))
    folder = Path(__file__).parent
    parts.append(f"<script>\n{(folder / 'index.js').read_text(encoding='utf-8')}</script>")
    style = (folder / "style.css").read_text(encoding="utf-8")
    subtitle = f"vertebrae {__version__} · for research, not a medical device"
    return pages.page("Vertebrae: scans", subtitle, "\n".join(parts), style)


def _table(entries: Sequence[Entry]) -> str:
    sorted_by = {"warnings": ' aria-sort="descending"'}
    head = "".join(f'<th data-sort="{kind}"{sorted_by.get(title, "")}>{title}</th>' for title, kind in COLUMNS)
    rows = "".join(map(_row, entries))
    return f'<div class="scroll"><table id="cohort"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _chip(kind: str, count: int) -> str:
    own = f'data-kind="{escape(kind, quote=True)}"'
    return f'<button type="button" aria-pressed="false" {own}>{escape(kind)} · {count}</button>'


def _row(entry: Entry) -> str:
    findings, measured = entry
    names = [v.name for v in findings.vertebrae]
    known = [v.probability for v in findings.vertebrae if v.probability is not None]
    loss = largest_loss(measured.vertebrae)
    grade = loss[1].grade.value if loss else None
    link = f'<a href="{quote(findings.name)}_report.html">{escape(findings.name)}</a>'
    hints = escape("\n".join(w.message for w in findings.warnings), quote=True)
    warnings = f'<span class="warn" title="{hints}">{len(findings.warnings)}</span>' if hints else "0"
    density = next((v.hu for v in measured.vertebrae if v.name == "L1"), Measure(reason="L1 not in view"))
    cells: list[tuple[float | str | None, str]] = [
        (findings.name, link),
        (len(findings.warnings), warnings),
        (level_range(names), level_range(names) or DASH),
        (len(names), str(len(names))),
        (min(known, default=None), f"{min(known):.2f}" if known else DASH),
        (loss[0] if loss else None, f"{100 * loss[0]:.0f} % <small>{loss[1].name}</small>" if loss else DASH),
        (grade, f'<span class="grade{grade:.0f}">{grade:.0f}</span>' if grade is not None else DASH),
        *((m.value, _cell(m, "°")) for m in (measured.cobb_deg, measured.lordosis_deg, measured.kyphosis_deg)),
        (density.value, _cell(density, "", 0)),
    ]
    text = "".join(f'<td data-value="{_value(value)}">{shown}</td>' for value, shown in cells)
    kinds = escape("|".join(sorted({w.kind for w in findings.warnings})), quote=True)
    return f'<tr data-kinds="{kinds}">{text}</tr>'


def _cell(measure: Measure, unit: str, digits: int = 1) -> str:
    shown = number(measure, digits, unit)
    return f'<span title="{escape(measure.reason, quote=True)}">{shown}</span>' if measure.reason else shown


def _value(value: float | str | None) -> str:
    """Return what a column is sorted by."""
    return "" if value is None else escape(value, quote=True) if isinstance(value, str) else f"{value:.6g}"
