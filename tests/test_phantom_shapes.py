"""Vertebra shapes, procedural and from masks."""

import json

import nibabel as nib
import numpy as np
import pytest
from phantoms import grid_at, oblique, spine_of

from pipeline.labels import row_of_name
from pipeline.phantom import load_shapes, make_phantom, write_phantoms
from pipeline.phantom.scan import sample_vertebra
from pipeline.phantom.shapes import FAR_MM, Shape, broken, sloped, stretched_to, varied, winged
from pipeline.phantom.variants import Fracture
from pipeline.phantom.vertebrae import WAIST, body_size_mm, draw_shape, procedural_shape
from pipeline.spaces import to_world

L1, T13 = row_of_name("L1"), row_of_name("T13")


@pytest.mark.parametrize("row", range(26))
def test_procedural_shapes(row):
    shape = procedural_shape(row, np.random.default_rng(100 + row))
    axes = [low + shape.spacing_mm * np.arange(n) for low, n in zip(shape.low_mm, shape.distance_mm.shape, strict=True)]
    inside = shape.distance_mm < 0
    spans = [axis[inside.any(axis=tuple(a for a in range(3) if a != i))] for i, axis in enumerate(axes)]
    width, height = np.ptp(spans[0]), np.ptp(spans[2])
    assert 40 < width < 115
    assert 10 < height < 75
    assert spans[1].min() < -22  # arch and processes lie behind
    assert 5 < spans[1].max() < 27
    assert abs(spans[0].min() + spans[0].max()) < 7  # as far to the left as to the right
    center = shape.sample(np.zeros((3, 1)))[0]
    assert center > 3 if row == 0 else center < -2  # C1 is a ring
    assert shape.sample(np.array([[200.0], [0], [0]]))[0] == FAR_MM
    assert np.array_equal(shape.high_mm, [axis[-1] for axis in axes])


@pytest.mark.parametrize("row", range(26))
def test_the_spinal_canal_is_open(row):
    """A round rod of 8 mm passes behind the waist of the body (C1: behind the dens), under the lamina."""
    shape = procedural_shape(row, np.random.default_rng(200 + row))
    depth = 0.0 if row == 0 else 19.0 if row == 1 else body_size_mm(row)[1]
    center_y = -8.0 if row == 0 else -WAIST * depth / 2 - 6.0
    z = np.arange(-6, 6.1, 1.0)
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        rod = np.array([0 * z + 4 * np.cos(angle), 0 * z + center_y + 4 * np.sin(angle), z])
        assert shape.sample(rod).min() > -0.7


def test_shapes_grow_down_the_spine():
    volumes = [(procedural_shape(row, np.random.default_rng(3)).distance_mm < 0).sum() for row in (4, 12, 21)]
    assert volumes[0] * 1.3 < volumes[1] < volumes[2] / 1.3


def write_library(folder, items):
    (folder / "masks").mkdir(parents=True)
    for item in items:
        if item.get("mask") is not None:
            nib.save(nib.Nifti1Image(item["mask"].astype(np.uint8), np.eye(4)), folder / item["file"])
    index = {"voxel_mm": 1.5, "origin_voxel": [20, 24, 16],
             "items": [{k: v for k, v in item.items() if k != "mask"} for item in items]}  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def block() -> np.ndarray:
    """Voxels 16-24, 14-26, 12-20: the origin (20, 24, 16) lies inside, nearest to its face in front."""
    mask = np.zeros((44, 48, 40), bool)
    mask[16:25, 14:27, 12:21] = True
    return mask


def test_load_shapes(tmp_path):
    level = {"level": "L1", "source": "someone"}
    items = [
        {"file": "masks/a.nii.gz", "mask": block(), **level},
        {"file": "masks/b.nii.gz", "mask": block(), "touches_box": True, **level},
        {"file": "masks/c.nii.gz", "mask": np.zeros((44, 48, 40)), **level},
        {"file": "masks/d.nii.gz", "mask": block(), "level": "Th4", "source": "else"},
    ]
    shapes = load_shapes(write_library(tmp_path, items))
    assert {row: len(found) for row, found in shapes.items()} == {L1: 1, row_of_name("T4"): 1}
    (shape,) = shapes[L1]
    assert (shape.source, shape.spacing_mm) == ("someone", 1.5)
    # faces at 4.5 voxels (6.75 mm) to both sides, 2.5 (3.75 mm) in front, 10.5 (15.75 mm) behind, 4.5 above and below
    for face_mm in ([6.75, -6, 0], [-6.75, -6, 0], [0, 3.75, 0], [0, -15.75, 0], [0, -6, 6.75], [0, -6, -6.75]):
        assert abs(float(shape.sample(np.array(face_mm)[:, None])[0])) < 0.8
    assert float(shape.sample(np.array([[0.0], [-6], [0]]))[0]) < -4
    assert float(shape.sample(np.array([[0.0], [6.75], [0]]))[0]) == pytest.approx(3, abs=0.8)


