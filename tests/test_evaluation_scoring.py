"""One scan against brute-force definitions: loops over voxels and points, with nothing of the code under test."""

import itertools
import json
import math

import nibabel as nib
import numpy as np
import pytest

from pipeline.evaluation.folders import find_cases
from pipeline.evaluation.overlap import TOLERANCES_MM, compare_surfaces, cut_out, lattice_of, surface_mm
from pipeline.evaluation.scoring import score_scan
from pipeline.images import InputError
from pipeline.spaces import Grid

ORDER = [*range(1, 20), 28, *range(20, 26)]  # labels head to foot
NAME = {**{i: f"C{i}" for i in range(1, 8)}, **{7 + i: f"T{i}" for i in range(1, 13)}, 28: "T13"}
NAME |= {19 + i: f"L{i}" for i in range(1, 7)}
AFFINE = np.array([[0, -1.0, 0, 40], [1, 0, 0, -30], [0, 0, 1, -500], [0, 0, 0, 1]])  # axes A, L, S; 1 mm


def brute_dice(a: set, b: set) -> float:
    return 2 * len(a & b) / (len(a) + len(b))


def brute_surface(voxels: set) -> list:
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    return [v for v in voxels if any(tuple(np.add(v, s)) not in voxels for s in steps)]


def brute_distances(a: list, b: list) -> tuple[list, list]:
    table = np.array([[math.dist(p, q) for q in b] for p in a])
    return sorted(table.min(axis=1)), sorted(table.min(axis=0))


def brute_percentile(values: list, share: float) -> float:
    place = share * (len(values) - 1)
    low = math.floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def brute_hits(predicted: dict, truth: dict, strict: bool) -> dict:
    hits = {}
    for label, place in truth.items():
        own = math.dist(predicted[label], place) if label in predicted else math.inf
        rivals = [t for k, t in truth.items() if strict or k in predicted]
        nearest = (
            own <= min((math.dist(predicted[label], t) for t in rivals), default=0) if label in predicted else False
        )
        hits[NAME[label]] = nearest and (own < 20 if strict else own <= 20)
    return hits


def voxels_of(labels: np.ndarray) -> dict[int, set]:
    found = {int(label): set(map(tuple, np.argwhere(labels == label).tolist())) for label in np.unique(labels)}
    return {label: found[label] for label in ORDER if label in found}


def world(affine, index):
    return tuple((affine @ [*index, 1])[:3])


def write(folder, labels, affine=AFFINE, points=None, name="a"):
    """A mask, and VerSe's centroids in the voxels of that mask (by default the middle of every box)."""
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), folder / f"{name}_seg.nii.gz")
    if points is None:
        points = {label: np.mean(list(voxels), axis=0) for label, voxels in voxels_of(labels).items() if label < 29}
    entries = [{"label": label, **dict(zip("XYZ", map(float, p), strict=True))} for label, p in points.items() if label]
    codes = list(nib.aff2axcodes(affine))
    (folder / f"{name}_ctd.json").write_text(json.dumps([{"direction": codes}, *entries]))
    return {label: world(affine, p) for label, p in points.items() if label}


def score(tmp_path, predicted=None):
    truths = find_cases(tmp_path / "truth")
    predictions = find_cases(tmp_path / "pred") if predicted is None else predicted
    return score_scan(truths["a"], predictions.get("a"))


def stack(labels, *, heights=7, size=(11, 8), gap=3, shape=(20, 18)) -> np.ndarray:
    """Boxes one above the other, the first on top; each a little larger, so that none is like another."""
    image = np.zeros((*shape, (heights + gap) * len(labels) + 6), np.uint8)
    for i, label in enumerate(labels):
        top = image.shape[2] - 3 - (heights + gap) * i
        image[4 + i : 4 + size[0], 5 : 5 + size[1], top - heights : top] = label
    return image


CHAIN = (17, 18, 19, 28, 20, 21)  # T10 ... T13, L1, L2


