"""Lists of samples for the bundles: training data in either of two forms, and what to run inference on.

A data folder holds `images/ID.nii.gz`, `segmentations/ID_seg.nii.gz`, `landmarks/ID.csv`, `train.txt`, `val.txt`. A
datalist is a JSON file (`vertebrae prepare` writes it) with the paths, the landmarks in RAS+ mm and a fold per scan.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .images import find_scans, scan_name
from .labels import ROWS_BY_LEVEL, row_of_name
from .landmarks import absent, present_rows

INTERVAL_MM = (12.0, 40.0)  # between neighboring body centers; a wider gap in the list is a missing landmark
LISTS = {"train": "training", "val": "validation", "test": "test"}


def read_split(
    dataset_dir: str, split: str, *, fold: int = 0, masks: bool = False, repeat: int = 1
) -> list[dict[str, Any]]:
    """Return the samples to train, validate or test on: `image`, `label`, `landmarks_mm`, `ends_mm`, and the ID.

    The ID goes under the key where MONAI looks for a name (`filename_or_obj`), so that metric tables state it.

    Args:
        dataset_dir: a data folder, a datalist file, or a folder that holds `datalist.json` (see `list_of`).
        split: "train", "val" or "test".
        fold: the fold of a datalist to validate on; the others are trained on.
        masks: leave out the scans without a mask.
        repeat: how often every scan is listed.

    Raises:
        ValueError: a list is missing or empty, names a scan or a patient twice, or a file of a scan is missing.
    """
    path = list_of(dataset_dir)
    samples = _read_datalist(path, split, fold) if path.suffix == ".json" else _read_folder(path, split)
    for sample in samples:
        for key in ("image", "label", "landmarks_mm"):
            if isinstance(sample.get(key), str) and not Path(sample[key]).is_file():
                raise ValueError(f"{sample[key]}: not found, but {path} names {sample['filename_or_obj']}")
    samples = [sample for sample in samples if "label" in sample or not masks]
    if not samples:
        purpose = "validate" if split == "val" else split
        raise ValueError(f"{path}: no scan{' with a mask' if masks else ''} to {purpose} on (fold {fold})")
    return samples * repeat


def list_of(dataset_dir: str | Path) -> Path:
    """Return the datalist that counts: the file itself, or that of a folder, which goes before `train.txt` there."""
    listed = Path(dataset_dir) / "datalist.json"
    return listed if listed.is_file() else Path(dataset_dir)


def _read_folder(folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the samples of `train.txt` or `val.txt`."""
    names: dict[str, list[str]] = {}
    for part in ("train", "val"):
        listing = folder / f"{part}.txt"
        if part == split and not listing.is_file():
            raise ValueError(f"{listing}: not found; expected one scan ID a line, or a datalist.json in {folder}")
        names[part] = listing.read_text().split() if listing.is_file() else []
        if len(set(names[part])) < len(names[part]) or (part == split and not names[part]):
            raise ValueError(f"{listing}: {'a scan ID appears twice' if names[part] else 'no scan ID'}")
    both = sorted(set(names["train"]) & set(names["val"]))
    if both:
        raise ValueError(f"{folder}: {both[0]} is in train.txt and in val.txt")
    return [
        {
            "filename_or_obj": name,
            "image": str(folder / "images" / f"{name}.nii.gz"),
            "label": str(folder / "segmentations" / f"{name}_seg.nii.gz"),
            "landmarks_mm": str(folder / "landmarks" / f"{name}.csv"),
            "ends_mm": ends_mm(absent(), ()),
        }
        for name in names[split]
    ]


def _read_datalist(path: Path, split: str, fold: int) -> list[dict[str, Any]]:
    """Return the samples of a datalist: its own "validation" list, or the fold's share of "training"."""
    document = read_datalist(path)
    items = document.get(LISTS[split], [])
    if not document.get("validation") and split != "test":
        items = [item for item in document["training"] if (item["fold"] == fold) == (split == "val")]
    samples = []
    for item in items:
        landmarks_mm = landmarks_from(item["landmarks_mm"])
        sample = {"filename_or_obj": item["id"], "landmarks_mm": landmarks_mm}
        sample |= {key: str(path.parent / item[key]) for key in ("image", "label") if key in item}
        sample["ends_mm"] = ends_mm(landmarks_mm, item.get("open_ends", ()))
        sample["relabel"] = {int(old): new for old, new in item.get("relabel", {}).items()}
        samples.append(sample)
    return samples


