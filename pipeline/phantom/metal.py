"""Implants: pedicle screws with rods, cages, plates, dental fillings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .canvas import Canvas
from .spine import kind_of

if TYPE_CHECKING:
    from .body import Body

METAL_HU = 3071.0


def paint_metal(body: Body) -> Canvas | None:
    """Return the signed distance to everything metal on the grid of the bones, or None where there is none."""
    implants = body.spine.variants.metal
    if implants is None and not body.fillings:
        return None
    metal = Canvas(body.bone.grid, 20.0)
    for point in body.fillings:
        metal.join(metal.ellipsoid(point, (2.6, 2.6, 2.2)))
    if implants is not None:
        _join_cages(metal, body, implants.cages)
        if implants.kind == "screws":
            _join_screws(metal, body, implants.rows)
        else:
            _join_plate(metal, body, implants.rows)
    return metal if (metal.array < 0).any() else None


def _join_screws(metal: Canvas, body: Body, rows: tuple[int, ...]) -> None:
    """Screws through both pedicles of every row, their heads joined by rods."""
    spine, rng = body.spine, body.rng
    radius = rng.uniform(2.3, 3.3)
    for side in (-1, 1):
        heads = []
        for row in rows:
            index = spine.rows.index(row)
            center, frame, scale = spine.centers_mm[index], spine.frames[index], spine.scales[index]
            wide = np.interp(kind_of(row), [7, 16, 19, 23], [12, 13, 14, 19])
            depth = np.interp(kind_of(row), [7, 16, 23], [9, 15, 17])
            tip = center + frame @ (np.array([side * 8, 6 + rng.normal(0, 2), 3]) * scale)
            head = center + frame @ (np.array([side * (wide + 5), -depth - 26, 5]) * scale)
            metal.join(metal.tube(np.array([tip, head]), radius))
            metal.join(metal.ellipsoid(head, (6, 6, 6)))
            heads.append(head)
        metal.join(metal.tube(np.array(heads), 2.8))


def _join_cages(metal: Canvas, body: Body, rows: tuple[int, ...]) -> None:
    """Two small blocks in the disc below each row."""
    ends = body.spine.ends_mm()
    for row in rows:
        index = body.spine.rows.index(row)
        frame, high = body.spine.frames[index], np.linalg.norm(ends[index + 1] - ends[index]) * 0.3
        wide = np.interp(kind_of(row), [2, 7, 23], [6, 7, 12])
        for side in (-1, 1):
            center = (ends[index] + ends[index + 1]) / 2 + frame[:, 0] * side * wide * 0.7
            metal.join(metal.block(center, frame, np.array([wide * 0.6, wide * 1.3, high])), shell_mm=2.4)


def _join_plate(metal: Canvas, body: Body, rows: tuple[int, ...]) -> None:
    """A plate before the bodies of the neck, with a pair of screws in each."""
    spine = body.spine
    indices = [spine.rows.index(row) for row in rows]
    for side in (-1, 1):
        line = [spine.centers_mm[i] + spine.frames[i] @ np.array([side * 5, 11, 0]) for i in indices]
        metal.join(metal.tube(np.array(line), 2.0))
        for i, start in zip(indices, line, strict=True):
            metal.join(metal.tube(np.array([start, start + spine.frames[i] @ np.array([-side * 1.0, -15, 2])]), 1.8))
