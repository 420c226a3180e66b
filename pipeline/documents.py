"""The landmark document: what `NAME_landmarks.json` states. Every position is RAS+ mm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .labelling import Labelling
from .spaces import Grid, spacing_mm

FORMAT = "vertebrae-landmarks/1"


def landmarks_document(
    name: str,
    grid: Grid,
    labelling: Labelling,
    versions: Mapping[str, str] | None = None,
    seconds: Mapping[str, float] | None = None,
    warnings: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the document of one scan.

    Args:
        name: the scan's name.
        grid: its shape and affine.
        labelling: what was found.
        versions: bundle versions.
        seconds: wall time per stage.
        warnings: about the scan itself, listed before those about the labels.
    """
    return {
        "format": FORMAT,
        "scan": name,
        "space": "RAS",
        "units": "mm",
        "geometry": {
            "shape": list(grid.shape),
            "spacing_mm": spacing_mm(grid.affine).round(4).tolist(),
            "affine": np.asarray(grid.affine).round(6).tolist(),
        },
        "bundles": dict(versions or {}),
        "seconds": dict(seconds or {}),
        "vertebrae": [
            {
                "label": vertebra.label,
                "name": vertebra.name,
                "position_mm": np.round(vertebra.position_mm, 2).tolist(),
                "score": round(vertebra.score, 3),
                "probability": round(vertebra.probability, 3),
                "runner_up": vertebra.runner_up or None,
                "runner_up_probability": round(vertebra.runner_up_probability, 3),
            }
            for vertebra in labelling.vertebrae
        ],
        "alternatives": [
            {"names": list(other.names), "probability": round(other.probability, 3), "margin": round(other.margin, 2)}
            for other in labelling.alternatives
        ],
        "anchors": list(labelling.anchors),
        "warnings": [*warnings, *labelling.warnings],
    }
