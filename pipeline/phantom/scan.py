"""Scan a subject: sample anatomy on any grid, with partial volume, kernel and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..labels import LABELS
from ..spaces import Grid, resample, spacing_mm, to_voxel, to_world
from .body import Body
from .shapes import Shape
from .spine import Spine

FINE_MM = 2.5  # anatomy is sampled at least this finely and averaged over each voxel
SLAB_VOXELS = 6_000_000


@dataclass(frozen=True)
class BoneLook:
    """HU of one subject's bone.

    Attributes:
        marrow: trabecular HU; `marrow_sd` its texture.
        cortex: HU of the cortical shell, `cortex_mm` thick.
        gap_mm: width of the joint spaces.
    """

    marrow: float
    marrow_sd: float
    cortex: float
    cortex_mm: float
    gap_mm: float


@dataclass(frozen=True)
class Look:
    """How the scanner shows it: kernel blur in mm, noise SD in HU and its correlation in mm, gain and offset."""

    blur_mm: float
    noise: float
    noise_mm: float
    gain: float
    offset: float


def draw_bone(rng: np.random.Generator) -> BoneLook:
    """Draw bone from osteoporotic to young."""
    marrow = float(np.exp(rng.uniform(np.log(55), np.log(320))))
    return BoneLook(
        marrow=marrow,
        marrow_sd=float(rng.uniform(3, 25) + rng.uniform(0.02, 0.15) * marrow),
        cortex=marrow + float(np.exp(rng.uniform(np.log(150), np.log(900)))),
        cortex_mm=float(rng.uniform(0.8, 1.8)),
        gap_mm=float(rng.uniform(0.4, 1.6)),
    )


def draw_look(rng: np.random.Generator) -> Look:
    """Draw a scanner between smooth low-noise and sharp noisy kernels."""
    return Look(
        blur_mm=float(rng.uniform(0.3, 1.1)),
        noise=float(np.exp(rng.uniform(np.log(6), np.log(80)))),
        noise_mm=float(rng.uniform(0.4, 1.6)),
        gain=float(rng.uniform(0.93, 1.07)),
        offset=float(rng.uniform(-25, 25)),
    )


def scan(
    spine: Spine, shapes: list[Shape], body: Body, bone: BoneLook, look: Look, grid: Grid, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the CT `grid.shape` int16 HU and its exact mask uint8 (VerSe labels).

    A voxel's HU is the mean over it; its label is the vertebra at its center.
    """
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
        hu[..., start:stop], labels[..., start:stop] = _slab(spine, shapes, body, bone, slab, factors)
    return _expose(hu, spacing_mm(grid.affine), look, rng), labels


def _slab(
    spine: Spine, shapes: list[Shape], body: Body, bone: BoneLook, slab: Grid, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    fine_affine = slab.affine @ np.diag([*(1 / factors), 1.0])
    fine_affine[:3, 3] = to_world(slab.affine, (1 / factors - 1) / 2)
    fine = Grid(tuple(int(n * f) for n, f in zip(slab.shape, factors, strict=True)), fine_affine)  # type: ignore[arg-type]
    distance, owner = _vertebrae(spine, shapes, fine, bone.gap_mm)
    hu = resample(body.tissue.array, body.tissue.grid.affine, fine, fill=-1000.0)
    other = resample(body.bone.array, body.bone.grid.affine, fine, fill=20.0)
    edge = float(np.clip(spacing_mm(fine_affine).mean(), 0.4, 2.0))
    for bone_distance in (other, distance):
        _paint(hu, bone_distance, body, fine, bone, edge)
    split = [m for n, f in zip(slab.shape, factors, strict=True) for m in (n, f)]
    mean = hu.reshape(split).mean(axis=(1, 3, 5))
    middle = tuple(slice(f // 2, None, f) for f in factors)
    return mean, np.where(distance < 0, owner, 0)[middle].astype(np.uint8)


def _paint(hu: np.ndarray, distance: np.ndarray, body: Body, grid: Grid, bone: BoneLook, edge: float) -> None:
    """Lay bone of a signed distance over the tissue: a cortical shell around marrow, soft over an edge width."""
    near = np.nonzero(distance < edge)
    d = distance[near]
    inside = np.clip(0.5 - d / edge, 0, 1)
    shell = np.clip(0.5 + (d + bone.cortex_mm) / edge, 0, 1)
    texture = body.texture.nearest(to_world(grid.affine, np.stack(near, axis=-1)))
    marrow = bone.marrow + bone.marrow_sd * texture
    hu[near] += inside * (marrow + shell * (bone.cortex - bone.marrow) - hu[near])


def _vertebrae(spine: Spine, shapes: list[Shape], grid: Grid, gap_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the signed distance to the nearest vertebra, joint spaces kept open, and that vertebra's label."""
    nearest = np.full(grid.shape, 20.0, dtype=np.float32)
    second = np.full(grid.shape, 20.0, dtype=np.float32)
    owner = np.zeros(grid.shape, dtype=np.uint8)
    for i, shape in enumerate(shapes):
        found = sample_vertebra(spine, i, shape, grid)
        if found is None:
            continue
        where, distance = found
        first, other = nearest[where], second[where]
        closer = distance < first
        second[where] = np.where(closer, first, np.minimum(other, distance))
        nearest[where] = np.where(closer, distance, first)
        owner[where] = np.where(closer, LABELS[spine.rows[i]], owner[where])
    return np.maximum(nearest, (nearest - second + gap_mm) / 2), owner


def sample_vertebra(
    spine: Spine, index: int, shape: Shape, grid: Grid
) -> tuple[tuple[slice, slice, slice], np.ndarray] | None:
    """Return the part of the grid around one vertebra and its signed distance there, or None outside."""
    center, frame, scale = spine.centers_mm[index], spine.frames[index], spine.scales[index]
    ends = np.stack([shape.low_mm, shape.high_mm])
    corners = np.array(np.meshgrid(*ends.T, indexing="ij")).reshape(3, -1).T * scale
    reach = to_voxel(grid.affine, center + corners @ frame.T)
    low = np.clip(np.floor(reach.min(axis=0)), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, grid.shape).astype(int)
    if (high <= low).any():
        return None
    index_axes = [
        np.arange(a, b, dtype=np.float32).reshape([-1 if j == k else 1 for k in range(3)])
        for j, (a, b) in enumerate(zip(low, high, strict=True))
    ]
    to_local = (frame.T @ grid.affine[:3, :3]) / scale[:, None]
    offset = frame.T @ (grid.affine[:3, 3] - center) / scale
    local = np.stack(
        [sum(np.float32(to_local[i, j]) * index_axes[j] for j in range(3)) + np.float32(offset[i]) for i in range(3)]
    )
    if spine.wedges[index]:
        local[2] /= 1 - spine.wedges[index] * np.clip((local[1] + 14) / 28, 0, 1)
    distance = shape.sample(local) * np.float32(scale.min())
    return (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])), distance


def _expose(hu: np.ndarray, spacing: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Blur by the kernel, add correlated noise, scale, and store as int16 HU between -1024 and 3071."""
    sigma = look.blur_mm / spacing
    if (sigma > 0.25).any():
        hu = ndimage.gaussian_filter(hu, np.where(sigma > 0.25, sigma, 0))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = look.noise_mm / spacing
    if (grain > 0.25).any():
        noise = ndimage.gaussian_filter(noise, np.where(grain > 0.25, grain, 0))
        noise /= max(float(noise[::3, ::3, ::3].std()), 1e-3)
    hu = hu * look.gain + look.offset + look.noise * noise
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
