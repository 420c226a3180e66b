"""Training data as people have them into one checked datalist: VerSe trees, the data folder, masks alone.

Every scan is looked at before anybody trains on it; what is wrong with it is a sentence, and the scan is left out.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .annotations import Annotation, read_annotation
from .files import write_json
from .images import find_scans, scan_name
from .labels import LABELS, NAMES, row_of_label, row_of_name
from .landmarks import present_rows
from .parallel import in_processes
from .verse import Case, find_cases, patients


@dataclass
class Survey:
    """What a set of folders holds.

    Attributes:
        items: one datalist entry per usable scan; `list` says where it belongs ("training", "validation", "test").
        refused: scan to reason.
        notes: what was noticed and does no harm.
    """

    items: list[dict[str, Any]]
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def survey(
    folders: Sequence[Path], *, exclude: Sequence[str] = (), errata: Path | None = None, workers: int = 1
) -> Survey:
    """Find, read and check every scan of the folders.

    Args:
        folders: VerSe trees, data folders, or folders with `images` and `segmentations` alone.
        exclude: scans whose name starts with one of these are left out.
        errata: CSV `scan,label,correct`: labels to change in mask and landmarks; an empty `correct` drops the vertebra.
        workers: processes.

    Raises:
        ValueError: no usable scan, or errata of a scan or label that is not there.
    """
    cases = [case for folder in folders for case in cases_of(Path(folder))]
    cases = [case for case in cases if not case.name.startswith(tuple(exclude))]
    cases, notes = _once_each(cases)
    corrections = read_errata(errata, {case.name for case in cases}) if errata else {}
    result = Survey([], notes=notes)
    owners = patients([case.aliases for case in cases])
    jobs = [(case, corrections.get(case.name, {})) for case in cases]
    for case, patient, outcome in zip(cases, owners, in_processes(_examine, jobs, workers), strict=True):
        if isinstance(outcome, str):
            result.refused[case.name] = outcome
        else:
            result.items.append(_item(case, patient, outcome, corrections.get(case.name, {})))
    if not result.items:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(result.refused.items())[:3])
        raise ValueError(f"{', '.join(map(str, folders))}: no usable scan. {reasons}".strip())
    return result


def cases_of(folder: Path) -> list[Case]:
    """Return the scans of one folder of any of the three kinds."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not (folder / "images").is_dir():
        return find_cases(folder)
    split: dict[str, str] = {}
    for part in ("train", "val"):
        listing = folder / f"{part}.txt"
        split |= dict.fromkeys(listing.read_text().split() if listing.is_file() else [], part)
    cases = []
    for path in find_scans(folder / "images"):
        name = scan_name(path)
        masks = [folder / "segmentations" / f"{name}{suffix}.nii.gz" for suffix in ("_seg", "")]
        points = [folder / "landmarks" / f"{name}{suffix}" for suffix in (".csv", ".json", "_landmarks.json")]
        mask, centroids = (next((file for file in files if file.is_file()), None) for files in (masks, points))
        cases.append(Case(name, (name,), path, mask, centroids, split.get(name, "")))
    return cases


def _once_each(cases: list[Case]) -> tuple[list[Case], list[str]]:
    """Give every scan a name of its own and drop what is the same file again; the same scan joins its patients."""
    notes, kept = [], dict[int, Case]()
    for case in cases:
        print_of = _fingerprint(case.image)
        if print_of in kept:
            notes.append(f"{case.image} is {kept[print_of].image} again")
            aliases = tuple(dict.fromkeys(kept[print_of].aliases + case.aliases))
            split = "test" if "test" in (case.split, kept[print_of].split) else case.split
            case = replace(case, aliases=aliases, split=split)
        kept[print_of] = case
    named: dict[str, Case] = {}
    for case in kept.values():
        count, name = 1, case.name
        while name in named:
            count += 1
            name = f"{case.name}_{count}"
        if name != case.name:
            notes.append(f"{case.image} is listed as {name}; another scan has its name")
        named[name] = replace(case, name=name)
    return list(named.values()), notes


def _fingerprint(path: Path) -> int:
    """Return a checksum of the content; a gzip file carries it, with its length, in its last eight bytes."""
    if not path.name.endswith(".gz"):
        return zlib.crc32(path.read_bytes())
    with open(path, "rb") as stream:
        stream.seek(max(path.stat().st_size - 8, 0))
        return int.from_bytes(stream.read(), "little")


