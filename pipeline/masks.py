"""Stage three at inference: windows along the spine, one probability per vertebra, labels on the scan's grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from .extents import extents_mm
from .heatmaps import distance_channels
from .labels import LABELS, NUM_CHANNELS, ROWS_BY_LEVEL, T12_ROW, T13_ROW, channel_of_row
from .landmarks import present_rows
from .spaces import CORNERS, Grid, resample, to_voxel, to_world


@dataclass(frozen=True)
class Window:
    """One network input: the grid it covers and the vertebrae (landmark rows) that are read from it."""

    grid: Grid
    rows: tuple[int, ...]


def plan_windows(landmarks_mm: np.ndarray, spacing_mm: float, size: tuple[int, int, int]) -> list[Window]:
    """Cover all vertebrae from head to foot with as few windows as hold every one whole.

    Neighbors share a window while the boxes of all of them (`extents.extents_mm`) fit. A part of what fits also fits,
    so filling window after window leaves none that could be spared.

    Args:
        landmarks_mm: `(26, 3)` RAS+ mm.
        spacing_mm: voxel size of the windows.
        size: `(I, J, K)` of the windows.
    """
    present = present_rows(landmarks_mm)
    boxes = extents_mm(landmarks_mm)
    groups: list[list[int]] = []
    for row in (row for row in ROWS_BY_LEVEL if row in present):
        together = [*groups[-1], row] if groups else [row]
        if groups and (np.ptp(boxes[together], axis=(0, 1)) <= spacing_mm * np.array(size)).all():
            groups[-1] = together
        else:
            groups.append([row])
    windows = []
    for group in groups:
        center = (boxes[group].min(axis=(0, 1)) + boxes[group].max(axis=(0, 1))) / 2
        affine = np.diag([spacing_mm] * 3 + [1.0])
        affine[:3, 3] = center - spacing_mm * (np.array(size) - 1) / 2
        windows.append(Window(Grid(size, affine), tuple(group)))
    return windows


def vertebra_probabilities(
    image: Tensor,
    affine: np.ndarray,
    landmarks_mm: np.ndarray,
    network: Callable[[Tensor], Tensor],
    *,
    size: tuple[int, int, int],
    reach_mm: float,
    fill: float,
    every_level: bool = True,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Run the network along the chain and yield every vertebra's probability, from the window that holds it best.

    Args:
        image: `(1, I, J, K)` network input of the CT on an isotropic RAS-aligned grid.
        affine: `(4, 4)` of that grid.
        landmarks_mm: `(26, 3)` RAS+ mm.
        network: `(1, 1 + levels, *size)` to logits of that shape.
        size: window size in voxels.
        reach_mm: see `heatmaps.distance_channels`.
        fill: network input outside the image.
        every_level: the network takes and returns all 25 levels; False = those in reach of the window are enough.

    Yields:
        Landmark row, probability float32 in the window, and the window's `(4, 4)` affine.
    """
    spacing = float(affine[0, 0])
    points = torch.from_numpy(landmarks_mm)
    for window in plan_windows(landmarks_mm, spacing, size):
        start = np.rint(to_voxel(affine, window.grid.affine[:3, 3])).astype(int)
        own = affine.copy()
        own[:3, 3] = to_world(affine, start)  # on the image's own voxels: nothing is interpolated twice
        ct = _cut(image, start, size, fill)
        levels = range(NUM_CHANNELS) if every_level else _levels_in_reach(landmarks_mm, Grid(size, own), reach_mm)
        near = distance_channels(points, size, torch.from_numpy(own), reach_mm=reach_mm, channels=levels)
        logits = network(torch.cat([ct, near.to(ct)])[None])[0]
        probability = torch.softmax(logits.float(), dim=0)
        for row in window.rows:
            own_share = probability[1 + levels.index(channel_of_row(row))].cpu().numpy()
            yield row, own_share * _half_space(row, landmarks_mm, Grid(size, own)), own


def _levels_in_reach(landmarks_mm: np.ndarray, grid: Grid, reach_mm: float) -> Sequence[int]:
    """Return the channels of the landmarks that show in a RAS-aligned window, in order."""
    rows = present_rows(landmarks_mm)
    corners_mm = to_world(grid.affine, np.array([[0, 0, 0], grid.shape]) - [[0], [1]])
    gaps_mm = landmarks_mm[rows] - np.clip(landmarks_mm[rows], *corners_mm)
    near = np.linalg.norm(gaps_mm, axis=1) < reach_mm
    return sorted({channel_of_row(row) for row, shows in zip(rows, near, strict=True) if shows})


