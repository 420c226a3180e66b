"""Export a bundle's network with its weights, as TorchScript, ONNX or a `torch.export` program.

Each takes `image` `(1, C, I, J, K)` with every size a multiple, from two times on, of what the network asks for, and
returns `pred`. What is written is read again and compared with the network, at two sizes, before it gets its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .exportable import ExportableNetwork
from .files import atomic_path
from .stage import load_weights

Function = Callable[[Tensor], Tensor]
LARGEST_DIFFERENCE = 1e-3  # relative to 1 + |output|; float32 in another order of summation stays far below


def export_network(bundle: Path, target: Path, checkpoint: Path | None = None) -> float:
    """Write a bundle's network and return its largest difference from the original, relative to 1 + |output|.

    Args:
        bundle: the bundle's folder.
        target: file to write; its suffix tells the format: .ts TorchScript, .onnx ONNX, .pt2 `torch.export`.
        checkpoint: weights to use instead of the bundle's own `models/model.pt`.

    Raises:
        ValueError: unknown suffix, weights that do not fit, a missing package, or outputs that differ.
    """
    bundle, target = Path(bundle), Path(target)
    if target.suffix not in WRITERS:
        raise ValueError(f"{target}: expected a name that ends in {', '.join(WRITERS)}")
    network = read_network(bundle, checkpoint)
    with atomic_path(target) as temporary, torch.no_grad():
        difference = largest_difference(network, WRITERS[target.suffix](network, temporary, bundle))
        if not difference < LARGEST_DIFFERENCE:
            raise ValueError(f"{target}: not written, its output would differ from the network's by {difference:.1e}")
    return difference


def read_network(bundle: Path, checkpoint: Path | None = None) -> ExportableNetwork:
    """Return the network that a bundle's `inference.json` defines, with weights, for inference on the CPU."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def")
    load_weights(network, Path(checkpoint) if checkpoint else bundle / "models" / "model.pt", bundle.name)
    return network.eval()


def largest_difference(network: ExportableNetwork, exported: Function) -> float:
    """Return the largest difference between two networks at two sizes, relative to 1 + |output|."""
    differences = []
    for sizes in ((2, 2, 3), (3, 2, 2)):
        image = torch.rand(1, network.in_channels, *(network.multiple * n for n in sizes))
        expected = network(image)
        differences.append(((exported(image) - expected).abs() / (1 + expected.abs())).max().item())
    return max(differences)


def write_torchscript(network: ExportableNetwork, path: Path, bundle: Path) -> Function:
    """Write TorchScript with the bundle's metadata and configuration inside, as `ckpt_export` does."""
    from monai.data import load_net_with_metadata, save_net_with_metadata

    configs = bundle / "configs"
    metadata = json.loads((configs / "metadata.json").read_text())
    extra = {"inference.json": (configs / "inference.json").read_bytes()}
    save_net_with_metadata(torch.jit.script(network), str(path), meta_values=metadata, more_extra_files=extra)
    return load_net_with_metadata(str(path))[0]


def write_program(network: ExportableNetwork, path: Path, _: Path) -> Function:
    """Write a `torch.export` program."""
    torch.export.save(torch.export.export(network, example(network), dynamic_shapes=dynamic_sizes(network)), path)
    return torch.export.load(path).module()


def write_onnx(network: ExportableNetwork, path: Path, _: Path) -> Function:
    """Write ONNX; the comparison runs it in onnxruntime."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch asks for it late and less clearly
    except ImportError as error:
        raise ValueError(f"{path.suffix}: needs {error.name}: pip install '.[export]' in the repository") from None
    torch.onnx.export(
        network,
        example(network),
        path,
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes=dynamic_sizes(network),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0])


def example(network: ExportableNetwork) -> tuple[Tensor]:
    """Return an input of three unequal sizes; equal ones would be taken for one and the same."""
    return (torch.rand(1, network.in_channels, *(network.multiple * n for n in (2, 3, 4))),)


def dynamic_sizes(network: ExportableNetwork) -> tuple[dict[int, object]]:
    """Return what `torch.export` needs to know of the sizes: each free, but a multiple."""
    return ({i + 2: network.multiple * torch.export.Dim(name, min=2, max=64) for i, name in enumerate("ijk")},)


WRITERS = {".ts": write_torchscript, ".onnx": write_onnx, ".pt2": write_program}
