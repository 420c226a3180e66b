"""What a bundle says of itself in MONAI Label's own app for bundles, `monaibundle`.

That app runs the transforms, the network and the inferer of an `inference.json` itself, without MONAI's evaluator:
- of two lists it takes `pre_transforms` and `post_transforms` before `preprocessing` and `postprocessing`, so these
  are its own;
- the inferer gets the image alone, so what else it needs travels in the image's `meta`;
- it sends `pred`, which must be a mask on the scan's grid, and the JSON `result`;
- the first output that `metadata.json` names is resized (not resampled) to the scan and says what the values mean:
  `label_map`, on the scan's grid already;
- its samples hold a path under `image_path`, on which MONAI's `Spacingd` fails from 1.6 on. `transforms.ToGridd` is the
  one resampling of all bundles, and reads no such key.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..documents import landmarks_document
from ..images import scan_name
from ..landmarks import present_rows
from ..outputs import scan_grid
from ..spaces import Grid, spacing_mm, to_voxel, to_world
from .exchange import DOCUMENT_KEYS, requested_landmarks_mm, values_of

Sample = dict[Hashable, Any]


class RequestedLandmarksd(MapTransform):
    """Give a scan (a path) its `landmarks_mm`: those of the request's `landmarks`, else the file beside the scan.

    The file is `NAME_landmarks.json` or `.csv`, as `vertebrae segment` and the bundle `vert_loc` write it.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with `landmarks_mm`, `(26, 3)` RAS+ mm or the path of a file.

        Raises:
            ValueError: there are none, or the request's are no landmarks.
        """
        sample = dict(data)
        if sample.get("landmarks") is None:
            sample["landmarks_mm"] = landmarks_beside(Path(sample[self.keys[0]]))
        else:
            sample["landmarks_mm"] = requested_landmarks_mm(sample["landmarks"])
        return sample


class CarryPriorsd(MapTransform):
    """Put values of a sample into an image's `meta["priors"]`, where `VertebraInferer` finds them.

    Args:
        keys: the image, a MetaTensor.
        priors: the sample's keys.
    """

    def __init__(self, keys: str, priors: Sequence[str]) -> None:
        super().__init__(keys)
        self.priors = tuple(priors)

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample; only the image's `meta` has changed."""
        for key in self.keys:
            data[key].meta["priors"] = {prior: torch.as_tensor(data[prior]) for prior in self.priors}
        return dict(data)


class AnswerBoxd(MapTransform):
    """Answer with the box of the spine: a mask of 1 inside, and the corners in mm."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with `pred`, `label_map` and `result`; without a spine, an empty mask and null."""
        box_mm = np.asarray(data[self.keys[0]], dtype=np.float64)
        found = bool(np.isfinite(box_mm).all())
        corners = box_mm.round(2).tolist() if found else None
        return answer(data, box_mask(box_mm, scan_grid(data)), {"space": "RAS", "units": "mm", "spine_box_mm": corners})


class AnswerLandmarksd(MapTransform):
    """Answer with the landmarks of a `Labelling`: a mask of balls with the values of `exchange.VALUES`, and a document.

    Args:
        keys: the labelling.
        radius_mm: of a ball; at least a voxel.
    """

    def __init__(self, keys: str, radius_mm: float = 5.0) -> None:
        super().__init__(keys)
        self.radius_mm = radius_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with `pred`, `label_map` and `result`."""
        labelling, grid = data[self.keys[0]], scan_grid(data)
        document = landmarks_document(data["image_name"], grid, labelling)
        balls = ball_mask(labelling.landmarks_mm, grid, self.radius_mm)
        return answer(data, balls, {key: document[key] for key in DOCUMENT_KEYS})


class AnswerLabelsd(MapTransform):
    """Answer with VerSe labels `(1, I, J, K)` on the scan's grid: a mask with the values of `exchange.VALUES`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        """Return the sample with `pred`, `label_map` and an empty `result`."""
        return answer(data, values_of(np.asarray(data[self.keys[0]])[0]), {})


def landmarks_beside(scan: Path) -> Path:
    """Return the landmark file in a scan's folder; `ValueError` if there is none."""
    names = [f"{scan_name(scan)}_landmarks.{suffix}" for suffix in ("json", "csv")]
    found = [scan.parent / name for name in names if (scan.parent / name).is_file()]
    if not found:
        ways = f'send landmarks {{"L3": [x, y, z]}} (RAS mm) with the request or put {" or ".join(names)} beside it'
        raise ValueError(f"{scan}: no landmarks; {ways}")
    return found[0]


def answer(sample: Mapping[Hashable, Any], values: np.ndarray, result: dict[str, Any]) -> Sample:
    """Return the sample as the app wants it.

    Args:
        sample: from `transforms.ToGridd` on.
        values: `(I, J, K)` uint8 on the scan's grid.
        result: JSON.
    """
    label_map = MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(scan_grid(sample).affine))
    return {**sample, "label_map": label_map, "pred": label_map[0], "result": result}


def box_mask(box_mm: np.ndarray, grid: Grid) -> np.ndarray:
    """Return `grid.shape` uint8: 1 where a voxel's center lies in the `(2, 3)` RAS+ mm box; nowhere in one of NaN."""
    inside = np.ones(grid.shape, bool)
    i, j, k = np.ogrid[tuple(slice(n) for n in grid.shape)]
    for row, low, high in zip(grid.affine[:3], *box_mm, strict=True):
        position_mm = (row[0] * i + row[1] * j + row[3]).astype(np.float32) + (row[2] * k).astype(np.float32)
        inside &= (position_mm >= low) & (position_mm <= high)
    return inside.astype(np.uint8)


def ball_mask(landmarks_mm: np.ndarray, grid: Grid, radius_mm: float) -> np.ndarray:
    """Return `grid.shape` uint8: row + 1 within a radius (at least a voxel) of every landmark, 0 elsewhere.

    Args:
        landmarks_mm: `(26, 3)` RAS+ mm, NaN row = absent.
        grid: of the mask.
        radius_mm: of the balls; a voxel in two of them belongs to the later row.
    """
    radius_mm = max(radius_mm, float(spacing_mm(grid.affine).max()))
    reach_vox = radius_mm * np.linalg.norm(np.linalg.inv(grid.affine)[:3, :3], axis=1)
    values = np.zeros(grid.shape, np.uint8)
    for row in present_rows(landmarks_mm):
        center_vox = to_voxel(grid.affine, landmarks_mm[row])
        low = np.clip(np.ceil(center_vox - reach_vox), 0, grid.shape).astype(int)
        high = np.clip(np.floor(center_vox + reach_vox) + 1, 0, grid.shape).astype(int)
        index = np.moveaxis(np.indices(high - low), 0, -1) + low
        far_mm = np.linalg.norm(to_world(grid.affine, index) - landmarks_mm[row], axis=-1)
        values[tuple(map(slice, low, high))][far_mm <= radius_mm] = row + 1
    return values
