"""The handlers of training, each against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from ignite.engine import Events

from pipeline.handlers import AveragedWeights, GuardedGradients, newest_checkpoint, slices
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
