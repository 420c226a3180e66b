"""Pooled numbers, intervals, strata, comparison and bars, against values worked out by hand."""

import pytest

from pipeline.evaluation.bars import parse_bar
from pipeline.evaluation.comparison import comparison
from pipeline.evaluation.records import Evaluation, Scan, Vertebra
from pipeline.evaluation.statistics import MEASURES, Estimate, difference, estimate, strata


def scan_of(name, hits, dice, *, subject="", extra=(), errors=None, spacing="up to 1 mm"):
    """A lumbar scan: one vertebra per hit (None = its truth has no center)."""
    scan = Scan(name, subject or name, name, spacing=spacing, extra=list(extra))
    for i, (hit, overlap) in enumerate(zip(hits, dice, strict=True)):
        vertebra = Vertebra(name, f"L{i + 1}", "L", "cut" if i == 0 else "complete", "none", spacing)
        vertebra.hit = vertebra.hit_organiser = hit
        vertebra.error_mm = errors[i] if errors else None
        vertebra.dice, vertebra.hd_mm = overlap, 3.0 if overlap else None
        scan.vertebrae.append(vertebra)
    known = [hit for hit in hits if hit is not None]
    scan.predicted, scan.all_right = len(known) + len(extra), all(known) and not extra
    return scan


SCANS = [
    scan_of("a", (True, True, True, False), (0.9, 0.8, 0.7, 0.0), errors=(1.0, 2.0, 3.0, None)),
    scan_of("b", (True, None), (1.0, 0.6), extra=("L6",), errors=(4.0, None), spacing="above 2 mm"),
]


@pytest.mark.parametrize(
    ("key", "value", "count"),
    [
        ("id_rate", 4 / 5, 5),
        ("id_rate_scans", (3 / 4 + 1) / 2, 2),
        ("precision", 4 / 6, 2),
        ("f1", 8 / 11, 2),
        ("all_right", 0.0, 2),
        ("d_mean_mm", 10 / 4, 4),
        ("d_mean_hits_mm", 10 / 4, 4),
        ("dice", 4.0 / 6, 6),
        ("dice_scans", (2.4 / 4 + 0.8) / 2, 2),
        ("hd_mm", 3.0, 5),
    ],
)
def test_pooled_values(key, value, count):
    found = estimate(key, SCANS)
    assert found.value == pytest.approx(value)
    assert (found.count, found.subjects) == (count, 2)
    assert found.low <= found.value <= found.high


def test_intervals_run_over_patients():
    """Two scans of one patient move together: there is nothing to resample, however many vertebrae there are."""
    first, second = (scan_of(name, (True, False), (1.0, 0.0), subject="p") for name in "ab")
    assert estimate("id_rate", [first, second]) == Estimate(0.5, None, None, 4, 1)
    right, wrong = scan_of("c", (True,) * 2, (1, 1)), scan_of("d", (False,) * 2, (0, 0))
    found = estimate("id_rate", [right, wrong])
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0), "a quarter of the resamples holds c or d alone"


def test_nothing_to_measure():
    assert estimate("pq", SCANS) == Estimate(None, None, None, 0, 0)
    assert estimate("dice", []) == Estimate(None, None, None, 0, 0)


def test_every_measure_takes_an_empty_scan():
    for key in MEASURES:
        assert estimate(key, [Scan("a", "a", "")]).value is None


def test_strata_split_the_vertebrae():
    entries = {entry["stratum"]: entry for entry in strata(("dice", "id_rate", "pq"), SCANS)}
    assert list(entries) == ["L", "complete", "cut", "none", "up to 1 mm", "above 2 mm"]
    assert entries["cut"]["vertebrae"] == 2
    assert entries["cut"]["estimates"]["dice"].value == pytest.approx(0.95)
    assert entries["complete"]["estimates"]["id_rate"].value == pytest.approx(2 / 3)
    assert entries["above 2 mm"]["estimates"]["dice"].value == pytest.approx(0.8)
    assert "pq" not in entries["L"]["estimates"], "a whole scan has no region"


def test_differences_are_paired():
    """Every patient gains 0.1, so the difference is certain although the patients differ widely."""
    first = [scan_of(str(i), (True, True), (0.1 * i, 0.1 * i)) for i in range(9)]
    second = [scan_of(str(i), (True, True), (0.1 * i + 0.1, 0.1 * i + 0.1)) for i in range(9)]
    found = difference("dice", first, second)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert estimate("dice", first).high - estimate("dice", first).low > 0.2


def test_comparison_names_what_changed(tmp_path):
    first = [SCANS[0], SCANS[1], scan_of("only first", (True,), (1.0,))]
    second = [scan_of("a", (True, True, False, True), (0.9, 0.8, 0.7, 0.4)), SCANS[1]]
    compared = comparison(Evaluation(tmp_path / "x", tmp_path, first), Evaluation(tmp_path / "y", tmp_path, second))
    assert compared["scans"] == 2
    (entry,) = compared["changed"]
    assert (entry["scan"], entry["hits"], entry["gained"], entry["lost"]) == ("a", [3, 3], ["L4"], ["L3"])
    assert entry["dice_change"] == pytest.approx(0.1)
    assert compared["measures"]["dice"]["difference"].value == pytest.approx(0.4 / 6)


@pytest.mark.parametrize(
    ("text", "met"),
    [("id_rate>=0.8", True), (" dice > 0.7 ", False), ("d_mean_mm<=2.5", True), ("hd_mm<3", False), ("pq>0", False)],
)
def test_bars(text, met):
    bar = parse_bar(text)
    assert bar.met_by(estimate(bar.measure, SCANS)) is met


@pytest.mark.parametrize("text", ["id_rate", "id_rate=0.9", "speed>=1", "dice>=high", ""])
def test_bars_that_are_none(text):
    with pytest.raises(ValueError, match=r"--require '.*': "):
        parse_bar(text)
