"""Networks that know the answer on a ball spine, to put in the place of the three stages' own.

Each reads only what its stage may know: the first two the CT, the third only the distance channels for which vertebra.
"""

import numpy as np
import torch
from ball_spine import TISSUE_HU, row_of_hu
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

HU_PER_UNIT = 500.0  # the bundles map -250 ... 650 HU to -0.5 ... 1.3
CALLED_HU = 120.0  # between soft tissue and the darkest vertebra


class SpineOracle(nn.Module):
    """Stage one: 1 near bone, 0 elsewhere."""

    def forward(self, image: Tensor) -> Tensor:
        return (functional.max_pool3d(image, 3, stride=1, padding=1) > CALLED_HU / HU_PER_UNIT).float()


class BlindOracle(nn.Module):
    """Stage one on a scan without a spine."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros_like(image)


class LandmarkOracle(nn.Module):
    """Stage two: every connected piece of bone becomes a blob at its center in the channel that its HU tells."""

    def forward(self, image: Tensor) -> Tensor:
        hu = image[0, 0].numpy() * HU_PER_UNIT
        heatmaps = np.zeros((25, *(n // 2 for n in hu.shape)), np.float32)
        pieces, count = ndimage.label(hu > CALLED_HU)
        smooth = ndimage.uniform_filter(hu, 5)  # noise must not make a vertebra brighter
        for index in range(1, count + 1):
            center = (np.argwhere(pieces == index).mean(axis=0) - 0.5) / 2  # a heatmap voxel is 2 x 2 x 2 image voxels
            offsets = np.indices(heatmaps.shape[1:]) - center.reshape(3, 1, 1, 1)
            blob = np.exp(-(offsets**2).sum(axis=0) / (2 * 1.5**2))
            channel = min(row_of_hu(float(smooth[pieces == index].max())), 24)
            heatmaps[channel] = np.maximum(heatmaps[channel], blob)
        return torch.from_numpy(heatmaps)[None]


class NothingOracle(nn.Module):
    """Stage two where no vertebra can be told."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros(1, 25, *(n // 2 for n in image.shape[2:]))


class MaskOracle(nn.Module):
    """Stage three: bone by the CT, which vertebra by the nearest landmark alone; logits with soft edges."""

    def forward(self, inputs: Tensor) -> Tensor:
        hu, nearness = inputs[:, :1].float() * HU_PER_UNIT, inputs[:, 1:].float()
        brightest = hu
        for kernel in ((9, 1, 1), (1, 9, 1), (1, 1, 9)):
            brightest = functional.max_pool3d(brightest, kernel, stride=1, padding=[n // 2 for n in kernel])
        share = ((hu - TISSUE_HU) / (brightest - TISSUE_HU).clamp(min=1.0)).clamp(1e-4, 1 - 1e-4)
        share = torch.where(brightest > CALLED_HU, share, 1e-4)
        logits = torch.full((len(hu), 26, *hu.shape[2:]), -20.0)
        logits[:, :1] = (1 - share).log()
        return logits.scatter(1, 1 + nearness.argmax(dim=1, keepdim=True), share.log())
