"""The page of one scan."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from .. import __version__, pages
from ..measurements import Curve, Measure, Measurements, Vertebra
from ..pages import section
from ..spaces import spacing_mm
from .findings import Findings, Named
from .pictures import bent_pictures, slices, swatch

DASH = "–"
GROUPS = (("", 1), ("named", 2), ("", 1), ("height, mm", 3), ("loss of height", 3), ("", 1), ("", 1))
COLUMNS = ("level", "probability", "next best", "volume, ml", *("front", "middle", "back") * 2, "grade", "HU")
FIRST = (1, 3, 4, 7, 10, 11)  # columns that begin a group
UNSURE = 0.9


def scan_page(
    findings: Findings, measurements: Measurements, labels: np.ndarray, affine: np.ndarray, hu: np.ndarray | None
) -> str:
    """Return the page of one scan as text.

    Args:
        findings: what was found.
        measurements: what was measured on it.
        labels: `(I, J, K)` VerSe labels.
        affine: `(4, 4)`, voxel index to RAS+ mm.
        hu: `(I, J, K)` the scan; None = not at hand.
    """
    sections = [
        _warnings(findings),
        _tiles(findings, measurements),
        _pictures(findings, labels, affine, hu),
        section("Measurements", _table(findings.vertebrae, measurements.vertebrae)),
        section("Curves in the coronal plane", _curves(measurements.curves)),
        section("Each vertebra", _slices(findings.vertebrae, labels, affine, hu)),
        (Path(__file__).parent / "notes.html").read_text(encoding="utf-8"),
    ]
    size, voxel = (" × ".join(texts) for texts in (map(str, labels.shape), (f"{s:.2f}" for s in spacing_mm(affine))))
    subtitle = f"{size} voxels of {voxel} mm · vertebrae {__version__} · for research, not a medical device"
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return pages.page(findings.name, subtitle, "\n".join(filter(None, sections)), style)


def number(measure: Measure, digits: int = 1, unit: str = "") -> str:
    """Return a value as text, a dash where there is none."""
    if measure.value is None:
        return DASH
    text = f"{measure.value:.{digits}f}"
    return (text if float(text) else text.replace("-", "")) + unit


def percent(measure: Measure) -> str:
    """Return a share in percent; what is gained counts as no loss."""
    return DASH if measure.value is None else f"{max(100 * measure.value, 0):.0f} %"


def level_range(names: Sequence[str]) -> str:
    """Return the first and the last level."""
    return f"{names[0]} – {names[-1]}" if len(names) > 1 else "".join(names)


def largest_loss(vertebrae: Sequence[Vertebra]) -> tuple[float, Vertebra] | None:
    """Return the largest loss of height among the graded vertebrae, and whose it is."""
    graded = [v for v in vertebrae if v.grade.value is not None]
    losses = [(max(m.value or 0.0 for m in (v.anterior_loss, v.middle_loss, v.posterior_loss)), v) for v in graded]
    return max(losses, key=lambda pair: pair[0], default=None)


def _warnings(findings: Findings) -> str:
    if not findings.warnings:
        return ""
    lines = [f"<p><b>Warning</b> &nbsp;{escape(warning.message)}</p>" for warning in findings.warnings]
    others = "; ".join(filter(None, findings.alternatives))
    more = f'<p class="faint">Other labellings: {escape(others)}</p>' if others else ""
    return f'<div class="notice">{"".join(lines)}{more}</div>'


def _tiles(findings: Findings, measurements: Measurements) -> str:
    known = [(v.probability, v.name) for v in findings.vertebrae if v.probability is not None]
    least = min(known, default=None)
    loss = largest_loss(measurements.vertebrae)
    main = max(measurements.curves, key=lambda curve: curve.angle_deg, default=None)
    where = f"{main.upper} – {main.lower}, convex {main.convex}" if main else measurements.cobb_deg.reason
    tiles = [
        ("Levels", level_range([v.name for v in findings.vertebrae]), f"{len(findings.vertebrae)} vertebrae"),
        ("Least certain name", f"{least[0]:.2f}" if least else DASH, least[1] if least else "not stated"),
        (
            "Largest loss of height",
            f"{100 * loss[0]:.0f} %" if loss else DASH,
            f"{loss[1].name}, grade {loss[1].grade.value:.0f}" if loss else "no body from T4 to L4 can be measured",
        ),
        ("Cobb angle, coronal", number(measurements.cobb_deg, unit="°"), where),
        ("Lumbar lordosis", number(measurements.lordosis_deg, unit="°"), measurements.lordosis_deg.reason or "L1 – L5"),
        (
            "Thoracic kyphosis",
            number(measurements.kyphosis_deg, unit="°"),
            measurements.kyphosis_deg.reason or "T4 – T12",
        ),
    ]
    cells = [f'<div class="tile"><span>{a}</span><b>{b}</b><i>{escape(c)}</i></div>' for a, b, c in tiles]
    return f'<div class="tiles">{"".join(cells)}</div>'


def _pictures(findings: Findings, labels: np.ndarray, affine: np.ndarray, hu: np.ndarray | None) -> str:
    """Return the bent planes, with switches that need no script."""
    keys = ("masks", "names")
    boxes = "".join(f'<input type="checkbox" id="{key}" checked hidden>' for key in keys)
    marks = "".join(f'<label for="{key}">{key}</label>' for key in keys)
    ground = "" if hu is not None else " · the scan is not at hand"
    line = f'<p class="switches">Planes bent along the spine{ground} · show {marks}</p>'
    pictures = bent_pictures(hu, labels, affine, findings.vertebrae)
    return f'<div>{boxes}{line}<div class="pictures">{pictures}</div></div>'


def _table(named: Sequence[Named], measured: Sequence[Vertebra]) -> str:
    """Return the table of all vertebrae; what is missing points to its reason below."""
    reasons: dict[str, int] = {}

    def cell(measure: Measure, text: str) -> str:
        if measure.value is not None:
            return text
        note = reasons.setdefault(measure.reason, len(reasons) + 1)
        return f'<span title="{escape(measure.reason, quote=True)}">{DASH}<sup>{note}</sup></span>'

    rows = []
    for who, v in zip(named, measured, strict=True):
        grade = "" if v.grade.value is None else f'<span class="grade{v.grade.value:.0f}">{v.grade.value:.0f}</span>'
        heights = [cell(m, number(m)) for m in (v.anterior_mm, v.middle_mm, v.posterior_mm)]
        losses = [cell(m, percent(m)) for m in (v.anterior_loss, v.middle_loss, v.posterior_loss)]
        cells = [swatch(v.label) + v.name, *_naming(who), cell(v.volume_ml, number(v.volume_ml)), *heights, *losses]
        rows.append([*cells, cell(v.grade, grade), cell(v.hu, number(v.hu, 0))])
    notes = "".join(f"<li><sup>{note}</sup> {escape(reason)}</li>" for reason, note in reasons.items())
    body = "".join(map(_row, rows))
    return f'<div class="scroll"><table>{_head()}<tbody>{body}</tbody></table></div><ul class="notes">{notes}</ul>'


def _naming(vertebra: Named) -> tuple[str, str]:
    """Return the cells of a vertebra's probability and of the next best name."""
    if vertebra.probability is None:
        return DASH, DASH
    kind = ' class="warn"' if vertebra.probability < UNSURE else ""
    other = f"{vertebra.runner_up} {vertebra.runner_up_probability or 0:.2f}" if vertebra.runner_up else DASH
    return f"<span{kind}>{vertebra.probability:.2f}</span>", escape(other)


