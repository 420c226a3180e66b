"""Two grids of no comfort, and samples on them, for the tests of the dictionary transforms."""

import numpy as np
import torch
from monai.data import MetaTensor

from pipeline.landmarks import absent
from pipeline.spaces import to_world

# Oblique and anisotropic: i, j, k step 1, 2, 3 mm along (0.6, 0.8, 0), (-0.48, 0.36, 0.8), (0.64, -0.48, 0.6).
OBLIQUE = np.array([[0.6, -0.96, 1.92, 10], [0.8, 0.72, -1.44, -20], [0, 1.6, 1.8, 30], [0, 0, 0, 1]])
# Stored foot to head, front to back, right to left: i steps 4 mm along +z, j 2 mm along -y, k 1 mm along -x.
STORED = np.array([[0, 0, -1, 50], [0, -2, 0, 60], [4, 0, 0, -70], [0, 0, 0, 1]], dtype=float)
C1, T12, L1, T13 = 0, 18, 19, 25


def world_of(shape, affine) -> np.ndarray:
    return to_world(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))


def image_of(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine))


def landmarks(**rows_mm) -> torch.Tensor:
    landmarks_mm = absent()
    for name, position in rows_mm.items():
        landmarks_mm[{"c1": C1, "t12": T12, "l1": L1, "t13": T13}[name]] = position
    return torch.tensor(landmarks_mm, dtype=torch.float32)
