"""DICOM Segmentation with SNOMED codes, by highdicom, for scans that came as DICOM."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from .. import __version__
from ..files import atomic_path
from ..preview import color_of_label
from ..run import Result
from .snomed import code_of
from .source import present_labels, read_source, stable_uid


def write(folder: Path, result: Result, versions: dict[str, str]) -> list[Path]:
    """Write `NAME_segmentation.dcm`: one binary segment per vertebra, frame by frame on the source's own slices."""
    labels = result.labels
    source, indices = read_source(result.scan)
    present = present_labels(labels)
    number_of_label = np.zeros(256, np.uint8)  # segment numbers must be 1, 2, 3 ...
    number_of_label[[label for label, _ in present]] = range(1, len(present) + 1)
    on_images = labels[..., indices] if len(source) > 1 else labels  # without interpolated slices
    segmentation = hd.seg.Segmentation(
        source_images=source,
        pixel_array=number_of_label[np.ascontiguousarray(on_images.T)],  # (K, J, I): frames, rows, columns
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(number_of_label[label], label, name, versions) for label, name in present],
        series_instance_uid=stable_uid(source[0], labels, "segmentation series"),
        series_number=900,
        sop_instance_uid=stable_uid(source[0], labels, "segmentation"),
        instance_number=1,
        manufacturer="vertebrae",
        manufacturer_model_name="vertebrae",
        software_versions=__version__,
        device_serial_number="0",
        content_label="VERTEBRAE",
        content_description="Vertebrae named and segmented in CT",
        series_description="Vertebrae",
    )
    path = folder / f"{result.scan.name}_segmentation.dcm"
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)
    return [path]


def _describe(number: int, label: int, name: str, versions: dict[str, str]) -> SegmentDescription:
    """Return what DICOM shall know of one vertebra."""
    value, meaning = code_of(name)
    algorithm = hd.AlgorithmIdentificationSequence(
        name="vertebrae",
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        parameters={key: str(value) for key, value in versions.items()} or None,
    )
    return SegmentDescription(
        segment_number=int(number),
        segment_label=name,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=Code(value, "SCT", meaning),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=CIELabColor.from_rgb(*(255 * color_of_label(label)).round().astype(int).tolist()),
    )
