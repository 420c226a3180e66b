"""The whole pipeline on one scan: three calls, each handing positions in RAS+ mm to the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .consistency import check
from .findings import Finding, about_input
from .images import Scan, read_scan
from .labelling import Labelling
from .numbering import OpenEnd
from .spaces import bounds_mm

if TYPE_CHECKING:
    import torch

STAGES = ("spine_loc", "vert_loc", "vert_seg")
logger = logging.getLogger(__name__)


class NoSpineFound(ValueError):  # noqa: N818 - a result, not a mistake
    """The scan is a usable CT, but no vertebra was found in it."""


@dataclass
class Result:
    """What was found in one scan.

    Attributes:
        scan: the input.
        spine_box_mm: `(2, 3)` low and high corner of the spine that stage one found, RAS+ mm; stage two may search on.
        labelling: the vertebrae with names, positions and probabilities.
        labels: `(I, J, K)` uint8 VerSe labels on the scan's grid.
        seconds: wall time per stage.
    """

    scan: Scan
    spine_box_mm: np.ndarray
    labelling: Labelling
    labels: np.ndarray
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def warnings(self) -> tuple[Finding, ...]:
        """What the user should look at: in the input, in the labels, and where mask and landmarks disagree."""
        agreement = check(self.labels, self.scan.affine, self.labelling.landmarks_mm)
        return (*about_input(self.scan.warnings), *self.labelling.warnings, *agreement)


class VertebraePipeline:
    """The three bundles, loaded once, for any number of scans.

    Args:
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
        checkpoints: weights by stage name instead of the bundles' own.
        bundles: folder of the three bundles; None = those that came with the package.

    Example:
        >>> from pipeline import VertebraePipeline
        >>> result = VertebraePipeline()("scan.nii.gz")  # doctest: +SKIP
        >>> result.labelling.landmarks_mm  # (26, 3), NaN = absent  # doctest: +SKIP
    """

    def __init__(
        self, device: str = "auto", checkpoints: dict[str, Path] | None = None, bundles: Path | None = None
    ) -> None:
        from .stage import Stage, bundles_root

        root = Path(bundles) if bundles else bundles_root()
        chosen = _device(device)
        self.spine_loc, self.vert_loc, self.vert_seg = (
            Stage(root / name, chosen, (checkpoints or {}).get(name)) for name in STAGES
        )

    @property
    def versions(self) -> dict[str, str]:
        """Version of every bundle."""
        return {stage.name: stage.version for stage in (self.spine_loc, self.vert_loc, self.vert_seg)}

    def __call__(self, scan: Scan | str | Path, on_stage: Callable[[str], None] = lambda name: None) -> Result:
        """Find, name and segment the vertebrae of one scan.

        Args:
            scan: a scan in memory, or its path.
            on_stage: called with each stage's name before it runs.

        Raises:
            InputError: the file is not a usable CT.
            NoSpineFound: no vertebra in view.
        """
        scan = scan if isinstance(scan, Scan) else read_scan(Path(scan))
        clock = _Clock(on_stage)
        spine_box_mm = clock("spine_loc", self.find_spine, scan)
        labelling = clock("vert_loc", self.find_vertebrae, scan, spine_box_mm)
        labels = clock("vert_seg", self.segment, scan, labelling.landmarks_mm)
        return Result(scan, spine_box_mm, labelling, labels, clock.seconds)

    def find_spine(self, scan: Scan) -> np.ndarray:
        """Return the `(2, 3)` box of the spine in RAS+ mm; `NoSpineFound` if there is none."""
        box = self.spine_loc({"image": scan})["spine_box_mm"]
        if not np.isfinite(box).all():
            raise NoSpineFound(f"{scan.path}: no spine found in this scan")
        return box

    def find_vertebrae(self, scan: Scan, spine_box_mm: np.ndarray | None = None) -> Labelling:
        """Return the named vertebrae inside the box, or in the whole scan; `NoSpineFound` if there is none.

        A spine that goes on where the box ends, but not the scan, is searched once more up to the scan's end.
        """
        labelling = self._search(scan, spine_box_mm)
        ends = [end for end in labelling.open_ends if not end.searched]
        if spine_box_mm is not None and ends:
            logger.info("%s: not searched %s", scan.name, ", ".join(f"{end.side} {end.name}" for end in ends))
            labelling = self._search(scan, reaching(spine_box_mm, ends, bounds_mm(scan.grid)))
        if not labelling.vertebrae:
            raise NoSpineFound(f"{scan.path}: a spine is in view, but no vertebra could be told apart")
        return labelling

    def _search(self, scan: Scan, box_mm: np.ndarray | None) -> Labelling:
        return self.vert_loc({"image": scan, "spine_box_mm": box_mm})["labelling"]

    def segment(self, scan: Scan, landmarks_mm: np.ndarray) -> np.ndarray:
        """Return `(I, J, K)` uint8 labels on the scan's grid for the vertebrae at `(26, 3)` RAS+ mm."""
        return self.vert_seg({"image": scan, "landmarks_mm": landmarks_mm})["pred"][0].numpy()


def reaching(box_mm: np.ndarray, ends: Sequence[OpenEnd], view_mm: np.ndarray) -> np.ndarray:
    """Return a `(2, 3)` box in RAS+ mm that goes on beyond ends of the chain up to the field of view's own end."""
    points_mm = np.stack([*box_mm, *(end.beyond_mm for end in ends)])
    wider_mm = np.stack([points_mm.min(axis=0), points_mm.max(axis=0)])
    for end in ends:
        side = 1 if end.side == "above" else 0
        wider_mm[side, 2] = view_mm[side, 2]
    return wider_mm


class _Clock:
    """Calls a function, announces it and keeps its wall time."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.announce, self.seconds = announce, dict[str, float]()

    def __call__(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        self.announce(name)
        start = time.perf_counter()
        value = function(*arguments)
        self.seconds[name] = round(time.perf_counter() - start, 2)
        return value


def _device(name: str) -> torch.device:
    """Return the torch device of a name; `ValueError` for one that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device {name!r}: no such GPU here")
    return device
