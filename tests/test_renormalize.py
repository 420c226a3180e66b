"""Batch norms measured anew, on batches whose statistics are known."""

import torch
from torch import nn

from benchmarks.renormalize import measure_norms


def test_every_batch_counts_alike_and_other_branches_stay():
    network = nn.ModuleDict({"local": nn.BatchNorm3d(1), "spatial": nn.BatchNorm3d(1)}).eval()
    batches = [torch.tensor(values).reshape(1, 1, 1, 1, -1) for values in ([1.0, 3.0], [5.0, 5.0, 5.0, 9.0])]

    def run() -> None:
        for batch in batches:
            network["spatial"](network["local"](batch))

    found = measure_norms(network, run, "local")
    assert set(found) == {"local.running_mean", "local.running_var"}
    # Means 2 and 6, unbiased variances 2 and 4.
    assert found["local.running_mean"].item() == 4.0
    assert found["local.running_var"].item() == 3.0
    assert network["spatial"].running_mean.item() == 0.0
    assert not network["local"].training
