"""How wrong the heatmaps of stage two, or the masks of stage three, are on windows: fewer than scans need to tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.losses import IGNORED, HeatmapLoss
from pipeline.metrics import dice

LEAST_VOXELS = 1000  # of a vertebra in a window, to count: slivers at the border are noise
TERMS = {
    "where": HeatmapLoss(mse_weight=0, level_weight=0, dice_weight=0),
    "which": HeatmapLoss(mse_weight=0, union_weight=0, dice_weight=0),
}


@torch.no_grad()
def judge(network: nn.Module, inferer: Any, windows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the mean errors over all windows (`image`, `label`): of heatmaps, or of masks where labels are classes."""
    network.eval()
    device, found = next(network.parameters()).device, []
    for window in windows:
        prediction, target = inferer(window["image"][None].to(device), network), window["label"][None].to(device)
        found.append(heatmap_errors(prediction, target) if target.shape[1] > 1 else mask_errors(prediction, target))
    return {name: float(np.nanmean([one[name] for one in found])) for name in found[0]}


def heatmap_errors(heatmaps: Tensor, target: Tensor) -> dict[str, float]:
    """Return what `HeatmapLoss` says of where and which beyond the best that can be said, per unit of blob.

    Args:
        heatmaps: `(1, 25, I, J, K)` in [0, 1], on the target's grid or a finer one.
        target: `(1, 25, I, J, K)`.
    """
    heatmaps = functional.adaptive_avg_pool3d(heatmaps, target.shape[2:])
    heatmaps = heatmaps / heatmaps.sum(dim=1, keepdim=True).clamp(min=1)  # independent maps may add up to more
    best = target * target.amax(dim=1, keepdim=True) / target.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return {name: float(term(heatmaps, target) - term(best.nan_to_num(), target)) for name, term in TERMS.items()}


def mask_errors(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Return Dice of bone, and mean Dice of the vertebrae in the window, NaN without any.

    Args:
        logits: `(1, 26, I, J, K)`.
        target: `(1, 1, I, J, K)` class indices.
    """
    found, true = logits.argmax(dim=1).cpu().numpy(), target[:, 0].cpu().numpy()
    found, true = np.where(true == IGNORED, 0, found), np.where(true == IGNORED, 0, true)
    present = [c for c in np.unique(true) if c and (true == c).sum() >= LEAST_VOXELS]
    each = [dice(found, true, c) for c in present]
    bone = dice(found > 0, true > 0, True) if present else np.nan
    return {"bone Dice": bone, "Dice": float(np.mean(each)) if each else np.nan}
