"""`vertebrae relabel`: correct names by hand, decide the rest again, rewrite every output. No network runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .annotations import read_mask
from .documents import landmarks_document, read_candidates, read_document, read_grid
from .files import write_json
from .formats import parse_formats
from .images import read_scan
from .labelling import Labelling, solve
from .labels import LABELS, NAMES, ROWS_BY_LEVEL, row_of_name
from .landmarks import write_csv
from .results import LANDMARKS, SEGMENTATION, TABLE, staged, write_result
from .run import Result
from .spaces import Grid

REACH_MM = 15.0  # an anchor names the body within this distance; neighbors are at least 11 mm apart


def relabel(
    path: Path,
    *,
    anchors: Sequence[str] | None = None,
    shift: int | None = None,
    first: str | None = None,
    scan: Path | None = None,
    drop: bool = False,
) -> str:
    """Rewrite the results beside a landmark document with corrected names, and return what changed, as one line.

    Exchange formats that were written with it are rewritten too; the line says so if a report page is out of date.

    Every call starts from all candidates: names given in an earlier call are kept only by `shift`, which moves the
    names as they are now. Without a mask beside the document (a bundle that ran alone), only the landmark files are
    rewritten.

    Args:
        path: `NAME_landmarks.json`.
        anchors: such as `"L5=-3.5,20,410"`: the vertebra there, in RAS+ mm, has this name.
        shift: by how many levels names move, positive towards the feet.
        first: with `shift`, only this vertebra and those below it move; None = all.
        scan: the CT; None = where the document says.
        drop: accept that vertebrae which fit no more lose their name and their mask; there is no way back.

    Raises:
        ValueError: a file or an argument cannot be used, or no ordered labelling agrees with the names given.
    """
    path = Path(path)
    if not path.name.endswith(LANDMARKS):
        raise ValueError(f"{path}: expected a file named NAME{LANDMARKS}")
    document = read_document(path)
    try:
        candidates, now = read_candidates(document), read_names(document)
        if any(not 0 <= index < len(candidates) for index in now):
            raise ValueError("'vertebrae' is damaged: a candidate that is not listed")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if anchors:
        pins = _at_anchors(anchors, candidates.positions_mm, now)
    elif shift:
        pins = moved(now, shift, first)
    else:
        raise ValueError("nothing to do: give --anchor, or --shift other than 0")
    if first and not shift:
        raise ValueError("--from needs --shift")
    labelling = solve(candidates, pins={index: ROWS_BY_LEVEL.index(row_of_name(name)) for index, name in pins.items()})
    after = {vertebra.candidate: vertebra.name for vertebra in labelling.vertebrae}
    lost = [name for index, name in now.items() if index not in after]
    if lost and not drop:
        raise ValueError(f"with these names {', '.join(lost)} would fit no more and be left out; --drop accepts that")
    _rewrite(path, document, labelling, now, scan)
    page = path.with_name(f"{path.name.removesuffix(LANDMARKS)}_report.html")
    again = f"; {page.name} has the names before: run vertebrae report again" if page.exists() else ""
    return f"{path}: {_summary(now, after)}{again}"


def read_names(document: dict[str, Any]) -> dict[int, str]:
    """Return the name of every chosen candidate, head to foot."""
    try:
        return {int(v["candidate"]): NAMES[row_of_name(v["name"])] for v in document["vertebrae"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'vertebrae' is damaged: {error!r}") from None


def _at_anchors(anchors: Sequence[str], positions_mm: np.ndarray, now: dict[int, str]) -> dict[int, str]:
    """Return the name of every anchored candidate."""
    pins: dict[int, str] = {}
    for anchor in anchors:
        name, position_mm = parse_anchor(anchor)
        if not len(positions_mm):
            raise ValueError(f"--anchor {anchor}: the scan has no candidate to name")
        distance_mm = np.linalg.norm(positions_mm - position_mm, axis=1)
        nearest = int(distance_mm.argmin())
        if distance_mm[nearest] > REACH_MM:
            called = f" ({now[nearest]})" if nearest in now else ""
            raise ValueError(
                f"--anchor {anchor}: no vertebra was found within {REACH_MM:.0f} mm of there; "
                f"the nearest{called} is {distance_mm[nearest]:.0f} mm away"
            )
        if pins.get(nearest, name) != name:
            raise ValueError(f"--anchor {anchor}: the vertebra there was already given the name {pins[nearest]}")
        if name in pins.values() and nearest not in pins:
            raise ValueError(f"--anchor {anchor}: {name} was already given to another vertebra")
        pins[nearest] = name
    return pins


def parse_anchor(anchor: str) -> tuple[str, np.ndarray]:
    """Return name and `(3,)` RAS+ mm of `"L5=-3.5,20,410"`; `ValueError` for anything else."""
    name, _, numbers = anchor.partition("=")
    try:
        position_mm = np.array([float(number) for number in numbers.split(",")])
        if position_mm.shape != (3,) or not np.isfinite(position_mm).all():
            raise ValueError("three numbers")
    except ValueError:
        raise ValueError(f"--anchor {anchor}: expected NAME=X,Y,Z in RAS mm, such as L5=-3.5,20,410") from None
    return NAMES[row_of_name(name)], position_mm


def moved(now: dict[int, str], shift: int, first: str | None) -> dict[int, str]:
    """Return the names of the vertebrae from `first` down, moved along the spine.

    T13 is passed over unless the spine has one, or a name that stays takes the place of T12: moving L1 and all below
    it up by one under a T12 makes L1 a T13.
    """
    names = list(now.values())
    name = NAMES[row_of_name(first)] if first else None
    if name and name not in names:
        raise ValueError(f"--from {first}: not among the vertebrae of this scan ({', '.join(names) or 'none'})")
    start = names.index(name) if name else 0
    staying, moving = names[:start], names[start:]
    with_t13 = [NAMES[row] for row in ROWS_BY_LEVEL]
    without = [name for name in with_t13 if name != "T13"]
    for order in [with_t13] if "T13" in names else [without, with_t13]:
        places = [order.index(name) + shift for name in moving]
        if places[0] < 0 or places[-1] >= len(order):
            continue
        result = [order[place] for place in places]
        if not staying or order.index(staying[-1]) < places[0]:
            return dict(zip(list(now)[start:], result, strict=True))
    raise ValueError(
        f"--shift {shift:+d}: {moving[0]} to {moving[-1]} cannot move there: names end at C1 and L6"
        + (f", and {staying[-1]} stays above them" if staying else "")
    )


def _rewrite(
    path: Path, document: dict[str, Any], labelling: Labelling, before: dict[int, str], scan: Path | None
) -> None:
    """Write all outputs again: the mask's labels follow their candidates."""
    name, folder = path.name.removesuffix(LANDMARKS), path.parent
    mask_path, grid = folder / f"{name}{SEGMENTATION}", read_grid(document)
    versions, seconds = document.get("bundles") or {}, document.get("seconds") or {}
    if not mask_path.is_file():
        with staged(folder, name) as (staging, publish):
            files = [staging / f"{name}{suffix}" for suffix in (TABLE, LANDMARKS)]
            write_csv(files[0], labelling.landmarks_mm)
            content = landmarks_document(name, grid, labelling, versions=versions, seconds=seconds)
            write_json(files[1], content | {"scan_file": document.get("scan_file")})
            publish(files)
        return
    scan_path = scan or folder / (document.get("scan_file") or "")
    if not scan and not (document.get("scan_file") and scan_path.exists()):
        raise ValueError(f"{path}: the scan is no longer at {scan_path}; name it with --scan")
    image = replace(read_scan(scan_path), name=name)
    _check_grid(scan_path, image.grid, grid)
    mask, affine = read_mask(mask_path)
    _check_grid(mask_path, Grid(mask.shape, affine), grid)
    labels = renamed(mask, before, labelling)
    result = Result(image, np.full((2, 3), np.nan), labelling, labels, seconds)
    write_result(result, folder, versions, parse_formats(",".join(map(str, document.get("formats") or ()))))


def renamed(labels: np.ndarray, before: dict[int, str], labelling: Labelling) -> np.ndarray:
    """Return the mask with every vertebra's new label; one that is no longer named is cleared."""
    after = {vertebra.candidate: vertebra.label for vertebra in labelling.vertebrae}
    table = np.arange(256, dtype=np.uint8)
    for candidate, name in before.items():
        table[LABELS[row_of_name(name)]] = after.get(candidate, 0)
    return table[labels]


def _check_grid(path: Path, grid: Grid, expected: Grid) -> None:
    if tuple(grid.shape) != expected.shape or not np.allclose(grid.affine, expected.affine, atol=1e-3):
        raise ValueError(f"{path}: shape {tuple(grid.shape)} or position differs from the landmark file's scan")


def _summary(before: dict[int, str], after: dict[int, str]) -> str:
    changes = [f"{name} is now {after[c]}" for c, name in before.items() if c in after and after[c] != name]
    changes += [f"{name} is left out" for c, name in before.items() if c not in after]
    changes += [f"{name} is new" for c, name in after.items() if c not in before]
    return ", ".join(changes) or "nothing changed"
