"""Mask against landmarks on a spine that agrees with itself, and then with one thing spoiled at a time."""

import numpy as np
import pytest
from ball_spine import ball_spine

from pipeline import consistency
from pipeline.consistency import check
from pipeline.findings import CODES
from pipeline.labels import LABELS, row_of_name

NAMES = ("T9", "T10", "T11", "T12", "L1", "L2")


def label(name: str) -> int:
    return LABELS[row_of_name(name)]


@pytest.fixture
def spine(monkeypatch):
    """Oblique and anisotropic; all balls have one size, so the table is leveled for these tests."""
    monkeypatch.setattr(consistency, "VOLUME_ML", dict.fromkeys(consistency.VOLUME_ML, 8.8))
    scan, labels, landmarks_mm = ball_spine(NAMES, "PIR", oblique=True, spacing_mm=(2.0, 1.5, 2.4))
    return labels, scan.affine, landmarks_mm


def codes(findings) -> list[tuple[str, tuple[str, ...]]]:
    assert all(finding.code in CODES for finding in findings)
    return [(finding.code, finding.vertebrae) for finding in findings]


def test_a_spine_that_agrees_with_itself(spine):
    assert check(*spine) == ()


def test_a_vertebra_without_mask(spine):
    labels, affine, landmarks_mm = spine
    labels[labels == label("T11")] = 0
    findings = check(labels, affine, landmarks_mm)
    assert codes(findings) == [("no_mask", ("T11",))]
    assert str(findings[0]) == "T11 has a landmark but no mask [no_mask]"


def test_a_mask_without_landmark(spine):
    labels, affine, landmarks_mm = spine
    landmarks_mm[row_of_name("L2")] = np.nan
    assert codes(check(labels, affine, landmarks_mm)) == [("no_landmark", ("L2",))]


def test_labels_that_are_no_vertebra_are_not_looked_at(spine):
    labels, affine, landmarks_mm = spine
    labels[0, 0, 0] = 26  # sacrum
    assert check(labels, affine, landmarks_mm) == ()


# A ball reaches 17, 13 and 9.5 mm from its center along x, y and z; a voxel's diagonal is 3.5 mm.
@pytest.mark.parametrize(("up_mm", "outside"), [(9.0, False), (12.0, False), (15.0, True)])
def test_a_landmark_outside_its_mask(spine, up_mm, outside):
    labels, affine, landmarks_mm = spine
    landmarks_mm[row_of_name("T9"), 2] += up_mm
    found = codes(check(labels, affine, landmarks_mm))
    assert (("outside_mask", ("T9",)) in found) == outside


# A ring of 12 mm around its center, in voxels of 1 mm: no bone within 12 mm, none within 15 mm once moved by 28 mm.
@pytest.mark.parametrize(("up_mm", "outside"), [(0.0, False), (28.0, True)])
def test_the_center_of_c1_lies_in_the_canal(up_mm, outside):
    offsets_mm = np.indices((41, 47, 59)) - np.reshape([20, 23, 15], (3, 1, 1, 1))
    across_mm, up = np.hypot(offsets_mm[0], offsets_mm[1]), np.abs(offsets_mm[2])
    labels = np.where((across_mm >= 12) & (across_mm <= 18) & (up <= 5), label("C1"), 0).astype(np.uint8)
    landmarks_mm = np.full((26, 3), np.nan)
    landmarks_mm[row_of_name("C1")] = [20, 23, 15 + up_mm]
    assert codes(check(labels, np.eye(4), landmarks_mm)) == ([("outside_mask", ("C1",))] if outside else [])


def test_a_landmark_in_the_mask_of_another(spine):
    labels, affine, landmarks_mm = spine
    rows = [row_of_name("T10"), row_of_name("T11")]
    labels[np.isin(labels, [label("T10"), label("T11")])] += 100
    labels[labels == 100 + label("T10")] = label("T11")
    labels[labels == 100 + label("T11")] = label("T10")
    findings = check(labels, affine, landmarks_mm)
    messages = [finding.message for finding in findings if finding.code == "outside_mask"]
    assert messages == [
        "T10 has its landmark in the mask of T11",
        "T11 has its landmark in the mask of T10",
    ]
    assert ("order", ("T10", "T11")) in codes(findings)
    landmarks_mm[rows] = landmarks_mm[rows[::-1]]
    assert "outside_mask" not in [code for code, _ in codes(check(labels, affine, landmarks_mm))]


