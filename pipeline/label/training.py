"""Training of a stage from the labels that annotators have saved as final."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from ..annotations import read_annotation
from ..files import atomic_path, write_json
from ..labels import LABELS, NAMES, T13_ROW
from ..landmarks import present_rows
from ..training import train
from .exchange import VALUES

RELABEL = {VALUES["T13"]: LABELS[T13_ROW]}  # the only value of a saved label that is not VerSe's
FOLDS = 5
LEAST = 2  # one scan to train on, one to validate


class StageTraining(TrainTask):
    """Fine-tune one stage on the saved labels; the server uses the weights from then on.

    Args:
        stage: its name.
        work: the server's folder; `runs/STAGE` receives the run, `weights/STAGE.pt` the best weights.
    """

    def __init__(self, stage: str, work: Path) -> None:
        super().__init__(f"Trains {stage} from the labels saved as final")
        self.stage, self.work = stage, work

    def config(self) -> dict[str, Any]:
        """Return what a viewer may set."""
        return {"max_epochs": 20, "learning_rate": 1e-4, "pretrained": True}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train and return where the weights are.

        Args:
            request: `max_epochs`; `learning_rate`; `pretrained`, false = start from random weights; `overrides`, any
                other key of the stage's `train.json`.
            datastore: with the labels.

        Raises:
            ValueError: see `pipeline.training.train`, or there are too few labels.
        """
        options = {**self.config(), **{key: value for key, value in request.items() if key in self.config()}}
        datalist = write_saved_labels(datastore.datalist(), self.work / "training.json")
        newest = self.work / "weights" / f"{self.stage}.pt"
        start = (newest if newest.is_file() else "shipped") if options["pretrained"] else None
        shutil.rmtree(self.work / "runs" / self.stage, ignore_errors=True)
        best = train(
            datalist,
            self.work / "runs",
            self.stage,
            checkpoint=start,
            announce=print,
            epochs=int(options["max_epochs"]),
            **{"learning_rate": float(options["learning_rate"]), **dict(request.get("overrides") or {})},
        )[self.stage]
        newest.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(newest) as temporary:
            shutil.copy(best, temporary)
        return {"weights": str(newest)}


def check_enough(saved: list[dict[str, Any]]) -> None:
    """Refuse to train on fewer than two saved labels."""
    if len(saved) < LEAST:
        raise ValueError(f"{len(saved)} scans have a label saved as final; training needs {LEAST} at least")


def write_saved_labels(saved: list[dict[str, Any]], target: Path) -> Path:
    """Write the datalist of all saved labels, landmarks from the masks; every fifth scan, or one, is for validation.

    Args:
        saved: `image` and `label` paths.
        target: file to write.

    Raises:
        ValueError: too few, or a scan and its label do not fit.
    """
    check_enough(saved)
    items = [_item(number, Path(pair["image"]), Path(pair["label"])) for number, pair in enumerate(saved)]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, {"space": "RAS", "units": "mm", "training": items})
    return target


def _item(number: int, image: Path, label: Path) -> dict[str, Any]:
    found = read_annotation(image, label, None, RELABEL)
    return {
        "id": image.name.partition(".")[0],
        "patient": image.name,
        "fold": number % FOLDS,
        "image": str(image),
        "label": str(label),
        "landmarks_mm": {
            NAMES[row]: found.landmarks_mm[row].round(3).tolist() for row in present_rows(found.landmarks_mm)
        },
        "open_ends": list(found.open_ends),
        "relabel": {str(old): new for old, new in RELABEL.items()},
    }
