"""How one subject's bone looks: density from osteoporotic to young, cortex, texture, discs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Marrow by level relative to the lower spine: bodies of the neck are about twice as dense (Yoganandan et al. 2006).
_LEVEL, _DENSITY = [0, 1, 5, 6, 7, 9, 12, 16, 19], [1.9, 1.9, 1.9, 1.7, 1.5, 1.25, 1.1, 1.0, 1.0]


@dataclass(frozen=True)
class BoneLook:
    """HU of one subject's bone.

    Attributes:
        marrow: trabecular HU of the lower spine; `marrow_sd` its texture.
        neck: how much of the mean rise of density towards the neck this subject has.
        cortex: HU of the cortical shell, `cortex_mm` thick.
        gap_mm: width of the joint spaces.
        disc: HU of the discs, in half of the subjects close to the marrow.
    """

    marrow: float
    marrow_sd: float
    neck: float
    cortex: float
    cortex_mm: float
    gap_mm: float
    disc: float

    def added(self, level: float) -> float:
        """Return HU by which the marrow of a level exceeds that of the lower spine."""
        return self.marrow * self.neck * (float(np.interp(level, _LEVEL, _DENSITY)) - 1)


def draw_bone(rng: np.random.Generator) -> BoneLook:
    """Draw bone; where disc and marrow are alike only the endplates tell them apart."""
    alike = rng.random() < 0.5
    marrow = float(np.exp(rng.uniform(np.log(50), np.log(170 if alike else 300))))
    return BoneLook(
        marrow=marrow,
        marrow_sd=float(rng.uniform(3, 25) + rng.uniform(0.02, 0.15) * marrow),
        neck=float(rng.uniform(0.5, 1.3)),
        cortex=marrow + float(np.exp(rng.uniform(np.log(150), np.log(900)))),
        cortex_mm=float(rng.uniform(0.8, 1.8)),
        gap_mm=float(rng.uniform(0.4, 1.6)),
        disc=float(max(marrow + rng.uniform(-40, 40), 45) if alike else rng.uniform(50, 140)),
    )
