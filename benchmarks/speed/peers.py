"""What others would take in the same box: public networks with random weights, under MONAI's sliding window.

A window is timed, the windows of the box are counted, and the rest is multiplication. Reading, resampling and
joining of windows are not counted, to the peers' advantage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import DynUNet, SegResNet
from torch import Tensor, nn

from pipeline.level_unet import LevelUNet
from pipeline.spaces import grid_over

from .steps import Multiplications

CLASSES = 26
MARGIN_MM = 20.0  # around the spine, as TotalSegmentator crops


@dataclass(frozen=True)
class Peer:
    """One way to segment vertebrae in windows.

    Attributes:
        build: makes the network.
        size: of the windows, in voxels.
        spacing_mm: voxel size.
        overlap: of neighboring windows.
        channels: of the input.
        bfloat16: whether it runs under autocast; float32 is what the tools themselves do on a processor.
    """

    build: Callable[[], nn.Module]
    size: tuple[int, int, int]
    spacing_mm: float
    overlap: float
    channels: int = 1
    bfloat16: bool = False


def nnunet_plan() -> nn.Module:
    """Return the plain U-Net that nnU-Net plans for CT at 1.5 mm: six levels of two convolutions."""
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=CLASSES,
        kernel_size=[3] * 6,
        strides=[1, 2, 2, 2, 2, 2],
        upsample_kernel_size=[2] * 5,
        filters=[32, 64, 128, 256, 320, 320],
        norm_name=("instance", {"affine": True}),
    )


def segresnet() -> nn.Module:
    """Return the network of MONAI's wholeBody bundle and of MONAI Label's vertebra pipeline."""
    return SegResNet(init_filters=32, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1), out_channels=CLASSES)


def shipped_stage_three() -> nn.Module:
    """Return stage three's network as it is shipped."""
    return LevelUNet(CLASSES, CLASSES, (16, 32, 64, 128))


PEERS = {
    "nnU-Net plan 32-320, step 0.5": Peer(nnunet_plan, (128, 128, 128), 1.5, 0.5),
    "the same in bfloat16": Peer(nnunet_plan, (128, 128, 128), 1.5, 0.5, bfloat16=True),
    "SegResNet-32, overlap 0.25": Peer(segresnet, (96, 96, 96), 1.5, 0.25),
    "our stage three slid over the box, overlap 0.25": Peer(shipped_stage_three, (96, 96, 128), 1.0, 0.25, CLASSES),
}


class TimedPeer:
    """A peer's network, ready to run on single windows.

    Attributes:
        multiplications: multiply-accumulates of one window, known after the first.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer, self.multiplications = peer, 0
        torch.manual_seed(0)
        self.network = peer.build().eval()

    def window_seconds(self) -> float:
        """Run the network on one window and return the wall time."""
        counter = None if self.multiplications else Multiplications(self.network)
        window = torch.randn(1, self.peer.channels, *self.peer.size)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.peer.bfloat16):
            begun = time.perf_counter()
            self._infer(window, self.network)
            seconds = time.perf_counter() - begun
        if counter:
            self.multiplications = counter.count
        return seconds

    def count_windows(self, spine_box_mm: np.ndarray) -> int:
        """Return how many windows MONAI lays over the box of the spine and its margin."""
        windows = 0

        def count(window: Tensor) -> Tensor:
            nonlocal windows
            windows += 1
            return window

        grid = grid_over(np.asarray(spine_box_mm) + [[-MARGIN_MM], [MARGIN_MM]], self.peer.spacing_mm)
        self._infer(torch.zeros(1, 1, *grid.shape), count)
        return windows

    def _infer(self, image: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        return SlidingWindowInferer(self.peer.size, 1, self.peer.overlap, mode="gaussian")(image, network)
