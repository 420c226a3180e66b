"""The inferer's one trap, and its switch."""

import pytest
import torch

from pipeline.engines import MixedPrecisionInferer, has_fast_bfloat16
from pipeline.networks import UNet3D


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


def test_mixed_precision_can_be_switched_off():
    seen = []

    def network(x):
        seen.append(torch.is_autocast_enabled("cpu"))
        return x

    for enabled in (True, False):
        MixedPrecisionInferer(enabled)(torch.zeros(1, 1, 2, 2, 2), network)
    assert seen == [has_fast_bfloat16(torch.device("cpu")), False]
