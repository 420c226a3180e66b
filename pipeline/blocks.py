"""What the networks are made of. Shapes: B batch, C channels, (I, J, K) voxels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["batch", "instance"]


class HalfResolution(nn.Module):
    """Average pooling by two, written as the linear resize it equals: that one keeps bfloat16 and channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, I, J, K)` to `(B, C, I/2, J/2, K/2)`."""
        return functional.interpolate(x, scale_factor=0.5, mode="trilinear", align_corners=False)


def double_conv(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Return (Conv3d 3x3x3, norm, ReLU) twice; the norm's offset takes the place of the convolution's bias."""
    if norm not in ("batch", "instance"):
        raise ValueError(f"norm {norm!r}: expected batch or instance")
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv3d(channels, out_channels, 3, padding=1, bias=False))
        norm_layer = nn.BatchNorm3d(out_channels) if norm == "batch" else nn.InstanceNorm3d(out_channels, affine=True)
        layers.extend([norm_layer, nn.ReLU(inplace=True)])
    return nn.Sequential(*layers)


def run_block(block: nn.Module, x: Tensor) -> Tensor:
    """Return `block(x)`; in training on a CPU in float32 where the first axis has two voxels.

    There torch 2.13's bfloat16 weight gradient sums memory that was never written.
    """
    affected = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu") and x.device.type == "cpu"
    if not affected or x.shape[2] != 2:  # in this order: an exported network must not depend on the size
        return block(x)
    with torch.autocast("cpu", enabled=False):
        return block(x.float())


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """Fold every `factor`^3 block into channels: `(B, C, I, J, K)` to `(B, C f^3, I/f, J/f, K/f)`."""
    b, c, i, j, k = x.shape
    x = x.reshape(b, c, i // factor, factor, j // factor, factor, k // factor, factor)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * factor**3, i // factor, j // factor, k // factor)
