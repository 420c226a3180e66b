"""How much memory a training step needs, counted on a window small enough for any machine.

What autograd keeps grows with the number of voxels; two small windows give the slope. The weights come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

PER_WEIGHT = 5 * 4  # weight, gradient, Adam's two moments, running average: float32 each
TRANSIENT = 3  # of the largest tensor: a gradient, the one it is made from, a workspace


def training_bytes(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    in_channels: int,
    window: Sequence[int],
    windows: int,
    *,
    mixed_precision: bool = True,
) -> int:
    """Return about how many bytes of tensors a training step holds at its peak.

    The CUDA context (about 0.5 GB) and cuDNN's choice of workspace are not in it.

    Args:
        network: on the CPU.
        loss: of (prediction, target).
        in_channels: of the network.
        window: `(I, J, K)` voxels.
        windows: in a step.
        mixed_precision: bfloat16 autocast.
    """
    side = max(32, 16 * getattr(network, "stem", 1) * getattr(network, "spatial_downsample", 1))
    sizes = ((side, side, side), (side, side, 2 * side))
    (small, largest), (large, larger) = (
        _kept_bytes(network, loss, torch.zeros(1, in_channels, *size), mixed_precision) for size in sizes
    )
    voxels = [int(np.prod(size)) for size in sizes]
    share = windows * float(np.prod(window))
    per_voxel = (large - small) / (voxels[1] - voxels[0])
    transient = TRANSIENT * (larger - largest) / (voxels[1] - voxels[0])
    fixed = small - per_voxel * voxels[0]
    weights = PER_WEIGHT * sum(parameter.numel() for parameter in network.parameters())
    return int(weights + fixed + share * (per_voxel + transient))


def _kept_bytes(network: nn.Module, loss: Callable, image: Tensor, mixed_precision: bool) -> tuple[int, int]:
    """Return the bytes that autograd keeps for a backward pass, without the weights, and the largest of them."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    training = network.training
    state = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
            output = network(image).float()
        target = torch.zeros_like(output)
        value = loss(output, target[:, :1] if output.shape[1] == 26 else target)
    network.load_state_dict(state)  # the running statistics have seen zeros
    network.train(training)
    del value
    return sum(kept.values()), max(kept.values())
