"""The pictures of the page: the CT as JPEG, and over it, as vectors, masks, names and a scale. All inside one SVG.

Coordinates in the SVG are mm. Planes, window and colors are those of the preview.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from matplotlib import image as matplotlib_image
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import ndimage
from scipy.optimize import isotonic_regression

from ..measurements.bodies import body_axes
from ..planes import STEP_MM, VIEWS, Plane, bent_planes, reformat
from ..preview import WINDOW_HU, color_of_label
from ..spaces import Grid, spacing_mm
from .findings import Named

SLICE_MM, SLICE_STEP_MM, BEHIND_MM = 96.0, 0.6, 14.0  # of a single vertebra's slices; their center is behind the body's
TEXT_PX = 11.5
MAX_PX_PER_MM, MAX_HEIGHT_PX = 2.6, 900.0
JPEG_QUALITY = 82
NAME_MM = (17.0, 46.0)  # from landmark to name, clear of the mask within these bounds


def bent_pictures(hu: np.ndarray | None, labels: np.ndarray, affine: np.ndarray, vertebrae: Sequence[Named]) -> str:
    """Return the sagittal and the coronal plane bent along the spine, side by side at one scale.

    Args:
        hu: `(I, J, K)` the scan; None leaves the ground black.
        labels: `(I, J, K)` VerSe labels.
        affine: `(4, 4)` of both, voxel index to RAS+ mm.
        vertebrae: their names and positions.
    """
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    planes = bent_planes(Grid(shape, affine), np.array([v.position_mm for v in vertebrae]).reshape(-1, 3))
    px_per_mm = min(MAX_PX_PER_MM, MAX_HEIGHT_PX / (len(planes[0].heights_mm) * STEP_MM))
    figures = []
    for view, plane in zip(VIEWS, planes, strict=True):
        points_mm = plane.points_mm[::-1]  # head first, as pictures are stored
        mask = reformat(labels, affine, points_mm, order=0)
        parts = [_ct(hu, affine, points_mm, STEP_MM), *_masks(mask, affine, STEP_MM, vertebrae)]
        parts += _names(vertebrae, view.axis, plane, mask, px_per_mm)
        parts += _frame(mask.shape, STEP_MM, px_per_mm, (*view.letters, "H", "F"))
        figures.append(_svg(mask.shape, STEP_MM, px_per_mm, f"{view.caption} plane bent along the spine", parts))
    return f'<div class="bent">{"".join(figures)}</div>'


def slices(hu: np.ndarray | None, labels: np.ndarray, affine: np.ndarray, vertebrae: Sequence[Named]) -> list[str]:
    """Return, per vertebra, an axial and a sagittal slice through its body along the line of the spine."""
    positions_mm = np.array([v.position_mm for v in vertebrae]).reshape(-1, 3)
    pictures = []
    for i, (vertebra, center_mm) in enumerate(zip(vertebrae, positions_mm, strict=True)):
        line = positions_mm[max(i - 1, 0) : i + 2]
        right, front, up = body_axes(line[0] - line[-1] if len(line) > 1 else np.array([0, 0, 1.0]), np.eye(3)[1]).T
        middle_mm = center_mm - BEHIND_MM * front
        both = ""
        for title, across, down, letters in (
            ("axial", -right, -front, ("R", "L", "A", "P")),
            ("sagittal", -front, -up, ("A", "P", "H", "F")),
        ):
            points_mm = _square(middle_mm, across, down)
            mask = reformat(labels, affine, points_mm, order=0)
            px_per_mm = 1.75
            parts = [_ct(hu, affine, points_mm, SLICE_STEP_MM), *_masks(mask, affine, SLICE_STEP_MM, vertebrae)]
            parts += _frame(mask.shape, SLICE_STEP_MM, px_per_mm, letters)
            both += _svg(mask.shape, SLICE_STEP_MM, px_per_mm, f"{vertebra.name}, {title} slice", parts)
        pictures.append(both)
    return pictures


def swatch(label: int) -> str:
    """Return a dot in a vertebra's color."""
    return f'<i class="swatch" style="background:{_hex(label)}"></i>'


def _hex(label: int) -> str:
    red, green, blue = color_of_label(label)
    return to_hex((red, green, blue))


