"""What the server returns: masks with the values of `exchange.VALUES`, Slicer markups, and JSON."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..documents import landmarks_document
from ..files import write_json
from ..findings import about_input
from ..formats import slicer
from ..images import write_labels
from ..labels import LABELS, NAMES, row_of_name
from ..preview import color_of_label
from ..run import Result
from .exchange import DOCUMENT_KEYS, VALUES, values_of

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd")


def describe(result: Result, versions: dict[str, str], *, checked: bool) -> dict[str, Any]:
    """Return the JSON answer: landmarks with probabilities, warnings, and how to read the mask. RAS mm throughout.

    Args:
        result: what was found.
        versions: of the bundles.
        checked: whether mask and landmarks are complete, so that each can be checked against the other.
    """
    known = (*about_input(result.scan.warnings), *result.labelling.warnings)
    warnings = result.warnings if checked else known
    document = landmarks_document(result.scan.name, result.scan.grid, result.labelling, warnings=warnings)
    box = result.spine_box_mm
    return {
        **{key: document[key] for key in DOCUMENT_KEYS},
        "spine_box_mm": box.round(2).tolist() if np.isfinite(box).all() else None,
        "bundles": versions,
        "label_names": VALUES,
        "label_colors": colors(),
    }


def colors() -> dict[str, list[int]]:
    """Return an RGB color, 0-255, for every name; neighbors differ."""
    return {
        name: (255 * color_of_label(label)).round().astype(int).tolist()
        for label, name in zip(LABELS, NAMES, strict=True)
    }


def write_mask(result: Result, request: dict[str, Any]) -> str:
    """Write all vertebrae as `(I, J, K)` uint8 values of `VALUES` on the scan's grid; return the path."""
    return write_volume(values_of(result.labels), result.scan.affine, VALUES, request)


def write_clicked(result: Result, request: dict[str, Any]) -> str:
    """Write the vertebra that was clicked as 0 and 1, which is what viewers expect of a click."""
    row = row_of_name(request["label"])
    mask = (result.labels == LABELS[row]).astype(np.uint8)
    return write_volume(mask, result.scan.affine, {NAMES[row]: 1}, request)


def write_points(result: Result, _: dict[str, Any]) -> str:
    """Write the landmarks as Slicer's point list `.mrk.json`; return the path."""
    target = new_file(".mrk.json")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        os.replace(slicer.write(Path(folder), result, {})[0], target)
    return str(target)


def write_box(result: Result, _: dict[str, Any]) -> str:
    """Write the box of the spine as Slicer's region of interest `.mrk.json` (none without a spine); return the path."""
    target = new_file(".mrk.json")
    low_mm, high_mm = result.spine_box_mm * slicer.RAS_TO_LPS
    roi = {
        "type": "ROI",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "roiType": "Box",
        "center": ((low_mm + high_mm) / 2).round(3).tolist(),
        "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
        "size": abs(high_mm - low_mm).round(3).tolist(),
        "insideOut": False,
    }
    found = np.isfinite(result.spine_box_mm).all()
    write_json(target, {"@schema": slicer.SCHEMA, "markups": [roi] if found else []})
    return str(target)


def write_volume(values: np.ndarray, affine: np.ndarray, names: dict[str, int], request: dict[str, Any]) -> str:
    """Write `(I, J, K)` uint8 with the suffix that a request asks for (NIfTI by default); return the path.

    Raises:
        ValueError: a suffix that is not one of `EXTENSIONS`.
    """
    extension = request.get("result_extension") or ".nii.gz"
    if extension not in EXTENSIONS:
        raise ValueError(f"result_extension {extension!r}: expected one of {', '.join(EXTENSIONS)}")
    target = new_file(extension)
    if extension.endswith(".nrrd"):
        write_nrrd(target, values, affine, names)
    else:
        write_labels(target, values, affine)
    return str(target)


def write_nrrd(path: Path, values: np.ndarray, affine: np.ndarray, names: dict[str, int]) -> None:
    """Write NRRD in LPS mm with the fields by which 3D Slicer gives segments their names and colors."""
    import nrrd

    lps = np.diag([*slicer.RAS_TO_LPS, 1.0]) @ affine
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,  # one line per array axis
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
    }
    shown = colors()
    for i, (name, value) in enumerate(names.items()):
        color = " ".join(f"{channel / 255:.6f}" for channel in shown[name])
        fields = {"ID": name, "Name": name, "LabelValue": value, "Layer": 0, "Color": color, "NameAutoGenerated": 0}
        header |= {f"Segment{i}_{key}": str(field) for key, field in fields.items()}
    nrrd.write(str(path), values, header, compression_level=1)


def new_file(suffix: str) -> Path:
    """Return the path of a new, empty file, which the server deletes once it has been sent."""
    handle, path = tempfile.mkstemp(suffix=suffix)
    os.close(handle)
    return Path(path)
