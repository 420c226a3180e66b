"""The dictionary transforms that bring a scan onto the network's grid.

Samples carry `image` (MetaTensor `(1, I, J, K)`, HU or network input, with its affine) and `landmarks_mm` `(26, 3)`
RAS+ mm. Everything between a scan and the network's grid is one resampling.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from .annotations import check_same_view, choose_reading, read_mask, relabeled
from .images import Scan, read_scan
from .landmarks import read_landmarks
from .spaces import Grid, average_blocks, block_factors, bounds_mm, grid_over, resample, spacing_mm, to_world

Sample = dict[Hashable, Any]


class ReadScand(MapTransform):
    """Read scans (a path, or a `Scan` already in memory) into MetaTensors `(1, I, J, K)` of HU in stored order."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key read."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            scan = sample[key] if isinstance(sample[key], Scan) else read_scan(Path(sample[key]))
            sample[key] = MetaTensor(torch.from_numpy(scan.array)[None], affine=torch.from_numpy(scan.affine))
            sample[f"{key}_name"] = scan.name
        return sample


class ReadLabelsd(MapTransform):
    """Read label maps into MetaTensors `(1, I, J, K)` uint8; NaN scaling and float storage are understood.

    Labels are exchanged as the sample's `relabel` (label to correct label) says.

    Args:
        keys: paths.
        like: image whose grid the labels are brought onto, if theirs differs; None = they keep their own.
    """

    def __init__(self, keys: str | Sequence[str], like: str | None = None) -> None:
        super().__init__(keys)
        self.like = like

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key read."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            labels, affine = read_mask(Path(sample[key]))
            labels = relabeled(labels, sample.get("relabel") or {})
            if self.like is not None:
                grid = _grid_of(sample[self.like])
                if labels.shape != grid.shape or not np.allclose(affine, grid.affine, atol=1e-3):
                    labels, affine = resample(labels, affine, grid, order=0), grid.affine
            sample[key] = MetaTensor(torch.from_numpy(labels)[None], affine=torch.from_numpy(affine))
        return sample


class ReadLandmarksd(MapTransform):
    """Read landmark files (a path, or an array already in memory) into `(26, 3)` float32 RAS+ mm."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key read."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            value = sample[key]
            value = read_landmarks(Path(value)) if isinstance(value, (str, Path)) else value
            sample[key] = torch.as_tensor(np.asarray(value, dtype=np.float32))
        return sample


class CheckPlacementd(MapTransform):
    """Refuse landmarks and a mask that do not belong where the scan is, as `vertebrae prepare` does.

    Args:
        keys: `(26, 3)` landmarks in RAS+ mm.
        image: the scan.
        label: its label map; without one the landmarks need only lie inside the scan.
    """

    def __init__(self, keys: str | Sequence[str], image: str = "image", label: str | None = None) -> None:
        super().__init__(keys)
        self.image, self.label = image, label

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample as it is.

        Raises:
            ValueError: the mask covers another part of space, or landmarks lie off the scan or off their own vertebra.
        """
        sample = dict(data)
        grid, labels, own = _grid_of(sample[self.image]), None, None
        if self.label is not None:
            labels, own = sample[self.label].as_tensor().numpy()[0], _grid_of(sample[self.label])
            check_same_view(Path(self.image), grid, Path(self.label), own)
        for key in self.key_iterator(sample):
            points_mm = np.asarray(sample[key], dtype=np.float64)
            choose_reading(Path(key), [("RAS mm", points_mm)], labels, (own or grid).affine, grid)
        return sample


def _grid_of(image: MetaTensor) -> Grid:
    return Grid(tuple(image.shape[1:]), np.asarray(image.affine, dtype=np.float64))


class ToGridd(MapTransform):
    """Resample scans onto a RAS-aligned isotropic grid over the whole scan, a box, or around landmarks.

    Args:
        keys: images to resample.
        spacing_mm: voxel size.
        multiple: axis lengths are rounded up to a multiple of this.
        region: sample key of a `(2, 3)` box or of `(26, 3)` landmarks in RAS+ mm; the whole scan where it is missing.
        margin_mm: `(2, 3)` added below and above the region; the result is cut to the scan.
        fill: HU outside the scan.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        spacing_mm: float,
        multiple: int = 8,
        region: str | None = None,
        margin_mm: Sequence[Sequence[float]] = ((0, 0, 0), (0, 0, 0)),
        fill: float = -1000.0,
    ) -> None:
        super().__init__(keys)
        self.spacing_mm, self.multiple, self.region, self.fill = spacing_mm, multiple, region, fill
        self.margin_mm = np.array(margin_mm, dtype=float)

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key resampled; `scan_shape` and `scan_affine` keep the way back."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            affine = np.asarray(image.affine, dtype=np.float64)
            array = image.as_tensor().numpy()[0]
            grid = grid_over(self._box(sample, Grid(array.shape, affine)), self.spacing_mm, self.multiple)
            values = resample(array, affine, grid, fill=self.fill)
            sample[key] = MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(grid.affine))
            sample["scan_shape"] = torch.tensor(array.shape)
            sample["scan_affine"] = torch.from_numpy(affine)
            sample["grid_affine"] = torch.from_numpy(grid.affine)
        return sample

    def _box(self, sample: Sample, scan: Grid) -> np.ndarray:
        """Return the `(2, 3)` box to cover: the region with its margin, cut to the scan."""
        view = bounds_mm(scan)
        if self.region is None or sample.get(self.region) is None:
            return view
        points = np.asarray(sample[self.region], dtype=np.float64)
        if not np.isfinite(points).all(axis=1).any():
            raise ValueError(f"{self.region} holds no position")
        box = np.stack([np.nanmin(points, axis=0), np.nanmax(points, axis=0)])
        box = box + self.margin_mm * [[-1.0], [1.0]]
        cut = np.stack([np.maximum(box[0], view[0]), np.minimum(box[1], view[1])])
        if (cut[0] >= cut[1]).any():
            raise ValueError(
                f"{self.region} {np.round(box).tolist()} mm lies outside the scan {np.round(view).tolist()}"
            )
        return cut


class ShrinkScand(MapTransform):
    """Average blocks of voxels in the stored order, so that a cached scan is no finer than training needs.

    A scan of 0.5 mm for a network at 8 mm takes a five-hundredth of the memory, and of the time per window.

    Args:
        keys: image first, then label maps (each block keeps the label nearest to its middle).
        spacing_mm: voxels stay at most this large along every axis.
    """

    def __init__(self, keys: str | Sequence[str], spacing_mm: float) -> None:
        super().__init__(keys)
        self.spacing_mm = spacing_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key shrunk."""
        sample = dict(data)
        for i, key in enumerate(self.keys):
            source = sample[key]
            array, affine = source.as_tensor().numpy()[0], np.asarray(source.affine, dtype=np.float64)
            factors = block_factors(self.spacing_mm / spacing_mm(affine), array.shape)
            if (factors == 1).all():
                continue
            start = factors // 2 if i else (factors - 1) / 2
            moved = affine.copy()
            moved[:3, :3] *= factors
            moved[:3, 3] = to_world(affine, start)
            if i:
                array = np.ascontiguousarray(array[tuple(slice(f // 2, None, f) for f in factors)])
            else:
                mean = average_blocks(array, factors)
                array = np.rint(mean).astype(array.dtype) if array.dtype.kind == "i" else mean
            sample[key] = MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(moved))
        return sample
