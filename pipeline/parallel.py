"""The same function on many jobs, in processes of their own where several are asked for, and how many there may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def in_processes(function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    """Yield what a function returns for every job, in order.

    Args:
        function: of a module's top level, or a partial of one, so that a process can be told of it.
        jobs: its arguments.
        workers: processes, started afresh: a fork of one that runs threads can hang; 1 = this process.
    """
    if workers <= 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, jobs)


def usable_workers(wanted: int) -> int:
    """Return how many data-loading processes to start: as many as wanted, but no more than this process has cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, cores)
