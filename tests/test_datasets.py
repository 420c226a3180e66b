"""The training data set: what its windows depend on, and what it does about a file that cannot be read."""

import os

import pytest
import torch
from monai.transforms import Compose, MapTransform, RandomizableTransform

from pipeline.datasets import ScanDataset
from pipeline.parallel import usable_workers

TWO_WORKERS = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # on one core


class Draw(MapTransform, RandomizableTransform):
    def __init__(self):
        MapTransform.__init__(self, "value")
        RandomizableTransform.__init__(self, 1.0)

    def __call__(self, data):
        return {"value": data["value"] + self.R.random()}


class Read(MapTransform):
    """Stands for the reading of a file: some cannot be."""

    def __init__(self, broken=(), error=ValueError):
        super().__init__("value")
        self.broken, self.error = broken, error

    def __call__(self, data):
        if data["value"] in self.broken:
            raise self.error(f"{data['value']}.nii.gz: cannot be read")
        return dict(data)


def values(count=4, *, seed=3, epoch=1, broken=(), cache_rate=1.0, error=ValueError) -> ScanDataset:
    data = [{"value": i, "filename_or_obj": f"scan{i}"} for i in range(count)]
    transform = Compose([Read(broken, error), Draw()])
    found = ScanDataset(data, transform, seed=seed, cache_rate=cache_rate)
    found.set_epoch(epoch)
    return found


@TWO_WORKERS
def test_windows_depend_on_seed_epoch_and_index_alone():
    first = [item["value"] for item in values()]
    assert [values()[i]["value"] for i in (3, 1)] == [first[3], first[1]]
    loaded = torch.utils.data.DataLoader(values(), batch_size=None, num_workers=2)
    assert [float(item["value"]) for item in loaded] == first
    assert first != [item["value"] for item in values(epoch=2)]
    assert first != [item["value"] for item in values(seed=4)]


@pytest.mark.parametrize("cache_rate", [0.0, 1.0])
def test_an_unreadable_scan_is_replaced_and_named(cache_rate, caplog):
    found = values(40, broken=(5, 6), cache_rate=cache_rate)
    assert int(found[5]["value"]) == int(found[6]["value"]) == int(found[7]["value"]) == 7
    assert [record.message for record in caplog.records] == [
        f"scan scan{i} is left out: {i}.nii.gz: cannot be read ({i - 4} of 40 so far)" for i in (5, 6)
    ]


@pytest.mark.parametrize("cache_rate", [0.0, 1.0])
def test_more_than_one_in_twenty_end_the_run(cache_rate):
    with pytest.raises(ValueError, match=r"3 of 40 scans cannot be read; the last was scan7: 7\.nii\.gz"):
        list(values(40, broken=(5, 6, 7), cache_rate=cache_rate))


@TWO_WORKERS
def test_workers_share_what_they_know_of_unreadable_scans():
    found = values(40, broken=(5, 6, 7), cache_rate=0.0)
    with pytest.raises(ValueError, match="3 of 40 scans cannot be read"):
        list(torch.utils.data.DataLoader(found, batch_size=None, num_workers=2))


def test_a_mistake_of_ours_is_not_an_unreadable_scan():
    with pytest.raises(RuntimeError, match="applying transform"):
        values(40, broken=(5,), error=KeyError)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 3), (64, 4)])
def test_no_more_workers_than_cores(monkeypatch, cores, workers):
    """PyTorch warned of four workers on a machine with one core, at every start of an epoch."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert usable_workers(4) == workers
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert usable_workers(4) == workers
    assert usable_workers(0) == 0
