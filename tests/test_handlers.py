"""The handlers of training, each against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping

from pipeline.handlers import (
    AveragedWeights,
    GuardedGradients,
    MetricScore,
    TrainingProgress,
    newest_checkpoint,
    slices,
)
from pipeline.losses import IGNORED

CPU = torch.device("cpu")


def trainer_of(network, loss_function, lr=0.1):
    from monai.engines import SupervisedTrainer

    data = [{"image": torch.ones(2, 3), "label": torch.zeros(2, 1), "filename_or_obj": ["a", "b"]}] * 4
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    return SupervisedTrainer(CPU, 1, data, network, optimizer, loss_function, decollate=False)


def linear(weight: float) -> torch.nn.Linear:
    network = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.constant_(network.weight, weight)
    return network


@pytest.mark.parametrize(("max_norm", "step"), [(0.0, 0.2), (100.0, 0.2), (0.5, 0.05 / 3**0.5)])
def test_gradients_are_clipped(max_norm, step):
    """Loss (3 w)^2 / 3 of three equal weights: each gradient is 2 w = 2, their norm 2 sqrt(3)."""
    network = linear(1.0)
    trainer = trainer_of(network, lambda prediction, _: prediction.square().mean() / 3)
    GuardedGradients(network.parameters(), max_norm).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), trainer.terminate)
    trainer.run()
    np.testing.assert_allclose(network.weight.detach(), 1 - step, rtol=1e-5)
    assert trainer.state.grad_norm == pytest.approx(2 * 3**0.5, rel=1e-5)


@pytest.mark.parametrize("spoil", [torch.log, lambda x: x / 0])
def test_what_is_no_number_stops_with_a_sentence(spoil):
    network = linear(-1.0)
    trainer = trainer_of(network, lambda prediction, _: spoil(prediction).mean())
    GuardedGradients(network.parameters()).attach(trainer)
    with pytest.raises(ValueError, match=r"loss (nan|-inf) .* epoch 1, iteration 1, scans a, b: lower learning_rate"):
        trainer.run()
    assert torch.isfinite(network.weight).all()


def test_averaged_weights_by_hand():
    """Momentum 0.5, 0.3, 0.1 and then 0.1, of weights 1, 2, 3, 4 after a start at 0."""
    network = linear(0.0)
    ema = AveragedWeights(network, 0.1, 0.5, 3)
    trainer = trainer_of(network, lambda prediction, _: prediction.mean() * 0)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: torch.nn.init.constant_(network.weight, trainer.state.iteration)
    )
    ema.attach(trainer)
    trainer.run()
    expected = 0.9 * (0.9 * (0.7 * (0.5 * 1) + 0.3 * 2) + 0.1 * 3) + 0.1 * 4
    np.testing.assert_allclose(ema.ema_model.weight, expected, rtol=1e-6)


def progress_of(errors_mm: list[float], losses: list[float]) -> tuple[Engine, Engine, TrainingProgress]:
    """Trainer and evaluator whose steps and validations give these numbers, two steps an epoch."""
    evaluator, trainer = Engine(lambda *_: None), Engine(lambda *_: [{"loss": torch.tensor(losses.pop(0))}])
    evaluator.add_event_handler(Events.COMPLETED, lambda e: e.state.metrics.update(error_mm=errors_mm.pop(0)))
    stop = EarlyStopping(9, MetricScore("error_mm", lower_is_better=True), trainer)
    evaluator.add_event_handler(Events.COMPLETED, stop)
    progress = TrainingProgress("stage", evaluator, stop)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    progress.attach(trainer)
    return trainer, evaluator, progress


def test_progress_says_what_every_validation_found(capsys):
    trainer, evaluator, progress = progress_of([7.0, 5.0, 6.25], [4.0, 2.0, 1.0, 0.5])
    trainer.state.epoch, trainer.state.max_epochs = 0, 2
    evaluator.run([0])
    trainer.run([0, 0], max_epochs=2)
    assert capsys.readouterr().err.splitlines() == [
        "stage: epoch 0 of 2, error_mm 7, best 7",
        "stage: epoch 1 of 2, loss 3, error_mm 5, best 5",
        "stage: epoch 2 of 2, loss 0.75, error_mm 6.25, best 5",
    ]
    assert progress.bar.disable  # this is no terminal


def test_the_bar_counts_the_whole_training_and_goes_on_after_a_resume(capsys, monkeypatch):
    """It used to start again with every epoch, and the time left was that of the epoch."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    trainer, _, progress = progress_of([5.0] * 3, [1.0] * 8)
    trainer.load_state_dict({"epoch_length": 2, "max_epochs": 4, "iteration": 4})
    trainer.run([0, 0], max_epochs=4)
    assert (progress.bar.initial, progress.bar.n, progress.bar.total) == (4, 8, 8)
    assert "epoch=4/4, loss=1" in capsys.readouterr().err


def test_a_mistake_passes_through_the_progress():
    trainer, _, _ = progress_of([], ["no loss"])
    with pytest.raises(TypeError):
        trainer.run([0], max_epochs=1)


def test_newest_checkpoint_is_by_number(tmp_path):
    assert newest_checkpoint(str(tmp_path)) == ""
    for epoch in (9, 10, 2):
        (tmp_path / f"resume_checkpoint_{epoch}.pt").touch()
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "resume_checkpoint_10.pt")


def test_slices_show_target_and_prediction():
    """Heatmaps of half the resolution: a target high in front, a prediction low behind, in slice 3 of 5."""
    image = torch.linspace(0, 1, 10 * 12 * 16).reshape(1, 10, 12, 16)
    label, pred = torch.zeros(2, 5, 6, 8), torch.zeros(2, 5, 6, 8)
    label[1, 3, 5, 6], pred[0, 3, 0, 1] = 1, 1
    label[:, :, :, 7] = torch.nan
    picture = slices([{"image": image, "label": label, "pred": pred}])
    assert picture.shape == (1, 3, 8, 12)
    colored = ((picture[0] - picture[0].mean(dim=0)).abs() > 1e-4).any(dim=0).nonzero().tolist()
    assert colored == [[1, 0], [6, 6 + 5]]  # head up, front to the left; the prediction beside it


def test_slices_of_masks():
    image, label = torch.rand(26, 4, 6, 8), torch.zeros(1, 4, 6, 8, dtype=torch.int64)
    label[0, 2, 1, 2], label[0, 2, 3, 3] = 20, IGNORED
    pred = torch.nn.functional.one_hot(label.where(label < 26, 0)[0], 26).movedim(-1, 0).float()
    picture = slices([{"image": image, "label": label, "pred": pred}])
    assert torch.equal(picture[..., :6], picture[..., 6:])
    colored = ((picture[0] - picture[0].mean(dim=0)).abs() > 1e-4).any(dim=0).nonzero().tolist()
    assert colored == [[5, 4], [5, 10]]
