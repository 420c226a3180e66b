"""Folders of phantoms in both layouts."""

import json

import nibabel as nib
import numpy as np
import pytest
from phantoms import SEED, oblique

from pipeline.datalist import read_split
from pipeline.labels import LABELS
from pipeline.landmarks import present_rows, read_csv
from pipeline.phantom import make_phantom, write, write_phantom, write_phantoms
from pipeline.phantom.generate import Phantom
from pipeline.spaces import to_voxel


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """About three lumbar vertebrae on an oblique grid."""
    return make_phantom(SEED, variant="none", grid=oblique())


@pytest.fixture
def quick(monkeypatch, phantom):
    """Let `write_phantoms` make one small scan again and again; return the seeds it asked for."""
    seeds = []

    def make(seed, preset, *, library=None, variant=None):
        seeds.append((seed, preset))
        return phantom

    monkeypatch.setattr(write, "make_phantom", make)
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


def test_scans_of_another_seed_stay_listed(tmp_path, quick):
    for count, seed in ((11, 5), (1, 51), (10, 5)):
        list(write_phantoms(tmp_path, count, seed))
    names = ["phantom_51_0000", *(f"phantom_5_{i:04d}" for i in range(9))]
    assert (tmp_path / "train.txt").read_text().split() == names
    assert (tmp_path / "val.txt").read_text() == "phantom_5_0009\n"


def test_unknown_preset(tmp_path):
    message = "preset 'huge': expected one of mixed, localization, segmentation"
    with pytest.raises(ValueError, match=message):
        write_phantoms(tmp_path / "out", 1, 0, "huge")
    with pytest.raises(ValueError, match=message):
        make_phantom(SEED, "huge")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"variant": "L7"}, "variant 'L7'"), ({"layout": "bids"}, "layout 'bids': expected one of plain, verse")],
)
def test_bad_arguments_are_refused_at_once(tmp_path, arguments, message):
    """Before the first scan is asked for, and before a folder is made."""
    with pytest.raises(ValueError, match=message):
        write_phantoms(tmp_path / "out", 1, 0, **arguments)
    assert not (tmp_path / "out").exists()


def test_verse_layout(tmp_path, quick, phantom):
    assert list(write_phantoms(tmp_path, 2, 5, layout="verse")) == ["phantom5x0000", "phantom5x0001"]
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    subject = "sub-phantom5x0000"
    assert found[:3] == [
        f"derivatives/{subject}/{subject}_parameters.json",
        f"derivatives/{subject}/{subject}_seg-subreg_ctd.json",
        f"derivatives/{subject}/{subject}_seg-vert_msk.nii.gz",
    ]
    assert f"rawdata/{subject}/{subject}_ct.nii.gz" in found
    assert len(found) == 8
    image = nib.load(tmp_path / "rawdata" / subject / f"{subject}_ct.nii.gz")
    header, *points = json.loads((tmp_path / found[1]).read_text())
    assert header == {"direction": list(nib.aff2axcodes(image.affine))} == {"direction": ["I", "L", "P"]}
    assert [p["label"] for p in points] == [LABELS[row] for row in present_rows(phantom.landmarks_mm)]
    mask = np.asarray(nib.load(tmp_path / found[2]).dataobj)
    for point in points:
        assert mask[tuple(round(point[axis]) for axis in "XYZ")] == point["label"]
        index = to_voxel(image.affine, phantom.landmarks_mm[LABELS.index(point["label"])])
        np.testing.assert_allclose([point[axis] for axis in "XYZ"], index, atol=2e-3)
    quick.clear()
    assert len(list(write_phantoms(tmp_path, 3, 5, layout="verse"))) == 3
    assert [seed for seed, _ in quick] == [(5, 2)]
