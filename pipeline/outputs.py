"""What the bundles make of their networks' output, and the files they write: spine box, landmarks, labels."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform
from scipy import ndimage

from .documents import landmarks_document
from .files import write_json
from .images import write_labels
from .labelling import label_spine
from .landmarks import write_csv
from .spaces import Grid, bounds_mm, scaled, to_world

Sample = dict[Hashable, Any]

# What continues the spine beyond a gap in its heatmap: at least this share of its largest part ...
LEAST_SHARE = 0.05
# ... whose near end lies no farther up or down and no more aside than this. Beyond the one true gap in 70 phantoms it
# lay 27 degrees aside; the ilium, the skull and the shoulders in them and in 19 real scans lie 42 degrees and more.
LONGEST_GAP_MM, MOST_ASIDE_DEG = 120.0, 35.0


def spine_box_mm(heatmap: np.ndarray, affine: np.ndarray, *, min_peak: float = 0.3, share: float = 0.25) -> np.ndarray:
    """Return the `(2, 3)` RAS+ mm corners around the spine in a heatmap.

    That is its largest connected part, and every other part that goes on in the direction of the spine beyond a gap:
    metal, a fracture or noise can part a heatmap, the pelvis and the skull lie aside.

    Args:
        heatmap: `(I, J, K)` in [0, 1].
        affine: `(4, 4)`, voxel index to RAS+ mm.
        min_peak: below this maximum there is no spine.
        share: the parts reach down to this share of the maximum.

    Returns:
        The voxel edges of the spine's extent; NaN without a spine.
    """
    peak = float(heatmap.max())
    if peak < min_peak:
        return np.full((2, 3), np.nan)
    parts, count = ndimage.label(heatmap > share * peak)
    mass = ndimage.sum_labels(heatmap, parts, range(1, count + 1))
    first, *others = (int(i) for i in np.argsort(-mass) if mass[i] >= LEAST_SHARE * mass.max())
    spine = parts == first + 1
    left = [parts == i + 1 for i in others]
    while joined := [part for part in left if _goes_on(heatmap, affine, spine, part)]:
        spine |= np.any(joined, axis=0)
        left = [part for part in left if not spine[part].any()]
    (box,) = ndimage.find_objects(spine.astype(np.uint8))
    own = np.array(affine, dtype=np.float64)
    own[:3, 3] = to_world(affine, np.array([s.start for s in box]))
    return bounds_mm(Grid(tuple(s.stop - s.start for s in box), own))


def _goes_on(heatmap: np.ndarray, affine: np.ndarray, spine: np.ndarray, part: np.ndarray) -> bool:
    """Return whether a part of the heatmap begins not far beyond an end of the spine, and straight on."""
    for side in (-1, 1):
        way = _end_mm(heatmap, affine, part, -side) - _end_mm(heatmap, affine, spine, side)
        if side * way[2] > np.linalg.norm(way) * np.cos(np.deg2rad(MOST_ASIDE_DEG)) and abs(way[2]) < LONGEST_GAP_MM:
            return True
    return False


def _end_mm(heatmap: np.ndarray, affine: np.ndarray, mask: np.ndarray, side: int) -> np.ndarray:
    """Return the `(3,)` centroid of the upper (`side` 1) or lower (-1) 20 mm of a part of the heatmap."""
    points_mm = to_world(affine, np.argwhere(mask))
    end = side * points_mm[:, 2] >= (side * points_mm[:, 2]).max() - 20
    return np.average(points_mm[end], axis=0, weights=heatmap[mask][end])


def read_spine_box(path: Path) -> np.ndarray:
    """Read `NAME_spine_box.json` into `(2, 3)` RAS+ mm, low and high corner.

    Raises:
        ValueError: the file is none, holds no spine, or states another space or unit.
    """
    try:
        document = json.loads(path.read_text())
        stated = document["found"], document["space"], document["units"]
        if stated != (True, "RAS", "mm"):
            raise ValueError("found {}, space {}, units {}; expected true, RAS, mm".format(*stated))
        box = np.array([document["low_mm"], document["high_mm"]], dtype=np.float64)
        if box.shape != (2, 3) or not (box[0] < box[1]).all():
            raise ValueError(f"low_mm and high_mm {box.tolist()} are no corners of a box")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the box of a spine: {error}") from None
    return box


class ReadSpineBoxd(MapTransform):
    """Read spine box files (a path, or an array already in memory) into `(2, 3)` RAS+ mm; a missing key stays so."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with every key read."""
        sample = dict(data)
        for key in self.keys:
            if isinstance(sample.get(key), (str, Path)):
                sample[key] = read_spine_box(Path(sample[key]))
        return sample


