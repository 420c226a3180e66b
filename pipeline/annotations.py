"""One scan's mask and landmarks, read and checked against each other: what training may rely on.

A landmark is believed where the mask of its own vertebra is near; a file that fits nowhere is refused, not guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.volumeutils import apply_read_scaling
from scipy import ndimage

from . import nifti
from .labels import C1_ROW, LABELS, NAMES, ROWS_BY_LEVEL, row_of_label
from .landmarks import absent, body_center_mm, present_rows, read_landmarks
from .spaces import Grid, bounds_mm, grid_over, resample, spacing_mm, to_voxel, to_world
from .verse import SACRUM_AND_COCCYX, read_centroids

NEAR_MM = 5.0  # an expert's body center lies inside the body, or barely outside a fractured one
NEAR_C1_MM = 20.0  # C1 is a ring: its center is the canal's
MIN_SHARE = 0.95  # of the landmarks must lie where they belong
MIN_VOLUME_ML = 1.0  # a smaller piece of mask is no vertebra that somebody forgot
L5_ROW, L6_ROW = 23, 24


@dataclass(frozen=True)
class Annotation:
    """What is known about the vertebrae of one scan.

    Attributes:
        landmarks_mm: `(26, 3)` RAS+ mm.
        open_ends: "top" and "bottom" where unlabeled vertebrae may follow.
        source: how the landmarks were read.
    """

    landmarks_mm: np.ndarray
    open_ends: tuple[str, ...]
    source: str


def read_annotation(image: Path, mask: Path | None, centroids: Path | None, corrections: dict[int, int]) -> Annotation:
    """Read and check the annotation of one scan.

    Args:
        image: the scan; only its header is read.
        mask: VerSe labels on the scan's grid; its axes may be stored in another order.
        centroids: our CSV or JSON, or VerSe's JSON; None = derive the landmarks from the mask.
        corrections: label to correct label, 0 = drop.

    Raises:
        ValueError: anything that makes the scan unfit for training, in one sentence.
    """
    if mask is None and centroids is None:
        raise ValueError(f"{image}: neither a mask nor landmarks belong to it")
    grid = _grid(image)
    labels, affine = read_mask(mask) if mask else (None, grid.affine)
    if labels is not None:
        check_same_view(image, grid, Path(str(mask)), Grid(labels.shape, affine))
        labels = relabeled(labels, corrections)
    if centroids is None:
        landmarks_mm, source = derive_landmarks(labels, affine), "mask"  # type: ignore[arg-type]
    else:
        readings = _readings(centroids, grid)
        readings = [(name, _corrected(points, corrections)) for name, points in readings]
        source, landmarks_mm = choose_reading(centroids, readings, labels, affine, grid)
    if not present_rows(landmarks_mm):
        raise ValueError(f"{centroids or mask}: no vertebra with a landmark")
    if labels is not None and centroids is not None:
        _check_complete(labels, affine, landmarks_mm, centroids)
    return Annotation(landmarks_mm, _open_ends(landmarks_mm, labels, affine), source)


def _grid(path: Path) -> Grid:
    try:
        header = nibabel.load(path)
    except (OSError, ImageFileError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if len(header.shape) < 3:
        raise ValueError(f"{path}: {len(header.shape)}-D; expected a 3-D volume")
    return Grid(header.shape[:3], np.asarray(header.affine, dtype=np.float64))


def read_mask(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map stored as any type into `(I, J, K)` uint8 and its `(4, 4)` affine.

    Raises:
        ValueError: unreadable, not 3-D, or a value that is neither 0, a vertebra, the sacrum nor the coccyx.
    """
    try:
        image, raw = nifti.read_whole(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    values = apply_read_scaling(raw, image.dataobj.slope, image.dataobj.inter)
    if values.ndim > 3 and max(values.shape[3:]) == 1:
        values = values.reshape(values.shape[:3])
    if values.ndim != 3:
        raise ValueError(f"{path}: {values.ndim}-D mask; expected 3-D")
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.uint8)
    known = np.isin(np.arange(256), (0, *LABELS, *SACRUM_AND_COCCYX))
    if not np.array_equal(labels, values) or not known[labels].all():
        strange = values[(labels != values) | ~known[labels]][0]
        raise ValueError(f"{path}: label {strange:g} is no vertebra; labels are 1-25 (C1-L6) and 28 (T13)")
    return labels, np.asarray(image.affine, dtype=np.float64)


