"""The packed bundles in MONAI Label's own app for bundles: each answers on the scan's grid, alone and in a chain."""

import importlib.metadata
import importlib.util
import json
import re
import sys
import warnings
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import nibabel as nib
import numpy as np
import pytest
import torch
from ball_spine import affine_of, ball_spine, save_scan
from conftest import BUNDLES, STAGES
from label_server import ORACLES, SMALL

from pipeline.label import launch
from pipeline.label.exchange import VALUES
from pipeline.label.monaibundle import AnswerBoxd, ball_mask, box_mask, landmarks_beside
from pipeline.labels import NAMES, row_of_name
from pipeline.landmarks import absent, write_csv
from pipeline.metrics import dice
from pipeline.packing import pack
from pipeline.spaces import Grid

ONE = ("T12", "L1")
GRID = {"axcodes": "PIR", "oblique": True, "spacing_mm": (2.0, 2.4, 1.8)}
# What the app imports and bundles do not use; the small installation of docs/label.md lacks it.
UNUSED = ("expiring_dict", "shapely.geometry", "skimage.measure", "torchvision.utils")


def unzip(folder: Path) -> Path:
    """Return a folder for the app with the packed bundles where it looks for them."""
    for name in STAGES:
        zipfile.ZipFile(pack(BUNDLES / name, folder / "zips")).extractall(folder / "model")
    return folder


