"""Candidates made from real centroid tables and spoiled at stated rates, for `benchmarks.labelling`."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.candidates import Candidates
from pipeline.labels import L1_ROW, NUM_CHANNELS, ROWS_BY_LEVEL, T12_ROW, T13_ROW, channel_of_row, row_of_label
from pipeline.landmarks import absent


@dataclass(frozen=True)
class Damage:
    """How candidates are spoiled.

    Attributes:
        drop: share of bodies without a candidate.
        extra: false candidates per body: between two, beyond an end or beside one.
        duplicate: share of bodies found twice, the second time 9 to 15 mm away with the same evidence.
        jitter_mm: standard deviation of a position, per axis.
        blur: how far the evidence spreads, in levels.
        wobble: standard deviation of each body's evidence about the truth, in levels.
        confused: share of bodies whose evidence is that of a neighbor.
        wrong: share of bodies whose evidence is 1 to 4 levels off.
        block: chance that a run of half the chain reads one level off.
        bias: chance that the whole chain reads one level off.
        in_view: at most this many neighbors are in the field of view; 0 = all.
    """

    drop: float = 0.0
    extra: float = 0.0
    duplicate: float = 0.0
    jitter_mm: float = 1.5
    blur: float = 0.5
    wobble: float = 0.2
    confused: float = 0.0
    wrong: float = 0.0
    block: float = 0.0
    bias: float = 0.0
    in_view: int = 0


DAMAGES = {
    "almost clean": Damage(),
    "drop 5 %": Damage(drop=0.05),
    "drop 15 %": Damage(drop=0.15),
    "false candidate 10 %": Damage(extra=0.1),
    "false candidate 30 %": Damage(extra=0.3),
    "duplicate 10 %": Damage(duplicate=0.1),
    "duplicate 30 %": Damage(duplicate=0.3),
    "jitter 3 mm": Damage(jitter_mm=3.0),
    "jitter 6 mm": Damage(jitter_mm=6.0),
    "jitter 10 mm": Damage(jitter_mm=10.0),
    "neighbor's level 10 %": Damage(confused=0.1),
    "neighbor's level 25 %": Damage(confused=0.25),
    "wrong level 10 %": Damage(wrong=0.1),
    "wrong level 25 %": Damage(wrong=0.25),
    "blurred levels": Damage(blur=1.2, wobble=0.6),
    "very blurred levels": Damage(blur=1.8, wobble=1.0),
    "block off by one 50 %": Damage(block=0.5),
    "chain off by one 20 %": Damage(bias=0.2),
    "8 vertebrae in view": Damage(blur=0.9, wobble=0.4, in_view=8),
    "4 vertebrae in view": Damage(blur=0.9, wobble=0.4, in_view=4),
    "all, mild": Damage(0.05, 0.1, 0.1, 3.0, 0.9, 0.4, 0.05, 0.05, 0.2, 0.05),
    "all, strong": Damage(0.15, 0.3, 0.3, 6.0, 1.2, 0.6, 0.1, 0.1, 0.4, 0.1),
}


KINDS = ("T13", "no T12", "L6")  # unusual counts


def read_patients(folder: Path) -> dict[str, np.ndarray]:
    """Read the centroid table into `(26, 3)` RAS mm per image (the table: x to the left, y back, z up)."""
    patients: dict[str, np.ndarray] = defaultdict(absent)
    with open(folder / "verse19_body_centroids.csv", newline="") as stream:
        for line in csv.DictReader(stream):
            left, back, up = (float(line[name]) for name in ("x_left_mm", "y_posterior_mm", "z_superior_mm"))
            patients[line["image"]][row_of_label(int(line["label"]))] = (-left, -back, up)
    return dict(sorted(patients.items()))


def with_anomaly(landmarks_mm: np.ndarray, kind: str) -> np.ndarray | None:
    """Return the spine with `"T13"`, `"L6"` or `"no T12"` worked in; None where its field of view cannot show it."""
    result = landmarks_mm.copy()
    if not np.isfinite(landmarks_mm[[T12_ROW - 1, T12_ROW, L1_ROW, L1_ROW + 1]]).all():
        return None
    step = landmarks_mm[L1_ROW] - landmarks_mm[T12_ROW]
    if kind == "L6":
        if not np.isfinite(landmarks_mm[L1_ROW + 4]).all() or np.isfinite(landmarks_mm[L1_ROW + 5]).all():
            return None
        result[L1_ROW + 5] = result[L1_ROW + 4] + (result[L1_ROW + 4] - result[L1_ROW + 3])
    elif kind == "T13":
        result[T13_ROW] = landmarks_mm[L1_ROW]
        result[L1_ROW:T13_ROW] += step
    else:
        result[T12_ROW] = np.nan
        result[L1_ROW:T13_ROW] -= step
    return result


def spoil(landmarks_mm: np.ndarray, damage: Damage, rng: np.random.Generator) -> tuple[Candidates, list[int]]:
    """Return spoiled candidates, and the rows of the bodies that still have one (theirs come first, in that order)."""
    rows = [row for row in ROWS_BY_LEVEL if np.isfinite(landmarks_mm[row]).all()]
    if 0 < damage.in_view < len(rows):
        first = int(rng.integers(0, len(rows) - damage.in_view + 1))
        rows = rows[first : first + damage.in_view]
    means = _evidence_means(rows, damage, rng)
    kept = [i for i in range(len(rows)) if rng.random() >= damage.drop] or [0]
    positions = [landmarks_mm[rows[i]] + rng.normal(0, damage.jitter_mm, 3) for i in kept]
    evidence = [_evidence(means[i], damage.blur, rng) for i in kept]
    scores = list(rng.beta(8, 2, len(kept)))
    for i in range(len(kept)):
        if rng.random() < damage.duplicate:
            way = rng.normal(size=3)
            positions.append(positions[i] + rng.uniform(9, 15) * way / np.linalg.norm(way))
            evidence.append(_evidence(means[kept[i]], damage.blur, rng))
            scores.append(rng.beta(4, 3))
    for _ in range(rng.binomial(2 * len(rows), damage.extra / 2)):
        position, mean = _false_body(landmarks_mm[rows], means, rng)
        if min(np.linalg.norm(position - other) for other in positions) > 9:
            positions.append(position)
            evidence.append(_evidence(mean, damage.blur + 0.5, rng))
            scores.append(rng.beta(2, 3))
    view = field_of_view_mm(landmarks_mm, rows)
    return Candidates(np.array(positions), np.array(scores), np.array(evidence), view), [rows[i] for i in kept]


def field_of_view_mm(landmarks_mm: np.ndarray, rows: list[int]) -> np.ndarray:
    """Return `(2, 3)` corners 30 mm around some bodies, and 60 mm below an L5 or L6: there the sacrum is in view."""
    low, high = landmarks_mm[rows].min(axis=0) - 30, landmarks_mm[rows].max(axis=0) + 30
    if rows[-1] in (L1_ROW + 4, L1_ROW + 5):
        low[2] -= 30
    return np.stack([low, high])


def _evidence_means(rows: list[int], damage: Damage, rng: np.random.Generator) -> np.ndarray:
    """Return the level each body looks like, as a real number of channels."""
    means = np.array([channel_of_row(row) for row in rows], dtype=float)
    means += rng.normal(0, damage.wobble, len(rows))
    off = rng.random(len(rows)) < damage.confused
    means[off] += rng.choice([-1, 1], off.sum())
    off = rng.random(len(rows)) < damage.wrong
    means[off] += rng.choice([-4, -3, -2, -1, 1, 2, 3, 4], off.sum())
    if rng.random() < damage.block:
        start = rng.integers(0, len(rows))
        means[start : start + len(rows) // 2] += rng.choice([-1, 1])
    if rng.random() < damage.bias:
        means += rng.choice([-1, 1])
    return means


def _evidence(mean: float, blur: float, rng: np.random.Generator) -> np.ndarray:
    """Return `(25,)` probabilities about a level."""
    values = np.exp(-0.5 * ((np.arange(NUM_CHANNELS) - np.clip(mean, 0, 24)) / blur) ** 2)
    values = (values + 1e-3) * rng.lognormal(0, 0.3, NUM_CHANNELS)
    return values / values.sum()


def _false_body(bodies_mm: np.ndarray, means: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Return a false position (between two bodies, beyond an end, or beside one) that looks like a level nearby."""
    index = int(rng.integers(0, len(bodies_mm)))
    kind = rng.integers(0, 3) if len(bodies_mm) > 1 else 2
    if kind == 0:
        index = min(index, len(bodies_mm) - 2)
        between = bodies_mm[index : index + 2].mean(axis=0)
        return between + rng.normal(0, 2, 3), means[index] + 0.5
    if kind == 1:
        end, inner, step = (0, 1, -1) if rng.random() < 0.5 else (-1, -2, 1)
        beyond = 2 * bodies_mm[end] - bodies_mm[inner]
        return beyond + rng.normal(0, 3, 3), means[end] + step * rng.random()
    return bodies_mm[index] + rng.uniform(-40, 40, 3), means[index] + rng.normal(0, 2)
