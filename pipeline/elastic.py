"""A smooth random deformation of a window: on its grid for the image, at single points for the landmarks.

Cubic B-splines over a few control points (as in Payer et al. 2020); both come from the same closed form, so they agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Deformation:
    """Where a deformed window is sampled: at every voxel plus its displacement.

    Attributes:
        control_vox: `(3, N, N, N)` displacement of the control points in voxels; N at least 4.
        size: `(I, J, K)` of the window.
    """

    control_vox: np.ndarray
    size: tuple[int, int, int]

    def on_grid(self) -> np.ndarray:
        """Return `(3, I, J, K)` float32 displacements in voxels."""
        weights = [self._weights(np.arange(n), axis).astype(np.float32) for axis, n in enumerate(self.size)]
        field = np.einsum("kc,dabc->dabk", weights[2], self.control_vox.astype(np.float32))
        field = np.einsum("jb,dabk->dajk", weights[1], field)
        return np.einsum("ia,dajk->dijk", weights[0], field)

    def at(self, points_vox: np.ndarray) -> np.ndarray:
        """Return `(P, 3)` displacements at `(P, 3)` voxel positions; outside the window that of its border."""
        weights = [self._weights(points_vox[:, axis], axis) for axis in range(3)]
        return np.einsum("pa,pb,pc,dabc->pd", *weights, self.control_vox)

    def undo(self, points_vox: np.ndarray) -> np.ndarray:
        """Return the `(P, 3)` positions whose displaced ones are given; NaN stays NaN.

        Fixed-point iteration; it converges because neighboring control points differ by less than their distance.
        """
        present = np.isfinite(points_vox).all(axis=1)
        result = points_vox.copy()
        for _ in range(30):
            result[present] = points_vox[present] - self.at(result[present])
        return result

    def _weights(self, position: np.ndarray, axis: int) -> np.ndarray:
        """Return `(P, N)` weights of the control points along one axis; the window reaches from 1 to N - 2 of them."""
        count, last = self.control_vox.shape[1], self.size[axis] - 1
        u = np.clip(position, 0, last) * ((count - 3) / last) + 1
        t = np.abs(u[:, None] - np.arange(count))
        return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
