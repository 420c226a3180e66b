"""Candidates: possible vertebral bodies in the heatmaps of stage 2, before anybody decides which level they are.

The sum over the channels says where bodies are; the share of each channel there says which level the network thinks
it is. The second is far less reliable than the first, so a candidate keeps the whole distribution (`evidence`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .labels import NUM_CHANNELS
from .spaces import Grid, bounds_mm, spacing_mm, to_voxel, to_world


@dataclass(frozen=True)
class Candidates:
    """`N` possible vertebral bodies, strongest first.

    Attributes:
        positions_mm: `(N, 3)` RAS+ mm.
        scores: `(N,)` peak of the channel sum, 0 to 1.
        evidence: `(N, 25)` probability of each channel at the body; rows sum to 1.
        field_of_view_mm: `(2, 3)` low and high RAS corner of the heatmaps they were found in; None = unknown.
        scan: grid of the scan, which may cover less; None = it covers all.
    """

    positions_mm: np.ndarray
    scores: np.ndarray
    evidence: np.ndarray
    field_of_view_mm: np.ndarray | None = None
    scan: Grid | None = None

    def __len__(self) -> int:
        """Return `N`."""
        return len(self.scores)

    def searched(self, points_mm: np.ndarray) -> np.ndarray:
        """Tell which `(..., 3)` RAS+ mm points lie in the heatmaps; False if that is unknown."""
        if self.field_of_view_mm is None:
            return np.zeros(points_mm.shape[:-1], dtype=bool)
        low_mm, high_mm = self.field_of_view_mm
        return ((points_mm >= low_mm) & (points_mm <= high_mm)).all(axis=-1)

    def in_scan(self, points_mm: np.ndarray) -> np.ndarray:
        """Tell which `(..., 3)` RAS+ mm points lie in the scan, searched or not; in the heatmaps if it is unknown."""
        if self.scan is None:
            return self.searched(points_mm)
        points_vox = to_voxel(self.scan.affine, points_mm)
        inside = (points_vox >= -0.5) & (points_vox <= np.array(self.scan.shape) - 0.5)
        return np.asarray(inside.all(axis=-1))

    def in_view(self, points_mm: np.ndarray) -> np.ndarray:
        """Tell which `(..., 3)` RAS+ mm points lie in the heatmaps and in the scan; False if that is unknown."""
        return self.searched(points_mm) & self.in_scan(points_mm)


def no_candidates() -> Candidates:
    """Return none."""
    return Candidates(np.zeros((0, 3)), np.zeros(0), np.zeros((0, NUM_CHANNELS)))


def find_candidates(
    heatmaps: np.ndarray,
    affine: np.ndarray,
    *,
    min_score: float = 0.1,
    suppression_mm: float = 9.0,
    pool_mm: float = 6.0,
    limit: int = 40,
) -> Candidates:
    """Find local maxima of the channel sum and of the strongest channel.

    The second map separates bodies where the sum runs together, as in the neck.

    Args:
        heatmaps: `(25, I, J, K)` float in [0, 1]; three-dimensional axes of any orientation.
        affine: `(4, 4)`, voxel index to RAS+ mm.
        min_score: channel sum a peak must reach.
        suppression_mm: a peak this close to a stronger one is dropped; the closest true neighbors are 11 mm apart.
        pool_mm: radius of the ball over which evidence is averaged.
        limit: at most this many, strongest first.

    Raises:
        ValueError: the heatmaps are not `(25, I, J, K)` or not finite.
    """
    if heatmaps.ndim != 4 or heatmaps.shape[0] != NUM_CHANNELS:
        raise ValueError(f"heatmaps have shape {heatmaps.shape}; expected ({NUM_CHANNELS}, I, J, K)")
    shape = (heatmaps.shape[1], heatmaps.shape[2], heatmaps.shape[3])
    field_of_view_mm = bounds_mm(Grid(shape, affine))
    total = heatmaps.sum(axis=0, dtype=np.float32)
    if not np.isfinite(total).all():
        raise ValueError("heatmaps contain NaN or infinite values")
    low, high = _extent(total >= min_score)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    heatmaps, total = heatmaps[(slice(None), *window)], total[window]
    peaks_vox = _peaks(total, heatmaps, min_score)
    positions_mm = to_world(affine, peaks_vox + low)
    scores = ndimage.map_coordinates(total, np.round(peaks_vox).T, order=0, mode="nearest")
    kept = _suppress(positions_mm, scores, suppression_mm)[:limit]
    evidence = _pool(heatmaps, np.round(peaks_vox[kept]).astype(int), pool_mm / spacing_mm(affine))
    return Candidates(positions_mm[kept], np.clip(scores[kept], 0, 1).astype(np.float64), evidence, field_of_view_mm)


def _extent(mask: np.ndarray, margin: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxel box `[low, high)` of the true voxels plus a margin; empty at 0 if there are none."""
    low, high = np.zeros(3, dtype=int), np.zeros(3, dtype=int)
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if found.size:
            low[axis] = max(found[0] - margin, 0)
            high[axis] = min(found[-1] + 1 + margin, mask.shape[axis])
    return low, high


