import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image as mpl_image

from pipeline.images import Scan
from pipeline.labels import LABELS, NAMES
from pipeline.planes import reformat, spine_curve_mm
from pipeline.preview import Mark, color_of_label, preview_figure, save_preview

# Oblique on purpose: axes i, j, k step 3 mm along +y, 2 mm along -x, 4 mm along +z.
AFFINE = np.array([[0, -2, 0, 10], [3, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]], dtype=float)
TURN = np.deg2rad(25)


def oblique_affine() -> np.ndarray:
    """Axes i, j, k step 1.5 mm back, 2 mm down and 1 mm left, then the whole turned 25 degrees about z."""
    turn = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, -1.0], [-1.5, 0, 0], [0, -2.0, 0]])
    affine[:3, 3] = [12.0, -7.0, 400.0] - affine[:3, :3] @ [45, 50, 60]  # the middle voxel lies at (12, -7, 400)
    return affine


def phantom(count: int) -> tuple[Scan, np.ndarray, list[Mark]]:
    """Balls of radius 11 mm, 30 mm apart, on a line that leans left and forward: L1 on top, 600 HU in 40 HU."""
    affine = oblique_affine()
    shape = (90, 100, 120)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world_mm = voxels @ affine[:3, :3].T + affine[:3, 3]
    array, labels = np.full(shape, 40, np.int16), np.zeros(shape, np.uint8)
    marks = []
    for index in range(count):
        center_mm = [12.0 - 4 * index, -7.0 + 5 * index, 430.0 - 30 * index]
        inside = np.linalg.norm(world_mm - center_mm, axis=-1) < 11
        array[inside], labels[inside] = 600, 20 + index
        marks.append(Mark(f"L{index + 1}", 20 + index, center_mm))
    return Scan("phantom", array, affine, Path("phantom.nii.gz")), labels, marks


@pytest.mark.parametrize(
    ("point_mm", "expected"),
    [
        ((6.0, 23.0, 42.0), 123.0),  # AFFINE @ (1, 2, 3)
        ((6.0, 24.5, 42.0), 173.0),  # half a step along i
        ((5.0, 23.0, 42.0), 128.0),  # half a step along j
        ((6.0, 23.0, 41.0), 122.75),  # a quarter of a step back along k
        ((6.0, 14.0, 42.0), -5.0),  # two steps before the first voxel
    ],
)
def test_reformat_samples_in_world_mm(point_mm, expected):
    i, j, k = np.indices((4, 5, 6))
    array = (100 * i + 10 * j + k).astype(np.int16)
    assert reformat(array, AFFINE, np.array([[point_mm]]), fill=-5.0) == pytest.approx(np.array([[expected]]))


def test_reformat_nearest_keeps_labels():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 3] = 28
    points_mm = np.array([[6.0, 23.0, 42.0], [6.9, 24.4, 43.9], [7.1, 23.0, 42.0]])
    sampled = reformat(labels, AFFINE, points_mm, order=0)
    assert sampled.dtype == np.uint8
    assert sampled.tolist() == [28, 28, 0]


def test_curve_passes_through_landmarks_and_goes_on_straight():
    landmarks_mm = np.array([[10.0, -4.0, 100.0], [0.0, 6.0, 0.0]])
    curve_mm = spine_curve_mm(landmarks_mm, np.array([-30.0, 0.0, 50.0, 100.0, 120.0]))
    expected = [[-3, 9, -30], [0, 6, 0], [5, 1, 50], [10, -4, 100], [12, -6, 120]]
    np.testing.assert_allclose(curve_mm, expected, atol=1e-9)


def test_curve_of_one_landmark_is_vertical():
    curve_mm = spine_curve_mm(np.array([[3.0, 4.0, 50.0]]), np.array([0.0, 90.0]))
    np.testing.assert_array_equal(curve_mm, [[3, 4, 0], [3, 4, 90]])


def test_curve_survives_two_landmarks_at_one_height():
    landmarks_mm = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 30.0], [40.0, 0.0, 30.5], [0.0, 0.0, 60.0]])
    curve_mm = spine_curve_mm(landmarks_mm, np.linspace(-20, 80, 11))
    np.testing.assert_allclose(curve_mm[:, :2], 0, atol=1e-9)


def test_every_level_has_its_own_color():
    colors = {tuple(color_of_label(label)) for label in LABELS}
    assert len(colors) == len(NAMES)
    assert all(0 <= channel <= 1 for color in colors for channel in color)


