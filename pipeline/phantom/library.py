"""Read vertebra shapes from masks: a folder of single vertebrae with an index, or VerSe-like masks of whole scans."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from ..labels import LABELS, row_of_name
from ..landmarks import body_center_mm
from ..spaces import Grid, bounds_mm, grid_over, resample
from .shapes import Shape
from .spine import kind_of

Library = dict[int, tuple[Shape, ...]]
_MASK_MM = 1.0
_REACH_MM = np.array([[-62.0, -88, -62], [62, 44, 52]])


@lru_cache(maxsize=4)
def load_shapes(folder: Path) -> Library:
    """Read a folder of vertebra masks into shapes by landmark row.

    With an `index.json` the folder holds one mask per vertebra; the index states `voxel_mm`, `origin_voxel` (body
    center) and per item `file` and `level`. Without one, every NIfTI file below the folder that holds VerSe labels is
    cut into the vertebrae that are whole and have neighbors.

    Raises:
        ValueError: the folder holds not one usable mask.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of vertebra masks")
    index = folder / "index.json"
    found = _single_masks(index) if index.is_file() else _scan_masks(folder)
    shapes: dict[int, list[Shape]] = {}
    for row, shape in found:
        shapes.setdefault(row, []).append(shape)
    if not shapes:
        raise ValueError(f"{folder}: not one usable vertebra mask")
    return {row: tuple(several) for row, several in shapes.items()}


def _single_masks(path: Path) -> list[tuple[int, Shape]]:
    try:
        index = json.loads(path.read_text())
        items = index["items"]
        origin, voxel_mm = np.array(index["origin_voxel"], dtype=float), float(index["voxel_mm"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON with items, origin_voxel and voxel_mm ({error})") from None
    found = []
    for item in items:
        mask = np.asarray(nib.load(path.parent / item["file"]).dataobj) > 0
        if mask.any() and not item.get("touches_box", False):
            found.append((row_of_name(item["level"]), shape_of_mask(mask, origin, voxel_mm, item["source"])))
    return found


def _scan_masks(folder: Path) -> list[tuple[int, Shape]]:
    found: list[tuple[int, Shape]] = []
    for path in sorted(folder.rglob("*.nii.gz")):
        image = nib.load(path)
        if np.issubdtype(image.get_data_dtype(), np.integer) and image.ndim == 3:
            found += vertebrae_of_scan(np.asarray(image.dataobj), image.affine, path.name.removesuffix(".nii.gz"))
    return found


def vertebrae_of_scan(labels: np.ndarray, affine: np.ndarray, source: str) -> list[tuple[int, Shape]]:
    """Return the shapes of every whole vertebra of a mask that has a neighbor above or below.

    Args:
        labels: `(I, J, K)` VerSe labels.
        affine: voxel index to RAS+ mm.
        source: name that the shapes carry.
    """
    grid = grid_over(bounds_mm(Grid(labels.shape, affine)), _MASK_MM)
    whole, world = resample(labels, affine, grid, order=0), grid.affine
    cut = {int(v) for axis in range(3) for i in (0, -1) for v in np.unique(labels.take(i, axis))}
    present = [label for label in LABELS if (whole == label).any()]
    usable = [label for label in present if label not in cut]
    centers = {label: _center_mm(whole, label, world) for label in present}
    found = []
    for label in usable:
        near = [centers[o] for o in (label - 1, label + 1) if o in centers]
        if near:
            up = centers.get(label - 1, centers[label]) - centers.get(label + 1, centers[label])
            row = kind_of(LABELS.index(label))
            found.append((row, _cut(whole == label, world, centers[label], up, source)))
    return found


def _center_mm(whole: np.ndarray, label: int, affine: np.ndarray) -> np.ndarray:
    """Return the body center of one label (C1: the centroid of the mask)."""
    part = ndimage.find_objects((whole == label).astype(np.uint8))[0]
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [s.start for s in part]
    mask = whole[part] == label
    if label == 1:
        return moved[:3, :3] @ np.argwhere(mask).mean(axis=0) + moved[:3, 3]
    return body_center_mm(mask, moved)


def _cut(mask: np.ndarray, affine: np.ndarray, center: np.ndarray, up: np.ndarray, source: str) -> Shape:
    """Return one vertebra in its own frame."""
    up = up / np.linalg.norm(up)
    right = np.array([1.0, 0, 0]) - up[0] * up
    right = right / np.linalg.norm(right)
    own = np.eye(4)
    own[:3, :3] = np.stack([right, np.cross(up, right), up], axis=1)
    own[:3, 3] = center + own[:3, :3] @ _REACH_MM[0]
    shape = tuple(int(n) + 1 for n in _REACH_MM[1] - _REACH_MM[0])
    share = resample(mask.astype(np.float32), affine, Grid(shape, own))  # type: ignore[arg-type]
    return shape_of_mask(share > 0.5, -_REACH_MM[0], _MASK_MM, source)


def shape_of_mask(mask: np.ndarray, origin_vox: np.ndarray, voxel_mm: float, source: str) -> Shape:
    """Return the signed distance of a mask, cut to its neighborhood and smoothed below a voxel."""
    where = ndimage.find_objects(mask.astype(np.uint8))[0]
    pad = int(np.ceil(6 / voxel_mm))
    cut = np.pad(mask[where], pad)
    low = np.array([s.start for s in where]) - pad
    signed = ndimage.distance_transform_edt(~cut) - ndimage.distance_transform_edt(cut)
    signed = ndimage.gaussian_filter(signed.astype(np.float32), 0.8) * voxel_mm
    return Shape(signed.astype(np.float32), (low - origin_vox) * voxel_mm, voxel_mm, source)
