"""The models that a viewer can run: the whole pipeline, each stage alone, and the click."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from ..run import NoSpineFound, Result
from .answers import describe, write_box, write_clicked, write_mask, write_points
from .clicks import segment_click
from .exchange import VALUES, numbers, requested_landmarks_mm
from .runner import Runner, nothing, partial_result

Request = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """What one model does.

    Attributes:
        kind: how viewers offer it.
        description: one sentence for them.
        compute: runner, path of the scan, request -> what was found.
        write: what was found, request -> path of the file to send.
        whole: whether it runs all stages; then mask and names are checked against each other, and how sure it is
            decides which scan is to be labeled next.
    """

    kind: InferType
    description: str
    compute: Callable[[Runner, Path, Request], Result]
    write: Callable[[Result, Request], str]
    whole: bool = False


class ModelTask(InferTask):
    """One model as MONAI Label wants it."""

    def __init__(self, model: Model, runner: Runner) -> None:
        labels = [] if model.kind == InferType.DETECTION else VALUES
        super().__init__(model.kind, labels, 3, model.description, {"weights": ["trained", "shipped"]})
        self.model, self.runner = model, runner

    def is_valid(self) -> bool:
        """Return that it can run."""
        return True

    def __call__(self, request: Request) -> tuple[str, dict[str, Any]]:
        """Return the file to send and the JSON answer; `ValueError` for a scan or a request that cannot be used."""
        start = time.perf_counter()
        with self.runner.busy:
            result = self.model.compute(self.runner, Path(request["image"]), request)
            versions = self.runner.versions(shipped=asks_for_shipped(request))
            answer = describe(result, versions, checked=self.model.whole)
        file = self.model.write(result, request)
        return file, {**answer, "latencies": {"total": round(time.perf_counter() - start, 2)}}


def asks_for_shipped(request: Request) -> bool:
    """Return whether trained weights are to be left alone; `ValueError` for anything but "shipped" and "trained"."""
    choice = request.get("weights") or "trained"
    choice = choice[0] if isinstance(choice, list) else choice  # a viewer may send the list of choices as it got it
    if choice not in ("trained", "shipped"):
        raise ValueError(f"weights {choice!r}: expected trained or shipped")
    return choice == "shipped"


def whole(runner: Runner, path: Path, request: Request) -> Result:
    """Return what all three stages find."""
    return runner.result(path, shipped=asks_for_shipped(request))


def first_stage(runner: Runner, path: Path, request: Request) -> Result:
    """Return the box of the spine alone."""
    scan, pipeline = runner.scan(path), runner.pipeline(shipped=asks_for_shipped(request))
    try:
        return partial_result(scan, box_mm=pipeline.find_spine(scan))
    except NoSpineFound as error:
        return partial_result(scan, labelling=nothing(scan, error))


def second_stage(runner: Runner, path: Path, request: Request) -> Result:
    """Return the named landmarks in `spine_box_mm` of the request, or in the whole scan; no mask."""
    scan, pipeline = runner.scan(path), runner.pipeline(shipped=asks_for_shipped(request))
    box_mm = request.get("spine_box_mm")
    box_mm = None if box_mm is None else numbers(box_mm, (2, 3), "spine_box_mm")
    try:
        return partial_result(scan, box_mm=box_mm, labelling=pipeline.find_vertebrae(scan, box_mm))
    except NoSpineFound as error:
        return partial_result(scan, box_mm=box_mm, labelling=nothing(scan, error))


def third_stage(runner: Runner, path: Path, request: Request) -> Result:
    """Return the mask of the vertebrae at `landmarks` of the request, RAS mm by name, or at those stage two finds."""
    shipped = asks_for_shipped(request)
    if request.get("landmarks") is None:
        return runner.result(path, shipped=shipped)
    landmarks_mm = requested_landmarks_mm(request["landmarks"])
    scan = runner.scan(path)
    return partial_result(scan, labels=runner.pipeline(shipped=shipped).segment(scan, landmarks_mm))


def click(runner: Runner, path: Path, request: Request) -> Result:
    """Return the vertebra that was clicked; see `clicks`."""
    shipped = asks_for_shipped(request)
    return segment_click(runner.pipeline(shipped=shipped), runner.labelling(path, shipped=shipped), request)


MODELS = {
    "vertebrae": Model(InferType.SEGMENTATION, "All stages: names and masks", whole, write_mask, whole=True),
    "vertebrae_landmarks": Model(InferType.DETECTION, "All stages: named points", whole, write_points, whole=True),
    "spine_loc": Model(InferType.DETECTION, "Stage one alone: the box of the spine", first_stage, write_box),
    "vert_loc": Model(InferType.DETECTION, "Stage two alone: named points", second_stage, write_points),
    "vert_seg": Model(InferType.SEGMENTATION, "Stage three alone: masks at given landmarks", third_stage, write_mask),
    "vertebra_click": Model(InferType.DEEPGROW, "Click a vertebra, say its name: its mask", click, write_clicked),
}
