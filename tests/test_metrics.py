"""Metrics: the boundaries of their definitions."""

import math

import numpy as np
import pytest

from pipeline.metrics import (
    best_shift,
    dice,
    id_rate,
    identified,
    localization_errors_mm,
    panoptic_quality,
    shifted,
    surface_scores,
)

ABSENT = [np.nan] * 3


def spine(count: int) -> np.ndarray:
    """Rows down the body, slightly bent, far from the origin."""
    down = np.arange(count) * 25.0
    return np.stack([30 + 0 * down, 8 * np.sin(down / 90) - 60, 700 - down], axis=1)


@pytest.mark.parametrize(
    ("offset_mm", "strict", "organiser"),
    [
        ((12, 15.9, 0), True, True),
        ((12, 16, 0), False, True),
        ((0, 0, 20.0), False, True),
        ((0, 0, 20.01), False, False),
        ((12.01, 16, 0), False, False),
        ((0, -20, 0), False, True),
    ],
)
def test_hits_end_at_20_mm(offset_mm, strict, organiser):
    truth_mm = np.array([[30.0, -60, 700], [32, -58, 600], [35, -51, 500], [33, -40, 400]])
    predicted_mm = truth_mm.copy()
    predicted_mm[2] += offset_mm
    for mode, hit in (("strict", strict), ("organiser", organiser)):
        assert identified(predicted_mm, truth_mm, mode=mode).tolist() == [True, True, hit, True]
        assert id_rate(predicted_mm, truth_mm, mode=mode) == pytest.approx(1.0 if hit else 0.75)


def test_only_the_strict_mode_looks_at_true_vertebrae_that_are_not_predicted():
    truth_mm = np.array([[0.0, 0, 15], [0, 0, 0]])
    predicted_mm = np.array([[0.0, 0, 3], ABSENT])  # called the first, but 12 mm from it and 3 mm from the second
    assert identified(predicted_mm, truth_mm).tolist() == [False, False]
    assert identified(predicted_mm, truth_mm, mode="organiser").tolist() == [True, False]
    with pytest.raises(ValueError, match=r"'loose'.*strict or organiser"):
        identified(predicted_mm, truth_mm, mode="loose")


@pytest.mark.parametrize(("down_mm", "hit"), [(9.9, True), (10.0, True), (10.1, False), (15.0, False)])
def test_the_own_vertebra_must_be_the_nearest(down_mm, hit):
    truth_mm = np.array([[5.0, 6, 100], [5, 6, 80], [5, 6, 60]])
    predicted_mm = truth_mm - [[0, 0, 0], [0, 0, down_mm], [0, 0, 0]]
    assert identified(predicted_mm, truth_mm).tolist() == [True, hit, True]


def test_the_nearest_is_looked_for_among_the_true_ones():
    """Another prediction nearer to this truth does not matter."""
    truth_mm = np.array([[0.0, 0, 100], [0, 0, 60]])
    predicted_mm = np.array([[0.0, 0, 90], [0, 0, 75]])
    assert identified(predicted_mm, truth_mm).tolist() == [True, True]


def test_absent_landmarks():
    truth_mm = np.array([[1.0, 2, 3], ABSENT, [4, 5, 60], [7, 8, 120]])
    predicted_mm = np.array([[1.0, 2, 4], [50, 50, 50], ABSENT, [7, 8, 120]])
    assert identified(predicted_mm, truth_mm).tolist() == [True, False, False, True]
    assert id_rate(predicted_mm, truth_mm) == pytest.approx(2 / 3)
    np.testing.assert_allclose(localization_errors_mm(predicted_mm, truth_mm), [1, np.nan, np.nan, 0])


def test_a_half_absent_landmark_is_absent():
    truth_mm = np.array([[1.0, np.nan, 3], [4, 5, 60]])
    assert identified(truth_mm, truth_mm).tolist() == [False, True]
    assert id_rate(truth_mm, truth_mm) == 1.0


def test_no_truth_is_no_rate():
    assert math.isnan(id_rate(spine(3), np.full((3, 3), np.nan)))
    assert id_rate(np.full((3, 3), np.nan), spine(3)) == 0.0


def test_errors_are_euclidean():
    truth_mm = spine(2)
    assert localization_errors_mm(truth_mm + [[2, -3, 6], [0, 0, -4]], truth_mm) == pytest.approx([7, 4])


@pytest.mark.parametrize("shift", [-3, -2, -1, 0, 1, 2, 3])
def test_shift_of_the_whole_spine(shift):
    truth_mm = np.full((25, 3), np.nan)
    truth_mm[8:18] = spine(10)
    predicted_mm = np.full((25, 3), np.nan)
    predicted_mm[8 + shift : 18 + shift] = spine(10) + [3, -2, 1]  # row 8 is called 8 + shift
    assert best_shift(predicted_mm, truth_mm) == shift
    assert id_rate(shifted(predicted_mm, shift), truth_mm) == 1.0


def test_shift_at_the_ends_and_of_nothing():
    truth_mm = spine(6)
    predicted_mm = np.concatenate([np.full((1, 3), np.nan), truth_mm[:-1]])
    assert best_shift(predicted_mm, truth_mm) == 1
    assert best_shift(np.full((6, 3), np.nan), truth_mm) == 0


def test_dice():
    truth = np.array([[0, 1, 1], [2, 2, 28]], np.uint8)
    predicted = np.array([[1, 1, 0], [2, 2, 2]], np.uint8)
    assert dice(predicted, truth, 1) == pytest.approx(2 * 1 / 4)
    assert dice(predicted, truth, 2) == pytest.approx(2 * 2 / 5)
    assert dice(predicted, truth, 28) == 0.0
    assert math.isnan(dice(predicted, truth, 7))


def test_surface_scores_by_hand():
    truth_mm = np.array([[0.0, 0, 0], [0, 0, 10]])
    predicted_mm = np.array([[0.0, 0, 1], [3, 4, 0], [0, 0, 12]])  # 1, 5 and 2 mm from the truth
    scores = surface_scores(predicted_mm, truth_mm, (1.0, 2.0, 5.0))  # the truth is 1 and 2 mm from the prediction
    assert scores.hd_mm == pytest.approx(5)
    assert scores.hd95_mm == pytest.approx(2 + 0.9 * 3)  # of 1, 2, 5: position 1.9 between the second and the third
    assert scores.assd_mm == pytest.approx((1 + 5 + 2 + 1 + 2) / 5)
    assert scores.nsd == pytest.approx((2 / 5, 4 / 5, 1))
    with pytest.raises(ValueError, match="surfaces of 0 and 2 points"):
        surface_scores(np.empty((0, 3)), truth_mm, (1.0,))


def test_panoptic_quality_by_hand():
    iou = np.array([[0.8, 0.0, 0.1], [0.0, 0.5, 0.0]])  # the second pair does not exceed a half
    assert panoptic_quality(iou) == pytest.approx((0.8 * 2 / 5, 0.8, 2 / 5))
    assert panoptic_quality(np.empty((0, 3))) == (0, 0, 0)
    assert all(map(math.isnan, panoptic_quality(np.empty((0, 0)))))