def _square(middle_mm: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return `(H, W, 3)` RAS+ mm points of a square picture."""
    offsets = np.arange(-SLICE_MM / 2, SLICE_MM / 2, SLICE_STEP_MM) + SLICE_STEP_MM / 2
    return middle_mm + offsets[:, None, None] * down + offsets[None, :, None] * across


def _ct(hu: np.ndarray | None, affine: np.ndarray, points_mm: np.ndarray, step_mm: float) -> str:
    """Return the CT of a picture as an SVG image, a black ground without a scan."""
    height, width = np.array(points_mm.shape[:2]) * step_mm
    if hu is None:
        return f'<rect width="{width:.1f}" height="{height:.1f}" fill="#000"/>'
    stored = io.BytesIO()
    low, high = WINDOW_HU
    gray = np.clip((reformat(hu, affine, points_mm, fill=-1024) - low) / (high - low), 0, 1)
    colors = np.repeat((255 * gray).astype(np.uint8)[..., None], 3, axis=2)
    matplotlib_image.imsave(stored, colors, format="jpeg", pil_kwargs={"quality": JPEG_QUALITY})
    content = base64.b64encode(stored.getvalue()).decode()
    return f'<image width="{width:.1f}" height="{height:.1f}" href="data:image/jpeg;base64,{content}"/>'


def _masks(mask: np.ndarray, affine: np.ndarray, step_mm: float, vertebrae: Sequence[Named]) -> Iterator[str]:
    """Yield the outline of every label of an `(H, W)` mask, the steps of its voxels smoothed, with its name."""
    sigma = max(float(spacing_mm(affine).min()) / 2, 0.4) / step_mm
    margin = 2 + int(np.ceil(4 * sigma))
    called = {v.label: v for v in vertebrae}
    panel = Figure().add_subplot()
    for label, box in enumerate(ndimage.find_objects(mask), start=1):
        if box is None or label not in called:
            continue
        rows, columns = (
            np.arange(max(side.start - margin, 0), min(side.stop + margin, n))
            for side, n in zip(box, mask.shape, strict=True)
        )
        smooth = ndimage.gaussian_filter((mask[np.ix_(rows, columns)] == label).astype(np.float32), sigma)
        if smooth.max() <= 0.5:
            continue
        lines = panel.contour((columns + 0.5) * step_mm, (rows + 0.5) * step_mm, smooth, levels=[0.5]).allsegs[0]
        path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + "Z" for line in lines)
        hint = f"<title>{escape(_hint(called[label]))}</title>"
        yield f'<path class="mask" style="--own:{_hex(label)}" d="{path}">{hint}</path>'


def _hint(vertebra: Named) -> str:
    if vertebra.probability is None:
        return vertebra.name
    other = f", else {vertebra.runner_up}" if vertebra.runner_up else ""
    return f"{vertebra.name}, probability {vertebra.probability:.2f}{other}"


def _names(vertebrae: Sequence[Named], axis: int, plane: Plane, mask: np.ndarray, px_per_mm: float) -> Iterator[str]:
    """Yield a dot per landmark and its name to the left, clear of the mask and of the other names."""
    if not vertebrae:
        return
    text_mm, top_mm, left_mm = TEXT_PX / px_per_mm, plane.heights_mm[-1], plane.columns_mm[0]
    ordered = sorted(vertebrae, key=lambda v: -v.position_mm[2])
    down_mm = np.array([top_mm - v.position_mm[2] for v in ordered]) + STEP_MM / 2
    apart_mm = 1.15 * text_mm * np.arange(len(ordered))
    places_mm = isotonic_regression(down_mm - apart_mm).x + apart_mm
    for vertebra, y, name_y in zip(ordered, down_mm, places_mm, strict=True):
        x = left_mm - vertebra.position_mm[axis] + STEP_MM / 2
        near = np.abs((np.arange(len(mask)) + 0.5) * STEP_MM - name_y) < text_mm / 2
        free = x - (np.flatnonzero(mask[near].any(axis=0)) + 0.5) * STEP_MM + 3
        reach = free[free < NAME_MM[1]].max(initial=NAME_MM[0])
        color = _hex(vertebra.label)
        yield f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{2.6 / px_per_mm:.2f}" style="fill:{color}"/>'
        at = f'x="{max(x - reach, 2.6 * text_mm):.1f}" y="{name_y:.1f}" font-size="{text_mm:.2f}"'
        yield f'<text class="name" {at}>{escape(vertebra.name)}</text>'


def _frame(shape: tuple[int, ...], step_mm: float, px_per_mm: float, letters: Sequence[str]) -> Iterator[str]:
    """Yield the letters of the sides (left, right, top, bottom) and the scale bar."""
    height, width = (float(n) * step_mm for n in shape)
    text_mm = 0.9 * TEXT_PX / px_per_mm
    pad = 0.45 * text_mm
    places = [(pad, height / 2, "start"), (width - pad, height / 2, "end")]
    places += [(width / 2, pad + text_mm / 2, "middle"), (width / 2, height - pad - text_mm / 2, "middle")]
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        at = f'x="{x:.1f}" y="{y:.1f}" font-size="{text_mm:.2f}" text-anchor="{anchor}"'
        yield f'<text class="side" {at}>{letter}</text>'
    bar_mm, y = (50 if width >= 120 else 20), height - pad
    yield f'<path class="bar" d="M{pad:.1f} {y:.1f}h{bar_mm}" stroke-width="{1.6 / px_per_mm:.2f}"/>'
    place = f'x="{pad:.1f}" y="{y - 0.75 * text_mm:.1f}" font-size="{0.85 * text_mm:.2f}"'
    yield f'<text class="side" {place} text-anchor="start">{bar_mm} mm</text>'


def _svg(shape: tuple[int, ...], step_mm: float, px_per_mm: float, title: str, parts: Sequence[str]) -> str:
    height, width = np.array(shape[:2]) * step_mm
    size = f'viewBox="0 0 {width:.1f} {height:.1f}" width="{width * px_per_mm:.0f}"'
    return f'<svg class="ct" {size} role="img" aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
