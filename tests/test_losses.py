"""The losses: each term against numbers worked out by hand, and what they do where there is nothing to learn."""

import math

import pytest
import torch

from pipeline.heatmaps import gaussian_heatmaps
from pipeline.losses import IGNORED, HeatmapLoss, PresentClassesLoss

TERMS = {"mse": 0, "union": 1, "level": 2, "dice": 3}


def only(term: str, sigma_vox: float = 1.5) -> HeatmapLoss:
    return HeatmapLoss(*[float(i == TERMS[term]) for i in range(4)], sigma_vox=sigma_vox)


def target(*positions_vox) -> torch.Tensor:
    """Blobs of 1.5 voxels in the channels C1, C2, ... of one window of 16 x 20 x 24 voxels."""
    landmarks_mm = torch.full((26, 3), torch.nan)
    for row, position in enumerate(positions_vox):
        landmarks_mm[row] = torch.tensor(position)
    return gaussian_heatmaps(landmarks_mm, (16, 20, 24), torch.eye(4).double(), sigma_mm=1.5)[None]


# Two channels, two voxels. Sums over the channels: 0.8 where the maximum of the truth is 1, 0.2 where it is 0.
PREDICTED = torch.tensor([[0.6, 0.1], [0.2, 0.1]]).reshape(1, 2, 1, 1, 2)
TRUTH = torch.tensor([[1.0, 0.0], [0.2, 0.0]]).reshape(1, 2, 1, 1, 2)
BY_HAND = {
    "mse": (0.4**2 + 0.1**2 + 0.1**2) / (1 + 0.2**2),
    "union": -5 * math.log(0.8) - math.log(1 - 0.2),
    "level": -(1 / 1.2) * math.log(0.6 / 0.8) - (0.2 / 1.2) * math.log(0.2 / 0.8),
    "dice": 1 - 2 * 0.6 / (0.6**2 + 0.1**2 + 1),  # the second channel's truth stays below one half
}


@pytest.mark.parametrize("term", BY_HAND)
def test_heatmap_terms_by_hand(term):
    loss = only(term, sigma_vox=0.01)
    assert float(loss(PREDICTED, TRUTH)) == pytest.approx(BY_HAND[term], abs=1e-5)
    both = torch.cat([PREDICTED, PREDICTED.flip(-1)]), torch.cat([TRUTH, TRUTH.flip(-1)])
    assert float(loss(*both)) == pytest.approx(BY_HAND[term], abs=1e-5)  # every term is a ratio


def test_heatmap_terms_are_added_with_their_weights():
    loss = HeatmapLoss(2.0, 3.0, 5.0, 7.0, sigma_vox=0.01)
    expected = 2 * BY_HAND["mse"] + 3 * BY_HAND["union"] + 5 * BY_HAND["level"] + 7 * BY_HAND["dice"]
    assert float(loss(PREDICTED, TRUTH)) == pytest.approx(expected, abs=1e-4)


def test_what_is_no_number_is_the_guards_business():
    """PyTorch's cross-entropy raised an error of its own before the guard could name the scans; a GPU it stopped."""
    heatmaps = PREDICTED.clone().requires_grad_()
    loss = HeatmapLoss()(heatmaps * torch.nan, TRUTH)
    loss.backward()
    assert loss.isnan()
    assert heatmaps.grad.isnan().any()


def test_an_empty_prediction_scores_one():
    truth = target((6.3, 9.8, 12.4), (8, 10, 17))
    assert float(only("mse")(torch.zeros_like(truth), truth)) == pytest.approx(1, abs=1e-6)
    assert float(only("dice")(torch.zeros_like(truth), truth)) == pytest.approx(1, abs=1e-6)


def test_a_perfect_prediction_scores_zero():
    truth = target((6.3, 9.8, 12.4), (8, 10, 17))
    assert float(only("mse")(truth, truth)) == 0
    assert float(only("dice")(truth, truth)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("term", "worse"),
    [
        ("mse", "moved"),
        ("mse", "renamed"),
        ("mse", "faint"),
        ("union", "moved"),
        ("union", "faint"),
        ("level", "renamed"),
    ]
    + [("dice", "moved"), ("dice", "renamed"), ("dice", "faint")],
)
def test_a_perfect_prediction_is_best(term, worse):
    truth = target((6.3, 9.8, 12.4), (8, 10, 17))
    changed = {"moved": truth.roll(2, dims=4), "renamed": truth.roll(1, dims=1), "faint": 0.3 * truth + 0.001}[worse]
    assert float(only(term)(changed, truth)) > float(only(term)(truth, truth)) + 0.05


def test_level_term_tells_levels_apart_and_union_term_does_not():
    truth = target((6.3, 9.8, 12.4))
    swapped = truth.roll(1, dims=1)
    assert float(only("union")(swapped, truth)) == pytest.approx(float(only("union")(truth, truth)))
    assert float(only("level")(swapped, truth)) > float(only("level")(truth, truth)) + 1


