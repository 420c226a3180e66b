"""Make labelled CT scans from a seed number and write them in the training layout.

Layout: `images/ID.nii.gz`, `segmentations/ID_seg.nii.gz`, `landmarks/ID.csv` (RAS+ mm), `parameters/ID.json`,
`train.txt`, `val.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_path, write_json
from ..labels import LABELS, NAMES
from ..landmarks import absent, write_csv
from ..spaces import Grid, bounds_mm, to_voxel
from .body import Body
from .scan import draw_bone, draw_look, sample_vertebra, scan
from .shapes import Shape, draw_shape, load_shapes
from .spine import Spine, draw_spine


@dataclass(frozen=True)
class Preset:
    """What kind of scans to make.

    Attributes:
        plane_mm: range of the in-plane voxel size.
        slice_mm: range of the slice thickness; None = as in-plane.
        width_mm: range of the field of view across, and of its depth relative to that.
        levels: range of how many vertebrae the field of view spans, top to bottom.
        turn_deg: largest rotation of the grid about any axis; half of the scans are straight.
        any_axes: whether the array axes come in any order and direction.
    """

    plane_mm: tuple[float, float]
    slice_mm: tuple[float, float] | None
    width_mm: tuple[float, float]
    levels: tuple[int, int]
    turn_deg: float
    any_axes: bool


PRESETS = {
    "mixed": Preset((0.8, 1.6), (0.9, 3.0), (150, 330), (5, 25), 12.0, any_axes=True),
    "localization": Preset((1.9, 2.4), (1.9, 2.8), (150, 420), (5, 25), 10.0, any_axes=False),
    "segmentation": Preset((0.9, 1.3), (0.9, 2.0), (115, 150), (3, 6), 10.0, any_axes=False),
}


@dataclass(frozen=True)
class Phantom:
    """One scan with its truth.

    Attributes:
        hu: `(I, J, K)` int16.
        labels: `(I, J, K)` uint8 VerSe labels.
        affine: `(4, 4)` voxel index to RAS+ mm.
        landmarks_mm: `(26, 3)` body centers inside the field of view.
        complete: names of the vertebrae fully in view.
        parameters: everything drawn, for the JSON.
    """

    hu: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    landmarks_mm: np.ndarray
    complete: tuple[str, ...]
    parameters: dict[str, Any]


def make_phantom(
    seed: Sequence[int],
    preset: str = "mixed",
    *,
    library: dict[int, tuple[Shape, ...]] | None = None,
    anomaly: str | None = None,
    grid: Grid | None = None,
) -> Phantom:
    """Make one scan; the same arguments give the same bytes.

    Args:
        seed: numbers that identify the scan, such as (seed, index).
        preset: one of `PRESETS`.
        library: shapes to mix with the procedural ones (`shapes.load_shapes`).
        anomaly: see `spine.draw_rows`.
        grid: sample this grid (RAS+ mm, C1 near the origin) instead of drawing one.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    rng = np.random.default_rng(list(seed))
    spine = draw_spine(rng, anomaly)
    grid = grid or draw_grid(rng, spine, PRESETS[preset])
    box = bounds_mm(grid) + [[-6, -6, -6], [6, 6, 6]]
    shapes = [draw_shape(row, rng, library) if _in_reach(spine, i, box) else _EMPTY for i, row in enumerate(spine.rows)]
    bone, look = draw_bone(rng), draw_look(rng)
    body = Body(spine, box, rng, bone_spacing_mm=1.5 if np.prod(box[1] - box[0]) < 1.5e7 else 2.0)
    hu, labels = scan(spine, shapes, body, bone, look, grid, rng)
    seen = _share_in_view(spine, shapes, grid, labels)
    parameters = {
        "seed": list(seed),
        "preset": preset,
        "levels": [NAMES[row] for row in spine.rows],
        "share_in_view": seen,
        "wedges": {NAMES[row]: float(w) for row, w in zip(spine.rows, spine.wedges, strict=True) if w},
        "sources": {NAMES[row]: s.source for row, s in zip(spine.rows, shapes, strict=True) if s is not _EMPTY},
        "bone": asdict(bone),
        "look": asdict(look),
        "contrast": body.contrast,
        "fat_mm": body.fat_mm,
    }
    complete = tuple(name for name, share in seen.items() if share >= 0.98)
    return Phantom(hu, labels, grid.affine, _landmarks(spine, grid), complete, parameters)


_EMPTY = Shape(np.full((2, 2, 2), 20.0, np.float32), np.zeros(3), 1.0, "outside")


def _in_reach(spine: Spine, index: int, box_mm: np.ndarray) -> bool:
    center = spine.centers_mm[index]
    return bool((center > box_mm[0] - 90).all() and (center < box_mm[1] + 90).all())


def _landmarks(spine: Spine, grid: Grid) -> np.ndarray:
    """Return `(26, 3)` centers that lie inside the field of view."""
    landmarks_mm = absent()
    index = to_voxel(grid.affine, spine.centers_mm)
    inside = ((index >= 0) & (index <= np.array(grid.shape) - 1)).all(axis=1)
    for i in np.flatnonzero(inside):
        landmarks_mm[spine.rows[i]] = spine.centers_mm[i]
    return landmarks_mm


