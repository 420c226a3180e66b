"""VerSe'19 and '20 as downloaded: which files belong together, whose they are, and where their centroids lie.

Two folder trees are understood: subject folders (`rawdata/sub-X/sub-X[_dir-ax][_split-verseNNN]_ct.nii.gz` with
`derivatives/sub-X/..._seg-vert_msk.nii.gz` and `..._seg-subreg_ctd.json`) and the flat one of the two challenges
(`verseNNN.nii.gz`, `GL003_CT-ax.nii.gz`, `..._seg.nii.gz`, `..._ctd.json`, `..._iso-ctd.json`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from .labels import row_of_label
from .landmarks import absent
from .spaces import Grid, spacing_mm, to_world

# Three coordinate systems without a word in the file (Sekuboyina et al. 2021; the challenges' pages): direction of
# X, Y, Z from the corner of a 1 mm grid ('19, '20), or plain voxels. Which one it is, is tried on the mask.
UNSTATED = (("IPL", True), ("PIR", True), ("", False))

SACRUM_AND_COCCYX = (26, 27)
OTHER_PARTS = 256  # labels from here on are TPTBox's: other points of a vertebra than its center

_OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))
_TEST = re.compile(r"(^|verse\d\d|\d_)test$", re.IGNORECASE)
_FLAT = re.compile(r"(verse\d+|gl\d+)(.*)", re.IGNORECASE)
_CENTROIDS = re.compile(r"iso-ctd|ctd-iso|ctd")


@dataclass(frozen=True)
class Case:
    """One scan and what belongs to it.

    Attributes:
        name: unique among the cases of a folder.
        aliases: names of the same patient; cases that share one are the same patient.
        image: the scan.
        mask: label map, or None.
        centroids: landmark file, or None.
        split: "train", "val" or "test" if the data say so, else "".
    """

    name: str
    aliases: tuple[str, ...]
    image: Path
    mask: Path | None = None
    centroids: Path | None = None
    split: str = ""


def find_cases(folder: Path) -> list[Case]:
    """Return the scans of a VerSe tree, or of several under one folder, with their masks and centroid files.

    A centroid file whose name matches no scan (two do not, in the '20 challenge) goes to its subject's only scan.
    """
    found: dict[tuple[Path, frozenset[str]], dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.rglob("*")):
        parsed = _parse(path.name)
        if parsed and path.is_file():
            entities, kind = parsed
            files = found[_release(path), entities]
            if kind not in files or "subreg" in path.name:  # body centers before mask centers
                files[kind] = path
    for (release, entities), files in found.items():
        if "image" not in files:
            owners = [key for key in found if key[0] == release and min(key[1]) == min(entities)]
            owners = [key for key in owners if "image" in found[key]]
            if len(owners) == 1:
                found[owners[0]] = files | found[owners[0]]
    return [_case(folder, *key, files) for key, files in found.items() if "image" in files]


def _parse(name: str) -> tuple[frozenset[str], str] | None:
    """Return what identifies a file's scan, "0" + subject first, and its kind; None for a file of no interest."""
    stem = re.sub(r"\.(nii\.gz|nii|json)$", "", name)
    if stem == name or name.startswith("."):
        return None
    if not stem.startswith("sub-"):
        return _parse_flat(stem.lower(), name.endswith(".json"))
    *pairs, suffix = stem.split("_")
    kind = {"ct": "image", "msk": "mask", "ctd": "centroids"}.get(suffix)
    entities = dict(pair.partition("-")[::2] for pair in pairs)
    if kind is None or (kind == "mask" and entities.get("seg", "vert") != "vert"):
        return None
    subject = entities.pop("sub").lower()
    entities.pop("seg", None)
    return frozenset({f"0{subject}", *(f"{key}-{value}" for key, value in entities.items())}), kind


def _parse_flat(stem: str, is_json: bool) -> tuple[frozenset[str], str] | None:
    match = _FLAT.fullmatch(stem)
    if not match or is_json != bool(_CENTROIDS.search(stem)):
        return None
    rest = _CENTROIDS.sub("", match[2], count=1)
    tokens = {token for token in re.split("[-_]", rest) if token}
    kind = "centroids" if is_json else "mask" if "seg" in tokens else "image"
    return frozenset({f"0{match[1]}", *(f"dir-{token}" for token in tokens - {"seg", "ct"})}), kind


def _release(path: Path) -> Path:
    """Return the folder above `rawdata` or `derivatives`, or the file's own in the flat tree."""
    for parent in path.parents:
        if parent.name in ("rawdata", "derivatives"):
            return parent.parent
    return path.parent


def _case(folder: Path, release: Path, entities: frozenset[str], files: dict[str, Path]) -> Case:
    subject, *others = sorted(entities)
    parts = (folder.absolute().name, *release.relative_to(folder).parts)
    aliases = (subject[1:], *(other.removeprefix("split-") for other in others if other.startswith("split-")))
    split = "test" if any(_TEST.search(part) for part in parts) else ""
    name = "_".join((subject[1:], *others))
    return Case(name, aliases, files["image"], files.get("mask"), files.get("centroids"), split)


def patients(aliases: Iterable[Sequence[str]]) -> list[str]:
    """Return one patient name per case: cases that share an alias, directly or by way of others, share the patient."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    cases = [list(names) for names in aliases]
    for first, *others in cases:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return [root(names[0]) for names in cases]


def read_centroids(path: Path, grid: Grid) -> list[tuple[str, np.ndarray]]:
    """Read a VerSe centroid file into every reading it allows: (what was assumed, `(26, 3)` RAS+ mm).

    With a `direction` there is one: X, Y, Z are voxel indices of the scan brought into that orientation.

    Args:
        path: the JSON file; a row of NaN is an absent vertebra.
        grid: the scan's own, in stored order.

    Raises:
        ValueError: not such a file, a label twice, or a label that is no vertebra.
    """
    try:
        direction, points = parse_centroids(json.loads(Path(path).read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: not a VerSe centroid file: {error}") from None
    if direction:
        return [(f"voxels along {direction}", placed_mm(points, direction, grid, in_mm=False))]
    stored = "".join(nibabel.aff2axcodes(grid.affine))
    readings = [(axes or stored, in_mm) for axes, in_mm in UNSTATED]
    return [
        (f"{'mm' if mm else 'voxels'} along {axes}", placed_mm(points, axes, grid, in_mm=mm)) for axes, mm in readings
    ]


def parse_centroids(document: Any) -> tuple[str, np.ndarray]:
    """Return the axis codes that VerSe's list of points states, "" for none, and its numbers `(26, 3)`.

    Left out (NaN) are sacrum and coccyx, points that are not finite, and TPTBox's points of other parts of a vertebra.

    Raises:
        ValueError: not such a list, no axis order, a label twice, or a label that is no vertebra.
    """
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise ValueError("not VerSe's list of points")
    direction, points = "", absent()
    for entry in document:
        if "direction" in entry:
            direction = _axis_codes(entry["direction"])
            continue
        try:
            label, position = int(entry["label"]), [float(entry[axis]) for axis in "XYZ"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"entry {str(entry)[:60]} has no label, X, Y, Z") from None
        if label in SACRUM_AND_COCCYX or label >= OTHER_PARTS or not np.isfinite(position).all():
            continue
        row = row_of_label(label)
        if np.isfinite(points[row]).any():
            raise ValueError(f"label {label} appears twice")
        points[row] = position
    return direction, points


def _axis_codes(stated: Any) -> str:
    """Return an axis order such as `["P", "I", "R"]` as `"PIR"`; `ValueError` for anything else."""
    codes = "".join(map(str, stated)).upper() if isinstance(stated, (list, str)) else ""
    if sorted(min(code, _OPPOSITE.get(code, code)) for code in codes) != ["A", "I", "L"]:
        raise ValueError(f"direction {stated} is no axis order such as ['P', 'I', 'R']")
    return codes


def placed_mm(points: np.ndarray, axcodes: str, grid: Grid, *, in_mm: bool) -> np.ndarray:
    """Return `(26, 3)` RAS+ mm of points counted along `axcodes` from the image's corner.

    Args:
        points: `(26, 3)`, NaN row = absent.
        axcodes: such as "PIR": the directions in which the three numbers grow.
        grid: of the image, in stored order.
        in_mm: the numbers are mm from the first voxel's center, not voxels.
    """
    stored, spacing = nibabel.aff2axcodes(grid.affine), spacing_mm(grid.affine)
    index = np.full(points.shape, np.nan)
    for axis, code in enumerate(axcodes):
        target = stored.index(code if code in stored else _OPPOSITE[code])
        steps = points[:, axis] / spacing[target] if in_mm else points[:, axis]
        index[:, target] = steps if code in stored else grid.shape[target] - 1 - steps
    return to_world(grid.affine, index)
