"""Masks and centroid files of all the usual tools, on an oblique, anisotropic grid."""

import json

import nibabel as nib
import numpy as np
import pytest
from ball_spine import affine_of, ball_spine, change_first_voxel

from pipeline.evaluation.centers import Masks, find_centers
from pipeline.evaluation.folders import find_cases
from pipeline.evaluation.label_maps import read_label_map
from pipeline.evaluation.overlap import cut_out, lattice_of
from pipeline.images import InputError
from pipeline.labels import LABELS, row_of_name
from pipeline.landmarks import present_rows, write_csv
from pipeline.spaces import Grid, to_voxel

NAMES = ("T11", "T12", "T13", "L1")


def save(path, array, affine=None, header_table=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([1, 2, 3, 1]) if affine is None else affine)
    if header_table:
        labels = "".join(f'<Label Key="{k}" Red="0.5"><![CDATA[{name}]]></Label>\n' for k, name in header_table.items())
        xml = (
            f"<CaretExtension><VolumeInformation><LabelTable>{labels}</LabelTable></VolumeInformation></CaretExtension>"
        )
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, xml.encode()))
    nib.save(image, path)
    return path


def line_of(*values, dtype=np.uint8):
    """An image of 2 x 3 x N voxels whose slices hold the values."""
    return np.broadcast_to(np.array(values, dtype), (2, 3, len(values))).copy()


class TestLabelMaps:
    def read(self, path):
        return read_label_map(path)[0][1, 1].tolist()

    def test_verse_leaves_out_sacrum_and_coccyx(self, tmp_path):
        assert self.read(save(tmp_path / "a.nii.gz", line_of(0, 1, 19, 28, 25, 26, 27))) == [0, 1, 19, 28, 25, 0, 0]

    @pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
    def test_any_type_that_holds_integers(self, tmp_path, dtype):
        assert self.read(save(tmp_path / "a.nii", line_of(0, 20, 28, dtype=dtype))) == [0, 20, 28]

    def test_scale_factors_are_applied(self, tmp_path):
        path = tmp_path / "a.nii"
        image = nib.Nifti1Image(line_of(0, 1, 2), np.eye(4))
        image.header.set_slope_inter(4, 0)
        nib.save(image, path)
        expected = np.asarray(nib.load(path).dataobj)[1, 1].round().astype(int).tolist()
        assert self.read(path) == expected

    def test_spineps_discs_and_end_plates_are_left_out(self, tmp_path):
        assert self.read(save(tmp_path / "a.nii", line_of(0, 20, 120, 220, 26))) == [0, 20, 0, 0, 0]

    def test_totalsegmentator_counts_from_the_sacrum(self, tmp_path):
        """25 is its sacrum, 26 S1, 27 L5, 31 L1, 32 T12, 43 T1, 44 C7, 50 C1; 51 is the heart."""
        path = save(tmp_path / "a.nii", line_of(25, 26, 27, 31, 32, 43, 44, 50, 51))
        assert self.read(path) == [0, 0, 24, 20, 19, 8, 7, 1, 0]

    def test_names_in_the_header_come_first(self, tmp_path):
        """Without them, 1 and 27 would be VerSe's."""
        table = {1: "spleen", 27: "vertebrae_L5", 28: "vertebrae_L4", 3: "vertebrae_S1"}
        assert self.read(save(tmp_path / "a.nii.gz", line_of(0, 1, 27, 28, 3), header_table=table)) == [0, 0, 24, 23, 0]

    def test_a_folder_of_single_vertebrae(self, tmp_path):
        for name, values in (("L5", (0, 1, 0)), ("T4", (1, 0, 0))):
            save(tmp_path / f"vertebrae_{name}.nii.gz", line_of(*values))
        save(tmp_path / "spleen.nii.gz", line_of(0, 0, 1))
        assert self.read(tmp_path) == [11, 24, 0]
        save(tmp_path / "vertebrae_T5.nii.gz", line_of(0, 0, 1), affine=np.eye(4))
        with pytest.raises(InputError, match=r"vertebrae_T5.nii.gz is on another grid"):
            read_label_map(tmp_path)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (line_of(0, 1.5, dtype=np.float32), "value 1.5 is no label"),
            (line_of(0, np.nan, dtype=np.float32), "value nan is no label"),
            (line_of(0, -1000, dtype=np.int16), "value -1000 is no label"),
            (line_of(0, 20, 30), "label 30 is neither VerSe's"),
            (np.zeros((2, 3, 4, 2), np.uint8), "4-D image of 2 x 3 x 4 x 2 voxels"),
        ],
    )
    def test_what_is_no_mask_is_refused(self, tmp_path, array, message):
        path = save(tmp_path / "a.nii.gz", array)
        with pytest.raises(InputError, match=f"a.nii.gz: {message}"):
            read_label_map(path)

    def test_a_broken_file(self, tmp_path):
        (tmp_path / "a.nii.gz").write_bytes(b"nothing of the kind")
        with pytest.raises(InputError, match=r"a\.nii\.gz"):
            read_label_map(tmp_path / "a.nii.gz")

    def test_a_changed_voxel_is_found_by_the_checksum(self, tmp_path):
        """nibabel alone stops before gzip's checksum and returns the changed label."""
        path = change_first_voxel(save(tmp_path / "a.nii.gz", np.full((60, 50, 40), 20, np.uint8)), 28)
        assert np.unique(nib.load(path).dataobj).tolist() == [20, 28]
        with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be read"):
            read_label_map(path)


