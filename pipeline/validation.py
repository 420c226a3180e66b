"""Validation on whole scans: what a stage hands on, against the truth, one line per scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric
from monai.transforms import MapTransform
from torch import Tensor

from .labels import LABELS, NUM_ROWS
from .landmarks import present_rows
from .metrics import dice, identified

NOTHING_FOUND_MM = 200.0  # counts as the error of a scan in which no spine is found

Sample = dict[Hashable, Any]


class LandmarksOfd(MapTransform):
    """Replace a `Labelling` by its landmarks `(26, 3)` RAS+ mm, as the metric wants them."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key replaced."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = torch.as_tensor(sample[key].landmarks_mm)
        return sample


class LandmarkedLabelsd(MapTransform):
    """Keep the labels of vertebrae with a landmark; the others, cut by the field of view, must stay background."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key's labels."""
        sample = dict(data)
        table = torch.arange(256, dtype=torch.uint8)
        present = present_rows(np.asarray(sample["landmarks_mm"]))
        table[[26, 27, *(label for row, label in enumerate(LABELS) if row not in present)]] = 0
        for key in self.key_iterator(sample):
            sample[key] = table[sample[key].as_tensor().long()]
        return sample


class SpineCenterError(CumulativeIterationMetric):
    """Distance in mm between the middle of the found spine box and that of the true landmarks' box."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return `(B, 1)` of `(B, 2, 3)` boxes and `(B, 26, 3)` landmarks, RAS+ mm."""
        pairs = zip(y_pred.double().cpu().numpy(), _given(y).double().cpu().numpy(), strict=True)
        return torch.tensor([[_center_error(box, landmarks_mm)] for box, landmarks_mm in pairs], dtype=torch.float32)

    def aggregate(self) -> Tensor:
        """Return the mean over the scans so far."""
        return _mean_over_present(self.get_buffer(), "scan")


def _center_error(box_mm: np.ndarray, landmarks_mm: np.ndarray) -> float:
    if not np.isfinite(box_mm).all():
        return NOTHING_FOUND_MM
    truth = (np.nanmin(landmarks_mm, axis=0) + np.nanmax(landmarks_mm, axis=0)) / 2
    return float(np.linalg.norm(box_mm.mean(axis=0) - truth))


class LandmarkIdentification(CumulativeIterationMetric):
    """Share of vertebrae that are named right and less than 20 mm off (VerSe's identification rate)."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return `(B, 26)` of `(B, 26, 3)` landmarks in mm: 1 = identified, 0 = not, NaN = not in the truth."""
        found, true = y_pred.double().cpu().numpy(), _given(y).double().cpu().numpy()
        hits = np.stack([identified(p, t) for p, t in zip(found, true, strict=True)])
        return torch.from_numpy(np.where(np.isfinite(true).all(axis=2), hits, np.nan).astype(np.float32))

    def aggregate(self) -> Tensor:
        """Return the share of vertebrae identified so far."""
        return _mean_over_present(self.get_buffer(), "landmark")


class VertebraDice(CumulativeIterationMetric):
    """Mean Dice over the vertebrae of the truth; a missed one counts 0."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return `(B, 26)` Dice of `(B, 1, I, J, K)` label maps; NaN = not in the truth."""
        values = torch.full((len(y_pred), NUM_ROWS), torch.nan)
        for row, found, true in zip(values, y_pred, _given(y), strict=True):
            found, true = found.cpu().numpy(), true.cpu().numpy()
            for i, label in enumerate(LABELS):
                if (true == label).any():
                    row[i] = dice(found, true, label)
        return values

    def aggregate(self) -> Tensor:
        """Return the mean so far."""
        return _mean_over_present(self.get_buffer(), "vertebra")


def _given(y: Tensor | None) -> Tensor:
    if y is None:
        raise ValueError("a metric needs the truth")
    return y


def _mean_over_present(values: Any, what: str) -> Tensor:
    """Return the mean of `(B, C)` values that are not NaN."""
    if values is None or values.isnan().all():
        raise ValueError(f"no {what} in the validation data")
    return values.nanmean()
