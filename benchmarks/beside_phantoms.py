"""What `lungs`, `ribs` and `processes` share: measure something in named scans, then in synthetic ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import read_scan
from pipeline.evaluation.label_maps import read_label_map
from pipeline.landmarks import read_csv
from pipeline.phantom import make_phantom
from pipeline.sources import find_sources

UNSEEN = 870_000  # first number of every seed here; training scans start with another
# Of HU or labels, affine and landmarks in mm.
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], "np.ndarray | None"]


def print_table(
    description: str | None,
    head: str,
    measure: Measure,
    line: Callable[[str, np.ndarray], str],
    *,
    masks: bool = False,
) -> None:
    """Print a line per named scan and the quartiles of synthetic ones; where `measure` returns None there is none.

    `masks`: what is measured is the segmentation among the results, not the scan.
    """
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
            if masks:
                image = read_label_map(options.results / f"{source.name}_segmentation.nii.gz")
            else:
                scan = read_scan(source.path)
                image = scan.array, scan.affine
            found = measure(*image, read_csv(table))
            if found is not None:
                print(line(source.name, found), flush=True)
    phantoms = (make_phantom((UNSEEN, options.seed, index), "localization") for index in range(options.count))
    measured = (measure(p.labels if masks else p.hu, p.affine, p.landmarks_mm) for p in phantoms)
    known = [found for found in measured if found is not None]
    for share in (25, 50, 75):
        print(line(f"{share} % of {len(known)} synthetic scans below", np.nanpercentile(known, share, axis=0)))
