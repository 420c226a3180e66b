"""What `lungs` and `ribs` share: measure something in scans whose vertebrae are named, then in synthetic ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import read_scan
from pipeline.landmarks import read_csv
from pipeline.phantom import make_phantom
from pipeline.sources import find_sources

UNSEEN = 870_000  # first number of every seed here; training scans start with another
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], "np.ndarray | None"]  # of HU, affine and landmarks in mm


def print_table(description: str | None, head: str, measure: Measure, line: Callable[[str, np.ndarray], str]) -> None:
    """Print a line per named scan and the quartiles of synthetic ones; where `measure` returns None there is none."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans")
    parser.add_argument("results", type=Path)
    parser.add_argument("--count", type=int, default=60, help="of synthetic scans to try")
    parser.add_argument("--seed", type=int, default=77)
    options = parser.parse_args()
    print(head)
    for source in find_sources(options.scans):
        table = options.results / f"{source.name}_landmarks.csv"
        if table.is_file():
            scan = read_scan(source.path)
            found = measure(scan.array, scan.affine, read_csv(table))
            if found is not None:
                print(line(source.name, found), flush=True)
    phantoms = (make_phantom((UNSEEN, options.seed, index), "localization") for index in range(options.count))
    known = [found for p in phantoms if (found := measure(p.hu, p.affine, p.landmarks_mm)) is not None]
    for share in (25, 50, 75):
        print(line(f"{share} % of {len(known)} synthetic scans below", np.nanpercentile(known, share, axis=0)))