@pytest.fixture(scope="module")
def spine():
    """Balls on an oblique LIP grid of 1.3 x 1.7 x 2.1 mm: grid, masks and their centers."""
    scan, labels, landmarks_mm = ball_spine(NAMES, "LIP", oblique=True)
    lattice = lattice_of(scan.grid)
    return scan.grid, Masks(cut_out(labels, scan.affine, lattice), lattice), landmarks_mm


def points_in(codes, grid, landmarks_mm, spacing=None):
    """The centers along other axis codes, counted in voxels or, with a spacing, in mm; by hand for a LIP image."""
    size = dict(zip("LIP", grid.shape, strict=True))
    voxel = {
        row: dict(zip("LIP", to_voxel(grid.affine, landmarks_mm[row]), strict=True))
        for row in present_rows(landmarks_mm)
    }
    opposite = {"R": "L", "S": "I", "A": "P"}
    points = []
    for row, own in voxel.items():
        along = [own[c] if c in own else size[opposite[c]] - 1 - own[opposite[c]] for c in codes]
        if spacing:
            along = [v * spacing[c if c in spacing else opposite[c]] for v, c in zip(along, codes, strict=True)]
        points.append({"label": LABELS[row], **dict(zip("XYZ", along, strict=True))})
    return points


class TestCenters:
    def write(self, path, document):
        path.write_text(json.dumps(document))
        return path

    def check(self, path, spine, source):
        grid, masks, landmarks_mm = spine
        found = find_centers(path, grid, masks)
        np.testing.assert_allclose(found.positions_mm, landmarks_mm, atol=1e-6)
        assert source in found.source

    @pytest.mark.parametrize("codes", ["PIR", "LPS", "RAS", "LIP"])
    def test_voxels_in_any_direction(self, tmp_path, spine, codes):
        points = points_in(codes, spine[0], spine[2])
        extra = [{"label": 26, "X": 1, "Y": 1, "Z": 1}, {"label": 20, "X": float("nan"), "Y": 1, "Z": 1}]
        path = self.write(tmp_path / "a_ctd.json", [{"direction": list(codes)}, *extra, *points])
        self.check(path, spine, f"voxels along {codes}")

    @pytest.mark.parametrize("codes", ["IPL", "PIR"])
    def test_the_flat_release_counts_mm(self, tmp_path, spine, codes):
        points = points_in(codes, spine[0], spine[2], {"L": 1.3, "I": 1.7, "P": 2.1})
        self.check(self.write(tmp_path / "a_ctd.json", points), spine, f"1 mm steps along {codes}")

    def test_points_of_tptbox_are_left_aside(self, tmp_path, spine):
        document = [{"direction": ["P", "I", "R"], "format": "POI"}, {"L1": {"50": [1, 2, 3]}}]
        found = find_centers(self.write(tmp_path / "a_ctd.json", document), spine[0], spine[1])
        assert found.source.endswith("point file of TPTBox left aside")
        assert np.nanmax(np.linalg.norm(found.positions_mm - spine[2], axis=1)) < 1.0
        more = [{"label": 50 * 256 + 20, "X": 1, "Y": 1, "Z": 1}, *points_in("PIR", spine[0], spine[2])]
        path = self.write(tmp_path / "b_ctd.json", [{"direction": ["P", "I", "R"], "format": "docker"}, *more])
        self.check(path, spine, "voxels along PIR")

    def test_without_masks_the_direction_decides(self, tmp_path, spine):
        path = self.write(tmp_path / "a.json", [{"direction": ["P", "I", "R"]}, *points_in("PIR", spine[0], spine[2])])
        np.testing.assert_allclose(find_centers(path, spine[0], None).positions_mm, spine[2], atol=1e-6)
        flat = self.write(tmp_path / "b.json", points_in("PIR", spine[0], spine[2]))
        with pytest.raises(InputError, match=r"b.json: states no direction, and there is no mask"):
            find_centers(flat, spine[0], None)
        with pytest.raises(InputError, match="counts in voxels, but there is neither a mask nor an image"):
            find_centers(path, None, None)

    def test_points_of_another_scan_are_refused(self, tmp_path, spine):
        points = [{**p, "Y": p["Y"] + 40} for p in points_in("LIP", spine[0], spine[2])]
        path = self.write(tmp_path / "a_ctd.json", [{"direction": ["L", "I", "P"]}, *points])
        with pytest.raises(InputError, match=r"a_ctd.json: only 0% of its 4 points lie in the mask of the same label"):
            find_centers(path, spine[0], spine[1])

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ([{"direction": ["P", "P", "R"]}], "is no axis order"),
            ([{"label": 99, "X": 1, "Y": 1, "Z": 1}], "label 99 is not a vertebra"),
            ([{"label": 20, "X": 1}], "has no label, X, Y, Z"),
            (3, "not VerSe's list of points"),
        ],
    )
    def test_broken_files(self, tmp_path, spine, document, message):
        with pytest.raises(InputError, match=rf"a\.json: .*{message}"):
            find_centers(self.write(tmp_path / "a.json", document), spine[0], spine[1])

    def test_our_csv_is_taken_as_it_is(self, tmp_path, spine):
        write_csv(tmp_path / "a.csv", spine[2])
        found = find_centers(tmp_path / "a.csv", None, None)
        np.testing.assert_allclose(found.positions_mm, spine[2], atol=1e-3)

    def test_without_a_file_the_body_is_found_in_the_mask(self, spine):
        found = find_centers(None, spine[0], spine[1])
        assert present_rows(found.positions_mm) == [row_of_name(name) for name in ("T11", "T12", "L1", "T13")]
        assert np.nanmax(np.linalg.norm(found.positions_mm - spine[2], axis=1)) < 1.0


