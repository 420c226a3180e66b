"""The 3D U-Net of all stages and the SpatialConfiguration-Net of stage two, with its branch for ribs.

Stage three's network is in `level_unet`.

Shapes: B batch, C channels, (I, J, K) voxels. Every spatial size must be a multiple of `8 x stem`
(`x spatial_downsample` for the spatial branch).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import HalfResolution, Norm, double_conv, run_block, space_to_depth
from .exportable import ExportableNetwork
from .labels import NUM_CHANNELS
from .rib_branch import WEIGHT, RibBranch, thoracic

Head = Literal["none", "sigmoid", "softmax"]
SpatialInput = Literal["image", "local", "both"]


class UNet3D(ExportableNetwork):
    """3D U-Net (Cicek et al. 2016) with average pooling, nearest upsampling and concatenated skips.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        features: channels of the levels, finest first.
        head: activation after the last convolution.
        norm: "batch" as specified, or "instance" for training on single windows.
        stem: 2 runs the whole network on 2x2x2 blocks (space to depth), at an eighth of the cost; the output then
            has half the input's resolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        features: Sequence[int] = (64, 128, 256, 512),
        *,
        head: Head = "none",
        norm: Norm = "batch",
        stem: int = 1,
    ) -> None:
        super().__init__()
        if head not in ("none", "sigmoid", "softmax"):
            raise ValueError(f"head {head!r}: expected none, sigmoid or softmax")
        self.head = head
        self.stem = stem
        self.in_channels = in_channels
        self.multiple = stem * 2 ** (len(features) - 1)
        widths = [in_channels * stem**3, *features]
        self.encoders = nn.ModuleList(double_conv(above, below, norm) for above, below in pairwise(widths))
        self.decoders = nn.ModuleList(double_conv(below + skip, skip, norm) for skip, below in pairwise(features))
        self.pool = HalfResolution()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.output = nn.Conv3d(features[0], out_channels, 1)
        if head == "sigmoid":
            start_empty(self.output)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_channels, I, J, K)` to `(B, out_channels, I/stem, J/stem, K/stem)`."""
        if self.stem > 1:
            x = space_to_depth(x, self.stem)
        skips: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x = run_block(encoder, self.pool(x) if level else x)
            skips.append(x)
        for skip, decoder in zip(reversed(skips[:-1]), reversed(self.decoders), strict=True):
            x = run_block(decoder, torch.cat([skip, self.up(x)], dim=1))
        x = self.output(x)
        if self.head == "sigmoid":
            return torch.sigmoid(x.float())
        return torch.softmax(x.float(), dim=1) if self.head == "softmax" else x


class SpatialConfigurationNet(ExportableNetwork):
    """Local appearance times spatial configuration (Payer et al. 2019, 2020), one heatmap per landmark.

    The local U-Net says where a vertebra is, the spatial U-Net, on a coarser grid, which one; their heatmaps are
    multiplied. With `shared_local` the local branch has one map for all landmarks and the spatial branch a softmax
    over them, so that the channel sum is "any vertebra" and each channel's share of it is the level: both can then be
    supervised from the product alone (`losses.HeatmapLoss`).

    Args:
        in_channels: image channels.
        num_landmarks: heatmaps.
        num_filters: channels of the finest level of both U-Nets, doubled at each of the four levels.
        spatial_input: what the spatial branch reads: the image, the local heatmaps, or both.
        spatial_downsample: how much coarser the spatial branch works than the local one (a power of two).
        shared_local: see above; `False` is the published form with `num_landmarks` local maps.
        spatial_filters: finest width of the spatial U-Net, `num_filters` if not given.
        norm: see `UNet3D`.
        stem: see `UNet3D`; the heatmaps then have `1/stem` of the input's resolution.
        rib_filters: of a `RibBranch` that speaks for or against the thoracic levels; 0 = none. Needs `shared_local`
            and the 25 levels.

    Raises:
        ValueError: an argument is out of range, or `rib_filters` does not go with the others.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_landmarks: int = 25,
        num_filters: int = 64,
        *,
        spatial_input: SpatialInput = "local",
        spatial_downsample: int = 4,
        shared_local: bool = False,
        spatial_filters: int | None = None,
        norm: Norm = "batch",
        stem: int = 1,
        rib_filters: int = 0,
    ) -> None:
        super().__init__()
        if spatial_input not in ("image", "local", "both"):
            raise ValueError(f"spatial_input {spatial_input!r}: expected image, local or both")
        if spatial_downsample < 1 or spatial_downsample & (spatial_downsample - 1):
            raise ValueError(f"spatial_downsample {spatial_downsample}: expected a power of two")
        if rib_filters and not (shared_local and num_landmarks == NUM_CHANNELS):
            raise ValueError(f"rib_filters {rib_filters}: needs shared_local and num_landmarks {NUM_CHANNELS}")
        local_maps = 1 if shared_local else num_landmarks
        image_maps = in_channels * stem**3
        spatial_channels = {"image": image_maps, "local": local_maps, "both": image_maps + local_maps}[spatial_input]
        self.spatial_input = spatial_input
        self.spatial_downsample = spatial_downsample
        self.shared_local = shared_local
        self.stem = stem
        self.local = UNet3D(image_maps, local_maps, _four_levels(num_filters), norm=norm)
        self.spatial = UNet3D(spatial_channels, num_landmarks, _four_levels(spatial_filters or num_filters), norm=norm)
        self.ribs = RibBranch(in_channels, rib_filters, stem, spatial_downsample, norm) if rib_filters else None
        start_empty(self.local.output)
        self.in_channels = in_channels
        self.multiple = stem * spatial_downsample * self.spatial.multiple

    def forward(self, image: Tensor) -> Tensor:
        """Map `(B, in_channels, I, J, K)` to `(B, num_landmarks, I/stem, J/stem, K/stem)` in [0, 1], float32."""
        log_odds = None if self.ribs is None else self.ribs(image)
        if self.stem > 1:
            image = space_to_depth(image, self.stem)
        local = torch.sigmoid(self.local(image).float())
        spatial = self.spatial(self._spatial_features(image, local)).float()
        if log_odds is not None:
            spatial = spatial + WEIGHT * log_odds * thoracic(spatial.device)
        spatial = torch.softmax(spatial, dim=1) if self.shared_local else torch.sigmoid(spatial)
        if self.spatial_downsample > 1:
            spatial = functional.interpolate(spatial, scale_factor=float(self.spatial_downsample), mode="trilinear")
        return local * spatial

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take weights from before there was a branch for ribs: it keeps its own, which have no effect at first."""
        if self.ribs is not None and f"{prefix}ribs.output.weight" not in state_dict:
            state_dict.update(self.ribs.state_dict(prefix=f"{prefix}ribs."))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _spatial_features(self, image: Tensor, local: Tensor) -> Tensor:
        """Return what the spatial branch reads, on its own grid; local maps by their maximum, so that peaks survive."""
        factor = self.spatial_downsample
        parts = []
        if self.spatial_input != "local":
            coarse = image
            for _ in range(factor.bit_length() - 1):
                coarse = functional.interpolate(coarse, scale_factor=0.5, mode="trilinear")
            parts.append(coarse)
        if self.spatial_input != "image":
            parts.append(functional.max_pool3d(local, factor) if factor > 1 else local)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def start_empty(output: nn.Conv3d) -> None:
    """Let a sigmoid start near zero, since nearly all voxels hold no landmark."""
    if output.bias is not None:
        nn.init.constant_(output.bias, -4.0)


def _four_levels(num_filters: int) -> tuple[int, int, int, int]:
    return (num_filters, 2 * num_filters, 4 * num_filters, 8 * num_filters)
