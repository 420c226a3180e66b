"""Candidates of stage two on phantoms, kept in one file: what the network really gives the labelling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.spoiled import field_of_view_mm
from pipeline.candidates import Candidates
from pipeline.labels import L1_ROW, NUM_ROWS, ROWS_BY_LEVEL, T12_ROW, T13_ROW, channel_of_row
from pipeline.spaces import Grid

MATCH_MM = 12.0  # a candidate this near to a body is that body's
L6_ROW = L1_ROW + 5


@dataclass(frozen=True)
class Case:
    """One phantom: its candidates and its true `(26, 3)` landmarks in RAS+ mm."""

    candidates: Candidates
    truth_mm: np.ndarray

    @property
    def kind(self) -> str:
        """Which unusual count is in view, if any."""
        return kind_of_count(self.truth_mm)


def kind_of_count(truth_mm: np.ndarray) -> str:
    """Return which unusual count `(26, 3)` landmarks show: `"T13"`, `"no T12"`, `"L6"` or `"none"`."""
    here = np.isfinite(truth_mm).all(axis=1)
    if here[T13_ROW]:
        return "T13"
    if here[T12_ROW - 1] and here[L1_ROW] and not here[T12_ROW]:
        return "no T12"
    return "L6" if here[L6_ROW] else "none"


def is_wide(truth_mm: np.ndarray) -> bool:
    """Return whether four levels on both sides of the last rib are in view, T9 to L4: enough to tell their count."""
    here = np.isfinite(truth_mm).all(axis=1)
    here[T12_ROW] |= kind_of_count(truth_mm) == "no T12"
    return bool(here[T12_ROW - 3 : L1_ROW + 4].all())


def save_cases(path: Path, cases: list[Case]) -> None:
    """Write cases as `.npz`."""
    arrays = {}
    for index, case in enumerate(cases):
        found = case.candidates
        assert found.scan is not None
        parts = {
            "positions_mm": found.positions_mm,
            "scores": found.scores,
            "evidence": found.evidence,
            "field_of_view_mm": np.full((2, 3), np.nan) if found.field_of_view_mm is None else found.field_of_view_mm,
            "shape": np.array(found.scan.shape),
            "affine": found.scan.affine,
            "truth_mm": case.truth_mm,
        }
        arrays |= {f"{index:03}/{name}": array for name, array in parts.items()}
    np.savez_compressed(path, **arrays)


def load_cases(path: Path) -> list[Case]:
    """Read what `save_cases` wrote."""
    cases = []
    with np.load(path) as stored:
        for index in sorted({name.split("/")[0] for name in stored.files}):
            positions, scores, evidence, view, shape, affine, truth = (
                stored[f"{index}/{part}"]
                for part in ("positions_mm", "scores", "evidence", "field_of_view_mm", "shape", "affine", "truth_mm")
            )
            grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
            known = view if np.isfinite(view).all() else None
            cases.append(Case(Candidates(positions, scores, evidence, known, grid), truth))
    return cases


class EvidencePool:
    """Gives real configurations the evidence, scores, misses and position errors of the network on phantoms.

    One phantom lends its values to a run of neighbors, so that their errors stay as alike as they are there; phantoms
    of the same unusual count come first.
    """

    def __init__(self, cases: list[Case]) -> None:
        self.sources = [(case.kind, self._by_row(case)) for case in cases]

    @staticmethod
    def _by_row(case: Case) -> dict[int, tuple[np.ndarray, float, np.ndarray] | None]:
        """Return evidence, score and position error of every true body; None = missed."""
        result: dict[int, tuple[np.ndarray, float, np.ndarray] | None] = {}
        found = case.candidates
        for row in np.flatnonzero(np.isfinite(case.truth_mm).all(axis=1)):
            offsets_mm = found.positions_mm - case.truth_mm[row]
            distance_mm = np.linalg.norm(offsets_mm, axis=1)
            result[int(row)] = None
            if len(found) and distance_mm.min() <= MATCH_MM:
                nearest = int(distance_mm.argmin())
                result[int(row)] = (found.evidence[nearest], float(found.scores[nearest]), offsets_mm[nearest])
        return result

    def spoil(self, truth_mm: np.ndarray, rng: np.random.Generator) -> tuple[Candidates, list[int]]:
        """Return candidates for `(26, 3)` landmarks, and the rows of those bodies that have one."""
        kind = kind_of_count(truth_mm)
        rows = [row for row in ROWS_BY_LEVEL if np.isfinite(truth_mm[row]).all()]
        positions, scores, evidence, kept = [], [], [], []
        source: int | None = None
        for row in rows:
            source, lent = self._source(row, kind, source, rng)
            values = self.sources[source][1][lent]
            if values is None:
                continue
            shift = channel_of_row(row) - channel_of_row(lent)
            positions.append(truth_mm[row] + values[2])
            scores.append(values[1])
            evidence.append(np.roll(values[0], shift))
            kept.append(row)
        if not kept:
            return self.spoil(truth_mm, rng)
        view = field_of_view_mm(truth_mm, rows)
        return Candidates(np.array(positions), np.array(scores), np.array(evidence), view), kept

    def _source(self, row: int, kind: str, current: int | None, rng: np.random.Generator) -> tuple[int, int]:
        """Return which phantom lends the values of which of its rows: the nearest level that any phantom shows."""
        level = ROWS_BY_LEVEL.index(row)
        for lent in sorted(range(NUM_ROWS), key=lambda other: abs(ROWS_BY_LEVEL.index(other) - level)):
            having = [i for i, (_, values) in enumerate(self.sources) if lent in values]
            alike = [i for i in having if self.sources[i][0] == kind] or having
            if alike:
                return (current if current in alike else int(rng.choice(alike))), lent
        raise ValueError("no body in any cached scan")
