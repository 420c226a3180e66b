"""The landmark document: valid by its schema, and enough to decide again."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from test_labelling import between, spine

from pipeline.documents import FORMAT, landmarks_document, read_candidates, read_document
from pipeline.findings import CODES, Finding
from pipeline.labelling import Labelling, solve
from pipeline.labels import NAMES, ROWS_BY_LEVEL
from pipeline.numbering import ANCHORS
from pipeline.spaces import Grid

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "landmarks_schema" / "2.json").read_text())
# Axes i, j, k step 3 mm along +y, 2 mm along -x, 4 mm along +z.
GRID = Grid((50, 60, 200), np.array([[0, -2, 0, 60], [3, 0, 0, -70], [0, 0, 4, -20], [0, 0, 0, 1]], dtype=float))


def document_of(labelling: Labelling, **more) -> dict:
    document = landmarks_document("case", GRID, labelling, **more)
    return json.loads(json.dumps(document, allow_nan=False))


def labellings() -> dict[str, Labelling]:
    odd = [*between("T9", "T12"), "T13", *between("L1", "L6")]
    return {
        "whole": solve(spine(between("C1", "L5"))),
        "doubtful": solve(spine(between("T4", "T9"), blur=2.0)),
        "anomalies": solve(spine(odd, blur=0.4)),
        "pinned": solve(spine(between("T4", "T9")), pins={1: 12}),
        "empty": Labelling(),
    }


@pytest.mark.parametrize("name", labellings())
def test_every_document_fits_the_schema(name):
    labelling = labellings()[name]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document_of(labelling), SCHEMA)
    warnings = [Finding("size", "T4 is large", ("T4",)), *labelling.warnings]
    more = {"versions": {"vert_loc": "0.1.0"}, "seconds": {"vert_loc": 0.3}, "scan_file": "../case.nii.gz"}
    jsonschema.validate(document_of(labelling, warnings=warnings, **more), SCHEMA)


def test_the_schema_states_the_same_names_as_the_code():
    assert SCHEMA["$id"] == SCHEMA["properties"]["format"]["const"] == FORMAT
    assert SCHEMA["properties"]["warnings"]["items"]["properties"]["code"]["enum"] == list(CODES)
    assert sorted(SCHEMA["$defs"]["level"]["enum"]) == sorted(NAMES)
    decided = SCHEMA["properties"]["numbering"]["properties"]["decided_by"]["enum"]
    assert decided == [*ANCHORS, "hand", None]


def test_the_page_lists_every_code():
    page = (Path(__file__).parent.parent / "docs" / "labelling.md").read_text()
    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning} |" in page


@pytest.mark.parametrize("broken", [{"warnings": ["a sentence"]}, {"space": "LPS"}, {"extra": 1}])
def test_the_schema_refuses(broken):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document_of(labellings()["whole"]) | broken, SCHEMA)


@pytest.mark.parametrize("name", ["whole", "doubtful", "anomalies"])
def test_a_document_is_enough_to_decide_again(name):
    labelling = labellings()[name]
    again = solve(read_candidates(document_of(labelling)))
    assert [v.name for v in again.vertebrae] == [v.name for v in labelling.vertebrae]
    assert [v.candidate for v in again.vertebrae] == [v.candidate for v in labelling.vertebrae]
    for one, other in zip(again.vertebrae, labelling.vertebrae, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=0.01)
        assert one.position_mm == pytest.approx(other.position_mm, abs=0.0051)
    assert again.numbering.anchors == labelling.numbering.anchors


def test_runner_up_and_verdicts_are_in_the_document():
    document = document_of(labellings()["doubtful"])
    vertebra = document["vertebrae"][2]
    levels = [NAMES[row] for row in ROWS_BY_LEVEL]
    assert abs(levels.index(vertebra["runner_up"]) - levels.index(vertebra["name"])) == 1
    assert vertebra["runner_up_probability"] > 0.1
    assert {a["anomaly"]: a["verdict"] for a in document["numbering"]["anomalies"]} == dict.fromkeys(
        ["T13", "L6", "no T12"], "cannot tell"
    )
    assert "off_by_one" in [warning["code"] for warning in document["warnings"]]
    assert len(document["alternatives"]) == 3
    assert document["alternatives"][0]["names"] != [v["name"] for v in document["vertebrae"]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "format None"),
        ('{"format": "vertebrae-landmarks/1"}', "older version"),
        ('{"format": "vertebrae-landmarks/3"}', "'vertebrae-landmarks/3'; expected 'vertebrae-landmarks/2'"),
    ],
)
def test_another_document_is_refused(content, reason, tmp_path):
    path = tmp_path / "case_landmarks.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"case_landmarks.json: .*{reason}"):
        read_document(path)


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("found", 0, "position_mm"), [1, 2], "candidates"),
        (("found", 0, "score"), "high", "high"),
        (("found", 0, "evidence"), {"S1": 0.9}, "'S1' is not a vertebra name"),
        (("found", 0), {"score": 0.5}, "'evidence' is missing"),
        (("field_of_view_mm",), [1, 2, 3], "reshape"),
    ],
)
def test_damaged_candidates_are_named(keys, value, reason):
    document = document_of(labellings()["whole"])
    place = document["candidates"]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(ValueError, match=reason):
        read_candidates(document)
