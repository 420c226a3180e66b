"""The pipeline behind a server: loaded once, again when a stage has been trained, and never twice on one scan."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..findings import Finding
from ..images import Scan, read_scan
from ..labelling import Labelling
from ..run import STAGES, NoSpineFound, Result, VertebraePipeline


class Runner:
    """Runs the pipeline or its stages on files, one at a time, and keeps what it found in the last one.

    Args:
        weights: folder of trained weights, `STAGE.pt`; they are used instead of the shipped ones.
        device: as for `VertebraePipeline`.
        bundles: as for `VertebraePipeline`.
    """

    def __init__(self, weights: Path, device: str = "auto", bundles: Path | None = None) -> None:
        self.weights, self.device, self.bundles = Path(weights), device, bundles
        self.busy = threading.RLock()
        self._loaded: dict[Any, VertebraePipeline] = {}
        self._known: dict[Any, Any] = {}

    def pipeline(self, *, shipped: bool = False) -> VertebraePipeline:
        """Return the pipeline with the newest trained weights, or with the shipped ones."""
        trained = {name: self.weights / f"{name}.pt" for name in STAGES}
        trained = {name: path for name, path in trained.items() if path.is_file() and not shipped}
        key = tuple((path, path.stat().st_mtime_ns) for path in trained.values())
        if key not in self._loaded:
            self._loaded.clear()
            self._known.clear()
            self._loaded[key] = VertebraePipeline(self.device, trained, self.bundles)
        return self._loaded[key]

    def versions(self, *, shipped: bool = False) -> dict[str, str]:
        """Return the version of every bundle, marked where its weights were trained here."""
        trained = {name for name in STAGES if (self.weights / f"{name}.pt").is_file() and not shipped}
        versions = self.pipeline(shipped=shipped).versions
        return {name: f"{version}, trained here" if name in trained else version for name, version in versions.items()}

    def scan(self, path: Path) -> Scan:
        """Return a scan; `InputError` if it is not usable."""
        return self._once(path, "scan", lambda: read_scan(path))

    def labelling(self, path: Path, *, shipped: bool = False) -> Result:
        """Return what the first two stages find; the labels are empty. A scan without a spine has no vertebra."""
        pipeline = self.pipeline(shipped=shipped)
        return self._once(path, "labelling", lambda: find(pipeline, self.scan(path)))

    def result(self, path: Path, *, shipped: bool = False) -> Result:
        """Return what the whole pipeline finds. A scan without a spine has no vertebra and a warning."""
        pipeline = self.pipeline(shipped=shipped)

        def compute() -> Result:
            found = self.labelling(path, shipped=shipped)
            if not found.labelling.vertebrae:
                return found
            return replace(found, labels=pipeline.segment(found.scan, found.labelling.landmarks_mm))

        return self._once(path, "result", compute)

    def _once(self, path: Path, what: str, compute: Any) -> Any:
        """Return what was computed before of this file, unless it has changed or another came in between."""
        stat = path.stat()
        file = (path, stat.st_mtime_ns, stat.st_size)
        if self._known.get("file") != file:
            self._known = {"file": file}
        if what not in self._known:
            value = compute()
            self._known[what] = value
        return self._known[what]


def find(pipeline: VertebraePipeline, scan: Scan) -> Result:
    """Return what the first two stages find in a scan; where the pipeline raises, no vertebra and a warning."""
    box_mm = None
    try:
        box_mm = pipeline.find_spine(scan)
        return partial_result(scan, box_mm=box_mm, labelling=pipeline.find_vertebrae(scan, box_mm))
    except NoSpineFound as error:
        return partial_result(scan, box_mm=box_mm, labelling=nothing(scan, error))


def partial_result(
    scan: Scan,
    *,
    box_mm: np.ndarray | None = None,
    labelling: Labelling | None = None,
    labels: np.ndarray | None = None,
) -> Result:
    """Return a result of which some parts were not computed: no box, no vertebra, no mask."""
    return Result(
        scan,
        np.full((2, 3), np.nan) if box_mm is None else box_mm,
        labelling or Labelling(warnings=()),
        np.zeros(scan.array.shape, np.uint8) if labels is None else labels,
    )


def nothing(scan: Scan, error: NoSpineFound) -> Labelling:
    """Return the labelling of a scan in which nothing was found: a warning that says what."""
    return Labelling(warnings=(Finding("no_vertebra", str(error).removeprefix(f"{scan.path}: ")),))
