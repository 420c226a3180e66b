"""The MONAI Label app: which models, trainers and strategies a server has, and which files it may read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from .. import __version__
from ..labels import NAMES
from ..run import STAGES
from .models import MODELS, ModelTask
from .runner import Runner
from .store import Studies
from .training import StageTraining

logger = logging.getLogger(__name__)


class VertebraeApp(MONAILabelApp):
    """Everything a server of this project offers.

    Args:
        app_dir: the server's own folder: uploads, runs and trained weights.
        studies: folder of the scans.
        conf: `device`, and `bundles` for other bundles than those that came with the package.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.work = Path(app_dir)
        bundles = conf.get("bundles")
        self.runner = Runner(self.work / "weights", conf.get("device", "auto"), Path(bundles) if bundles else None)
        description = "Finds, names and segments every vertebra in CT"
        # The names in the order of their values: 3D Slicer numbers its segments by this list.
        super().__init__(app_dir, studies, conf, "Vertebrae", description, __version__, list(NAMES))

    def init_datastore(self) -> Datastore:
        """Return the studies folder."""
        return Studies(self.studies)

    def init_infers(self) -> dict[str, InferTask]:
        """Return all models."""
        return {name: ModelTask(model, self.runner) for name, model in MODELS.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Return one trainer per stage."""
        return {stage: StageTraining(stage, self.work) for stage in STAGES}

    def init_strategies(self) -> dict[str, Strategy]:
        """Return how the next scan to label is chosen."""
        return {"least_confident": LeastConfident(), **super().init_strategies()}

    def init_batch_infer(self) -> Callable:
        """Return how many scans are run."""
        return Batch()

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on a scan and remember how sure it was; see `MONAILabelApp.infer`.

        Raises:
            ImageNotFoundException: the scan is not of this server.
            ValueError: the scan or the request cannot be used.
        """
        store = datastore or self.datastore()
        image = store.find(request.get("image"), self.work)
        answer = super().infer({**request, "image": image}, store)
        if image in store.list_images() and MODELS[request["model"]].whole:
            found = answer["params"]
            probabilities = [vertebra["probability"] for vertebra in found["vertebrae"]]
            codes = [warning["code"] for warning in found["warnings"]]
            store.update_image_info(image, {"confidence": min(probabilities, default=0.0), "warnings": codes})
        return answer


class LeastConfident(Strategy):
    """The scan without a final label whose least certain vertebra is the least certain of all.

    Scans that no model has seen yet come last, in the order of their names.
    """

    def __init__(self) -> None:
        super().__init__("Least confident first")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the scan's ID and what speaks for it; None if all are labeled."""
        datastore.refresh()  # a batch runs in a process of its own
        waiting = {
            image: datastore.get_image_info(image).get("confidence", 1.0)
            for image in sorted(datastore.get_unlabeled_images())
        }
        if not waiting:
            return None
        image = min(waiting, key=lambda name: waiting[name])
        return {"id": image, "weight": 1.0 - waiting[image]}


class Batch(BatchInferTask):
    """Run a model on many scans, one after the other; one that cannot be used does not stop the others."""

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable) -> dict[str, Any]:
        """Return the answer for every scan, or `{"error": ...}`; masks are saved under the tag "original"."""
        images = sorted(self.get_images(request, datastore))[: request.get("max_batch_size") or None]
        tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL
        answers = {}
        for number, image in enumerate(images, start=1):
            try:
                job = {**request, "image": image, "save_label": True, "label_tag": tag}
                answer = infer(job, datastore)
                Path(answer["file"]).unlink(missing_ok=True)
                answers[image] = answer["params"]
                outcome = f"{len(answers[image]['vertebrae'])} vertebrae"
            except (ValueError, OSError, MONAILabelException) as error:
                outcome = getattr(error, "msg", None) or " ".join(str(error).split())
                answers[image] = {"error": outcome}
            logger.info("%d of %d, %s: %s", number, len(images), image, outcome)
        return answers
