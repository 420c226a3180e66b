"""The vertebra table, both ways."""

import pytest

from pipeline.labels import LABELS, NAMES, ROWS_BY_LEVEL, channel_of_row, row_of_label, row_of_name

# VerSe's numbering, typed from its description and not from the module.
LABEL_OF_NAME = {
    "C1": 1, "C2": 2, "C3": 3, "C4": 4, "C5": 5, "C6": 6, "C7": 7,
    "T1": 8, "T2": 9, "T3": 10, "T4": 11, "T5": 12, "T6": 13, "T7": 14, "T8": 15, "T9": 16, "T10": 17, "T11": 18,
    "T12": 19, "L1": 20, "L2": 21, "L3": 22, "L4": 23, "L5": 24, "L6": 25, "T13": 28,
}  # fmt: skip


def test_table():
    assert dict(zip(NAMES, LABELS, strict=True)) == LABEL_OF_NAME


@pytest.mark.parametrize(("name", "label"), LABEL_OF_NAME.items())
def test_names_and_labels_meet_in_one_row(name, label):
    row = row_of_label(label)
    assert row == row_of_name(name)
    assert (NAMES[row], LABELS[row]) == (name, label)


@pytest.mark.parametrize(
    ("name", "channel"), [("C1", 0), ("C7", 6), ("T1", 7), ("T12", 18), ("T13", 18), ("L1", 19), ("L6", 24)]
)
def test_channels_follow_the_labels_and_t13_shares_the_one_of_t12(name, channel):
    assert channel_of_row(row_of_name(name)) == channel


def test_t13_lies_between_t12_and_l1():
    assert [NAMES[row] for row in ROWS_BY_LEVEL][17:22] == ["T11", "T12", "T13", "L1", "L2"]
    assert sorted(ROWS_BY_LEVEL) == list(range(26))


@pytest.mark.parametrize("label", [26, 27, 0, -1, 29, 255])
def test_labels_that_are_no_vertebrae(label):
    with pytest.raises(ValueError, match=rf"label {label} is not a vertebra: expected 1-25 \(C1-L6\) or 28 \(T13\)"):
        row_of_label(label)


@pytest.mark.parametrize(("name", "row"), [("Th4", 10), ("th12", 18), ("l5", 23), (" T13 ", 25), ("c1", 0)])
def test_other_spellings(name, row):
    assert row_of_name(name) == row


@pytest.mark.parametrize("name", ["S1", "L7", "T14", "C0", "", "20", "T"])
def test_names_that_are_no_vertebrae(name):
    with pytest.raises(ValueError, match=f"'{name}' is not a vertebra name: expected C1-C7, T1-T13 or L1-L6"):
        row_of_name(name)
