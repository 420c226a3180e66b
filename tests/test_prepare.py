"""Training data as downloaded: every odd thing of VerSe, and every mistake, in small copies of its folder trees."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ball_spine import change_first_voxel, write_dataset
from verse_tree import centroid_file, flat_scan, save, scan, subject_scan

from pipeline.annotations import derive_landmarks, read_annotation
from pipeline.cli import main
from pipeline.datalist import ends_mm, landmarks_from, read_datalist, read_split
from pipeline.labels import LABELS, row_of_name
from pipeline.landmarks import absent, present_rows, read_csv, write_csv
from pipeline.prepare import assign_folds, cases_of, survey, write_datalist
from pipeline.spaces import to_world
from pipeline.transforms import ReadLabelsd, ReadScand
from pipeline.verse import patients

CERVICAL, THORACIC, LUMBAR = ("C1", "C2", "C3"), ("T10", "T11", "T12"), ("L3", "L4", "L5")
WITH_T13 = ("T12", "T13", "L1")


@pytest.fixture(scope="module")
def verse(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """Return a folder with three releases in two trees, and the true landmarks by scan name."""
    root, truth = tmp_path_factory.mktemp("verse"), {}
    first, second, flat = root / "dataset-verse19training", root / "01_training", root / "verse20_challenge"
    truth["verse004"] = subject_scan(first, "sub-verse004", LUMBAR, nan_label=25, oblique=True, qform_only=True)
    split = "sub-verse417_split-verse290"
    truth["verse417_split-verse290"] = subject_scan(first, split, CERVICAL, axcodes="PIR", ctd="LAS", shift_hu=1)
    truth["verse010"] = subject_scan(root / "dataset-verse19test", "sub-verse010", LUMBAR, shift_hu=2)
    shutil.copytree(first / "rawdata" / "sub-verse004", second / "rawdata" / "sub-verse004")
    shutil.copytree(first / "derivatives" / "sub-verse004", second / "derivatives" / "sub-verse004")
    truth["verse010_2"] = subject_scan(second, "sub-verse010", LUMBAR, shift_hu=3)  # another series of a test patient
    truth["gl003_dir-ax"] = subject_scan(second, "sub-gl003_dir-ax", WITH_T13, axcodes="SAL", shift_hu=4)
    truth["verse201"] = subject_scan(
        second, "sub-verse201", ("T8", *THORACIC[:2]), mask_axcodes="PSR", shift_hu=5, unlabeled=("T8",)
    )
    truth["verse290"] = flat_scan(flat, "verse290", "verse290_ctd", CERVICAL, "IPL", shift_hu=6)
    truth["gl124_dir-ax"] = flat_scan(flat, "GL124_CT-ax", "GL124_CT_ax-iso-ctd", LUMBAR, "PIR", shift_hu=7)
    truth["verse500_dir-iso"] = flat_scan(
        flat, "verse500_CT-iso", "verse500_CT-iso_iso-ctd", THORACIC, "PIR", shift_hu=8
    )
    return root, truth


@pytest.fixture(scope="module")
def listed(verse, tmp_path_factory) -> tuple[dict, Path]:
    path = tmp_path_factory.mktemp("list") / "datalist.json"
    found = survey([verse[0]])
    assert found.refused == {}
    return write_datalist(path, found, folds=3), path


def items(document: dict) -> dict[str, dict]:
    return {item["id"]: item for part in ("training", "test") for item in document[part]}


def test_every_scan_of_both_trees_is_found_once(verse, listed):
    assert set(items(listed[0])) == set(verse[1])
    assert read_datalist(listed[1]) == listed[0]


@pytest.mark.parametrize(
    "name",
    ["verse004", "verse417_split-verse290", "gl003_dir-ax", "verse201", "verse290", "gl124_dir-ax", "verse500_dir-iso"],
)
def test_centroids_of_every_format_become_ras_mm(verse, listed, name):
    found = landmarks_from(items(listed[0])[name]["landmarks_mm"])
    np.testing.assert_allclose(found, verse[1][name], atol=0.02)  # the files state hundredths of a voxel
    assert len(present_rows(found)) in (2, 3)


def test_which_format_it_was_is_stated(listed):
    read_as = {name: item["landmarks_from"] for name, item in items(listed[0]).items()}
    assert read_as["verse004"] == "voxels along PIR"
    assert (read_as["verse290"], read_as["gl124_dir-ax"]) == ("mm along IPL", "mm along PIR")


def test_a_patient_is_on_one_side_only(listed):
    owner = {name: item["patient"] for name, item in items(listed[0]).items()}
    assert owner["verse417_split-verse290"] == owner["verse290"]  # one by the split's name, one by its own
    assert len(set(owner.values())) == len(owner) - 2
    assert {item["id"] for item in listed[0]["test"]} == {"verse010", "verse010_2"}
    fold = {item["id"]: item["fold"] for item in listed[0]["training"]}
    assert fold["verse417_split-verse290"] == fold["verse290"]
    assert sorted(set(fold.values())) == [0, 1, 2]


def test_official_test_scans_can_be_trained_on(verse, tmp_path):
    document = write_datalist(tmp_path / "all.json", survey([verse[0]]), folds=3, use_test=True)
    assert "test" not in document
    assert len({item["fold"] for item in document["training"] if item["patient"] == "verse010"}) == 1


def test_open_ends_are_where_vertebrae_may_be_unlabeled(listed):
    ends = {name: item["open_ends"] for name, item in items(listed[0]).items()}
    assert ends["verse417_split-verse290"] == ["bottom"]  # starts at C1
    assert ends["verse004"] == ["top"]  # ends at L5
    assert ends["verse201"] == ["top", "bottom"]


def test_prepared_data_train(listed):
    train = {sample["filename_or_obj"]: sample for sample in read_split(str(listed[1]), "train", fold=0)}
    val = read_split(str(listed[1]), "val", fold=0)
    assert len(train) + len(val) == 7
    sample = next(iter(train.values()))
    assert set(sample) == {"filename_or_obj", "image", "label", "landmarks_mm", "ends_mm", "relabel"}
    image = ReadScand("image")({"image": sample["image"]})["image"]
    labels = ReadLabelsd("label")({"label": sample["label"]})["label"]
    assert labels.shape[1:] == image.shape[1:] or "verse201" in sample["image"]


def test_a_mask_stored_in_another_order_is_brought_to_the_scan(verse):
    case = next(case for case in cases_of(verse[0]) if case.name == "verse201")
    sample = ReadScand("image")({"image": case.image, "label": case.mask})
    stored = ReadLabelsd("label")(sample)["label"]
    assert stored.shape != sample["image"].shape
    labels = ReadLabelsd("label", like="image")(sample)["label"].numpy()[0]
    _, affine, expected, _ = scan(("T8", *THORACIC[:2]), "LAS", unlabeled=("T8",))
    assert (labels != expected).mean() < 1e-4
    np.testing.assert_allclose(sample["image"].affine, affine, atol=1e-4)


def test_label_28_stays_t13(listed):
    assert set(items(listed[0])["gl003_dir-ax"]["landmarks_mm"]) == {"T12", "T13", "L1"}


def test_excluded_scans_are_left_out(verse):
    assert not {case["id"] for case in survey([verse[0]], exclude=["gl"]).items} & {"gl003_dir-ax", "gl124_dir-ax"}


# --- masks alone, and the data folder


def test_landmarks_from_masks_alone(tmp_path):
    array, affine, labels, truth = scan(LUMBAR, "RPI", oblique=True, spacing_mm=(1.5, 2.0, 2.5))
    save(tmp_path / "images" / "a.nii.gz", array, affine)
    save(tmp_path / "segmentations" / "a.nii.gz", labels.astype(np.float32), affine)
    (item,) = survey([tmp_path]).items
    assert item["landmarks_from"] == "mask"
    errors = np.linalg.norm(landmarks_from(item["landmarks_mm"]) - truth, axis=1)
    assert np.nanmax(errors) < 1.0
    assert np.isfinite(errors).sum() == 3


def test_a_vertebra_cut_by_the_scan_has_no_landmark():
    _, affine, labels, _ = scan(LUMBAR, "LPI")
    top = int(np.argwhere(labels == LABELS[row_of_name("L3")])[:, 2].mean())  # axis 2 runs down
    affine = affine.copy()
    affine[:3, 3] = to_world(affine, np.array([0, 0, top]))
    assert present_rows(derive_landmarks(labels[..., top:], affine)) == [row_of_name("L4"), row_of_name("L5")]


def test_the_lists_of_a_data_folder_are_kept(tmp_path):
    spines = {"a": THORACIC, "b": LUMBAR, "c": CERVICAL}
    write_dataset(tmp_path, spines, val=("b",), spacing_mm=(3, 3, 3), axcodes="LPS")
    document = write_datalist(tmp_path / "datalist.json", survey([tmp_path]))
    assert [item["id"] for item in document["training"]] == ["a", "c"]
    assert [item["id"] for item in document["validation"]] == ["b"]
    assert document["training"][0]["image"] == "images/a.nii.gz"
    listed, prepared = (read_split(str(path), "val") for path in (tmp_path / "datalist.json", tmp_path))
    np.testing.assert_array_equal(prepared[0]["landmarks_mm"], listed[0]["landmarks_mm"])  # no file: not by val.txt
    (tmp_path / "datalist.json").unlink()
    folder = read_split(str(tmp_path), "val")
    assert folder[0]["image"] == listed[0]["image"]
    np.testing.assert_allclose(listed[0]["landmarks_mm"], read_csv(Path(folder[0]["landmarks_mm"])), atol=1e-3)


def test_where_the_labeled_part_ends():
    landmarks_mm = absent()
    landmarks_mm[row_of_name("T12")], landmarks_mm[row_of_name("L1")] = [0, 0, 100], [0, 3, 70]
    ends = ends_mm(landmarks_mm, ("top", "bottom"))
    np.testing.assert_allclose(ends[0], [[0, -1.5, 115], [0, -4.5, 145]])
    np.testing.assert_allclose(ends[1], [[0, 4.5, 55], [0, 7.5, 25]])
    assert np.isnan(ends_mm(landmarks_mm, ())).all()
    landmarks_mm[row_of_name("L1")] = np.nan
    np.testing.assert_allclose(ends_mm(landmarks_mm, ("bottom",))[1], [[0, 0, 87.5], [0, 0, 62.5]])


# --- folds


def test_patients_are_joined_over_several_names():
    assert patients([("b", "c"), ("d",), ("a", "b"), ("c", "e")]) == ["a", "d", "a", "a"]


def test_rare_vertebrae_are_spread_over_the_folds():
    patient = [{"patient": f"p{i}", "landmarks_mm": dict.fromkeys(["L1", "L2"] + ["T13"] * (i < 4))} for i in range(20)]
    fold = assign_folds(patient, 4, seed=1)
    assert sorted(fold[f"p{i}"] for i in range(4)) == [0, 1, 2, 3]
    assert sorted(list(fold.values()).count(f) for f in range(4)) == [5, 5, 5, 5]
    assert fold == assign_folds(patient[::-1], 4, seed=1)
    with pytest.raises(ValueError, match="20 patients cannot be dealt into 30 folds"):
        assign_folds(patient, 30)


# --- mistakes


@pytest.fixture
def one(tmp_path) -> Path:
    """Return a data folder of one good scan."""
    return write_dataset(tmp_path / "data", {"a": THORACIC}, val=(), spacing_mm=(3, 3.5, 4), axcodes="LPS")


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match="no usable scan") as raised:
        survey([folder])
    return str(raised.value)


def edit(folder: Path, function) -> None:
    path = folder / "segmentations" / "a_seg.nii.gz"
    image = nib.load(path)
    nib.save(function(np.asarray(image.dataobj), image.affine), path)


def test_wrong_frame(one):
    path = one / "landmarks" / "a.csv"
    write_csv(path, read_csv(path) * [-1, -1, 1])
    assert "a.csv: only 0 of 3 landmarks lie near the mask of their own vertebra" in refusal(one)
    assert "as LPS mm they would" in refusal(one)


def test_one_landmark_on_its_neighbor_is_not_enough(one):
    path = one / "landmarks" / "a.csv"
    landmarks_mm = read_csv(path)
    landmarks_mm[row_of_name("T10")] = landmarks_mm[row_of_name("T11")] + [0, 0, 5]
    write_csv(path, landmarks_mm)
    assert "only 2 of 3 landmarks" in refusal(one)


def test_landmarks_without_a_mask_must_lie_in_the_scan(one):
    (one / "segmentations" / "a_seg.nii.gz").unlink()
    assert survey([one]).items[0]["id"] == "a"
    path = one / "landmarks" / "a.csv"
    write_csv(path, read_csv(path) + [0, 0, 500])
    assert "only 0 of 3 landmarks lie inside the scan" in refusal(one)


def test_missing_landmark_between_two_others(one):
    path = one / "landmarks" / "a.csv"
    landmarks_mm = read_csv(path)
    landmarks_mm[row_of_name("T11")] = np.nan
    write_csv(path, landmarks_mm)
    assert "a.csv: no landmark for T11, which the mask shows between two others" in refusal(one)


@pytest.mark.parametrize("label", [29, 200, 0.5])
def test_label_outside_the_table(one, label):
    def spoil(labels, affine):
        labels = labels.astype(np.float32)
        labels[0, 0, 0] = label
        return nib.Nifti1Image(labels, affine)

    edit(one, spoil)
    assert f"a_seg.nii.gz: label {label:g} is no vertebra" in refusal(one)


def test_mask_on_another_grid(one):
    edit(one, lambda labels, affine: nib.Nifti1Image(labels[:, :, :-3], affine))
    assert "a_seg.nii.gz: lies up to 12 mm off" in refusal(one)


def test_corrupt_mask(one):
    path = one / "segmentations" / "a_seg.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    assert "a_seg.nii.gz: cannot be read" in refusal(one)


def test_a_mask_with_a_changed_voxel(one):
    """It was read as if nothing were wrong."""
    change_first_voxel(one / "segmentations" / "a_seg.nii.gz", LABELS[row_of_name("T9")])
    assert "a_seg.nii.gz: cannot be read (CRC check failed" in refusal(one)


def test_neither_mask_nor_landmarks(one):
    shutil.rmtree(one / "segmentations")
    shutil.rmtree(one / "landmarks")
    assert "neither a mask nor landmarks" in refusal(one)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": 29, "X": 1, "Y": 2, "Z": 3}], "label 29 is not a vertebra"),
        ([{"label": 8, "X": 1, "Y": 2, "Z": 3}] * 2, "label 8 appears twice"),
        ([{"label": 8, "X": 1, "Y": 2}], "not a VerSe centroid file: entry .* has no label, X, Y, Z"),
        ([{"direction": ["P", "P", "R"]}], "is no axis order"),
        ([{"label": 26, "X": 1, "Y": 2, "Z": 3}], "a.json: no landmark"),
        ({"a": 1}, "no 'vertebrae' list"),
    ],
)
def test_centroid_files_that_are_none(tmp_path, rows, message):
    array, affine, _, _ = scan(THORACIC)
    image = save(tmp_path / "a.nii.gz", array, affine)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_annotation(image, None, tmp_path / "a.json", {})


def test_centroids_of_the_sacrum_are_left_out_like_its_mask(tmp_path):
    """They had the whole scan refused."""
    array, affine, labels, landmarks_mm = scan(LUMBAR, "RPS")
    labels[labels == LABELS[row_of_name("L5")]] = 26
    landmarks_mm[row_of_name("L5")] = np.nan
    image, mask = save(tmp_path / "a.nii.gz", array, affine), save(tmp_path / "m.nii.gz", labels, affine)
    centroid_file(tmp_path / "a.json", "PIR", landmarks_mm, affine, array.shape)
    rows = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps([*rows, {"label": 26, "X": 1, "Y": 2, "Z": 3}]))
    found = read_annotation(image, mask, tmp_path / "a.json", {})
    np.testing.assert_allclose(found.landmarks_mm, landmarks_mm, atol=0.05)


def test_centroids_that_fit_no_format(tmp_path):
    array, affine, labels, landmarks_mm = scan(THORACIC, "RPS")
    image, mask = save(tmp_path / "a.nii.gz", array, affine), save(tmp_path / "m.nii.gz", labels, affine)
    centroid_file(tmp_path / "a.json", "SLA", landmarks_mm, affine, array.shape, in_mm=True, stated=False)
    with pytest.raises(ValueError, match=r"only 0 of 3 .* \(read as mm along IPL, mm along PIR, voxels along RPS\)"):
        read_annotation(image, mask, tmp_path / "a.json", {})


# --- errata


def test_errata_change_mask_and_landmarks(verse, tmp_path):
    errata = tmp_path / "errata.csv"
    errata.write_text("scan,label,correct\nverse004,L3,L2\nverse004,23,22\nverse004,L5,\n")
    found = {item["id"]: item for item in survey([verse[0]], errata=errata).items}["verse004"]
    assert found["relabel"] == {"22": 21, "23": 22}
    corrected = landmarks_from(found["landmarks_mm"])
    assert present_rows(corrected) == [row_of_name("L2"), row_of_name("L3")]
    for new, old in (("L2", "L3"), ("L3", "L4")):
        truth = verse[1]["verse004"][row_of_name(old)]
        np.testing.assert_allclose(corrected[row_of_name(new)], truth, atol=0.02)
    labels = ReadLabelsd("label")({"label": found["label"], "relabel": {22: 21, 23: 22}})["label"]
    assert labels.unique().tolist() == [0, 21, 22, 24]


def test_errata_of_nothing_are_refused(verse, tmp_path):
    errata = tmp_path / "errata.csv"
    for line, message in (("nobody,L1,T13", "no scan nobody"), ("verse004,27,L1", "label 27 is not a vertebra")):
        errata.write_text(f"scan,label,correct\n{line}\n")
        with pytest.raises(ValueError, match=f"errata.csv, line 2: {message}"):
            survey([verse[0]], errata=errata)


# --- datalists


def broken(listed, tmp_path, change) -> Path:
    document = json.loads(listed[1].read_text())
    change(document)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["training"].append(d["training"][0]), "appears twice"),
        (
            lambda d: d["training"].append(d["training"][0] | {"id": "x", "fold": 9}),
            "is in fold or list . and in 9",
        ),
        (lambda d: d["test"].append(d["training"][0] | {"id": "x"}), "is in fold or list . and in test"),
        (lambda d: d.update(space="LPS"), "space LPS, units mm; expected RAS, mm"),
        (lambda d: d.pop("units"), "not a datalist; 'units' is missing"),
        (lambda d: d["training"][0].pop("fold"), "not a datalist; 'fold' is missing"),
    ],
)
def test_datalists_that_cannot_be_trusted(listed, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_split(str(broken(listed, tmp_path, change)), "train")


def test_a_datalist_names_what_is_missing(listed, tmp_path):
    path = broken(listed, tmp_path, lambda d: d["training"][0].update(image="gone.nii.gz", fold=1))
    with pytest.raises(ValueError, match=r"gone\.nii\.gz: not found, but .*broken\.json names"):
        read_split(str(path), "train", fold=5)


def test_data_folder_lists(one):
    with pytest.raises(ValueError, match=r"val\.txt: no scan ID"):
        read_split(str(one), "val")
    (one / "val.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"a is in train\.txt and in val\.txt"):
        read_split(str(one), "train")
    (one / "val.txt").write_text("b\n")
    with pytest.raises(ValueError, match=r"images/b\.nii\.gz: not found"):
        read_split(str(one), "val")


# --- the command


def test_command(verse, tmp_path, capsys):
    target = tmp_path / "datalist.json"
    bad = tmp_path / "bad"
    write_dataset(bad, {"good": LUMBAR, "bad": THORACIC}, val=(), spacing_mm=(3, 3, 3), axcodes="LPS")
    (bad / "landmarks" / "bad.csv").write_text("label,X,Y,Z\nT10,0,0,0\n")
    assert main(["prepare", str(verse[0]), str(bad), "-o", str(target), "--folds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "refused bad: " in printed
    assert "sub-verse004_ct.nii.gz is " in printed
    assert f"{target}: 10 scans of 8 patients (8 training, 2 test); 1 refused" in printed
    assert main(["prepare", str(tmp_path / "nothing")]) == 2
    assert "nothing: no such folder" in capsys.readouterr().err
