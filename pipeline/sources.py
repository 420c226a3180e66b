"""What to work on: one scan, a folder, a list or a pattern; each scan with a name for its results."""

from __future__ import annotations

import csv
import glob
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from . import dicom
from .images import SUFFIXES, InputError, find_scans, is_scan_file, scan_name


@dataclass(frozen=True)
class Source:
    """A scan to read and the name of its results."""

    name: str
    path: Path


def find_sources(text: str | Path) -> list[Source]:
    """Return the scans of a file, a DICOM series, a folder, a list `*.csv`, or a pattern such as `data/**/ct.nii.gz`.

    A list has the column `path` (relative to the list) and, if wished, `name`. Files of a pattern that have one name
    get their folders' names in front.

    Raises:
        InputError: nothing is there, a list without paths, or two scans whose results would have the same name.
    """
    path = Path(text)
    if path.suffix.lower() == ".csv":
        sources = _read_list(path)
    elif not path.exists() and glob.has_magic(str(text)):
        sources = _match(str(text))
    else:
        sources = [Source(scan_name(found), found) for found in find_scans(path)]
    _check_names(sources)
    return sources


def is_cohort(text: str | Path, sources: list[Source]) -> bool:
    """Tell whether many scans were meant, even if one was found."""
    return [source.path for source in sources] != [Path(text)]


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of a scan's files: of one file, a header with its data file, or all files of a DICOM series.

    Names do not count: a copy under another name has the same sum.
    """
    if path.is_dir():
        files = [file for file in path.iterdir() if dicom.is_dicom(file)]
    elif path.suffix.lower() in (".mhd", ".nhdr"):
        files = [file for file in path.parent.iterdir() if file.is_file() and file.stem.split(".")[0] == path.stem]
    else:
        files = [path]
    if len(files) == 1:
        return _sha256(files[0])
    return hashlib.sha256("".join(sorted(_sha256(file) for file in files)).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _read_list(path: Path) -> list[Source]:
    """Read a list; a scan that is not there is found out when its turn comes."""
    if not path.is_file():
        raise InputError(f"{path}: no such list")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            lines = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a list in CSV ({error})") from error
    if not lines or "path" not in lines[0]:
        raise InputError(f"{path}: expected a column 'path' with a line for each scan")
    sources = []
    for number, line in enumerate(lines, start=2):
        if not (line["path"] or "").strip():
            raise InputError(f"{path}, line {number}: no path")
        scan = path.parent / line["path"].strip()
        name = (line.get("name") or "").strip() or scan_name(scan)
        if name != Path(name).name or name.startswith("."):
            raise InputError(f"{path}, line {number}: {name!r} cannot be the name of a file")
        sources.append(Source(name, scan))
    return sources


def _match(pattern: str) -> list[Source]:
    """Return the scans and DICOM series that a pattern matches."""
    matched = [Path(found) for found in sorted(glob.glob(pattern, recursive=True))]
    paths = [path for path in matched if is_scan_file(path) or dicom.is_series(path)]
    if not paths:
        raise InputError(f"{pattern}: no scan matches; expected {', '.join(SUFFIXES)} files or DICOM series folders")
    names = [scan_name(path) for path in paths]
    if len(set(names)) == len(names):
        return [Source(name, path) for name, path in zip(names, paths, strict=True)]
    top = os.path.commonpath([path.parent for path in paths])
    folders = [Path(os.path.relpath(path.parent, top)).parts for path in paths]
    return [Source("_".join((*parts, name)), path) for parts, name, path in zip(folders, names, paths, strict=True)]


def _check_names(sources: list[Source]) -> None:
    """Refuse two scans whose results would have the same name."""
    seen: dict[str, Path] = {}
    for source in sources:
        if source.name in seen:
            both = f"{seen[source.name]} and {source.path}"
            raise InputError(f"{both} have the same name {source.name!r}; their results would collide")
        seen[source.name] = source.path
