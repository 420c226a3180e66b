"""Validation on whole scans: the numbers by hand, and as MONAI's tables read them."""

import numpy as np
import pytest
import torch
from grids import OBLIQUE, image_of, landmarks

from pipeline.validation import (
    LandmarkedLabelsd,
    LandmarkIdentification,
    LandmarksOfd,
    SpineCenterError,
    VertebraDice,
)

T12, L1, T13 = 18, 19, 25


def test_center_error_is_one_line_per_scan():
    metric = SpineCenterError()
    truth = landmarks(c1=[0, 10, 100], l1=[20, 30, -300])[None]  # middle: 10, 20, -100
    boxes = torch.tensor([[[0.0, 0, -200], [26, 40, 24]], [[torch.nan] * 3] * 2])  # 3 and 12 mm off; nothing found
    rows = metric(boxes, truth.expand(2, -1, -1))
    assert rows.shape == (2, 1)
    assert rows[:, 0].tolist() == pytest.approx([(3**2 + 12**2) ** 0.5, 200], abs=1e-4)
    assert metric.aggregate() == pytest.approx((153**0.5 + 200) / 2, abs=1e-4)


def test_identification_is_one_line_per_scan():
    metric = LandmarkIdentification()
    truth = landmarks(c1=[0, 0, 0], t12=[0, 0, -300], t13=[0, 0, -330], l1=[0, 0, -360])
    found = landmarks(c1=[0, 0, 19], t12=[0, 0, -325], l1=[0, 12, -355])  # 19 mm off; nearer to T13; 13 mm off
    rows = metric(found[None], truth[None])
    assert rows.shape == (1, 26)
    hits = {row: value for row, value in enumerate(rows[0].tolist()) if value == value}
    assert hits == {0: 1.0, T12: 0.0, T13: 0.0, L1: 1.0}
    metric(truth[None], truth[None])
    assert metric.aggregate() == pytest.approx(6 / 8)


def test_dice_is_one_line_per_scan():
    metric = VertebraDice()
    truth = torch.zeros(2, 1, 2, 2, 2, dtype=torch.uint8)
    truth[0, 0, 0], truth[1, 0, 0, 0, 0] = 5, 28
    found = torch.zeros_like(truth)
    found[0, 0, 0, 0], found[0, 0, 1, 1] = 5, 5  # 2 of 4 voxels, 2 more outside
    rows = metric(found, truth)
    assert rows.shape == (2, 26)
    assert rows[0, 4] == pytest.approx(2 * 2 / (4 + 4))
    assert rows[1, T13] == 0
    assert rows.isfinite().sum() == 2
    assert metric.aggregate() == pytest.approx(0.25)


@pytest.mark.parametrize("metric", [SpineCenterError(), LandmarkIdentification(), VertebraDice()])
def test_a_metric_of_nothing_is_refused(metric):
    with pytest.raises(ValueError, match="in the validation data"):
        metric.aggregate()
    with pytest.raises(ValueError, match="a metric needs the truth"):
        metric(torch.zeros(1, 26, 3), None)


def test_what_has_no_landmark_is_background():
    labels = np.array([0, 1, 19, 20, 26, 27, 28], np.uint8).reshape(1, 1, 7)
    sample = {"label": image_of(labels, OBLIQUE), "landmarks_mm": landmarks(c1=[0, 0, 0], t13=[1, 2, 3])}
    assert LandmarkedLabelsd("label")(sample)["label"].flatten().tolist() == [0, 1, 0, 0, 0, 0, 28]


def test_landmarks_of_a_labelling():
    class Labelling:
        landmarks_mm = np.arange(78.0).reshape(26, 3)

    found = LandmarksOfd("labelling")({"labelling": Labelling()})["labelling"]
    assert found.shape == (26, 3)
    assert found[1].tolist() == [3, 4, 5]
