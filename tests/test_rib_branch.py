"""The branch for ribs: how far it sees, what it does not see, what it changes, and the loss that trains it."""

import math

import pytest
import torch
from conftest import BUNDLES

from pipeline.heatmaps import gaussian_heatmaps
from pipeline.labels import NAMES, row_of_name
from pipeline.networks import SpatialConfigurationNet
from pipeline.rib_branch import BONE, BONE_RANGE, MOST, RibBranch, RibLoss
from pipeline.stage import load_weights

SMALL = {"num_filters": 2, "spatial_filters": 4, "shared_local": True, "spatial_input": "both", "spatial_downsample": 2}


def branch(**options) -> RibBranch:
    torch.manual_seed(0)
    made = RibBranch(1, 4, **{"stem": 2, "downsample": 2, "norm": "batch", **options})
    torch.nn.init.normal_(made.output.weight)
    return made.eval()


def test_how_far_it_sees():
    """By hand, in voxels of 8 mm: window 2 aside, 3 to 1 behind, two convolutions 2; then two of 4 mm; half a voxel."""
    image = torch.full((1, 1, 64, 64, 64), 0.5, requires_grad=True)
    made = branch()
    for layer in (*made.near[::3], *made.far[::3], made.hidden, made.output):
        torch.nn.init.constant_(layer.weight, 0.01)  # every path is open
    made(image)[0, 0, 8, 8, 8].backward()
    seen = image.grad[0, 0].abs() > 0
    for axis, (low_mm, high_mm) in enumerate([(-44, 44), (-52, 20), (-28, 28)]):  # to the right, front, top
        found = torch.nonzero(seen.any(dim=[a for a in range(3) if a != axis])).flatten()
        center = 4 * 8 + 2  # edge between its second and third voxel of 2 mm
        assert (int(found.min()), int(found.max()) + 1) == (center + low_mm // 2, center + high_mm // 2)


def test_does_not_see_soft_tissue():
    image = torch.rand(1, 1, 32, 32, 32) * 1.8 - 0.5
    other = torch.where(image < BONE, torch.full_like(image, -0.5), image)
    made = branch()
    torch.testing.assert_close(made(image), made(other), atol=0, rtol=0)
    assert not torch.equal(made(image), made(image + 0.1))


def test_what_counts_as_bone_varies_in_training():
    """Air is never bone; 25 HU is in about one of six windows."""
    made, seen = branch(), []
    made.near.register_forward_hook(lambda _, given, __: seen.append(given[0].amax(dim=(1, 2, 3, 4))))
    made.train()
    made(torch.full((400, 1, 20, 20, 20), 0.05))
    brightest = seen.pop()
    assert 0.05 < float((brightest > 0).float().mean()) < 0.3
    assert float(brightest.max()) <= 0.05 - BONE_RANGE[0]
    made(torch.full((8, 1, 20, 20, 20), BONE_RANGE[0]))
    assert float(seen.pop().max()) == 0
    made.eval()(torch.full((1, 1, 20, 20, 20), BONE + 0.2))
    assert float(seen.pop()) == pytest.approx(0.2)


def test_is_never_surer_than_most():
    made = branch()
    torch.nn.init.constant_(made.output.bias, 1000.0)
    assert float(made(torch.rand(1, 1, 32, 32, 32)).detach().amax()) == pytest.approx(MOST)


def test_untrained_it_changes_nothing(tmp_path):
    """And weights from before it existed load."""
    torch.manual_seed(0)
    without = SpatialConfigurationNet(**SMALL).eval()
    torch.save({"model": without.state_dict()}, tmp_path / "old.pt")
    network = SpatialConfigurationNet(**SMALL, rib_filters=3).eval()
    load_weights(network, tmp_path / "old.pt", "vert_loc")
    image = torch.rand(1, 1, 32, 32, 64)
    torch.testing.assert_close(network(image), without(image), atol=0, rtol=0)
    again = {**network.state_dict()}
    del again["ribs.near.0.weight"]  # a file that lacks a part of it is damaged
    with pytest.raises(RuntimeError, match=r"ribs\.near\.0\.weight"):
        network.load_state_dict(again)


def test_gains_the_thoracic_levels():
    """Log-odds of 2 everywhere: the odds of T1 to T12 against the others rise by e^4; where bodies are stays."""
    torch.manual_seed(0)
    network = SpatialConfigurationNet(**SMALL, rib_filters=3).eval()
    image = torch.rand(1, 1, 32, 32, 64)
    before = network(image).detach()
    torch.nn.init.constant_(network.ribs.output.bias, MOST * math.atanh(2 / MOST))
    after = network(image).detach()
    with_ribs = torch.tensor([name.startswith("T") for name in NAMES[:25]])
    gain = (after / before).log()
    assert with_ribs.sum() == 12
    between = gain[:, with_ribs].mean(dim=1) - gain[:, ~with_ribs].mean(dim=1)
    assert float(between.median()) == pytest.approx(4, abs=0.02)
    torch.testing.assert_close(after.sum(dim=1), before.sum(dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"shared_local": False}, {"num_landmarks": 5}])
