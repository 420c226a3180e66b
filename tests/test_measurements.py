"""Measurements on blocks whose heights, volumes and angles follow from their numbers, on oblique anisotropic grids."""

import json
import subprocess
import sys

import numpy as np
import pytest
from block_spine import MARROW_HU, Block, block_spine, center_mm

from pipeline.labels import NAMES, row_of_name
from pipeline.landmarks import absent
from pipeline.measurements import Measure, measure
from pipeline.measurements.angles import CORONAL, SAGITTAL, longest_chain, tilt_deg
from pipeline.measurements.heights import expected_posterior_mm, grade_of, losses
from pipeline.measurements.records import Body, NotMeasurable

# T12 lost 30 % of its front, L1 none, L2 stands taller in front, as the lower lumbar vertebrae do.
LUMBAR = (Block("T12", 16.8, 24.0), Block("L1", 24.0, 24.0), Block("L2", 27.0, 25.0))


def measured(spine, **options):
    found = measure(spine.labels, spine.affine, spine.landmarks_mm, options.get("hu", spine.hu))
    return found, {v.name: v for v in found.vertebrae}


@pytest.fixture(scope="module", params=["RAS", "PIL", "SLA"])
def lumbar(request):
    return measured(block_spine(LUMBAR, request.param))


@pytest.mark.parametrize("block", LUMBAR, ids=lambda block: block.name)
def test_heights_and_losses(lumbar, block):
    _, found = lumbar
    v = found[block.name]
    middle = (block.front_mm + block.back_mm) / 2
    assert v.anterior_mm.value == pytest.approx(block.front_mm, abs=0.5)
    assert v.middle_mm.value == pytest.approx(middle, abs=0.5)
    assert v.posterior_mm.value == pytest.approx(block.back_mm, abs=0.5)
    assert v.anterior_loss.value == pytest.approx(1 - block.front_mm / block.back_mm, abs=0.025)
    assert v.middle_loss.value == pytest.approx(1 - middle / block.back_mm, abs=0.025)


def test_grades(lumbar):
    _, found = lumbar
    assert [found[name].grade.value for name in ("T12", "L1", "L2")] == [2, 0, 0]


@pytest.mark.parametrize("block", LUMBAR, ids=lambda block: block.name)
def test_volume(lumbar, block):
    assert lumbar[1][block.name].volume_ml.value == pytest.approx(block.volume_ml, rel=0.02)


def test_density_is_that_of_the_marrow(lumbar):
    for vertebra in lumbar[1].values():
        assert vertebra.hu.value == pytest.approx(MARROW_HU, abs=1), "the cortex of 700 HU must not leak in"


def test_posterior_loss_needs_neighbors_on_both_sides(lumbar):
    _, found = lumbar
    assert found["T12"].posterior_loss == Measure(reason="no sound neighbors above and below to compare with")
    assert found["L1"].posterior_loss.value is None, "its upper neighbor is wedged and there is no other"


def test_a_crushed_body_is_told_by_its_neighbors():
    blocks = [Block(name, 24, 24) for name in ("T10", "T11", "T12")]
    blocks[1] = Block("T11", 13.2, 16.8)  # the back lost 30 %, the front 45 % of the neighbors' 24 mm
    _, found = measured(block_spine(blocks, "LPS"))
    v = found["T11"]
    assert v.posterior_loss.value == pytest.approx(0.30, abs=0.03)
    assert v.anterior_loss.value == pytest.approx(0.45, abs=0.03)
    assert v.grade.value == 3


def test_lordosis():
    tilts = {"L1": 15.0, "L2": 9.0, "L3": 0.0, "L4": -8.0, "L5": -20.0}  # rising to the front above, falling below
    found, _ = measured(block_spine([Block(name, front_deg=tilt) for name, tilt in tilts.items()], "PIR"))
    assert found.lordosis_deg.value == pytest.approx(35.0, abs=1.0)
    assert found.kyphosis_deg == Measure(reason="T4: not in view; T12: not in view")


def test_kyphosis():
    names = [f"T{i}" for i in range(4, 13)]
    tilts = np.linspace(-16, 12, 9)
    blocks = [Block(n, front_deg=t) for n, t in zip(names, tilts, strict=True)]
    found, _ = measured(block_spine(blocks, "IRP", (1.5, 1.2, 1.2), oblique=False))
    assert found.kyphosis_deg.value == pytest.approx(28.0, abs=1.0)


@pytest.mark.parametrize(("sign", "side"), [(1, "right"), (-1, "left")])
def test_cobb_angle_and_side(sign, side):
    tilts = {"T8": 5.0, "T9": 12.0, "T10": 2.0, "T11": -4.0, "T12": -10.0, "L1": -3.0}
    blocks = [Block(name, right_deg=sign * tilt) for name, tilt in tilts.items()]
    found, _ = measured(block_spine(blocks, "ASL", margin_mm=40))
    assert found.cobb_deg.value == pytest.approx(22.0, abs=1.0)
    (curve,) = found.curves
    assert (curve.upper, curve.lower, curve.convex) == ("T9", "T12", side)


