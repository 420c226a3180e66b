"""The landmark document: what `NAME_landmarks.json` states, and reading it back. Every position is RAS+ mm.

It holds all candidates with their evidence, so that the labelling can be decided again without any network
(`relabel`). `docs/landmarks_schema` describes every key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .candidates import Candidates
from .findings import Finding
from .labelling import Labelling, Vertebra
from .labels import NAMES, NUM_CHANNELS, row_of_name
from .numbering import Numbering
from .spaces import Grid, spacing_mm

FORMAT = "vertebrae-landmarks/2"
LEAST_SHARE = 0.0005  # evidence below this is left out; the solver spreads four times as much over every level


def landmarks_document(
    name: str,
    grid: Grid,
    labelling: Labelling,
    *,
    versions: Mapping[str, str] | None = None,
    seconds: Mapping[str, float] | None = None,
    warnings: Sequence[Finding] | None = None,
    scan_file: str | None = None,
    formats: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the document of one scan.

    Args:
        name: the scan's name.
        grid: its shape and affine.
        labelling: what was found.
        versions: bundle versions.
        seconds: wall time per stage.
        warnings: about scan, labelling and mask; None = the labelling's own.
        scan_file: where the scan lies, seen from the document's folder.
        formats: exchange formats that are written beside the document.
    """
    return {
        "format": FORMAT,
        "software": f"vertebrae {__version__}",
        "scan": name,
        "scan_file": scan_file,
        "formats": list(formats),
        "space": "RAS",
        "units": "mm",
        "geometry": {
            "shape": list(grid.shape),
            "spacing_mm": spacing_mm(grid.affine).round(4).tolist(),
            "affine": np.asarray(grid.affine).round(6).tolist(),
        },
        "bundles": dict(versions or {}),
        "seconds": dict(seconds or {}),
        "vertebrae": [_vertebra(vertebra) for vertebra in labelling.vertebrae],
        "alternatives": [
            {"names": list(other.names), "probability": round(other.probability, 3), "margin": round(other.margin, 2)}
            for other in labelling.alternatives
        ],
        "anchors": list(labelling.numbering.anchors),
        "numbering": _numbering(labelling.numbering),
        "pinned": list(labelling.pinned),
        "warnings": [
            {"code": finding.code, "message": finding.message, "vertebrae": list(finding.vertebrae)}
            for finding in (labelling.warnings if warnings is None else warnings)
        ],
        "candidates": _candidates(labelling.candidates),
    }


def _vertebra(vertebra: Vertebra) -> dict[str, Any]:
    return {
        "label": vertebra.label,
        "name": vertebra.name,
        "position_mm": np.round(vertebra.position_mm, 2).tolist(),
        "score": round(vertebra.score, 3),
        "probability": round(vertebra.probability, 3),
        "runner_up": vertebra.runner_up or None,
        "runner_up_probability": round(vertebra.runner_up_probability, 3),
        "candidate": vertebra.candidate,
    }


def _numbering(numbering: Numbering) -> dict[str, Any]:
    shifts = zip(("one_up", "one_down"), numbering.shift_margins, numbering.shift_probabilities, strict=True)
    return {
        "decided_by": numbering.decided_by or None,
        "support": {anchor: round(gain, 2) for anchor, gain in numbering.support.items()},
        "shifted": {
            side: {"margin": round(margin, 2) if math.isfinite(margin) else None, "probability": round(probability, 3)}
            for side, margin, probability in shifts
        },
        "anomalies": [
            {
                "anomaly": verdict.anomaly,
                "verdict": verdict.verdict,
                "probability": round(verdict.probability, 3),
                "reason": verdict.reason,
            }
            for verdict in numbering.verdicts
        ],
    }


def _candidates(candidates: Candidates) -> dict[str, Any]:
    view = candidates.field_of_view_mm
    return {
        "field_of_view_mm": None if view is None else np.round(view, 2).tolist(),
        "found": [
            {
                "position_mm": np.round(position, 2).tolist(),
                "score": round(float(score), 4),
                "evidence": {
                    NAMES[channel]: round(float(shares[channel]), 4)
                    for channel in np.flatnonzero(shares >= LEAST_SHARE)
                },
            }
            for position, score, shares in zip(
                candidates.positions_mm, candidates.scores, candidates.evidence, strict=True
            )
        ],
    }


def read_document(path: Path) -> dict[str, Any]:
    """Read a landmark document of this version.

    Raises:
        ValueError: the file is no JSON, or no landmark document, or one of another version.
    """
    try:
        document = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    found = document.get("format") if isinstance(document, dict) else None
    if found == "vertebrae-landmarks/1":
        raise ValueError(f"{path}: written by an older version, without candidates; run `vertebrae segment` again")
    if found != FORMAT:
        raise ValueError(f"{path}: format {found!r}; expected {FORMAT!r}, a file written by vertebrae")
    return document


def read_grid(document: Mapping[str, Any]) -> Grid:
    """Return the scan's grid that a document states; `ValueError` if there is none."""
    try:
        shape, affine = document["geometry"]["shape"], np.array(document["geometry"]["affine"], dtype=np.float64)
        if len(shape) != 3 or affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"shape {shape} and affine {affine.tolist()}")
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'geometry' is damaged: {_reason(error)}") from None


def read_candidates(document: Mapping[str, Any]) -> Candidates:
    """Return the candidates that a document holds; `ValueError` if they are damaged."""
    try:
        view, found = document["candidates"]["field_of_view_mm"], document["candidates"]["found"]
        evidence = np.zeros((len(found), NUM_CHANNELS))
        for shares, candidate in zip(evidence, found, strict=True):
            for name, share in candidate["evidence"].items():
                shares[row_of_name(name)] = float(share)
        result = Candidates(
            np.array([candidate["position_mm"] for candidate in found], dtype=np.float64).reshape(-1, 3),
            np.array([candidate["score"] for candidate in found], dtype=np.float64),
            evidence / np.maximum(evidence.sum(axis=1, keepdims=True), 1e-12),
            None if view is None else np.array(view, dtype=np.float64).reshape(2, 3),
            read_grid(document),
        )
        if len(result.positions_mm) != len(found) or not all(
            np.isfinite(values).all() for values in (result.positions_mm, result.scores, result.evidence)
        ):
            raise ValueError("a position or a number that is none")
        return result
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'candidates' is damaged: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
