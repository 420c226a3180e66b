"""The comparison of variants must judge right, train what it says, and go on where it was stopped."""

import json

import numpy as np
import pytest
import torch
from ball_spine import write_dataset

from benchmarks import ablation
from benchmarks.held_out import heatmap_errors, mask_errors
from pipeline.heatmaps import gaussian_heatmaps
from pipeline.losses import IGNORED

TINY = ("elastic_mm=0", "device=$torch.device('cpu')")


def target_of_two(stride: int = 1) -> torch.Tensor:
    """Blobs of 6 mm at L1 and L2, 28 mm apart, on voxels of 4 mm, or of that divided by `stride`."""
    landmarks_mm = torch.full((26, 3), torch.nan)
    landmarks_mm[19], landmarks_mm[20] = torch.tensor([40.0, 36, 84]), torch.tensor([40.0, 36, 56])
    affine = torch.diag(torch.tensor([4.0 / stride] * 3 + [1.0], dtype=torch.float64))
    affine[:3, 3] = -2 + 2 / stride  # the corner stays
    shape = [n * stride for n in (20, 18, 40)]
    return gaussian_heatmaps(landmarks_mm, shape, affine, sigma_mm=6.0)[None]


def test_where_and_which_are_told_apart():
    target = target_of_two()
    right = heatmap_errors(target, target)
    one_level_off = heatmap_errors(target.roll(1, dims=1), target)
    nothing = heatmap_errors(target * 0.01, target)
    finer = heatmap_errors(target_of_two(2), target)
    assert right["where"] == pytest.approx(0, abs=0.02)
    assert right["which"] == pytest.approx(0, abs=0.02)
    assert one_level_off["where"] == pytest.approx(right["where"], abs=1e-4)
    assert one_level_off["which"] > 5
    assert nothing["where"] > 2
    assert nothing["which"] == pytest.approx(right["which"], abs=0.02)
    assert finer["where"] < 0.1 < nothing["where"]


def test_dice_of_a_window_by_hand():
    target = torch.zeros(1, 1, 10, 20, 40)
    target[..., :10], target[..., 10:20] = 20, 21  # 2000 voxels each
    target[..., 20:23] = 22  # 600: a sliver
    target[..., 38:] = IGNORED
    found = target.clone()
    found[..., :5] = 21  # half of the first is taken for the second
    found[..., 38:] = 20
    logits = torch.nn.functional.one_hot(found[:, 0].long(), 26).movedim(-1, 1).float()
    errors = mask_errors(logits, target)
    assert errors["bone Dice"] == 1
    assert errors["Dice"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert np.isnan(mask_errors(logits, torch.zeros_like(target))["Dice"])


def test_multiplications_of_stage_three():
    values = {"window": [112, 112, 128], "features": [16, 32, 64, 128]}
    assert ablation.giga_multiplications("vert_seg", values) == pytest.approx(106.2, rel=0.01)


@pytest.mark.parametrize("stage", ["vert_loc", "vert_seg"])
def test_every_variant_changes_what_the_bundle_has(stage):
    window = [64, 64, 128]
    shipped, *others = ablation.variants(stage, window).items()
    assert shipped == (ablation.SHIPPED, ablation.Variant({}))
    plain = ablation._workflow(stage, {"window": window}).parser
    for name, variant in others:
        assert any(key not in plain or plain[key] != value for key, value in variant.values.items()), name


def rows(text: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


@pytest.mark.slow
def test_variants_are_trained_once(tmp_path, capsys, monkeypatch):
    spines = {name: ("T12", "L1", "L2") for name in "abc"}
    data = write_dataset(tmp_path / "data", spines, val=("c",), spacing_mm=(3, 3.5, 4))
    start = ["--data", str(data), "--out", str(tmp_path / "out"), "--steps", "3", "--window", "32", "32", "32"]
    narrow = ["num_filters=2", "spatial_filters=2"]
    localization = ["vert_loc", *start, "--only", "stem=1", "num_filters=64", "--set", *TINY, *narrow]
    ablation.main(localization)
    ablation.main(["vert_seg", *start, "--only", "UNet3D", "--set", *TINY, "features=[2,2,2,2]"])
    first = rows(capsys.readouterr().out)
    assert first["variant"] == ["GMAC a window", "steps", "s a step", "bone Dice", "Dice"]
    assert first["UNet3D"][1] == "3"
    assert len(first["num_filters=64"]) == 1  # nothing but its cost
    kept = json.loads((tmp_path / "out" / "vert_loc.json").read_text())["variants"]
    assert kept["shipped"]["steps"] == 3 >= kept["stem=1"]["steps"] >= 1
    assert set(kept["stem=1"]["errors"]) == {"where", "which", "identified"}

    common = json.loads((tmp_path / "out" / "vert_seg.json").read_text())["common"]
    assert ablation.train_and_judge("vert_seg", common, {}, limit=0.0)["steps"] == 1  # its time was over at once

    monkeypatch.setattr(ablation, "train_and_judge", None)  # nothing is left to do
    ablation.main(localization)
    again = rows(capsys.readouterr().out)
    assert again["stem=1"] == first["stem=1"]
    with pytest.raises(SystemExit, match=r"vert_loc\.json is of other settings"):
        ablation.main([*localization, "seed=3"])
