"""What a scan's grid may be, and the repair of grids that are only slightly wrong. Affines map voxels to RAS+ mm."""

from __future__ import annotations

import numpy as np

from .spaces import Grid, bounds_mm, spacing_mm

VOXEL_SIZE_MM = (0.15, 7.0)  # neighboring vertebrae, 15 mm apart in the neck, cannot be told apart above
MIN_EXTENT_MM = 20.0
MAX_SHEAR_DEG = 5.0
EXACT_DEG = 0.01  # what rounding to float32 and to DICOM's digits leaves
MAX_VOXELS = 2**32  # 2048 slices of 1448 x 1448: no CT of a patient is larger
MAX_DEFLATION = 1040  # no gzip stream unpacks to more than 1032 times its size


def check_geometry(shape: tuple[int, ...], affine: np.ndarray) -> None:
    """Raise `ValueError` for an affine or a size that no CT has."""
    if not np.isfinite(affine).all():
        raise ValueError(f"the affine holds {affine[~np.isfinite(affine)][0]}")
    if np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError(f"the affine is singular (determinant {np.linalg.det(affine[:3, :3]):.3g})")
    spacing = spacing_mm(affine)
    sizes = " x ".join(f"{value:.4g}" for value in spacing)
    low, high = VOXEL_SIZE_MM
    if spacing.min() < low - 1e-4 or spacing.max() > high + 1e-4:
        raise ValueError(f"voxels of {sizes} mm; expected {low} to {high:g} mm (is the unit mm?)")
    if shear_deg(affine) > MAX_SHEAR_DEG:
        raise ValueError(f"axes are sheared by {shear_deg(affine):.1f} degrees (a tilted gantry?); resample it first")
    extent = np.array(shape) * spacing
    if extent.min() < MIN_EXTENT_MM:
        raise ValueError(f"only {extent.min():.3g} mm along one axis; at least {MIN_EXTENT_MM:g} mm are needed")


def check_size(shape: tuple[int, ...], bytes_per_voxel: int, file_bytes: int, *, compressed: bool) -> None:
    """Raise `ValueError` for a header that promises more voxels than any CT has or than its file can hold.

    A wrong header would otherwise reserve terabytes of memory.
    """
    voxels = int(np.prod([int(n) for n in shape], dtype=object))
    size = " x ".join(str(n) for n in shape)
    if voxels > MAX_VOXELS:
        raise ValueError(f"cannot be read: the header says {size} voxels, more than any CT has")
    if voxels * bytes_per_voxel > file_bytes * (MAX_DEFLATION if compressed else 1):
        raise ValueError(f"cannot be read: {size} voxels do not fit into a file of {file_bytes} bytes; it is cut short")


def shear_deg(affine: np.ndarray) -> float:
    """Return by how many degrees the array axes differ most from being at right angles."""
    axes = affine[:3, :3] / spacing_mm(affine)
    return float(np.degrees(np.arcsin(np.clip(np.abs(np.triu(axes.T @ axes, 1)).max(), 0, 1))))


def squared(shape: tuple[int, int, int], affine: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return an affine with right angles in the place of one that misses them by rounding, and a report.

    Software built on ITK refuses axes that are not at right angles. Nothing is done if they are within `EXACT_DEG`, or
    if a voxel would move by more than half the smallest voxel size: then the shear is real (a tilted gantry).
    """
    if shear_deg(affine) <= EXACT_DEG:
        return affine, ()
    spacing = spacing_mm(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    repaired = affine.copy()
    repaired[:3, :3] = (left @ right) * spacing  # the nearest orthonormal directions
    middle = (np.array(shape) - 1) / 2
    repaired[:3, 3] += (affine[:3, :3] - repaired[:3, :3]) @ middle
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    moved_mm = float(np.linalg.norm((corners - middle) @ (affine - repaired)[:3, :3].T, axis=1).max())
    if moved_mm > 0.5 * spacing.min():
        return affine, ()
    report = f"repaired: axes {shear_deg(affine):.3f} degrees off right angles, voxels moved by up to {moved_mm:.2f} mm"
    return repaired, (report,)


def obliqueness_deg(affine: np.ndarray) -> float:
    """Return the largest angle between an array axis and the patient axis nearest to it."""
    cosines = np.abs(affine[:3, :3] / spacing_mm(affine)).max(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, 0, 1))).max())


def extent_mm(grid: Grid) -> np.ndarray:
    """Return the `(3,)` size of the field of view along the patient's x, y and z."""
    return np.diff(bounds_mm(grid), axis=0)[0]
