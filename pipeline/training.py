"""Train the bundles from Python or the command line: their own `train.json`, one stage after the other.

Example:
    >>> from pipeline.training import train
    >>> train("data", "runs", "vert_loc", epochs=50, learning_rate=3e-4)  # doctest: +SKIP
    {'vert_loc': PosixPath('runs/vert_loc/model.pt')}
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .datalist import list_of, read_split
from .handlers import newest_checkpoint
from .run import STAGES, _device
from .stage import bundles_root, load_weights

OWN_KEYS = ("bundle_root", "dataset_dir", "data_dir", "output_dir", "stage", "resume", "checkpoint", "announce")
logger = logging.getLogger(__name__)


def train(
    data_dir: str | Path,
    output_dir: str | Path,
    stage: str | int = "all",
    *,
    checkpoint: str | Path | None = "shipped",
    resume: bool = False,
    announce: Callable[[str], None] = logger.info,
    **overrides: Any,
) -> dict[str, Path]:
    """Train one stage or all of them and return the best weights of each.

    Args:
        data_dir: a data folder, a datalist, or a folder that holds `datalist.json`.
        output_dir: receives one folder per stage: `model.pt`, `validation/`, what TensorBoard reads, and what a run
            needs to be resumed.
        stage: 1, 2, 3, a stage's name, or "all".
        checkpoint: weights to start from; "shipped" = the bundle's own, None = random.
        resume: go on from the newest state in `output_dir`; start where there is none.
        announce: is told what happens, one line each.
        overrides: any key of the bundles' `train.json`, nested ones with `::`.

    Raises:
        ValueError: bad data or arguments, a loss that is no longer a number, or too little memory.
    """
    job = _Job(Path(data_dir), Path(output_dir), checkpoint, resume, overrides)
    data = {name: _check(name, job) for name in stage_names(stage)}
    return {name: _train_one(name, found, job, announce) for name, found in data.items()}


@dataclass(frozen=True)
class _Job:
    """The arguments of `train`."""

    data_dir: Path
    output_dir: Path
    checkpoint: str | Path | None
    resume: bool
    overrides: dict[str, Any]

    def start(self, name: str) -> Path | None:
        """Return the weights to start from; None = random."""
        if self.checkpoint == "shipped":
            return bundles_root() / name / "models" / "model.pt"
        return Path(self.checkpoint) if self.checkpoint else None

    def earlier(self, name: str) -> str:
        """Return the newest state of an earlier run, or ""."""
        return newest_checkpoint(str(self.output_dir / name))


def stage_names(stage: str | int) -> tuple[str, ...]:
    """Return the names of "all", of a number from 1 to 3, or of a name."""
    if stage == "all":
        return STAGES
    named = dict(zip(("1", "2", "3", *STAGES), 2 * STAGES, strict=True))
    if str(stage) not in named:
        raise ValueError(f"stage {stage!r}: expected 1, 2, 3, all or {', '.join(STAGES)}")
    return (named[str(stage)],)


def device_of(gpu: int | None) -> torch.device:
    """Return a GPU by its number; None = the first one, or the CPU where there is none."""
    return _device("auto" if gpu is None else f"cuda:{gpu}")


def _check(name: str, job: _Job) -> str:
    """Refuse unknown keys, unusable data and a folder that holds another training; return a sentence on the data."""
    from monai.bundle import ConfigParser

    config = ConfigParser.load_config_file(str(bundles_root() / name / "configs" / "train.json"))
    for key, value in job.overrides.items():
        top = key.split("::")[0]
        if top not in config or top in OWN_KEYS:
            close = difflib.get_close_matches(top, set(config) - set(OWN_KEYS), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{key!r} is no key of {name}'s train.json to be set like this{hint}")
        _check_kind(key, value, config.get(key))
    fold, masks = job.overrides.get("fold", 0), name == "vert_seg"
    counts = [len(read_split(str(job.data_dir), split, fold=fold, masks=masks)) for split in ("train", "val")]
    batch = job.overrides.get("batch_size", config["batch_size"])
    if isinstance(batch, int) and counts[0] < batch:
        raise ValueError(f"batch_size {batch}: {job.data_dir} has only {counts[0]} scans to train {name} on")
    if job.earlier(name) and not job.resume:
        raise ValueError(f"{job.earlier(name)} is of an earlier training: resume it, or name another output folder")
    return f"{counts[0]} scans to train on and {counts[1]} to validate, listed in {list_of(job.data_dir)}"


def _check_kind(key: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than a key's default, and counts below one; expressions may become anything."""
    expected = next((kind for kind in ((list, tuple), (int, float)) if isinstance(default, kind)), None)
    expression = isinstance(value, str) and value[:1] in ("$", "@")
    if expected and not expression and not isinstance(value, expected):
        raise ValueError(f"{key} {value!r}: expected a value such as {json.dumps(default)}")
    if key in ("epochs", "batch_size", "windows_per_scan") and not expression and value < 1:
        raise ValueError(f"{key} {value}: expected at least 1")


