"""The parts of a cohort's run that surround the computing: reading ahead, writing behind, and the record of both."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from . import __version__, manifest
from .files import atomic_path, remove_leftovers
from .formats import check_source
from .images import InputError, Scan, read_header, read_voxels
from .memory import BASE_GB, Budget, forecast_gb, out_of_memory, peak_gb, reset_peak
from .results import ERROR, write_result
from .run import Result, VertebraePipeline
from .sources import Source, content_sha256
from .timeout import time_limit

EXPECTED = (ValueError, TimeoutError)  # the scan's fault or the user's limit: the sentence says all
MAX_STARTS = 3  # a scan in whose course the process died this often is not tried again


@dataclass(frozen=True)
class Settings:
    """How a cohort is run.

    Attributes:
        overwrite: redo everything.
        resume: redo what changed (content of the scan, weights, formats) or failed; otherwise the names of results
            that are there decide.
        strict: look at the warnings of every result, also of those that were complete before.
        formats: exchange formats besides the standard outputs.
        timeout_s: a scan's computation is given up after this.
        max_memory_gb: None = what the machine has.
        repair: see `images.read_scan`.
        ray: address of a Ray cluster, or "local"; None = work in this process.
        ray_cores: cores of one worker there, where there is no GPU.
    """

    overwrite: bool = False
    resume: bool = False
    strict: bool = False
    formats: tuple[str, ...] = ()
    timeout_s: float | None = None
    max_memory_gb: float | None = None
    repair: bool = True
    ray: str | None = None
    ray_cores: int = 4


@dataclass
class Loaded:
    """A scan that was read ahead, or why it was not; `record` is what the manifest will say."""

    source: Source
    record: manifest.Record
    scan: Scan | None = None
    error: Exception | None = None
    unchanged: bool = False
    memory_gb: float = 0.0  # held of the budget


@dataclass
class Run:
    """What the parts of one run share.

    Attributes:
        output_dir: where the results go.
        settings: as given.
        single: one scan was meant; its error is the command's.
        limit_gb: of memory.
        budget: keeps the scans in memory below it, what every run needs taken off.
        facts: what the manifest states of every scan.
        records: of earlier runs, by name.
        started: how often a scan was begun and never ended.
        failures: one sentence each.
    """

    output_dir: Path
    settings: Settings
    single: bool
    limit_gb: float
    budget: Budget
    facts: manifest.Record = field(default_factory=dict)
    records: dict[str, manifest.Record] = field(default_factory=dict)
    started: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def journal(self) -> bool:
        """Whether a manifest is kept."""
        return not self.single or self.settings.resume

    def release(self, loaded: Loaded) -> None:
        """Give a scan's memory back."""
        if loaded.memory_gb:
            self.budget.leave(loaded.memory_gb)
        loaded.scan, loaded.memory_gb = None, 0.0


def open_journal(run: Run, device: str, checkpoints: dict[str, Path]) -> None:
    """Go on with the manifest that is there, and remove what a killed run left half-written."""
    manifest.open_manifest(run.output_dir)
    remove_leftovers(run.output_dir)
    run.records, run.started = manifest.read_manifest(run.output_dir)
    run.facts = {
        "format": manifest.FORMAT,
        "vertebrae_version": __version__,
        "bundles": manifest.bundle_facts(checkpoints),
        "config": {"formats": list(run.settings.formats), "repair": run.settings.repair},
        "device": device,
    }


def read_ahead(run: Run, waiting: list[Source]) -> Iterator[Loaded]:
    """Yield the scans in order; while the caller works on one, the next is being read."""
    reader = ThreadPoolExecutor(1)
    try:
        ahead = reader.submit(load, run, waiting[0])
        for following in [*waiting[1:], None]:
            loaded = ahead.result()
            if following:
                ahead = reader.submit(load, run, following)
            yield loaded
            del loaded
    finally:
        run.budget.open()
        reader.shutdown(cancel_futures=True)


def load(run: Run, source: Source) -> Loaded:
    """Read one scan if it is to be done and there will be memory for it; `error` says why it cannot be used."""
    begun = time.perf_counter()
    loaded = Loaded(source, {"name": source.name, "input": str(source.path), **run.facts})
    try:
        if run.journal and source.path.exists():
            loaded.record["sha256"] = content_sha256(source.path)
            loaded.unchanged = _is_unchanged(run, loaded.record)
        if not loaded.unchanged:
            _read(run, loaded)
    except Exception as error:  # reported when the scan's turn comes
        loaded.error = error
    loaded.record["seconds"] = {"reading": round(time.perf_counter() - begun, 2)}
    return loaded


