"""Means of weights, worked out by hand."""

import pytest
import torch

from benchmarks.average import average, main


@pytest.fixture
def saved(tmp_path):
    """Two sets of weights: a plain one, and a resume checkpoint whose running average counts."""
    plain = {"weight": torch.tensor([1.0, 4.0]), "steps": torch.tensor(7)}
    resumed = {"weight": torch.tensor([4.0, 1.0]), "steps": torch.tensor(9)}
    paths = [tmp_path / "plain.pt", tmp_path / "resume_checkpoint_8.pt"]
    torch.save(plain, paths[0])
    torch.save({"network": plain, "ema": resumed, "optimizer": {}}, paths[1])
    return paths


def test_a_file_counts_as_often_as_stated(saved):
    mean = average([(saved[0], 1.0), (saved[1], 2.0)])
    assert mean["weight"].tolist() == [3.0, 2.0]  # (1 + 2 * 4) / 3, (4 + 2 * 1) / 3
    assert mean["weight"].dtype == torch.float32
    assert mean["steps"] == 7


def test_only_a_branch_is_averaged(tmp_path):
    for name, value in (("a", 2.0), ("b", 4.0)):
        torch.save({"local.weight": torch.tensor(value), "spatial.weight": torch.tensor(value)}, tmp_path / name)
    mean = average([(tmp_path / "a", 1.0), (tmp_path / "b", 1.0)], "local")
    assert mean == {"local.weight": 3.0, "spatial.weight": 2.0}


def test_the_command_writes_half_precision(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["average", str(tmp_path / "mean.pt"), str(saved[0]), f"{saved[1]}:2"])
    main()
    mean = torch.load(tmp_path / "mean.pt", weights_only=True)
    assert mean["weight"].dtype == torch.float16
    assert mean["weight"].tolist() == [3.0, 2.0]
    assert mean["steps"] == 7


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"weight": torch.zeros(3), "steps": torch.tensor(7)}, "another network"),
        ({"weight": torch.zeros(2)}, "another network"),
        ({"weight": "none"}, "holds other things than weights: weight"),
        (None, "not a checkpoint"),
    ],
)
def test_what_cannot_be_averaged_is_named(saved, tmp_path, monkeypatch, capsys, content, reason):
    other = tmp_path / "other.pt"
    other.write_text("text") if content is None else torch.save(content, other)
    monkeypatch.setattr("sys.argv", ["average", str(tmp_path / "mean.pt"), str(saved[0]), str(other)])
    with pytest.raises(SystemExit):
        main()
    error = capsys.readouterr().err
    assert f"{other}: {reason}" in error
    assert not (tmp_path / "mean.pt").exists()
