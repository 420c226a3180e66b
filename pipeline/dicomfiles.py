"""Which files of a folder form the CT series, told from their headers by pydicom before ITK opens one.

ITK may make room for whatever length a damaged element states, up to 4 GB, so no such file may reach it.
Everything raises `ValueError` with a reason that does not name the folder. pydicom is imported late.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

OURS = ("_segmentation.dcm", "_rtstruct.dcm")  # what `formats` writes
MAX_MATRIX = 4096  # rows or columns of a compressed slice, whose file says nothing of its size; CT has up to 2048
MAX_DEFLATED = 2**20  # bytes of a file whose header too is compressed: it may unpack to a thousand times as much
_UNDEFINED = 2**32 - 1  # the length of what ends at a mark
_SHORT = 4096  # bytes; longer values stay in the file
_MODALITY, _SERIES_UID = 0x00080060, 0x0020000E
_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS_ALLOCATED = 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100
_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)  # of integers, of 32 and 64-bit floats


def is_dicom(file: Path) -> bool:
    """Tell a DICOM file by the mark after its preamble; the index file DICOMDIR is none, nor are our own results."""
    if not file.is_file() or file.name.startswith(".") or file.name == "DICOMDIR" or file.name.endswith(OURS):
        return False
    with open(file, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def choose_series(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the files of the CT series with most files, in no order, and a warning for what was left out.

    Raises:
        ValueError: there is no series, none is CT, or every file is damaged.
    """
    series: dict[str, tuple[str, list[Path]]] = {}
    damaged: list[str] = []
    for file in sorted(filter(is_dicom, folder.iterdir())):
        try:
            uid, modality = identify(file)
        except ValueError as error:
            damaged.append(f"{file.name}: {error}")
        else:
            series.setdefault(uid, (modality, []))[1].append(file)
    more = f"; and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    if not series:
        reason = f"no DICOM file can be read: {damaged[0]}{more}" if damaged else "no DICOM image series in this folder"
        raise ValueError(reason)
    ranked = sorted(series.values(), key=lambda pair: -len(pair[1]))
    usable = [files for modality, files in ranked if modality in ("CT", "")]
    if not usable:
        raise ValueError(f"the DICOM modality is {ranked[0][0]}; expected CT")
    warnings = []
    if len(series) > 1:
        sizes = ", ".join(f"{modality or 'unnamed'} of {len(files)}" for modality, files in ranked)
        warnings.append(f"{len(series)} DICOM series ({sizes} slices): the CT series of {len(usable[0])} was read")
    if damaged:
        warnings.append(f"DICOM files left out: {damaged[0]}{more}")
    return usable[0], tuple(warnings)


def identify(file: Path) -> tuple[str, str]:
    """Return the series UID and the modality that a DICOM file states, each "" if it states none.

    Raises:
        ValueError: the file promises more than it holds, or says that it is a CT and is no image.
    """
    try:
        dataset, size = _read(file), file.stat().st_size
        for element in [*dataset.file_meta.values(), *dataset.values()]:
            _check_element(element, size)
    except ValueError:
        raise
    except Exception as error:  # pydicom raises many types at what is no DICOM
        raise ValueError(f"damaged ({' '.join(str(error).split()) or type(error).__name__})") from error
    stated = {int(element.tag): element for element in dataset.values()}
    modality = _text(stated.get(_MODALITY))
    if modality in ("CT", ""):
        _check_pixels(stated, file)
    return _text(stated.get(_SERIES_UID)), modality


def _read(file: Path) -> Any:
    """Return a file's data set, long values left in the file where they can be found again."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if read_file_meta_info(file).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return dcmread(file, defer_size=_SHORT)
    if (size := file.stat().st_size) > MAX_DEFLATED:
        raise ValueError(f"deflated, {size} bytes; such files are read up to {MAX_DEFLATED} bytes")
    return dcmread(file)


def _check_element(element: Any, file_bytes: int) -> None:
    """Refuse an element that states more bytes than follow it, or a type that does not exist: ITK would misread it."""
    from pydicom.valuerep import VR

    if element.VR is not None and element.VR not in VR.__members__:
        raise ValueError(f"damaged, element {element.tag} has the type {element.VR!r}")
    stated = getattr(element, "length", _UNDEFINED)  # sequences that pydicom has opened have none
    if stated in (0, _UNDEFINED):
        return
    held = len(element.value) if element.value is not None else max(0, file_bytes - element.value_tell)
    if stated > held:
        raise ValueError(f"damaged or cut short, element {element.tag} states {stated} bytes but {held} are there")


def _check_pixels(stated: dict[int, Any], file: Path) -> None:
    """Refuse an image whose size does not go with its pixel data."""
    pixels = next((stated[tag] for tag in _PIXELS if tag in stated), None)
    if pixels is None or not pixels.length:
        raise ValueError("no pixel data")
    rows, columns, samples, bits = (_number(stated.get(tag)) for tag in (_ROWS, _COLUMNS, _SAMPLES, _BITS_ALLOCATED))
    frames = _text(stated.get(_FRAMES)) or "1"
    size = f"{rows} rows, {columns} columns, {frames} frames of {bits} bits"
    if not frames.isdigit():
        raise ValueError(f"{size}: the number of frames is not a number")
    if pixels.length != _UNDEFINED:
        if rows * columns * int(frames) * max(1, samples) * max(8, bits) > 8 * pixels.length:
            raise ValueError(f"{size} do not fit into {pixels.length} bytes of pixel data")
    elif max(rows, columns) > MAX_MATRIX:
        raise ValueError(f"{size}; expected at most {MAX_MATRIX} rows and columns")
    else:
        _check_fragments(file, pixels.value_tell)


def _check_fragments(file: Path, start: int) -> None:
    """Refuse compressed pixel data, which begin at a byte, one of whose fragments reaches beyond the file."""
    with open(file, "rb") as stream:
        stream.seek(start)
        while (mark := stream.read(8))[:4] == b"\xfe\xff\x00\xe0":
            length, held = int.from_bytes(mark[4:], "little"), file.stat().st_size - stream.tell()
            if length > held:
                raise ValueError(f"damaged or cut short, {length} bytes stated for a fragment but {held} are there")
            stream.seek(length, os.SEEK_CUR)
        if mark[:4] != b"\xfe\xff\xdd\xe0":
            raise ValueError(f"damaged or cut short, {mark[:4]!r} where a fragment should begin")


def _text(element: Any) -> str:
    """Return an element's text as it stands in the file; empty for none."""
    value = element.value if element is not None else b""
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


def _number(element: Any) -> int:
    """Return the two bytes of an element as a number; 0 for none."""
    value = element.value if element is not None else b""
    return int.from_bytes(value[:2], "little" if element.is_little_endian else "big") if value else 0
