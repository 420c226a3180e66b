"""The command `vertebrae`: arguments in, exit code out; the work is done by the modules it calls.

Exit codes: 0 = done, 1 = some scans of a folder failed, 2 = bad input, 3 = no spine found, 4 = the results were written
but carry warnings (--strict) or miss a bar (--require).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import make_parser
from .run import STAGES, NoSpineFound


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch's large tensors in huge pages, where Linux has them
    options = make_parser().parse_args(arguments)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("nibabel").setLevel(logging.ERROR)  # it tells of every header field that it corrects
    try:
        return COMMANDS[options.command](options)
    except (ValueError, OSError) as error:
        print(f"vertebrae: {_sentence(error)}", file=sys.stderr)
        return 3 if isinstance(error, NoSpineFound) else 2
    except KeyboardInterrupt:
        print("vertebrae: interrupted; what was finished is kept", file=sys.stderr)
        return 130


def _sentence(error: Exception) -> str:
    """Return an error as one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _segment(options: argparse.Namespace) -> int:
    from .batch import segment_scans
    from .cohort import Settings
    from .formats import parse_formats

    for name in ("timeout", "max_memory"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: expected more than 0")
    if options.ray_cores < 1:
        raise ValueError(f"--ray-cores {options.ray_cores}: expected 1 or more")
    settings = Settings(
        overwrite=options.overwrite,
        strict=options.strict,
        resume=options.resume,
        formats=parse_formats(options.formats),
        timeout_s=options.timeout,
        max_memory_gb=options.max_memory,
        repair=not options.no_repair,
        ray=options.ray,
        ray_cores=options.ray_cores,
    )
    checkpoints = {stage: getattr(options, stage) for stage in STAGES if getattr(options, stage)}
    code = segment_scans(
        options.input, options.output, device=options.device, checkpoints=checkpoints, settings=settings
    )
    if options.report:
        from .report import write_reports

        code = max(code, write_reports(options.output))
    return code


def _report(options: argparse.Namespace) -> int:
    from .report import write_reports

    return write_reports(options.results, options.scans)


def _selftest(options: argparse.Namespace) -> int:
    from .selftest import run_selftest

    return run_selftest(options.scan, options.device)


def _relabel(options: argparse.Namespace) -> int:
    from .relabel import relabel

    line = relabel(
        options.landmarks,
        anchors=options.anchor,
        shift=options.shift,
        first=options.first,
        scan=options.scan,
        drop=options.drop,
    )
    print(line)
    return 0


def _check(options: argparse.Namespace) -> int:
    from .run import VertebraePipeline
    from .triage import check_scans

    load = None if options.quick else lambda: VertebraePipeline(options.device)
    return check_scans(options.input, load, repair=not options.no_repair, as_json=options.json)


def _phantom(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .phantom import write_phantoms

    if options.count < 1:
        raise ValueError(f"--count {options.count}: expected at least 1")
    made = write_phantoms(
        options.out,
        options.count,
        options.seed,
        options.preset,
        shapes=options.shapes,
        variant=options.variant,
        layout=options.layout,
        workers=options.workers,
    )
    for _ in tqdm(made, total=options.count, desc="phantoms", unit="scan", disable=None):
        pass
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from .prepare import survey, write_datalist

    target = options.output or options.folders[0] / "datalist.json"
    found = survey(options.folders, exclude=options.exclude, errata=options.errata, workers=options.workers)
    document = write_datalist(target, found, options.folds, options.seed, use_test=options.use_test)
    for line in [*found.notes, *(f"refused {name}: {reason}" for name, reason in found.refused.items())]:
        print(line)
    counts = ", ".join(f"{len(items)} {name}" for name, items in document.items() if isinstance(items, list))
    patients = len({item["patient"] for item in found.items})
    print(f"{target}: {len(found.items)} scans of {patients} patients ({counts}); {len(found.refused)} refused")
    return 0


def _train(options: argparse.Namespace) -> int:
    from .training import device_of, parse_overrides, train

    keys = ("epochs", "batch_size", "learning_rate", "num_workers", "seed", "fold")
    overrides = {key: getattr(options, key) for key in keys if hasattr(options, key)} | parse_overrides(options.set)
    if options.checkpoint and options.stage == "all":
        raise ValueError(f"--checkpoint {options.checkpoint}: name the --stage it belongs to")
    train(
        options.data_dir,
        options.output_dir,
        options.stage,
        checkpoint=None if options.from_scratch else options.checkpoint or "shipped",
        resume=options.resume,
        announce=print,
        **{"device": device_of(options.gpu), **overrides},
    )
    return 0


def _demo(options: argparse.Namespace) -> int:
    from .demo import run_demo

    run_demo(options.output, options.seed)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .evaluation import run

    return run(
        [options.pred, options.compare] if options.compare else [options.pred],
        options.truth,
        options.output,
        require=options.require,
        count_missing=options.count_missing,
        workers=options.workers,
    )


def _pack(options: argparse.Namespace) -> int:
    from .packing import pack

    for name in options.bundles or STAGES:
        print(pack(_bundle(name), options.output))
    return 0


def _export(options: argparse.Namespace) -> int:
    from .exporting import export_network

    difference = export_network(_bundle(options.bundle), options.output, options.checkpoint)
    print(f"{options.output}: differs from the network by at most {difference:.1e} of 1 + |output|, at two sizes")
    return 0


def _label(options: argparse.Namespace) -> int:
    from .label.launch import serve

    serve(options.studies, host=options.host, port=options.port, device=options.device, bundles=options.bundles)
    return 0


def _bundle(name: str) -> Path:
    """Return the folder of a bundle, given it or the name of one of ours."""
    from .stage import bundles_root

    bundle = bundles_root() / name if name in STAGES else Path(name)
    if not (bundle / "configs").is_dir():
        raise ValueError(f"{bundle}: no bundle there")
    return bundle


COMMANDS = {
    "segment": _segment,
    "relabel": _relabel,
    "check": _check,
    "report": _report,
    "selftest": _selftest,
    "phantom": _phantom,
    "prepare": _prepare,
    "train": _train,
    "demo": _demo,
    "evaluate": _evaluate,
    "pack": _pack,
    "export": _export,
    "label": _label,
}


if __name__ == "__main__":
    sys.exit(main())
