"""A cohort on Ray: one actor per GPU, or per some cores, keeps the models; tasks beside it read and write.

Ray finds the machines, starts the processes and carries scans between them. Here is only which scan is next, and that
a scan whose worker was lost goes out again. The manifest is written by the command alone, as without Ray.
"""

from __future__ import annotations

import copy
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tqdm import tqdm

from . import cohort, manifest
from .cohort import MAX_STARTS, Loaded, Run
from .files import remove_leftovers
from .images import InputError
from .memory import machine_gb
from .ray_cluster import connected, first_line, places
from .run import Result, VertebraePipeline
from .sources import Source

AHEAD = 3  # scans on their way per worker: one read, one computed, one written
UNCHANGED = "unchanged"

Load = Callable[[], VertebraePipeline]
Computed = tuple[Loaded, Result | None, dict[str, str]]  # without a result, the record says why


def work(run: Run, waiting: Sequence[Source], load: Load) -> int:
    """Segment scans on the workers of a Ray cluster and return how many were not already done.

    Args:
        run: what the run shares; every machine must see its output folder, and the scans, at the same place.
        waiting: the scans.
        load: makes the pipeline, on a worker.

    Raises:
        InputError: no cluster at the address; no worker can be started.
        ValueError: the package ray is missing; the models cannot be loaded.
    """
    run = replace(run, output_dir=run.output_dir.absolute())
    waiting = [replace(source, path=source.path.absolute()) for source in waiting]
    with connected(str(run.settings.ray)) as ray, tqdm(total=len(waiting), unit="scan", disable=None) as bar:
        count = Dispatch(ray, run, waiting, load, bar).until_done()
    remove_leftovers(run.output_dir)
    return count


def read(run: Run, source: Source, before: manifest.Record | None, starts: int) -> tuple[manifest.Record, Loaded]:
    """Read a scan, given its record of an earlier run; a status in the record returned means that this was all."""
    limit_gb = run.settings.max_memory_gb or machine_gb()
    records = {source.name: before} if before else {}
    loaded = cohort.load(replace(run, limit_gb=limit_gb, records=records, started={source.name: starts}), source)
    if loaded.unchanged:
        loaded.record["status"] = UNCHANGED
    elif loaded.error:
        loaded.record, loaded.error = cohort.write_failure(run, loaded, loaded.error), None
    loaded.memory_gb = 0.0  # Ray holds the scan
    return loaded.record, loaded


class Worker:
    """The models, in a process of their own; one scan at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.pipeline: VertebraePipeline | None = None

    def start(self) -> None:
        """Load the models; apart from `__init__` because an error here reaches the command as it is."""
        self.pipeline = self.load()

    def segment(self, run: Run, loaded: Loaded) -> tuple[None, Computed]:
        """Return what to write, after a small thing to wait for."""
        assert self.pipeline is not None
        loaded = copy.deepcopy(loaded)  # Ray's arrays cannot be written to, which torch does not like
        try:
            return None, (loaded, cohort.compute(run, self.pipeline, loaded), self.pipeline.versions)
        except Exception as error:  # whatever it is, the other scans must run
            loaded.record = cohort.write_failure(run, loaded, error)
            return None, (loaded, None, {})


def write(run: Run, computed: Computed) -> manifest.Record:
    """Write what a worker computed; return the scan's record."""
    loaded, result, versions = computed
    if result is None:
        return loaded.record
    try:
        return cohort.write(run, loaded, result, versions)
    except Exception as error:
        return cohort.write_failure(run, loaded, error)