def relabeled(labels: np.ndarray, corrections: dict[int, int]) -> np.ndarray:
    """Return the label map with labels exchanged, all at once; 0 = background."""
    table = np.arange(256, dtype=np.uint8)
    for old, new in corrections.items():
        table[old] = new
    return table[labels] if corrections else labels


def _corrected(landmarks_mm: np.ndarray, corrections: dict[int, int]) -> np.ndarray:
    result = landmarks_mm.copy()
    rows = {row_of_label(old): new for old, new in corrections.items()}
    result[list(rows)] = np.nan
    for row, new in rows.items():
        if new:
            result[row_of_label(new)] = landmarks_mm[row]
    return result


def check_same_view(image: Path, grid: Grid, mask: Path, own: Grid) -> None:
    """Refuse a mask that covers another part of space than the scan."""
    apart = np.abs(bounds_mm(grid) - bounds_mm(own)).max()
    limit = max(spacing_mm(grid.affine).max(), spacing_mm(own.affine).max())
    if apart > limit:
        sizes = " and ".join(" x ".join(map(str, g.shape)) for g in (grid, own))
        raise ValueError(f"{mask}: lies up to {apart:.0f} mm off {image} (grids of {sizes} voxels)")


def _readings(path: Path, grid: Grid) -> list[tuple[str, np.ndarray]]:
    """Return every reading a landmark file allows: (what was assumed, `(26, 3)` RAS+ mm)."""
    if path.suffix == ".json" and path.read_text().lstrip().startswith("["):
        return read_centroids(path, grid)
    return [("RAS mm", read_landmarks(path))]


def choose_reading(
    path: Path, readings: list[tuple[str, np.ndarray]], labels: np.ndarray | None, affine: np.ndarray, grid: Grid
) -> tuple[str, np.ndarray]:
    """Return the reading that puts the landmarks where they belong; `ValueError` where none does."""
    distances = [_distances_mm(points, labels, affine, grid) for _, points in readings]
    distances = [own[np.isfinite(points).all(axis=1)] for own, (_, points) in zip(distances, readings, strict=True)]
    if not len(distances[0]):
        raise ValueError(f"{path}: no landmark")
    shares = [float((own <= 0).mean()) for own in distances]
    best = int(np.argmin([own.clip(0).mean() for own in distances]))
    if shares[best] >= MIN_SHARE:
        return readings[best][0], readings[best][1]
    where = "near the mask of their own vertebra" if labels is not None else "inside the scan"
    mirrored = _distances_mm(readings[0][1] * [-1, -1, 1], labels, affine, grid)
    mirrored_share = (mirrored <= 0).sum() / len(distances[0])
    hint = "; as LPS mm they would" if len(readings) == 1 and mirrored_share >= MIN_SHARE else ""
    count = f"{(distances[best] <= 0).sum()} of {len(distances[best])}"
    tried = ", ".join(name for name, _ in readings)
    raise ValueError(f"{path}: only {count} landmarks lie {where} (read as {tried}){hint}")


