"""What tells a level in a synthetic chest, but may not in a patient, is disturbed in training windows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from .labels import L1_ROW

L4_ROW = L1_ROW + 3

Sample = dict[Hashable, Any]


class RandChestd(MapTransform, RandomizableTransform):
    """Move what lies ahead of the spine along it, or hide it, and slope what lies beside it.

    Organs lie up to two levels higher or lower from patient to patient and ribs fall more or less to the sides; where
    exactly they do in synthetic chests is a guess, so no level may be told from them alone. From L4 down the front
    stays as it is: the pelvis tells L5 and L6 in patients too.

    Args:
        keys: windows of CT `(1, I, J, K)` in HU, in the frame of `windows.RandWindowd`.
        prob: how often the front is changed.
        ahead_mm: range of the distance from the line through the landmarks at which the front begins.
        shift_mm: largest shift up or down.
        hidden: share of the changed fronts that are hidden instead.
        beside_mm: what lies farther to the left or right than this is sloped.
        slope: standard deviation of the additional fall per mm to the side.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        prob: float = 0.8,
        ahead_mm: tuple[float, float] = (25.0, 50.0),
        shift_mm: float = 100.0,
        hidden: float = 0.35,
        beside_mm: float = 35.0,
        slope: float = 0.15,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.ahead_mm, self.shift_mm, self.hidden = ahead_mm, shift_mm, hidden
        self.beside_mm, self.slope = beside_mm, slope

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with the chest of its images changed."""
        sample = dict(data)
        self.randomize(None)
        landmarks_mm = torch.as_tensor(sample["landmarks_mm"])
        line_mm = landmarks_mm[torch.isfinite(landmarks_mm).all(dim=1)].numpy()
        if not len(line_mm) or not (self._do_transform or self.slope):
            return sample
        line_mm = line_mm[np.argsort(line_mm[:, 2])]
        slope = float(self.R.normal(0, self.slope))
        ahead_mm, shift_mm = self.R.uniform(*self.ahead_mm), self.R.uniform(-self.shift_mm, self.shift_mm)
        hide, value = self.R.random() < self.hidden, float(self.R.uniform(-120, 60))
        for key in self.key_iterator(sample):
            image = sample[key]
            spacing_mm = float(image.affine[0, 0])
            values = sloped(image.as_tensor(), spacing_mm, float(line_mm[:, 0].mean()), self.beside_mm, slope)
            if self._do_transform:
                height_mm = np.arange(image.shape[3]) * spacing_mm
                limit_mm = np.interp(height_mm, line_mm[:, 2], line_mm[:, 1]) + ahead_mm
                limit_mm[height_mm < pelvis_mm(landmarks_mm)] = np.inf
                front = torch.arange(image.shape[2])[:, None] * spacing_mm > torch.from_numpy(limit_mm)[None]
                other = np.clip(np.rint((height_mm + shift_mm) / spacing_mm), 0, image.shape[3] - 1).astype(np.int64)
                moved = torch.full_like(values, value) if hide else values[..., torch.from_numpy(other)]
                values = torch.where(front, moved, values)
            sample[key] = MetaTensor(values, affine=image.affine)
        return sample


def pelvis_mm(landmarks_mm: torch.Tensor) -> float:
    """Return the height of the uppermost of L4 to L6 among `(26, 3)` landmarks, minus infinity without them."""
    height_mm = landmarks_mm[L4_ROW : L4_ROW + 3, 2]
    return float(height_mm[torch.isfinite(height_mm)].amax()) if torch.isfinite(height_mm).any() else -np.inf


def sloped(values: torch.Tensor, spacing_mm: float, middle_mm: float, beside_mm: float, slope: float) -> torch.Tensor:
    """Return a window `(1, I, J, K)` whose sides fall by `slope` mm per mm that they lie beyond `beside_mm`.

    Args:
        values: with axes along x, y and z.
        spacing_mm: voxel size.
        middle_mm: x of the spine.
        beside_mm: nearer to the spine than this nothing moves.
        slope: positive = down; what comes from outside the window is its edge, repeated.
    """
    columns, height = values.shape[1], values.shape[3]
    beyond_mm = np.maximum(np.abs(np.arange(columns) * spacing_mm - middle_mm) - beside_mm, 0)
    source = np.arange(height)[None] + np.rint(beyond_mm * slope / spacing_mm)[:, None]
    index = torch.from_numpy(np.clip(source, 0, height - 1).astype(np.int64))
    return values.gather(3, index[None, :, None].expand(values.shape))
