"""What lets a network be exported, or give way to an engine that runs in its place."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn


class ExportableNetwork(nn.Module):
    """A network whose forward pass takes the same path for every input, so that tracing it once is enough.

    Attributes:
        in_channels: input channels.
        multiple: every spatial size must be a multiple of this.
    """

    in_channels: int
    multiple: int

    def __prepare_scriptable__(self) -> nn.Module:
        """Return what `torch.jit.script` is to take, and with it MONAI's `ckpt_export`: a trace for inference.

        TorchScript does not understand autocasting blocks and reversed module lists; tracing does.
        """
        sizes = [2 * self.multiple] * 3
        example = torch.zeros(1, self.in_channels, *sizes, device=next(self.parameters()).device)
        training = self.training
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced = torch.jit.trace(self.eval(), example, check_trace=False)
        self.train(training)
        return nn.Sequential(traced)


class FullPrecision(nn.Module):
    """Run a network in float32 and on plainly ordered memory: so an engine that is put in its place can be built."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network returns."""
        with torch.autocast(x.device.type, enabled=False):
            return self.network(x.float().contiguous())
