"""Write what was found in one scan; nothing appears under its name before everything is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .documents import landmarks_document, read_document
from .files import write_json
from .formats import write_formats
from .images import write_labels
from .labelling import Labelling
from .landmarks import write_csv
from .run import Result

if TYPE_CHECKING:
    from .preview import Mark

SEGMENTATION, TABLE, PREVIEW = "_segmentation.nii.gz", "_landmarks.csv", "_preview.png"
LANDMARKS = "_landmarks.json"
ERROR = "_error.txt"  # beside or instead of results: why the last attempt failed
SUFFIXES = (SEGMENTATION, TABLE, PREVIEW, LANDMARKS)  # in the order of writing: the last one marks the end
DOUBTFUL = 0.1  # a runner-up at least this probable is shown


def is_done(output_dir: Path, name: str) -> bool:
    """Tell whether a scan's outputs are complete in a folder."""
    return all((output_dir / f"{name}{suffix}").is_file() for suffix in SUFFIXES)


def warning_codes(output_dir: Path, name: str) -> list[str]:
    """Return the codes of the warnings in a scan's landmark document; `ValueError` if it is none."""
    return [warning["code"] for warning in read_document(output_dir / f"{name}{LANDMARKS}")["warnings"]]


def write_result(
    result: Result, output_dir: Path, versions: Mapping[str, str], formats: Sequence[str] = ()
) -> list[Path]:
    """Write mask, landmarks and preview of one scan, and exchange formats if asked for; return their paths.

    Raises:
        OSError: the folder cannot be written; then none of the files is left there.
    """
    from .preview import save_preview

    name, labelling, scan = result.scan.name, result.labelling, result.scan
    output_dir.mkdir(parents=True, exist_ok=True)
    with staged(output_dir, name) as (staging, publish):
        segmentation, csv, preview, document = (staging / f"{name}{suffix}" for suffix in SUFFIXES)
        write_labels(segmentation, result.labels, scan.affine)
        write_csv(csv, labelling.landmarks_mm)
        warnings = [str(warning) for warning in result.warnings]
        save_preview(preview, scan, result.labels, marks(labelling), name, warnings)
        content = landmarks_document(
            name,
            scan.grid,
            labelling,
            versions=versions,
            seconds=result.seconds,
            warnings=result.warnings,
            scan_file=_seen_from(output_dir, scan.path),
            formats=formats,
        )
        write_json(document, content)
        others = write_formats(staging, result, formats, dict(versions))
        return publish([*others, segmentation, csv, preview, document])


@contextmanager
def staged(output_dir: Path, name: str) -> Iterator[tuple[Path, Callable[[Sequence[Path]], list[Path]]]]:
    """Yield a temporary folder and the function that moves files from it into `output_dir`: all of them or none."""
    staging = output_dir / f".{os.getpid()}.{name}"
    staging.mkdir()

    def publish(files: Sequence[Path]) -> list[Path]:
        final = [output_dir / path.name for path in files]
        before = {path: staging / f"before.{path.name}" for path in final if path.exists()}
        for path, kept in before.items():
            (os.replace if path.is_dir() else os.link)(path, kept)
        try:
            for source, target in zip(files, final, strict=True):
                os.replace(source, target)
        except OSError:
            for path in final:
                if path.is_dir():
                    shutil.rmtree(path)
                os.replace(before[path], path) if path in before else path.unlink(missing_ok=True)
            raise
        return final

    try:
        yield staging, publish
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def marks(labelling: Labelling) -> list[Mark]:
    """Return what the preview draws of every vertebra; a runner-up that is not unlikely is its doubt."""
    from .preview import Mark

    result = []
    for vertebra in labelling.vertebrae:
        doubt = f"{vertebra.runner_up} {vertebra.runner_up_probability:.0%}"
        doubtful = vertebra.runner_up_probability > DOUBTFUL
        result.append(Mark(vertebra.name, vertebra.label, vertebra.position_mm, doubt if doubtful else ""))
    return result


def _seen_from(folder: Path, path: Path) -> str:
    """Return a path relative to a folder, or absolute where there is no way from one to the other."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return Path(path).absolute().as_posix()