def _distances_mm(points_mm: np.ndarray, labels: np.ndarray | None, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Return `(26,)` how far each landmark is from where it may lie; negative or 0 = it is there, NaN = absent."""
    if labels is None:
        index = to_voxel(grid.affine, points_mm)
        outside = np.maximum(-0.5 - index, index - (np.array(grid.shape) - 0.5))
        return np.where(np.isfinite(points_mm).all(axis=1), (outside * spacing_mm(grid.affine)).max(axis=1), np.nan)
    boxes = ndimage.find_objects(labels, max_label=LABELS[-1])
    result = np.full(len(points_mm), np.nan)
    for row in present_rows(points_mm):
        box = boxes[LABELS[row] - 1]
        if box is None:
            result[row] = 1000.0
            continue
        voxels = np.argwhere(labels[box] == LABELS[row]) + [side.start for side in box]
        nearest = np.linalg.norm(to_world(affine, voxels) - points_mm[row], axis=1).min()
        result[row] = nearest - (NEAR_C1_MM if row == C1_ROW else NEAR_MM)
    return result


def derive_landmarks(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return `(26, 3)` body centers of the masks; a vertebra cut by the top or bottom of the scan has none."""
    landmarks_mm = absent()
    cut = _cut_rows(labels, affine)
    for row, box in _boxes(labels).items():
        if row in cut:
            continue
        own = Grid(tuple(side.stop - side.start for side in box), affine.copy())
        own.affine[:3, 3] = to_world(affine, np.array([side.start for side in box]))
        voxels = (labels[box] == LABELS[row]).astype(np.uint8)
        if row == C1_ROW:
            landmarks_mm[row] = to_world(own.affine, np.argwhere(voxels).mean(axis=0))
            continue
        fine = grid_over(bounds_mm(own), 1.0)
        mask = resample(voxels, own.affine, fine, order=0) > 0
        if mask.any():
            landmarks_mm[row] = body_center_mm(mask, fine.affine)
    return landmarks_mm


def _boxes(labels: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """Return the bounding box of every vertebra in a label map, by landmark row."""
    boxes = ndimage.find_objects(labels, max_label=LABELS[-1])
    return {row: boxes[label - 1] for row, label in enumerate(LABELS) if boxes[label - 1] is not None}


def _cut_rows(labels: np.ndarray, affine: np.ndarray) -> dict[int, str]:
    """Return the vertebrae that touch the first or last layer along the axis nearest to head-foot: row to end."""
    axis = int(np.abs(affine[2, :3] / spacing_mm(affine)).argmax())
    last_is_top = affine[2, axis] > 0
    cut = {}
    for row, box in _boxes(labels).items():
        if box[axis].start == 0:
            cut[row] = "bottom" if last_is_top else "top"
        if box[axis].stop == labels.shape[axis]:
            cut[row] = "top" if last_is_top else "bottom"
    return cut


def _check_complete(labels: np.ndarray, affine: np.ndarray, landmarks_mm: np.ndarray, path: Path) -> None:
    """Refuse a vertebra between two others that has a mask but no landmark; at the ends it may be cut."""
    levels = [ROWS_BY_LEVEL.index(row) for row in present_rows(landmarks_mm)]
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    for row, box in _boxes(labels).items():
        between = min(levels) < ROWS_BY_LEVEL.index(row) < max(levels)
        missing = not np.isfinite(landmarks_mm[row]).all()
        if between and missing and (labels[box] == LABELS[row]).sum() * voxel_ml > MIN_VOLUME_ML:
            raise ValueError(f"{path}: no landmark for {NAMES[row]}, which the mask shows between two others")


def _open_ends(landmarks_mm: np.ndarray, labels: np.ndarray | None, affine: np.ndarray) -> tuple[str, ...]:
    """Return the ends beyond which unlabeled vertebrae may lie: not above C1, below L5, or past one cut in the mask."""
    present = present_rows(landmarks_mm)
    known = set(_cut_rows(labels, affine).values()) if labels is not None else set()
    if C1_ROW in present:
        known.add("top")
    if L5_ROW in present or L6_ROW in present:
        known.add("bottom")
    return tuple(end for end in ("top", "bottom") if end not in known)
