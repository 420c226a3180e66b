"""Which prediction belongs to which truth, decided by the parts of their file names.

Understood are BIDS-like names (`sub-verse004_split-verse253_dir-sag_seg-vert_msk`), VerSe's flat ones
(`verse500_CT-sag_seg`, `GL124_CT_ax-iso-ctd`) and anything followed by what the file is (`NAME_segmentation`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

_ROLES = {"ct", "seg", "msk", "mask", "ctd", "segmentation", "landmarks", "preview", "snp"}
_ROLE_KEYS = {"seg", "mod", "label", "desc", "space"}  # BIDS keys that say what the file is, not of whom
_SERIES = re.compile(r"(?:ct-?)?(ax|sag|cor|iso)", re.IGNORECASE)
_ISO_CENTROIDS = re.compile(r"[-_]?(?:iso-ctd|ctd-iso)$", re.IGNORECASE)


@dataclass(frozen=True)
class Entities:
    """Of whom and of which scan a file is; empty = not stated. All in lower case.

    Attributes:
        subject: the patient.
        split: VerSe's second name of one of a patient's scans.
        series: `ax`, `sag`, `cor` or `iso`.
        other: further BIDS entities such as `ses-2`, sorted.
    """

    subject: str
    split: str = ""
    series: str = ""
    other: tuple[str, ...] = ()

    @property
    def scan(self) -> str:
        """The name under which VerSe's flat layout has the scan."""
        return self.split or self.subject


def parse(stem: str) -> Entities:
    """Return the entities of a file name without its suffix (or of a folder's name)."""
    tokens = [token for token in _ISO_CENTROIDS.sub("", stem).split("_") if token]
    while len(tokens) > 1 and _says_role(tokens[-1]):
        tokens.pop()
    pairs = dict(token.lower().split("-", 1) for token in tokens if re.fullmatch(r"[A-Za-z]+-.+", token))
    if "sub" in pairs:
        other = sorted(f"{k}-{v}" for k, v in pairs.items() if k not in {"sub", "split", "dir"} | _ROLE_KEYS)
        return Entities(pairs["sub"], pairs.get("split", ""), pairs.get("dir", ""), tuple(other))
    series = _SERIES.fullmatch(tokens[-1]) if len(tokens) > 1 else None
    if series:
        tokens.pop()
        while len(tokens) > 1 and tokens[-1].lower() == "ct":
            tokens.pop()
    return Entities("_".join(tokens).lower(), series=series.group(1).lower() if series else "")


def _says_role(token: str) -> bool:
    """Tell a trailing token such as `seg`, `msk` or `seg-vert`, which says what the file is."""
    key = token.lower().split("-")[0]
    return token.lower() in _ROLES or ("-" in token and key in _ROLE_KEYS)


def role_of(stem: str) -> str:
    """Return the trailing tokens that say what a file is, in lower case: `seg-vert_msk`, `ctd`; "" for none."""
    if _ISO_CENTROIDS.search(stem):
        return "ctd"
    tokens, roles = stem.split("_"), list[str]()
    while len(tokens) > 1 and _says_role(tokens[-1]):
        roles.insert(0, tokens.pop().lower())
    return "_".join(roles)


# From all that is stated to the patient alone; a step counts only where it is unambiguous on both sides.
_STEPS: tuple[Callable[[Entities], Hashable], ...] = (
    lambda e: e,
    lambda e: (e.scan, e.series, e.other),
    lambda e: e.scan,
    lambda e: e.subject,
)


def match(predictions: Mapping[str, Entities], truths: Mapping[str, Entities]) -> dict[str, str]:
    """Return the prediction's name by the truth's name, for every truth with exactly one prediction.

    Args:
        predictions: entities by the name of the prediction.
        truths: entities by the name of the truth.
    """
    matched: dict[str, str] = {}
    for step in _STEPS:
        waiting = {name: e for name, e in truths.items() if name not in matched}
        free = {name: e for name, e in predictions.items() if name not in matched.values()}
        fits = {
            t: [p for p, pe in free.items() if step(pe) == step(te) and _agree(pe, te)] for t, te in waiting.items()
        }
        for truth, candidates in fits.items():
            if len(candidates) == 1 and sum(candidates[0] in others for others in fits.values()) == 1:
                matched[truth] = candidates[0]
    return matched


def _agree(a: Entities, b: Entities) -> bool:
    """Tell whether no entity is stated differently on the two sides."""
    pairs = ((a.split, b.split), (a.series, b.series), (a.other, b.other))
    return all(x == y or not x or not y for x, y in pairs)
