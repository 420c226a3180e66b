"""The pictures of `benchmarks.realism`: HU of tissues, and twelve phantoms beside real scans."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
from scipy import ndimage

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pipeline.landmarks import present_rows
from pipeline.phantom import Phantom, make_phantom
from pipeline.spaces import spacing_mm, to_voxel

PAGE = [("mixed", 4), ("localization", 4), ("segmentation", 4)]
UNSEEN = 990_001
WINDOW = (-250, 650)


def read_real(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return HU and spacing of a real scan with its axes towards right, front and up."""
    image = nib.as_closest_canonical(nib.load(path))
    hu = np.asarray(image.dataobj).astype(np.float32)
    return hu - 1000 * (path.name.startswith("openkbp") and hu.min() >= 0), spacing_mm(image.affine)


def write_page(data: Path, path: Path) -> None:
    """Write twelve random phantoms and the real scans: sagittal, coronal and axial through the middle of the spine."""
    columns = []
    for preset, count in PAGE:
        for index in range(count):
            phantom = make_phantom((UNSEEN, len(columns), index), preset)
            columns.append((f"phantom: {preset}", *_canonical(phantom)))
    for file in sorted((data / "ct").glob("*_ct.nii.gz"))[:4] + sorted((data / "ct").glob("ts_*_ct.nii.gz")):
        hu, spacing = read_real(file)
        columns.append((f"real: {file.name.removesuffix('_ct.nii.gz')}", hu, spacing, np.array(hu.shape) // 2))
    figure, axes = plt.subplots(6, len(columns) // 2, figsize=(2.0 * len(columns) / 2, 13), facecolor="black")
    for number, (title, hu, spacing, middle) in enumerate(columns):
        top, column = 3 * (number // (len(columns) // 2)), number % (len(columns) // 2)
        for k, axis in enumerate((0, 1, 2)):
            rest = [i for i in range(3) if i != axis]
            plane = np.clip(hu.take(middle[axis], axis), *WINDOW).T
            aspect = spacing[rest[1]] / spacing[rest[0]]
            axes[top + k, column].imshow(
                plane, cmap="gray", origin="lower", aspect=aspect, vmin=WINDOW[0], vmax=WINDOW[1]
            )
        axes[top, column].set_title(title, fontsize=7, color="white")
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=80, pil_kwargs={"quality": 80})
    plt.close(figure)
    print(f"\n{path}: {path.stat().st_size // 1024} KB")


def _canonical(phantom: Phantom) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return HU, spacing and the middle of the spine with the axes towards right, front and up."""
    image = nib.as_closest_canonical(nib.Nifti1Image(phantom.hu, phantom.affine))
    rows = present_rows(phantom.landmarks_mm)
    middle = to_voxel(image.affine, phantom.landmarks_mm[rows[len(rows) // 2]]) if rows else np.array(image.shape) / 2
    middle = np.clip(np.rint(middle).astype(int), 0, np.array(image.shape) - 1)
    return np.asarray(image.dataobj).astype(np.float32), spacing_mm(image.affine), middle


def tissue_samples(count: int = 6) -> dict[str, list[np.ndarray]]:
    """Return HU of trabecular bone, cortex, soft tissue and lung in phantoms."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("trabecular", "cortex", "fat and muscle", "lung")}
    for index in range(count):
        phantom = make_phantom((UNSEEN, 77, index), "localization", variant="none")
        spacing = spacing_mm(phantom.affine)
        depth = ndimage.distance_transform_edt(phantom.labels > 0, sampling=spacing)
        for row in present_rows(phantom.landmarks_mm):
            if row > 1:
                found["trabecular"].append(phantom.hu[_ball(phantom.hu.shape, to_voxel(phantom.affine,
                                                      phantom.landmarks_mm[row]), spacing)])  # fmt: skip
        found["cortex"].append(phantom.hu[(depth > 0) & (depth <= spacing.max())][::20])
        _add_soft(found, phantom.hu.ravel()[::37])
    return found


def _add_soft(found: dict[str, list[np.ndarray]], hu: np.ndarray) -> None:
    """Sort HU between fat and muscle, and those of lung, into their lists."""
    found["fat and muscle"].append(hu[(hu > -200) & (hu < 200)])
    found["lung"].append(hu[(hu > -920) & (hu < -600)])


def _ball(shape: tuple[int, ...], center_vox: np.ndarray, spacing: np.ndarray, radius_mm: float = 5.0) -> np.ndarray:
    """Return the mask of a ball in mm around a position in voxels."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((a - c) * s) ** 2 for a, c, s in zip(axes, center_vox, spacing, strict=True)) < radius_mm**2


def real_samples(data: Path) -> dict[str, list[np.ndarray]]:
    """Return HU of the same tissues, but cortex, in the real scans with hand-placed centers."""
    found: dict[str, list[np.ndarray]] = {"trabecular": [], "fat and muscle": [], "lung": []}
    for path in sorted((data / "ct").glob("*_ctd.json")):
        image = nib.load(path.with_name(path.name.replace("_ctd.json", "_ct.nii.gz")))
        hu = np.asarray(image.dataobj).astype(np.float32)
        hu -= 1000 * (path.name.startswith("openkbp") and hu.min() >= 0)
        for entry in json.loads(path.read_text())[1:]:
            if entry["label"] > 2:
                center = np.array([entry[axis] for axis in "XYZ"])
                found["trabecular"].append(hu[_ball(hu.shape, center, spacing_mm(image.affine))])
        _add_soft(found, hu.ravel()[::37])
    return found


def write_histograms(data: Path, path: Path) -> None:
    """Write HU histograms of phantoms and real scans, one panel per tissue, and print medians."""
    phantoms, real = tissue_samples(), real_samples(data)
    figure, axes = plt.subplots(1, len(phantoms), figsize=(12, 2.6))
    for axis, (name, samples) in zip(axes, phantoms.items(), strict=True):
        bins = np.linspace(
            *{"trabecular": (-100, 700), "cortex": (-100, 1500), "lung": (-1000, -600)}.get(name, (-200, 200)), 60
        )
        for values, label in ((samples, "phantoms"), (real.get(name, []), "real")):
            if len(values):
                joined = np.concatenate(values)
                axis.hist(joined, bins, density=True, alpha=0.5, label=label)
                low, middle, high = np.percentile(joined, [5, 50, 95])
                print(f"{name}, {label}: median {middle:.0f} HU, 5-95 % {low:.0f} to {high:.0f}")
        axis.set_title(name, fontsize=9)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
