"""The networks: structure and size by arithmetic, wiring by what reaches which branch."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.blocks import HalfResolution, double_conv, space_to_depth
from pipeline.networks import SpatialConfigurationNet, UNet3D


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def twice(inside: int, outside: int) -> int:
    """Two 3 x 3 x 3 convolutions without bias, each with a norm's weight and offset."""
    return 27 * inside * outside + 2 * outside + 27 * outside * outside + 2 * outside


def unet(inside: int, outside: int, a: int) -> int:
    """Four levels of a, 2a, 4a, 8a down, three up from the level below plus the skip, one 1 x 1 x 1 convolution."""
    down = twice(inside, a) + twice(a, 2 * a) + twice(2 * a, 4 * a) + twice(4 * a, 8 * a)
    up = twice(8 * a + 4 * a, 4 * a) + twice(4 * a + 2 * a, 2 * a) + twice(2 * a + a, a)
    return down + up + a * outside + outside


def build(kind, *arguments, **options) -> nn.Module:
    torch.manual_seed(0)
    network = kind(*arguments, **options)
    for module in network.modules():  # a fresh norm is the identity and would hide a missing one
        if isinstance(module, (nn.BatchNorm3d, nn.InstanceNorm3d)):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.5, 0.3)  # above zero, or the few channels of a toy network die
    return network.eval()


def inputs_and_output(module: nn.Module) -> dict:
    """Keep what a module is given and what it returns in the dictionary returned here."""
    seen = {}
    module.register_forward_hook(lambda _, given, out: seen.update(input=given[0], output=out))
    return seen


def test_unet_is_the_specified_one():
    with torch.device("meta"):
        network = UNet3D(1, 26)
    assert [level[0].out_channels for level in network.encoders] == [64, 128, 256, 512]
    assert [level[0].in_channels for level in network.encoders] == [1, 64, 128, 256]
    assert [(level[0].in_channels, level[0].out_channels) for level in network.decoders] == [
        (192, 64), (384, 128), (768, 256),
    ]  # fmt: skip
    for level in (*network.encoders, *network.decoders):
        assert [type(layer) for layer in level] == [nn.Conv3d, nn.BatchNorm3d, nn.ReLU] * 2
        assert [(layer.kernel_size, layer.padding) for layer in level[::3]] == [((3, 3, 3), (1, 1, 1))] * 2
    assert (network.output.kernel_size, network.output.out_channels) == ((1, 1, 1), 26)


@pytest.mark.parametrize(
    ("inside", "outside", "width", "count"), [(1, 1, 64, 23342337), (26, 26, 64, 23387162), (1, 25, 16, 1460697)]
)
def test_unet_size(inside, outside, width, count):
    with torch.device("meta"):
        network = UNet3D(inside, outside, (width, 2 * width, 4 * width, 8 * width))
    assert parameters_of(network) == unet(inside, outside, width) == count


