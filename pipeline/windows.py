"""Training windows: the augmentation moves the grid, not the scan, and landmarks follow exactly."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from .spaces import Grid, bounds_mm, resample, to_voxel, to_world

Sample = dict[Hashable, Any]


class RandWindowd(MapTransform, RandomizableTransform):
    """Cut one augmented window: rotation, scaling and left-right flip are all in how its grid lies in the scan.

    The window is handed on in a frame of its own, voxel (0, 0, 0) at the origin and axes along x, y and z: to the
    network a scaled grid is a patient of another size. The labels of a mirrored patient stay what they are.

    Args:
        keys: image first, then label maps (sampled nearest).
        spacing_mm: voxel size of the window.
        size: `(I, J, K)` of the window.
        around: "landmark" centers the window near a random landmark, "scan" anywhere in the scan.
        offset_mm: constant shift of the window from the landmark (RAS).
        jitter_mm: uniform random shift on top, per axis.
        rotate_deg: largest rotation about each axis.
        scale: largest relative change of size, per axis and common.
        flip: probability of mirroring left-right; no other axis may be mirrored, it would reverse the levels.
        keep_mm: landmarks farther outside the window than this are dropped.
        fill: HU outside the scan.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        spacing_mm: float,
        size: Sequence[int],
        around: str = "landmark",
        offset_mm: Sequence[float] = (0, 0, 0),
        jitter_mm: Sequence[float] = (0, 0, 0),
        rotate_deg: float = 0.0,
        scale: float = 0.0,
        flip: float = 0.0,
        keep_mm: float = 70.0,
        fill: float = -1000.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.spacing_mm, self.size, self.around, self.fill = spacing_mm, tuple(size), around, fill
        self.offset_mm, self.jitter_mm = np.array(offset_mm, dtype=float), np.array(jitter_mm, dtype=float)
        self.rotate_deg, self.scale, self.flip, self.keep_mm = rotate_deg, scale, flip, keep_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with the window's `image`, labels and `landmarks_mm` in the window's own frame."""
        sample = dict(data)
        image = sample[self.keys[0]]
        scan = Grid(tuple(image.shape[1:]), np.asarray(image.affine, dtype=np.float64))
        linear, center = self._draw(scan, np.asarray(sample["landmarks_mm"], dtype=np.float64))
        affine = np.eye(4)
        affine[:3, :3] = linear * self.spacing_mm
        affine[:3, 3] = center - affine[:3, :3] @ ((np.array(self.size) - 1) / 2)
        own = np.diag([self.spacing_mm] * 3 + [1.0])
        for i, key in enumerate(self.keys):
            source = sample[key]
            values = resample(
                source.as_tensor().numpy()[0],
                np.asarray(source.affine, dtype=np.float64),
                Grid(self.size, affine),  # type: ignore[arg-type]
                order=0 if i else 1,
                fill=0 if i else self.fill,
            )
            sample[key] = MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(own))
        moved = to_world(own, to_voxel(affine, np.asarray(sample["landmarks_mm"], dtype=np.float64)))
        reach = np.array(self.size) * self.spacing_mm
        moved[((moved < -self.keep_mm) | (moved > reach + self.keep_mm)).any(axis=1)] = np.nan
        sample["landmarks_mm"] = torch.as_tensor(moved, dtype=torch.float32)
        return sample

    def _draw(self, scan: Grid, landmarks_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the `(3, 3)` orientation of the window, scaled and flipped, and its center in mm."""
        random = self.R
        angles = np.deg2rad(random.uniform(-self.rotate_deg, self.rotate_deg, 3))
        rotation = np.eye(3)
        for axis, angle in enumerate(angles):
            i, j = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[i, i] = turn[j, j] = np.cos(angle)
            turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
            rotation = turn @ rotation
        size = np.exp(random.uniform(-self.scale, self.scale) + random.uniform(-self.scale, self.scale, 3) / 3)
        linear = rotation * size
        if random.random() < self.flip:
            linear = linear * [-1, 1, 1]
        present = landmarks_mm[np.isfinite(landmarks_mm).all(axis=1)]
        if self.around == "landmark" and len(present):
            start = present[random.randint(len(present))] + self.offset_mm
        else:
            start = random.uniform(*bounds_mm(scan))
        return linear, start + random.uniform(-self.jitter_mm, self.jitter_mm)