def _train_one(name: str, data: str, job: _Job, announce: Callable[[str], None]) -> Path:
    """Run one bundle's training workflow on what `data` describes and return its best weights."""
    announce(f"{name}: {data}")
    workflow = _workflow(name, job)
    expected, earlier = describe_memory(workflow.parser), job.earlier(name)
    beginning = Path(earlier) if earlier else job.start(name)
    if beginning:
        network, part = workflow.parser.get_parsed_content("network_def"), "ema" if earlier else "model"
        load_weights(network, beginning, f"{name} as configured", part)
    announce(f"{name}: {expected}; starting from {beginning or 'random weights'}")
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        raise _as_sentence(name, error, expected) from error
    best = job.output_dir / name / "model.pt"
    announce(f"{name}: best weights in {best}")
    return best


def _workflow(name: str, job: _Job) -> Any:
    """Return the bundle's training workflow, not yet initialized."""
    from monai.bundle import ConfigWorkflow

    # They speak of a log file that is not wanted, and of errors again and again.
    for chatty in ("monai.bundle.workflows", "ignite.engine.engine"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    bundle, output_dir = bundles_root() / name, job.output_dir / name
    output_dir.mkdir(parents=True, exist_ok=True)
    return ConfigWorkflow(
        str(bundle / "configs" / "train.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        **{"dataset_dir": str(job.data_dir), "output_dir": str(output_dir), "resume": job.resume},
        **{"checkpoint": "" if job.earlier(name) else str(job.start(name) or "")},
        **job.overrides,
    )


def describe_memory(parser: Any) -> str:
    """Return a sentence on the memory that a parsed `train.json` will need.

    Raises:
        ValueError: the network cannot halve its window as often as it has to.
    """
    from .training_memory import training_bytes

    values = {key: parser.get_parsed_content(key) for key in ("window", "batch_size", "windows_per_scan")}
    windows = values["batch_size"] * values["windows_per_scan"]
    network, loss = (parser.get_parsed_content(key) for key in ("network_def", "loss"))
    if any(side % network.multiple for side in values["window"]):
        raise ValueError(f"window {list(values['window'])}: every side must be a multiple of {network.multiple}")
    needed = training_bytes(network, loss, parser["network_def"]["in_channels"], values["window"], windows)
    size = " x ".join(map(str, values["window"]))
    return f"{windows} windows of {size} voxels a step need about {needed / 1e9:.1f} GB in bfloat16"


def _as_sentence(name: str, error: BaseException, expected: str) -> Exception:
    """Return what went wrong as one sentence, or the error itself if it is a fault of ours."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    cause = chain[-1]
    text = str(cause)
    if isinstance(cause, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text:
        keys = "window, windows_per_scan, batch_size or the network's width"
        return ValueError(f"{name}: out of memory ({expected}); make {keys} smaller")
    if isinstance(cause, (ValueError, OSError)):
        if "Original Traceback" in text:  # from a worker process
            text = text.strip().splitlines()[-1].partition(": ")[2]
        return ValueError(f"{name}: {text}")
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Return keys and values of `KEY=VALUE` arguments; a value that is no JSON is text."""
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key in OWN_KEYS:
            raise ValueError(f"{pair!r}: {'this has an option of its own' if equals else 'expected KEY=VALUE'}")
        try:
            result[key] = json.loads(value)
        except ValueError:
            result[key] = value
    return result