class Dispatch:
    """Which scan is where. `answers` holds what was asked of Ray, and what to do with each answer."""

    def __init__(self, ray: Any, run: Run, waiting: Sequence[Source], load: Load, bar: tqdm) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, each = places(nodes, run.facts["device"], run.settings.ray_cores)
        self.ray, self.run, self.load, self.bar = ray, run, load, bar
        self.workers = min(count, len(waiting))
        self.shared = ray.put(replace(run, records={}, started={}, failures=[]))
        self.reader = ray.remote(num_cpus=0, num_returns=2)(read)
        self.writer = ray.remote(num_cpus=0)(write)
        self.actor = ray.remote(**each)(Worker)
        self.unread, self.ready, self.free = deque(waiting), deque[tuple[Source, Any]](), list[Any]()
        self.answers: dict[Any, Callable[[Any], None]] = {}
        self.on_their_way = self.done = self.failed_starts = 0
        self.losses: Counter[str] = Counter()
        self.begun = time.monotonic()

    def until_done(self) -> int:
        """Work until every scan has its record; return how many were not already done."""
        for _ in range(self.workers):
            self.start_worker()
        while self.unread or self.on_their_way:
            self.hand_out()
            (answer,), _ = self.ray.wait(list(self.answers), num_returns=1, fetch_local=False)
            self.answers.pop(answer)(answer)
        return self.done

    def start_worker(self) -> None:
        """Ask for a worker; it comes when some machine has room, and those that are there go on meanwhile."""
        worker = self.actor.remote(self.load)
        self.answers[worker.start.remote()] = partial(self.when_started, worker)

    def hand_out(self) -> None:
        """Have scans read, and give those that were read to workers that wait."""
        while self.unread and self.on_their_way < AHEAD * self.workers:
            source = self.unread.popleft()
            before, starts = self.run.records.get(source.name), self.run.started.get(source.name, 0)
            facts, loaded = self.reader.remote(self.shared, source, before, starts)
            self.answers[facts] = partial(self.when_read, source, loaded)
            self.on_their_way += 1
        while self.ready and self.free:
            worker, (source, loaded) = self.free.pop(), self.ready.popleft()
            manifest.append_record(self.run.output_dir, {"name": source.name, "status": manifest.STARTED})
            finished, computed = worker.segment.options(num_returns=2).remote(self.shared, loaded)
            self.answers[finished] = partial(self.when_computed, worker)
            self.answers[self.writer.remote(self.shared, computed)] = partial(self.when_written, source)

    def when_started(self, worker: Any, answer: Any) -> None:
        """Let a new worker wait for scans, or ask for another one."""
        try:
            self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None  # no weights, no such device: the same on every worker
        except self.ray.exceptions.RayError as error:
            self.failed_starts += 1
            if self.failed_starts >= MAX_STARTS * self.workers:
                raise InputError(f"--ray: no worker can be started ({first_line(error)})") from None
            self.start_worker()
        else:
            self.free.append(worker)

    def when_read(self, source: Source, loaded: Any, answer: Any) -> None:
        """Let a scan wait for a worker, unless it needs none."""
        try:
            record = self.ray.get(answer)
        except self.ray.exceptions.RayError:
            self.give_again(source)
            return
        if "status" in record:
            self.finish(record)
        else:
            self.ready.append((source, loaded))

    def when_computed(self, worker: Any, answer: Any) -> None:
        """Let a worker wait for the next scan, or replace it."""
        try:
            self.ray.get(answer)
        except self.ray.exceptions.RayError:
            self.start_worker()
        else:
            self.free.append(worker)

    def when_written(self, source: Source, answer: Any) -> None:
        """Note what became of a scan; if worker or data were lost, nothing came of it."""
        try:
            record = self.ray.get(answer)
        except self.ray.exceptions.RayError:
            self.give_again(source)
        else:
            self.finish(record)

    def give_again(self, source: Source) -> None:
        """Give a scan out again, unless too many workers were lost on it."""
        self.losses[source.name] += 1
        if self.losses[source.name] < MAX_STARTS:
            self.unread.appendleft(source)
            self.on_their_way -= 1
            return
        loaded = Loaded(source, {"name": source.name, "input": str(source.path), **self.run.facts})
        self.finish(cohort.write_failure(self.run, loaded, cohort.given_up(source)))

    def finish(self, record: manifest.Record) -> None:
        """Put what became of a scan into the manifest."""
        self.on_their_way -= 1
        if record["status"] == UNCHANGED:
            self.bar.total -= 1
            return
        self.done += 1
        cohort.note(self.run, record, cohort.time_left(self.begun, self.done, self.bar.total))
        self.bar.update(1)
