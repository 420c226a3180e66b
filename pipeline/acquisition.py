"""Training windows as another acquisition would have shown them: in thicker slices, in a smaller field of view."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

Sample = dict[Hashable, Any]


class RandThickSlicesd(MapTransform, RandomizableTransform):
    """Let an image look as if it had been taken in thicker slices: averaged over them, then interpolated between.

    Args:
        keys: images `(C, I, J, K)`.
        spacing_mm: their voxel size.
        largest_mm: thickest slice; nothing happens where this is not above `spacing_mm`.
        prob: how often.
    """

    def __init__(
        self, keys: str | Sequence[str], spacing_mm: float, largest_mm: float = 4.0, prob: float = 0.3
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob if largest_mm > spacing_mm else 0.0)
        self.spacing_mm, self.largest_mm = spacing_mm, largest_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with the keys blurred along one axis, the same for all."""
        sample = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return sample
        axis, step = self.R.randint(3), self.R.uniform(self.spacing_mm, self.largest_mm) / self.spacing_mm
        start = self.R.uniform(-0.5, 0.5)
        for key in self.key_iterator(sample):
            image = sample[key]
            mix = torch.from_numpy(thick_slices(image.shape[axis + 1], step, start)).to(image.dtype)
            values = torch.movedim(torch.tensordot(mix, image.as_tensor(), dims=([1], [axis + 1])), 0, axis + 1)
            sample[key] = MetaTensor(values.contiguous(), affine=image.affine)
        return sample


def thick_slices(length: int, step: float, start: float) -> np.ndarray:
    """Return `(length, length)` weights: voxels to slices of `step` voxels, and back by linear interpolation.

    Args:
        length: voxels along the axis.
        step: slice thickness and distance in voxels, at least 1.
        start: shift of the first slice in slices.
    """
    voxel = np.arange(length, dtype=float)
    centers = np.arange((start - 1) * step, length + step, step)
    low = np.maximum(voxel - 0.5, centers[:, None] - step / 2)
    high = np.minimum(voxel + 0.5, centers[:, None] + step / 2)
    share = np.clip(high - low, 0, None)  # (slices, voxels)
    inside = share.sum(axis=1) > 1e-6
    share, centers = share[inside], centers[inside]
    share /= share.sum(axis=1, keepdims=True)
    back = np.stack([np.interp(voxel, centers, unit) for unit in np.eye(len(centers))], axis=1)
    return back @ share


class RandFieldOfViewd(MapTransform, RandomizableTransform):
    """Cut a window's field of view down to a box around some neighboring vertebrae; landmarks outside it are dropped.

    Scans are often cut to the spine before they are shared, and some show two vertebrae only. MONAI's
    RandCoarseDropoutd can fill all but a box, too, but knows nothing of landmarks.

    Args:
        keys: images `(C, I, J, K)` in the frame of `RandWindowd`.
        prob: how often.
        length_mm: range of the box's extent along the spine.
        beside_mm: range of its reach beyond those vertebrae's centers, to each side, ahead and behind.
        fill: value outside.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        prob: float = 0.3,
        length_mm: tuple[float, float] = (60.0, 400.0),
        beside_mm: tuple[float, float] = (5.0, 120.0),
        fill: float = -1000.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.length_mm, self.beside_mm, self.fill = length_mm, beside_mm, fill

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with the keys filled outside the box."""
        sample = dict(data)
        self.randomize(None)
        landmarks_mm = torch.as_tensor(sample["landmarks_mm"]).double().numpy().copy()
        present = landmarks_mm[np.isfinite(landmarks_mm).all(axis=1)]
        if not self._do_transform or not len(present):
            return sample
        half = self.R.uniform(*self.length_mm) / 2
        middle = present[self.R.randint(len(present)), 2] + self.R.uniform(-half, half)
        held = present[np.abs(present[:, 2] - middle) <= half]
        low = np.append(held[:, :2].min(axis=0) - self.R.uniform(*self.beside_mm, 2), middle - half)
        high = np.append(held[:, :2].max(axis=0) + self.R.uniform(*self.beside_mm, 2), middle + half)
        landmarks_mm[~((landmarks_mm >= low) & (landmarks_mm <= high)).all(axis=1)] = np.nan
        sample["landmarks_mm"] = torch.as_tensor(landmarks_mm, dtype=torch.float32)
        for key in self.key_iterator(sample):
            image = sample[key]
            spacing_mm = np.diag(np.asarray(image.affine))[:3]
            first, last = np.ceil(low / spacing_mm), np.floor(high / spacing_mm)
            box = tuple(slice(max(int(a), 0), max(int(b) + 1, 0)) for a, b in zip(first, last, strict=True))
            values = torch.full_like(image.as_tensor(), self.fill)
            values[(slice(None), *box)] = image.as_tensor()[(slice(None), *box)]
            sample[key] = MetaTensor(values, affine=image.affine)
        return sample
