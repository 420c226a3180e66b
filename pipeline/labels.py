"""The vertebra table: name, VerSe label and network channel. The only place that converts between them.

VerSe labels: 1-7 = C1-C7, 8-19 = T1-T12, 20-25 = L1-L6, 28 = T13.
Landmark arrays have 26 rows: row `r < 25` is label `r + 1` and network channel `r`; row 25 is T13, which the
networks see as a second peak of the T12 channel (`docs/decisions/0001`).
"""

NAMES: tuple[str, ...] = (
    *(f"C{i}" for i in range(1, 8)),
    *(f"T{i}" for i in range(1, 13)),
    *(f"L{i}" for i in range(1, 7)),
    "T13",
)
LABELS: tuple[int, ...] = (*range(1, 26), 28)
NUM_CHANNELS = 25
NUM_ROWS = 26
C1_ROW, T1_ROW, T12_ROW, L1_ROW, T13_ROW = 0, 7, 18, 19, 25

# Head to foot, T13 between T12 and L1: the order in which rows follow each other along a spine.
ROWS_BY_LEVEL: tuple[int, ...] = (*range(19), T13_ROW, *range(19, 25))

_ROW_OF_LABEL = {label: row for row, label in enumerate(LABELS)}
_ROW_OF_NAME = {name: row for row, name in enumerate(NAMES)}


def row_of_label(label: int) -> int:
    """Landmark row of a VerSe label; `ValueError` for a label outside the table (26 and 27 are not vertebrae)."""
    if label not in _ROW_OF_LABEL:
        raise ValueError(f"label {label} is not a vertebra: expected 1-25 (C1-L6) or 28 (T13)")
    return _ROW_OF_LABEL[label]


def row_of_name(name: str) -> int:
    """Landmark row of a name such as `"T4"`, `"Th4"` or `"l5"`; `ValueError` for an unknown one."""
    canonical = name.strip().upper().replace("TH", "T")
    if canonical not in _ROW_OF_NAME:
        raise ValueError(f"{name!r} is not a vertebra name: expected C1-C7, T1-T13 or L1-L6")
    return _ROW_OF_NAME[canonical]


def channel_of_row(row: int) -> int:
    """Network channel of a landmark row: T13 shares the channel of T12."""
    return T12_ROW if row == T13_ROW else row
