"""The same three networks as a careful user of MONAI runs them: whole scans resampled, windows slid, float32.

    python -m benchmarks.speed.plain_monai SCAN OUTPUT BOX

In a process of its own. OUTPUT holds what `ours` wrote, BOX is its `spine_box_mm` as JSON: box and landmarks are the
same, and finding them in the heatmaps costs nothing here. Prints one JSON document; null where memory is too small.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import Tensor, nn

from pipeline.images import scan_name
from pipeline.landmarks import read_csv
from pipeline.memory import machine_gb
from pipeline.run import STAGES
from pipeline.spaces import to_voxel
from pipeline.stage import bundles_root, load_weights
from pipeline.targets import DistanceChannelsd

from .peers import MARGIN_MM
from .steps import Steps

WINDOW, OVERLAP = (96, 96, 128), 0.25


@torch.inference_mode()
def measure(scan: Path, output_dir: Path, spine_box_mm: np.ndarray) -> dict[str, Any]:
    """Segment one scan into OUTPUT/NAME_plain.nii.gz; return seconds and peaks (GB) by stage, without the start."""
    configs = {name: _config(name) for name in STAGES}
    steps, networks = Steps(), {name: _network(name, config) for name, config in configs.items()}
    box_mm = spine_box_mm + [[-MARGIN_MM], [MARGIN_MM]]
    with steps("spine_loc"):
        sample = mt.Compose([*_reading(configs["spine_loc"]), mt.DivisiblePadd("image", 8)])({"image": scan})
        SimpleInferer()(sample["image"].as_tensor()[None], networks["spine_loc"])
    with steps("vert_loc"):
        sample, _ = _in_box(scan, box_mm, configs["vert_loc"])
        heatmaps = SlidingWindowInferer(WINDOW, 1, OVERLAP)(sample["image"].as_tensor()[None], networks["vert_loc"])
        heatmaps.flatten(2).max(dim=2)
        del sample, heatmaps
    with steps("vert_seg"):
        slide = SlidingWindowInferer(WINDOW, 1, OVERLAP, mode="gaussian")
        _segment(scan, output_dir, box_mm, configs["vert_seg"], lambda image: slide(image, networks["vert_seg"]))
    return {"seconds": dict(steps.seconds), "peaks_gb": steps.peaks_gb}


def _config(name: str) -> ConfigParser:
    config = ConfigParser()
    config.read_config(bundles_root() / name / "configs" / "inference.json")
    return config


def _network(name: str, config: ConfigParser) -> nn.Module:
    """Return a bundle's network as it was trained."""
    network = config.get_parsed_content("network_def").eval()
    load_weights(network, bundles_root() / name / "models" / "model.pt", name)
    return network


def _reading(config: ConfigParser) -> list[Any]:
    """Return the transforms that bring a whole scan to a stage's spacing and range of values."""
    return [
        mt.LoadImaged("image"),
        mt.EnsureChannelFirstd("image"),
        mt.Orientationd("image", "RAS"),
        mt.Spacingd("image", (config["spacing_mm"],) * 3),
        mt.ScaleIntensityRanged("image", *config["hu_window"], -0.5, 1.3, clip=True),
    ]


def _in_box(scan: Path, box_mm: np.ndarray, config: ConfigParser) -> tuple[dict[str, Any], mt.Compose]:
    """Return the scan as a stage reads it, cut to a box, and the transforms that did it."""
    reading = _reading(config)
    sample = mt.Compose(reading)({"image": scan})
    start, end = to_voxel(np.asarray(sample["image"].affine), box_mm).round().astype(int).clip(0)
    crop = mt.SpatialCropd("image", roi_start=start, roi_end=end)
    return crop(sample), mt.Compose([*reading, crop])


def _segment(
    scan: Path, output_dir: Path, box_mm: np.ndarray, config: ConfigParser, slide: Callable[[Tensor], Tensor]
) -> None:
    """Write the mask: distance channels and 26 probabilities of the whole box, the likeliest class carried back."""
    sample, reading = _in_box(scan, box_mm, config)
    sample["landmarks_mm"] = read_csv(output_dir / f"{scan_name(scan)}_landmarks.csv")
    sample["channels"] = sample["image"]
    append = DistanceChannelsd("channels", config["reach_mm"])
    sample["pred"] = slide(append(sample)["channels"].as_tensor()[None])[0]
    steps = [
        mt.Activationsd("pred", softmax=True),
        mt.AsDiscreted("pred", argmax=True),
        mt.Invertd("pred", reading, orig_keys="image", nearest_interp=True),
        mt.SaveImaged("pred", None, "meta_dict", output_dir, "plain", output_dtype=np.uint8, separate_folder=False),
    ]
    mt.Compose(steps)(sample)


def main() -> None:
    # So that too little memory is an error of this process before the system ends another one.
    resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * machine_gb() * 1e9),) * 2)
    found = None
    try:
        found = measure(Path(sys.argv[1]), Path(sys.argv[2]), np.array(json.loads(sys.argv[3])))
    except (MemoryError, RuntimeError):
        if "allocate" not in traceback.format_exc():  # how NumPy and torch say it, within what MONAI makes of it
            raise
    print(json.dumps(found))


if __name__ == "__main__":
    main()
