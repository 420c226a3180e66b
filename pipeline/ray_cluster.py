"""A Ray cluster: how to reach it, and how many workers it holds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .images import InputError


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield the module ray, connected to a cluster or to a new one on this machine ("local")."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError("--ray needs the package ray: pip install '.[ray]' in the repository") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
    only_local = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **only_local)
    except Exception as error:  # Ray raises many types, Exception among them
        raise InputError(f"--ray {address}: no Ray cluster there ({first_line(error)})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def first_line(error: Exception) -> str:
    """Return what an error says, without the advice that Ray adds."""
    return str(error).partition("\n")[0] or type(error).__name__


def places(nodes: Sequence[dict[str, float]], device: str, cores: int) -> tuple[int, dict[str, int]]:
    """Return how many workers a cluster holds, and what Ray shall give to each.

    Args:
        nodes: resources of every machine by Ray's names.
        device: "cpu" leaves GPUs alone.
        cores: of one worker, or fewer where no machine has as many.
    """
    if device != "cpu" and (with_gpu := [node for node in nodes if node.get("GPU", 0) >= 1]):
        share = min(int(node.get("CPU", 1) // node["GPU"]) for node in with_gpu)
        return sum(int(node["GPU"]) for node in with_gpu), {"num_gpus": 1, "num_cpus": max(1, min(cores, share))}
    each = min(cores, max((int(node.get("CPU", 0)) for node in nodes), default=0))
    if not each:
        raise InputError("--ray: no machine of the cluster has a core to work on")
    return sum(int(node.get("CPU", 0)) // each for node in nodes), {"num_cpus": each}
