"""What the bundles' workflows need beside MONAI: inferers and a validation metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer, SimpleInferer
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from .labels import NUM_CHANNELS
from .losses import IGNORED
from .masks import assemble, vertebra_probabilities
from .metrics import dice, heatmap_identification
from .spaces import Grid


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is faster than float32 there: CUDA, or a CPU with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


class MixedPrecisionInferer(SimpleInferer):
    """Run a network on whole inputs, channels last, under bfloat16 autocast where that is faster."""

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the network's output in float32."""
        inputs = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=has_fast_bfloat16(inputs.device)):
            return network(inputs, *args, **kwargs).float()


class HeatmapIdentification(CumulativeIterationMetric):
    """Share of landmarks whose plain channel maximum lies within 20 mm of the truth, over a validation run.

    Args:
        voxel_mm: voxel size of heatmaps and targets.
    """

    def __init__(self, voxel_mm: float) -> None:
        super().__init__()
        self.voxel_mm = voxel_mm

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return `(B, C)` of `(B, C, I, J, K)` heatmaps and targets: 1 = hit, 0 = missed, NaN = no landmark."""
        if y is None:
            raise ValueError("identification needs target heatmaps")
        pairs = zip(y_pred.float(), y.float(), strict=True)
        return torch.from_numpy(np.stack([heatmap_identification(p, t, self.voxel_mm) for p, t in pairs]))

    def aggregate(self) -> Tensor:
        """Return the share of landmarks hit so far."""
        return _mean_over_present(self.get_buffer(), "landmark")


class VertebraDice(CumulativeIterationMetric):
    """Mean Dice over the vertebrae of the truth; a missed one counts 0, an ignored voxel not at all."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return `(B, 25)` Dice of `(B, 26, I, J, K)` logits and `(B, 1, I, J, K)` classes; NaN = not in the truth."""
        if y is None:
            raise ValueError("Dice needs the true classes")
        values = torch.full((len(y), NUM_CHANNELS), torch.nan)
        for row, logits, truth in zip(values, y_pred, y, strict=True):
            known = truth[0] != IGNORED
            predicted, true = logits.max(dim=0).indices[known].cpu().numpy(), truth[0][known].cpu().numpy()
            for index in np.unique(true[true > 0]):
                row[int(index) - 1] = dice(predicted, true, int(index))
        return values

    def aggregate(self) -> Tensor:
        """Return the mean so far."""
        return _mean_over_present(self.get_buffer(), "vertebra")


def _mean_over_present(values: Any, what: str) -> Tensor:
    """Return the mean of `(B, C)` values that are not NaN."""
    if values is None or values.isnan().all():
        raise ValueError(f"no {what} in the validation data")
    return values.nanmean()


class VertebraInferer(Inferer):
    """Segment every landmark's vertebra in windows along the spine, on the scan's own grid.

    Args:
        window: window size in voxels of the network's grid.
        reach_mm: see `heatmaps.distance_channels`.
        fill: network input outside the image.
    """

    def __init__(self, window: Sequence[int], reach_mm: float, fill: float) -> None:
        super().__init__()
        self.window, self.reach_mm, self.fill = tuple(window), reach_mm, fill
        self.run = MixedPrecisionInferer()

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Tensor) -> Tensor:
        """Return labels `(1, 1, *scan_shape)` uint8 of one case.

        Args:
            inputs: `(1, 1, I, J, K)` CT on the network's grid.
            network: 26 channels in, 26 logits out.
            args: none.
            kwargs: `landmarks_mm` `(1, 26, 3)`, `grid_affine` and `scan_affine` `(1, 4, 4)`, `scan_shape` `(1, 3)`.
        """
        case = {key: value[0].cpu().double().numpy() for key, value in kwargs.items()}
        image = inputs.as_tensor()[0] if hasattr(inputs, "as_tensor") else inputs[0]
        pieces = vertebra_probabilities(
            image,
            case["grid_affine"],
            case["landmarks_mm"],
            lambda x: self.run(x, network),
            size=self.window,  # type: ignore[arg-type]
            reach_mm=self.reach_mm,
            fill=self.fill,
        )
        shape = tuple(int(n) for n in case["scan_shape"])
        return torch.from_numpy(assemble(pieces, Grid(shape, case["scan_affine"])))[None, None]  # type: ignore[arg-type]
