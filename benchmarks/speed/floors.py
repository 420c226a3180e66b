"""What the machine can do at best: matrix products, memory, gzip. All with the threads that PyTorch uses."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

SIDE = 2048  # of the matrices
PAIRS = 64 * 2**20  # bytes copied at a time: more than caches hold


def machine_rates(gzipped: Path, seconds: float = 0.5) -> dict[str, float]:
    """Return the best rates seen: matrix products in FLOP/s, memory and gzip in bytes/s (of uncompressed data).

    Args:
        gzipped: a scan as `.nii.gz`, whose bytes are inflated.
        seconds: how long each kind is tried.
    """
    packed = gzipped.read_bytes()
    size = len(gzip.decompress(packed))
    source = torch.zeros(PAIRS, dtype=torch.uint8)
    target = torch.zeros_like(source)
    left = torch.randn(SIDE, SIDE)
    half = left.bfloat16()
    return {
        "float32": 2 * SIDE**3 / fastest(lambda: left @ left, seconds),
        "bfloat16": 2 * SIDE**3 / fastest(lambda: half @ half, seconds),
        "memory": 2 * PAIRS / fastest(lambda: target.copy_(source), seconds),  # read and written
        "inflate": size / fastest(lambda: zlib.decompress(packed, zlib.MAX_WBITS | 16), seconds),
    }


def deflate_seconds(mask: Path) -> float:
    """Return how long zlib takes to compress a written mask, at the level at which it was written."""
    labels = np.asarray(nib.load(mask).dataobj).tobytes(order="F")
    return fastest(lambda: zlib.compress(labels, 1), 0.0)


def fastest(function: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of one call, called for so long, but at least twice."""
    times, begun = [], time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