@pytest.fixture(scope="module", autouse=True)
def no_trace():
    """Undo that the app puts every bundle's folder on the import path."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if re.match(r"\w+_code(\.|$)", name)]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def stock():
    """Return the class of the app `monaibundle`, from where MONAI Label is installed."""
    pytest.importorskip("monailabel", reason="MONAI Label is not installed")
    files = importlib.metadata.files("monailabel")
    main = next(file.locate() for file in files if file.as_posix().endswith("sample-apps/monaibundle/main.py"))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports uses deprecated parts of its own dependencies
        if not launch.usable("pydicom_seg"):
            patch.syspath_prepend(Path(launch.__file__).parent / "stand_in")
        for name in UNUSED:
            package = name.partition(".")[0]
            if not launch.usable(package):
                patch.setitem(sys.modules, package, MagicMock())
                patch.setitem(sys.modules, name, MagicMock())
        spec = importlib.util.spec_from_file_location("stock_monaibundle", main)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.MyApp


@pytest.fixture(scope="module")
def app(stock, tmp_path_factory):
    """Return the app with the packed bundles, networks that know the answer, and a scan `one`."""
    folder = unzip(tmp_path_factory.mktemp("app"))
    for name, oracle in ORACLES.items():
        path = folder / "model" / name / "configs" / "inference.json"
        changes = {"network_def": {"_target_": f"oracles.{oracle}"}, **SMALL.get(name, {})}
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        torch.save({}, folder / "model" / name / "models" / "model.pt")
    save_scan(folder / "studies" / "one.nii.gz", ball_spine(ONE, **GRID)[0])
    return started(stock, folder)


def started(stock, folder: Path):
    conf = {"models": ",".join(STAGES), "zoo_source": "local", "sam2": "false", "auto_update_scoring": "false"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        return stock(str(folder), str(folder / "studies"), conf)


def infer(app, model: str, **request) -> tuple[np.ndarray, dict]:
    """Return the mask and the JSON that a client gets."""
    answer = app.infer({"model": model, "image": "one", "device": "cpu", **request})
    mask = nib.load(answer["file"])
    values = np.asarray(mask.dataobj)
    Path(answer["file"]).unlink()
    json.dumps(answer["params"], allow_nan=False)
    scan = ball_spine(ONE, **GRID)[0]
    assert values.shape == scan.array.shape
    assert values.dtype == np.uint8
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-3)
    return values, answer["params"]


def test_values_have_names(app):
    models = app.info()["models"]
    assert models["spine_loc"]["labels"] == {"spine": 1}
    for name in ("vert_loc", "vert_seg"):
        assert models[name]["labels"] == {vertebra.lower(): value for vertebra, value in VALUES.items()}
        metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())
        assert models[name]["version"] == metadata["version"]
        channels = metadata["network_data_format"]["outputs"]["label_map"]["channel_def"]
        assert list(channels.values()) == ["background", *NAMES]


def test_from_the_scan_to_the_mask(app):
    _, labels, landmarks_mm = ball_spine(ONE, **GRID)
    values, found = infer(app, "spine_loc")
    low_mm, high_mm = np.array(found["spine_box_mm"])
    true_mm = landmarks_mm[[row_of_name(name) for name in ONE]]
    assert ((low_mm < true_mm) & (true_mm < high_mm)).all()
    assert set(np.unique(values)) == {0, 1}
    assert values[labels > 0].mean() > 0.99  # of the vertebrae's voxels

    values, found = infer(app, "vert_loc", spine_box_mm=found["spine_box_mm"])
    assert [vertebra["name"] for vertebra in found["vertebrae"]] == list(ONE)
    positions = {vertebra["name"]: vertebra["position_mm"] for vertebra in found["vertebrae"]}
    assert set(np.unique(values)) == {0, 19, 20}
    affine = ball_spine(ONE, **GRID)[0].affine
    for name, position_mm in positions.items():
        assert np.linalg.norm(position_mm - landmarks_mm[row_of_name(name)]) < 0.5
        center = affine @ [*np.argwhere(values == VALUES[name]).mean(axis=0), 1]
        assert np.linalg.norm(center[:3] - position_mm) < 0.6  # a ball has some 60 voxels

    values, found = infer(app, "vert_seg", landmarks=positions)
    assert found["label_names"]["l1"] == 20
    assert set(np.unique(values)) == {0, 19, 20}
    for label in (19, 20):
        assert dice(values, labels, label) > 0.9


def test_the_whole_scan_without_a_box(app):
    assert [vertebra["name"] for vertebra in infer(app, "vert_loc")[1]["vertebrae"]] == list(ONE)


def test_landmarks_beside_the_scan(app):
    _, labels, landmarks_mm = ball_spine(ONE, **GRID)
    given_mm = absent()
    given_mm[row_of_name("T12")] = landmarks_mm[row_of_name("T12")]
    given_mm[row_of_name("T13")] = landmarks_mm[row_of_name("L1")]  # the name is the annotator's
    file = Path(app.studies) / "one_landmarks.csv"
    write_csv(file, given_mm)
    values, _ = infer(app, "vert_seg")
    file.unlink()
    assert set(np.unique(values)) == {0, 19, 26}
    assert dice(np.where(values == 26, 20, values), labels, 20) > 0.9


def test_no_landmarks_is_one_sentence(app):
    with pytest.raises(ValueError, match=r"one\.nii\.gz: no landmarks; send landmarks .* with the request or put one_"):
        infer(app, "vert_seg")
    with pytest.raises(ValueError, match=r"landmark L3 \[1, 2\]: expected 3 numbers, RAS mm"):
        infer(app, "vert_seg", landmarks={"L3": [1, 2]})
    with pytest.raises(ValueError, match=r"landmarks \[\]: expected names with positions"):
        infer(app, "vert_seg", landmarks=[])


def test_the_app_runs_the_code_in_the_zip_and_loads_all_of_its_weights(stock, tmp_path):
    """Where the names of weights do not fit, the app would go on with random ones."""
    app = started(stock, unzip(tmp_path))
    for name in STAGES:
        network = app._infers[name]._get_network("cpu", {})
        assert type(network).__module__.startswith(f"{name}_code.")
        state = network.state_dict()
        weights = torch.load(BUNDLES / name / "models" / "model.pt", weights_only=True)
        assert state.keys() == weights.keys()
        assert all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in weights.items())


@pytest.mark.parametrize("name", STAGES)
def test_nothing_resamples_with_the_transform_that_fails_in_the_app(name):
    """MONAI's Spacingd, from 1.6 on, takes the app's `image_path` for a dictionary."""
    for path in (BUNDLES / name / "configs").glob("*.json"):
        assert "Spacing" not in path.read_text()


# Array axes along R, I and A, 2, 4 and 1 mm a voxel.
TURNED = np.array([[2.0, 0, 0, 100], [0, 0, 1, -50], [0, -4, 0, 30], [0, 0, 0, 1]])


def test_a_box_becomes_the_voxels_whose_centers_it_holds():
    grid = Grid((5, 4, 6), TURNED)
    # x = 100 + 2 i in [101, 104]: i 1, 2; y = -50 + k in [-48.5, -46]: k 2-4; z = 30 - 4 j in [21, 31]: j 0-2
    mask = box_mask(np.array([[101, -48.5, 21], [104, -46, 31]]), grid)
    expected = np.zeros((5, 4, 6), np.uint8)
    expected[1:3, 0:3, 2:5] = 1
    np.testing.assert_array_equal(mask, expected)


def test_on_an_oblique_grid_a_box_keeps_its_volume():
    shape, spacing_mm = (70, 60, 80), (1.5, 2.0, 1.2)
    grid = Grid(shape, affine_of("PIR", spacing_mm, shape, oblique=True))
    middle_mm = grid.affine @ [34.5, 29.5, 39.5, 1]
    box_mm = middle_mm[:3] + np.array([[-20.0, -25, -15], [20, 25, 15]])
    mask = box_mask(box_mm, grid)
    assert mask.sum() * 3.6 == pytest.approx(40 * 50 * 30, rel=0.02)
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), [34.5, 29.5, 39.5], atol=0.1)


def test_landmarks_become_balls():
    landmarks_mm = absent()
    landmarks_mm[row_of_name("L2")] = [104, -47, 22]  # the center of voxel (2, 2, 3)
    landmarks_mm[row_of_name("T13")] = [108, -50, 46]  # above the scan: voxel (4, -4, 0)
    values = ball_mask(landmarks_mm, Grid((5, 4, 6), TURNED), radius_mm=2.0)
    expected = np.zeros((5, 4, 6), np.uint8)  # 4 mm, the largest voxel: 2 voxels along i, 1 along j, 4 along k
    for i, j, k in np.ndindex(5, 4, 6):
        if (2 * (i - 2)) ** 2 + (4 * (j - 2)) ** 2 + (k - 3) ** 2 <= 16:
            expected[i, j, k] = 21
    assert (expected > 0).sum() == 1 + 1 + 6 + 2 * 6 + 2 * 1  # j = 1, j = 3; in j = 2: i = 2, i = 1 and 3, i = 0 and 4
    np.testing.assert_array_equal(values, expected)


def test_without_a_spine_the_answer_is_empty():
    scan = {"scan_shape": torch.tensor([3, 4, 5]), "scan_affine": torch.eye(4, dtype=torch.float64)}
    answer = AnswerBoxd("spine_box_mm")({**scan, "spine_box_mm": np.full((2, 3), np.nan)})
    assert answer["result"]["spine_box_mm"] is None
    assert answer["pred"].shape == (3, 4, 5)
    assert not answer["pred"].any()


def test_the_landmarks_of_the_document_come_before_those_of_the_table(tmp_path):
    scan = tmp_path / "case.1.nii.gz"
    with pytest.raises(ValueError, match=r"put case\.1_landmarks\.json or case\.1_landmarks\.csv beside it"):
        landmarks_beside(scan)
    (tmp_path / "case.1_landmarks.csv").touch()
    assert landmarks_beside(scan).suffix == ".csv"
    (tmp_path / "case.1_landmarks.json").touch()
    assert landmarks_beside(scan).suffix == ".json"
