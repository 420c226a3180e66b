"""A file is there complete or not at all."""

import json

import pytest

from pipeline.files import atomic_path, write_json


def test_file_appears_when_complete(tmp_path):
    path = tmp_path / "a.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")  # writers choose their format by it
        assert temporary.name.startswith(".")  # a search for scans skips it
        temporary.write_text("new")
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_text() == "new"


def write_and_fail(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail(tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "old"


def test_success_replaces_the_old_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.csv"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_write_json(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1.5, None], "a": "x"})
    text = (tmp_path / "a.json").read_text()
    assert text == '{\n  "b": [\n    1.5,\n    null\n  ],\n  "a": "x"\n}\n'
    assert json.loads(text) == {"b": [1.5, None], "a": "x"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": [1.0, value]})
    assert list(tmp_path.iterdir()) == []
