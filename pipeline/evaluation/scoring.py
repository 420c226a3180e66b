"""One scan: read both sides, compare every vertebra, and say what is missing, extra or wrongly named."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy.optimize import linear_sum_assignment

from ..images import InputError
from ..labels import LABELS, NAMES, NUM_CHANNELS, ROWS_BY_LEVEL, T12_ROW, row_of_label, row_of_name
from ..landmarks import absent, present_rows
from ..metrics import (
    HIT_MM,
    best_shift,
    dice_of_counts,
    id_rate,
    identified,
    localization_errors_mm,
    panoptic_quality,
    shifted,
)
from ..spaces import Grid, bounds_mm, spacing_mm, to_voxel
from .centers import Masks, find_centers
from .folders import Case
from .label_maps import read_label_map
from .overlap import Piece, compare_surfaces, cut_out, iou_matrix, lattice_of, shared_voxels
from .records import Scan, Vertebra

CUT_MM = 15.0  # a vertebra whose center is nearer than this to the first or last slice cannot be whole


class Side(NamedTuple):
    """What one side knows of a scan: masks (None = no mask file), `(26, 3)` centers in RAS+ mm, where they are from."""

    masks: Masks | None
    centers_mm: np.ndarray
    source: str

    def rows(self) -> list[int]:
        """Return the rows that have a center or a mask."""
        masked = {row for row in range(len(LABELS)) if self.masks and LABELS[row] in self.masks.pieces}
        return [row for row in ROWS_BY_LEVEL if row in masked or row in present_rows(self.centers_mm)]


def score_scan(truth: Case, prediction: Case | None) -> Scan:
    """Compare one prediction with its truth.

    Args:
        truth: with a mask, or with landmarks and the image that they count in (those in mm need none).
        prediction: None = nothing was predicted; then every vertebra is missed.

    Raises:
        InputError: a file cannot be used, or the two do not lie in the same place.
    """
    start = time.perf_counter()
    true, grid = _read_side(truth, None)
    if prediction is None:
        nothing = Masks({}, true.masks.lattice) if true.masks else None
        found = Side(nothing, absent(), "no prediction")
    else:
        found, grid = _read_side(prediction, grid)
    parameters = json.loads(truth.parameters.read_text()) if truth.parameters else {}
    scan = Scan(truth.name, truth.entities.subject, prediction.name if prediction else "")
    scan.sources = (true.source, found.source)
    scan.anomaly, scan.spacing = _anomaly(true, parameters.get("levels", ())), _spacing(grid)
    scan.preview = str(prediction.preview) if prediction and prediction.preview else ""
    _identify(scan, true, found, grid)
    scan.vertebrae = _vertebrae(scan, true, found, parameters.get("complete"))
    if true.masks and found.masks:
        _set_panoptic(scan, true.masks, found.masks)
    scan.seconds = round(time.perf_counter() - start, 2)
    return scan


def _read_side(case: Case, truth_grid: Grid | None) -> tuple[Side, Grid | None]:
    """Return one side, and the grid of the truth (that of the prediction if the truth has none)."""
    masks, own = None, None
    if case.mask:
        labels, affine = read_label_map(case.mask)
        own = Grid(labels.shape, affine)
        _check_place(case, own, truth_grid)
        masks = _cut_out(labels, affine, truth_grid or own)
    elif case.image and not truth_grid:
        image = nib.load(case.image)
        own = Grid(image.shape[:3], np.array(image.affine, dtype=np.float64))
    centers = find_centers(case.centers, own or truth_grid, masks)
    return Side(masks, *centers), truth_grid or own


def _cut_out(labels: np.ndarray, affine: np.ndarray, grid: Grid) -> Masks:
    lattice = lattice_of(grid)
    return Masks(cut_out(labels, affine, lattice), lattice)


def _check_place(case: Case, own: Grid, truth: Grid | None) -> None:
    """Refuse a mask that has no voxel where the truth is."""
    if truth is not None:
        (low, high), (true_low, true_high) = bounds_mm(own), bounds_mm(truth)
        if (low >= true_high).any() or (high <= true_low).any():
            raise InputError(f"{case.mask}: lies nowhere near the truth (RAS mm {low.round()} to {high.round()})")


def _anomaly(true: Side, levels: Sequence[str]) -> str:
    """Name the enumeration anomalies in view; `levels` are all of a phantom's, in view or not."""
    rows = true.rows()
    found = [name for name in ("T13", "L6") if row_of_name(name) in rows]
    if T12_ROW not in rows and {T12_ROW - 1, T12_ROW + 1} <= set(rows):
        found.append("no T12")
    if levels and "L5" not in levels and row_of_name("L4") in rows:
        found.append("no L5")
    return " and ".join(found) or "none"


def _spacing(grid: Grid | None) -> str:
    """Return the group of the largest voxel edge; a hundredth of a mm is nothing."""
    if grid is None:
        return "unknown"
    largest = float(spacing_mm(grid.affine).max())
    return "up to 1 mm" if largest <= 1.01 else "1 to 2 mm" if largest <= 2.01 else "above 2 mm"


