"""The page of the report: one HTML file that needs nothing else, neither a network nor a script."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .. import pages
from ..pages import section, table
from .plots import confusion_plot, level_plot, rate_plot
from .records import Evaluation, Scan, Vertebra
from .statistics import MEASURES, Estimate, estimate
from .text import interval, number

WORST = 6
TILES = ("id_rate", "all_right", "d_mean_mm", "dice", "hd95_mm", "nsd_2mm")
STRATA_COLUMNS = ("id_rate", "d_mean_mm", "dice", "hd95_mm", "assd_mm", "nsd_2mm")
PLOTS: tuple[tuple[str, str, Callable[[Vertebra], float | None]], ...] = (
    ("Distance to the true center", "mm", lambda v: v.error_mm),
    ("Dice", "", lambda v: v.dice),
    ("95 % Hausdorff distance", "mm", lambda v: v.hd95_mm),
    ("Average surface distance", "mm", lambda v: v.assd_mm),
    ("Surface Dice at 2 mm", "", lambda v: v.nsd_2mm),
)


def page(document: dict[str, Any], evaluation: Evaluation) -> str:
    """Return the page as text.

    Args:
        document: see `report.report_document`.
        evaluation: the scored scans.
    """
    vertebrae = [v for scan in evaluation.scans for v in scan.vertebrae]
    sections = [
        _bars(document["bars"]),
        _tiles(document["measures"]),
        _counts(document),
        _comparison(document["comparison"]),
        section("Worst cases", _worst(evaluation.scans)),
        section("By level", _levels(vertebrae)),
        section("Levels taken for others", _confusion(evaluation.scans)),
        section("Strata", _strata(document["strata"])),
        section("All measures", _measures(document["measures"])),
        section("Scans", _scans(evaluation.scans)),
    ]
    names = Path(document["prediction"]).name, Path(document["truth"]).name
    subtitle = f"{document['prediction']} against {document['truth']} · vertebrae {document['version']}"
    notes = (Path(__file__).parent / "notes.html").read_text(encoding="utf-8")
    return pages.page(
        f"Vertebrae: {names[0]} against {names[1]}", subtitle, "\n".join([*filter(None, sections), notes])
    )


def _with_interval(found: Estimate, key: str) -> str:
    between = interval(found, key)
    return number(found.value, key) + (f"<small>{between}</small>" if between else "")


def _bars(bars: Sequence[dict[str, Any]]) -> str:
    marks = {True: '<b class="good">met</b>', False: '<b class="bad">missed</b>'}
    return "".join(f"<p>{marks[bar['met']]} &nbsp; {escape(bar['bar'])}</p>" for bar in bars)


def _tiles(measures: dict[str, Estimate]) -> str:
    tiles = []
    for key in TILES:
        found, between = measures[key], interval(measures[key], key)
        note = f"<span>{between or f'of {found.count}'}</span>"
        tiles.append(
            f'<div class="tile"><span>{MEASURES[key].title}</span><b>{number(found.value, key)}</b>{note}</div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _counts(document: dict[str, Any]) -> str:
    counts = document["counts"]
    text = (
        f"{counts['scans']} scans of {counts['patients']} patients with {counts['vertebrae']} true vertebrae. "
        f"Name missing: {counts['without_name']}; mask missing: {counts['without_mask']}; "
        f"extra names: {counts['extra']}; cut by the field of view and not scored: {counts['cut']}. "
        "Whole scans off by: "
        f"{', '.join(f'{shift} in {n}' for shift, n in document['shifts'].items()) or 'unknown'}."
    )
    lists = (
        ("True scans without a prediction, not scored unless asked for", document["without_prediction"]),
        ("Predictions without a true scan", document["without_truth"]),
        ("Not scored, because they could not be read", list(document["failures"].values())),
    )
    warnings = [f'<p class="warn">{title}: {escape(", ".join(names))}</p>' for title, names in lists if names]
    return f"<p>{text}</p>" + "".join(warnings)


def _comparison(compared: dict[str, Any] | None) -> str:
    if not compared:
        return ""
    rows = []
    for key, found in compared["measures"].items():
        change = found["difference"]
        if change.value is not None:
            sure = change.low is not None and (change.low > 0 or change.high < 0)
            better = (change.value > 0) == MEASURES[key].higher_is_better
            kind = ("good" if better else "bad") if sure else ""
            text = f'<span class="{kind}">{number(change.value, key, sign="+")}</span>'
            first, second = (number(found[side].value, key) for side in ("first", "second"))
            rows.append([MEASURES[key].title, first, second, text, interval(change, key)])
    head = ["", "first", "second", "second minus first", "95 % interval"]
    lines = (
        f"<p>Second prediction: {escape(compared['prediction'])}, over the {compared['scans']} scans that both have. "
    )
    lines += "Colored where the interval does not hold zero.</p>"
    return section("Comparison", lines + table(head, rows) + _changed(compared["changed"]))


def _changed(entries: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            escape(entry["scan"]),
            "{} → {}".format(*entry["hits"]),
            " ".join(entry["gained"]),
            " ".join(entry["lost"]),
            number(entry["dice_change"], "dice", sign="+"),
        ]
        for entry in entries
    ]
    return (
        "<h3>Scans that changed</h3>" + table(["", "identified", "gained", "lost", "Dice"], rows, (2, 3))
        if rows
        else ""
    )


def _worst(scans: Sequence[Scan]) -> str:
    """Show the scans with most missed and extra names, then those with the lowest Dice; none where all is perfect."""
    ranked = sorted(scans, key=_badness, reverse=True)
    cases = [_case(scan) for scan in ranked[:WORST] if _badness(scan) > (0, 0.0)]
    return f'<div class="cases">{"".join(cases)}</div>' if cases else ""


def _badness(scan: Scan) -> tuple[int, float]:
    wrong = sum(v.hit is False for v in scan.vertebrae) + len(scan.extra)
    return wrong, 1.0 - (estimate("dice", [scan]).value or 0.0)


def _case(scan: Scan) -> str:
    known = [v for v in scan.vertebrae if v.hit is not None]
    shift = f", names off by {scan.shift:+d} as a whole" if scan.shift else ""
    facts = [f"{sum(bool(v.hit) for v in known)} of {len(known)} identified{shift}; anomaly: {scan.anomaly}"]
    missing = [v.name for v in known if v.error_mm is None]
    moved = [f"{v.name} ({_where(v)})" for v in known if v.hit is False]
    facts += [f"not identified: {', '.join(moved)}"] if moved else []
    facts += [f"name missing: {', '.join(missing)}"] if missing else []
    facts += [f"extra names: {', '.join(scan.extra)}"] if scan.extra else []
    lowest = sorted((v for v in scan.vertebrae if v.dice is not None), key=lambda v: v.dice or 0.0)[:3]
    scores = [f"{v.name}{' (cut)' if v.view == 'cut' else ''} {v.dice:.2f}" for v in lowest]
    facts += [f"lowest Dice: {', '.join(scores)}"] if scores else []
    picture = ""
    if scan.preview:
        content = base64.b64encode(Path(scan.preview).read_bytes()).decode()
        picture = f'<img alt="preview of {escape(scan.scan, quote=True)}" src="data:image/png;base64,{content}">'
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<div class="case"><h3>{escape(scan.scan)}</h3><ul class="faint">{items}</ul>{picture}</div>'


def _where(vertebra: Vertebra) -> str:
    """Say what became of a vertebra that is not identified."""
    if vertebra.called and vertebra.called != vertebra.name:
        return f"called {vertebra.called}"
    return "nothing there" if vertebra.error_mm is None else f"{vertebra.error_mm:.0f} mm off"


def _levels(vertebrae: Sequence[Vertebra]) -> str:
    note = '<p class="faint">A dot is a vertebra, red if it is not identified; a bar is the mean of its level.</p>'
    plots = [("Identification rate", rate_plot(vertebrae, "Identification rate by level"))]
    plots += [(title, level_plot(vertebrae, value, f"{title} by level", unit)) for title, unit, value in PLOTS]
    return note + "".join(f"<h3>{title}</h3><figure>{plot}</figure>" for title, plot in plots if plot)


def _confusion(scans: Sequence[Scan]) -> str:
    pairs = [pair for scan in scans for pair in scan.confusion]
    if not pairs:
        return ""
    note = (
        '<p class="faint">Rows: the true level; columns: the prediction that lies there, less than 20 mm away, one to '
        "one. – means that nothing lies there.</p>"
    )
    return note + f"<figure>{confusion_plot(pairs)}</figure>"


def _strata(entries: Sequence[dict[str, Any]]) -> str:
    head = ["", "", "vertebrae", *(MEASURES[key].title for key in STRATA_COLUMNS)]
    rows, before = [], ""
    for entry in entries:
        cells = [_with_interval(entry["estimates"][key], key) for key in STRATA_COLUMNS]
        group = entry["group"] if entry["group"] != before else ""
        before = entry["group"]
        rows.append([group, entry["stratum"], str(entry["vertebrae"]), *cells])
    return table(head, rows, (0, 1))


def _measures(measures: dict[str, Estimate]) -> str:
    rows = [
        [MEASURES[key].title, number(found.value, key), interval(found, key), str(found.count), f"<code>{key}</code>"]
        for key, found in measures.items()
    ]
    return table(["", "value", "95 % interval", "counted", "name for --require"], rows, (4,))


def _scans(scans: Sequence[Scan]) -> str:
    keys = ("precision", "d_mean_mm", "dice", "hd95_mm", "nsd_2mm", "pq")
    head = ["scan", "identified", "shift", *(MEASURES[key].title for key in keys), "extra", "anomaly"]
    rows = []
    for scan in scans:
        known = [v for v in scan.vertebrae if v.hit is not None]
        share = f"{sum(bool(v.hit) for v in known)} of {len(known)}"
        kind = "" if scan.all_right is None else "good" if scan.all_right else "bad"
        shift = f"{scan.shift:+d}" if scan.shift else ""
        values = [number(estimate(key, [scan]).value, key) for key in keys]
        mark = f'<span class="{kind}">{share}</span>'
        rows.append([escape(scan.scan), mark, shift, *values, " ".join(scan.extra), scan.anomaly])
    return table(head, rows, (9, 10))
