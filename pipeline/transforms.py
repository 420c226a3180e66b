"""The dictionary transforms that the bundles name.

Samples carry `image` (MetaTensor `(1, I, J, K)`, HU or network input, with its affine) and `landmarks_mm` `(26, 3)`
RAS+ mm. Everything between a scan and the network's grid is one resampling: the augmentation moves the grid, not the
scan, and landmarks follow exactly.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from .heatmaps import distance_channels, gaussian_heatmaps
from .images import Scan, read_scan
from .labels import LABELS, channel_of_row
from .landmarks import read_landmarks
from .losses import IGNORED
from .spaces import Grid, bounds_mm, grid_over, resample, scaled, to_voxel, to_world

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
    """Read label maps into MetaTensors `(1, I, J, K)` uint8; NaN scaling and float storage are understood."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key read."""
        import nibabel

        sample = dict(data)
        for key in self.key_iterator(sample):
            image = nibabel.load(sample[key])
            labels = np.asarray(image.dataobj)
            if not np.array_equal(labels, np.rint(labels)) or labels.min() < 0 or labels.max() > 255:
                raise ValueError(f"{sample[key]}: labels must be whole numbers from 0 to 255, found {labels.max()}")
            sample[key] = MetaTensor(torch.from_numpy(labels.astype(np.uint8))[None], affine=image.affine)
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


class HeatmapTargetd(MapTransform):
    """Make the heatmap target of the image's grid from `landmarks_mm`.

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

    A vertebra in the mask without a landmark (cut by the field of view) becomes `IGNORED`: the network is not told
    where it is, so it is neither asked for it nor punished for it.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with class indices, int64."""
        sample = dict(data)
        present = torch.isfinite(torch.as_tensor(sample["landmarks_mm"])).all(dim=1)
        table = torch.zeros(256, dtype=torch.int64)
        for row, label in enumerate(LABELS):
            table[label] = channel_of_row(row) + 1 if present[row] else IGNORED
        for key in self.key_iterator(sample):
            sample[key] = table[sample[key].as_tensor().long()]
        return sample
