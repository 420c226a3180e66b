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

from . import __version__

STAGES = ("spine_loc", "vert_loc", "vert_seg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch's large tensors in huge pages, where Linux has them
    options = _parser().parse_args(arguments)
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("nibabel").setLevel(logging.ERROR)  # it tells of every header field that it corrects
    try:
        return options.command(options)
    except (ValueError, OSError) as error:
        from .run import NoSpineFound

        print(f"vertebrae: {_sentence(error)}", file=sys.stderr)
        return 3 if isinstance(error, NoSpineFound) else 2
    except KeyboardInterrupt:
        print("vertebrae: interrupted; finished scans are kept", file=sys.stderr)
        return 130


def _sentence(error: Exception) -> str:
    """Return an error as one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vertebrae", description="Find, name and segment every vertebra in CT.")
    parser.add_argument("--version", action="version", version=f"vertebrae {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    segment = commands.add_parser("segment", help="segment a scan or a cohort: a folder, a list or a pattern")
    segment.set_defaults(command=_segment)
    segment.add_argument("input", help="NIfTI, NRRD or MHA file, DICOM folder, folder of scans, LIST.csv or 'PATTERN'")
    segment.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    segment.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    for stage in STAGES:
        option = f"--{stage.replace('_', '-')}"
        segment.add_argument(option, dest=stage, type=Path, metavar="CHECKPOINT", help=f"other weights for {stage}")
    segment.add_argument("--overwrite", action="store_true", help="redo scans whose results are already there")
    segment.add_argument("--strict", action="store_true", help="exit with 4 if any result carries a warning")
    segment.add_argument("--resume", action="store_true", help="redo what is new, has changed or failed, nothing else")
    segment.add_argument("--formats", default="nifti,csv,json", help="also ctd, mrk, dicomseg, rtstruct, per-vertebra")
    segment.add_argument("--timeout", type=float, metavar="SECONDS", help="give a scan up after this")
    segment.add_argument("--max-memory", type=float, metavar="GB", help="refuse scans that need more")
    segment.add_argument(
        "--no-repair", action="store_true", help="take slightly broken geometry as it is, or refuse it"
    )
    segment.add_argument("--ray", metavar="ADDRESS", help="work on the Ray cluster there, or 'local' for one made here")
    segment.add_argument("--ray-cores", type=int, default=4, metavar="N", help="of a worker without GPU (default: 4)")
    segment.add_argument("--report", action="store_true", help="also write report pages and their index")

    relabel = commands.add_parser("relabel", help="correct the names of a result by hand, without running a network")
    relabel.set_defaults(command=_relabel)
    relabel.add_argument("landmarks", type=Path, help="NAME_landmarks.json; all results beside it are rewritten")
    correction = relabel.add_mutually_exclusive_group(required=True)
    correction.add_argument("--anchor", action="append", metavar="L5=X,Y,Z", help="this vertebra is here (RAS mm)")
    correction.add_argument("--shift", type=int, metavar="N", help="move names by N levels, +1 = towards the feet")
    relabel.add_argument("--from", dest="first", metavar="T9", help="with --shift: only this vertebra and those below")
    relabel.add_argument("--drop", action="store_true", help="let vertebrae go that fit no more, with their masks")
    relabel.add_argument("--scan", type=Path, help="the scan, if it no longer lies where the result says")

    check = commands.add_parser("check", help="say what scans are, and what is wrong with them, before segmenting")
    check.set_defaults(command=_check)
    check.add_argument("input", help="as for segment")
    check.add_argument("--json", action="store_true", help="one JSON document a line")
    check.add_argument("--quick", action="store_true", help="do not look for the spine with the networks")
    check.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    check.add_argument("--no-repair", action="store_true", help="leave slightly broken geometry as it is, or refuse it")

    report = commands.add_parser("report", help="write a page per scan and an index from a folder of results")
    report.set_defaults(command=_report)
    report.add_argument("results", type=Path, help="folder written by vertebrae segment")
    report.add_argument("--scans", help="the scans it was made from, as for segment; without them no CT and no HU")

    selftest = commands.add_parser("selftest", help="check that turning, moving and resampling a scan changes nothing")
    selftest.set_defaults(command=_selftest)
    selftest.add_argument("--scan", type=Path, help="a scan of yours (default: a synthetic one)")
    selftest.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")

    phantom = commands.add_parser("phantom", help="make synthetic CT scans with exact masks and landmarks")
    phantom.set_defaults(command=_phantom)
    phantom.add_argument("--out", type=Path, required=True, help="data folder to write")
    phantom.add_argument("--count", type=int, default=1, help="how many scans (default: 1)")
    phantom.add_argument("--seed", type=int, default=0, help="scan i is made from (seed, i)")
    phantom.add_argument("--preset", default="mixed", help="mixed, localization or segmentation (default: mixed)")
    phantom.add_argument("--shapes", type=Path, help="folder of vertebra masks to mix with the procedural shapes")
    phantom.add_argument("--variant", help="what every scan shows, such as L6 or T13+wedge-2 (default: by chance)")
    phantom.add_argument("--layout", default="plain", help="plain, or verse as the VerSe data sets (default: plain)")
    phantom.add_argument("--workers", type=int, default=1, help="processes (default: 1)")

    prepare = commands.add_parser("prepare", help="check training data (VerSe, a data folder, masks) and list them")
    prepare.set_defaults(command=_prepare)
    prepare.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="VerSe'19 and '20 trees or data folders")
    prepare.add_argument("-o", "--output", type=Path, help="datalist to write (default: DIR/datalist.json)")
    prepare.add_argument("--folds", type=int, default=5, help="folds, dealt by patient (default: 5)")
    prepare.add_argument("--seed", type=int, default=42, help="of the folds (default: 42)")
    prepare.add_argument("--exclude", nargs="+", default=[], metavar="PREFIX", help="leave out scans named like this")
    prepare.add_argument("--errata", type=Path, help="CSV scan,label,correct; an empty correct drops the vertebra")
    prepare.add_argument("--use-test", action="store_true", help="train on the official test scans too")
    prepare.add_argument("--workers", type=int, default=1, help="processes (default: 1)")

    train = commands.add_parser("train", help="train or fine-tune one stage or all three")
    train.set_defaults(command=_train)
    train.add_argument("--data-dir", type=Path, required=True, help="data folder, or datalist written by prepare")
    train.add_argument("--output-dir", type=Path, required=True, help="one folder per stage is made in it")
    train.add_argument("--stage", default="all", help="1, 2, 3, all, or a stage's name (default: all)")
    for option, kind, note in (
        ("epochs", int, "(default: 100)"),
        ("batch-size", int, "scans per step (default: 1)"),
        ("learning-rate", float, "(default: 0.0001)"),
        ("num-workers", int, "processes that cut windows (default: 4)"),
        ("seed", int, "of everything random (default: 42)"),
        ("fold", int, "of a datalist, to validate on (default: 0)"),
    ):
        train.add_argument(f"--{option}", type=kind, default=argparse.SUPPRESS, help=note)
    train.add_argument("--gpu", type=int, help="number of the GPU (default: 0; the CPU where there is none)")
    train.add_argument("--resume", action="store_true", help="go on where a run in the output folder ended")
    start = train.add_mutually_exclusive_group()
    start.add_argument("--from-scratch", action="store_true", help="start from random weights, not the shipped ones")
    start.add_argument("--checkpoint", type=Path, help="start from these weights (one stage only)")
    train.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="any other key of train.json")

    demo = commands.add_parser("demo", help="run everything on an unseen synthetic scan and print the result")
    demo.set_defaults(command=_demo)
    demo.add_argument("--output", type=Path, default=Path("out/demo"), help="folder for scan and results")
    demo.add_argument("--seed", type=int, default=2026, help="another number, another scan")

    evaluate = commands.add_parser("evaluate", help="score a folder of predictions against a folder of truths")
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument(
        "--pred", type=Path, required=True, help="predictions: ours, VerSe, TotalSegmentator, SPINEPS"
    )
    evaluate.add_argument("--truth", type=Path, required=True, help="masks and centroid files, such as VerSe's")
    evaluate.add_argument("-o", "--output", type=Path, required=True, help="folder for the report")
    evaluate.add_argument("--compare", type=Path, metavar="DIR", help="second folder of predictions")
    evaluate.add_argument("--require", action="append", default=[], metavar="BAR", help="such as 'id_rate>=0.95'")
    evaluate.add_argument("--count-missing", action="store_true", help="a true scan without prediction is all missed")
    evaluate.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    pack = commands.add_parser("pack", help="write bundles as zips that need nothing of this project")
    pack.set_defaults(command=_pack)
    pack.add_argument("bundles", nargs="*", metavar="BUNDLE", help="name or folder (default: all three)")
    pack.add_argument("-o", "--output", type=Path, required=True, help="folder for the zips")

    export = commands.add_parser("export", help="write a bundle's network as TorchScript, ONNX or torch.export program")
    export.set_defaults(command=_export)
    export.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    export.add_argument("-o", "--output", type=Path, required=True, help="file: .ts, .onnx or .pt2")
    export.add_argument("--checkpoint", type=Path, help="other weights")

    label = commands.add_parser("label", help="serve scans to 3D Slicer, OHIF and browsers with MONAI Label")
    label.set_defaults(command=_label)
    label.add_argument("--studies", type=Path, required=True, help="folder of scans; labels are saved in it")
    label.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    label.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    label.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    label.add_argument("--bundles", type=Path, metavar="DIR", help="other bundles than those that came along")
    for command in commands.choices.values():
        command.add_argument("-v", "--verbose", action="store_true", help="say what is being done")
    return parser


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
        pages = argparse.Namespace(results=options.output, scans=options.input)
        code = max(code, _report(pages))
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


if __name__ == "__main__":
    sys.exit(main())