@pytest.mark.parametrize("start", [0.0, 1e-4, 0.02])
def test_gradient_lifts_the_blob(start):
    truth = target((6, 10, 12))
    heatmaps = torch.full_like(truth, start, requires_grad=True)
    HeatmapLoss()(heatmaps, truth).backward()
    assert torch.isfinite(heatmaps.grad).all()
    assert float(heatmaps.grad[0, 0, 6, 10, 12]) < -1e-3  # up at the landmark in its own channel ...
    if start:
        assert float(heatmaps.grad[0, 5, 2, 2, 2]) > 0  # ... and down far from it


def test_no_landmark_in_the_window():
    truth = target()
    empty, full = torch.zeros_like(truth), torch.full_like(truth, 0.02, requires_grad=True)
    assert 0 <= float(HeatmapLoss()(empty, truth)) < 0.01
    loss = HeatmapLoss()(full, truth)
    assert 0.1 < float(loss.detach()) < math.inf
    loss.backward()
    assert torch.isfinite(full.grad).all()
    assert float(full.grad.min()) > 0


def test_heatmaps_where_nothing_is_known_do_not_count():
    """The numbers by hand, with two more voxels of nobody knows what."""
    unknown = torch.full((1, 2, 1, 1, 2), torch.nan)
    more = torch.cat([PREDICTED, torch.tensor([[0.9, 0.3], [0.8, 0.0]]).reshape(1, 2, 1, 1, 2)], dim=4)
    more.requires_grad_()
    for term, expected in BY_HAND.items():
        loss = only(term, sigma_vox=0.01)(more, torch.cat([TRUTH, unknown], dim=4))
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    HeatmapLoss()(more, torch.cat([TRUTH, unknown], dim=4)).backward()
    assert more.grad[..., 2:].abs().max() == 0
    assert (more.grad[..., :2].abs() > 0).any()


def test_a_single_heatmap_has_no_level_term():
    truth = target((6.3, 9.8, 12.4))[:, :1]
    assert float(only("level")(0.3 * truth + 0.01, truth)) == pytest.approx(0, abs=1e-5)
    assert float(HeatmapLoss()(truth, truth)) < float(HeatmapLoss()(0.5 * truth, truth))


# Softmax (0.5, 0.25, 0.25) where the truth is 0, (0.2, 0.2, 0.6) where it is 2.
LOGITS = torch.tensor([[0.5, 0.2], [0.25, 0.2], [0.25, 0.6]]).log().reshape(1, 3, 1, 1, 2)
CLASSES = torch.tensor([0, 2]).reshape(1, 1, 1, 1, 2)
ENTROPY = -(math.log(0.5) + math.log(0.6)) / 2
OVERLAP = ((2 * 0.5 + 1) / (0.5 + 0.2 + 1 + 1) + (2 * 0.6 + 1) / (0.25 + 0.6 + 1 + 1)) / 2  # of classes 0 and 2


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.5])
def test_mask_loss_by_hand(weight):
    loss = PresentClassesLoss(weight)
    assert float(loss(LOGITS, CLASSES)) == pytest.approx(ENTROPY + weight * (1 - OVERLAP), abs=1e-5)


def test_ignored_voxels_do_not_count():
    more = torch.cat([LOGITS, torch.tensor([[9.0, -4], [3, 2], [-7, 1]]).reshape(1, 3, 1, 1, 2)], dim=4)
    classes = torch.cat([CLASSES, torch.full_like(CLASSES, IGNORED)], dim=4)
    more.requires_grad_()
    loss = PresentClassesLoss()(more, classes)
    assert float(loss.detach()) == pytest.approx(ENTROPY + 1 - OVERLAP, abs=1e-5)
    loss.backward()
    assert more.grad[..., 2:].abs().max() == 0
    assert (more.grad[..., :2].abs() > 0).all()


def test_classes_are_those_of_the_whole_batch():
    """A second window of the same classes and logits changes nothing; the present classes are found over both."""
    logits, classes = torch.cat([LOGITS, LOGITS.flip(-1)]), torch.cat([CLASSES, CLASSES.flip(-1)])
    twice = ((4 * 0.5 + 1) / (2 * 1.7 + 1) + (4 * 0.6 + 1) / (2 * 1.85 + 1)) / 2
    assert float(PresentClassesLoss()(logits, classes)) == pytest.approx(ENTROPY + 1 - twice, abs=1e-5)


def test_mask_loss_of_the_right_answer_is_nearly_zero():
    classes = torch.randint(0, 3, (2, 1, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    logits = 20.0 * torch.nn.functional.one_hot(classes[:, 0], 26).permute(0, 4, 1, 2, 3).float()
    assert float(PresentClassesLoss()(logits, classes)) < 1e-3
    assert float(PresentClassesLoss()(logits.roll(1, dims=1), classes)) > 10


def test_nothing_known_is_nothing_to_learn():
    logits = torch.randn(2, 26, 3, 4, 5, requires_grad=True)
    loss = PresentClassesLoss()(logits, torch.full((2, 1, 3, 4, 5), IGNORED))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad.abs().max() == 0
