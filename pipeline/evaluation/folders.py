"""What a folder of predictions or truths holds, scan by scan, in any of the layouts that are around.

Searched are all subfolders. A scan is a mask (`_seg`, `_msk`, `_segmentation`, a bare NIfTI file, or a folder of
`vertebrae_NAME.nii.gz`), a landmark file (`_ctd.json`, `_landmarks.json`, `_landmarks.csv`, or in a folder
`landmarks`), or both. Our own preview and a phantom's parameters are kept too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..images import InputError
from .entities import Entities, parse, role_of
from .label_maps import vertebra_parts

_IMAGE_FOLDERS = {"images", "rawdata"}
_OTHER_MASKS = {"seg-subreg_msk", "seg-spine_msk"}  # SPINEPS: subregions, not vertebrae


@dataclass(frozen=True)
class Case:
    """The files of one scan on one side.

    Attributes:
        name: the name it goes by in the report.
        entities: what its name says.
        mask: file, or TotalSegmentator's folder; None = landmarks only.
        centers: landmark file; None = to be derived from the mask.
        image: the CT; only its geometry is of use here.
        preview: our picture.
        parameters: what a phantom was made from.
    """

    name: str
    entities: Entities
    mask: Path | None = None
    centers: Path | None = None
    image: Path | None = None
    preview: Path | None = None
    parameters: Path | None = None


def find_cases(folder: Path) -> dict[str, Case]:
    """Return the scans of a folder by name.

    Raises:
        InputError: there is no such folder, nothing in it, or two files claim the same place.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    cases: dict[Entities, Case] = {}
    for path, stem, kind in sorted(_files(folder), key=_preference):
        entities = parse(stem)
        case = cases.get(entities) or Case(_name(stem), entities)
        taken = getattr(case, kind)
        if taken is None:
            files: dict[str, Any] = {kind: path}
            cases[entities] = replace(case, **files)
        elif _preference((path, stem, kind))[0] == _preference((taken, _stem(taken), kind))[0]:
            raise InputError(f"{taken} and {path} are both the {kind} of the scan {case.name!r}")
    found = [case for case in cases.values() if case.mask or case.centers]
    if not found:
        raise InputError(f"{folder}: no vertebra mask (NIfTI) and no landmark file (ctd.json, _landmarks.json or .csv)")
    return _by_name(found)


def _by_name(cases: list[Case]) -> dict[str, Case]:
    """Name the scans apart."""
    named: dict[str, Case] = {}
    for case in cases:
        name = case.name
        while name in named:
            name += "'"
        named[name] = replace(case, name=name)
    return dict(sorted(named.items()))


def _files(folder: Path) -> list[tuple[Path, str, str]]:
    """Return (path, name without suffix, `Case` field) of everything that belongs to a scan."""
    found = []
    for directory in (folder, *sorted(p for p in folder.rglob("*") if p.is_dir())):
        if any(part.startswith(".") for part in directory.relative_to(folder).parts):
            continue
        parts = vertebra_parts(directory)
        if parts:
            owner = directory.parent if directory.name == "segmentations" else directory
            found.append((directory, owner.name, "mask"))
        for path in sorted(directory.iterdir()):
            kind = "" if path.is_dir() or path.name.startswith(".") else _kind(path)
            if kind and not (parts and kind == "mask"):
                found.append((path, _stem(path), kind))
    return found


def _kind(path: Path) -> str:
    """Return the `Case` field of a file, "" for one that is of no use here."""
    role = role_of(_stem(path))
    if path.name.endswith((".nii", ".nii.gz")):
        if role == "ct" or _IMAGE_FOLDERS & set(path.parts):
            return "image"
        return "" if role in _OTHER_MASKS else "mask"
    if path.suffix in (".json", ".csv"):
        if role.endswith(("ctd", "landmarks")) or path.parent.name == "landmarks":
            return "centers"
        return "parameters" if path.parent.name == "parameters" else ""
    return "preview" if path.name.endswith("_preview.png") else ""


def _preference(item: tuple[Path, str, str]) -> tuple[int, str]:
    """Sort what is stated before what is guessed: a mask named as one before a bare NIfTI, JSON before CSV."""
    path, stem, kind = item
    if kind == "mask":
        return (0 if role_of(stem) or path.is_dir() else 1), str(path)
    return (0 if path.suffix == ".json" else 1), str(path)


def _stem(path: Path) -> str:
    return path.name.split(".nii")[0] if ".nii" in path.name else path.stem


def _name(stem: str) -> str:
    """Return a scan's name: that of its file without the words that say what the file is."""
    role = role_of(stem)
    return stem[: -len(role) - 1] if role and stem.lower().endswith(f"_{role}") else stem