def read_datalist(path: Path) -> dict[str, Any]:
    """Read a datalist and check it: unique IDs, RAS mm, a fold for every scan, no patient on both sides.

    Raises:
        ValueError: one of these does not hold; the message names the scan or the patient.
    """
    try:
        document = json.loads(Path(path).read_text())
        if (document["space"], document["units"]) != ("RAS", "mm"):
            raise ValueError(f"space {document['space']}, units {document['units']}; expected RAS, mm")
        _check_sides(document)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a datalist; {error} is missing or of the wrong type") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return document


def _check_sides(document: dict[str, Any]) -> None:
    """Refuse an ID or a patient that appears where it must not."""
    seen: set[str] = set()
    side: dict[str, Any] = {}
    for part in LISTS.values():
        for item in document.get(part, []):
            if item["id"] in seen:
                raise ValueError(f"scan {item['id']} appears twice")
            seen.add(item["id"])
            own = item["fold"] if part == "training" and not document.get("validation") else part
            other = side.setdefault(item["patient"], own)
            if other != own:
                raise ValueError(f"patient {item['patient']} is in fold or list {other} and in {own}")


def landmarks_from(positions: dict[str, Sequence[float]]) -> np.ndarray:
    """Return `(26, 3)` RAS+ mm of positions by vertebra name."""
    landmarks_mm = absent()
    for name, position in positions.items():
        landmarks_mm[row_of_name(name)] = position
    return landmarks_mm


def ends_mm(landmarks_mm: np.ndarray, open_ends: Sequence[str]) -> np.ndarray:
    """Return where the annotated part of a spine ends: beyond may lie vertebrae that nobody labeled.

    Args:
        landmarks_mm: `(26, 3)` RAS+ mm.
        open_ends: "top", "bottom", both or none.

    Returns:
        `(2, 2, 3)` RAS+ mm: for top and bottom a point half an interval beyond the last landmark, and one an interval
        farther; what lies on the second one's side of the first is unknown. NaN for an end that is not open.
    """
    ends = np.full((2, 2, 3), np.nan)
    present = present_rows(landmarks_mm)
    chain = landmarks_mm[[row for row in ROWS_BY_LEVEL if row in present]]
    for i, (name, up) in enumerate((("top", 1.0), ("bottom", -1.0))):
        if name not in open_ends or not len(chain):
            continue
        last, before = (chain[0], chain[1:2]) if name == "top" else (chain[-1], chain[-2:-1])
        step = last - before[0] if len(before) else np.array([0.0, 0.0, 25.0 * up])
        length = float(np.linalg.norm(step))
        step = step * np.clip(length, *INTERVAL_MM) / max(length, 1e-6)
        ends[i] = last + 0.5 * step, last + 1.5 * step
    return ends


def inference_samples(image: str, prior: str = "", prior_key: str = "", suffix: str = "") -> list[dict[str, str]]:
    """Return one sample per scan, with what the stage before found.

    Args:
        image: a scan, or a folder of scans. One that does not exist is a sample too, which fails when it is read:
            a workflow can be built and checked before its data are there.
        prior: the earlier stage's file, or the folder that holds `NAME` + `suffix` for every scan; "" = none.
        prior_key: sample key of the prior.
        suffix: what follows the scan's name in such a folder.
    """
    samples = []
    for path in find_scans(Path(image)) if Path(image).is_dir() else [Path(image)]:
        sample = {"image": str(path)}
        if prior:
            found = Path(prior) / f"{scan_name(path)}{suffix}" if Path(prior).is_dir() else Path(prior)
            if not found.is_file():
                raise ValueError(f"{found}: not found; it should hold {prior_key} of {path}")
            sample[prior_key] = str(found)
        samples.append(sample)
    return samples