def test_centers_of_mass_are_replaced_by_those_of_the_body(tmp_path):
    """A body of 30 x 24 x 20 mm and a process of 10 x 46 x 8 mm that draws the center of mass 7 mm back."""
    labels = np.zeros((50, 90, 3 * 24), np.uint8)  # RAS, 1 mm
    for i, label in enumerate((20, 21, 22)):
        z = 50 - 24 * i
        labels[10:40, 60:84, z : z + 20], labels[20:30, 14:60, z + 6 : z + 14] = label, label
    affine = np.array([[1.0, 0, 0, -7], [0, 1, 0, 11], [0, 0, 1, -300], [0, 0, 0, 1]])
    grid = Grid(labels.shape, affine)
    masks = Masks(cut_out(labels, affine, lattice_of(grid)), lattice_of(grid))
    body, of_mass = 71.5, (30 * 24 * 20 * 71.5 + 10 * 46 * 8 * 36.5) / (30 * 24 * 20 + 10 * 46 * 8)
    for y, source in ((of_mass, "the file holds centers of mass"), (body, "voxels along RAS")):
        points = [{"label": 20 + i, "X": 24.5, "Y": y, "Z": 59.5 - 24 * i} for i in range(3)]
        path = tmp_path / "a_ctd.json"
        path.write_text(json.dumps([{"direction": ["R", "A", "S"]}, *points]))
        found = find_centers(path, grid, masks)
        assert source in found.source
        np.testing.assert_allclose(found.positions_mm[19:22, 1], body + 11, atol=3)


