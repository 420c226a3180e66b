"""Small copies of VerSe as it is downloaded: both folder trees, all centroid formats, and what is odd about them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from ball_spine import ball_spine

from pipeline.labels import LABELS, row_of_name
from pipeline.landmarks import present_rows

SPACING_MM = (2.2, 2.8, 3.4)


def coordinates(axcodes: str, landmarks_mm, affine, shape, *, in_mm: bool) -> np.ndarray:
    """Landmarks in the voxels, or mm, of the scan turned by nibabel into `axcodes`."""
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axcodes))
    turned = image.as_reoriented(turn)
    index = nib.affines.apply_affine(np.linalg.inv(turned.affine), landmarks_mm)
    return index * nib.affines.voxel_sizes(turned.affine) if in_mm else index


def centroid_file(path: Path, axcodes: str, landmarks_mm, affine, shape, *, in_mm=False, stated=True, nan_label=None):
    points = coordinates(axcodes, landmarks_mm, affine, shape, in_mm=in_mm)
    rows: list = [{"direction": list(axcodes)}] if stated else []
    for row in present_rows(landmarks_mm):
        rows.append({"label": LABELS[row], **dict(zip("XYZ", points[row].round(2).tolist(), strict=True))})
    if nan_label:
        rows.append({"label": nan_label, "X": float("nan"), "Y": float("nan"), "Z": float("nan")})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def save(path: Path, array: np.ndarray, affine: np.ndarray, *, qform_only=False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    if qform_only:  # as the mass download: sform code 0, qform code 1
        image.set_qform(affine, 1)
        image.set_sform(None, 0)
    nib.save(image, path)
    return path


def scan(names, axcodes="LAS", *, shift_hu=0, unlabeled=(), **grid):
    """Array, affine, mask and landmarks of a ball spine; `unlabeled` are in the picture and nowhere else."""
    balls, labels, landmarks_mm = ball_spine(names, axcodes, **{"spacing_mm": SPACING_MM, **grid})
    for name in unlabeled:
        labels[labels == LABELS[row_of_name(name)]] = 0
        landmarks_mm[row_of_name(name)] = np.nan
    return balls.array + np.int16(shift_hu), balls.affine, labels, landmarks_mm


def subject_scan(release: Path, stem: str, names, *, axcodes="LAS", ctd="PIR", mask_axcodes=None, shift_hu=0, **more):
    """One scan of the subject tree; returns its landmarks."""
    extra = {key: more.pop(key) for key in ("nan_label", "qform_only") if key in more}
    array, affine, labels, landmarks_mm = scan(names, axcodes, shift_hu=shift_hu, **more)
    subject = stem.split("_")[0]
    save(release / "rawdata" / subject / f"{stem}_ct.nii.gz", array, affine, qform_only=extra.get("qform_only", False))
    folder = release / "derivatives" / subject
    mask = nib.Nifti1Image(labels.astype(np.float64), affine)  # float, slope NaN
    if mask_axcodes:
        turn = nib.orientations.axcodes2ornt(mask_axcodes)
        mask = mask.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), turn))
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(mask, folder / f"{stem}_seg-vert_msk.nii.gz")
    (folder / f"{stem}_seg-vert_snp.png").write_bytes(b"picture")
    path = folder / f"{stem}_seg-subreg_ctd.json"
    centroid_file(path, ctd, landmarks_mm, affine, array.shape, nan_label=extra.get("nan_label"))
    return landmarks_mm


def flat_scan(folder: Path, stem: str, ctd_stem: str, names, axcodes: str, **more):
    """One scan of the challenge tree, its centroids in mm along `axcodes` and nothing that says so."""
    array, affine, labels, landmarks_mm = scan(names, "RPS", **more)
    save(folder / f"{stem}.nii.gz", array, affine)
    save(folder / f"{stem}_seg.nii.gz", labels, affine)
    centroid_file(folder / f"{ctd_stem}.json", axcodes, landmarks_mm, affine, array.shape, in_mm=True, stated=False)
    return landmarks_mm