def read_errata(path: Path, names: set[str]) -> dict[str, dict[int, int]]:
    """Read `scan,label,correct` into scan -> label -> correct label (0 = drop); labels as numbers or names.

    Raises:
        ValueError: a missing column, an unknown label, or a scan that is not among `names`.
    """
    result: dict[str, dict[int, int]] = {}
    with open(path, newline="") as stream:
        reader = csv.DictReader(stream)
        if not {"scan", "label", "correct"} <= set(reader.fieldnames or []):
            raise ValueError(f"{path}: expected the columns scan,label,correct, found {reader.fieldnames}")
        for line in reader:
            try:
                old, new = (_label(line[key]) for key in ("label", "correct"))
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
            if line["scan"] not in names:
                raise ValueError(f"{path}, line {reader.line_num}: no scan {line['scan']} here")
            result.setdefault(line["scan"], {})[old] = new
    return result


def _label(text: str) -> int:
    text = text.strip()
    return 0 if not text else LABELS[row_of_label(int(text)) if text.isdigit() else row_of_name(text)]


def _examine(job: tuple[Case, dict[int, int]]) -> Annotation | str:
    """Return what a scan's annotation says, or why it cannot be used."""
    case, corrections = job
    try:
        return read_annotation(case.image, case.mask, case.centroids, corrections)
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())


def _item(case: Case, patient: str, annotation: Annotation, corrections: dict[int, int]) -> dict[str, Any]:
    """Return the datalist entry of a scan; paths absolute until it is known where the list will lie."""
    item: dict[str, Any] = {
        "id": case.name,
        "patient": patient,
        "list": {"test": "test", "val": "validation"}.get(case.split, "training"),
        "image": case.image.absolute(),
    }
    if case.mask:
        item["label"] = case.mask.absolute()
    item["landmarks_mm"] = {
        NAMES[row]: annotation.landmarks_mm[row].round(3).tolist() for row in present_rows(annotation.landmarks_mm)
    }
    item |= {"open_ends": list(annotation.open_ends), "landmarks_from": annotation.source}
    relabel = {str(old): new for old, new in corrections.items() if new}
    return item | ({"relabel": relabel} if relabel else {})


def assign_folds(items: Iterable[dict[str, Any]], folds: int = 5, seed: int = 42) -> dict[str, int]:
    """Return a fold per patient: about as many scans in each, and rare vertebrae (T13, L6, C1) spread over all.

    Patients are dealt in the order of the rarest vertebra they have, each to the fold that has fewest scans with it.
    """
    scans: dict[str, list[set[str]]] = {}
    for item in items:
        scans.setdefault(item["patient"], []).append(set(item["landmarks_mm"]))
    if len(scans) < folds:
        raise ValueError(f"{len(scans)} patients cannot be dealt into {folds} folds")
    everything = [names for group in scans.values() for names in group]
    frequency = {name: sum(name in names for names in everything) for name in set().union(*everything)}
    order = np.random.default_rng(seed).permutation(sorted(scans)).tolist()
    rarest = {patient: min(set().union(*scans[patient]), key=lambda n: (frequency[n], n)) for patient in order}
    held: list[list[set[str]]] = [[] for _ in range(folds)]
    result = {}
    for patient in sorted(order, key=lambda p: frequency[rarest[p]]):
        fold = min(range(folds), key=partial(_load, held, rarest[patient]))
        held[fold] += scans[patient]
        result[patient] = fold
    return result


def _load(held: list[list[set[str]]], name: str, fold: int) -> tuple[int, int]:
    return sum(name in names for names in held[fold]), len(held[fold])


def write_datalist(path: Path, found: Survey, folds: int = 5, seed: int = 42, *, use_test: bool = False) -> dict:
    """Write the datalist and return it. Paths are relative to its folder where they lie inside.

    A patient with a scan in an official test set is kept out of training altogether.

    Args:
        path: the JSON file.
        found: the scans.
        folds: how many folds to deal the training patients into; a data folder's own val.txt is kept instead.
        seed: of the dealing.
        use_test: train on the official test scans too.
    """
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    tested = {item["patient"] for item in found.items if item["list"] == "test"}
    for item in found.items:
        entry = {key: value for key, value in item.items() if key != "list"}
        entry |= {key: _relative(item[key], Path(path).absolute().parent) for key in ("image", "label") if key in item}
        chosen = "test" if item["patient"] in tested else item["list"]
        lists["training" if use_test and chosen == "test" else chosen].append(entry)
    if not lists["validation"]:
        fold_of = assign_folds(lists["training"], folds, seed) if lists["training"] else {}
        for entry in lists["training"]:
            entry["fold"] = fold_of[entry["patient"]]
    document = {"space": "RAS", "units": "mm", **{key: value for key, value in lists.items() if value}}
    write_json(Path(path), document)
    return document


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
