"""What the command `vertebrae` understands: its subcommands and their options."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import __version__
from .run import STAGES


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; it puts the subcommand's name into `command` and imports nothing large."""
    parser = argparse.ArgumentParser(prog="vertebrae", description="Find, name and segment every vertebra in CT.")
    parser.add_argument("--version", action="version", version=f"vertebrae {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add_options, note in _COMMANDS:
        command = commands.add_parser(add_options.__name__.removeprefix("_"), help=note)
        add_options(command)
        command.add_argument("-v", "--verbose", action="store_true", help="say what is being done")
    return parser


def _segment(command: argparse.ArgumentParser) -> None:
    command.add_argument("input", help="NIfTI, NRRD or MHA file, DICOM folder, folder of scans, LIST.csv or 'PATTERN'")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    _add_device(command)
    for stage in STAGES:
        option = f"--{stage.replace('_', '-')}"
        command.add_argument(option, dest=stage, type=Path, metavar="CHECKPOINT", help=f"other weights for {stage}")
    command.add_argument("--overwrite", action="store_true", help="redo scans whose results are already there")
    command.add_argument("--strict", action="store_true", help="exit with 4 if any result carries a warning")
    command.add_argument("--resume", action="store_true", help="redo what is new, has changed or failed, nothing else")
    command.add_argument("--formats", default="nifti,csv,json", help="also ctd, mrk, dicomseg, rtstruct, per-vertebra")
    command.add_argument("--timeout", type=float, metavar="SECONDS", help="give a scan up after this")
    command.add_argument("--max-memory", type=float, metavar="GB", help="refuse scans that need more")
    command.add_argument(
        "--no-repair", action="store_true", help="take slightly broken geometry as it is, or refuse it"
    )
    command.add_argument("--ray", metavar="ADDRESS", help="work on the Ray cluster there, or 'local' for one made here")
    command.add_argument("--ray-cores", type=int, default=4, metavar="N", help="of a worker without GPU (default: 4)")
    command.add_argument("--report", action="store_true", help="also write report pages and their index")


def _relabel(command: argparse.ArgumentParser) -> None:
    command.add_argument("landmarks", type=Path, help="NAME_landmarks.json; all results beside it are rewritten")
    correction = command.add_mutually_exclusive_group(required=True)
    correction.add_argument("--anchor", action="append", metavar="L5=X,Y,Z", help="this vertebra is here (RAS mm)")
    correction.add_argument("--shift", type=int, metavar="N", help="move names by N levels, +1 = towards the feet")
    command.add_argument("--from", dest="first", metavar="T9", help="with --shift: only this vertebra and those below")
    command.add_argument("--drop", action="store_true", help="let vertebrae go that fit no more, with their masks")
    command.add_argument("--scan", type=Path, help="the scan, if it no longer lies where the result says")


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument("input", help="as for segment")
    command.add_argument("--json", action="store_true", help="one JSON document a line")
    command.add_argument("--quick", action="store_true", help="do not look for the spine with the networks")
    _add_device(command)
    command.add_argument(
        "--no-repair", action="store_true", help="leave slightly broken geometry as it is, or refuse it"
    )


def _report(command: argparse.ArgumentParser) -> None:
    command.add_argument("results", type=Path, help="folder written by vertebrae segment")
    command.add_argument("--scans", help="the scans it was made from, as for segment, if they were moved")


def _selftest(command: argparse.ArgumentParser) -> None:
    command.add_argument("--scan", type=Path, help="a scan of yours (default: a synthetic one)")
    _add_device(command)


def _phantom(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--out", type=Path, required=True, help="data folder to write")
    command.add_argument("--count", type=int, default=1, help="how many scans (default: 1)")
    command.add_argument("--seed", type=int, default=0, help="scan i is made from (seed, i)")
    command.add_argument("--preset", default="mixed", help="mixed, localization or segmentation (default: mixed)")
    command.add_argument("--shapes", type=Path, help="folder of vertebra masks to mix with the procedural shapes")
    command.add_argument("--variant", help="what every scan shows, such as L6 or T13+wedge-2 (default: by chance)")
    command.add_argument("--layout", default="plain", help="plain, or verse as the VerSe data sets (default: plain)")
    _add_workers(command)


def _prepare(command: argparse.ArgumentParser) -> None:
    command.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="VerSe'19 and '20 trees or data folders")
    command.add_argument("-o", "--output", type=Path, help="datalist to write (default: DIR/datalist.json)")
    command.add_argument("--folds", type=int, default=5, help="folds, dealt by patient (default: 5)")
    command.add_argument("--seed", type=int, default=42, help="of the folds (default: 42)")
    command.add_argument("--exclude", nargs="+", default=[], metavar="PREFIX", help="leave out scans named like this")
    command.add_argument("--errata", type=Path, help="CSV scan,label,correct; an empty correct drops the vertebra")
    command.add_argument("--use-test", action="store_true", help="train on the official test scans too")
    _add_workers(command)


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", type=Path, required=True, help="data folder, or datalist written by prepare")
    command.add_argument("--output-dir", type=Path, required=True, help="one folder per stage is made in it")
    command.add_argument("--stage", default="all", help="1, 2, 3, all, or a stage's name (default: all)")
    for option, kind, note in (
        ("epochs", int, "(default: 100)"),
        ("batch-size", int, "scans per step (default: 1)"),
        ("learning-rate", float, "(default: 0.0001)"),
        ("num-workers", int, "processes that cut windows (default: 4)"),
        ("seed", int, "of everything random (default: 42)"),
        ("fold", int, "of a datalist, to validate on (default: 0)"),
    ):
        command.add_argument(f"--{option}", type=kind, default=argparse.SUPPRESS, help=note)
    command.add_argument("--gpu", type=int, help="number of the GPU (default: 0; the CPU where there is none)")
    command.add_argument("--resume", action="store_true", help="go on where a run in the output folder ended")
    start = command.add_mutually_exclusive_group()
    start.add_argument("--from-scratch", action="store_true", help="start from random weights, not the shipped ones")
    start.add_argument("--checkpoint", type=Path, help="start from these weights (one stage only)")
    command.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="any other key of train.json")


