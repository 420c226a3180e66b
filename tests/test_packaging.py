from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parent.parent


def test_every_subpackage_is_installed():
    """A forgotten subpackage works from the repository and is missing only from the wheel."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted([*find_packages(str(ROOT), include=["pipeline*"]), "pipeline._bundles"])


@pytest.mark.parametrize("name", ["spine_loc", "vert_loc", "vert_seg"])
def test_bundles_are_found_and_hold_weights(name):
    from pipeline.stage import bundles_root

    assert (bundles_root() / name / "configs" / "inference.json").is_file()
    assert 1e5 < (bundles_root() / name / "models" / "model.pt").stat().st_size < 25e6
