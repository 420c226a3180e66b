"""Which step takes how long, how much memory is in use meanwhile, and how many multiplications a network makes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from typing import Any
from unittest.mock import patch

from torch import nn

from pipeline.memory import peak_gb, reset_peak

# Step, and the function that does it, as its caller knows it.
FUNCTIONS = (
    ("resample", "pipeline.transforms", "resample"),
    ("network", "pipeline.engines", "MixedPrecisionInferer.__call__"),
    ("candidates", "pipeline.labelling", "find_candidates"),
    ("solver", "pipeline.labelling", "solve"),
    ("distance channels", "pipeline.masks", "distance_channels"),
    ("resample back", "pipeline.masks", "_on_scan"),
    ("merge", "pipeline.engines", "assemble"),
    ("mask", "pipeline.results", "write_labels"),
    ("picture", "pipeline.preview", "save_preview"),
)


class Steps:
    """Measures steps that may contain each other; a step's time is its own, without those inside it.

    Attributes:
        seconds: wall time by step, named after the steps around it ("vert_seg/network").
        peaks_gb: largest resident memory of the process while the step ran.
    """

    def __init__(self) -> None:
        self.seconds, self.peaks_gb = Counter[str](), dict[str, float]()
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what happens in the block as a step."""
        self._turn_over()
        self._open.append("/".join([*self._open[:1], name]))
        try:
            yield
        finally:
            self._turn_over()
            self._open.pop()

    def _turn_over(self) -> None:
        """Book the time and the memory since the last change of step to the innermost step, and start anew."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
            for step in self._open:
                self.peaks_gb[step] = max(self.peaks_gb.get(step, 0.0), peak_gb())
        reset_peak()
        self._since = time.perf_counter()


@contextmanager
def watched(steps: Steps) -> Iterator[None]:
    """Let every function of `FUNCTIONS` count as its step."""
    with ExitStack() as stack:
        for name, module, path in FUNCTIONS:
            owner = import_module(module)
            *inside, attribute = path.split(".")
            for part in inside:
                owner = getattr(owner, part)
            stack.enter_context(patch.object(owner, attribute, _timed(steps, name, getattr(owner, attribute))))
        yield


def _timed(steps: Steps, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with steps(name):
            return function(*arguments, **options)

    return run


class Multiplications:
    """Counts the multiply-accumulates of a network's convolutions, and its calls, while it runs.

    Attributes:
        count: multiply-accumulates.
        calls: forward passes.
    """

    def __init__(self, network: nn.Module) -> None:
        self.count, self.calls = 0, 0
        network.register_forward_hook(self._call)
        for layer in network.modules():
            if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
                layer.register_forward_hook(self._layer)

    def _call(self, *_: Any) -> None:
        self.calls += 1

    def _layer(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        # Every voxel of the output meets the kernel of its channel; transposed, every voxel of the input does.
        voxels = inputs[0] if isinstance(layer, nn.ConvTranspose3d) else output
        self.count += voxels.numel() * layer.weight[0].numel()