def _cut(image: Tensor, start: np.ndarray, size: tuple[int, int, int], fill: float) -> Tensor:
    """Return `(1, *size)` of the image from a start voxel that may lie outside."""
    pad = []
    index: list[slice] = [slice(None)]
    for begin, length, available in zip(start, size, image.shape[1:], strict=True):
        low, high = (min(max(int(end), 0), available) for end in (begin, begin + length))
        index.append(slice(low, high))
        before = min(max(-int(begin), 0), length)
        pad.append((before, length - before - (high - low)))
    return functional.pad(image[tuple(index)], [side for pair in reversed(pad) for side in pair], value=fill)


def _half_space(row: int, landmarks_mm: np.ndarray, grid: Grid) -> np.ndarray | float:
    """Split the class that T12 and T13 share: each keeps the voxels nearer to its own landmark."""
    other = {T12_ROW: T13_ROW, T13_ROW: T12_ROW}.get(row)
    if other is None or not np.isfinite(landmarks_mm[[row, other]]).all():
        return 1.0
    middle = to_voxel(grid.affine, landmarks_mm[[row, other]].mean(axis=0))
    normal = grid.affine[:3, :3].T @ (landmarks_mm[row] - landmarks_mm[other])
    axes = [np.arange(n).reshape([-1 if i == k else 1 for k in range(3)]) for i, n in enumerate(grid.shape)]
    side = sum(normal[i] * (axes[i] - middle[i]) for i in range(3))
    return (side > 0).astype(np.float32)


def assemble(pieces: Iterator[tuple[int, np.ndarray, np.ndarray]], scan: Grid) -> np.ndarray:
    """Put the vertebrae on the scan's grid: probabilities resampled linearly, the largest wins, one piece per label.

    Args:
        pieces: what `vertebra_probabilities` yields.
        scan: the scan's grid.

    Returns:
        `scan.shape` uint8 VerSe labels, in NIfTI's order of memory.
    """
    labels = np.zeros(scan.shape, dtype=np.uint8, order="F")  # memory that is never touched is never taken
    best = np.zeros_like(labels)  # probability above one half in steps of 1/255
    boxes = {}
    for row, probability, affine in pieces:
        box, piece = _largest_piece(probability)
        if piece is None:
            continue
        local = affine.copy()
        local[:3, 3] = to_world(affine, np.array([s.start for s in box]))
        where, part = _on_scan(piece, local, scan)
        if where is None:
            continue
        level = np.maximum(np.rint(255 * part) - 127, 0).astype(np.uint8)
        wins = level > best[where]
        best[where][wins] = level[wins]
        labels[where][wins] = LABELS[row]
        boxes[LABELS[row]] = where
    _keep_one_piece(labels, boxes)
    return labels


def _largest_piece(probability: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray | None]:
    """Return the box of the largest connected piece above one half with its soft border, and the probability there.

    What the piece encloses is part of it, everything else in the box is silenced; None where nothing is above one half.
    """
    pieces, count = ndimage.label(probability > 0.5, CORNERS)
    if count == 0:
        return (), None
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = int(sizes.argmax())
    core = ndimage.find_objects(pieces)[largest - 1]
    box = tuple(slice(max(s.start - 3, 0), s.stop + 3) for s in core)  # two voxels of border, and one of nothing
    own = pieces[box] == largest
    piece = np.where(ndimage.binary_dilation(own, iterations=2), probability[box], 0)
    piece[ndimage.binary_fill_holes(own) & ~own] = 1.0
    return box, piece


def _on_scan(
    probability: np.ndarray, affine: np.ndarray, scan: Grid
) -> tuple[tuple[slice, slice, slice] | None, np.ndarray]:
    """Resample a box of probability onto the scan's voxels around it; None where it lies outside."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in probability.shape], indexing="ij"), axis=-1)
    reach = to_voxel(scan.affine, to_world(affine, corners.reshape(-1, 3)))
    low = np.clip(np.floor(reach.min(axis=0)), 0, scan.shape).astype(int)
    high = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, scan.shape).astype(int)
    if (high <= low).any():
        return None, probability
    part = scan.affine.copy()
    part[:3, 3] = to_world(scan.affine, low)
    shape = tuple(int(n) for n in high - low)
    where = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    return where, resample(probability, affine, Grid(shape, part))  # type: ignore[arg-type]


def _keep_one_piece(labels: np.ndarray, boxes: Mapping[int, tuple[slice, slice, slice]]) -> None:
    """Clear all but the largest connected piece of every label, in place; none lies outside its box."""
    for label, box in boxes.items():
        own = labels[box] == label
        pieces, count = ndimage.label(own, CORNERS)
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            labels[box][own & (pieces != int(sizes.argmax()))] = 0
