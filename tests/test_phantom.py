"""Synthetic scans: the truth lies where it says, on every grid, and the same seed gives the same bytes."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from pipeline.datalist import read_split
from pipeline.labels import LABELS, NAMES, ROWS_BY_LEVEL, row_of_name
from pipeline.landmarks import body_center_mm, present_rows, read_csv
from pipeline.phantom import PRESETS, generate, load_shapes, make_phantom, write_phantom, write_phantoms
from pipeline.phantom.generate import Phantom, draw_grid
from pipeline.phantom.scan import sample_vertebra
from pipeline.phantom.shapes import draw_shape, procedural_shape
from pipeline.phantom.spine import draw_rows, draw_spine
from pipeline.spaces import Grid, bounds_mm, spacing_mm, to_voxel, to_world

SEED = (7, 3)
L1, T13 = row_of_name("L1"), row_of_name("T13")


def spine_of(seed=SEED, anomaly="none"):
    """The spine that `make_phantom` draws from this seed."""
    return draw_spine(np.random.default_rng(list(seed)), anomaly)


def grid_at(center_mm, shape, linear) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = np.asarray(center_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def oblique(shape=(46, 58, 42)) -> Grid:
    """Around L1: axes i, j, k step 2.2 mm down, 1.9 mm left and 2.4 mm back, then all turned by 12 and -15 degrees."""
    a, b = np.deg2rad([12, -15])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    linear = about_z @ about_x @ np.array([[0, -1.9, 0], [0, 0, -2.4], [-2.2, 0, 0]])
    return grid_at(spine_of().at(L1) - [0, 15, 0], shape, linear)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """About three lumbar vertebrae on an oblique grid."""
    return make_phantom(SEED, anomaly="none", grid=oblique())


# --- the scan and its truth


def test_arrays(phantom):
    assert phantom.hu.shape == phantom.labels.shape == (46, 58, 42)
    assert (phantom.hu.dtype, phantom.labels.dtype) == (np.int16, np.uint8)
    assert np.array_equal(phantom.affine, oblique().affine)
    assert phantom.landmarks_mm.shape == (26, 3)
    assert phantom.hu.min() >= -1024
    assert set(np.unique(phantom.labels)) <= {0, *LABELS}


def test_same_seed_same_bytes(phantom):
    again = make_phantom(list(SEED), anomaly="none", grid=oblique())
    assert again.hu.tobytes() == phantom.hu.tobytes()
    assert again.labels.tobytes() == phantom.labels.tobytes()
    assert again.parameters == phantom.parameters
    assert json.dumps(phantom.parameters)
    np.testing.assert_array_equal(again.landmarks_mm, phantom.landmarks_mm)


def test_other_seed_other_scan():
    first, second = (make_phantom((7, index), grid=oblique((12, 9, 8))) for index in (3, 4))
    assert not np.array_equal(first.hu, second.hu)
    assert first.parameters["bone"] != second.parameters["bone"]
    assert first.parameters["look"] != second.parameters["look"]


def test_landmarks_are_the_centers_in_view(phantom):
    spine, grid = spine_of(), oblique()
    index = to_voxel(grid.affine, spine.centers_mm)
    inside = ((index >= 0) & (index <= np.array(grid.shape) - 1)).all(axis=1)
    assert present_rows(phantom.landmarks_mm) == [spine.rows[i] for i in np.flatnonzero(inside)]
    assert len(present_rows(phantom.landmarks_mm)) >= 3
    for row in present_rows(phantom.landmarks_mm):
        np.testing.assert_array_equal(phantom.landmarks_mm[row], spine.centers_mm[spine.rows.index(row)])


@pytest.mark.parametrize(("beyond_vox", "names"), [(0.3, ["L1"]), (-0.3, ["T12", "L1", "L2"])])
def test_field_of_view_ends_at_the_outermost_voxel_centers(beyond_vox, names):
    """T12 and L2 lie that far above the highest and below the lowest slice."""
    high_mm, middle_mm, low_mm = (spine_of().at(row_of_name(name)) for name in ("T12", "L1", "L2"))
    step = (high_mm[2] - low_mm[2]) / (7 + 2 * beyond_vox)
    center_mm = [middle_mm[0], middle_mm[1], (high_mm[2] + low_mm[2]) / 2]
    grid = grid_at(center_mm, (16, 16, 8), np.diag([3.0, 3.0, step]))
    landmarks_mm = make_phantom(SEED, anomaly="none", grid=grid).landmarks_mm
    assert [NAMES[row] for row in present_rows(landmarks_mm)] == names


def test_landmarks_lie_in_their_own_label(phantom):
    for row in present_rows(phantom.landmarks_mm):
        voxel = np.rint(to_voxel(phantom.affine, phantom.landmarks_mm[row])).astype(int)
        assert phantom.labels[tuple(voxel)] == LABELS[row]


def test_landmarks_are_body_centers(phantom):
    assert len(phantom.complete) >= 1
    for name in phantom.complete:
        row = row_of_name(name)
        found_mm = body_center_mm(phantom.labels == LABELS[row], phantom.affine)
        assert np.linalg.norm(found_mm - phantom.landmarks_mm[row]) < 2.5


def test_masks_follow_each_other_down_the_body(phantom):
    heights = [
        to_world(phantom.affine, np.argwhere(phantom.labels == LABELS[row])).mean(axis=0)[2]
        for row in ROWS_BY_LEVEL
        if (phantom.labels == LABELS[row]).sum() > 50
    ]
    assert len(heights) >= 3
    assert (np.diff(heights) < -15).all()


def test_complete_vertebrae_touch_no_border(phantom):
    inner = phantom.labels[1:-1, 1:-1, 1:-1]
    for row in present_rows(phantom.landmarks_mm):
        whole = (inner == LABELS[row]).sum() == (phantom.labels == LABELS[row]).sum()
        assert whole == (NAMES[row] in phantom.complete)
    assert any(share < 0.98 for share in phantom.parameters["share_in_view"].values())


def test_bone_is_brighter_than_what_surrounds_it(phantom):
    assert np.median(phantom.hu[phantom.labels > 0]) > np.median(phantom.hu[phantom.labels == 0]) + 40


def test_the_same_subject_on_another_grid():
    """Any order and direction of the axes shows the same labels at the same places."""
    grid = oblique((16, 12, 14))
    labels = make_phantom(SEED, anomaly="none", grid=grid).labels
    flipped = grid.affine @ np.array([[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, -1, 13], [0, 0, 0, 1]])
    turned = Grid((14, 16, 12), flipped[:, [2, 0, 1, 3]])
    other = make_phantom(SEED, anomaly="none", grid=turned).labels
    assert (labels > 0).sum() > 300
    assert np.array_equal(other.transpose(1, 2, 0)[::-1, :, ::-1], labels)


@pytest.mark.parametrize("slice_mm", [3.0, 5.2])
def test_labels_of_thick_slices_are_those_at_the_middle_of_the_slice(slice_mm):
    """Slices of 2.5 mm and more were labeled a quarter of their thickness beside their middle."""
    center_mm = spine_of().at(L1)
    thick = make_phantom(
        SEED, anomaly="none", grid=grid_at(center_mm, (16, 22, 7), np.diag([2.0, 2.0, slice_mm]))
    ).labels
    thin = make_phantom(
        SEED, anomaly="none", grid=grid_at(center_mm, (16, 22, 21), np.diag([2.0, 2.0, slice_mm / 3]))
    ).labels
    assert (thick > 0).sum() > 300
    assert np.array_equal(thick, thin[..., 1::3])


# --- spines


@pytest.mark.parametrize(
    ("anomaly", "end"),
    [
        ("none", ["T11", "T12", "L1", "L2", "L3", "L4", "L5"]),
        ("L6", ["T12", "L1", "L2", "L3", "L4", "L5", "L6"]),
        ("L4-only", ["T10", "T11", "T12", "L1", "L2", "L3", "L4"]),
        ("T13", ["T12", "T13", "L1", "L2", "L3", "L4", "L5"]),
        ("no-T12", ["T10", "T11", "L1", "L2", "L3", "L4", "L5"]),
    ],
)
def test_variants_of_the_spine(anomaly, end):
    names = [NAMES[row] for row in draw_rows(np.random.default_rng(0), anomaly)]
    assert names[-7:] == end
    assert names[:17] == list(NAMES[:17])
    spine = spine_of(anomaly=anomaly)
    assert len(spine.centers_mm) == len(spine.frames) == len(spine.scales) == len(spine.wedges) == len(names)
    assert spine.rows == draw_rows(np.random.default_rng(0), anomaly)


@pytest.mark.parametrize(
    ("anomaly", "around", "present", "missing"),
    [
        ("T13", "T13", {19, 28, 20}, set()),
        ("no-T12", "L1", {18, 20}, {19, 28}),
        ("L6", "L6", {24, 25}, {28}),
        ("L4-only", "L4", {22, 23}, {24, 25}),
    ],
)
def test_variants_are_in_the_scan(anomaly, around, present, missing):
    grid = grid_at(spine_of(anomaly=anomaly).at(row_of_name(around)), (14, 18, 40), np.diag([-2.5, -2.2, 2.0]))
    phantom = make_phantom(SEED, anomaly=anomaly, grid=grid)
    found = set(np.unique(phantom.labels).tolist())
    assert present <= found
    assert not missing & found
    assert present <= {LABELS[row] for row in present_rows(phantom.landmarks_mm)} | {18, 20, 22, 24}
    if anomaly == "T13":
        levels = phantom.parameters["levels"]
        assert levels[levels.index("T12") : levels.index("L2")] == ["T12", "T13", "L1"]


def test_variants_come_at_their_rates():
    rng = np.random.default_rng(0)
    drawn = [draw_rows(rng) for _ in range(4000)]
    rates = {
        "T13": np.mean([T13 in rows for rows in drawn]),
        "L6": np.mean([24 in rows for rows in drawn]),
        "L4-only": np.mean([23 not in rows for rows in drawn]),
        "no-T12": np.mean([18 not in rows for rows in drawn]),
    }
    assert rates == pytest.approx({"T13": 0.02, "L6": 0.08, "L4-only": 0.01, "no-T12": 0.02}, abs=0.012)


def test_unknown_variant():
    with pytest.raises(ValueError, match="anomaly 'T14': expected none, L6, L4-only, T13 or no-T12"):
        make_phantom(SEED, anomaly="T14")


@pytest.mark.parametrize("seed", range(6))
def test_spines_go_down_the_body(seed):
    spine = spine_of((seed,), None)
    steps = np.diff(spine.centers_mm, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    assert spine.centers_mm[0].tolist() == [0, 0, 0]
    assert (steps[:, 2] < 0).all()
    assert (lengths > 9).all()
    assert (lengths < 52).all()
    assert lengths[-4:].mean() > 1.4 * lengths[2:6].mean()  # lumbar against cervical
    np.testing.assert_allclose(
        spine.frames.swapaxes(1, 2) @ spine.frames, np.broadcast_to(np.eye(3), spine.frames.shape), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(spine.frames), 1)
    assert (spine.frames[:, 0, 0] > 0.7).all()  # the first axis points right ...
    assert (spine.frames[:, 2, 2] > 0.3).all()  # ... and the third one up
    assert (spine.sacrum_mm - spine.centers_mm[-1])[2] < 0


def test_nearest_row_of_a_spine():
    spine = spine_of(anomaly="no-T12")
    assert np.array_equal(spine.at(L1), spine.centers_mm[spine.rows.index(L1)])
    assert np.array_equal(spine.at(24), spine.centers_mm[-1])
    with_t13 = spine_of(anomaly="T13")
    assert np.array_equal(with_t13.at(T13), with_t13.centers_mm[19])


def test_fractured_vertebrae_are_lower_in_front():
    rng = np.random.default_rng(0)
    assert not draw_spine(rng, "none", fracture_rate=0).wedges.any()
    wedges = draw_spine(rng, "none", fracture_rate=1.0).wedges
    assert (wedges[:10] == 0).all()
    assert ((wedges[10:] > 0.14) & (wedges[10:] < 0.61)).all()
    spine, shape = spine_of(), procedural_shape(L1, np.random.default_rng(1))
    upright = replace(spine, frames=np.broadcast_to(np.eye(3), spine.frames.shape), wedges=np.full(24, 0.5))
    heights = []
    for subject in (replace(upright, wedges=np.zeros(24)), upright):
        grid = grid_at(subject.at(L1), (81, 81, 81), np.eye(3))
        where, distance = sample_vertebra(subject, L1, shape, grid)
        bone = np.zeros(grid.shape, bool)
        bone[where] = distance < 0
        heights.append([bone[38:43, 40 + front].sum(axis=-1).mean() for front in (-8, 10)])
    (back, front), (wedged_back, wedged_front) = heights
    # the wedge takes half at 14 mm in front of the middle and nothing 14 mm behind it
    assert wedged_front / front == pytest.approx(1 - 0.5 * 24 / 28, abs=0.08)
    assert wedged_back / back == pytest.approx(1 - 0.5 * 6 / 28, abs=0.08)


# --- grids


@pytest.mark.parametrize("name", PRESETS)
def test_drawn_grids(name):
    preset, spine = PRESETS[name], spine_of()
    codes, turns = set(), []
    for seed in range(30):
        grid = draw_grid(np.random.default_rng(seed), spine, preset)
        size = sorted(spacing_mm(grid.affine))
        high = max(preset.plane_mm[1], preset.slice_mm[1] if preset.slice_mm else 0)
        assert preset.plane_mm[0] - 1e-9 <= size[0]
        assert size[2] <= high + 1e-9
        assert min(grid.shape) >= 8
        low_mm, high_mm = bounds_mm(grid)
        assert ((spine.centers_mm > low_mm) & (spine.centers_mm < high_mm)).all(axis=1).sum() >= 2
        codes.add("".join(nib.aff2axcodes(grid.affine)))
        unit = grid.affine[:3, :3] / spacing_mm(grid.affine)
        np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-9)
        turns.append(np.rad2deg(np.arccos(np.abs(unit).max(axis=0).clip(max=1))).max())
    assert (len(codes) > 10) if preset.any_axes else (codes == {"RAS"})
    assert 5 < sum(turn < 1e-3 for turn in turns) < 25  # half of the scans are straight
    assert 3 < max(turns) < 2 * preset.turn_deg


# --- shapes


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
    assert shape.sample(np.array([[200.0], [0], [0]]))[0] == 20
    assert np.array_equal(shape.high_mm, [axis[-1] for axis in axes])


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
    spine, grid = replace(spine_of(), wedges=np.zeros(24)), oblique((30, 34, 28))
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
    phantom = make_phantom((7, 1), anomaly="none", grid=oblique((10, 9, 8)), library=library)
    assert phantom.parameters["sources"]["L1"] in ("me", "procedural")
    assert phantom.parameters["sources"]["T12"] == "procedural"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (None, "no index.json; expected a folder of vertebra masks with an index"),
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
        list(write_phantoms(tmp_path / "out", 1, 0, shapes=folder))
    assert not (tmp_path / "out").exists()


# --- files


@pytest.fixture
def quick(monkeypatch, phantom):
    """Let `write_phantoms` make one small scan again and again; return the seeds it asked for."""
    seeds = []

    def make(seed, preset, *, library=None):
        seeds.append((seed, preset))
        return phantom

    monkeypatch.setattr(generate, "make_phantom", make)
    return seeds


def test_layout(tmp_path, quick, phantom):
    names = list(write_phantoms(tmp_path / "data", 11, 5, "localization"))
    assert names == [f"phantom_5_{i:04d}" for i in range(11)]
    assert quick == [((5, i), "localization") for i in range(11)]
    assert (tmp_path / "data" / "val.txt").read_text() == "phantom_5_0009\n"
    train = read_split(str(tmp_path / "data"), "train")
    assert [sample["image"].rsplit("/", 1)[1] for sample in train] == [f"{n}.nii.gz" for n in names if n[-1] != "9"]
    assert len(list((tmp_path / "data").rglob("*"))) == 4 + 2 + 4 * 11  # folders, lists, files; nothing temporary


def test_files_hold_the_phantom(tmp_path, phantom):
    write_phantom(tmp_path, "a", phantom)
    for relative, array in (("images/a.nii.gz", phantom.hu), ("segmentations/a_seg.nii.gz", phantom.labels)):
        image = nib.load(tmp_path / relative)
        assert image.get_data_dtype() == array.dtype
        assert np.array_equal(np.asarray(image.dataobj), array)
        np.testing.assert_allclose(image.affine, phantom.affine, atol=1e-4)
        assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(read_csv(tmp_path / "landmarks" / "a.csv"), phantom.landmarks_mm, atol=6e-4)
    document = json.loads((tmp_path / "parameters" / "a.json").read_text())
    assert document["complete"] == list(phantom.complete)
    assert document["seed"] == list(SEED)


def test_an_interrupted_run_goes_on(tmp_path, quick):
    list(write_phantoms(tmp_path, 3, 5))
    (tmp_path / "parameters" / "phantom_5_0001.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("phantom_5_000[02]*")}
    quick.clear()
    assert len(list(write_phantoms(tmp_path, 4, 5))) == 4
    assert quick == [((5, 1), "mixed"), ((5, 3), "mixed")]
    assert len(before) == 8
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_unknown_preset(tmp_path):
    message = "preset 'huge': expected one of mixed, localization, segmentation"
    with pytest.raises(ValueError, match=message):
        list(write_phantoms(tmp_path / "out", 1, 0, "huge"))
    with pytest.raises(ValueError, match=message):
        make_phantom(SEED, "huge")
    assert not (tmp_path / "out").exists()
