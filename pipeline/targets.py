"""What the networks learn from, made last from the landmarks and the image's own affine: targets and prior channels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from .heatmaps import distance_channels, gaussian_heatmaps
from .labels import LABELS, channel_of_row
from .losses import IGNORED
from .spaces import scaled

Sample = dict[Hashable, Any]


class HeatmapTargetd(MapTransform):
    """Make the heatmap target of the image's grid from `landmarks_mm`; NaN where it is not known (`beyond_ends`).

    Args:
        keys: where the target goes.
        sigma_mm: width of the blobs.
        stride: image voxels per target voxel, as the network's stem makes it.
        union: one channel, the maximum over all vertebrae, instead of 25.
        reference: the image whose grid counts.
    """

    def __init__(
        self, keys: str, sigma_mm: float, stride: int = 1, union: bool = False, reference: str = "image"
    ) -> None:
        super().__init__(keys)
        self.sigma_mm, self.stride, self.union, self.reference = sigma_mm, stride, union, reference

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with the target `(25 or 1, I, J, K)`."""
        sample = dict(data)
        image = sample[self.reference]
        affine = scaled(np.asarray(image.affine, dtype=np.float64), self.stride)
        shape = [n // self.stride for n in image.shape[1:]]
        target = gaussian_heatmaps(
            torch.as_tensor(sample["landmarks_mm"]), shape, torch.from_numpy(affine), sigma_mm=self.sigma_mm
        )
        for key in self.keys:
            sample[key] = target.amax(dim=0, keepdim=True) if self.union else target
            sample[key][:, beyond_ends(sample, shape, affine)] = torch.nan
        return sample


class RandLandmarksd(MapTransform, RandomizableTransform):
    """Move and drop landmarks, so that stage three does not trust stage two blindly.

    Args:
        keys: `(26, 3)` landmarks in mm.
        jitter_mm: standard deviation of the shift per axis.
        drop: probability that a landmark is missing.
    """

    def __init__(self, keys: str | Sequence[str], jitter_mm: float = 3.0, drop: float = 0.0) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.jitter_mm, self.drop = jitter_mm, drop

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with the landmarks disturbed."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            points = torch.as_tensor(sample[key]).clone()
            points += torch.as_tensor(self.R.normal(0, self.jitter_mm, points.shape), dtype=points.dtype)
            points[torch.from_numpy(self.R.random(len(points)) < self.drop)] = torch.nan
            sample[key] = points
        return sample


class DistanceChannelsd(MapTransform):
    """Append the 25 distance channels of `landmarks_mm` to the image: `(1, ...)` becomes `(26, ...)`.

    Args:
        keys: the image.
        reach_mm: see `heatmaps.distance_channels`.
    """

    def __init__(self, keys: str | Sequence[str], reach_mm: float = 64.0) -> None:
        super().__init__(keys)
        self.reach_mm = reach_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with the channels appended."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            near = distance_channels(
                torch.as_tensor(sample["landmarks_mm"]), image.shape[1:], image.affine, reach_mm=self.reach_mm
            )
            sample[key] = MetaTensor(torch.cat([image.as_tensor().float(), near]), affine=image.affine)
        return sample


class LabelsToClassesd(MapTransform):
    """Turn VerSe labels into class indices 0-25 (T13 becomes T12); sacrum and coccyx (26, 27) become background.

    A vertebra in the mask without a landmark (cut by the field of view) becomes background: the network is not told
    where it is, and its neighbor must not take it in. Background where vertebrae may be unlabeled (`beyond_ends`)
    becomes `IGNORED`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with class indices, int64."""
        sample = dict(data)
        present = torch.isfinite(torch.as_tensor(sample["landmarks_mm"])).all(dim=1)
        table = torch.zeros(256, dtype=torch.int64)
        for row, label in enumerate(LABELS):
            table[label] = channel_of_row(row) + 1 if present[row] else 0
        for key in self.key_iterator(sample):
            labels = sample[key]
            classes = table[labels.as_tensor().long()]
            unknown = beyond_ends(sample, classes.shape[1:], np.asarray(labels.affine, dtype=np.float64))
            sample[key] = torch.where(unknown & (classes == 0), IGNORED, classes)
        return sample


def beyond_ends(sample: Mapping[Hashable, Any], shape: Sequence[int], affine: np.ndarray) -> Tensor:
    """Return where nobody labeled: beyond the last vertebra where `ends_mm` says that more may follow.

    VerSe labels whole vertebrae only; a cut one at the end of the scan is in the image and in neither mask nor list.

    Args:
        sample: with `ends_mm` `(2, 2, 3)`, see `datalist.ends_mm`; without it everything is known.
        shape: `(I, J, K)` of the grid.
        affine: its `(4, 4)`.

    Returns:
        `(I, J, K)` bool.
    """
    unknown = torch.zeros(*shape, dtype=torch.bool)
    for plane_mm, farther_mm in np.asarray(sample.get("ends_mm", np.zeros((0, 2, 3))), dtype=np.float64):
        if np.isfinite(plane_mm).all():
            normal = affine[:3, :3].T @ (farther_mm - plane_mm)
            offset = float((affine[:3, 3] - plane_mm) @ (farther_mm - plane_mm))
            steps = [torch.arange(n, dtype=torch.float64) * float(normal[i]) for i, n in enumerate(shape)]
            unknown |= steps[0][:, None, None] + steps[1][:, None] + steps[2] + offset > 0
    return unknown
