"""VerSe's centroid file: voxel positions along the array axes of the scan, which its first entry names."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib

from ..files import write_json
from ..run import Result
from ..spaces import to_voxel


def write(folder: Path, result: Result, versions: dict[str, str]) -> list[Path]:
    """Write `NAME_ctd.json`: `[{"direction": ["P", "I", "R"]}, {"label": 20, "X": ..., "Y": ..., "Z": ...}, ...]`.

    X, Y and Z are fractional voxel indices along the scan's axes 0, 1 and 2, as stored; a body's center, as in VerSe.
    """
    affine = result.scan.affine
    document: list[dict[str, object]] = [{"direction": list(nib.aff2axcodes(affine))}]
    for vertebra in result.labelling.vertebrae:
        position_vox = to_voxel(affine, vertebra.position_mm).round(3).tolist()
        document.append({"label": vertebra.label, **dict(zip("XYZ", position_vox, strict=True))})
    path = folder / f"{result.scan.name}_ctd.json"
    write_json(path, document)
    return [path]
