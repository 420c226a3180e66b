"""What annotators save becomes a data set, and a stage is trained on it; without a server."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ball_spine import ball_spine, save_scan

from pipeline.label.answers import VALUES
from pipeline.labels import LABELS, NAMES, row_of_name

pytest.importorskip("monailabel", reason="MONAI Label is not installed")
pytestmark = pytest.mark.slow  # importing MONAI and MONAI Label takes ten seconds

SPINES = {"a": ("T12", "T13", "L1"), "b": ("L1", "L2")}
GRID = {"axcodes": "LPS", "oblique": True, "spacing_mm": (2.9, 3.3, 3.9)}
SMALL = {
    "spine_loc": {"features": [2, 2, 4, 4], "window": [24, 24, 56]},
    "vert_loc": {"num_filters": 2, "spatial_filters": 2, "window": [96, 64, 96]},
    "vert_seg": {"features": [2, 2, 4, 4], "window": [40, 64, 56], "val_window": [40, 64, 56]},
}


@pytest.fixture
def saved(tmp_path) -> list[dict[str, str]]:
    """Return scans with labels in the server's numbers, as its datastore lists them."""
    pairs = []
    for name, names in SPINES.items():
        scan, labels, _ = ball_spine(names, **GRID)
        image, label = save_scan(tmp_path / f"{name}.nii.gz", scan), tmp_path / "final" / f"{name}.nii.gz"
        table = np.zeros(256, np.uint8)
        table[list(LABELS)] = list(VALUES.values())
        label.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(table[labels], scan.affine), label)
        pairs.append({"image": str(image), "label": str(label)})
    return pairs


class Store:
    def __init__(self, saved):
        self.saved = saved

    def datalist(self):
        return self.saved


def test_saved_labels_become_a_datalist_with_landmarks(saved, tmp_path):
    from pipeline.label.training import write_saved_labels

    document = json.loads(write_saved_labels(saved, tmp_path / "list.json").read_text())
    for item in document["training"]:
        landmarks_mm = ball_spine(SPINES[item["id"]], **GRID)[2]
        assert list(item["landmarks_mm"]) == [name for name in NAMES if name in SPINES[item["id"]]]
        for name, position in item["landmarks_mm"].items():
            assert np.linalg.norm(position - landmarks_mm[row_of_name(name)]) < 2.0
        assert item["relabel"] == {"26": 28}
    assert [item["fold"] for item in document["training"]] == [0, 1]
    with pytest.raises(ValueError, match="1 scans have a label saved as final; training needs 2"):
        write_saved_labels(saved[:1], tmp_path / "list.json")


@pytest.mark.parametrize("stage", ["vert_loc", "vert_seg"])
def test_a_stage_is_trained_and_goes_on_from_there(stage, saved, tmp_path, capsys):
    from pipeline.label.training import StageTraining

    work = tmp_path / "work"
    request = {"max_epochs": 1, "pretrained": False}
    request["overrides"] = {**SMALL[stage], "elastic_mm": 0.0, "num_workers": 0, "use_tensorboard": False}
    best = Path(StageTraining(stage, work)(request, Store(saved))["weights"])
    assert best == work / "weights" / f"{stage}.pt"
    assert "starting from random weights" in capsys.readouterr().out
    StageTraining(stage, work)({**request, "pretrained": True}, Store(saved))
    assert f"starting from {best}" in capsys.readouterr().out


def test_a_viewers_numbers_become_ours(tmp_path):
    import nrrd

    from pipeline.label.store import file_name, numbers_of, rewrite

    values = np.zeros((4, 5, 6), np.int16)
    values[1, 2, 3], values[2, 3, 4] = 7, 3
    directions = {
        "space": "left-posterior-superior",
        "space directions": np.diag([2.0, 3, 4]),
        "space origin": [5.0, 6, 7],
    }
    nrrd.write(str(tmp_path / "drawn.nrrd"), values, directions)
    meaning = [{"name": "T13", "idx": 7}, {"name": "l1", "idx": 3}, {"name": "C1", "idx": 1}]
    rewrite(tmp_path / "drawn.nrrd", tmp_path / "label.nii.gz", numbers_of(meaning))
    written = nib.load(tmp_path / "label.nii.gz")
    expected = np.zeros(values.shape)
    expected[1, 2, 3], expected[2, 3, 4] = 26, 20
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
    np.testing.assert_allclose(written.affine, [[-2, 0, 0, -5], [0, -3, 0, -6], [0, 0, 4, 7], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match=r"label value 3 has no name; known are \[7\]"):
        rewrite(tmp_path / "drawn.nrrd", tmp_path / "label.nii.gz", {"T13": 7})
    with pytest.raises(ValueError, match="'spleen' is not a vertebra name"):
        numbers_of([{"name": "spleen", "idx": 1}])
    with pytest.raises(ValueError, match="expected a list of objects with name and idx"):
        numbers_of([{"name": "L1"}])
    for name in ("", "..", "a/b", ".hidden", "/etc"):
        with pytest.raises(ValueError, match="cannot be the name of a file"):
            file_name(name)
    (tmp_path / "no.nii.gz").write_text("nothing")
    with pytest.raises(ValueError, match="the label cannot be read"):
        rewrite(tmp_path / "no.nii.gz", tmp_path / "label.nii.gz", VALUES)
