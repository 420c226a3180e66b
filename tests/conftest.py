"""What several test modules share. Imports torch and MONAI only when a test asks for a network."""

from pathlib import Path

import pytest

STAGES = ("spine_loc", "vert_loc", "vert_seg")
BUNDLES = Path(__file__).parent.parent / "bundles"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Random weights of the shipped shape, one file per stage."""
    import torch
    from monai.bundle import ConfigParser

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for name in STAGES:
        parser = ConfigParser()
        parser.read_config(BUNDLES / name / "configs" / "inference.json")
        paths[name] = folder / f"{name}.pt"
        torch.save(parser.get_parsed_content("network_def").state_dict(), paths[name])
    return paths


@pytest.fixture(scope="session")
def oracle_pipeline(checkpoints):
    """Return the real pipeline with networks that know the answer on a ball spine (`tests/oracles.py`)."""
    from oracles import LandmarkOracle, MaskOracle, SpineOracle

    from pipeline import VertebraePipeline

    pipeline = VertebraePipeline(device="cpu", checkpoints=checkpoints)
    pipeline.spine_loc.network = SpineOracle()
    pipeline.vert_loc.network = LandmarkOracle()
    pipeline.vert_seg.network = MaskOracle()
    return pipeline
