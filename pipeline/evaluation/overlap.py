"""Masks at 1 mm isotropic, as VerSe is scored: every vertebra cut out in its own box, on one common lattice.

The lattice follows the axes of the truth; its voxel edges start at the truth's own. A mask on any other grid is
sampled onto it (nearest voxel), so that predictions need not have the truth's shape, axis order or spacing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..labels import LABELS
from ..landmarks import body_center_mm
from ..metrics import SurfaceScores, surface_scores
from ..spaces import Grid, spacing_mm, to_world

TOLERANCES_MM = (1.0, 2.0, 3.0)
SLAB_VOXELS = 4_000_000


@dataclass(frozen=True)
class Piece:
    """One vertebra's mask on the lattice.

    Attributes:
        low: `(3,)` lattice index of the mask's first voxel; may be negative.
        mask: `(I, J, K)` bool, not empty.
        at_edge: whether it reaches the outermost voxels of the image it comes from.
    """

    low: np.ndarray
    mask: np.ndarray
    at_edge: bool

    @property
    def size(self) -> int:
        """Number of voxels = volume in cubic mm."""
        return int(np.count_nonzero(self.mask))


def lattice_of(grid: Grid) -> np.ndarray:
    """Return the `(4, 4)` affine of the 1 mm lattice along a grid's axes, lattice index to RAS+ mm."""
    spacing = spacing_mm(grid.affine)
    affine = np.array(grid.affine, dtype=np.float64)
    affine[:3, :3] /= spacing
    affine[:3, 3] = to_world(grid.affine, np.full(3, -0.5)) + affine[:3, :3] @ np.full(3, 0.5)
    return affine


def cut_out(labels: np.ndarray, affine: np.ndarray, lattice: np.ndarray) -> dict[int, Piece]:
    """Return the piece of every VerSe label that has at least one voxel on the lattice.

    Args:
        labels: `(I, J, K)` uint8 on any grid.
        affine: its voxel index to RAS+ mm.
        lattice: `(4, 4)`, see `lattice_of`.
    """
    to_lattice = np.linalg.inv(lattice) @ affine
    pieces = {}
    for label, box in _boxes(labels).items():
        edges = np.array([[side.start - 0.5, side.stop - 0.5] for side in box])
        corners = to_world(to_lattice, np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, 3))
        low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
        to_box = np.linalg.inv(to_lattice)
        to_box[:3, 3] += to_box[:3, :3] @ low - [side.start for side in box]
        mask = _sample(labels[box] == label, to_box, tuple(high - low + 1))
        around = _box(mask)
        if around:
            at_edge = any(side.start == 0 or side.stop == n for side, n in zip(box, labels.shape, strict=True))
            start = np.array([side.start for side in around])
            pieces[label] = Piece(low + start, mask[around], at_edge)
    return pieces


def _boxes(labels: np.ndarray) -> dict[int, tuple[slice, ...]]:
    """Return the box of every vertebra; what is empty around all of them is left out first, which is quicker."""
    spine = _box(labels)
    if not spine:
        return {}
    found = ndimage.find_objects(labels[spine].T, max_label=max(LABELS))  # NIfTI's first axis is the fastest
    return {
        label: tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(spine, box[::-1], strict=True))
        for label, box in enumerate(found, start=1)
        if box is not None and label in LABELS
    }


def _box(array: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box around everything that is not 0; None if there is nothing."""
    sides = []
    for axis in range(3):
        used = np.flatnonzero(array.max(axis=tuple(other for other in range(3) if other != axis)))
        if not used.size:
            return None
        sides.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(sides)


def _sample(mask: np.ndarray, to_source: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the nearest voxel of a mask at every index of a box, False outside; slab by slab, to bound the memory."""
    rows = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    slabs = []
    for start in range(0, shape[0], rows):
        moved = np.array(to_source)
        moved[:3, 3] += start * moved[:3, 0]
        slabs.append(_sample_slab(mask, moved, (min(rows, shape[0] - start), *shape[1:])))
    return np.concatenate(slabs)


def _sample_slab(mask: np.ndarray, to_source: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Do it at once; the index of an axis stays one-dimensional where the grids are parallel."""
    inside, index = np.ones((1, 1, 1), dtype=bool), []
    for axis, size in enumerate(mask.shape):
        position = np.full((1, 1, 1), to_source[axis, 3])
        for step, count, place in zip(to_source[axis, :3], shape, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True):
            if abs(step) * count > 1e-6:
                position = position + step * np.arange(count).reshape(place)
        nearest = np.floor(position + (0.5 + 1e-9)).astype(np.int32)
        inside = inside & (nearest >= 0) & (nearest < size)
        index.append(np.clip(nearest, 0, size - 1))
    return np.broadcast_to(mask[tuple(index)] & inside, shape)


def shared_voxels(a: Piece, b: Piece) -> int:
    """Return how many lattice voxels two pieces have in common."""
    low = np.maximum(a.low, b.low)
    high = np.minimum(a.low + a.mask.shape, b.low + b.mask.shape)
    if (high <= low).any():
        return 0
    parts = (p.mask[tuple(slice(*s) for s in zip(low - p.low, high - p.low, strict=True))] for p in (a, b))
    return int(np.count_nonzero(np.logical_and(*parts)))


def iou_matrix(predicted: list[Piece], truth: list[Piece]) -> np.ndarray:
    """Return the `(P, T)` intersection over union of every pair."""
    shared = np.array([[shared_voxels(p, t) for t in truth] for p in predicted], dtype=np.float64)
    shared = shared.reshape(len(predicted), len(truth))
    sizes = np.add.outer([p.size for p in predicted], [t.size for t in truth])
    return shared / (sizes - shared) if shared.size else shared


def surface_mm(piece: Piece) -> np.ndarray:
    """Return `(N, 3)` mm positions, in the lattice's own axes, of the voxels with a face to the outside."""
    return np.argwhere(piece.mask & ~ndimage.binary_erosion(piece.mask)) + piece.low


def compare_surfaces(predicted: Piece, truth: Piece) -> SurfaceScores:
    """Return the surface scores of two pieces at `TOLERANCES_MM`."""
    return surface_scores(surface_mm(predicted), surface_mm(truth), TOLERANCES_MM)


def mask_center_mm(piece: Piece, lattice: np.ndarray) -> np.ndarray:
    """Return the `(3,)` RAS+ mm center of mass of a piece."""
    return to_world(lattice, np.argwhere(piece.mask).mean(axis=0) + piece.low)


def landmark_mm(piece: Piece, label: int, lattice: np.ndarray) -> np.ndarray:
    """Return the `(3,)` RAS+ mm landmark of a piece: its body's center, for C1 (label 1) its center of mass."""
    if label == 1:
        return mask_center_mm(piece, lattice)
    own = np.array(lattice)
    own[:3, 3] = to_world(lattice, piece.low)
    return body_center_mm(piece.mask, own)
