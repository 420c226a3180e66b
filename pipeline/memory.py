"""How much memory a scan will need, how much there is, and how much was used; in GB of 10^9 bytes."""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path

import numpy as np

# Fitted to `make bench`, see docs/cohorts.md: libraries and networks; each voxel of an int16 scan.
BASE_GB = 1.9
BYTES_PER_VOXEL = 6.0


def forecast_gb(shape: tuple[int, int, int], dtype: np.dtype) -> float:
    """Return the peak memory of reading, segmenting and writing one scan, voxels in memory being of a type."""
    per_voxel = BYTES_PER_VOXEL + np.dtype(dtype).itemsize - 2
    return BASE_GB + float(np.prod(shape, dtype=np.float64)) * per_voxel / 1e9


def machine_gb() -> float:
    """Return the memory of the machine or, if it is less, of the container."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(file).read_text().strip() if Path(file).is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits) / 1e9 if limits else float("inf")


def reset_peak() -> None:
    """Start measuring anew, where the system allows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_gb() -> float:
    """Return this process's peak resident memory since `reset_peak`, or since its start where that does nothing."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error means too little memory, on the computer or on the GPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


class Budget:
    """Lets a scan in only when the forecasts of all scans in memory stay below a limit; one alone is always let in."""

    def __init__(self, limit_gb: float) -> None:
        self.limit_gb, self.used_gb, self.scans = limit_gb, 0.0, 0
        self.changed = threading.Condition()

    def __reduce__(self) -> tuple[type[Budget], tuple[float]]:
        """Be empty in another process."""
        return Budget, (self.limit_gb,)

    def enter(self, gb: float) -> None:
        """Wait until there is room."""
        with self.changed:
            self.changed.wait_for(lambda: not self.scans or self.used_gb + gb <= self.limit_gb)
            self.used_gb, self.scans = self.used_gb + gb, self.scans + 1

    def leave(self, gb: float) -> None:
        """Give back the room of one scan."""
        with self.changed:
            self.used_gb, self.scans = self.used_gb - gb, self.scans - 1
            self.changed.notify_all()

    def open(self) -> None:
        """Let everyone in: the run is over."""
        with self.changed:
            self.limit_gb = float("inf")
            self.changed.notify_all()