def _is_unchanged(run: Run, record: manifest.Record) -> bool:
    """Tell whether a scan was done with the same content, weights and settings, and its results are still there."""
    before = run.records.get(record["name"], {})
    same = all(before.get(key) == record[key] for key in ("sha256", "bundles", "config", "vertebrae_version"))
    there = all((run.output_dir / name).exists() for name in before.get("outputs", ["none"]))
    return run.settings.resume and same and there and before["status"] == manifest.DONE


def _read(run: Run, loaded: Loaded) -> None:
    """Read the headers, wait for memory, read the voxels."""
    source, starts = loaded.source, run.started.get(loaded.source.name, 0)
    if run.settings.resume and starts >= MAX_STARTS:
        raise given_up(source)
    header = read_header(source.path, repair=run.settings.repair)
    check_source(source.path, header.stack is not None, run.settings.formats)
    need_gb = forecast_gb(header.shape, header.dtype)
    loaded.record["forecast_gb"] = round(need_gb, 2)
    if need_gb > run.limit_gb:
        size = " x ".join(str(n) for n in header.shape)
        limit = f"{run.limit_gb:.1f} GB ({'--max-memory' if run.settings.max_memory_gb else 'this machine'})"
        raise InputError(f"{source.path}: {size} voxels need about {need_gb:.1f} GB of memory, more than {limit}")
    run.budget.enter(need_gb - BASE_GB)
    loaded.memory_gb = need_gb - BASE_GB
    loaded.scan = replace(read_voxels(header), name=source.name)


def given_up(source: Source) -> InputError:
    """Return what is said of a scan in whose course the process died too often."""
    return InputError(f"{source.path}: the process died {MAX_STARTS} times on this scan; --overwrite to try again")


def compute(
    run: Run, pipeline: VertebraePipeline, loaded: Loaded, on_stage: Callable[[str], None] = lambda name: None
) -> Result:
    """Run the three stages on a scan that was read, within the time it may take."""
    assert loaded.scan is not None
    reset_peak()
    with time_limit(run.settings.timeout_s, str(loaded.source.path)):
        result = pipeline(loaded.scan, on_stage)
    loaded.record["peak_memory_gb"] = round(peak_gb(), 2)
    return result


def write(run: Run, loaded: Loaded, result: Result, versions: dict[str, str]) -> manifest.Record:
    """Write the results of one scan; return its record."""
    begun, name = time.perf_counter(), loaded.source.name
    try:
        paths = write_result(result, run.output_dir, versions, run.settings.formats)
        (run.output_dir / f"{name}{ERROR}").unlink(missing_ok=True)
        record = {**loaded.record, "status": manifest.DONE, **manifest.result_facts(result)}
        writing = {"writing": round(time.perf_counter() - begun, 2)}
        record["seconds"] = {**loaded.record["seconds"], **record["seconds"], **writing}
        record["outputs"] = [path.name for path in paths]
    finally:
        run.release(loaded)
    return record


def write_failure(run: Run, loaded: Loaded, error: Exception) -> manifest.Record:
    """Write the error file of one scan; return its record."""
    run.release(loaded)
    sentence = describe(loaded.source.path, error)
    if run.journal:
        trace = "" if isinstance(error, EXPECTED) else "".join(traceback.format_exception(error))
        with atomic_path(run.output_dir / f"{loaded.source.name}{ERROR}") as temporary:
            temporary.write_text(f"{sentence}\n{trace}")
    return {**loaded.record, "status": manifest.FAILED, "error": sentence}


def note(run: Run, record: manifest.Record, progress: str) -> None:
    """Put what became of one scan into the manifest, and say it."""
    if run.journal:
        manifest.append_record(run.output_dir, record)
    if record["status"] == manifest.FAILED:
        run.failures.append(record["error"])
        return
    found, seconds = record["vertebrae"], sum(record["seconds"].values())
    tqdm.write(f"{progress}{record['name']}: {len(found)} vertebrae, {found[0]} to {found[-1]}, {seconds:.0f} s")
    for warning in record["warnings"]:
        tqdm.write(f"  warning: {warning}")


def time_left(begun: float, count: int, total: int) -> str:
    """Return how far a run is and how long it will go on, such as `[7/50, 3 h 5 min left] `; `40 s` when short."""
    seconds = (time.monotonic() - begun) / count * (total - count)
    minutes = round(seconds / 60)
    long = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"[{count}/{total}, {long if minutes else f'{seconds:.0f} s'} left] "


def describe(path: Path, error: Exception) -> str:
    """Return one sentence on why a scan failed; an error that is not about the input names its type and the scan."""
    text = " ".join(str(error).split())
    if out_of_memory(error):
        return f"{path}: not enough memory for this scan: {text or 'out of memory'}"
    return text if isinstance(error, EXPECTED) else f"{path}: {type(error).__name__}: {text}"