def _demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", type=Path, default=Path("out/demo"), help="results (default: out/demo)")
    command.add_argument("--seed", type=int, default=2026, help="another number, another scan")


def _evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--pred", type=Path, required=True, help="predictions: ours, VerSe, TotalSegmentator, SPINEPS")
    command.add_argument("--truth", type=Path, required=True, help="masks and centroid files, such as VerSe's")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder for the report")
    command.add_argument("--compare", type=Path, metavar="DIR", help="second folder of predictions")
    command.add_argument("--require", action="append", default=[], metavar="BAR", help="such as 'id_rate>=0.95'")
    command.add_argument("--count-missing", action="store_true", help="a true scan without prediction is all missed")
    _add_workers(command)


def _pack(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundles", nargs="*", metavar="BUNDLE", help="name or folder (default: all three)")
    command.add_argument("-o", "--output", type=Path, required=True, help="folder for the zips")


def _export(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    command.add_argument("-o", "--output", type=Path, required=True, help="file: .ts, .onnx or .pt2")
    command.add_argument("--checkpoint", type=Path, help="other weights")


def _label(command: argparse.ArgumentParser) -> None:
    command.add_argument("--studies", type=Path, required=True, help="folder of scans; labels are saved in it")
    command.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    _add_device(command)
    command.add_argument("--bundles", type=Path, metavar="DIR", help="other bundles than those that came along")


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def _add_workers(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, default=1, help="processes (default: 1)")


_COMMANDS = (
    (_segment, "segment a scan or a cohort: a folder, a list or a pattern"),
    (_relabel, "correct the names of a result by hand, without running a network"),
    (_check, "say what scans are, and what is wrong with them, before segmenting"),
    (_report, "write a page per scan and an index from a folder of results"),
    (_selftest, "check that turning, moving and resampling a scan changes nothing"),
    (_phantom, "make synthetic CT scans with exact masks and landmarks"),
    (_prepare, "check training data (VerSe, a data folder, masks) and list them"),
    (_train, "train or fine-tune one stage or all three"),
    (_demo, "run everything on an unseen synthetic scan and print the result"),
    (_evaluate, "score a folder of predictions against a folder of truths"),
    (_pack, "write bundles as zips that need nothing of this project"),
    (_export, "write a bundle's network as TorchScript, ONNX or torch.export program"),
    (_label, "serve scans to 3D Slicer, OHIF and browsers with MONAI Label"),
)
