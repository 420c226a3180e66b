"""Ignite handlers that neither Ignite nor MONAI has, and what their own need to be resumed, scored and drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping, EMAHandler
from monai.engines import IterationEvents
from monai.visualize import blend_images
from torch import Tensor, nn
from tqdm import tqdm


class GuardedGradients:
    """Clip the gradient's norm, and stop with a sentence where the loss or a gradient is no longer a number.

    Args:
        parameters: of the network.
        max_norm: gradients are scaled down to this norm; 0 = only guarded.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], max_norm: float = 0.0) -> None:
        self.parameters, self.max_norm = list(parameters), max_norm

    def attach(self, engine: Engine) -> None:
        """Act after every backward pass, before the optimizer's step."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Check and clip the gradients of this step.

        Raises:
            ValueError: loss or gradients are not finite.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm or float("inf"))
        loss = engine.state.output["loss"].detach()
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            scans = ", ".join(sorted(set(map(str, engine.state.batch.get("filename_or_obj", ["unknown"])))))
            raise ValueError(
                f"loss {float(loss):g} and gradient norm {float(norm):g} in epoch {engine.state.epoch}, iteration "
                f"{engine.state.iteration}, scans {scans}: lower learning_rate or max_grad_norm, or look at these scans"
            )
        engine.state.grad_norm = float(norm)


class EpochSeed:
    """Tell data set and sampler which epoch it is, so that order and windows depend on nothing else.

    Args:
        targets: objects with `set_epoch`.
    """

    def __init__(self, targets: Iterable[Any]) -> None:
        self.targets = list(targets)

    def attach(self, engine: Engine) -> None:
        """Act before an epoch's first batch is asked for."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the epoch."""
        for target in self.targets:
            target.set_epoch(engine.state.epoch)


class AveragedWeights(EMAHandler):
    """Running average of the weights whose warm-up follows the trainer's iteration, so that a resumed run goes on.

    Args:
        model: the network that is trained.
        momentum: share of the new weights in every step, after the warm-up.
        warmup_momentum: share in the first step.
        warmup_iters: steps over which it falls.
    """

    def __init__(self, model: nn.Module, momentum: float, warmup_momentum: float, warmup_iters: int) -> None:
        super().__init__(model, momentum, handle_buffers="update")
        self.warmup_momentum, self.warmup_iters = warmup_momentum, warmup_iters

    def _update_ema_model(self, engine: Engine, name: str) -> None:
        """Average after the step that the trainer has just made."""
        done = min((engine.state.iteration - 1) / max(self.warmup_iters - 1, 1), 1.0)
        setattr(engine.state, name, self.warmup_momentum + done * (self.momentum - self.warmup_momentum))
        super()._update_ema_model(engine, name)


class MetricScore:
    """Score of a validation run for early stopping and for the best weights: a metric, or its negative.

    Args:
        name: of the metric.
        lower_is_better: whether it is an error.
    """

    def __init__(self, name: str, lower_is_better: bool = False) -> None:
        self.name, self.sign = name, -1.0 if lower_is_better else 1.0

    def __call__(self, engine: Engine) -> float:
        """Return the score of the evaluator's last run."""
        return self.sign * float(engine.state.metrics[self.name])


class TrainingProgress:
    """A bar over the whole training, with the loss and the time that is left, and a line for every validation.

    The bar shows on a terminal only, the lines wherever standard error goes.

    Args:
        name: what is trained; stands before both.
        evaluator: of the validation.
        early_stop: knows the best score, also that of a run before this one; its score is a `MetricScore`.
        disable: show nothing.
    """

    def __init__(self, name: str, evaluator: Engine, early_stop: EarlyStopping, disable: bool = False) -> None:
        self.name, self.evaluator, self.early_stop, self.disable = name, evaluator, early_stop, disable
        self.bar: Any = None
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Advance with every step of the trainer; speak after the validations, once their score is known."""
        if not self.disable:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.advance)
            engine.add_event_handler(Events.COMPLETED, self.close)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self.close)
            self.evaluator.add_event_handler(Events.COMPLETED, self.report, engine)

    def advance(self, engine: Engine) -> None:
        """Count a step."""
        state, loss = engine.state, float(engine.state.output[0]["loss"])
        self.losses.append(loss)
        if self.bar is None:
            steps = state.max_epochs * state.epoch_length
            self.bar = tqdm(total=steps, initial=state.iteration - 1, desc=self.name, unit="step", disable=None)
        self.bar.set_postfix(epoch=f"{state.epoch}/{state.max_epochs}", loss=f"{loss:.3g}", refresh=False)
        self.bar.update()

    def report(self, _: Engine, trainer: Engine) -> None:
        """Say what a validation found, and the mean loss since the one before; epoch 0 = before any training."""
        score, state = self.early_stop.score_function, trainer.state
        loss = f"loss {sum(self.losses) / len(self.losses):.3g}, " if self.losses else ""
        value, best = score(self.evaluator), self.early_stop.best_score
        found = f"{score.name} {score.sign * value:.4g}, best {score.sign * best:.4g}"
        tqdm.write(f"{self.name}: epoch {state.epoch} of {state.max_epochs}, {loss}{found}", file=sys.stderr)
        self.losses.clear()

    def close(self, _: Engine, error: BaseException | None = None) -> None:
        """Leave the bar as it is, also where a step has failed."""
        if self.bar is not None:
            self.bar.close()
        if error:
            raise error


def newest_checkpoint(folder: str, prefix: str = "resume") -> str:
    """Return the newest `PREFIX_checkpoint_EPOCH.pt` of a folder; "" if there is none."""
    found = Path(folder).glob(f"{prefix}_checkpoint_*.pt")
    return max((str(path) for path in found), key=lambda path: int(path.rpartition("_")[2][:-3]), default="")


def slices(output: list[dict[str, Tensor]]) -> Tensor:
    """Return `(1, 3, K, 2 J)` RGB: the sagittal slice of a window with its target, and beside it with the prediction.

    Shown is the slice with most target. Heatmaps are drawn by their strongest channel, masks by class.

    Args:
        output: of a training step, decollated: `image` `(C, I, J, K)`, `label` and `pred`.
    """
    image, label, pred = (output[0][key].detach().float().cpu() for key in ("image", "label", "pred"))
    if len(label) == 1 and len(pred) > 1:  # classes and logits
        label, pred = label.where(label < len(pred), 0), pred.argmax(dim=0, keepdim=True).float()
    label, pred = (x.nan_to_num().amax(dim=0, keepdim=True) for x in (label, pred))
    top = max(float(label.max()), 1.0)
    stride = image.shape[1] // label.shape[1]
    middle = int(label.sum(dim=(0, 2, 3)).argmax())
    picture = image[:1, middle * stride, ::stride, ::stride]
    views = [_blend(picture, x[:, middle] / top) for x in (label, pred)]
    return torch.cat(views, dim=2)[None]


def no_input(batch: Any) -> tuple[list[None], list[None]]:
    """Return what keeps `TensorBoardImageHandler` from drawing the raw input and label."""
    return [None], [None]


def _blend(picture: Tensor, overlay: Tensor) -> Tensor:
    """Return `(3, K, J)` of a `(1, J, K)` slice with an overlay from 0 to 1; head up, front to the left."""
    picture, overlay = (x.flip(1, 2).transpose(1, 2) for x in (picture, overlay))
    gray = (picture - picture.min()) / (picture.max() - picture.min()).clamp(min=1e-6)
    shown = 0.6 * (overlay > 0.05).float()
    return torch.as_tensor(blend_images(gray, overlay, alpha=shown, cmap="turbo", rescale_arrays=False))