def renamed(image, table):
    result = image.copy()
    for old, new in table.items():
        result[image == old] = new
    return result


def touching():
    """Every box reaches down into the next one."""
    image = stack(CHAIN)
    result = image.copy()
    for k in range(4, image.shape[2]):
        layer = result[..., k - 4]
        layer[(image[..., k] > 0) & (image[..., k - 4] == 0)] = image[..., k].max()
    return result


CASES = {
    "same": stack(CHAIN),
    "empty": np.zeros_like(stack(CHAIN)),
    "absent": renamed(stack(CHAIN), {18: 0, 21: 0}),
    "touching": touching(),
    "moved": np.roll(stack(CHAIN), (2, -3, 4), axis=(0, 1, 2)),
    "shifted by one": renamed(stack(CHAIN), dict(zip(CHAIN, (18, 19, 28, 20, 21, 22), strict=True))),
    "T13 overlooked": renamed(stack(CHAIN), {28: 20, 20: 21, 21: 22}),
    "mirrored": stack(CHAIN)[:, :, ::-1].copy(),
}


@pytest.mark.parametrize("case", CASES)
def test_against_brute_force(tmp_path, case):
    truth, predicted = stack(CHAIN), CASES[case]
    truth_mm, predicted_mm = write(tmp_path / "truth", truth), write(tmp_path / "pred", predicted)
    scan = score(tmp_path)
    true, found = voxels_of(truth), voxels_of(predicted)
    strict, organiser = brute_hits(predicted_mm, truth_mm, True), brute_hits(predicted_mm, truth_mm, False)
    assert [v.name for v in scan.vertebrae] == [NAME[label] for label in CHAIN]
    assert {v.name: v.hit for v in scan.vertebrae} == strict
    assert {v.name: v.hit_organiser for v in scan.vertebrae} == organiser
    assert scan.extra == [NAME[label] for label in ORDER if label in predicted_mm and label not in truth_mm]
    assert scan.all_right == (all(strict.values()) and not scan.extra)
    assert (scan.anomaly, scan.spacing) == ("T13", "up to 1 mm")
    for vertebra, label in zip(scan.vertebrae, CHAIN, strict=True):
        if label not in found:
            assert (vertebra.dice, vertebra.nsd_1mm, vertebra.hd_mm, vertebra.error_mm) == (0, 0, None, None)
            continue
        assert vertebra.error_mm == pytest.approx(math.dist(predicted_mm[label], truth_mm[label]))
        assert vertebra.dice == pytest.approx(brute_dice(found[label], true[label]))
        there, back = brute_distances(brute_surface(found[label]), brute_surface(true[label]))
        both = there + back
        assert vertebra.hd_mm == pytest.approx(max(both))
        assert vertebra.hd95_mm == pytest.approx(max(brute_percentile(side, 0.95) for side in (there, back)))
        assert vertebra.assd_mm == pytest.approx(sum(both) / len(both))
        for tolerance, value in zip(TOLERANCES_MM, (vertebra.nsd_1mm, vertebra.nsd_2mm, vertebra.nsd_3mm), strict=True):
            assert value == pytest.approx(sum(d <= tolerance for d in both) / len(both))
    iou = [len(found[p] & true[t]) / len(found[p] | true[t]) for p, t in itertools.product(found, true)]
    matched = [value for value in iou if value > 0.5]
    assert scan.pq == pytest.approx(2 * sum(matched) / (len(true) + len(found)))


def test_the_shift_of_all_names_is_told(tmp_path):
    chain = (10, 11, 12, 13, 14)
    write(tmp_path / "truth", stack(chain))
    write(tmp_path / "pred", renamed(stack(chain), {label: label + 1 for label in chain}))
    scan = score(tmp_path)
    assert (scan.shift, scan.id_rate_shifted) == (1, 1.0)
    assert [v.hit for v in scan.vertebrae] == [False] * 5
    assert scan.confusion == [("T3", "T4"), ("T4", "T5"), ("T5", "T6"), ("T6", "T7"), ("T7", "T8")]
    assert (scan.extra, scan.predicted) == (["T8"], 5)


