"""The network of stage three: what it makes of distance channels, and that all levels are alike to it."""

import pytest
import torch
from test_networks import build, parameters_of, unet
from torch import nn
from torch.nn import functional

from pipeline.heatmaps import distance_channels
from pipeline.level_unet import LevelUNet

SIDE = 16
VOXEL_MM = 3.0


def level_input(*rows: int, noise: bool = False) -> torch.Tensor:
    """Return an image and the distance channels of landmarks 15 mm apart on a slanted line, one per row."""
    landmarks_mm = torch.full((26, 3), torch.nan)
    for place, row in enumerate(rows):
        landmarks_mm[row] = torch.tensor([20.0 + 2 * place, 24.0 - 3 * place, 40.0 - 14.5 * place])
    affine = torch.diag(torch.tensor([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0]))
    near = distance_channels(landmarks_mm, (SIDE, SIDE, SIDE), affine, reach_mm=96.0)
    image = torch.randn(1, SIDE, SIDE, SIDE) if noise else torch.zeros(1, SIDE, SIDE, SIDE)
    return torch.cat([image, near])[None]


class Constant(nn.Module):
    """In place of the U-Net: the same bone logit and the same correction everywhere."""

    def __init__(self, bone: float, correction: float) -> None:
        super().__init__()
        self.values = torch.tensor([bone, correction]).reshape(1, 2, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.values.expand(len(x), 2, *x.shape[2:])


def test_level_unet_size():
    assert parameters_of(LevelUNet(26, 26, (4, 8, 16, 32))) == unet(4, 2, 4)


def test_untrained_level_unet_gives_bone_to_the_nearest_landmark():
    x = level_input(3, 4, 6)
    classes = build(LevelUNet, 26, 26, (4, 8, 16, 32))(x)[0, 1:].argmax(dim=0)
    near = x[0, 1:].sort(dim=0, descending=True)
    clear = near.values[0] - near.values[1] > 1 / 96  # by more than a millimeter
    assert clear.float().mean() > 0.8
    assert torch.equal(classes[clear], near.indices[0][clear])
    assert set(classes[clear].tolist()) == {3, 4, 6}


@pytest.mark.parametrize("shift", [1, 7, 18])
def test_level_unet_treats_all_levels_alike(shift):
    network = build(LevelUNet, 26, 26, (4, 8, 16, 32))
    nn.init.normal_(network.unet.output.weight)
    torch.manual_seed(1)
    x = level_input(2, 3, 4, noise=True)
    moved = torch.cat([x[:, :1], x[:, 1:].roll(shift, dims=1)], dim=1)
    with torch.no_grad():
        share, moved_share = (network(inputs).softmax(dim=1) for inputs in (x, moved))
    torch.testing.assert_close(moved_share[:, 1:], share[:, 1:].roll(shift, dims=1))
    assert (share[:, 3:6].amax(dim=(0, 2, 3, 4)) > 0.5).all()


def test_correction_of_one_names_the_next_landmark_in_view():
    network = LevelUNet(26, 26, (4, 8, 16, 32))
    network.unet = Constant(bone=5.0, correction=1.0)
    probability = network(level_input(3, 4, 6)).softmax(dim=1)[0]
    at = {3: (7, 8, 13), 4: (7, 7, 9)}  # the voxels of the first two landmarks: (20, 24, 40) and (22, 21, 25.5) mm / 3
    assert probability[(slice(None), *at[3])].argmax() == 1 + 4
    assert probability[(slice(None), *at[4])].argmax() == 1 + 6  # no level 5 in view
    torch.testing.assert_close(probability[0], torch.full_like(probability[0], 1 / (1 + 2.718281828459045**5)))


def test_level_unet_without_a_landmark_sees_background():
    network = build(LevelUNet, 26, 26, (4, 8, 16, 32))
    x = torch.randn(2, 26, 8, 8, 8)
    x[:, 1:] = 0
    assert (network(x).argmax(dim=1) == 0).all()


def test_level_unet_needs_no_channel_of_an_absent_level():
    network = build(LevelUNet, 26, 26, (4, 8, 16, 32))
    nn.init.normal_(network.unet.output.weight)
    x, kept = level_input(3, 4, 6, noise=True), [0, 4, 5, 7]
    with torch.no_grad():
        every_level, seen = network(x).softmax(dim=1), network(x[:, kept]).softmax(dim=1)
    assert network.any_levels
    torch.testing.assert_close(seen, every_level[:, kept], rtol=1e-5, atol=1e-6)
    assert every_level[:, [c for c in range(26) if c not in kept]].max() == 0


def test_level_unet_learns_bone_and_correction():
    network = build(LevelUNet, 26, 26, (4, 8, 16, 32)).train()
    target = torch.full((1, SIDE, SIDE, SIDE), 1 + 4)
    functional.cross_entropy(network(level_input(3, 4, noise=True)), target).backward()
    assert (network.unet.output.weight.grad.flatten(1).norm(dim=1) > 0).all()


def test_level_unet_has_as_many_classes_as_channels():
    with pytest.raises(ValueError, match="1 channels in and 2 out: expected 1 \\+ levels for both"):
        LevelUNet(1, 2)
