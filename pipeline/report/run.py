"""Build the pages of a folder of results: `NAME_report.html`, `NAME_measurements.json` and `index.html`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..annotations import read_mask
from ..files import atomic_path, write_json
from ..images import InputError, Scan, read_scan
from ..measurements import measure
from ..results import ERROR, LANDMARKS, SEGMENTATION
from ..sources import find_sources
from .findings import Findings, read_findings
from .index import Entry, index_page
from .page import scan_page

SAME_GRID_MM = 1e-2


def write_reports(results: Path, scans: str | Path | None = None) -> int:
    """Write a page for every result in a folder, and the index of all of them and of the scans that failed.

    Args:
        results: folder with `NAME_segmentation.nii.gz` and `NAME_landmarks.json`, and `NAME_error.txt` of failures.
        scans: the scans they were made from, as given to `vertebrae segment`; None = where the results say.

    Returns:
        0, or 1 if some scan has no page; each is named.

    Raises:
        InputError: there is neither a result nor a failure in the folder, or no scan where they should be.
    """
    names = sorted(path.name.removesuffix(LANDMARKS) for path in Path(results).glob(f"*{LANDMARKS}"))
    errors = sorted(Path(results).glob(f"*{ERROR}"))
    if not names and not errors:
        raise InputError(f"{results}: no NAME{LANDMARKS} in this folder; expected results of vertebrae segment")
    known = {source.name: source.path for source in find_sources(scans)} if scans else None
    entries, failures = list[Entry](), list[str]()
    for name in tqdm(names, desc="reports", unit="scan", disable=None):
        try:
            entries.append(write_report(Path(results), name, known))
        except (ValueError, OSError) as error:
            failures.append(" ".join(str(error).split()))
            print(f"vertebrae: {failures[-1]}", file=sys.stderr)
    with atomic_path(Path(results) / "index.html") as temporary:
        said = [path.read_text(encoding="utf-8").partition("\n")[0] for path in errors]
        temporary.write_text(index_page(entries, [*said, *failures]), encoding="utf-8")
    return int(bool(failures))


def write_report(results: Path, name: str, scans: Mapping[str, Path] | None = None) -> Entry:
    """Write the page and the measurements of one scan.

    Args:
        results: the folder.
        name: of the result.
        scans: where scans are, by name; one that is not among them is looked for where its result says.

    Raises:
        ValueError: a result cannot be read, or belongs to another scan, or `scans` were given and the scan is missing.
    """
    findings = read_findings(results / f"{name}{LANDMARKS}")
    labels, affine = read_mask(results / f"{name}{SEGMENTATION}")
    scan = _scan(findings, results, scans)
    if scan is not None:
        _check_grid(results / f"{name}{SEGMENTATION}", labels, affine, scan)
    hu = None if scan is None else scan.array
    measurements = measure(labels, affine, findings.landmarks_mm, hu)
    write_json(results / f"{name}_measurements.json", measurements.document())
    with atomic_path(results / f"{name}_report.html") as temporary:
        temporary.write_text(scan_page(findings, measurements, labels, affine, hu), encoding="utf-8")
    return Entry(findings, measurements)


def _scan(findings: Findings, results: Path, scans: Mapping[str, Path] | None) -> Scan | None:
    """Return the scan of a result; None if it is not at hand and no scans were given."""
    name, stated = findings.name, results / findings.scan_file
    if scans and name in scans:
        return read_scan(scans[name])
    if findings.scan_file and stated.exists():
        return read_scan(stated)
    if scans is None:
        return None
    raise InputError(f"{name}: no scan of this name is among those given")


def _check_grid(path: Path, labels: np.ndarray, affine: np.ndarray, scan: Scan) -> None:
    """Refuse labels that do not lie on the scan's grid."""
    if labels.shape != scan.array.shape or not np.allclose(affine, scan.affine, atol=SAME_GRID_MM):
        sizes = " and ".join(" x ".join(map(str, shape)) for shape in (labels.shape, scan.array.shape))
        raise InputError(f"{path}: not on the grid of {scan.path} ({sizes} voxels, or another position)")
