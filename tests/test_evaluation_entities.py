"""Which prediction belongs to which truth, by names as they come."""

import pytest

from pipeline.evaluation.entities import Entities, match, parse, role_of


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("sub-verse004_ct", Entities("verse004")),
        ("sub-verse004_seg-vert_msk", Entities("verse004")),
        ("sub-verse004_seg-subreg_ctd", Entities("verse004")),
        ("sub-verse004_ct_segmentation", Entities("verse004")),
        ("sub-verse401_split-verse253_dir-ax_seg-vert_msk", Entities("verse401", "verse253", "ax")),
        ("sub-verse401_dir-ax_split-verse253_ct", Entities("verse401", "verse253", "ax")),
        ("sub-gl003_ses-2_dir-sag_ct_landmarks", Entities("gl003", series="sag", other=("ses-2",))),
        ("verse004_seg", Entities("verse004")),
        ("verse004_ctd", Entities("verse004")),
        ("verse500_CT-sag_seg", Entities("verse500", series="sag")),
        ("verse500_CT-sag_iso-ctd", Entities("verse500", series="sag")),
        ("verse500_CT-sag-ctd-iso", Entities("verse500", series="sag")),
        ("GL124_CT_ax-iso-ctd", Entities("gl124", series="ax")),
        ("GL003_seg", Entities("gl003")),
        ("phantom_61_0003_segmentation", Entities("phantom_61_0003")),
        ("my_seg_of_monday_seg", Entities("my_seg_of_monday")),
        ("ct", Entities("ct")),
    ],
)
def test_names(stem, expected):
    assert parse(stem) == expected


def test_roles():
    assert role_of("sub-verse004_seg-vert_msk") == "seg-vert_msk"
    assert role_of("GL124_CT_ax-iso-ctd") == "ctd"
    assert role_of("phantom_61_0003") == ""


def matched(predictions: str, truths: str) -> dict[str, str]:
    return match({n: parse(n) for n in predictions.split()}, {n: parse(n) for n in truths.split()})


def test_the_split_is_the_flat_name_of_a_scan():
    truths = "sub-verse401_split-verse253_seg-vert_msk sub-verse401_split-verse260_seg-vert_msk"
    assert matched("verse260_seg verse253", truths) == {
        "sub-verse401_split-verse253_seg-vert_msk": "verse253",
        "sub-verse401_split-verse260_seg-vert_msk": "verse260_seg",
    }


def test_series_of_one_patient_are_kept_apart():
    truths = "sub-verse500_dir-sag_seg-vert_msk sub-verse500_dir-ax_seg-vert_msk"
    assert matched("verse500_CT-ax_seg", truths) == {"sub-verse500_dir-ax_seg-vert_msk": "verse500_CT-ax_seg"}
    assert matched("verse500_CT-iso_seg", truths) == {}, "another series is another scan"


def test_what_is_ambiguous_is_not_matched():
    truths = "sub-verse500_dir-sag_seg-vert_msk sub-verse500_dir-ax_seg-vert_msk"
    assert matched("sub-verse500_ct_segmentation", truths) == {}
    assert matched("sub-verse500_dir-sag_ct sub-verse500_dir-ax_ct", "verse500_seg") == {}


def test_a_missing_entity_does_not_hinder_the_only_candidate():
    assert matched("sub-verse004_segmentation", "sub-verse004_dir-sag_seg-vert_msk verse005_seg") == {
        "sub-verse004_dir-sag_seg-vert_msk": "sub-verse004_segmentation"
    }


def test_names_that_contain_each_other():
    assert matched("verse1_seg verse10_seg verse100_seg", "verse10 verse100 verse1") == {
        "verse1": "verse1_seg",
        "verse10": "verse10_seg",
        "verse100": "verse100_seg",
    }
