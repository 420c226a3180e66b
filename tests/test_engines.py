"""The validation metrics as MONAI's tables read them, and the inferer's one trap."""

import pytest
import torch
from torch import nn

from pipeline.engines import HeatmapIdentification, MixedPrecisionInferer, VertebraDice
from pipeline.losses import IGNORED
from pipeline.networks import UNet3D


def heatmaps(peaks: dict[int, tuple[int, int, int]], height: float = 1.0) -> torch.Tensor:
    """One voxel per channel in `(1, 25, 5, 6, 20)`."""
    result = torch.zeros(1, 25, 5, 6, 20)
    for channel, voxel in peaks.items():
        result[(0, channel, *voxel)] = height
    return result


def test_identification_is_one_line_per_window():
    metric = HeatmapIdentification(voxel_mm=4.0)
    truth = heatmaps({3: (1, 2, 3), 4: (1, 2, 10), 24: (4, 5, 19)})
    # Channel 3: 3 voxels of 4 mm off, and nearer to it than to 4. Channel 4: 6 voxels off. Channel 24: hardly there.
    predicted = heatmaps({3: (1, 2, 6), 4: (1, 2, 4), 7: (0, 0, 0)}) + heatmaps({24: (4, 5, 19)}, height=0.04)
    rows = metric(predicted, truth)
    assert rows.shape == (1, 25)
    assert {i: value for i, value in enumerate(rows[0].tolist()) if value == value} == {3: 1.0, 4: 0.0, 24: 0.0}
    metric(truth, truth)
    assert metric.aggregate() == pytest.approx(4 / 6)


def test_dice_is_one_line_per_window():
    metric = VertebraDice()
    truth = torch.zeros(2, 1, 2, 2, 2)
    truth[0, 0, 0], truth[0, 0, 1, 0], truth[1, 0, 0, 0, 0] = 5, IGNORED, 25
    classes = torch.zeros(2, 2, 2, 2, dtype=torch.int64)
    classes[0, 0, 0], classes[0, 1] = 5, 5  # 2 of 4 voxels, 2 more outside, 2 where nothing is known
    rows = metric(nn.functional.one_hot(classes, 26).movedim(-1, 1).float(), truth)
    assert rows.shape == (2, 25)
    assert rows[0, 4] == pytest.approx(2 * 2 / (4 + 4))
    assert rows[1, 24] == 0
    assert rows.isfinite().sum() == 2
    assert metric.aggregate() == pytest.approx(0.25)


@pytest.mark.parametrize("metric", [HeatmapIdentification(4.0), VertebraDice()])
def test_a_metric_of_nothing_is_refused(metric):
    with pytest.raises(ValueError, match="in the validation data"):
        metric.aggregate()


@pytest.mark.parametrize("size", [(16, 16, 16), (8, 16, 16)], ids=["deepest level", "last level but one"])
def test_mixed_precision_trains_on_two_voxels(size):
    """Training broke down after some steps: weight gradients of 1e33 where a level is two voxels wide."""
    torch.manual_seed(0)
    network, infer = UNet3D(1, 2, (4, 8, 16, 16)), MixedPrecisionInferer()
    for _ in range(12):
        rubbish = [torch.full((2**n,), 1e30) for n in range(10, 20)]
        del rubbish  # what the allocator hands out next
        output = infer(torch.randn(1, 1, *size), network)
        assert output.dtype == torch.float32
        network.zero_grad()
        output.square().mean().backward()
        assert all(parameter.grad.abs().max() < 1e3 for parameter in network.parameters())