class SpineBoxd(MapTransform):
    """Turn the spine heatmap into `spine_box_mm`; see the function of that name."""

    def __init__(self, keys: str, min_peak: float = 0.3, share: float = 0.25) -> None:
        super().__init__(keys)
        self.min_peak, self.share = min_peak, share

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with `spine_box_mm` `(2, 3)`."""
        sample = dict(data)
        heatmap, affine = torch.as_tensor(sample[self.keys[0]]).cpu().numpy()[0], np.asarray(sample["grid_affine"])
        sample["spine_box_mm"] = spine_box_mm(heatmap, affine, min_peak=self.min_peak, share=self.share)
        return sample


def scan_grid(sample: Mapping[Hashable, Any]) -> Grid:
    """Return the grid of the scan that a sample was made of; see `transforms.ToGridd`."""
    shape = tuple(int(n) for n in np.asarray(sample["scan_shape"]))
    return Grid(shape, np.asarray(sample["scan_affine"], dtype=np.float64))  # type: ignore[arg-type]


class LabelSpined(MapTransform):
    """Turn the 25 heatmaps into a `labelling.Labelling` under the key `labelling`.

    Args:
        keys: the heatmaps.
        stride: image voxels per heatmap voxel.
    """

    def __init__(self, keys: str, stride: int = 1) -> None:
        super().__init__(keys)
        self.stride = stride

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with `labelling`."""
        sample = dict(data)
        affine = scaled(np.asarray(sample["grid_affine"]), self.stride)
        heatmaps = torch.as_tensor(sample[self.keys[0]]).cpu().numpy()
        sample["labelling"] = label_spine(heatmaps, affine, scan=scan_grid(sample))
        return sample


class SaveSpineBoxd(MapTransform):
    """Write `NAME_spine_box.json`.

    Args:
        keys: the box.
        output_dir: where to.
    """

    def __init__(self, keys: str, output_dir: str) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample unchanged."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.keys:
            box = np.asarray(data[key], dtype=np.float64)
            document: dict[str, Any] = {"space": "RAS", "units": "mm", "found": bool(np.isfinite(box).all())}
            if document["found"]:
                document |= {"low_mm": box[0].round(2).tolist(), "high_mm": box[1].round(2).tolist()}
            write_json(self.output_dir / f"{data['image_name']}_spine_box.json", document)
        return dict(data)


class SaveLandmarksd(MapTransform):
    """Write `NAME_landmarks.json` and `NAME_landmarks.csv`.

    Args:
        keys: the labelling.
        output_dir: where to.
        versions: bundle versions to state.
    """

    def __init__(self, keys: str, output_dir: str, versions: dict[str, str] | None = None) -> None:
        super().__init__(keys)
        self.output_dir, self.versions = Path(output_dir), versions or {}

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample unchanged."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.keys:
            document = landmarks_document(data["image_name"], scan_grid(data), data[key], versions=self.versions)
            write_json(self.output_dir / f"{data['image_name']}_landmarks.json", document)
            write_csv(self.output_dir / f"{data['image_name']}_landmarks.csv", data[key].landmarks_mm)
        return dict(data)


class SaveSegmentationd(MapTransform):
    """Write `NAME_segmentation.nii.gz`: VerSe labels on the scan's own grid.

    Args:
        keys: the labels `(1, I, J, K)` uint8.
        output_dir: where to.
    """

    def __init__(self, keys: str, output_dir: str) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample unchanged."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.keys:
            labels = np.asarray(data[key])[0].astype(np.uint8)
            path = self.output_dir / f"{data['image_name']}_segmentation.nii.gz"
            write_labels(path, labels, np.asarray(data["scan_affine"], dtype=np.float64))
        return dict(data)
