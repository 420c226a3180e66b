"""3D Slicer: a point list with level names (`.mrk.json`) and a color table (`.ctbl`) for the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files import atomic_path, write_json
from ..labels import LABELS, NAMES
from ..preview import color_of_label
from ..run import Result

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def write(folder: Path, result: Result, versions: dict[str, str]) -> list[Path]:
    """Write `NAME_landmarks.mrk.json` (LPS mm, one point per vertebra) and `NAME_colors.ctbl` (all 26 labels)."""
    name = result.scan.name
    points = [
        {
            "id": str(vertebra.label),
            "label": vertebra.name,
            "description": f"probability {vertebra.probability:.3f}",
            "position": (vertebra.position_mm * RAS_TO_LPS).round(3).tolist(),
            "selected": True,
            "locked": True,
            "visibility": True,
            "positionStatus": "defined",
        }
        for vertebra in result.labelling.vertebrae
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "labelFormat": "%N-%d",
        "controlPoints": points,
        "display": {"visibility": True, "pointLabelsVisibility": True, "textScale": 3.0, "glyphScale": 2.0},
    }
    markups, colors = folder / f"{name}_landmarks.mrk.json", folder / f"{name}_colors.ctbl"
    write_json(markups, {"@schema": SCHEMA, "markups": [markup]})
    with atomic_path(colors) as temporary:
        temporary.write_text("\n".join(_color_lines(colors.name)) + "\n")
    return [markups, colors]


def _color_lines(title: str) -> list[str]:
    """Return a header, the background and one line `label name red green blue alpha` (0-255) per vertebra."""
    lines = [f"# Color table file {title}", "# label name red green blue alpha", "0 background 0 0 0 0"]
    for label, name in zip(LABELS, NAMES, strict=True):
        red, green, blue = (255 * color_of_label(label)).round().astype(int)
        lines.append(f"{label} {name} {red} {green} {blue} 255")
    return lines
