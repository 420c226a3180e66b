"""From scored scans to numbers with intervals: means, strata and the paired comparison of two predictions.

Every measure is a ratio of sums: of a value over the things it was measured on. Intervals are 95 % percentile
bootstrap intervals over patients, because the vertebrae of a scan, and the scans of a patient, are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from .records import Scan, Vertebra

RESAMPLES = 2000
SEED = 0

Terms = tuple[float, float]  # what is added to the numerator and to the denominator


@dataclass(frozen=True)
class Measure:
    """One thing that is measured.

    Attributes:
        title: its name in the report.
        unit: `mm`, or "" for a share.
        higher_is_better: whether more of it is better.
        of_vertebra: the value of one vertebra, None = it does not count; None for a measure of scans.
        of_scan: numerator and denominator of one scan, for a measure of scans.
    """

    title: str
    unit: str = ""
    higher_is_better: bool = True
    of_vertebra: Callable[[Vertebra], float | None] | None = None
    of_scan: Callable[[Scan], Terms | None] | None = None


@dataclass(frozen=True)
class Estimate:
    """A measure over some scans: None = undefined; `count` vertebrae (or scans) of `subjects` patients."""

    value: float | None
    low: float | None
    high: float | None
    count: int
    subjects: int


def _field(name: str) -> Callable[[Any], float | None]:
    return lambda record: getattr(record, name)


def _hits(scan: Scan) -> tuple[int, int]:
    """Return how many true vertebrae are identified (strict), and how many there are."""
    known = [v.hit for v in scan.vertebrae if v.hit is not None]
    return sum(known), len(known)


def _precision(scan: Scan) -> Terms | None:
    return (_hits(scan)[0], scan.predicted) if _hits(scan)[1] else None


def _f1(scan: Scan) -> Terms | None:
    hits, truth = _hits(scan)
    return (2 * hits, scan.predicted + truth) if truth else None


def _scan_mean(name: str) -> Callable[[Scan], Terms | None]:
    def mean(scan: Scan) -> Terms | None:
        values = [getattr(v, name) for v in scan.vertebrae if getattr(v, name) is not None]
        return (float(np.mean(values)), 1.0) if values else None

    return mean


def _of_scan(name: str) -> Callable[[Scan], Terms | None]:
    return lambda scan: None if getattr(scan, name) is None else (float(getattr(scan, name)), 1.0)


def _shifted(scan: Scan) -> Terms | None:
    truth = _hits(scan)[1]
    return (scan.id_rate_shifted * truth, truth) if scan.id_rate_shifted is not None else None


MEASURES: dict[str, Measure] = {
    "id_rate": Measure("identification rate, strict", of_vertebra=_field("hit")),
    "id_rate_organiser": Measure("identification rate, organiser", of_vertebra=_field("hit_organiser")),
    "id_rate_scans": Measure("identification rate, mean of scans", of_scan=_scan_mean("hit")),
    "id_rate_shifted": Measure("identification rate, best shift undone", of_scan=_shifted),
    "precision": Measure("precision", of_scan=_precision),
    "f1": Measure("F1", of_scan=_f1),
    "all_right": Measure("scans with every vertebra right", of_scan=_of_scan("all_right")),
    "d_mean_mm": Measure("distance, same name", "mm", False, _field("error_mm")),
    "d_mean_hits_mm": Measure("distance, identified", "mm", False, lambda v: v.error_mm if v.hit else None),
    "dice": Measure("Dice", of_vertebra=_field("dice")),
    "dice_scans": Measure("Dice, mean of scans", of_scan=_scan_mean("dice")),
    "hd_mm": Measure("Hausdorff distance", "mm", False, _field("hd_mm")),
    "hd95_mm": Measure("95 % Hausdorff distance", "mm", False, _field("hd95_mm")),
    "assd_mm": Measure("average surface distance", "mm", False, _field("assd_mm")),
    "nsd_1mm": Measure("surface Dice at 1 mm", of_vertebra=_field("nsd_1mm")),
    "nsd_2mm": Measure("surface Dice at 2 mm", of_vertebra=_field("nsd_2mm")),
    "nsd_3mm": Measure("surface Dice at 3 mm", of_vertebra=_field("nsd_3mm")),
    "pq": Measure("panoptic quality", of_scan=_of_scan("pq")),
    "sq": Measure("segmentation quality", of_scan=_of_scan("sq")),
    "rq": Measure("recognition quality", of_scan=_of_scan("rq")),
}

STRATA: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("region", "region", ("C", "T", "L")),
    ("view", "in view", ("complete", "cut")),
    ("anomaly", "anomaly", ()),
    ("spacing", "largest voxel edge", ("up to 1 mm", "1 to 2 mm", "above 2 mm")),
)


def estimate(key: str, scans: Iterable[Scan], keep: Callable[[Vertebra], bool] = lambda v: True) -> Estimate:
    """Return a measure over scans; `keep` restricts a measure of vertebrae to some of them."""
    terms = _by_subject(MEASURES[key], scans, keep)
    sums = np.array([[value, weight] for value, weight, _ in terms.values()]).reshape(-1, 2)
    count = sum(n for _, _, n in terms.values())
    return Estimate(*_interval(_ratio, sums.T), count, len(sums))


def difference(key: str, first: Sequence[Scan], second: Sequence[Scan]) -> Estimate:
    """Return second minus first over the same scans, resampled together."""
    one, two = (_by_subject(MEASURES[key], scans, lambda v: True) for scans in (first, second))
    shared = [subject for subject in one if subject in two]
    sums = np.array([[*one[s][:2], *two[s][:2]] for s in shared]).reshape(-1, 4)
    count = sum(two[s][2] for s in shared)
    return Estimate(*_interval(_ratio_difference, sums.T), count, len(shared))


def strata(keys: Sequence[str], scans: Sequence[Scan]) -> list[dict[str, Any]]:
    """Return one entry per stratum that has vertebrae: its group, name, size and estimates."""
    vertebrae = [v for scan in scans for v in scan.vertebrae]
    entries = []
    for name, title, order in STRATA:
        present = {getattr(v, name) for v in vertebrae}
        for value in [v for v in order if v in present] + sorted(present - set(order)):

            def keep(v: Vertebra, name: str = name, value: str = value) -> bool:
                return getattr(v, name) == value

            estimates = {key: estimate(key, scans, keep) for key in keys if MEASURES[key].of_vertebra}
            entries.append(
                {"group": title, "stratum": value, "vertebrae": sum(map(keep, vertebrae)), "estimates": estimates}
            )
    return entries


def _by_subject(
    measure: Measure, scans: Iterable[Scan], keep: Callable[[Vertebra], bool]
) -> dict[str, tuple[float, float, int]]:
    """Return per patient the sums of numerator and denominator and how much was counted; nobody with nothing."""
    sums: dict[str, tuple[float, float, int]] = {}
    for scan in scans:
        for value, weight in _terms(measure, scan, keep):
            a, b, n = sums.get(scan.subject, (0.0, 0.0, 0))
            sums[scan.subject] = a + value, b + weight, n + 1
    return {subject: terms for subject, terms in sums.items() if terms[1] > 0}


def _terms(measure: Measure, scan: Scan, keep: Callable[[Vertebra], bool]) -> list[Terms]:
    if measure.of_scan:
        terms = measure.of_scan(scan)
        return [terms] if terms else []
    assert measure.of_vertebra
    values = [measure.of_vertebra(v) for v in scan.vertebrae if keep(v)]
    return [(float(value), 1.0) for value in values if value is not None]


def _ratio(value: np.ndarray, weight: np.ndarray, axis: int = -1) -> np.ndarray:
    return value.sum(axis=axis) / weight.sum(axis=axis)


def _ratio_difference(a: np.ndarray, n: np.ndarray, b: np.ndarray, m: np.ndarray, axis: int = -1) -> np.ndarray:
    return _ratio(b, m, axis) - _ratio(a, n, axis)


def _interval(
    statistic: Callable[..., np.ndarray], columns: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    """Return value, low and high of a statistic of `(N, subjects)` columns; no interval for a single patient."""
    if not columns.shape[1]:
        return None, None, None
    value = float(statistic(*columns))
    if columns.shape[1] == 1:
        return value, None, None
    interval = bootstrap(
        tuple(columns),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        random_state=SEED,
    ).confidence_interval
    return value, float(interval.low), float(interval.high)