def test_no_prediction_misses_everything(tmp_path):
    write(tmp_path / "truth", stack(CHAIN))
    scan = score(tmp_path, {})
    assert [v.hit for v in scan.vertebrae] == [False] * 6
    assert [v.dice for v in scan.vertebrae] == [0.0] * 6
    assert (scan.pq, scan.predicted, scan.all_right, scan.prediction) == (0.0, 0, False, "")


def test_a_vertebra_that_the_scan_cuts_is_not_extra(tmp_path):
    """The truth leaves the lowest one unlabeled; the same one in the middle of nothing is a false one."""
    image = stack((20, 21, 22))
    image = image[:, :, np.flatnonzero(image.any(axis=(0, 1)))[0] :]  # L3 reaches the last slice
    write(tmp_path / "truth", renamed(image, {22: 0}))
    write(tmp_path / "pred", image)
    scan = score(tmp_path)
    assert (scan.extra, scan.cut, scan.predicted, scan.all_right, scan.pq) == ([], ["L3"], 2, True, 1.0)
    longer = np.concatenate([np.zeros((*image.shape[:2], 30), np.uint8), image], axis=2)
    write(tmp_path / "truth", renamed(longer, {22: 0}))
    write(tmp_path / "pred", longer)
    scan = score(tmp_path)
    assert (scan.extra, scan.cut, scan.predicted, scan.all_right) == (["L3"], [], 3, False)
    assert scan.pq == pytest.approx(2 * 2 / 5)


def test_a_label_without_a_true_center_is_neither_hit_nor_extra(tmp_path):
    image = stack((20, 21, 22))
    write(tmp_path / "truth", image, points={20: (10, 9, 29), 21: (10, 9, 19)})
    write(tmp_path / "pred", image)
    scan = score(tmp_path)
    assert [v.hit for v in scan.vertebrae] == [True, True, None]
    assert scan.vertebrae[2].dice == 1.0
    assert (scan.predicted, scan.extra) == (2, [])


def test_any_grid_counts_in_cubic_millimeters(tmp_path):
    """Voxels of 2 x 1 x 3 mm are the same as that many voxels of 1 mm."""
    truth, predicted = stack((20, 21), heights=5), np.roll(stack((20, 21), heights=5), 1, axis=2)
    for side, image in (("truth", truth), ("pred", predicted)):
        write(tmp_path / side, image, AFFINE @ np.diag([2, 1, 3, 1]))
    coarse = score(tmp_path)
    for side, image in (("truth", truth), ("pred", predicted)):
        write(tmp_path / side, image.repeat(2, axis=0).repeat(3, axis=2))
    fine = score(tmp_path)
    assert (coarse.spacing, fine.spacing) == ("above 2 mm", "up to 1 mm")
    for a, b in zip(coarse.vertebrae, fine.vertebrae, strict=True):
        assert a.dice == pytest.approx(0.8), "4 of 5 layers"
        assert (a.dice, a.hd_mm, a.hd95_mm, a.assd_mm, a.nsd_1mm) == (b.dice, b.hd_mm, b.hd95_mm, b.assd_mm, b.nsd_1mm)
        assert (a.hd_mm, a.error_mm) == (3.0, pytest.approx(3.0))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_the_order_of_axes_does_not_matter(tmp_path, codes):
    truth, predicted = CASES["same"], CASES["moved"]
    write(tmp_path / "truth", truth)
    write(tmp_path / "pred", predicted)
    expected = score(tmp_path)
    image = nib.Nifti1Image(predicted, AFFINE)
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    write(tmp_path / "pred", np.asarray(turned.dataobj), turned.affine)
    found = score(tmp_path)
    for a, b in zip(expected.vertebrae, found.vertebrae, strict=True):
        assert (a.dice, a.hd_mm, a.assd_mm, a.hit) == (b.dice, b.hd_mm, b.assd_mm, b.hit)
        assert a.error_mm == pytest.approx(b.error_mm, abs=1e-4)