def test_library_shapes_are_used_for_their_level(tmp_path):
    library = load_shapes(
        write_library(tmp_path, [{"file": "masks/a.nii.gz", "mask": block(), "level": "T12", "source": "me"}])
    )
    rng = np.random.default_rng(0)
    assert np.mean([draw_shape(18, rng, library).source == "me" for _ in range(20)]) > 0.4
    assert np.mean([draw_shape(T13, rng, library).source == "me" for _ in range(20)]) > 0.4  # T13 looks like T12
    assert {draw_shape(L1, rng, library).source for _ in range(3)} == {"procedural"}
    assert draw_shape(18, rng, None).source == "procedural"


def test_a_library_shape_in_the_scan(tmp_path):
    library = load_shapes(
        write_library(tmp_path, [{"file": "masks/a.nii.gz", "mask": block(), "level": "L1", "source": "me"}])
    )
    spine, grid = spine_of(), oblique((30, 34, 28))
    where, distance = sample_vertebra(spine, L1, library[L1][0], grid)
    start = [s.start for s in where]
    center_mm = to_world(grid.affine, np.argwhere(distance < 0).mean(axis=0) + start)
    # the middle of the block lies 4 voxels of 1.5 mm behind the origin, in the vertebra's frame
    expected_mm = spine.centers_mm[L1] - 6 * spine.scales[L1, 1] * spine.frames[L1][:, 1]
    assert np.linalg.norm(center_mm - expected_mm) < 0.3
    volume_mm = (distance < 0).sum() * abs(np.linalg.det(grid.affine[:3, :3]))
    assert volume_mm == pytest.approx(9 * 13 * 9 * 1.5**3 * spine.scales[L1].prod(), rel=0.12)  # round edges
    far = grid_at(spine.centers_mm[L1] + [300, 0, 0], (9, 8, 7), np.eye(3))
    assert sample_vertebra(spine, L1, library[L1][0], far) is None
    phantom = make_phantom((7, 1), variant="none", grid=oblique((10, 9, 8)), library=library)
    assert phantom.parameters["sources"]["L1"] in ("me", "procedural")
    assert phantom.parameters["sources"]["T12"] == "procedural"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (None, "no such folder of vertebra masks"),
        ([], "not one usable vertebra mask"),
        ([{"file": "masks/a.nii.gz", "mask": np.zeros((44, 48, 40)), "level": "L1", "source": "x"}], "not one usable"),
    ],
)
def test_folders_without_shapes(tmp_path, items, message):
    folder = tmp_path / "shapes"
    if items is not None:
        write_library(folder, items)
    with pytest.raises(ValueError, match=rf"shapes: {message}"):
        load_shapes(folder)
    with pytest.raises(ValueError, match=rf"shapes: {message}"):
        write_phantoms(tmp_path / "out", 1, 0, shapes=folder)
    assert not (tmp_path / "out").exists()


def cylinder(radius_mm: float, height_mm: float) -> Shape:
    """An upright cylinder around the origin, 1 mm voxels."""
    x, y, z = np.meshgrid(*[np.arange(-30.0, 31.0)] * 3, indexing="ij")
    distance = np.maximum(np.hypot(x, y) - radius_mm, np.abs(z) - height_mm / 2)
    return Shape(distance.astype(np.float32), np.full(3, -30.0), 1.0, "cylinder")


def heights(shape: Shape, y_mm: list[float]) -> list[float]:
    """The height of a shape above points of its y axis, at x = 0, measured to a tenth of a mm."""
    z = np.arange(-30, 30, 0.1)
    return [0.1 * (shape.sample(np.array([0 * z, 0 * z + y, z])) < 0).sum() for y in y_mm]


def test_a_wedge_is_low_in_front():
    """Loss 0.4, depth 30, body 30 deep and 24 high: the share lost rises from 0 behind to 0.4 in front.

    The body is moved forward by 30 x 0.4 / (12 x 0.8) = 1.25 mm, so that y = 1.25 mm stands for its middle.
    """
    lost = broken(cylinder(15, 24), Fracture("wedge", 2, 0.4), 30.0)
    assert heights(lost, [-11.75, 1.25, 13.25]) == pytest.approx([24 * 0.973, 24 * 0.8, 24 * 0.64], abs=1.0)
    inside = lost.positions()[:, lost.distance_mm < 0]
    assert np.abs(inside[[0, 2]].mean(axis=1)).max() < 0.1


