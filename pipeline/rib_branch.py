"""Whether a vertebra bears ribs: a branch of stage two's network, and the loss that trains it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import HalfResolution, Norm, double_conv, run_block, space_to_depth
from .labels import L1_ROW, NUM_CHANNELS, T1_ROW

BONE = 0.1  # of the network's input, 50 HU
BONE_RANGE = (0.0, 0.3)  # in training, 0 to 150 HU
WINDOW = (5, 3, 1)  # voxels of the output, where ribs are looked for ...
BEHIND = 2  # ... and how far behind
WEIGHT = 2.0  # of the log-odds among the levels: vertebrae err on their ribs one by one, on their levels together
MOST = 5.0  # log-odds: on synthetic scans it becomes surer than it can be on patients'


class RibBranch(nn.Module):
    """Tell vertebrae with ribs from those without.

    It sees only what is brighter than `BONE`, drawn anew for every training window, and only a part of a vertebra's
    surroundings: 44 mm to each side, from 52 mm behind to 20 mm in front, 28 mm up and down. That holds the joints of
    the ribs and their first centimeters, but neither the neighbors', so that a vertebra is judged by itself and not
    counted, nor lungs, vessels and organs: a network that sees them judges by them, and those of synthetic scans are
    not those of patients.

    Args:
        in_channels: of the image.
        filters: of the first block; the second has twice as many.
        stem: voxels of the image per voxel of the first block, along each axis.
        downsample: voxels of the first block per voxel of the second and of the output (a power of two).
        norm: see `networks.UNet3D`.
    """

    def __init__(self, in_channels: int, filters: int, stem: int, downsample: int, norm: Norm) -> None:
        super().__init__()
        self.stem = stem
        self.near = double_conv(in_channels * stem**3, filters, norm)
        self.pools = nn.Sequential(*[HalfResolution() for _ in range(downsample.bit_length() - 1)])
        self.far = double_conv(filters, 2 * filters, norm)
        self.hidden = nn.Conv3d(4 * filters, 2 * filters, 1)
        self.output = nn.Conv3d(2 * filters, 1, 1)
        nn.init.zeros_(self.output.weight)  # untrained, it says nothing
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Map `(B, in_channels, I, J, K)`, axes along RAS, to log-odds of ribs `(B, 1, I/f, J/f, K/f)`.

        f is `stem * downsample`.
        """
        bone = torch.full((len(image), 1, 1, 1, 1), BONE, device=image.device)
        if self.training:
            bone = bone.uniform_(*BONE_RANGE)
        x = functional.relu(image - bone)
        x = run_block(self.near, space_to_depth(x, self.stem) if self.stem > 1 else x)
        x = run_block(self.far, self.pools(x))
        padding = [n // 2 for n in WINDOW]
        x = functional.pad(x, (0, 0, BEHIND, 0))[:, :, :, :-BEHIND]
        mean = functional.avg_pool3d(x, WINDOW, stride=1, padding=padding)
        peak = functional.max_pool3d(x, WINDOW, stride=1, padding=padding)
        x = self.output(functional.relu(self.hidden(torch.cat([mean, peak], dim=1)))).float()
        return MOST * torch.tanh(x / MOST)


def thoracic(device: torch.device) -> Tensor:
    """Return `(25, 1, 1, 1)`: 1 at the levels that bear ribs, T1 to T12 and with it T13, 0 at the others."""
    level = torch.arange(NUM_CHANNELS, device=device)
    return ((level >= T1_ROW) & (level < L1_ROW)).float().reshape(-1, 1, 1, 1)


class RibLoss(nn.Module):
    """Binary cross-entropy of a `RibBranch` at the vertebrae of the heatmaps that stage two is trained with."""

    def forward(self, log_odds: Tensor, target: Tensor) -> Tensor:
        """Return the scalar mean over the blobs of `(B, 25, I, J, K)` targets, at least as fine as the log-odds.

        A T12 without ribs counts as one with them, as its name says. Where the target is NaN, nothing is known.
        """
        factor = target.shape[2] // log_odds.shape[2]
        target = functional.avg_pool3d(target.nan_to_num(0.0).float(), factor)
        mass = target.sum(dim=1, keepdim=True)
        share = (target * thoracic(target.device)).sum(dim=1, keepdim=True) / mass.clamp(min=1e-6)
        entropy = functional.binary_cross_entropy_with_logits(log_odds.float(), share, reduction="none")
        return (entropy * mass).sum() / mass.sum().clamp(min=1e-6)