def _peaks(total: np.ndarray, heatmaps: np.ndarray, min_score: float) -> np.ndarray:
    """Return `(P, 3)` sub-voxel maxima of the sum, then those of the strongest channel."""
    if total.size == 0:
        return np.zeros((0, 3))
    found = []
    strongest = heatmaps.max(axis=0).astype(np.float32)
    likely = (total >= min_score) & (strongest >= min_score / 4)  # 25 faint channels make no body
    for values in (total, strongest):
        peaks = np.argwhere((values == ndimage.maximum_filter(values, size=3)) & likely)
        found.append(peaks + np.array([_offset(values, peak) for peak in peaks]).reshape(-1, 3))
    return np.concatenate(found)


def _offset(values: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Return the `(3,)` offset of a maximum from its voxel center, in voxels, at most half a voxel per axis.

    A parabola through the logarithms of three summed slices: exact for a Gaussian of any width, where a center of
    mass over so small a window would pull towards the voxel's center.
    """
    window = [np.clip(np.arange(p - 1, p + 2), 0, n - 1) for p, n in zip(peak, values.shape, strict=True)]
    cube = np.maximum(values[np.ix_(*window)], 1e-6).astype(np.float64)
    offset = np.zeros(3)
    for axis in range(3):
        below, center, above = np.log(cube.sum(axis=tuple(a for a in range(3) if a != axis)))
        bend = 2 * center - below - above
        if bend > 1e-6 and 0 < peak[axis] < values.shape[axis] - 1:
            offset[axis] = np.clip((above - below) / (2 * bend), -0.5, 0.5)
    return offset


def _suppress(positions_mm: np.ndarray, scores: np.ndarray, radius_mm: float) -> np.ndarray:
    """Return the indices kept, strongest first, no two within the radius; ties go to the first."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if all(np.linalg.norm(positions_mm[index] - positions_mm[other]) > radius_mm for other in kept):
            kept.append(int(index))
    return np.array(kept, dtype=int)


def _pool(heatmaps: np.ndarray, peaks: np.ndarray, radius_vox: np.ndarray) -> np.ndarray:
    """Return `(N, 25)`: each channel's share of all heatmaps in a ball around each peak."""
    reach = np.floor(radius_vox).astype(int)
    ball = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    ball = ball[((ball / radius_vox) ** 2).sum(axis=1) <= 1]
    where = np.clip(peaks[:, None] + ball, 0, np.array(heatmaps.shape[1:]) - 1)  # (N, ball, 3)
    pooled = heatmaps[:, where[..., 0], where[..., 1], where[..., 2]].sum(axis=2, dtype=np.float64).T
    return pooled / np.maximum(pooled.sum(axis=1, keepdims=True), 1e-12)
