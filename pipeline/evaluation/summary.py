"""What `vertebrae evaluate` prints."""

from __future__ import annotations

from collections.abc import Mapping

from .bars import Bar
from .comparison import comparison
from .records import Evaluation
from .statistics import MEASURES, estimate
from .text import interval, number

SHOWN = (
    "id_rate",
    "id_rate_organiser",
    "precision",
    "all_right",
    "d_mean_mm",
    "dice",
    "hd95_mm",
    "assd_mm",
    "nsd_2mm",
    "pq",
)


def print_summary(main: Evaluation, bars: Mapping[Bar, bool], other: Evaluation | None = None) -> None:
    """Print the main measures, what did not match, the comparison and the bars."""
    names = [v for scan in main.scans for v in scan.vertebrae]
    patients = len({scan.subject for scan in main.scans})
    print(f"{len(main.scans)} scans of {patients} patients, {len(names)} vertebrae\n")
    print(f"{'measure':<36}{'value':>9}  {'95 % interval':<18}{'count':>6}")
    for key in SHOWN:
        found = estimate(key, main.scans)
        print(f"{MEASURES[key].title:<36}{number(found.value, key):>9}  {interval(found, key):<18}{found.count:>6}")
    for title, unmatched in (("no prediction for", main.without_prediction), ("no truth for", main.without_truth)):
        if unmatched:
            print(f"\n{title}: {', '.join(unmatched)}")
    if other:
        print(f"\n{other.prediction} minus {main.prediction}:")
        compared = comparison(main, other)
        for key in SHOWN:
            change = compared["measures"][key]["difference"]
            print(f"{MEASURES[key].title:<36}{number(change.value, key, sign='+'):>9}  {interval(change, key):<18}")
        print(f"scans that changed: {', '.join(entry['scan'] for entry in compared['changed']) or 'none'}")
    if bars:
        print()
    for bar, met in bars.items():
        value = number(estimate(bar.measure, main.scans).value, bar.measure)
        print(f"{'met' if met else 'MISSED'}: {bar} (found {value})")
