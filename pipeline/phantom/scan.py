"""Scan a subject: sample anatomy on any grid, with partial volume, and its exact mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..labels import LABELS
from ..spaces import Grid, spacing_mm, to_voxel, to_world
from .body import Body
from .bone import BoneLook
from .canvas import Canvas, Region, positions, upsample
from .exposure import Look, expose, outside_view, streaks
from .metal import METAL_HU, paint_metal
from .shapes import FAR_MM, Shape
from .spine import Spine, level_of

FINE_MM = 2.5  # anatomy is sampled at least this finely and averaged over each voxel
SLAB_VOXELS = 6_000_000


@dataclass(frozen=True)
class Subject:
    """Everything that is scanned: the spine with its shapes, what surrounds it, metal and its streaks."""

    spine: Spine
    shapes: list[Shape]
    body: Body
    bone: BoneLook
    metal: Canvas | None
    streaks: np.ndarray | None


def scan(
    spine: Spine, shapes: list[Shape], body: Body, look: Look, grid: Grid, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the CT `grid.shape` int16 HU and its exact mask uint8 (VerSe labels).

    A voxel's HU is the mean over it; its label is the vertebra at its center.
    """
    metal = paint_metal(body)
    subject = Subject(spine, shapes, body, body.look, metal, streaks(body, metal, look, rng))
    factors = (
        np.maximum(np.ceil(spacing_mm(grid.affine) / FINE_MM - 1e-6), 1).astype(int) | 1
    )  # odd: one lies at the center
    hu = np.empty(grid.shape, dtype=np.float32)
    labels = np.empty(grid.shape, dtype=np.uint8)
    plane = int(np.prod(grid.shape[:2])) * int(np.prod(factors))
    step = max(int(SLAB_VOXELS / plane), 1)
    for start in range(0, grid.shape[2], step):
        stop = min(start + step, grid.shape[2])
        affine = grid.affine.copy()
        affine[:3, 3] = to_world(grid.affine, np.array([0, 0, start]))
        slab = Grid((grid.shape[0], grid.shape[1], stop - start), affine)
        hu[..., start:stop], labels[..., start:stop] = _slab(subject, slab, factors)
    labels[outside_view(grid, look)] = 0
    return expose(hu, grid, look, rng), labels


def _slab(subject: Subject, slab: Grid, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    body, bone = subject.body, subject.bone
    fine_affine = slab.affine @ np.diag([*(1 / factors), 1.0])
    fine_affine[:3, 3] = to_world(slab.affine, (1 / factors - 1) / 2)
    fine = Grid(tuple(int(n * f) for n, f in zip(slab.shape, factors, strict=True)), fine_affine)  # type: ignore[arg-type]
    distance, owner = _vertebrae(subject.spine, subject.shapes, fine, bone.gap_mm)
    hu = upsample(body.tissue.array, body.tissue.grid, fine)
    other = upsample(body.bone.array, body.bone.grid, fine)
    np.maximum(other, bone.gap_mm - distance, out=other)  # a joint space to every vertebra
    edge = float(np.clip(spacing_mm(fine_affine).mean(), 0.4, 2.0))
    _paint(hu, other, body, fine, edge, None)
    _paint(hu, distance, body, fine, edge, owner)
    if subject.streaks is not None:
        hu += upsample(subject.streaks, body.tissue.grid, fine)
    if subject.metal is not None:
        implant = upsample(subject.metal.array, subject.metal.grid, fine)
        inside = np.clip(0.5 - implant / edge, 0, 1)
        hu += inside * (METAL_HU - hu)
    split = [m for n, f in zip(slab.shape, factors, strict=True) for m in (n, f)]
    mean = hu if (factors == 1).all() else hu.reshape(split).mean(axis=(1, 3, 5))
    middle = tuple(slice(f // 2, None, f) for f in factors)
    return mean, np.where(distance < 0, owner, 0)[middle]


def _paint(hu: np.ndarray, distance: np.ndarray, body: Body, grid: Grid, edge: float, owner: np.ndarray | None) -> None:
    """Lay bone of a signed distance over the tissue: a cortical shell around marrow, soft over an edge width.

    `owner` holds the label of each voxel's vertebra; None for the other bones, whose density `body.firm` holds.
    """
    bone = body.look
    near = np.nonzero(distance < edge)
    d = distance[near]
    inside = np.clip(0.5 - d / edge, 0, 1)
    shell = np.clip(0.5 + (d + bone.cortex_mm) / edge, 0, 1)
    where = tuple(np.rint(p).astype(np.intp)[i] for p, i in zip(positions(body.tissue.grid, grid), near, strict=True))
    added = body.firm[where] if owner is None else _density_of_label(bone)[owner[near]]
    marrow = bone.marrow + added + bone.marrow_sd * body.texture[where]
    hu[near] += inside * (marrow + shell * (np.maximum(bone.cortex, marrow) - marrow) - hu[near])


def _density_of_label(bone: BoneLook) -> np.ndarray:
    """Return `(29,)` HU by which the marrow of each label exceeds that of the lower spine."""
    added = np.zeros(max(LABELS) + 1, dtype=np.float32)
    for row, label in enumerate(LABELS):
        added[label] = bone.added(level_of(row))
    return added


def _vertebrae(spine: Spine, shapes: list[Shape], grid: Grid, gap_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the signed distance to the nearest vertebra, joint spaces kept open, and that vertebra's label.

    Between vertebrae grown together there is no space.
    """
    nearest = np.full(grid.shape, FAR_MM, dtype=np.float32)
    second = np.full(grid.shape, FAR_MM, dtype=np.float32)
    owner = np.zeros(grid.shape, dtype=np.uint8)
    grown = {LABELS[lower]: LABELS[upper] for upper, lower in spine.variants.fused}
    for i, shape in enumerate(shapes):
        found = sample_vertebra(spine, i, shape, grid)
        if found is None:
            continue
        where, distance = found
        label = LABELS[spine.rows[i]]
        first, other = nearest[where], second[where]
        closer = distance < first
        loser = np.where(closer, first, distance)
        if label in grown:
            loser[owner[where] == grown[label]] = FAR_MM
        np.minimum(other, loser, out=other)
        first[closer] = distance[closer]
        owner[where][closer] = label
    return np.maximum(nearest, (nearest - second + gap_mm) / 2), owner


def sample_vertebra(spine: Spine, index: int, shape: Shape, grid: Grid) -> tuple[Region, np.ndarray] | None:
    """Return the part of the grid around one vertebra and its signed distance there, or None outside."""
    center, frame, scale = spine.centers_mm[index], spine.frames[index], spine.scales[index]
    ends = np.stack([shape.low_mm, shape.high_mm])
    corners = np.array(np.meshgrid(*ends.T, indexing="ij")).reshape(3, -1).T * scale
    reach = to_voxel(grid.affine, center + corners @ frame.T)
    low = np.clip(np.floor(reach.min(axis=0)), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, grid.shape).astype(int)
    if (high <= low).any():
        return None
    to_local = frame.T / scale[:, None] / shape.spacing_mm
    start = to_world(grid.affine, low) - center
    distance = ndimage.affine_transform(
        shape.distance_mm,
        to_local @ grid.affine[:3, :3],
        to_local @ start - shape.low_mm / shape.spacing_mm,
        output_shape=tuple(high - low),
        output=np.float32,
        order=1,
        mode="constant",
        cval=FAR_MM,
        prefilter=False,
    )
    distance *= np.float32(scale.min())
    return (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])), distance
