"""Gaussian targets and distance channels: landmarks in mm to images on a grid, in closed form.

Both are computed from world positions through the grid's affine, so any affine change of the image moves them along.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .labels import NUM_CHANNELS, channel_of_row


def squared_distances(points_mm: Tensor, shape: Sequence[int], affine: Tensor) -> Tensor:
    """Return the squared distance in mm^2 from every voxel center to every point.

    Args:
        points_mm: `(N, 3)` RAS+ mm; a NaN row gives NaN everywhere.
        shape: `(I, J, K)` of the grid.
        affine: `(4, 4)`, voxel index to RAS+ mm.

    Returns:
        `(N, I, J, K)` float32.
    """
    matrix = affine[:3, :3].double()
    offset = affine[:3, 3].double() - points_mm.double()  # (N, 3): voxel (0, 0, 0) seen from each point
    # |M v + o|^2 = sum over axis pairs, each term depending on at most two axes: no coordinate volume is built.
    gram = matrix.T @ matrix
    axes = [torch.arange(n, dtype=torch.float64) for n in shape]
    linear = 2 * offset @ matrix  # (N, 3)
    terms = [gram[i, i] * axes[i] ** 2 + linear[:, i : i + 1] * axes[i] for i in range(3)]  # each (N, n_i)
    terms[2] = terms[2] + (offset**2).sum(dim=1, keepdim=True)
    total = terms[0].float()[:, :, None, None] + terms[1].float()[:, None, :, None] + terms[2].float()[:, None, None, :]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        if abs(float(gram[i, j])) > 1e-9:
            cross = 2 * gram[i, j] * axes[i][:, None] * axes[j][None, :]
            total = total + cross.float().reshape([shape[k] if k in (i, j) else 1 for k in range(3)])
    return total.clamp_(min=0)


def gaussian_heatmaps(landmarks_mm: Tensor, shape: Sequence[int], affine: Tensor, *, sigma_mm: float) -> Tensor:
    """Return one Gaussian blob of height 1 per landmark, in 25 channels; T13 joins the channel of T12.

    Args:
        landmarks_mm: `(26, 3)` RAS+ mm; a NaN row is an absent landmark.
        shape: `(I, J, K)` of the grid.
        affine: `(4, 4)`, voxel index to RAS+ mm.
        sigma_mm: standard deviation of the blobs.

    Returns:
        `(25, I, J, K)` float32 in [0, 1]; an absent landmark's channel is zero.
    """
    heatmaps = torch.zeros(NUM_CHANNELS, *shape)
    for row in torch.isfinite(landmarks_mm).all(dim=1).nonzero().flatten().tolist():
        blob = torch.exp(squared_distances(landmarks_mm[row : row + 1], shape, affine)[0] / (-2 * sigma_mm**2))
        channel = channel_of_row(row)
        torch.maximum(heatmaps[channel], blob, out=heatmaps[channel])
    return heatmaps


def distance_channels(
    landmarks_mm: Tensor,
    shape: Sequence[int],
    affine: Tensor,
    *,
    reach_mm: float = 64.0,
    channels: Sequence[int] = range(NUM_CHANNELS),
) -> Tensor:
    """Return how near every voxel is to every landmark, in 25 channels: `1 - min(d, reach) / reach`.

    Args:
        landmarks_mm: `(26, 3)` RAS+ mm; a NaN row is an absent landmark. T12's channel shows the nearer of T12, T13.
        shape: `(I, J, K)` of the grid.
        affine: `(4, 4)`, voxel index to RAS+ mm.
        reach_mm: distance from which a landmark no longer shows.
        channels: which to return.

    Returns:
        `(25, I, J, K)`, or as many as asked for, float32 in [0, 1]: 1 at the landmark, 0 beyond reach and for an
        absent one.
    """
    near = torch.zeros(len(channels), *shape)
    for row in torch.isfinite(landmarks_mm).all(dim=1).nonzero().flatten().tolist():
        if channel_of_row(row) not in channels:
            continue
        own = near[channels.index(channel_of_row(row))]
        distance = squared_distances(landmarks_mm[row : row + 1], shape, affine)[0].sqrt_()
        torch.maximum(own, distance.div_(-reach_mm).add_(1), out=own)
    return near
