"""A spine of ellipsoids whose HU tells the vertebra, on any grid: a CT with exact mask and landmarks for tests."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from pipeline.images import Scan
from pipeline.labels import LABELS, row_of_name
from pipeline.landmarks import absent, write_csv

RADII_MM = np.array([17.0, 13.0, 9.5])  # x, y, z
STEP_MM = np.array([2.0, 7.0, -27.5])  # from one center to the next: a little left, forward, down
CENTER_MM = np.array([-31.0, 47.0, -520.0])  # of the middle vertebra: far from the origin
TISSUE_HU, AIR_HU = 20.0, -1000.0


def hu_of_row(row: int) -> float:
    return 280.0 + 14.0 * row


def row_of_hu(hu: float) -> int:
    return round((hu - 280.0) / 14.0)


def affine_of(axcodes: str, spacing_mm, shape, *, oblique: bool) -> np.ndarray:
    """Array axes along `axcodes`, then all turned by 14, -9 and 20 degrees; the middle voxel lies at CENTER_MM."""
    unit = {"R": [1, 0, 0], "L": [-1, 0, 0], "A": [0, 1, 0], "P": [0, -1, 0], "S": [0, 0, 1], "I": [0, 0, -1]}
    linear = np.stack([unit[code] for code in axcodes], axis=1) * np.asarray(spacing_mm, dtype=float)
    if oblique:
        a, b, c = np.deg2rad([14, -9, 20])
        about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        linear = about_z @ about_y @ about_x @ linear
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = CENTER_MM - linear @ ((np.array(shape) - 1) / 2)
    return affine


def ball_spine(
    names, axcodes: str = "RAS", *, oblique: bool = False, spacing_mm=(1.3, 1.7, 2.1), size_mm=(96, 88)
) -> tuple[Scan, np.ndarray, np.ndarray]:
    """Return the scan, its mask `(I, J, K)` uint8 and its landmarks `(26, 3)`; spacing per array axis, size in x, y."""
    height = 27.5 * (len(names) - 1) + 70
    size = {**dict.fromkeys("RL", size_mm[0]), **dict.fromkeys("AP", size_mm[1]), **dict.fromkeys("SI", height)}
    shape = tuple(int(size[code] / step) for code, step in zip(axcodes, spacing_mm, strict=True))
    affine = affine_of(axcodes, spacing_mm, shape, oblique=oblique)
    world_mm = np.stack(np.indices(shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]

    in_body = (np.abs(world_mm - CENTER_MM)[..., :2] < np.array(size_mm) / 2 - 8).all(axis=-1)
    hu, labels, landmarks_mm = np.where(in_body, TISSUE_HU, AIR_HU), np.zeros(shape, np.uint8), absent()
    for i, name in enumerate(names):
        row, center_mm = row_of_name(name), CENTER_MM + (i - (len(names) - 1) / 2) * STEP_MM
        radius = np.linalg.norm((world_mm - center_mm) / RADII_MM, axis=-1)
        share = np.clip(0.5 + (1 - radius) * 7, 0, 1)  # an edge some 2 mm wide, as partial volume makes it
        hu += share * (hu_of_row(row) - hu)
        labels[radius < 1], landmarks_mm[row] = LABELS[row], center_mm
    return Scan("balls", np.rint(hu).astype(np.int16), affine, Path("balls.nii.gz")), labels, landmarks_mm


def save_scan(path: Path, scan: Scan) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(scan.array, scan.affine), path)
    return path


def change_first_voxel(path: Path, label: int) -> Path:
    """Change the first voxel of a packed uint8 mask, as a bad disk would: gzip's checksum is the old one."""
    packed = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    packed[10 + 5 + 352] = label  # after the headers of gzip, of its first stored block, and of NIfTI
    path.write_bytes(packed)
    return path


def write_dataset(folder: Path, spines: dict[str, tuple[str, ...]], val: tuple[str, ...], **grid) -> Path:
    """Write spines by scan ID in the training layout; those named in `val` are for validation."""
    for name, names in spines.items():
        scan, labels, landmarks_mm = ball_spine(names, **grid)
        save_scan(folder / "images" / f"{name}.nii.gz", scan)
        (folder / "segmentations").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(labels, scan.affine), folder / "segmentations" / f"{name}_seg.nii.gz")
        (folder / "landmarks").mkdir(exist_ok=True)
        write_csv(folder / "landmarks" / f"{name}.csv", landmarks_mm)
    (folder / "train.txt").write_text("".join(f"{name}\n" for name in spines if name not in val))
    (folder / "val.txt").write_text("".join(f"{name}\n" for name in val))
    return folder