def test_a_rotated_and_cropped_grid(tmp_path):
    """The prediction is a ball on a turned, finer grid with another origin and another field of view."""
    turn = np.deg2rad(20)
    oblique = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) * [0.7, 0.8, 0.9]
    other = np.eye(4)
    other[:3, :3], center = oblique, np.array(world(AFFINE, (20, 20, 20)))
    other[:3, 3] = center - oblique @ [25, 22, 20]
    for side, affine, shape in (("truth", AFFINE, (40, 44, 48)), ("pred", other, (52, 46, 43))):
        place = np.stack(np.indices(shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
        ball = (np.linalg.norm(place - center, axis=-1) < 14).astype(np.uint8) * 20
        write(tmp_path / side, ball, affine)
    vertebra = score(tmp_path).vertebrae[0]
    assert vertebra.dice > 0.96
    assert vertebra.error_mm < 0.1
    assert vertebra.hd_mm <= 2.0


def test_landmarks_alone(tmp_path):
    """Without a mask, VerSe's voxels are those of the image; what needs a mask is left open."""
    affine = AFFINE @ np.diag([2, 1, 3, 1])
    points = {19: (5, 5, 20), 20: (5, 6, 12), 21: (5, 8, 4)}
    truth_mm = write(tmp_path / "truth", np.zeros((9, 10, 24), np.uint8), affine, points)
    (tmp_path / "truth" / "a_seg.nii.gz").rename(tmp_path / "truth" / "a_ct.nii.gz")
    (tmp_path / "pred").mkdir()
    moved = {label: np.add(place, (0, 3, 4)) for label, place in truth_mm.items() if label != 20}
    lines = [f"{label},{x},{y},{z}" for label, (x, y, z) in moved.items()]
    (tmp_path / "pred" / "a_landmarks.csv").write_text("\n".join(["label,X,Y,Z", *lines]))
    scan = score(tmp_path)
    assert [(v.name, v.hit, v.view, v.dice) for v in scan.vertebrae] == [
        ("T12", True, "unknown", None),
        ("L1", False, "unknown", None),
        ("L2", True, "unknown", None),
    ]
    assert [v.error_mm for v in scan.vertebrae] == [pytest.approx(5.0), None, pytest.approx(5.0)]
    assert (scan.pq, scan.spacing, scan.predicted) == (None, "above 2 mm", 2)


def test_masks_of_different_places_are_refused(tmp_path):
    write(tmp_path / "truth", stack(CHAIN))
    far = AFFINE.copy()
    far[2, 3] = 900
    write(tmp_path / "pred", stack(CHAIN), far)
    with pytest.raises(InputError, match="lies nowhere near the truth"):
        score(tmp_path)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI, about itself
def test_surfaces_are_those_of_monai():
    """The same masks through MONAI's metrics, at 1 mm."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    images = [CASES["same"], CASES["touching"]]
    lattice = lattice_of(Grid(images[0].shape, AFFINE))
    truth, predicted = (cut_out(image, AFFINE, lattice)[19] for image in images)
    ours = compare_surfaces(predicted, truth)
    y, y_pred = (torch.from_numpy(image == 19)[None, None].float() for image in images)
    assert ours.hd_mm == pytest.approx(float(compute_hausdorff_distance(y_pred, y, include_background=True)))
    hd95 = compute_hausdorff_distance(y_pred, y, include_background=True, percentile=95)
    assert ours.hd95_mm == pytest.approx(float(hd95))
    assd = compute_average_surface_distance(y_pred, y, include_background=True, symmetric=True)
    assert ours.assd_mm == pytest.approx(float(assd))
    for tolerance, value in zip(TOLERANCES_MM, ours.nsd, strict=True):
        assert value == pytest.approx(float(compute_surface_dice(y_pred, y, [tolerance], include_background=True)))
    assert len(surface_mm(truth)) == len(brute_surface(voxels_of(images[0])[19]))
