"""What a scan is before hours are spent on it: `vertebrae check`.

Headers and voxels are judged by the readers of `vertebrae segment`, so that what passes here is read there. With the
networks, the spine in view and the plausibility of the stated orientation are told as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .geometry import EXACT_DEG, obliqueness_deg, shear_deg
from .images import Header, InputError, Scan, read_header, read_voxels
from .labels import channel_of_row
from .memory import forecast_gb, machine_gb
from .run import NoSpineFound, VertebraePipeline
from .sources import Source, find_sources
from .spaces import spacing_mm

FORMAT = "vertebrae-check/1"

# Turned by the sign of x, y and z about the middle of the scan; left and right look alike to the networks.
TURNS = {"as stated": (1, 1, 1), "head and foot swapped": (1, 1, -1), "front and back swapped": (1, -1, 1),
         "both swapped": (1, -1, -1)}  # fmt: skip
CLEARLY = 1.15  # another orientation must explain this much more; see docs/cohorts.md

Document = dict[str, Any]


def check_scans(
    text: str | Path, load: Callable[[], VertebraePipeline] | None, *, repair: bool = True, as_json: bool = False
) -> int:
    """Check every scan of a source, print what was found, and return the exit code of the command.

    Args:
        text: see `sources.find_sources`.
        load: makes the pipeline; None = do without the networks.
        repair: see `images.read_scan`.
        as_json: print one JSON document for each scan, a line each.

    Returns:
        0, or the code of the only scan (2 = cannot be used, 3 = no spine), or 1 if some of several are unusable.
    """
    sources = find_sources(text)
    pipeline = load() if load else None
    codes = []
    for source in sources:
        document = check_scan(source, pipeline, repair=repair)
        print(json.dumps(document, allow_nan=False) if as_json else describe(document), flush=True)
        codes.append(0 if document["usable"] else 3 if document["readable"] else 2)
    return codes[0] if len(codes) == 1 else int(any(codes))


def check_scan(source: Source, pipeline: VertebraePipeline | None = None, *, repair: bool = True) -> Document:
    """Return the document on one scan; what could not be found out has no key.

    Keys: `readable`, `usable` (with a `reason` if not), `geometry`, `dicom`, `hounsfield`, `memory`, `spine`,
    `orientation`, `warnings`.
    """
    document: Document = {
        "format": FORMAT,
        "scan": source.name,
        "input": str(source.path),
        "readable": False,
        "usable": False,
    }
    try:
        header = read_header(source.path, repair=repair)
        document |= _header_facts(header)
        if document["memory"]["forecast_gb"] > document["memory"]["machine_gb"]:
            raise InputError(f"{source.path}: needs more memory than this machine has")
        scan = read_voxels(header)
    except InputError as error:
        return {**document, "reason": str(error)}
    document |= {"readable": True, "hounsfield": _voxel_facts(scan), "warnings": list(scan.warnings)}
    if pipeline is None:
        return {**document, "usable": True}
    document |= _spine_facts(pipeline, scan)
    return {**document, "usable": document["spine"]["found"]}


def describe(document: Document) -> str:
    """Return the document as lines to read."""
    lines = [f"{document['scan']}: {'usable' if document['usable'] else document.get('reason', 'no spine found')}"]
    if geometry := document.get("geometry"):
        size, spacing = ("x".join(f"{value:g}" for value in geometry[key]) for key in ("shape", "spacing_mm"))
        turned = f", turned by {geometry['oblique_deg']:.0f} degrees" if geometry["oblique_deg"] > 1 else ""
        sheared = f", sheared by {geometry['shear_deg']:.2g} degrees" if geometry["shear_deg"] > EXACT_DEG else ""
        lines.append(f"  grid: {size} voxels of {spacing} mm, axes {geometry['axcodes']}{turned}{sheared}")
        memory = document["memory"]
        lines.append(f"  memory: about {memory['forecast_gb']:.1f} of {memory['machine_gb']:.1f} GB")
    if hu := document.get("hounsfield"):
        shares = ", ".join(f"{hu[name]:.0%} {name.replace('_', ' ')}" for name in ("air", "soft_tissue", "bone"))
        lines.append(f"  values: {hu['lowest']:g} to {hu['highest']:g} HU; {shares}")
    if stated := document.get("dicom"):
        lines.append("  DICOM: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in stated.items()))
    if spine := document.get("spine"):
        lines.append(f"  spine: {spine['region']}" if spine["found"] else "  spine: none found")
    lines += [f"  warning: {warning}" for warning in document.get("warnings", [])]
    return "\n".join(lines)


def _header_facts(header: Header) -> Document:
    """Return what is known before the voxels are read."""
    facts: Document = {
        "geometry": {
            "shape": list(header.shape),
            "spacing_mm": spacing_mm(header.affine).round(4).tolist(),
            "axcodes": "".join(nib.aff2axcodes(header.affine)),
            "oblique_deg": round(obliqueness_deg(header.affine), 2),
            "shear_deg": round(shear_deg(header.affine), 3),
        },
        "memory": {
            "forecast_gb": round(forecast_gb(header.shape, header.dtype), 2),
            "machine_gb": round(machine_gb(), 2),
        },
        "warnings": list(header.warnings),
    }
    if header.stack:
        stated = {name: header.stack.tags.get(name, "not stated") for name in ("modality", "patient_position")}
        facts["dicom"] = {**stated, "slices": sum(file is not None for file in header.stack.files)}
    return facts


def _voxel_facts(scan: Scan) -> Document:
    """Return the range and the shares of air, soft tissue and bone, from a sample of the voxels."""
    step = max(1, int((scan.array.size / 2e6) ** (1 / 3)))
    sample = scan.array[::step, ::step, ::step]
    tissue = (sample > -100) & (sample < 150)
    shares = {"air": (sample < -300).mean(), "soft_tissue": tissue.mean(), "bone": (sample >= 150).mean()}
    limits = {"lowest": float(scan.array.min()), "highest": float(scan.array.max())}
    return {**limits, **{name: round(float(share), 4) for name, share in shares.items()}}


def _spine_facts(pipeline: VertebraePipeline, scan: Scan) -> Document:
    """Return which vertebrae are in view, and whether they look more like vertebrae under another orientation."""
    found = find_turned(pipeline, scan)
    evidence = {name: sum(value for _, value in vertebrae) for name, vertebrae in found.items()}
    best = better_turn(evidence, "as stated")
    names = [name for name, _ in found["as stated"]]
    warnings = list(scan.warnings)
    if best != "as stated":
        region = f"{found[best][0][0]} to {found[best][-1][0]}"
        warnings.append(f"the spine looks as if the orientation were wrong: {best} (then {region})")
    return {
        "spine": {"found": bool(names), "region": f"{names[0]} to {names[-1]}" if names else "", "vertebrae": names},
        "orientation": {"best": best, "evidence": {name: round(value, 2) for name, value in evidence.items()}},
        "warnings": warnings,
    }


def better_turn(evidence: dict[str, float], stated: str) -> str:
    """Return the turn that explains a scan clearly better than the one it is stored in, else that one."""
    best = max(evidence, key=lambda name: evidence[name])
    return best if evidence[best] > CLEARLY * evidence[stated] else stated


def find_turned(pipeline: VertebraePipeline, scan: Scan) -> dict[str, list[tuple[str, float]]]:
    """Return the vertebrae that the first two stages find under every turn of a scan, with the evidence for each.

    Evidence is how sure the network is of a body, times its share for the level that the whole spine gives it: bodies
    are found upside down as well, but their levels then contradict their order.
    """
    return {name: _vertebrae(pipeline, _turned(scan, signs)) for name, signs in TURNS.items()}


def _vertebrae(pipeline: VertebraePipeline, scan: Scan) -> list[tuple[str, float]]:
    """Return name and evidence of every vertebra; none if there is no spine."""
    try:
        labelling = pipeline.find_vertebrae(scan, pipeline.find_spine(scan))
    except NoSpineFound:
        return []
    shares = labelling.candidates.evidence
    return [(v.name, v.score * float(shares[v.candidate, channel_of_row(v.row)])) for v in labelling.vertebrae]


def _turned(scan: Scan, signs: tuple[int, int, int]) -> Scan:
    """Return the same voxels as if the axes of the world had other signs, about the middle of the scan."""
    middle_mm = scan.affine @ np.append((np.array(scan.array.shape) - 1) / 2, 1.0)
    turn = np.diag([*signs, 1.0])
    turn[:3, 3] = middle_mm[:3] * (1 - np.array(signs))
    return replace(scan, affine=turn @ scan.affine)
