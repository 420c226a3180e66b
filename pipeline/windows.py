"""Training windows: the augmentation moves the grid, not the scan, and landmarks follow exactly."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from .elastic import Deformation
from .spaces import Grid, bounds_mm, resample, to_voxel

Sample = dict[Hashable, Any]

CONTROL_POINTS = 6  # per axis, of the elastic deformation


class RandWindowd(MapTransform, RandomizableTransform):
    """Cut one augmented window: rotation, scaling, flip and deformation are all in where its grid samples the scan.

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
        elastic_mm: largest displacement of the deformation's control points; every second window is deformed.
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
        elastic_mm: float = 0.0,
        keep_mm: float = 70.0,
        fill: float = -1000.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.spacing_mm, self.size, self.around, self.fill = spacing_mm, tuple(size), around, fill
        self.offset_mm, self.jitter_mm = np.array(offset_mm, dtype=float), np.array(jitter_mm, dtype=float)
        self.rotate_deg, self.scale, self.flip, self.keep_mm = rotate_deg, scale, flip, keep_mm
        self.elastic_mm = elastic_mm
        limit = spacing_mm * (min(self.size) - 1) / (CONTROL_POINTS - 3) / 4
        if elastic_mm > limit:
            raise ValueError(f"elastic_mm {elastic_mm:g} would fold windows of {self.size} voxels; at most {limit:.1f}")

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with the window's `image`, labels and landmarks in the window's own frame."""
        sample = dict(data)
        image = sample[self.keys[0]]
        scan = Grid(tuple(image.shape[1:]), np.asarray(image.affine, dtype=np.float64))
        linear, center = self._draw(scan, np.asarray(sample["landmarks_mm"], dtype=np.float64))
        bend = self._draw_deformation()
        affine = np.eye(4)
        affine[:3, :3] = linear * self.spacing_mm
        affine[:3, 3] = center - affine[:3, :3] @ ((np.array(self.size) - 1) / 2)
        warp_vox = bend.on_grid() if bend else None
        for i, key in enumerate(self.keys):
            source = sample[key]
            values = resample(
                source.as_tensor().numpy()[0],
                np.asarray(source.affine, dtype=np.float64),
                Grid(self.size, affine),  # type: ignore[arg-type]
                order=0 if i else 1,
                fill=0 if i else self.fill,
                warp_vox=warp_vox,
            )
            own = torch.diag(torch.tensor([self.spacing_mm] * 3 + [1.0], dtype=torch.float64))
            sample[key] = MetaTensor(torch.from_numpy(values)[None], affine=own)
        landmarks_mm = self._follow(sample["landmarks_mm"], affine, bend)
        reach = np.array(self.size) * self.spacing_mm
        far = ((landmarks_mm < -self.keep_mm) | (landmarks_mm > torch.from_numpy(reach) + self.keep_mm)).any(dim=1)
        landmarks_mm[far] = torch.nan
        sample["landmarks_mm"] = landmarks_mm
        if "ends_mm" in sample:
            sample["ends_mm"] = self._follow(sample["ends_mm"], affine, bend)
        return sample

    def _follow(self, points_mm: Any, affine: np.ndarray, bend: Deformation | None) -> torch.Tensor:
        """Return `(..., 3)` positions of the scan in the window's own frame."""
        points_mm = np.asarray(points_mm, dtype=np.float64)
        index = to_voxel(affine, points_mm.reshape(-1, 3))
        index = bend.undo(index) if bend else index
        return torch.as_tensor(index * self.spacing_mm, dtype=torch.float32).reshape(points_mm.shape)

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

    def _draw_deformation(self) -> Deformation | None:
        """Return a deformation for every second window, or None."""
        if self.elastic_mm == 0 or self.R.random() < 0.5:
            return None
        reach = self.elastic_mm / self.spacing_mm
        return Deformation(self.R.uniform(-reach, reach, (3, *[CONTROL_POINTS] * 3)), self.size)  # type: ignore[arg-type]


class RandWindowsd(RandWindowd):
    """Cut several windows of one scan into a list, which MONAI's collation joins to one batch.

    A step then sees different parts of a spine, which is what batch norm needs.

    Args:
        keys: see `RandWindowd`.
        count: windows per scan and step.
        options: see `RandWindowd`.
    """

    def __init__(self, keys: str | Sequence[str], count: int, **options: Any) -> None:
        super().__init__(keys, **options)
        if count < 1:
            raise ValueError(f"{count} windows per scan: expected at least 1")
        self.count = count

    def __call__(self, data: Mapping[Hashable, Any]) -> list[Sample]:  # type: ignore[override]
        """Return `count` samples."""
        return [super(RandWindowsd, self).__call__(data) for _ in range(self.count)]