# Off a ball's center, across and up: within its radius of 11 mm, or outside (not at +14 mm across: the name).
PROBES_MM = [(-8, 0, True), (8, 0, True), (0, 8, True), (0, -8, True), (-14, 0, False), (0, 14, False), (0, -14, False)]


def probe(figure, marks):
    """Yield (VerSe label, RGB 0-1, whether it lies in that ball) of pixels around every ball, in both pictures."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
    for (panel, axis), mark in itertools.product(zip(figure.axes, (1, 0), strict=True), marks):
        for across, up, inside in PROBES_MM:
            x, y = panel.transData.transform((mark.position_mm[axis] + across, mark.position_mm[2] + up))
            yield mark.label, pixels[round(len(pixels) - y), round(x)], inside


def hue(color) -> np.ndarray:
    """The color without its gray part, at unit length."""
    chroma = np.asarray(color, dtype=float) - np.mean(color)
    return chroma / np.linalg.norm(chroma)


def test_mask_is_drawn_in_place_and_in_its_color():
    scan, labels, marks = phantom(3)
    for label, color, inside in probe(preview_figure(scan, labels, marks, "title"), marks):
        assert (np.ptp(color) > 0.05) == inside
        assert not inside or hue(color) @ hue(color_of_label(label)) > 0.99


def test_bone_is_drawn_in_place():
    scan, labels, marks = phantom(3)
    scan.array[labels > 0] = 100 + 200 * (labels[labels > 0].astype(int) - 19)  # L1 300 HU, L2 500 HU, L3 700 HU
    for label, color, inside in probe(preview_figure(scan, labels * 0, marks, "title"), marks):
        hounsfield = 100 + 200 * (label - 19) if inside else 40
        assert color == pytest.approx([(hounsfield + 200) / 1000] * 3, abs=0.03)


def test_anterior_and_right_are_left_in_the_picture():
    figure = preview_figure(*phantom(2), "title")
    for panel, letters in zip(figure.axes, ("AP", "RL"), strict=True):
        left, right = panel.get_xlim()
        assert left > right
        x_of_text = {text.get_text(): text.get_position()[0] for text in panel.texts}
        assert x_of_text[letters[0]] < 0.5 < x_of_text[letters[1]]


def test_names_do_not_overlap_when_landmarks_do():
    scan, labels, _ = phantom(3)
    marks = [Mark(f"T{n}", 7 + n, [12.0, -7.0, 400.0 - 0.5 * n]) for n in range(1, 9)]
    figure = preview_figure(scan, labels, marks, "title")
    figure.canvas.draw()
    for panel in figure.axes:
        boxes = sorted((t.get_window_extent() for t in panel.texts if t.get_text()[1:].isdigit()), key=lambda b: b.y0)
        assert len(boxes) == 8
        assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))


def test_a_doubt_stands_beside_its_name():
    scan, labels, marks = phantom(3)
    marks[1] = marks[1]._replace(doubt="L3 24%")
    figure = preview_figure(scan, labels, marks, "title")
    figure.canvas.draw()
    for panel in figure.axes:
        place = {text.get_text(): text.get_window_extent() for text in panel.texts}
        assert [name for name in place if name.endswith("?")] == ["L3 24%?"]
        doubt, name, frame = place["L3 24%?"], place["L2"], panel.get_window_extent()
        assert frame.x0 <= doubt.x0 < doubt.x1 <= name.x0
        assert doubt.y0 < name.y1
        assert name.y0 < doubt.y1


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_preview_is_written_for_any_number_of_landmarks(tmp_path, count):
    scan, labels, marks = phantom(count)
    path = tmp_path / "phantom_preview.png"
    save_preview(path, scan, labels, marks, "sub-$1_$2 · long " * 12, ["no anchor in view: labels may be off"])
    height, width = mpl_image.imread(path).shape[:2]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 600 < width < 2000
    assert 400 < height < 2000
    assert [entry.name for entry in tmp_path.iterdir()] == ["phantom_preview.png"]


def test_long_and_bent_spine_stays_on_one_page(tmp_path):
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    scan = Scan("long", np.zeros((80, 60, 170), np.float32), affine, Path("long.nii"))
    marks = [Mark(NAMES[row], LABELS[row], [200 + 60 * np.sin(row / 5), 150.0, 800 - 28.0 * row]) for row in range(24)]
    save_preview(tmp_path / "long.png", scan, np.zeros(scan.array.shape, np.uint8), marks, "long")
    height, width = mpl_image.imread(tmp_path / "long.png").shape[:2]
    assert height < 1700
    assert width < 1700
