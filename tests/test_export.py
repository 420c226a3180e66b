"""A bundle's network in other forms gives the same output, at more than one size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ball_spine import ball_spine, save_scan
from conftest import BUNDLES, STAGES
from torch import nn

from pipeline import exporting
from pipeline.cli import main
from pipeline.exportable import ExportableNetwork, FullPrecision
from pipeline.exporting import export_network, largest_difference, read_network
from pipeline.landmarks import write_csv

CPU = torch.device("cpu")
SMALL = {
    "spine_loc": {"features": [2, 2, 4, 4]},
    "vert_loc": {"num_filters": 2, "spatial_filters": 2},
    "vert_seg": {"features": [2, 2, 4, 4]},
}


@pytest.fixture
def small(tmp_path):
    """Return a function that makes a bundle whose network has few channels and random weights."""

    def make(name: str) -> Path:
        from monai.bundle import ConfigParser

        bundle = shutil.copytree(BUNDLES / name, tmp_path / name)
        path = bundle / "configs" / "inference.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **SMALL[name]}))
        torch.manual_seed(5)
        network = ConfigParser(json.loads(path.read_text())).get_parsed_content("network_def")
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm3d):  # as after training: no norm is the identity
                layer.running_mean.uniform_(-0.2, 0.2)
                layer.running_var.uniform_(0.5, 2.0)
        torch.save(network.state_dict(), bundle / "models" / "model.pt")
        return bundle

    return make


class Constant(ExportableNetwork):
    in_channels, multiple = 2, 4

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        return self.value + 0 * x


def test_the_difference_is_relative_to_one_and_the_output():
    sizes = []

    def exported(x):
        sizes.append(tuple(x.shape))
        return torch.full_like(x, 3.5)

    with torch.no_grad():
        assert largest_difference(Constant(3.0), exported) == pytest.approx(0.125)  # 0.5 / (1 + 3)
    assert sizes == [(1, 2, 8, 8, 12), (1, 2, 12, 8, 8)]


@pytest.mark.parametrize("name", STAGES)
def test_networks_know_their_input_as_metadata_states_it(name):
    network = read_network(BUNDLES / name)
    stated = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"][
        "image"
    ]
    assert (network.in_channels, [f"{network.multiple}*n"] * 3) == (stated["num_channels"], stated["spatial_shape"])


@pytest.mark.parametrize("name", STAGES)
def test_torchscript_carries_the_bundle_and_agrees(name, small, tmp_path):
    bundle = small(name)
    assert export_network(bundle, tmp_path / "model.ts") < 1e-6
    extra = {"metadata.json": "", "inference.json": ""}
    loaded = torch.jit.load(tmp_path / "model.ts", _extra_files=extra)
    assert json.loads(extra["inference.json"]) == json.loads((bundle / "configs" / "inference.json").read_text())
    assert (
        json.loads(extra["metadata.json"])["version"]
        == json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
    )
    network = read_network(bundle)
    image = torch.rand(2, network.in_channels, *(network.multiple * n for n in (1, 3, 2)))  # also of another batch size
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network(image), rtol=1e-6, atol=1e-6)


def test_scripting_leaves_a_network_in_training_as_it_was(small):
    network = read_network(small("vert_seg")).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    scripted = torch.jit.script(network)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    image = torch.rand(1, 26, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), network.eval()(image), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_torch_export_program_agrees(name, small, tmp_path):
    assert export_network(small(name), tmp_path / "model.pt2") < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's exporter, about itself
@pytest.mark.parametrize("name", STAGES)
def test_onnx_agrees(name, small, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
    pytest.importorskip("onnxscript", reason="the extra [export] is not installed")
    import onnxruntime

    bundle = small(name)
    largest = 5e-4 if name == "vert_seg" else 1e-5  # LevelUNet multiplies by 30 and by 10 before and after the U-Net
    assert export_network(bundle, tmp_path / "model.onnx") < largest
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    multiple = read_network(bundle).multiple
    assert [(x.name, x.shape[2:]) for x in session.get_inputs()] == [("image", [f"{multiple}*{i}" for i in "ijk"])]
    assert [x.name for x in session.get_outputs()] == ["pred"]


def test_an_export_that_differs_is_not_kept(small, tmp_path, monkeypatch):
    def wrong(network, path, _):
        path.write_text("")
        return lambda x: network(x) + 0.01

    monkeypatch.setitem(exporting.WRITERS, ".ts", wrong)
    with pytest.raises(
        ValueError, match=r"model\.ts: not written, its output would differ from the network's by \d\.\de-03"
    ):
        export_network(small("spine_loc"), tmp_path / "model.ts")
    assert list(tmp_path.glob("*model*")) == []


def test_command_line(small, tmp_path, capsys):
    bundle, target = small("spine_loc"), tmp_path / "a.ts"
    assert main(["export", str(bundle), "-o", str(target)]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: differs from the network by at most ")
    assert main(["export", str(bundle), "-o", str(tmp_path / "a.tflite")]) == 2
    assert (
        capsys.readouterr().err
        == f"vertebrae: {tmp_path / 'a.tflite'}: expected a name that ends in .ts, .onnx, .pt2\n"
    )
    assert main(["export", str(bundle), "-o", str(target), "--checkpoint", str(tmp_path / "none.pt")]) == 2
    assert "none.pt: no weights for spine_loc there" in capsys.readouterr().err


def test_full_precision_ends_autocast_and_orders_memory():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((x.dtype, x.is_contiguous(), torch.is_autocast_enabled("cpu")))
            return x

    image = torch.rand(1, 2, 3, 4, 5).to(torch.bfloat16, memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(FullPrecision(Spy())(image), image.float())
    assert seen == [(torch.float32, True, False)]


@pytest.mark.parametrize("name", STAGES)
def test_tensorrt_is_asked_for_what_it_understands(name, tmp_path):
    """As far as that goes without a GPU: the arguments exist, and inputs and sizes are the network's."""
    from monai.networks.trt_compiler import TrtCompiler

    config = json.loads((BUNDLES / name / "configs" / "inference_trt.json").read_text())
    network = read_network(BUNDLES / name)
    compiler = TrtCompiler(network, str(tmp_path / "plan"), **config["trt_args"])
    for profile in config["trt_args"].get("input_profiles", []):
        assert list(profile) == compiler.input_names
        smallest, usual, largest = (np.array(shape) for shape in profile[compiler.input_names[0]])
        assert (smallest <= usual).all()
        assert (usual <= largest).all()
        for shape in (smallest, usual, largest):
            assert shape[1] == network.in_channels
            assert not (shape[2:] % network.multiple).any()


