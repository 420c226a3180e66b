"""The network of stage three: a U-Net that sees the distance channels as one coordinate along the spine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import Norm
from .exportable import ExportableNetwork
from .networks import UNet3D


class Float32Conv3d(nn.Conv3d):
    """A convolution that autocast leaves in float32; only what it returns is rounded."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, I, J, K)` to `(B, D, I, J, K)`, in autocast's type where that is on."""
        device = x.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return super().forward(x)
        with torch.autocast(device, enabled=False):
            return super().forward(x).to(torch.get_autocast_dtype(device))


class LevelUNet(ExportableNetwork):
    """A U-Net that names bone relative to the landmarks: what it learns at one level serves at all of them.

    The distance channels are first turned into a level coordinate: 1 at the first landmark in view, 2 at the next,
    smoothly in between. The U-Net sees the image, the nearness of the nearest landmark and the coordinate's phase, all
    of which look alike at every level, and returns two maps: bone, and a correction of the coordinate. Bone then
    belongs to the landmark whose number is nearest to the corrected coordinate.

    Args:
        in_channels: one image channel and one distance channel per level, as `heatmaps.distance_channels` makes them.
        out_channels: background and one class per level.
        features: see `UNet3D`.
        norm: see `UNet3D`.
        sharpness: how fast the coordinate changes from one landmark to the next, per unit of nearness.
        gain: how fast the probability of a level falls with the squared distance from its number.

    Attributes:
        any_levels: absent levels may be left out, in and out; nothing else changes.
    """

    any_levels = True

    def __init__(
        self,
        in_channels: int = 26,
        out_channels: int = 26,
        features: Sequence[int] = (64, 128, 256, 512),
        *,
        norm: Norm = "batch",
        sharpness: float = 30.0,
        gain: float = 10.0,
    ) -> None:
        super().__init__()
        if in_channels != out_channels:
            raise ValueError(f"{in_channels} channels in and {out_channels} out: expected 1 + levels for both")
        self.sharpness = sharpness
        self.gain = gain
        self.unet = UNet3D(4, 2, features, norm=norm)
        # Over inputs as smooth as the phase, the errors of rounded weights would not average out.
        self.unet.encoders[0].add_module("0", Float32Conv3d(4, features[0], 3, padding=1, bias=False))
        self.in_channels = in_channels
        self.multiple = self.unet.multiple
        with torch.no_grad():
            for parameter in self.unet.output.parameters():
                parameter[1] = 0

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, 1 + levels, I, J, K)` to logits of the same shape, float32; absent levels get about -10000."""
        with torch.autocast(x.device.type, enabled=False):
            image, near = x[:, :1].float(), x[:, 1:].float()
            seen = near.flatten(2).amax(dim=2) > 0
            number = _per_voxel(seen.cumsum(dim=1).float())
            absent = _per_voxel(-1e4 * (~seen).float())
            level = (torch.softmax(self.sharpness * near + absent, dim=1) * number).sum(dim=1, keepdim=True)
            phase = 2 * torch.pi * level
            features = torch.cat([image, near.amax(dim=1, keepdim=True), phase.cos(), phase.sin()], dim=1)
            features = features.contiguous(memory_format=torch.channels_last_3d)
        bone, correction = self.unet(features).float().split(1, dim=1)
        fit = absent - self.gain * (level + correction - number).square()
        return torch.cat([torch.zeros_like(bone), bone + torch.log_softmax(fit, dim=1) + absent], dim=1)


def _per_voxel(values: Tensor) -> Tensor:
    """Return `(B, C)` values as `(B, C, 1, 1, 1)`."""
    return values[:, :, None, None, None]
