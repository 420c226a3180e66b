"""One scan or a folder of them: a bad scan is reported and never stops the others."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from .images import find_scans, read_scan, scan_name
from .results import is_done, warning_codes, write_result
from .run import STAGES, VertebraePipeline


def segment_scans(
    source: Path,
    output_dir: Path,
    *,
    device: str = "auto",
    checkpoints: dict[str, Path],
    overwrite: bool = False,
    strict: bool = False,
) -> int:
    """Segment a scan or every scan of a folder and return the exit code of the command.

    Args:
        source: a scan file, a DICOM series folder, or a folder of scans.
        output_dir: where the results go; a scan whose results are complete there is skipped.
        device: see `VertebraePipeline`.
        checkpoints: see `VertebraePipeline`.
        overwrite: redo scans that are complete.
        strict: look at the warnings of every result, also of those that were complete before.

    Returns:
        0, or 1 if some scan of a folder failed, or 4 if none failed but some result carries a warning (`strict`).

    Raises:
        ValueError: nothing to do, or the only scan cannot be used (`NoSpineFound` if it shows no spine).
        OSError: the output folder cannot be written.
    """
    scans = find_scans(source)
    _check_names(scans)
    _check_writable(output_dir)
    waiting = [path for path in scans if overwrite or not is_done(output_dir, scan_name(path))]
    if len(waiting) < len(scans):
        print(f"{len(scans) - len(waiting)} of {len(scans)} already done in {output_dir} (--overwrite to redo)")
    if not waiting:
        return _judge(scans, output_dir) if strict else 0
    single = len(scans) == 1 and not _is_folder_of_scans(source, scans)
    if single:
        read_scan(scans[0])  # a bad scan is known at once, before any network is loaded
    pipeline = VertebraePipeline(device, checkpoints)
    failures: dict[Path, str] = {}
    with tqdm(total=len(waiting) * len(STAGES), unit="stage", disable=None) as bar:
        for path in waiting:
            try:
                _segment_one(pipeline, path, output_dir, bar)
            except Exception as error:  # whatever it is, the other scans must run
                if single and not _out_of_memory(error):
                    raise
                failures[path] = describe(path, error)
                bar.update(len(STAGES) - bar.n % len(STAGES) if bar.n % len(STAGES) else len(STAGES))
    failed = _summarize(len(waiting), failures)
    return _judge(scans, output_dir) if strict and not failed else failed


def _segment_one(pipeline: VertebraePipeline, path: Path, output_dir: Path, bar: tqdm) -> None:
    bar.set_description(f"{scan_name(path)}: reading")
    begun = False

    def announce(stage: str) -> None:
        nonlocal begun
        bar.update(int(begun))
        begun = True
        bar.set_description(f"{scan_name(path)}: {stage}")

    result = pipeline(path, announce)
    write_result(result, output_dir, pipeline.versions)
    bar.update(1)
    names = [vertebra.name for vertebra in result.labelling.vertebrae]
    seconds = sum(result.seconds.values())
    tqdm.write(f"{scan_name(path)}: {len(names)} vertebrae, {names[0]} to {names[-1]}, {seconds:.0f} s")
    for warning in result.warnings:
        tqdm.write(f"  warning: {warning}")


def describe(path: Path, error: Exception) -> str:
    """Return one sentence on why a scan failed; an error that is not about the input names its type and the scan."""
    text = " ".join(str(error).split())
    if _out_of_memory(error):
        return f"{path}: not enough memory for this scan: {text or 'out of memory'}"
    return text if isinstance(error, ValueError) else f"{path}: {type(error).__name__}: {text}"


def _out_of_memory(error: Exception) -> bool:
    """Tell whether an error means too little memory, on the computer or on the GPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _summarize(count: int, failures: dict[Path, str]) -> int:
    """Print what failed, if anything, and return the exit code."""
    for reason in failures.values():
        print(f"vertebrae: {reason}", file=sys.stderr)
    if failures:
        print(f"vertebrae: {len(failures)} of {count} scans failed", file=sys.stderr)
    return int(bool(failures))


def _judge(scans: list[Path], output_dir: Path) -> int:
    """Print which results carry warnings, if any, and return the exit code of `--strict`."""
    doubtful = {name: codes for name in map(scan_name, scans) if (codes := warning_codes(output_dir, name))}
    for name, codes in doubtful.items():
        print(f"vertebrae: {name}: {len(codes)} warnings: {', '.join(dict.fromkeys(codes))}", file=sys.stderr)
    return 4 if doubtful else 0


def _is_folder_of_scans(source: Path, scans: list[Path]) -> bool:
    return scans != [Path(source)]


def _check_names(scans: list[Path]) -> None:
    """Refuse two scans whose results would have the same name."""
    seen: dict[str, Path] = {}
    for path in scans:
        name = scan_name(path)
        if name in seen:
            raise ValueError(f"{seen[name]} and {path} have the same name {name!r}; their results would collide")
        seen[name] = path


def _check_writable(folder: Path) -> None:
    """Create the folder and write a file there, so that hours of work are not lost at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "Permission denied", str(folder))
    with tempfile.TemporaryFile(dir=folder):
        pass
