"""One scan or thousands: models loaded once, the next scan read and the last one written while one is computed.

A bad scan is reported and never stops the others. The facts of every scan go to the manifest (`manifest`).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from . import manifest
from .cohort import Loaded, Run, Settings, compute, note, open_journal, read_ahead, time_left, write, write_failure
from .memory import BASE_GB, Budget, machine_gb, out_of_memory
from .results import is_done, warning_codes
from .run import Result, VertebraePipeline
from .sources import Source, find_sources, is_cohort
from .timeout import check_available


def segment_scans(
    source: str | Path, output_dir: Path, *, device: str, checkpoints: dict[str, Path], settings: Settings
) -> int:
    """Segment every scan of a source (see `sources.find_sources`) and return the exit code of the command.

    Args:
        source: a scan, a folder, a list or a pattern.
        output_dir: where the results go.
        device: see `VertebraePipeline`.
        checkpoints: see `VertebraePipeline`.
        settings: see there.

    Returns:
        0, or 1 if some scan of a cohort failed, or 4 if none failed but some result carries a warning (`strict`).

    Raises:
        ValueError: nothing to do, or the only scan cannot be used (`NoSpineFound` if it shows no spine).
        OSError: the output folder cannot be written.
    """
    sources = find_sources(source)
    if settings.timeout_s is not None:
        check_available()
    _check_writable(output_dir)
    by_name = not settings.overwrite and not settings.resume
    waiting = [item for item in sources if not (by_name and is_done(output_dir, item.name))]
    if len(waiting) < len(sources):
        print(f"{len(sources) - len(waiting)} of {len(sources)} already done in {output_dir} (--overwrite to redo)")
    if not waiting:
        return _judge(sources, output_dir) if settings.strict else 0
    limit_gb = settings.max_memory_gb or machine_gb()
    single = settings.ray is None and not is_cohort(source, sources)
    run = Run(output_dir, settings, single, limit_gb, Budget(limit_gb - BASE_GB))
    if run.journal:
        open_journal(run, device, checkpoints)
    try:
        work = _work_on_ray if settings.ray else _work
        count = work(run, waiting, lambda: VertebraePipeline(device, checkpoints))
    finally:
        run.budget.open()
        if run.journal:
            manifest.write_manifest(output_dir, [item.name for item in sources])
    if count < len(waiting):
        print(f"{len(waiting) - count} of {len(waiting)} unchanged since they were done")
    failed = _summarize(count, run.failures)
    return _judge(sources, output_dir) if settings.strict and not failed else failed


def _work(run: Run, waiting: list[Source], load: Callable[[], VertebraePipeline]) -> int:
    """Compute what is read ahead and hand it to the writer; return how many scans were not already done."""
    pipeline, count, begun, unwritten = None, 0, time.monotonic(), None
    with ThreadPoolExecutor(1) as writer, tqdm(total=len(waiting), unit="scan", disable=None) as bar:
        for loaded in read_ahead(run, waiting):
            if loaded.unchanged:
                bar.total -= 1
                continue
            count += 1
            if pipeline is None and not loaded.error:
                pipeline = load()
            progress = "" if run.single else time_left(begun, count, bar.total)
            try:
                task = _compute(run, pipeline, loaded, bar, progress)
            except Exception as error:  # whatever it is, the other scans must run
                _fail(run, loaded, error)
            else:
                _finish(run, unwritten)  # one scan at most waits to be written
                unwritten = loaded, writer.submit(task)
                del task
            bar.update(1)
        _finish(run, unwritten)
    return count


def _work_on_ray(run: Run, waiting: list[Source], load: Callable[[], VertebraePipeline]) -> int:
    """Do the same on the workers of a Ray cluster."""
    from .ray_cohort import work

    return work(run, waiting, load)


def _compute(
    run: Run, pipeline: VertebraePipeline | None, loaded: Loaded, bar: tqdm, progress: str
) -> Callable[[], None]:
    """Run the three stages on a scan that was read, or raise what kept it from being read; return how to write it."""
    name = loaded.source.name
    if loaded.error or pipeline is None or loaded.scan is None:
        raise loaded.error or RuntimeError("nothing was read")
    if run.journal:
        started = {"name": name, "status": manifest.STARTED, "sha256": loaded.record["sha256"]}
        manifest.append_record(run.output_dir, started)
    result = compute(run, pipeline, loaded, lambda stage: bar.set_description(f"{name}: {stage}"))
    return partial(_write, run, loaded, result, pipeline.versions, progress)


def _write(run: Run, loaded: Loaded, result: Result, versions: dict[str, str], progress: str) -> None:
    """Write one scan's results and say what was found."""
    note(run, write(run, loaded, result, versions), progress)


def _fail(run: Run, loaded: Loaded, error: Exception) -> None:
    """Note a failure, or raise it if the only scan failed."""
    if run.single and not out_of_memory(error):
        run.release(loaded)
        raise error
    note(run, write_failure(run, loaded, error), "")


def _finish(run: Run, unwritten: tuple[Loaded, Future[None]] | None) -> None:
    """Wait until a scan is written; a failure there is the scan's."""
    if unwritten is None:
        return
    loaded, future = unwritten
    try:
        future.result()
    except Exception as error:
        _fail(run, loaded, error)


def _summarize(count: int, failures: list[str]) -> int:
    """Print what failed, if anything, and return the exit code."""
    for reason in failures:
        print(f"vertebrae: {reason}", file=sys.stderr)
    if failures:
        print(f"vertebrae: {len(failures)} of {count} scans failed", file=sys.stderr)
    return int(bool(failures))


def _judge(sources: list[Source], output_dir: Path) -> int:
    """Print which results carry warnings, if any, and return the exit code of `--strict`."""
    doubtful = {item.name: codes for item in sources if (codes := warning_codes(output_dir, item.name))}
    for name, codes in doubtful.items():
        print(f"vertebrae: {name}: {len(codes)} warnings: {', '.join(dict.fromkeys(codes))}", file=sys.stderr)
    return 4 if doubtful else 0


def _check_writable(folder: Path) -> None:
    """Create the folder and write a file there, so that hours of work are not lost at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "Permission denied", str(folder))
    with tempfile.TemporaryFile(dir=folder):
        pass
