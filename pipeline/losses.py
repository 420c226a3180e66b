"""The two losses: heatmaps (stages one and two) and vertebra masks (stage three)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORED = 255  # class index that counts neither for nor against


class HeatmapLoss(nn.Module):
    """Squared error on the heatmaps, plus direct supervision of where and which.

    All terms are of order one from the first step: a plain mean squared error on sparse blobs is about 4e-5 and
    trains towards an empty map. With S = sum of the channels ("any vertebra here"):

    - `mse`: sum (p - t)^2 / sum t^2; an all-zero prediction scores 1.
    - `union`: binary cross-entropy of S against the maximum of the targets, blobs weighted 5, per unit of blob.
    - `level`: cross-entropy of p / S against t / sum t, inside the blobs.
    - `dice`: soft Dice of heatmaps over the channels that have a landmark.

    Args:
        mse_weight: see above.
        union_weight: see above.
        level_weight: see above; has no effect on a single heatmap.
        dice_weight: see above.
        sigma_vox: blob width; bounds the normalization when a window holds no landmark.
    """

    def __init__(
        self,
        mse_weight: float = 1.0,
        union_weight: float = 1.0,
        level_weight: float = 1.0,
        dice_weight: float = 0.1,
        sigma_vox: float = 1.5,
    ) -> None:
        super().__init__()
        self.weights = (mse_weight, union_weight, level_weight, dice_weight)
        self.blob_mass = float((2 * torch.pi) ** 1.5 * sigma_vox**3)

    def forward(self, heatmaps: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of `(B, C, I, J, K)` heatmaps in [0, 1] against targets of the same shape.

        Where the target is NaN, nothing is known, and the heatmap counts neither for nor against.
        """
        known = target[:, :1].isfinite()  # the same in all channels
        p, t = heatmaps.float() * known, torch.where(known, target, 0).float()
        total, union = p.sum(dim=1).clamp(1e-6, 1 - 1e-6), t.amax(dim=1)
        mass = union.sum().clamp(min=self.blob_mass)
        mse = (p - t).square().sum() / t.square().sum().clamp(min=self.blob_mass / 8**0.5)
        entropy = -torch.lerp(torch.log1p(-total), total.log(), union)  # PyTorch's own stops at NaN, on a GPU for good
        where = (entropy * (1 + 4 * (union > 0.05)) * known[:, 0]).sum() / mass
        share = t / t.sum(dim=1, keepdim=True).clamp(min=1e-6)
        which = -(share * (p.clamp(min=1e-8) / total[:, None]).log()).sum(dim=1)
        which = (which * union * (union > 0.1)).sum() / mass
        seen = t.flatten(2).amax(dim=2) > 0.5
        overlap, size = (p * t).flatten(2).sum(dim=2)[seen], (p.square() + t.square()).flatten(2).sum(dim=2)[seen]
        dice = (1 - 2 * overlap / size.clamp(min=1e-6)).mean() if len(size) else p.sum() * 0
        terms = (mse, where, which, dice)
        return sum((w * term for w, term in zip(self.weights, terms, strict=True) if w), start=p.sum() * 0)


class PresentClassesLoss(nn.Module):
    """Cross-entropy plus soft Dice over the classes that the window really holds.

    A window of a 26-class problem shows a handful of classes; Dice of the absent ones is noise and is left out.
    Voxels of class `IGNORED` count in neither term.

    Args:
        dice_weight: weight of the Dice term beside the cross-entropy.
    """

    def __init__(self, dice_weight: float = 1.0) -> None:
        super().__init__()
        self.dice_weight = dice_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of `(B, C, I, J, K)` logits against `(B, 1, I, J, K)` class indices."""
        logits, index = logits.float(), target[:, 0].long()
        known = index != IGNORED
        if not known.any():
            return logits.sum() * 0  # the mean over no voxel would be NaN
        entropy = functional.cross_entropy(logits, index, ignore_index=IGNORED)
        present = torch.unique(index[known])
        probability = torch.softmax(logits, dim=1)[:, present] * known[:, None]
        truth = index[:, None] == present.reshape(1, -1, 1, 1, 1)
        overlap = (probability * truth).sum(dim=(0, 2, 3, 4))
        size = probability.sum(dim=(0, 2, 3, 4)) + truth.sum(dim=(0, 2, 3, 4))
        dice = 1 - ((2 * overlap + 1) / (size + 1)).mean()
        return entropy + self.dice_weight * dice
