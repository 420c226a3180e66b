"""The picture of a result: two planes bent along the spine (`planes`), the mask and the names drawn over the CT."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy import ndimage
from scipy.optimize import isotonic_regression

from .files import atomic_path
from .images import Scan
from .labels import ROWS_BY_LEVEL, row_of_label
from .planes import STEP_MM, VIEWS, Plane, View, bent_planes, reformat
from .spaces import spacing_mm

WINDOW_HU = (-200, 800)
NAME_REACH_MM = (14.0, 50.0)  # how far from the landmark its name stands: clear of the mask, within these bounds

MAX_HEIGHT_IN, MAX_WIDTH_IN, MIN_WIDTH_IN, MARGIN_IN = 9.5, 9.5, 5.0, 0.15  # of the two panels together
DPI, NAME_PT = 150, 8
INK, FAINT, AMBER, PAPER = "#F2F2F2", "#C4C8CC", "#FFB84D", "#101214"
OUTLINE = [withStroke(linewidth=1.8, foreground="black")]

# Okabe and Ito's palette for color-blind readers, in the order in which neighbors differ most under protanopia and
# deuteranopia; the rounds of seven are lighter (> 0) or darker (< 0), so that all 26 levels differ.
PALETTE = ("#E69F00", "#0072B2", "#009E73", "#F0E442", "#56B4E9", "#D55E00", "#CC79A7")
TINTS = (0.35, 0.15, -0.25, 0.0)


class Mark(NamedTuple):
    """One vertebra to draw.

    Attributes:
        name: such as `"T4"`.
        label: VerSe label.
        position_mm: `(3,)` RAS+ mm.
        doubt: what else it may be, written beside the name; "" = nothing.
    """

    name: str
    label: int
    position_mm: Sequence[float] | np.ndarray
    doubt: str = ""


def color_of_label(label: int) -> np.ndarray:
    """Return the `(3,)` RGB color (0-1) of a VerSe label: the same in every picture, unlike those of its neighbors."""
    level = ROWS_BY_LEVEL.index(row_of_label(label))
    color = np.array(to_rgb(PALETTE[level % len(PALETTE)]))
    tint = TINTS[level // len(PALETTE)]
    return color + (1 - color) * tint if tint > 0 else color * (1 + tint)


def save_preview(
    path: Path, scan: Scan, labels: np.ndarray, marks: Sequence[Mark], title: str, warnings: Sequence[str] = ()
) -> None:
    """Write the preview of one scan as PNG; see `preview_figure` for the arguments."""
    figure = preview_figure(scan, labels, marks, title, warnings)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor=figure.get_facecolor())


def preview_figure(
    scan: Scan, labels: np.ndarray, marks: Sequence[Mark], title: str, warnings: Sequence[str] = ()
) -> Figure:
    """Return the preview as a figure whose two axes are in RAS+ mm (y and z, then x and z).

    Args:
        scan: the CT.
        labels: `(I, J, K)` uint8 VerSe labels on the scan's grid, 0 = background; may be empty.
        marks: the vertebrae; one gives straight planes through it, none through the scan's center.
        title: one line above the pictures.
        warnings: one line each below the pictures.
    """
    positions_mm = np.array([mark.position_mm for mark in marks], dtype=np.float64).reshape(-1, 3)
    planes = bent_planes(scan.grid, positions_mm)
    figure, panels = _lay_out(planes, title, warnings)
    for panel, view, plane in zip(panels, VIEWS, planes, strict=True):
        _draw_ct(panel, reformat(scan.array, scan.affine, plane.points_mm, fill=-1024), plane)
        mask = reformat(labels, scan.affine, plane.points_mm, order=0)
        _draw_mask(panel, mask, plane, sigma_mm=max(float(spacing_mm(scan.affine).min()) / 2, 0.4))
        if marks:
            _draw_marks(panel, view.axis, marks, mask, plane)
        _draw_frame(panel, view)
    return figure


def _lay_out(planes: Sequence[Plane], title: str, warnings: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with its title and warnings, and one empty panel per plane, side by side at one scale."""
    sizes_mm = np.array([plane.points_mm.shape[1::-1] for plane in planes]) * STEP_MM  # width, height
    scale = min(MAX_HEIGHT_IN / sizes_mm[0, 1], MAX_WIDTH_IN / sizes_mm[:, 0].sum())  # inches per mm
    sizes_in = sizes_mm * scale
    across_in = sizes_in[:, 0].sum() + MARGIN_IN * (len(planes) - 1)
    width_in = max(across_in, MIN_WIDTH_IN) + 2 * MARGIN_IN
    heading = textwrap.wrap(title, int(width_in * 10.5))
    notes = [line for warning in warnings for line in textwrap.wrap(f"\u26a0 {warning}", int(width_in * 14))]
    above_in, below_in = 0.25 + 0.19 * len(heading), MARGIN_IN + 0.17 * len(notes)
    paper_in = np.array([width_in, above_in + sizes_in[0, 1] + below_in])
    figure = Figure(figsize=(paper_in[0], paper_in[1]), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    left, edge = MARGIN_IN / paper_in
    figure.text(left, 1 - edge, "\n".join(heading), va="top", color=INK, size=11, weight="bold", parse_math=False)
    figure.text(left, edge / 2, "\n".join(notes), va="bottom", color=AMBER, size=8, parse_math=False)
    lefts_in = (width_in - across_in) / 2 + np.cumsum([0, *(sizes_in[:-1, 0] + MARGIN_IN)])
    bottom, height = below_in / paper_in[1], sizes_in[0, 1] / paper_in[1]
    places = [(x / width_in, bottom, w / width_in, height) for x, w in zip(lefts_in, sizes_in[:, 0], strict=True)]
    return figure, [figure.add_axes(place, xticks=[], yticks=[], frame_on=False) for place in places]


def _draw_ct(panel: Axes, ct: np.ndarray, plane: Plane) -> None:
    """Show an `(H, W)` HU picture; from here on the panel's axes are in mm."""
    left, right = plane.columns_mm[0] + STEP_MM / 2, plane.columns_mm[-1] - STEP_MM / 2
    low, high = plane.heights_mm[0] - STEP_MM / 2, plane.heights_mm[-1] + STEP_MM / 2
    gray = Normalize(*WINDOW_HU, clip=True)
    panel.imshow(ct, "gray", gray, extent=(left, right, low, high), origin="lower", aspect="auto")
    panel.set(xlim=(left, right), ylim=(low, high), autoscale_on=False)


def _draw_mask(panel: Axes, mask: np.ndarray, plane: Plane, sigma_mm: float) -> None:
    """Fill and outline every label of an `(H, W)` mask, the steps of its voxels smoothed by `sigma_mm`."""
    margin = 2 + int(np.ceil(4 * sigma_mm / STEP_MM))
    for label, box in enumerate(ndimage.find_objects(mask), start=1):
        if box is None:
            continue
        rows, columns = (slice(max(side.start - margin, 0), side.stop + margin) for side in box)
        smooth = ndimage.gaussian_filter((mask[rows, columns] == label).astype(np.float32), sigma_mm / STEP_MM)
        if smooth.max() > 0.5:
            grid, colors = (plane.columns_mm[columns], plane.heights_mm[rows], smooth), [color_of_label(label)]
            panel.contourf(*grid, levels=[0.5, 1.1], colors=colors, alpha=0.38)
            panel.contour(*grid, levels=[0.5], colors=colors, linewidths=0.8)


def _draw_marks(panel: Axes, axis: int, marks: Sequence[Mark], mask: np.ndarray, plane: Plane) -> None:
    """Mark every landmark and write its name to its left, then its doubt, clear of the mask and of the other names."""
    ordered = sorted(marks, key=lambda mark: mark.position_mm[2])
    centers_mm = np.array([mark.position_mm for mark in ordered])
    name_mm = NAME_PT / 72 * np.ptp(panel.get_ylim()) / (panel.bbox.height / DPI)  # height of a line
    apart_mm = 1.2 * name_mm * np.arange(len(ordered))
    names_z = isotonic_regression(centers_mm[:, 2] - apart_mm).x + apart_mm
    style: dict[str, Any] = {"ha": "right", "va": "center", "path_effects": OUTLINE}
    for mark, center_mm, z in zip(ordered, centers_mm, names_z, strict=True):
        x, color = center_mm[axis], color_of_label(mark.label)
        beside_mm = plane.columns_mm[mask[np.abs(plane.heights_mm - z) < name_mm / 2].any(axis=0)] + 3 - x
        reach = beside_mm[beside_mm < NAME_REACH_MM[1]].max(initial=NAME_REACH_MM[0])
        panel.plot(x, center_mm[2], "o", ms=3.4, mfc=color, mec="white", mew=0.7)
        at = min(x + reach, panel.get_xlim()[0] - (7.4 if mark.doubt else 2.6) * name_mm)
        panel.text(at, z, mark.name, color="white", size=NAME_PT, weight="bold", **style)
        if mark.doubt:
            panel.text(at + 2.6 * name_mm, z, f"{mark.doubt}?", color=AMBER, size=NAME_PT - 1, **style)


def _draw_frame(panel: Axes, view: View) -> None:
    """Write the caption and the orientation letters, and draw the scale bar."""
    places = {view.letters[0]: (0.015, 0.5), view.letters[1]: (0.985, 0.5), "H": (0.5, 0.99), "F": (0.5, 0.01)}
    sides = {0.015: "left", 0.985: "right", 0.99: "top", 0.01: "bottom"}
    style: dict[str, Any] = {"transform": panel.transAxes, "path_effects": OUTLINE, "color": FAINT}
    for letter, (x, y) in places.items():
        ha, va = sides.get(x, "center"), sides.get(y, "center")
        panel.text(x, y, letter, size=9, weight="bold", ha=ha, va=va, **style)
    panel.text(0.015, 0.99, view.caption, size=8, va="top", **style)
    width_mm = abs(np.subtract(*panel.get_xlim()))
    bar_mm = 50 if width_mm >= 120 else 10
    start, end = 0.02, 0.02 + bar_mm / width_mm
    panel.plot([start, end], [0.015, 0.015], color=INK, linewidth=1.8, transform=panel.transAxes)
    panel.text((start + end) / 2, 0.02, f"{bar_mm} mm", size=7.5, ha="center", va="bottom", **style)