def _head() -> str:
    over = "".join(f'<th class="over" colspan="{span}">{title}</th>' for title, span in GROUPS)
    return f"<thead><tr>{over}</tr>{_row(COLUMNS, 'th')}</thead>"


def _row(cells: Sequence[str], tag: str = "td") -> str:
    kinds = [' class="first"' if i in FIRST else "" for i in range(len(cells))]
    return f"<tr>{''.join(f'<{tag}{kind}>{cell}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))}</tr>"


def _curves(curves: Sequence[Curve]) -> str:
    if len(curves) < 2:
        return ""  # the tile says it
    rows = [[f"{c.upper} – {c.lower}", f"{c.angle_deg:.1f}°", c.convex] for c in curves]
    return pages.table(["end vertebrae", "Cobb angle", "convex to the"], rows)


def _slices(vertebrae: Sequence[Named], labels: np.ndarray, affine: np.ndarray, hu: np.ndarray | None) -> str:
    figures = []
    for vertebra, pictures in zip(vertebrae, slices(hu, labels, affine, vertebrae), strict=True):
        said = ""
        if vertebra.probability is not None:
            said = f"probability {vertebra.probability:.2f}"
            said += f", next best {escape(vertebra.runner_up)}" if vertebra.runner_up else ""
        caption = f"<figcaption>{swatch(vertebra.label)}<b>{escape(vertebra.name)}</b>{said}</figcaption>"
        figures.append(f"<figure>{caption}<div>{pictures}</div></figure>")
    return f'<div class="slices">{"".join(figures)}</div>' if figures else ""
