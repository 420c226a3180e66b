"""The spine box: where it lies on a grid of no comfort, and what its file may say."""

import json

import numpy as np
import pytest
import torch
from grids import STORED

from pipeline.outputs import LabelSpined, ReadSpineBoxd, SaveSpineBoxd, SpineBoxd, spine_box_mm


def heatmap() -> np.ndarray:
    """Return a part of 3 x 2 x 4 voxels with a faint neighbor, and a single voxel as high as its peak beside it."""
    values = np.zeros((9, 7, 8), np.float32)
    values[2:5, 1:3, 3:7] = 0.3
    values[3, 2, 5] = 1.0
    values[5, 1, 3] = 0.2
    values[3, 6, 0] = 1.0
    return values


def test_the_box_holds_the_largest_part_up_to_its_voxels_edges():
    # By hand: i from 1.5 to 4.5 at 4 mm along +z from -70; j from 0.5 to 2.5 at 2 mm along -y from 60; k likewise in x.
    np.testing.assert_allclose(spine_box_mm(heatmap(), STORED), [[43.5, 55, -64], [47.5, 59, -52]])


def test_a_larger_share_leaves_the_peak_alone():
    values = heatmap()
    values[3, 6, 0] = 0.0
    np.testing.assert_allclose(spine_box_mm(values, STORED, share=0.5), [[44.5, 55, -60], [45.5, 57, -56]])


@pytest.mark.parametrize(
    ("aside", "gap", "held"),
    [
        (0, 4, True),  # straight on, 56 mm between the middles of the two ends, three voxels each
        (4, 4, True),  # 32 mm aside: 30 degrees
        (8, 4, False),  # 64 mm aside: 49 degrees, as the ilium lies
        (0, 14, False),  # 136 mm
    ],
)
@pytest.mark.parametrize("below", [True, False])
def test_the_box_holds_what_goes_on_beyond_a_gap(aside, gap, held, below):
    """A column of 8 mm voxels, 1 x 1 x 20, and one of 6 beyond a gap; an end is what lies within 20 mm of the last."""
    values = np.zeros((12, 5, 50), np.float32)
    values[1, 2, 24:44] = 0.9
    start = 24 - gap - 6
    values[1 + aside, 2, start : start + 6] = 0.6
    affine = np.diag([8.0, 8, 8, 1])
    if not below:
        values = values[:, :, ::-1]
    low = start if held else 24
    ends = (low, 44) if below else (50 - 44, 50 - low)
    found = spine_box_mm(values, affine)
    np.testing.assert_allclose(found[:, 2], [8 * ends[0] - 4, 8 * ends[1] - 4])
    np.testing.assert_allclose(found[:, 0], [4, 12 + 8 * aside * held])


def test_a_small_part_leads_to_a_larger_one():
    """Parts of 20, 3 and 10 voxels down a column of 8 mm: from the first to the last it is 136 mm, too far at once."""
    values = np.zeros((5, 5, 60), np.float32)
    values[2, 2, 36:56] = values[2, 2, 27:30] = values[2, 2, 9:19] = 0.9
    affine = np.diag([8.0, 8, 8, 1])
    np.testing.assert_allclose(spine_box_mm(values, affine)[:, 2], [8 * 9 - 4, 8 * 56 - 4])
    values[2, 2, 27:30] = 0
    np.testing.assert_allclose(spine_box_mm(values, affine)[:, 2], [8 * 36 - 4, 8 * 56 - 4])


def test_a_small_part_is_no_spine():
    values = np.zeros((5, 5, 50), np.float32)
    values[2, 2, 8:44] = 0.9
    values[2, 2, 4] = 0.9  # 3 % of it
    np.testing.assert_allclose(spine_box_mm(values, np.diag([8.0, 8, 8, 1]))[:, 2], [60, 348])


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
