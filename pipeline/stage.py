"""Run one bundle on one case: its `inference.json` says how, this loads it once."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .files import atomic_path

logger = logging.getLogger(__name__)


def bundles_root() -> Path:
    """Return the folder of the three bundles: beside the package in the repository, inside it once installed."""
    package = Path(__file__).parent
    return next(path for path in (package.parent / "bundles", package / "_bundles") if path.is_dir())


class Stage:
    """A bundle's preprocessing, network, inferer and postprocessing, loaded from its `inference.json`.

    Args:
        bundle: the bundle's folder.
        device: where the network runs.
        checkpoint: weights to use instead of the bundle's own `models/model.pt`.
        fold: merge batch norms into the convolutions, which changes nothing but the time.

    Raises:
        ValueError: the checkpoint does not exist or does not fit the network.
    """

    def __init__(
        self, bundle: Path, device: torch.device, checkpoint: Path | None = None, *, fold: bool = True
    ) -> None:
        from monai.bundle import ConfigParser

        bundle = Path(bundle)
        parser = ConfigParser()
        parser.read_config(bundle / "configs" / "inference.json")
        parser.read_meta(bundle / "configs" / "metadata.json")
        parser.update({"bundle_root": str(bundle), "device": device, "save": False})
        self.name = bundle.name
        self.version = str(parser["_meta_"]["version"])
        self.network: nn.Module = parser.get_parsed_content("network")
        load_weights(self.network, Path(checkpoint) if checkpoint else bundle / "models" / "model.pt", self.name)
        self.network.eval()
        if fold:
            fold_batch_norm(self.network)
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        self.postprocessing = parser.get_parsed_content("postprocessing")
        self.prior_keys = list(parser.get_parsed_content("prior_keys"))
        self.device = device

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample after all three steps; `sample["image"]` is a `Scan` or a path."""
        start = time.perf_counter()
        sample = self.preprocessing(dict(sample))
        priors = {key: torch.as_tensor(sample[key])[None] for key in self.prior_keys}
        with torch.inference_mode():
            image = sample["image"][None].to(self.device)
            sample["pred"] = self.inferer(image, self.network, **priors)[0].cpu()
        sample = self.postprocessing(sample)
        logger.info("%s: input %s, %.1f s", self.name, tuple(sample["image"].shape), time.perf_counter() - start)
        return sample


def load_weights(network: nn.Module, path: Path, name: str, part: str = "model") -> None:
    """Load a state dict (plain, or that part of a file; half precision is fine) into a network.

    Raises:
        ValueError: the file is missing, unreadable, or belongs to another network.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no weights for {name} there")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get(part, state))
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not weights for {name}: {reason}") from error


def fold_batch_norm(network: nn.Module) -> None:
    """Merge every batch norm into the convolution before it, in place; the network must be in evaluation mode."""
    for block in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for index, (layer, following) in enumerate(pairwise(block)):
            if isinstance(layer, nn.Conv3d) and isinstance(following, nn.BatchNorm3d):
                block[index], block[index + 1] = fuse_conv_bn_eval(layer, following), nn.Identity()


def export_weights(checkpoint: Path, target: Path) -> None:
    """Write a checkpoint's state dict as bundles ship it."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    write_weights(state.get("model", state), target)


def write_weights(state: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write a state dict in half precision; integers (counters) stay as they are."""
    small = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    with atomic_path(Path(target)) as temporary:
        torch.save(small, temporary)