def _share_in_view(spine: Spine, shapes: list[Shape], grid: Grid, labels: np.ndarray) -> dict[str, float]:
    """Return, per vertebra in view, the share of its volume that lies inside the field of view."""
    voxel_ml = abs(np.linalg.det(grid.affine[:3, :3]))
    counts = np.bincount(labels.ravel(), minlength=29)
    shares = {}
    for i, row in enumerate(spine.rows):
        if counts[LABELS[row]] == 0:
            continue
        low = spine.centers_mm[i] - 90
        around = Grid((90, 90, 90), np.array([[2, 0, 0, low[0]], [0, 2, 0, low[1]], [0, 0, 2, low[2]], [0, 0, 0, 1.0]]))
        found = sample_vertebra(spine, i, shapes[i], around)
        whole = 8.0 * float((found[1] < 0).sum()) if found else 0.0
        edge = _touches_edge(labels, LABELS[row])
        shares[NAMES[row]] = round(min(counts[LABELS[row]] * voxel_ml / max(whole, 1.0), 0.97 if edge else 1.0), 3)
        if not edge:
            shares[NAMES[row]] = 1.0
    return shares


def _touches_edge(labels: np.ndarray, label: int) -> bool:
    """Tell whether a label reaches the first or last voxel layer of any axis."""
    faces = [labels.take(i, axis=axis) for axis in range(3) for i in (0, -1)]
    return any((face == label).any() for face in faces)


def draw_grid(rng: np.random.Generator, spine: Spine, preset: Preset) -> Grid:
    """Draw a field of view along the spine, its voxel size, obliqueness and axis order."""
    count = len(spine.rows)
    span = min(int(rng.integers(preset.levels[0], preset.levels[1] + 1)), count)
    top = int(rng.integers(0, count - span + 1))
    ends = np.concatenate([spine.centers_mm, spine.sacrum_mm[None]])
    low, high = ends[top + span - 1 if top + span < count else top + span], ends[top]
    height = high[2] - low[2] + rng.uniform(20, 90)
    center = (ends[top : top + span].min(axis=0) + ends[top : top + span].max(axis=0)) / 2
    center[2] = (high[2] + low[2]) / 2 + rng.uniform(-10, 25)
    width = rng.uniform(*preset.width_mm)
    depth = width * rng.uniform(0.8, 1.0)
    center += [rng.normal(0, 0.06) * width, rng.uniform(-0.15, 0.25) * depth * min(width / 300, 1), 0]
    plane = rng.uniform(*preset.plane_mm)
    thick = rng.uniform(*preset.slice_mm) if preset.slice_mm else plane
    rotation = _rotation(rng, preset.turn_deg if rng.random() < 0.5 else 0.0)
    spacing = np.array([plane, plane, thick])
    order = np.arange(3)
    if preset.any_axes:
        order = rng.permutation(3)
        rotation = rotation * rng.choice([-1, 1], 3)
    shape = np.maximum(np.rint(np.array([width, depth, height]) / spacing), 8).astype(int)
    linear = (rotation * spacing)[:, order]
    shape = shape[order]
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = center - linear @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _rotation(rng: np.random.Generator, limit_deg: float) -> np.ndarray:
    """Return a rotation matrix with angles up to the limit about x, y and z."""
    a, b, c = np.deg2rad(rng.uniform(-limit_deg, limit_deg, 3))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def write_phantom(folder: Path, name: str, phantom: Phantom) -> None:
    """Write one scan in the training layout; the parameters come last, so that they mark a finished scan."""
    import nibabel

    for sub in ("images", "segmentations", "landmarks", "parameters"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    files = ((f"images/{name}.nii.gz", phantom.hu), (f"segmentations/{name}_seg.nii.gz", phantom.labels))
    for relative, array in files:
        image = nibabel.Nifti1Image(array, phantom.affine)
        image.header.set_xyzt_units("mm")
        with atomic_path(folder / relative) as temporary:
            nibabel.save(image, temporary)
    write_csv(folder / "landmarks" / f"{name}.csv", phantom.landmarks_mm)
    document = {"complete": list(phantom.complete), **phantom.parameters}
    write_json(folder / "parameters" / f"{name}.json", document)


def write_phantoms(
    folder: Path,
    count: int,
    seed: int,
    preset: str = "mixed",
    *,
    shapes: Path | None = None,
    workers: int = 1,
) -> Iterator[str]:
    """Write a folder of scans with `train.txt` and `val.txt` (one in ten), yielding each name when it is done.

    A scan already there is kept, so an interrupted run continues where it stopped.

    Args:
        folder: the data folder.
        count: how many scans.
        seed: scan i is made from (seed, i).
        preset: one of `PRESETS`.
        shapes: folder of vertebra masks to mix with the procedural shapes.
        workers: processes.

    Raises:
        ValueError: unknown preset, or a shapes folder without a usable mask.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    if shapes is not None:
        load_shapes(Path(shapes))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"phantom_{seed}_{index:04d}" for index in range(count)]
    validation = {name for i, name in enumerate(names) if i % 10 == 9}
    for split, chosen in (("train", [n for n in names if n not in validation]), ("val", sorted(validation))):
        with atomic_path(folder / f"{split}.txt") as temporary:
            temporary.write_text("".join(f"{name}\n" for name in chosen))
    jobs = [(folder, name, (seed, i), preset, shapes) for i, name in enumerate(names)]
    if workers <= 1:
        yield from map(_write_one, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_one, jobs)


def _write_one(job: tuple[Path, str, tuple[int, int], str, Path | None]) -> str:
    folder, name, seed, preset, shapes = job
    if not (folder / "parameters" / f"{name}.json").exists():
        library = load_shapes(Path(shapes)) if shapes else None
        write_phantom(folder, name, make_phantom(seed, preset, library=library))
    return name
