"""Errors of what `vertebrae report` measures, on phantoms with known heights, angles, volumes and HU.

    python -m benchmarks.measurements --count 12 --seed 5

The vertebrae are solids with straight walls and endplates between three given heights (wedged, biconcave, crushed,
sound), with pedicles, lamina and spinous process, set along a drawn spine and scanned on a drawn grid: 0.8-3 mm voxels,
15 % of them coarser, any axis order, half of them oblique, blurred, noisy. Measured is the exact mask, not a network's.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from pipeline.labels import ROWS_BY_LEVEL, row_of_name
from pipeline.landmarks import absent
from pipeline.measurements import measure
from pipeline.measurements.angles import CORONAL, SAGITTAL, tilt_deg
from pipeline.phantom.body import Body
from pipeline.phantom.bone import draw_bone
from pipeline.phantom.exposure import draw_look
from pipeline.phantom.grids import draw_grid, preset_of
from pipeline.phantom.scan import scan
from pipeline.phantom.shapes import Shape
from pipeline.phantom.spine import Spine, draw_spine
from pipeline.spaces import spacing_mm, to_voxel

SPACING_MM = 0.75
LOW_MM, HIGH_MM = np.array([-34.0, -66.0, -27.0]), np.array([34.0, 30.0, 27.0])


def solid(width: float, depth: float, heights_mm: np.ndarray) -> np.ndarray:
    """Return the signed distance of a vertebra whose endplates are parabolas through three heights, back to front."""
    axes = [np.arange(a, b + 1e-6, SPACING_MM, dtype=np.float32) for a, b in zip(LOW_MM, HIGH_MM, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    back, middle, front = heights_mm
    curve = np.polyfit([-1, 0, 1], [back, middle, front], 2)
    height = np.polyval(curve, np.clip(y / (depth / 2), -1, 1))
    slope = np.polyval(np.polyder(curve), np.clip(y / (depth / 2), -1, 1)) / depth
    end = (np.abs(z) - height / 2) / np.sqrt(1 + slope**2)
    body = np.maximum(np.maximum(np.abs(x) - width / 2, np.abs(y) - depth / 2), end)
    scale = float(np.mean(heights_mm)) / 24

    def block(center_x: float, center_y: float, half_x: float, half_y: float, half_z: float) -> np.ndarray:
        sides = (np.abs(np.abs(x) - center_x) - half_x, np.abs(y - center_y) - half_y, np.abs(z) - half_z)
        return np.maximum(np.maximum(*sides[:2]), sides[2])

    wall = -depth / 2
    parts = [
        block(12, wall - 7, 3, 8, 4 * scale),
        block(0, wall - 18, 15, 4, 7 * scale),
        block(0, wall - 27, 3, 7, 6 * scale),
    ]
    return np.minimum.reduce([body, *parts])


def draw_heights(rng: np.random.Generator, height: float) -> np.ndarray:
    """Draw back, middle and front height: sound, wedged, biconcave or crushed."""
    kind = rng.choice(["sound", "wedge", "biconcave", "crush"], p=[0.55, 0.2, 0.15, 0.1])
    loss = rng.uniform(0.15, 0.5)
    share = {"sound": (1, 0.92, 0.98), "wedge": (1, 1 - loss / 2, 1 - loss), "biconcave": (1, 1 - loss, 0.97)}
    return height * np.array(share.get(str(kind), (1 - 0.8 * loss, 1 - loss, 1 - loss)))


def make(seed: tuple[int, int]) -> tuple[dict, dict]:
    """Return the scan (arguments of `measure`, spacing) and its truth."""
    rng = np.random.default_rng(list(seed))
    spine = draw_spine(rng, "none")
    spine = replace(spine, scales=np.ones_like(spine.scales))
    grid = draw_grid(rng, spine, preset_of("mixed"))
    apart = np.linalg.norm(np.diff(spine.centers_mm, axis=0), axis=1)
    heights = {
        row: draw_heights(rng, 0.74 * float(apart[max(i - 1, 0) : i + 1].mean())) for i, row in enumerate(spine.rows)
    }
    widths = {row: float(np.interp(row, [0, 6, 12, 24], [26, 31, 33, 48])) for row in spine.rows}
    depths = {row: float(np.interp(row, [0, 6, 12, 24], [18, 19, 27, 36])) for row in spine.rows}
    shapes = [Shape(solid(widths[r], depths[r], heights[r]), LOW_MM, SPACING_MM, "solid") for r in spine.rows]
    look, bone = draw_look(rng), replace(draw_bone(rng), marrow_sd=5.0, neck=0.0)  # the same density in all bodies
    body = Body(spine, grid, bone, rng)
    hu, labels = scan(spine, shapes, body, look, grid, rng)
    landmarks_mm = absent()
    index = to_voxel(grid.affine, spine.centers_mm)
    for i in np.flatnonzero(((index >= 0) & (index <= np.array(grid.shape) - 1)).all(axis=1)):
        landmarks_mm[spine.rows[i]] = spine.centers_mm[i]
    truth = {
        "heights": heights,
        "volume_ml": {
            r: float((s.distance_mm < 0).sum() * SPACING_MM**3 / 1000) for r, s in zip(spine.rows, shapes, strict=True)
        },
        "hu": bone.marrow * look.gain + look.offset,
        "contrast": body.contrast > 0,
        "normals": normals(spine, heights, depths),
    }
    return {"labels": labels, "affine": grid.affine, "landmarks_mm": landmarks_mm, "hu": hu}, truth


def normals(spine: Spine, heights: dict, depths: dict) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return the upward normals of both endplates, through their rims, by landmark row."""
    found = {}
    for row, frame in zip(spine.rows, spine.frames, strict=True):
        rise = (heights[row][2] - heights[row][0]) / 2 / depths[row]
        found[row] = (frame @ [0, -rise, 1.0], frame @ [0, rise, 1.0])
    return found