def test_a_biconcave_body_is_low_in_the_middle():
    lost = broken(cylinder(15, 24), Fracture("biconcave", 3, 0.5), 30.0)
    assert heights(lost, [0.0]) == pytest.approx([12.0], abs=0.8)
    assert heights(lost, [-13.5, 13.5])[0] > 20


def test_a_crushed_body_is_low_everywhere_and_wider():
    lost = broken(cylinder(15, 24), Fracture("crush", 3, 0.5), 30.0)
    assert heights(lost, [-12.0, 0.0, 12.0]) == pytest.approx([12.0] * 3, abs=0.8)
    assert lost.sample(np.array([[15.5], [0], [0]]))[0] < 0  # bulges by 6 %


def test_a_body_grows_towards_its_neighbor():
    grown = stretched_to(cylinder(15, 24), up_mm=5.0, down_mm=0.0, depth_mm=30.0)
    z = np.arange(-30, 30, 0.1)
    column = z[grown.sample(np.array([0 * z, 0 * z, z])) < 0]
    assert column.min() == pytest.approx(-12, abs=0.3)
    assert column.max() == pytest.approx(12 * (1 + 5 / 12), abs=0.5)


def test_a_spinous_process_falls_behind_the_laminae():
    """A bar along y, 6 mm high: 20 mm behind the laminae (y = -30 mm) a slope of 0.5 lowers it by 10 mm."""
    x, y, z = np.meshgrid(np.arange(-10.0, 11), np.arange(-60.0, 11), np.arange(-10.0, 11), indexing="ij")
    bar = Shape((np.abs(z) - 3 + 0 * x + 0 * y).astype(np.float32), np.array([-10.0, -60, -10]), 1.0, "bar")
    fallen = sloped(bar, 0.5)
    z = np.arange(-30, 30, 0.1)
    for y, center in ((-50.0, -10.0), (-40.0, -5.0), (-30.0, 0.0), (0.0, 0.0)):
        column = z[fallen.sample(np.array([0 * z, 0 * z + y, z])) < 0]
        assert [column.min(), column.max()] == pytest.approx([center - 3, center + 3], abs=0.15)


@pytest.mark.parametrize(("sides", "left", "right"), [(("left",), 1, 0), (("right",), 0, 1), (("left", "right"), 1, 1)])
def test_wings_reach_down_and_out_on_their_side(sides, left, right):
    shape = winged(cylinder(15, 24), sides, 44.0)
    points = np.array([[-42.0, -15.5, -12], [42.0, -15.5, -12]]).T
    assert (shape.sample(points) < 0).tolist() == [bool(left), bool(right)]


def test_no_two_varied_shapes_are_alike():
    shapes = [varied(cylinder(15, 24), cylinder(12, 30), np.random.default_rng(seed)) for seed in range(4)]
    volumes = [shape.volume_ml for shape in shapes]
    assert len(set(volumes)) == 4
    assert all(0.75 < v / (np.pi * 0.15 * 15 * 2.4 * 10 / 10) < 1.3 for v in volumes)  # 17.0 ml
    assert shapes[0].source == "cylinder + cylinder"


def test_shapes_from_a_mask_of_a_whole_scan(tmp_path):
    """Three boxes with arches, C-arm like affine (LPS, 1.5 mm): the middle ones become shapes, the cut one does not."""
    labels = np.zeros((60, 70, 76), np.uint8)
    for label, low in ((20, 52), (21, 28), (22, 0)):
        labels[20:44, 20:40, low : low + 18] = label
        labels[28:36, 40:58, low + 6 : low + 12] = label
    nib.save(nib.Nifti1Image(labels, np.diag([-1.5, -1.5, 1.5, 1])), tmp_path / "sub-a_seg-vert_msk.nii.gz")
    shapes = load_shapes(tmp_path)
    assert sorted(shapes) == [19, 20]
    (shape,) = shapes[20]
    assert shape.sample(np.zeros((3, 1)))[0] < -8
    # the body reaches 15 mm to the front (half of 20 voxels), the process 27 mm further back than the body
    assert shape.sample(np.array([[0.0, 0, 0], [12, -30, 30], [0, 0, 0]]))[[0, 1]].max() < 0
    assert shape.sample(np.array([[0.0], [22], [0]]))[0] > 2
    assert shape.source == "sub-a_seg-vert_msk"
