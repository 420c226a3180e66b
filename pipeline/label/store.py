"""The studies folder: MONAI Label's local datastore, kept inside its folder, with labels in one numbering."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException
from nibabel.volumeutils import apply_read_scaling

from ..images import write_labels
from ..itkfile import file_header, read_file
from ..labels import NAMES, row_of_name
from ..nifti import read_whole
from .exchange import VALUES
from .launch import SUFFIXES


class Studies(LocalDatastore):
    """A folder of scans; MONAI Label adds `labels/` and `datastore_v2.json` to it.

    Args:
        folder: with the scans directly in it.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, extensions=SUFFIXES, auto_reload=True)

    def find(self, image: Any, uploads: Path) -> str:
        """Return the ID or path of a scan that may be read: of these studies, or uploaded to the server.

        Raises:
            ImageNotFoundException: it is neither; whether there is such a file is not told.
        """
        if isinstance(image, str) and image in self.list_images():
            return image
        path = Path(str(image)).resolve() if image else Path()
        folders = (Path(self._datastore_path).resolve(), uploads.resolve())
        if not any(folder in path.parents for folder in folders) or not path.exists():
            raise ImageNotFoundException(f"{image!r}: no scan of this server has this name")
        return str(path)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a scan; `ValueError` for a name that is none."""
        return super().add_image(file_name(image_id or Path(image_filename).name), image_filename, image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a mask under a tag as NIfTI with the values of `exchange.VALUES`, whatever numbers the viewer used.

        Args:
            image_id: of the scan.
            label_filename: mask; of another file (markups) the content stays as it is.
            label_tag: such as "final".
            label_info: a viewer's `label_info`, a list of `{"name", "idx"}`, tells what its numbers mean.

        Raises:
            ValueError: a tag that is none, a name that is no vertebra, or a number without a name.
        """
        label_tag = file_name(getattr(label_tag, "value", label_tag))  # MONAI Label's own tags are an Enum
        if not label_filename.endswith((".nii.gz", ".nii", ".nrrd", ".mha")):
            return super().save_label(image_id, label_filename, label_tag, label_info)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "label.nii.gz"
            meaning = (label_info or {}).get("label_info")
            rewrite(Path(label_filename), target, VALUES if meaning is None else numbers_of(meaning))
            return super().save_label(image_id, str(target), label_tag, label_info)


def file_name(text: str) -> str:
    """Return a name that stays inside a folder; `ValueError` for one that would leave it."""
    if not text or text != Path(text).name or text.startswith("."):
        raise ValueError(f"{text!r} cannot be the name of a file")
    return text


def numbers_of(meaning: Any) -> dict[str, int]:
    """Return the number of every name in a viewer's `label_info`; `ValueError` if it is no such list."""
    try:
        return {NAMES[row_of_name(entry["name"])]: int(entry["idx"]) for entry in meaning}
    except (KeyError, TypeError):
        raise ValueError(f"label_info {meaning!r}: expected a list of objects with name and idx") from None


def rewrite(source: Path, target: Path, numbers: dict[str, int]) -> None:
    """Write a mask as NIfTI with each name's own value instead of the number it has in the source."""
    values, affine = read_values(source)
    table = {number: VALUES[name] for name, number in numbers.items()}
    strange = sorted(set(np.unique(values).tolist()) - {0, *table})
    if strange:
        raise ValueError(f"label value {strange[0]:g} has no name; known are {sorted(table)}")
    labels = np.zeros(values.shape, np.uint8)
    for number, value in table.items():
        labels[values == number] = value
    write_labels(target, labels, affine)


def read_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask's `(I, J, K)` numbers and its `(4, 4)` affine; `ValueError` if it cannot be read."""
    try:
        if not path.name.endswith((".nii", ".nii.gz")):
            return read_file(path), file_header(path).affine
        image, raw = read_whole(path)
        values = apply_read_scaling(raw, image.dataobj.slope, image.dataobj.inter)
    except (ValueError, OSError) as error:
        raise ValueError(f"the label cannot be read: {error}") from None
    if values.ndim != 3:
        raise ValueError(f"the label is {values.ndim}-D; expected 3-D")
    return values, np.asarray(image.affine, dtype=np.float64)