@pytest.mark.parametrize("name", STAGES)
def test_without_a_gpu_the_tensorrt_overlay_gives_the_same_files(name, small, tmp_path):
    from monai.bundle import ConfigWorkflow

    scan, _, landmarks_mm = ball_spine(("L3",), "LAS", spacing_mm=(3.0, 4.0, 2.5), size_mm=(80, 70))
    options = {"image": str(save_scan(tmp_path / "in" / "one.nii.gz", scan)), "device": CPU}
    write_csv(tmp_path / "one.csv", landmarks_mm)
    if name == "vert_seg":
        options |= {"landmarks": str(tmp_path / "one.csv"), "window": [40, 64, 56]}
    configs = small(name) / "configs"
    target = {"spine_loc": "SpineOracle", "vert_loc": "LandmarkOracle", "vert_seg": "MaskOracle"}[name]
    torch.save({}, tmp_path / "nothing.pt")
    options |= {"network_def": {"_target_": f"oracles.{target}"}, "checkpoint": str(tmp_path / "nothing.pt")}
    for folder, files in (("plain", ("inference",)), ("trt", ("inference", "inference_trt"))):
        paths = [str(configs / f"{file}.json") for file in files]
        output = str(tmp_path / folder)
        workflow = ConfigWorkflow(paths, logging_file=False, workflow_type="infer", output_dir=output, **options)
        workflow.initialize()
        workflow.run()
    written = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert written
    assert [path.name for path in sorted((tmp_path / "trt").iterdir())] == written
    for file in written:
        assert (tmp_path / "trt" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
