"""Make one labelled CT scan from a seed number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from ..labels import LABELS, NAMES
from ..landmarks import absent
from ..spaces import Grid, bounds_mm, spacing_mm, to_voxel
from .body import MARGIN_MM, Body
from .bone import BoneLook, draw_bone
from .exposure import Look, draw_look, outside_view
from .grids import draw_grid, preset_of
from .library import Library
from .scan import scan
from .shapes import EMPTY, Shape
from .spine import Spine, draw_spine
from .vertebrae import vertebra_shape

_REACH_MM = 90.0  # no part of a vertebra lies farther from its body center


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
    library: Library | None = None,
    variant: str | None = None,
    grid: Grid | None = None,
) -> Phantom:
    """Make one scan; the same arguments give the same bytes.

    Args:
        seed: numbers that identify the scan, such as (seed, index).
        preset: one of `PRESETS`.
        library: shapes to mix with the procedural ones (`library.load_shapes`).
        variant: None (by chance, at natural rates), or what to show (`variants.parse_variant`).
        grid: sample this grid (RAS+ mm, C1 near the origin) instead of drawing one.

    Raises:
        ValueError: unknown preset or variant, or variants that exclude each other.
    """
    kind = preset_of(preset)
    rng = np.random.default_rng(list(seed))
    spine = draw_spine(rng, variant)
    grid = grid or draw_grid(rng, spine, kind, spine.variants.focus() if variant else ())
    look = draw_look(rng, float(np.cbrt(np.prod(spacing_mm(grid.affine)))))
    bone = draw_bone(rng)
    bone = replace(bone, marrow=bone.marrow * look.kv_gain, cortex=bone.cortex * look.kv_gain)
    box = bounds_mm(grid) + [[-MARGIN_MM] * 3, [MARGIN_MM] * 3]
    shapes = [
        vertebra_shape(spine, i, rng, library) if _in_reach(center, box) else EMPTY
        for i, center in enumerate(spine.centers_mm)
    ]
    body = Body(spine, grid, bone, rng)
    hu, labels = scan(spine, shapes, body, look, grid, rng)
    hidden = outside_view(grid, look)
    landmarks_mm = _landmarks(spine, grid, hidden)
    seen = _share_in_view(spine, shapes, grid, labels, hidden)
    complete = tuple(name for name, share in seen.items() if share == 1.0)
    parameters = {"seed": list(seed), "preset": preset, "share_in_view": seen}
    parameters |= _document(spine, shapes, body, bone, look)
    return Phantom(hu, labels, grid.affine, landmarks_mm, complete, parameters)


def _document(spine: Spine, shapes: list[Shape], body: Body, bone: BoneLook, look: Look) -> dict[str, Any]:
    """Return everything drawn for a subject and its scanner."""
    return {
        "levels": [NAMES[row] for row in spine.rows],
        "variants": spine.variants.document(),
        "process_slopes": {NAMES[row]: round(float(s), 3) for row, s in zip(spine.rows, spine.slopes, strict=True)},
        "sources": {NAMES[row]: s.source for row, s in zip(spine.rows, shapes, strict=True) if s is not EMPTY},
        "bone": asdict(bone),
        "look": asdict(look),
        "contrast": body.contrast,
        "fat_mm": body.fat_mm,
        "organ_drift_mm": list(body.drift_mm),
        "fillings": len(body.fillings),
    }


def _in_reach(center_mm: np.ndarray, box_mm: np.ndarray) -> bool:
    return bool((center_mm > box_mm[0] - _REACH_MM).all() and (center_mm < box_mm[1] + _REACH_MM).all())


def _landmarks(spine: Spine, grid: Grid, hidden: np.ndarray) -> np.ndarray:
    """Return `(26, 3)` centers that lie inside the field of view."""
    landmarks_mm = absent()
    index = to_voxel(grid.affine, spine.centers_mm)
    inside = ((index >= 0) & (index <= np.array(grid.shape) - 1)).all(axis=1)
    for i in np.flatnonzero(inside):
        if not hidden[tuple(np.rint(index[i]).astype(int))]:
            landmarks_mm[spine.rows[i]] = spine.centers_mm[i]
    return landmarks_mm


def _share_in_view(
    spine: Spine, shapes: list[Shape], grid: Grid, labels: np.ndarray, hidden: np.ndarray
) -> dict[str, float]:
    """Return, per vertebra in view, the share of its volume that lies inside the field of view; 1 = all of it."""
    voxel_ml = abs(np.linalg.det(grid.affine[:3, :3])) / 1000
    counts = np.bincount(labels.ravel(), minlength=max(LABELS) + 1)
    cut = _at_edge(labels, hidden)
    shares = {}
    for row, shape, scale in zip(spine.rows, shapes, spine.scales, strict=True):
        label = LABELS[row]
        if counts[label]:
            share = counts[label] * voxel_ml / max(shape.volume_ml * float(np.prod(scale)), 1e-3)
            shares[NAMES[row]] = round(min(float(share), 0.97), 3) if label in cut else 1.0
    return shares


def _at_edge(labels: np.ndarray, hidden: np.ndarray) -> set[int]:
    """Return the labels that reach the outermost voxel layer of any axis, or a voxel beyond the round field of view."""
    found = {int(v) for axis in range(3) for i in (0, -1) for v in np.unique(labels.take(i, axis=axis))}
    if hidden.any():
        found |= {int(v) for v in np.unique(labels[ndimage.binary_dilation(hidden)])}
    return found