def errors(given: dict, truth: dict) -> list[tuple[str, float]]:
    """Return (what, measured minus true) of everything that was measured."""
    found = measure(**given)
    rows: list[tuple[str, float]] = []
    for v in found.vertebrae:
        row = row_of_name(v.name)
        back, middle, front = truth["heights"][row]
        for what, value, true in (
            ("front height, mm", v.anterior_mm, front),
            ("middle height, mm", v.middle_mm, middle),
            ("back height, mm", v.posterior_mm, back),
            ("volume, %", v.volume_ml, truth["volume_ml"][row]),
            ("HU", v.hu, truth["hu"]),
        ):
            if value.value is not None and row > 1:
                rows.append((what, (100 * (value.value / true - 1)) if what == "volume, %" else value.value - true))
        if (
            v.anterior_loss.value is not None
            and v.posterior_loss.value is not None
            and abs(v.posterior_loss.value) < 0.2
        ):
            rows.append(("front loss, points", 100 * (v.anterior_loss.value - (1 - front / back))))
            rows.append(("middle loss, points", 100 * (v.middle_loss.value - (1 - middle / back))))
    ends = truth["normals"]
    for what, value, (upper, lower), sign in (
        ("lordosis, degrees", found.lordosis_deg, ("L1", "L5"), 1),
        ("kyphosis, degrees", found.kyphosis_deg, ("T4", "T12"), -1),
    ):
        if value.value is not None:
            first, last = ends[row_of_name(upper)][0], ends[row_of_name(lower)][1]
            rows.append((what, value.value - sign * (tilt_deg(first, SAGITTAL) - tilt_deg(last, SAGITTAL))))
    if found.cobb_deg.value is not None:
        rows.append(("Cobb angle, degrees", found.cobb_deg.value - true_cobb(found, ends)))
    told = [v.hu for v in found.vertebrae if v.hu.value is not None or "contrast" in v.hu.reason]
    if told and any(ROWS_BY_LEVEL.index(row_of_name(v.name)) > 10 for v in found.vertebrae):
        rows.append((f"contrast agent: {truth['contrast']}", float(any("contrast" in m.reason for m in told))))
    return rows


def true_cobb(found, ends: dict) -> float:
    """Return the largest angle between true endplates over the measured chain."""
    known = [row_of_name(v.name) for v in found.vertebrae if v.middle_mm.value is not None and row_of_name(v.name) >= 7]
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    tilts = [(tilt_deg(ends[row][0], CORONAL), tilt_deg(ends[row][1], CORONAL)) for row in max(runs, key=len)]
    return max(abs(tilts[i][0] - tilts[j][1]) for i in range(len(tilts)) for j in range(i + 2, len(tilts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for index in tqdm(range(options.count), unit="scan", disable=None):
        given, truth = make((880_100 + options.seed, index))
        thick_mm = spacing_mm(given["affine"]).max()
        coarse = "to 1.5 mm" if thick_mm <= 1.5 else "1.5-3 mm" if thick_mm <= 3 else "over 3 mm"
        for what, error in errors(given, truth):
            found[what, "all" if "degrees" in what or "contrast" in what else coarse].append(error)
    print(f"{'':<22}{'voxels':<11}{'count':>6}{'median':>9}{'mean abs':>10}{'95 %':>8}")
    for (what, voxels), values in sorted(found.items()):
        if what.startswith("contrast"):
            print(f"{what}: flagged in {int(sum(values))} of {len(values)} scans")
            continue
        size = np.abs(values)
        line = f"{np.median(values):>+9.2f}{size.mean():>10.2f}{np.percentile(size, 95):>8.2f}"
        print(f"{what:<22}{voxels:<11}{len(values):>6}{line}")


if __name__ == "__main__":
    main()
