"""Stands in for pydicom-seg, which MONAI Label imports at its start and which does not load beside pydicom 3.

MONAI Label uses it to read and write DICOM SEG for a DICOM server, and for nothing else.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    raise ImportError(
        f"pydicom_seg.{name}: pydicom-seg does not load beside pydicom 3; DICOM servers are not supported"
    )
