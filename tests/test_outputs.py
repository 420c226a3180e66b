"""The spine box: where it lies on a grid of no comfort, and what its file may say."""

import json

import numpy as np
import pytest
import torch
from grids import STORED

from pipeline.outputs import LabelSpined, ReadSpineBoxd, SaveSpineBoxd, SpineBoxd, spine_box_mm


def heatmap() -> np.ndarray:
    """Return a part of 3 x 2 x 4 voxels with a faint neighbor, and a single voxel as high as its peak elsewhere."""
    values = np.zeros((9, 7, 8), np.float32)
    values[2:5, 1:3, 3:7] = 0.3
    values[3, 2, 5] = 1.0
    values[5, 1, 3] = 0.2
    values[8, 6, 0] = 1.0
    return values


def test_the_box_holds_the_largest_part_up_to_its_voxels_edges():
    # By hand: i from 1.5 to 4.5 at 4 mm along +z from -70; j from 0.5 to 2.5 at 2 mm along -y from 60; k likewise in x.
    np.testing.assert_allclose(spine_box_mm(heatmap(), STORED), [[43.5, 55, -64], [47.5, 59, -52]])


def test_a_larger_share_leaves_the_peak_alone():
    values = heatmap()
    values[8, 6, 0] = 0.0
    np.testing.assert_allclose(spine_box_mm(values, STORED, share=0.5), [[44.5, 55, -60], [45.5, 57, -56]])


def test_a_low_peak_is_no_spine():
    assert np.isnan(spine_box_mm(0.29 * heatmap(), STORED)).all()


class OnGpu(torch.Tensor):
    """A tensor that, like one on a GPU, turns into an array only after `cpu`."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_what_a_gpu_returns_is_taken_from_it():
    grid = {"grid_affine": STORED, "scan_shape": [9, 7, 8], "scan_affine": STORED}
    sample = grid | {"pred": torch.from_numpy(heatmap()[None]).as_subclass(OnGpu)}
    with pytest.raises(TypeError):
        np.asarray(sample["pred"])
    np.testing.assert_array_equal(SpineBoxd("pred")(sample)["spine_box_mm"], spine_box_mm(heatmap(), STORED))
    sample["pred"] = torch.zeros(25, 9, 7, 8).as_subclass(OnGpu)
    assert LabelSpined("pred")(sample)["labelling"].vertebrae == ()


def test_the_file_is_read_back(tmp_path):
    box = np.array([[43.5, 55, -64], [47.5, 59.25, -52]])
    SaveSpineBoxd("box", str(tmp_path))({"box": box, "image_name": "case"})
    for path in (tmp_path / "case_spine_box.json", str(tmp_path / "case_spine_box.json")):
        np.testing.assert_array_equal(ReadSpineBoxd("box")({"box": path})["box"], box)
    assert ReadSpineBoxd("box")({"other": 1}) == {"other": 1}


GOOD = {"found": True, "space": "RAS", "units": "mm", "low_mm": [0, 0, 0], "high_mm": [10, 20, 30]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[1]", "list indices"),
        (json.dumps(GOOD | {"found": False}), "found False, space RAS, units mm; expected true, RAS, mm"),
        (json.dumps(GOOD | {"space": "LPS"}), "space LPS"),
        (json.dumps(GOOD | {"units": "voxels"}), "units voxels"),
        (json.dumps({**GOOD, "high_mm": [10, 20]}), "inhomogeneous"),
        (json.dumps({**GOOD, "high_mm": [10, -20, 30]}), "are no corners of a box"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "low_mm"}), "'low_mm'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, reason):
    path = tmp_path / "case_spine_box.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"case_spine_box\.json: not the box of a spine: .*{reason}"):
        ReadSpineBoxd("box")({"box": path})
