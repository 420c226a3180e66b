"""Findings: everything a user should look at, under a name that programs can rely on.

A code never changes its meaning; a new kind of finding gets a new code. `docs/labelling.md` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CODES: dict[str, str] = {
    "input": "something was assumed or corrected while the scan was read",
    "no_vertebra": "no vertebra was found",
    "off_by_one": "all names may be one level off",
    "not_found": "a vertebra between two named ones was not found",
    "end_not_found": "the chain ends although the next vertebra should be in view: not found, or not searched for",
    "t13": "a thirteenth thoracic vertebra was found",
    "l6": "a sixth lumbar vertebra was found",
    "no_t12": "there is no twelfth thoracic vertebra",
    "no_mask": "a named vertebra has no voxel in the mask",
    "no_landmark": "the mask has a label that is not among the named vertebrae",
    "outside_mask": "a landmark lies outside its own mask",
    "pieces": "a label has more than one connected piece",
    "order": "masks of two neighbors do not follow each other down the spine",
    "size": "a vertebra's volume does not fit its level and the patient's other vertebrae",
    "spacing": "the distance of two neighbors does not fit their levels and the patient's other distances",
}


class Finding(NamedTuple):
    """One thing to look at.

    Attributes:
        code: a key of `CODES`.
        message: one sentence for the user.
        vertebrae: names of the vertebrae it is about; empty = the whole scan.
    """

    code: str
    message: str
    vertebrae: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the sentence and the code."""
        return f"{self.message} [{self.code}]"


def about_input(sentences: Iterable[str]) -> tuple[Finding, ...]:
    """Return what reading the scan had to say."""
    return tuple(Finding("input", sentence) for sentence in sentences)