def test_needs_the_levels_in_one_softmax(options):
    with pytest.raises(ValueError, match="rib_filters 3: needs shared_local and num_landmarks 25"):
        SpatialConfigurationNet(**{**SMALL, **options}, rib_filters=3)


def targets(**positions_vox) -> torch.Tensor:
    """Blobs in voxels of 4 mm in a window of 16 x 16 x 32."""
    landmarks_mm = torch.full((26, 3), torch.nan)
    for name, position in positions_vox.items():
        landmarks_mm[row_of_name(name)] = torch.tensor(position)
    return gaussian_heatmaps(landmarks_mm, (16, 16, 32), torch.eye(4).double(), sigma_mm=1.0)[None]


@pytest.mark.parametrize(("name", "ribs"), [("C7", False), ("T1", True), ("T12", True), ("T13", True), ("L1", False)])
def test_loss_by_hand(name, ribs):
    """Log-odds of 1 cost log(1 + 1/e) where there are ribs, 1 more where there are none; elsewhere nothing counts."""
    log_odds = torch.full((1, 1, 8, 8, 16), 1.0)
    log_odds[..., -2:] = -30.0
    found = RibLoss()(log_odds, targets(**{name: (7.5, 7.5, 15.5)}))
    assert float(found) == pytest.approx(math.log1p(math.exp(-1)) + (not ribs), abs=1e-4)


def test_loss_counts_every_vertebra_alike_and_only_what_is_known():
    log_odds = torch.zeros(1, 1, 8, 8, 16)
    log_odds[..., :8] = 2.0
    both = targets(T12=(7.5, 7.5, 7.5), L1=(7.5, 7.5, 23.5))
    by_hand = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    assert float(RibLoss()(log_odds, both)) == pytest.approx(by_hand, abs=1e-4)
    both[..., 16:] = torch.nan
    assert float(RibLoss()(log_odds, both)) == pytest.approx(math.log1p(math.exp(-2)), abs=1e-4)
    assert float(RibLoss()(log_odds, torch.zeros(1, 25, 16, 16, 32))) == 0


def test_training_it_leaves_the_rest_alone(tmp_path):
    """`train_ribs.json` on three scans: only the branch's weights differ from those it began with."""
    from ball_spine import write_dataset
    from monai.bundle import ConfigWorkflow

    spines = {"a": ("T11", "T12", "L1"), "b": ("L1", "L2", "L3"), "c": ("T12", "L1", "L2")}
    data = write_dataset(tmp_path / "data", spines, val=("c",), spacing_mm=(4, 4, 4))
    bundle = BUNDLES / "vert_loc"
    workflow = ConfigWorkflow(
        [str(bundle / "configs" / f"{name}.json") for name in ("train", "train_ribs")],
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        **{
            "dataset_dir": str(data),
            "output_dir": str(tmp_path / "out"),
            "checkpoint": str(bundle / "models/model.pt"),
        },
        **{
            "device": torch.device("cpu"),
            "epochs": 1,
            "num_workers": 0,
            "batch_size": 1,
            "show_progress": False,
        },
    )
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    workflow.run()
    changed = {key.split(".")[0] for key, value in network.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {"ribs"}