def test_unet_forward_is_the_published_order():
    """The same layers wired by hand: pool before a level, upsample after it, skip and deeper features together."""
    network = build(UNet3D, 2, 3, (4, 6, 8, 10))
    x = torch.randn(2, 2, 16, 8, 24)
    a = network.encoders[0](x)
    b = network.encoders[1](functional.avg_pool3d(a, 2))
    c = network.encoders[2](functional.avg_pool3d(b, 2))
    d = network.encoders[3](functional.avg_pool3d(c, 2))
    for decoder, skip in zip(reversed(network.decoders), (c, b, a), strict=True):
        for axis in (2, 3, 4):
            d = d.repeat_interleave(2, dim=axis)  # nearest
        d = decoder(torch.cat([skip, d], dim=1))
    torch.testing.assert_close(network(x), network.output(d), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_half_resolution_is_average_pooling(layout):
    x = torch.randn(2, 3, 6, 8, 10).to(memory_format=layout)
    torch.testing.assert_close(HalfResolution()(x), functional.avg_pool3d(x, 2), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("head", ["none", "sigmoid", "softmax"])
def test_unet_shapes_and_heads(head, stem):
    network = build(UNet3D, 2, 5, (2, 3, 4, 5), head=head, stem=stem)
    raw = build(UNet3D, 2, 5, (2, 3, 4, 5), stem=stem)
    raw.load_state_dict(network.state_dict())
    x = torch.randn(3, 2, 16, 32, 48)
    out, logits = network(x), raw(x)
    assert out.shape == (3, 5, 16 // stem, 32 // stem, 48 // stem)
    softmax = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = {"none": logits, "sigmoid": 1 / (1 + torch.exp(-logits)), "softmax": softmax}
    torch.testing.assert_close(out, expected[head])


def test_instance_norm():
    layers = double_conv(2, 3, "instance")
    assert [type(layer) for layer in layers] == [nn.Conv3d, nn.InstanceNorm3d, nn.ReLU] * 2
    assert parameters_of(layers) == twice(2, 3)


def test_space_to_depth():
    x = torch.arange(2 * 2 * 4 * 2 * 6).reshape(2, 2, 4, 2, 6)
    folded = space_to_depth(x, 2)
    assert folded.shape == (2, 16, 2, 1, 3)
    for channel, (c, i, j, k) in enumerate(itertools.product((0, 1), repeat=4)):
        assert torch.equal(folded[:, channel], x[:, c, i::2, j::2, k::2])


def test_stem_is_space_to_depth_in_front():
    network = build(UNet3D, 1, 2, (2, 3, 4, 5), stem=2)
    plain = UNet3D(8, 2, (2, 3, 4, 5)).eval()
    plain.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 16, 32, 48)
    torch.testing.assert_close(network(x), plain(space_to_depth(x, 2)))


@pytest.mark.parametrize(
    ("options", "local", "spatial"),
    [
        ({"spatial_input": "local"}, (1, 25), (25, 25)),
        ({"spatial_input": "image"}, (1, 25), (1, 25)),
        ({"spatial_input": "both"}, (1, 25), (26, 25)),
        ({"spatial_input": "both", "shared_local": True}, (1, 1), (2, 25)),
        ({"spatial_input": "both", "shared_local": True, "stem": 2}, (8, 1), (9, 25)),
    ],
)
def test_spatial_configuration_net_size(options, local, spatial):
    with torch.device("meta"):
        network = SpatialConfigurationNet(num_filters=8, spatial_filters=16, **options)
    assert parameters_of(network) == unet(*local, 8) + unet(*spatial, 16)


def test_spatial_configuration_net_default_is_64_wide():
    with torch.device("meta"):
        network = SpatialConfigurationNet()
    assert parameters_of(network) == unet(1, 25, 64) + unet(25, 25, 64)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_heatmaps_are_the_product_of_both_branches(factor):
    network = build(SpatialConfigurationNet, 1, 3, 2, spatial_downsample=factor)
    local, spatial = inputs_and_output(network.local), inputs_and_output(network.spatial)
    image = torch.randn(2, 1, 32, 64, 32)
    heatmaps = network(image).detach()
    assert spatial["output"].shape == (2, 3, 32 // factor, 64 // factor, 32 // factor)
    coarse = functional.interpolate(torch.sigmoid(spatial["output"]), size=(32, 64, 32), mode="trilinear")
    torch.testing.assert_close(heatmaps, (torch.sigmoid(local["output"]) * coarse).detach())
    assert heatmaps.shape == (2, 3, 32, 64, 32)
    assert 0 <= float(heatmaps.min()) < float(heatmaps.max()) <= 1


@pytest.mark.parametrize("choice", ["image", "local", "both"])
def test_spatial_branch_reads_what_it_says(choice):
    network = build(SpatialConfigurationNet, 2, 3, 2, spatial_input=choice, spatial_downsample=2)
    local, spatial = inputs_and_output(network.local), inputs_and_output(network.spatial)
    network(torch.randn(2, 2, 16, 32, 48))
    image, maps = local["input"], torch.sigmoid(local["output"])
    averaged, peaks = functional.avg_pool3d(image, 2), functional.max_pool3d(maps, 2)
    expected = {"image": averaged, "local": peaks, "both": torch.cat([averaged, peaks], dim=1)}[choice]
    torch.testing.assert_close(spatial["input"], expected)


@pytest.mark.parametrize(("choice", "from_local"), [("image", False), ("local", True), ("both", True)])
def test_spatial_gradient_reaches_the_local_branch(choice, from_local):
    network = build(SpatialConfigurationNet, 1, 3, 2, spatial_input=choice, spatial_downsample=2)
    spatial = inputs_and_output(network.spatial)
    network(torch.randn(1, 1, 16, 32, 48))
    gradient = torch.autograd.grad(spatial["output"].sum(), network.local.output.weight, allow_unused=True)[0]
    assert (gradient is not None and float(gradient.abs().max()) > 0) == from_local


@pytest.mark.parametrize(("choice", "changes"), [("image", True), ("local", False), ("both", True)])
def test_spatial_branch_sees_the_image_past_the_local_branch(choice, changes):
    network = build(SpatialConfigurationNet, 1, 3, 2, spatial_input=choice, spatial_downsample=2)
    nn.init.zeros_(network.local.output.weight)  # the local maps no longer depend on the image
    first, second = torch.randn(2, 1, 1, 16, 32, 48)
    assert (not torch.allclose(network(first), network(second))) == changes


def test_coarse_image_of_a_factor_of_four():
    network = build(SpatialConfigurationNet, 1, 3, 2, spatial_input="image", spatial_downsample=4)
    spatial = inputs_and_output(network.spatial)
    image = torch.randn(1, 1, 32, 64, 32)
    network(image)
    torch.testing.assert_close(spatial["input"], functional.avg_pool3d(image, 4))


@pytest.mark.parametrize("stem", [1, 2])
def test_shared_local_map_is_the_sum_of_the_heatmaps(stem):
    network = build(SpatialConfigurationNet, 1, 5, 2, shared_local=True, spatial_downsample=2, stem=stem)
    local = inputs_and_output(network.local)
    heatmaps = network(torch.randn(2, 1, 32, 64, 32))
    assert heatmaps.shape == (2, 5, 32 // stem, 64 // stem, 32 // stem)
    assert local["output"].shape[1] == 1
    torch.testing.assert_close(heatmaps.sum(dim=1), torch.sigmoid(local["output"][:, 0]))
    assert float(heatmaps.detach().std(dim=1).max()) > 0


@pytest.mark.parametrize(
    "network",
    [SpatialConfigurationNet(1, 25, 2, spatial_downsample=1), UNet3D(1, 25, (2, 4, 8, 16), head="sigmoid")],
)
def test_untrained_heatmaps_are_nearly_empty(network):
    """Blobs fill a thousandth of the volume: a start at one half everywhere would take long to forget."""
    assert float(network(torch.randn(2, 1, 16, 8, 24)).detach().mean()) < 0.1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (UNet3D, {"head": "relu"}, "head 'relu': expected none, sigmoid or softmax"),
        (UNet3D, {"norm": "layer"}, "norm 'layer': expected batch or instance"),
        (SpatialConfigurationNet, {"spatial_input": "maps"}, "spatial_input 'maps': expected image, local or both"),
        (SpatialConfigurationNet, {"spatial_downsample": 3}, "spatial_downsample 3: expected a power of two"),
        (SpatialConfigurationNet, {"spatial_downsample": 0}, "spatial_downsample 0: expected a power of two"),
        (SpatialConfigurationNet, {"norm": "group"}, "norm 'group': expected batch or instance"),
    ],
)
def test_bad_arguments(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(1, 2, **options)
