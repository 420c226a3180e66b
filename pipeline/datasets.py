"""The training data set: cached scans, windows that depend on seed and epoch alone, and what to do about a bad file."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Compose

MAX_UNREADABLE = 0.05  # share of the scans; more than this is no accident
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error)

logger = logging.getLogger(__name__)


class ScanDataset(CacheDataset):
    """A `CacheDataset` whose random windows are a function of (seed, epoch, index), whatever the workers.

    A run that was killed and goes on therefore sees what it would have seen. A scan that cannot be read is left out
    with a warning, the next one takes its place; more than 5 % of them end the run.

    Args:
        data: samples, see `datalist.read_split`.
        transform: deterministic transforms (their results are cached), then random ones.
        seed: of the windows.
        cache_rate: share of the scans kept in memory.
        num_workers: threads that fill the cache.
    """

    def __init__(
        self, data: Sequence[Any], transform: Compose, seed: int = 0, cache_rate: float = 1.0, num_workers: int = 1
    ) -> None:
        self.seed, self.epoch = seed, 0
        self.unreadable = torch.zeros(len(data), dtype=torch.bool).share_memory_()  # one for all worker processes
        super().__init__(
            data, transform, cache_rate=cache_rate, num_workers=num_workers, progress=False, copy_cache=False
        )

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows of another epoch from now on."""
        self.epoch = epoch

    def _load_cache_item(self, index: int) -> Any:
        """Return what is cached of a scan; None if it cannot be read."""
        try:
            return super()._load_cache_item(index)
        except Exception as error:
            self._leave_out(index, error)
            return None

    def _transform(self, index: int) -> Any:
        """Return the windows at an index, from the next readable scan."""
        if not -len(self.data) <= index < len(self.data):
            raise IndexError(f"scan {index} of {len(self.data)}")
        seed = np.random.SeedSequence([self.seed, self.epoch, index % len(self.data)]).generate_state(1)[0]
        self.transform.set_random_state(seed=int(seed))
        for step in range(len(self.data)):
            chosen = (index + step) % len(self.data)
            if not self.unreadable[chosen]:
                try:
                    return super()._transform(chosen)
                except Exception as error:
                    self._leave_out(chosen, error)
        raise ValueError("no scan can be read")

    def _leave_out(self, index: int, error: Exception) -> None:
        """Note that a scan cannot be read; `ValueError` once there are too many, anything else is raised again."""
        cause = error.__cause__ or error  # MONAI wraps what a transform raises
        if not isinstance(cause, _UNREADABLE):
            raise error
        self.unreadable[index] = True
        count, reason = int(self.unreadable.sum()), " ".join(str(cause).split())
        name = self.data[index].get("filename_or_obj", index)
        logger.warning("scan %s is left out: %s (%d of %d so far)", name, reason, count, len(self.data))
        if count > MAX_UNREADABLE * len(self.data):
            raise ValueError(f"{count} of {len(self.data)} scans cannot be read; the last was {name}: {reason}")
