"""Write what was found in one scan; nothing appears under its name before everything is complete."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .documents import landmarks_document
from .files import write_json
from .images import write_labels
from .landmarks import write_csv
from .run import Result

SUFFIXES = ("_segmentation.nii.gz", "_landmarks.csv", "_preview.png", "_landmarks.json")  # the last one marks the end


def is_done(output_dir: Path, name: str) -> bool:
    """Tell whether a scan's outputs are complete in a folder."""
    return all((output_dir / f"{name}{suffix}").is_file() for suffix in SUFFIXES)


def write_result(result: Result, output_dir: Path, versions: dict[str, str]) -> list[Path]:
    """Write mask, landmarks and preview of one scan and return their paths.

    Raises:
        OSError: the folder cannot be written; then none of the files is left there.
    """
    from .preview import save_preview

    name, labelling, scan = result.scan.name, result.labelling, result.scan
    output_dir.mkdir(parents=True, exist_ok=True)
    staging = output_dir / f".{os.getpid()}.{name}"
    staging.mkdir()
    try:
        segmentation, csv, preview, document = (staging / f"{name}{suffix}" for suffix in SUFFIXES)
        write_labels(segmentation, result.labels, scan.affine)
        write_csv(csv, labelling.landmarks_mm)
        points = [(v.name, v.label, v.position_mm.tolist()) for v in labelling.vertebrae]
        warnings = (*scan.warnings, *labelling.warnings)
        save_preview(preview, scan, result.labels, points, name, warnings)
        content = landmarks_document(name, scan.grid, labelling, versions, result.seconds, scan.warnings)
        write_json(document, content)
        final = [output_dir / path.name for path in (segmentation, csv, preview, document)]
        for path in final:
            os.replace(staging / path.name, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return final