class TestFolders:
    def test_layouts(self, tmp_path):
        derived = tmp_path / "01_training" / "derivatives" / "sub-verse004"
        mask = save(derived / "sub-verse004_seg-vert_msk.nii.gz", line_of(0, 1))
        save(derived / "sub-verse004_seg-spine_msk.nii.gz", line_of(0, 1))
        save(tmp_path / "01_training" / "rawdata" / "sub-verse004" / "sub-verse004_ct.nii.gz", line_of(0, 1))
        centers = derived / "sub-verse004_seg-subreg_ctd.json"
        centers.write_text("[]")
        save(tmp_path / "flat" / "GL003.nii.gz", line_of(0, 1))
        flat = save(tmp_path / "flat" / "GL003_seg.nii.gz", line_of(0, 1))
        for name in ("vertebrae_L5", "vertebrae_S1", "spleen"):
            save(tmp_path / "ts" / "s0327" / "segmentations" / f"{name}.nii.gz", line_of(0, 1))
        cases = find_cases(tmp_path)
        assert list(cases) == ["GL003", "s0327", "sub-verse004"]
        assert (cases["sub-verse004"].mask, cases["sub-verse004"].centers) == (mask, centers)
        assert cases["sub-verse004"].image.name == "sub-verse004_ct.nii.gz"
        assert cases["GL003"].mask == flat, "the image itself is not the mask"
        assert cases["s0327"].mask == tmp_path / "ts" / "s0327" / "segmentations"

    def test_our_outputs_and_phantoms(self, tmp_path):
        for name in ("a_landmarks.json", "a_landmarks.csv", "a_preview.png"):
            (tmp_path / name).write_text("{}")
        for folder, name in (("landmarks", "b.csv"), ("parameters", "b.json")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / name).write_text("{}")
        cases = find_cases(tmp_path)
        assert cases["a"].centers.name == "a_landmarks.json"
        assert cases["a"].preview.name == "a_preview.png"
        assert (cases["b"].centers.name, cases["b"].parameters.name) == ("b.csv", "b.json")

    def test_two_files_for_one_place(self, tmp_path):
        save(tmp_path / "x" / "a_seg.nii.gz", line_of(0, 1))
        save(tmp_path / "y" / "a_seg.nii.gz", line_of(0, 1))
        with pytest.raises(InputError, match="are both the mask of the scan 'a'"):
            find_cases(tmp_path)

    def test_nothing(self, tmp_path):
        with pytest.raises(InputError, match="no such folder"):
            find_cases(tmp_path / "none")
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(InputError, match="no vertebra mask"):
            find_cases(tmp_path)


def test_the_grid_of_the_tests_is_oblique():
    axes = affine_of("LIP", (1.3, 1.7, 2.1), (9, 9, 9), oblique=True)[:3, :3]
    assert (np.abs(axes) > 0.05).all()
