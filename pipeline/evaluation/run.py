"""`vertebrae evaluate`: match two folders, score every scan, write the report, check the bars."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..images import InputError
from ..parallel import in_processes
from .bars import parse_bar
from .entities import match
from .folders import Case, find_cases
from .records import Evaluation, Scan
from .report import write_report
from .scoring import score_scan
from .statistics import estimate
from .summary import print_summary

SOME_FAILED, BAR_MISSED = 1, 4


def run(
    predictions: Sequence[Path],
    truth: Path,
    output: Path,
    *,
    require: Sequence[str] = (),
    count_missing: bool = False,
    workers: int = 1,
) -> int:
    """Evaluate a folder, write `report.html`, `report.json`, `scans.csv` and `vertebrae.csv`, return the exit code.

    Args:
        predictions: the folder of predictions, and perhaps a second one to compare it with.
        truth: folder of truths.
        output: folder of the report.
        require: bars such as `id_rate>=0.95`.
        count_missing: score true scans without a prediction as missed entirely instead of leaving them out.
        workers: processes.

    Returns:
        0; 1 if a scan could not be read; 4 if a bar is missed.

    Raises:
        ValueError: a bar that cannot be understood, a folder without anything to evaluate, or nothing that matches.
    """
    bars = [parse_bar(text) for text in require]
    main, *others = [evaluate(p, truth, count_missing=count_missing, workers=workers) for p in predictions]
    other = others[0] if others else None
    results = {bar: bar.met_by(estimate(bar.measure, main.scans)) for bar in bars}
    written = write_report(output, main, results, other)
    print_summary(main, results, other)
    print(f"\n{written}")
    failures = [reason for evaluation in (main, *others) for reason in evaluation.failures.values()]
    for reason in failures:
        print(f"vertebrae: {reason}", file=sys.stderr)
    return BAR_MISSED if not all(results.values()) else SOME_FAILED if failures else 0


def evaluate(prediction: Path, truth: Path, *, count_missing: bool = False, workers: int = 1) -> Evaluation:
    """Score every scan of two folders that belong together; see `run`."""
    predictions, truths = find_cases(prediction), find_cases(truth)
    matched = match({k: c.entities for k, c in predictions.items()}, {k: c.entities for k, c in truths.items()})
    if not matched:
        names = f"{next(iter(predictions))!r} ... and {next(iter(truths))!r} ..."
        raise InputError(f"{prediction}: no prediction belongs to a scan of {truth}; the names are {names}")
    result = Evaluation(prediction, truth)
    result.without_prediction = [name for name in truths if name not in matched]
    result.without_truth = [name for name in predictions if name not in matched.values()]
    chosen = [name for name in truths if name in matched or count_missing]
    jobs = [(truths[name], predictions[matched[name]] if name in matched else None) for name in chosen]
    outcomes = in_processes(_score_one, jobs, workers)
    bar = tqdm(outcomes, desc=Path(prediction).name, total=len(jobs), unit="scan", disable=None)
    for name, scored in zip(chosen, bar, strict=True):
        if isinstance(scored, Scan):
            result.scans.append(scored)
        else:
            result.failures[name] = scored
    if not result.scans:
        raise InputError(next(iter(result.failures.values())))
    return result


def _score_one(job: tuple[Case, Case | None]) -> Scan | str:
    """Return the scan, or why it cannot be scored."""
    try:
        return score_scan(*job)
    except (InputError, OSError) as error:
        return " ".join(str(error).split())