def test_a_landmark_outside_the_scan(spine):
    labels, affine, landmarks_mm = spine
    landmarks_mm[row_of_name("L2")] -= [0, 0, 500]
    assert ("outside_mask", ("L2",)) in codes(check(labels, affine, landmarks_mm))


def test_two_pieces(spine):
    labels, affine, landmarks_mm = spine
    corner = tuple(np.argwhere(labels == 0)[0])
    labels[corner] = label("L1")
    found = codes(check(labels, affine, landmarks_mm))
    assert ("pieces", ("L1",)) in found


@pytest.mark.parametrize(("share", "flagged"), [(0.8, False), (0.5, True)])
def test_a_vertebra_much_smaller_than_the_others(spine, share, flagged):
    labels, affine, landmarks_mm = spine
    own = np.argwhere(labels == label("T12"))
    distance_mm = np.linalg.norm(own @ affine[:3, :3].T + affine[:3, 3] - landmarks_mm[row_of_name("T12")], axis=1)
    gone = own[np.argsort(distance_mm)[int(share * len(own)) :]]
    labels[tuple(gone.T)] = 0
    assert codes(check(labels, affine, landmarks_mm)) == ([("size", ("T12",))] if flagged else [])


def test_a_vertebra_cut_by_the_border_has_no_expected_size(spine):
    labels, affine, landmarks_mm = spine
    axis = int(np.argmax(np.abs(affine[2, :3])))
    own = np.argwhere(labels == label("T9"))[:, axis]
    middle = int(np.median(own))
    top = np.take(labels, range(middle, labels.shape[axis]), axis=axis)  # half of T9 on one side of the cut
    top_affine = affine.copy()
    top_affine[:3, 3] += middle * affine[:3, axis]
    if not (top == label("T10")).any():
        top, top_affine = np.take(labels, range(middle), axis=axis), affine
    assert (top == label("T9")).any()
    assert (top == label("T10")).any()
    assert "size" not in [code for code, _ in codes(check(top, top_affine, landmarks_mm))]


@pytest.mark.parametrize(("share", "flagged"), [(0.8, False), (0.3, True), (2.2, True)])
def test_neighbors_too_near_or_too_far(spine, share, flagged):
    """T11-T12 is 29.0 +- 2.3 mm in the table; positions may be off by 2.5 mm each: one unit is 15 %, four are 59 %."""
    labels, affine, landmarks_mm = spine
    lower, upper = row_of_name("T12"), row_of_name("T11")
    step_mm = landmarks_mm[lower] - landmarks_mm[upper]
    for name in ("T12", "L1", "L2"):
        landmarks_mm[row_of_name(name)] += (share - 1) * step_mm
    found = codes(check(labels, affine, landmarks_mm))
    assert (("spacing", ("T11", "T12")) in found) == flagged
    assert not [names for code, names in found if code == "spacing" and names != ("T11", "T12")]


def test_the_distance_over_a_t13_is_no_gap():
    scan, labels, landmarks_mm = ball_spine(("T12", "T13", "L1", "L2"), spacing_mm=(2.0, 1.5, 2.4))
    assert "spacing" not in [finding.code for finding in check(labels, scan.affine, landmarks_mm)]


def test_nothing_at_all():
    assert check(np.zeros((4, 5, 6), np.uint8), np.eye(4), np.full((26, 3), np.nan)) == ()


@pytest.mark.parametrize(("c5_mm", "flagged"), [(25.0, False), (29.5, True)])
def test_a_gap_in_the_neck_that_has_room_for_another(c5_mm, flagged):
    """C4 to C5 are 17.1 mm: 1.6 times that, 27.4 mm, is less than four standard deviations, which reach to 43 mm."""
    landmarks_mm = np.full((26, 3), np.nan)
    down_mm = np.cumsum([0.0, 16.6, c5_mm, 15.8, 17.2])  # C3 ... C7
    for name, z_mm in zip(("C3", "C4", "C5", "C6", "C7"), down_mm, strict=True):
        landmarks_mm[row_of_name(name)] = (0.0, 0.0, -z_mm)
    found = codes(check(np.zeros((4, 4, 40), np.uint8), np.diag([4.0, 4.0, -4.0, 1.0]), landmarks_mm))
    assert (("spacing", ("C4", "C5")) in found) == flagged
