"""Write phantoms as a data folder, in the training layout or in that of the VerSe data sets.

`plain`: `images/ID.nii.gz`, `segmentations/ID_seg.nii.gz`, `landmarks/ID.csv` (RAS+ mm), `parameters/ID.json`,
`train.txt`, `val.txt`. `verse`: `rawdata/sub-ID/sub-ID_ct.nii.gz` and, under `derivatives/sub-ID/`,
`sub-ID_seg-vert_msk.nii.gz`, `sub-ID_seg-subreg_ctd.json` (voxels) and `sub-ID_parameters.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ..files import atomic_path, write_json
from ..labels import LABELS, ROWS_BY_LEVEL
from ..landmarks import write_csv
from ..parallel import in_processes
from ..spaces import to_voxel
from .generate import Phantom, make_phantom
from .grids import preset_of
from .library import load_shapes
from .variants import parse_variant

LAYOUTS = ("plain", "verse")


@dataclass(frozen=True)
class Order:
    """One scan to make: where, its name, its seed and the arguments of `make_phantom`."""

    folder: Path
    name: str
    seed: tuple[int, int]
    preset: str
    shapes: Path | None
    variant: str | None
    layout: str


def paths_of(folder: Path, name: str, layout: str = "plain") -> dict[str, Path]:
    """Return where image, mask, landmarks and parameters of one scan lie."""
    if layout == "verse":
        raw, derived = folder / "rawdata" / f"sub-{name}", folder / "derivatives" / f"sub-{name}"
        return {
            "image": raw / f"sub-{name}_ct.nii.gz",
            "mask": derived / f"sub-{name}_seg-vert_msk.nii.gz",
            "landmarks": derived / f"sub-{name}_seg-subreg_ctd.json",
            "parameters": derived / f"sub-{name}_parameters.json",
        }
    return {
        "image": folder / "images" / f"{name}.nii.gz",
        "mask": folder / "segmentations" / f"{name}_seg.nii.gz",
        "landmarks": folder / "landmarks" / f"{name}.csv",
        "parameters": folder / "parameters" / f"{name}.json",
    }


def write_phantom(folder: Path, name: str, phantom: Phantom, layout: str = "plain") -> None:
    """Write one scan; the parameters come last, so that they mark a finished scan."""
    paths = paths_of(Path(folder), name, layout)
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    for key, array in (("image", phantom.hu), ("mask", phantom.labels)):
        image = nib.Nifti1Image(array, phantom.affine)
        image.header.set_xyzt_units("mm")
        with atomic_path(paths[key]) as temporary:
            nib.save(image, temporary)
    if layout == "verse":
        write_json(paths["landmarks"], verse_centroids(phantom))
    else:
        write_csv(paths["landmarks"], phantom.landmarks_mm)
    write_json(paths["parameters"], {"complete": list(phantom.complete), **phantom.parameters})


def verse_centroids(phantom: Phantom) -> list[dict]:
    """Return VerSe's list: the axis codes of the scan, then label and voxel position of every landmark."""
    entries: list[dict] = [{"direction": list(nib.aff2axcodes(phantom.affine))}]
    index = to_voxel(phantom.affine, phantom.landmarks_mm)
    for row in ROWS_BY_LEVEL:
        if np.isfinite(index[row]).all():
            x, y, z = (round(float(v), 3) for v in index[row])
            entries.append({"label": LABELS[row], "X": x, "Y": y, "Z": z})
    return entries


def write_phantoms(
    folder: Path,
    count: int,
    seed: int,
    preset: str = "mixed",
    *,
    shapes: Path | None = None,
    variant: str | None = None,
    layout: str = "plain",
    workers: int = 1,
) -> Iterator[str]:
    """Write a folder of scans, yielding each name when it is done; `plain` gets `train.txt` and `val.txt` (1 in 10).

    A scan already there is kept, so an interrupted run continues where it stopped; scans of another seed stay listed.

    Args:
        folder: the data folder.
        count: how many scans.
        seed: scan i is made from (seed, i).
        preset: one of `grids.PRESETS`.
        shapes: folder of vertebra masks to mix with the procedural shapes.
        variant: what every scan shows (`variants.parse_variant`); None = by chance.
        layout: one of `LAYOUTS`.
        workers: processes.

    Raises:
        ValueError: at once, for an unknown preset, variant or layout, or a shapes folder without a usable mask.
    """
    preset_of(preset)
    if variant is not None:
        parse_variant(variant)
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if shapes is not None:
        load_shapes(Path(shapes))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [
        f"phantom_{seed}_{index:04d}" if layout == "plain" else f"phantom{seed}x{index:04d}" for index in range(count)
    ]
    if layout == "plain":
        _write_splits(folder, names, f"phantom_{seed}_")
    orders = [Order(folder, name, (seed, i), preset, shapes, variant, layout) for i, name in enumerate(names)]
    return in_processes(_write_one, orders, workers)


def _write_splits(folder: Path, names: list[str], prefix: str) -> None:
    """List the scans; those of another seed (another prefix) stay listed."""
    validation = {name for i, name in enumerate(names) if i % 10 == 9}
    for split, chosen in (("train", [n for n in names if n not in validation]), ("val", sorted(validation))):
        path = folder / f"{split}.txt"
        listed = path.read_text().split() if path.is_file() else []
        others = [name for name in listed if not name.startswith(prefix)]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in others + chosen))


def _write_one(order: Order) -> str:
    if not paths_of(order.folder, order.name, order.layout)["parameters"].exists():
        library = load_shapes(Path(order.shapes)) if order.shapes else None
        phantom = make_phantom(order.seed, order.preset, library=library, variant=order.variant)
        write_phantom(order.folder, order.name, phantom, order.layout)
    return order.name