def test_a_double_curve_has_two_cobb_angles():
    tilts = [0, 14, 7, 0, -7, -14, 0, 8, 15]
    names = [f"T{i}" for i in range(4, 13)]
    blocks = [Block(n, right_deg=t) for n, t in zip(names, tilts, strict=True)]
    found, _ = measured(block_spine(blocks, "IRP", (1.5, 1.2, 1.2), oblique=False))
    curves = [(c.upper, c.lower, c.convex, round(c.angle_deg)) for c in found.curves]
    assert [c[:3] for c in curves] == [("T5", "T9", "right"), ("T9", "T12", "left")]
    assert [c[3] for c in curves] == pytest.approx([28, 29], abs=1)


def test_tilt_by_hand():
    """An endplate through (1, 0, 0.5) rises 26.57 degrees to the right and not to the front."""
    normal = np.array([-0.5, 0.0, 1.0]) / np.sqrt(1.25)
    assert tilt_deg(normal, CORONAL) == pytest.approx(26.565, abs=1e-3)
    assert tilt_deg(normal, SAGITTAL) == 0


def test_a_cut_body_says_so():
    spine = block_spine([Block("L1"), Block("L2"), Block("L3")], "RAS", oblique=False, margin_mm=8)
    low = spine.labels[:, :, 16:], spine.hu[:, :, 16:]  # 22 mm of 33: L3 is cut through its body
    affine = spine.affine.copy()
    affine[2, 3] += 16 * 1.4
    found = {v.name: v for v in measure(low[0], affine, spine.landmarks_mm, low[1]).vertebrae}
    assert found["L3"].volume_ml == Measure(reason="cut by the field of view")
    assert found["L3"].middle_mm == Measure(reason="body cut by the field of view")
    assert found["L2"].middle_mm.value == pytest.approx(24, abs=0.5)
    assert found["L3"].hu.value is None


@pytest.mark.parametrize("axcodes", ["RAS", "PIL"])
def test_a_round_field_of_view_cuts_too(axcodes):
    """L2 loses the tips of its processes, L3 the right side of its body."""
    spine = block_spine([Block("L1"), Block("L2"), Block("L3")], axcodes)
    whole, _ = measured(spine)
    offset = spine.world_mm - center_mm(1, 3)
    processes = (np.abs(offset[..., 2]) < 15) & (offset[..., 1] < -33)
    bodies = (offset[..., 2] < -18) & (offset[..., 0] > 14)
    spine.hu[processes | bodies], spine.labels[processes | bodies] = -1024, 0
    _, found = measured(spine)
    assert found["L1"].volume_ml == whole.vertebrae[0].volume_ml
    assert found["L2"].volume_ml == Measure(reason="cut by the field of view")
    assert found["L2"].middle_mm.value == pytest.approx(24, abs=0.5)
    assert found["L3"].volume_ml == Measure(reason="cut by the field of view")
    assert found["L3"].middle_mm == Measure(reason="body cut by the field of view")


def test_single_dark_voxels_are_no_padding():
    spine = block_spine([Block("L1"), Block("L2"), Block("L3")])
    rng = np.random.default_rng(3)
    spine.hu[(spine.labels == 0) & (rng.random(spine.hu.shape) < 0.1)] = -1024
    assert all(v.volume_ml.value and v.middle_mm.value for v in measured(spine)[1].values())


def test_contrast_agent_is_told_and_its_value_kept():
    blocks = [Block("L1"), Block("L2"), Block("L3")]
    spine = block_spine(blocks, "RAI")
    for z in np.arange(-70, 70, 4.0):
        spine.ball(center_mm(1, 3) + [6, 15 + 8 + 11, z], 10, 260.0)  # an aorta 8 mm in front of the bodies
    _, found = measured(spine)
    assert found["L2"].hu.value is None
    assert found["L2"].hu.reason == "contrast agent in front of the spine; with it 150 HU"


def test_plain_blood_and_calcified_walls_are_no_contrast_agent():
    spine = block_spine([Block("L1"), Block("L2"), Block("L3")], "RAI")
    for z in np.arange(-70, 70, 4.0):
        spine.ball(center_mm(1, 3) + [6, 34, z], 10, 45.0)
    spine.ball(center_mm(1, 3) + [6, 43, 0], 3, 900.0)
    assert measured(spine)[1]["L2"].hu.value == pytest.approx(MARROW_HU, abs=1)


def test_metal_and_cement_leave_the_others_alone():
    spine = block_spine([Block("L1"), Block("L2"), Block("L3")], "LPS")
    spine.ball(center_mm(0, 3) + [13, -10, 0], 4, 3000.0)
    spine.ball(center_mm(1, 3) + [0, 4, 0], 8, 1400.0)
    _, found = measured(spine)
    assert found["L1"].hu.reason == "metal in or at the vertebra"
    assert found["L2"].hu.reason == "metal or cement in the body"
    assert found["L3"].hu.value == pytest.approx(MARROW_HU, abs=1)
    assert found["L2"].middle_mm.value == pytest.approx(24, abs=0.5)


