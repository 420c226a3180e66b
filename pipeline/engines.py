"""The inferers of the bundles: mixed precision, and stage three's windows along the spine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from .masks import assemble, vertebra_probabilities
from .spaces import Grid


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 is faster than float32 there: CUDA, or a CPU with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


class MixedPrecisionInferer(SimpleInferer):
    """Run a network on whole inputs, under bfloat16 autocast where that is faster.

    Args:
        enabled: False = always float32.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the network's output in float32."""
        inputs = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
        enabled = self.enabled and has_fast_bfloat16(inputs.device)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=enabled):
            return network(inputs, *args, **kwargs).float()


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
            network: 26 channels in, 26 logits out; those of absent levels are left out if it has `any_levels`.
            args: none.
            kwargs: `landmarks_mm` `(1, 26, 3)`, `grid_affine` and `scan_affine` `(1, 4, 4)`, `scan_shape` `(1, 3)`;
                without any, the same without their first axis from `inputs.meta["priors"]`.
        """
        kwargs = kwargs or {key: value[None] for key, value in inputs.meta["priors"].items()}  # type: ignore[attr-defined]
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
            every_level=not getattr(network, "any_levels", False),
        )
        shape = tuple(int(n) for n in case["scan_shape"])
        return torch.from_numpy(assemble(pieces, Grid(shape, case["scan_affine"])))[None, None]  # type: ignore[arg-type]
