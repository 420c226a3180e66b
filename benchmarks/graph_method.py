"""The labelling of the VerSe 2020 runner-up, re-made from its published description for comparison.

Longest path through candidates of each level: every vertebra adds its heatmap value and a constant, every pair loses
the squared difference of its offset from the mean offset of its levels. An anomaly is then dropped unless its whole
region is in view.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pipeline.candidates import Candidates
from pipeline.labels import L1_ROW, ROWS_BY_LEVEL, T12_ROW, T13_ROW, channel_of_row
from pipeline.landmarks import absent

VALUE_WEIGHT, BIAS, TOO_CLOSE = 0.2, 2.0, 3.0  # as published
THRESHOLD, COPY = 0.05, 0.1
C1_ROW, C6_ROW, T1_ROW, T11_ROW, L6_ROW = 0, 5, 7, 17, 24
COPY_WITHIN = [range(2, 7), range(8, 19), range(20, 25)]  # C3-C7, T2-T12, L2-L6


class GraphMethod:
    """The method with its mean offsets, learnt from `(26, 3)` landmarks in RAS mm.

    Args:
        patients: landmarks to learn the offsets from.
        value_weight: share of the heatmap values in the sum; the rest is the offsets'.
    """

    def __init__(self, patients: list[np.ndarray], value_weight: float = VALUE_WEIGHT) -> None:
        self.value_weight = value_weight
        self.offsets_mm: dict[tuple[int, int], np.ndarray] = {}
        for row in range(L6_ROW):
            offsets = np.array([p[row + 1] - p[row] for p in patients])
            known = offsets[np.isfinite(offsets).all(axis=1)]
            self.offsets_mm[row, row + 1] = self._mean(known) if len(known) else self.offsets_mm[row - 1, row]
        thoracolumbar = self.offsets_mm[T12_ROW, L1_ROW]
        self.offsets_mm |= {(C6_ROW, T1_ROW): self.offsets_mm[T1_ROW - 1, T1_ROW], (T11_ROW, L1_ROW): thoracolumbar}
        self.offsets_mm |= {(T12_ROW, T13_ROW): thoracolumbar, (T13_ROW, L1_ROW): thoracolumbar}

    @staticmethod
    def _mean(offsets_mm: np.ndarray) -> np.ndarray:
        """Return the mean direction times the mean length."""
        lengths = np.linalg.norm(offsets_mm, axis=1, keepdims=True)
        direction = (offsets_mm / lengths).mean(axis=0)
        return direction / np.linalg.norm(direction) * lengths.mean()

    def __call__(self, candidates: Candidates) -> np.ndarray:
        """Return `(26, 3)` RAS mm, NaN row = absent."""
        values = self._values(candidates)
        best = np.where(values > 0, 0.0, -np.inf)  # (26, N) best path ending here, its own value excluded
        origin: dict[tuple[int, int], tuple[int, int]] = {}
        for row in ROWS_BY_LEVEL:
            for before, after in self.offsets_mm:
                if after == row:
                    gains = (best[before] + self.value_weight * values[before] + BIAS)[:, None]
                    gains = gains + (1 - self.value_weight) * self._pairs(candidates, before, after)
                    for index in np.flatnonzero(values[row] > 0).tolist():
                        if gains[:, index].max() > best[row, index]:
                            best[row, index] = gains[:, index].max()
                            origin[row, index] = (before, int(gains[:, index].argmax()))
        final = best + self.value_weight * values + BIAS
        row, index = divmod(int(final.argmax()), final.shape[1])
        landmarks_mm = absent()
        while np.isfinite(final.max()):
            landmarks_mm[row] = candidates.positions_mm[index]
            if (row, index) not in origin:
                break
            row, index = origin[row, index]
        return _repaired(landmarks_mm)

    def _values(self, candidates: Candidates) -> np.ndarray:
        """Return `(26, N)` heatmap values, with weaker copies in the neighboring levels; 0 = no candidate."""
        peaks = candidates.scores * candidates.evidence[:, [channel_of_row(row) for row in range(26)]].T
        values = np.where(peaks > THRESHOLD, peaks, 0.0)
        for region in COPY_WITHIN:
            rows = list(region)
            for a, b in [*pairwise(rows), *pairwise(reversed(rows))]:
                values[b] = np.maximum(values[b], COPY * values[a])
        return values

    def _pairs(self, candidates: Candidates, before: int, after: int) -> np.ndarray:
        """Return `(N, N)`: 1 for a pair at the mean offset, less by the square of the difference."""
        mean_mm = self.offsets_mm[before, after]
        offsets_mm = candidates.positions_mm[None] - candidates.positions_mm[:, None]
        difference = (mean_mm - offsets_mm) / np.linalg.norm(mean_mm)
        close = offsets_mm[..., 2] > mean_mm[2]
        difference[..., 2] *= np.where(close, TOO_CLOSE, 1.0)
        result = 1 - ((2 * difference) ** 2).sum(axis=-1)
        np.fill_diagonal(result, -np.inf)
        return result


def _repaired(landmarks_mm: np.ndarray) -> np.ndarray:
    """Shift the cervical or thoracic levels by one where an anomaly is claimed with the region's top out of view."""
    here = np.isfinite(landmarks_mm).all(axis=1)
    result = landmarks_mm.copy()
    if not here[C1_ROW] and here[C6_ROW] and not here[C6_ROW + 1] and here[T1_ROW]:
        result[C1_ROW + 1 : T1_ROW] = landmarks_mm[C1_ROW : T1_ROW - 1]
    if not here[T1_ROW] and here[T13_ROW]:
        result[T1_ROW:T12_ROW] = landmarks_mm[T1_ROW + 1 : L1_ROW]
        result[T12_ROW] = landmarks_mm[T13_ROW]
        result[T13_ROW] = np.nan
    elif not here[T1_ROW] and here[T11_ROW] and not here[T12_ROW] and here[L1_ROW]:
        result[T1_ROW + 1 : L1_ROW] = landmarks_mm[T1_ROW:T12_ROW]
        result[T1_ROW] = np.nan
    return result
