"""What a spine has beyond the regular one: counted variants, ribs, fractures, slips, fusions, metal.

Rates are those of the VerSe corpus for counted variants (Sekuboyina et al. 2021) and rounded clinical figures for
the rest. Fracture grades follow Genant et al. (1993), transitional vertebrae Castellvi et al. (1984).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..labels import L1_ROW, NAMES, T12_ROW, T13_ROW

KINDS = ("wedge", "biconcave", "crush")
GRADE_LOSS = {1: (0.20, 0.25), 2: (0.25, 0.40), 3: (0.40, 0.60)}
COUNTED = {"L6": 0.08, "L4-only": 0.01, "T13": 0.02, "no-T12": 0.02}
OTHERS = {"short-ribs": 0.12, "transitional": 0.10, "block": 0.01, "listhesis": 0.04, "metal": 0.03}
FRACTURE_RATE = 0.04  # of every vertebra from T4 down
GRADED = tuple(f"{kind}-{grade}" for kind in KINDS for grade in GRADE_LOSS)
VARIANTS = ("none", *COUNTED, *OTHERS, "fracture", *GRADED)
_IMPOSSIBLE = (("L6", "L4-only"), ("T13", "no-T12"))
_LAST_DEEP_ROW = 9  # T3: fractures lie below


@dataclass(frozen=True)
class Fracture:
    """A fractured body: its kind, Genant grade 1-3 and the lost share of its height where most is lost."""

    kind: str
    grade: int
    loss: float


@dataclass(frozen=True)
class Metal:
    """Implants: `screws` and rods, or a `plate` in front, over `rows`; disc `cages` below the named rows."""

    kind: str
    rows: tuple[int, ...]
    cages: tuple[int, ...]


@dataclass(frozen=True)
class Variants:
    """Which vertebrae exist, and what is special about them; keys are landmark rows.

    Attributes:
        rows: the vertebrae, head to foot.
        fractures: fractured bodies.
        slips_mm: how far a vertebra has slid forward on the one below it.
        fused: pairs of neighbors grown together.
        transitional: sides ("left", "right") on which the last lumbar vertebra meets the sacrum (Castellvi II).
        ribs: length of the left and right rib as shares of the way to the midline in front; 0 = no rib.
        metal: implants, or None.
    """

    rows: tuple[int, ...]
    fractures: Mapping[int, Fracture]
    slips_mm: Mapping[int, float]
    fused: tuple[tuple[int, int], ...]
    transitional: tuple[str, ...]
    ribs: Mapping[int, tuple[float, float]]
    metal: Metal | None

    def focus(self) -> tuple[int, ...]:
        """Return the rows where something is special; a field of view made for the variant holds them."""
        found = {*self.fractures, *self.slips_mm, *(row for pair in self.fused for row in pair)}
        if self.metal:
            found |= set(self.metal.rows)
        if self.transitional or 24 in self.rows or 23 not in self.rows:
            found.add(self.rows[-1])
        if T13_ROW in self.rows or T12_ROW not in self.rows:
            found |= set(self.rows) & {T12_ROW, T13_ROW, L1_ROW}
        return tuple(row for row in self.rows if row in found)

    def document(self) -> dict[str, Any]:
        """Return what is special in plain names, for the parameters of a scan."""
        last = self.rows[-1]
        return {
            "counted": [name for name, present in _counted(self.rows).items() if present],
            "fractures": {
                NAMES[row]: {"kind": f.kind, "grade": f.grade, "height_loss_percent": round(100 * f.loss, 1)}
                for row, f in self.fractures.items()
            },
            "listhesis_mm": {NAMES[row]: round(slip, 2) for row, slip in self.slips_mm.items()},
            "fused": [[NAMES[row] for row in pair] for pair in self.fused],
            "transitional": {"vertebra": NAMES[last], "castellvi": _castellvi(self), "sides": list(self.transitional)}
            if self.transitional
            else None,
            "rib_shares": {NAMES[row]: [round(s, 3) for s in pair] for row, pair in self.ribs.items()},
            "metal": {
                "kind": self.metal.kind,
                "vertebrae": [NAMES[row] for row in self.metal.rows],
                "cages_below": [NAMES[row] for row in self.metal.cages],
            }
            if self.metal
            else None,
        }


def _castellvi(variants: Variants) -> str:
    return "IIb" if len(variants.transitional) == 2 else "IIa"


def _counted(rows: tuple[int, ...]) -> dict[str, bool]:
    return {"L6": 24 in rows, "L4-only": 23 not in rows, "T13": T13_ROW in rows, "no-T12": T12_ROW not in rows}


def parse_variant(text: str) -> frozenset[str]:
    """Return the variants named by `"L6"` or `"L6+wedge-2"`.

    Raises:
        ValueError: an unknown name, or names that exclude each other.
    """
    names = text.split("+")
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"variant {name!r}: expected {', '.join(VARIANTS)}, or several joined by +")
    if "none" in names and len(names) > 1:
        raise ValueError(f"variant {text!r}: none excludes every other")
    for first, second in _IMPOSSIBLE:
        if first in names and second in names:
            raise ValueError(f"variant {text!r}: {first} and {second} exclude each other")
    return frozenset(names)


def draw_rows(rng: np.random.Generator, variant: str | None = None) -> tuple[int, ...]:
    """Draw which vertebrae exist; `variant` as in `draw_variants`."""
    if variant is None:
        names = {str(rng.choice(["none", *COUNTED], p=[1 - sum(COUNTED.values()), *COUNTED.values()]))}
    else:
        names = set(parse_variant(variant))
    rows = list(range(25 if "L6" in names else 23 if "L4-only" in names else 24))
    if "T13" in names:
        rows.insert(T12_ROW + 1, T13_ROW)
    if "no-T12" in names:
        rows.remove(T12_ROW)
    return tuple(rows)


def draw_variants(rng: np.random.Generator, variant: str | None = None) -> Variants:
    """Draw what is special about one subject.

    Args:
        rng: source of randomness.
        variant: None (everything by chance, at natural rates), "none" (a regular spine), or names joined by `+`
            (exactly these).
    """
    rows = draw_rows(rng, variant)
    if variant is None:
        names = {name for name, rate in OTHERS.items() if rng.random() < rate}
    else:
        names = set(parse_variant(variant))
    fractures = _draw_fractures(rng, rows, None if variant is None else names)
    return Variants(
        rows=rows,
        fractures=fractures,
        slips_mm=_draw_slip(rng, rows) if "listhesis" in names else {},
        fused=_draw_fusion(rng, rows, fractures) if "block" in names else (),
        transitional=_draw_sides(rng) if "transitional" in names else (),
        ribs=_draw_ribs(rng, rows, short="short-ribs" in names),
        metal=_draw_metal(rng, rows) if "metal" in names else None,
    )


def _draw_fractures(rng: np.random.Generator, rows: tuple[int, ...], names: set[str] | None) -> dict[int, Fracture]:
    """Draw fractures by chance (`names` None), or those asked for, one vertebra each."""
    able = [row for row in rows if row > _LAST_DEEP_ROW]
    if names is None:
        by_chance = [row for row in able if rng.random() < FRACTURE_RATE]
        return {row: _draw_fracture(rng) for row in by_chance}
    asked = sorted(names & {"fracture", *GRADED})
    hit = rng.choice(len(able), len(asked), replace=False)
    return {able[i]: _draw_fracture(rng, name) for i, name in zip(sorted(hit), asked, strict=True)}


def _draw_fracture(rng: np.random.Generator, name: str = "fracture") -> Fracture:
    if name == "fracture":
        kind, grade = str(rng.choice(KINDS, p=[0.55, 0.3, 0.15])), int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
    else:
        kind, grade = name.rsplit("-", 1)[0], int(name[-1])
    return Fracture(kind, grade, float(rng.uniform(*GRADE_LOSS[grade])))


def _draw_slip(rng: np.random.Generator, rows: tuple[int, ...]) -> dict[int, float]:
    return {rows[-int(rng.choice([1, 2, 3], p=[0.4, 0.45, 0.15]))]: float(rng.uniform(4, 12))}


def _draw_fusion(
    rng: np.random.Generator, rows: tuple[int, ...], fractures: Mapping[int, Fracture]
) -> tuple[tuple[int, int], ...]:
    pairs = [p for p in pairwise(rows[1:]) if not set(p) & set(fractures)]
    return (pairs[int(rng.integers(len(pairs)))],)


def _draw_sides(rng: np.random.Generator) -> tuple[str, ...]:
    return (("left", "right"), ("left",), ("right",))[int(rng.choice(3, p=[0.5, 0.25, 0.25]))]


def _draw_ribs(rng: np.random.Generator, rows: tuple[int, ...], *, short: bool) -> dict[int, tuple[float, float]]:
    """Draw rib lengths; `short` shortens T11 and T12, or leaves T12 without ribs."""
    subject = rng.normal(0, 0.04)
    eleven, twelve = 0.38 + rng.normal(0, 0.05), float(np.clip(rng.normal(0.23, 0.07), 0.1, 0.4))
    if short:
        eleven, twelve = rng.uniform(0.08, 0.3), rng.choice([0.0, rng.uniform(0.03, 0.1)])
    shares = {}
    for row in rows:
        if row == T13_ROW:
            share = rng.uniform(0.05, 0.2)
        elif row == T12_ROW:
            share = twelve
        elif row == T12_ROW - 1:
            share = eleven
        elif 7 <= row < T12_ROW - 1:
            share = np.interp(row, [7, 8, 11, 14, 15, 16], [0.8, 0.92, 0.92, 0.82, 0.68, 0.5]) + subject
        else:
            continue
        left, right = share * rng.uniform(0.93, 1.07, 2)
        shares[row] = (float(left), float(right))
    return shares


def _draw_metal(rng: np.random.Generator, rows: tuple[int, ...]) -> Metal:
    if rng.random() < 0.25:
        first = int(rng.integers(3, 5))
        chosen = rows[first : first + int(rng.integers(2, 4))]
        return Metal("plate", chosen, chosen[:-1])
    last = len(rows) - int(rng.integers(0, 4))
    chosen = rows[last - int(rng.integers(2, 5)) : last]
    return Metal("screws", chosen, tuple(row for row in chosen[:-1] if rng.random() < 0.5))