def _identify(scan: Scan, true: Side, found: Side, grid: Grid | None) -> None:
    """Fill in what the names and centers tell of the whole scan."""
    truth_mm, predicted_mm = true.centers_mm, found.centers_mm
    pairs = _pairs(predicted_mm, truth_mm)
    extra = [row for row in ROWS_BY_LEVEL if row in present_rows(predicted_mm) and row not in true.rows()]
    cut = [row for row in extra if row not in pairs.values() and _is_cut(row, true, found, grid)]
    unknown = [row for row in present_rows(predicted_mm) if row in true.rows() and row not in present_rows(truth_mm)]
    scan.extra, scan.cut = [NAMES[row] for row in extra if row not in cut], [NAMES[row] for row in cut]
    scan.predicted = len(present_rows(predicted_mm)) - len(cut) - len(unknown)
    rows = [row for row in ROWS_BY_LEVEL if row in present_rows(truth_mm)]
    scan.confusion = [(NAMES[row], NAMES[pairs[row]] if row in pairs else "") for row in rows]
    false = [row for row in present_rows(predicted_mm) if row not in {*pairs.values(), *cut, *unknown}]
    scan.confusion += [("", NAMES[row]) for row in false]
    if rows:
        hits = identified(predicted_mm, truth_mm)[rows]
        scan.all_right = bool(hits.all()) and not scan.extra
        scan.shift = best_shift(predicted_mm[:NUM_CHANNELS], truth_mm[:NUM_CHANNELS])
        moved = np.concatenate([shifted(predicted_mm[:NUM_CHANNELS], scan.shift), predicted_mm[NUM_CHANNELS:]])
        scan.id_rate_shifted = id_rate(moved, truth_mm)


def _pairs(predicted_mm: np.ndarray, truth_mm: np.ndarray) -> dict[int, int]:
    """Return the predicted row by the true row, one to one, nearest together, less than 20 mm apart."""
    rows, columns = present_rows(truth_mm), present_rows(predicted_mm)
    distance = np.linalg.norm(truth_mm[rows][:, None] - predicted_mm[columns][None], axis=-1)
    pairs = zip(*linear_sum_assignment(np.minimum(distance, 10 * HIT_MM)), strict=True)
    return {rows[i]: columns[j] for i, j in pairs if distance[i, j] < HIT_MM}


def _is_cut(row: int, true: Side, found: Side, grid: Grid | None) -> bool:
    """Tell a vertebra beyond the first or last true one that the field of view cuts."""
    heights, z = true.centers_mm[present_rows(true.centers_mm), 2], found.centers_mm[row, 2]
    if grid is None or not len(heights) or heights.min() <= z <= heights.max():
        return False
    piece = found.masks.pieces.get(LABELS[row]) if found.masks else None
    axis = int(np.argmax(np.abs(grid.affine[2, :3] / spacing_mm(grid.affine))))
    index = float(to_voxel(grid.affine, found.centers_mm[row])[axis])
    near_mm = min(index + 0.5, grid.shape[axis] - 0.5 - index) * spacing_mm(grid.affine)[axis]
    return bool(near_mm < CUT_MM or (piece is not None and piece.at_edge))


def _vertebrae(scan: Scan, true: Side, found: Side, complete: Sequence[str] | None) -> list[Vertebra]:
    """Return one record per true vertebra, head to foot."""
    hit, error = (
        identified(found.centers_mm, true.centers_mm),
        localization_errors_mm(found.centers_mm, true.centers_mm),
    )
    hit_organiser = identified(found.centers_mm, true.centers_mm, mode="organiser")
    called = dict(scan.confusion)
    vertebrae = []
    for row in true.rows():
        piece = true.masks.pieces.get(LABELS[row]) if true.masks else None
        vertebra = Vertebra(scan.scan, NAMES[row], NAMES[row][0], "unknown", scan.anomaly, scan.spacing)
        if complete is not None:
            vertebra.view = "complete" if NAMES[row] in complete else "cut"
        elif piece:
            vertebra.view = "cut" if piece.at_edge else "complete"
        if row in present_rows(true.centers_mm):
            vertebra.called = called[NAMES[row]]
            vertebra.hit, vertebra.hit_organiser = bool(hit[row]), bool(hit_organiser[row])
            vertebra.error_mm = float(error[row]) if np.isfinite(error[row]) else None
        if piece and found.masks:
            _set_overlap(vertebra, found.masks.pieces.get(LABELS[row]), piece)
        vertebrae.append(vertebra)
    return vertebrae


def _set_overlap(vertebra: Vertebra, predicted: Piece | None, truth: Piece) -> None:
    """Fill in overlap and distances; without a predicted mask the overlap is 0 and there are no distances."""
    if predicted is None:
        vertebra.dice = vertebra.nsd_1mm = vertebra.nsd_2mm = vertebra.nsd_3mm = 0.0
        return
    vertebra.dice = dice_of_counts(shared_voxels(predicted, truth), predicted.size, truth.size)
    scores = compare_surfaces(predicted, truth)
    vertebra.hd_mm, vertebra.hd95_mm, vertebra.assd_mm = scores.hd_mm, scores.hd95_mm, scores.assd_mm
    vertebra.nsd_1mm, vertebra.nsd_2mm, vertebra.nsd_3mm = scores.nsd


def _set_panoptic(scan: Scan, truth: Masks, predicted: Masks) -> None:
    """Fill in the panoptic quality; vertebrae that VerSe leaves unlabeled do not count against it."""
    scored = [piece for label, piece in predicted.pieces.items() if NAMES[row_of_label(label)] not in scan.cut]
    quality = panoptic_quality(iou_matrix(scored, list(truth.pieces.values())))
    if truth.pieces or scored:
        scan.pq, scan.sq, scan.rq = quality