def test_reasons_without_scan_mask_or_body():
    spine = block_spine([Block("C1"), Block("C2"), Block("C3", 18, 18)])
    spine.labels[spine.labels == 3] = 0
    found = {v.name: v for v in measure(spine.labels, spine.affine, spine.landmarks_mm).vertebrae}
    assert found["C1"].hu == Measure(reason="the scan is not at hand")
    assert found["C1"].middle_mm == Measure(reason="C1 has no body")
    assert found["C2"].middle_mm == Measure(reason="C2's body bears the dens")
    assert found["C3"].volume_ml == Measure(reason="no mask")


def test_too_coarse_voxels():
    spine = block_spine([Block("C4", 14, 14), Block("C5", 14, 14)], "RAS", (1, 1, 4.5), oblique=False)
    _, found = measured(spine)
    assert "too coarse" in found["C4"].middle_mm.reason


def test_a_bulging_mask_is_refused():
    """A mask as round as a ball has no endplates."""
    spine = block_spine([Block("L2")], "RAS")
    round_mask = (np.linalg.norm(spine.world_mm - center_mm(0, 1), axis=-1) < 17).astype(np.uint8) * 21
    found = measure(round_mask, spine.affine, spine.landmarks_mm, spine.hu)
    assert "bulge" in found.vertebrae[0].middle_mm.reason


def test_one_vertebra_alone_needs_no_neighbor_for_its_heights():
    _, found = measured(block_spine([Block("T9", 14, 20, front_deg=-14)], "IPR"))
    assert found["T9"].anterior_mm.value == pytest.approx(14, abs=0.6)
    assert found["T9"].posterior_mm.value == pytest.approx(20, abs=0.6)
    assert found["T9"].grade.value == 2


def test_a_shifted_landmark_changes_nothing():
    spine = block_spine(LUMBAR, "RAS")
    before, _ = measured(spine)
    spine.landmarks_mm += [3.0, -4.0, 3.0]
    after, _ = measured(spine)
    for a, b in zip(before.vertebrae, after.vertebrae, strict=True):
        assert a.anterior_mm.value == pytest.approx(b.anterior_mm.value, abs=0.25)
        assert a.volume_ml == b.volume_ml


def test_no_vertebra_at_all():
    found = measure(np.zeros((9, 9, 9), np.uint8), np.eye(4), absent())
    assert found.vertebrae == ()
    assert found.cobb_deg.reason.startswith("fewer than 3")


@pytest.mark.parametrize(
    ("loss", "grade"), [(-0.1, 0), (0.199, 0), (0.20, 1), (0.249, 1), (0.25, 2), (0.399, 2), (0.40, 3), (0.9, 3)]
)
def test_thresholds_of_the_grades(loss, grade):
    assert grade_of(loss) == grade


def body(front: float, back: float) -> Body:
    return Body(np.eye(3), np.zeros(3), np.array([40, 30, 24.0]), np.array([front, back, back]), *np.eye(3)[[2, 2]])


def test_expected_height_is_linear_between_sound_neighbors():
    """T9 24 mm, T10 wedged, T11 asked for, T12 not measurable, L1 30 mm: T11 lies half way, two levels from either."""
    found = {
        row_of_name("T9"): body(24, 24),
        row_of_name("T10"): body(15, 24),
        row_of_name("T11"): body(25, 26),
        row_of_name("T12"): NotMeasurable("no mask"),
        row_of_name("T13"): NotMeasurable("no mask"),
        row_of_name("L1"): body(30, 30),
    }
    assert isinstance(expected_posterior_mm(row_of_name("T11"), found), NotMeasurable), "L1 is three places away"
    del found[row_of_name("T13")]
    found[row_of_name("T13")] = body(30, 30)
    assert expected_posterior_mm(row_of_name("T11"), found) == pytest.approx(27.0)
    assert losses(row_of_name("T11"), found).posterior.value == pytest.approx(1 - 26 / 27)


def test_a_missing_level_does_not_break_a_chain_but_an_unmeasurable_one_does():
    found = {row_of_name(name): body(24, 24) for name in ("T8", "T9", "T10", "T11", "L1", "L2")}
    assert [NAMES[row] for row in longest_chain(found)] == ["T8", "T9", "T10", "T11", "L1", "L2"]
    found[row_of_name("T10")] = NotMeasurable("cut")
    assert [NAMES[row] for row in longest_chain(found)] == ["T11", "L1", "L2"]


def test_the_document_is_json(lumbar):
    document = json.loads(json.dumps(lumbar[0].document(), allow_nan=False))
    assert document["format"] == "vertebrae-measurements/1"
    assert document["vertebrae"][0]["grade"] == {"value": 2, "reason": ""}
    assert document["lordosis_deg"] == {"value": None, "reason": "L5: not in view"}


def test_neither_networks_nor_plots_are_loaded():
    program = "import sys, pipeline.measurements; sys.exit(bool({'torch', 'monai', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
