"""Training as a whole: it learns, it goes on after a kill, it says in a sentence why it cannot."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ball_spine import write_dataset
from conftest import BUNDLES, STAGES
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from pipeline.cli import main
from pipeline.handlers import newest_checkpoint
from pipeline.landmarks import read_csv, write_csv
from pipeline.networks import UNet3D
from pipeline.training import parse_overrides, stage_names, train
from pipeline.training_memory import training_bytes

CPU = torch.device("cpu")
NARROW = {"features": [2, 2, 4, 4]}
PARTS = {"spine_loc": NARROW, "vert_loc": {"num_filters": 2, "spatial_filters": 2}, "vert_seg": NARROW}
SMALL = {"spine_loc": {"window": [24, 24, 56], "elastic_mm": 8.0, "features": [2, 2, 4, 4]}}
QUIET = {"use_tensorboard": False, "show_progress": False, "num_workers": 0, "device": CPU}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    spines = {"a": ("T11", "T12", "L1"), "b": ("L1", "L2", "L3"), "c": ("T12", "L1", "L2")}
    return write_dataset(tmp_path_factory.mktemp("data"), spines, val=("c",), axcodes="LPS", spacing_mm=(4, 4.5, 5))


# --- memory


def test_memory_grows_with_voxels_and_windows():
    network, loss = UNet3D(1, 1, (4, 8, 8, 8)), torch.nn.MSELoss()
    one, two, large = (
        training_bytes(network, loss, 1, window, count, mixed_precision=False)
        for window, count in (((32, 32, 32), 1), ((32, 32, 32), 2), ((64, 32, 64), 1))
    )
    assert large - one == pytest.approx(3 * (two - one), rel=0.01)
    weights = 20 * sum(parameter.numel() for parameter in network.parameters())
    # At the finest level alone: the outputs of two convolutions and two norms (the ReLU is in place) on either side,
    # and the 12 concatenated channels: at least 28 float32 per voxel.
    assert two - one > 28 * 4 * 32**3
    assert one > weights


def test_counting_memory_leaves_the_network_alone():
    network = UNet3D(1, 1, (2, 2, 2, 2)).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    training_bytes(network, torch.nn.MSELoss(), 1, (32, 32, 32), 1)
    assert not network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# --- one workflow, killed and resumed


def workflow_of(dataset: Path, output: Path, epochs: int, **more) -> ConfigWorkflow:
    bundle = BUNDLES / "spine_loc"
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "train.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(bundle),
        **{"dataset_dir": str(dataset), "output_dir": str(output), "epochs": epochs},
        **{**QUIET, **SMALL["spine_loc"], "learning_rate": 0.01, **more},
    )
    workflow.initialize()
    return workflow


def weights(workflow: ConfigWorkflow) -> dict[str, torch.Tensor]:
    ema = workflow.parser.get_parsed_content("ema").ema_model.state_dict()
    own = workflow.parser.get_parsed_content("network").state_dict()
    return {**own, **{f"ema.{key}": value for key, value in ema.items()}}


class Killed(BaseException):
    pass


def test_a_run_that_was_stopped_ends_as_if_it_had_not(dataset, tmp_path):
    """Stopped in the second step of the third of four epochs, by what no handler catches."""
    whole = workflow_of(dataset, tmp_path / "whole", 4)
    whole.run()

    stopped = workflow_of(dataset, tmp_path / "stopped", 4)
    trainer = stopped.parser.get_parsed_content("train::trainer")

    def kill():
        raise Killed

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), kill)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - Ignite may wrap it
        stopped.run()
    assert newest_checkpoint(str(tmp_path / "stopped")).endswith("resume_checkpoint_2.pt")

    resumed = workflow_of(dataset, tmp_path / "stopped", 4, resume=True, seed=42)
    resumed.run()
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    for item in ("best", "early_stop", "lr_scheduler"):
        first, second = (w.parser.get_parsed_content(item).state_dict() for w in (whole, resumed))
        assert dict(first) == dict(second)
    assert sorted(p.name for p in (tmp_path / "stopped").glob("*.pt")) == sorted(
        p.name for p in (tmp_path / "whole").glob("*.pt")
    )


def test_training_stops_early(dataset, tmp_path):
    workflow = workflow_of(dataset, tmp_path, 9, patience=2, learning_rate=1e-9)
    workflow.run()
    assert workflow.parser.get_parsed_content("train::trainer").state.epoch == 3  # the first is the best


def test_no_more_workers_than_cores(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    workflow = workflow_of(dataset, tmp_path, 1, num_workers=4)
    loaders = [workflow.parser.get_parsed_content(f"{part}::dataloader") for part in ("train", "validate")]
    assert [loader.num_workers for loader in loaders] == [1, 1]


def test_tensorboard_gets_scalars_and_pictures(dataset, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    workflow_of(dataset, tmp_path, 1, use_tensorboard=True).run()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"loss", "val_center_error_mm"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["output_CHW"]
    assert (tmp_path / "validation" / "val_center_error_mm_raw.csv").read_text().startswith("filename,class0,mean\nc,")


def test_without_tensorboard_the_rest_runs(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    workflow = workflow_of(dataset, tmp_path, 1)
    assert workflow.parser.get_parsed_content("use_tensorboard") is False


# --- from Python and from the command line


def test_train_from_python(dataset, tmp_path):
    """The example of docs/training.md."""
    said = []
    best = train(
        *(dataset, tmp_path, "spine_loc"),
        **{"checkpoint": None, "announce": said.append, "epochs": 1, **QUIET, **SMALL["spine_loc"]},
    )
    assert best == {"spine_loc": tmp_path / "spine_loc" / "model.pt"}
    assert best["spine_loc"].is_file()
    assert said[0] == f"spine_loc: 2 scans to train on and 1 to validate, listed in {dataset}"
    assert said[1].startswith("spine_loc: 2 windows of 24 x 24 x 56 voxels a step need about 0.0 GB")
    assert said[1].endswith("starting from random weights")
    with pytest.raises(ValueError, match=r"resume_checkpoint_1\.pt is of an earlier training"):
        train(dataset, tmp_path, 1, checkpoint=None)


def test_shipped_weights_are_the_start(dataset, tmp_path):
    options = {"epochs": 1, "learning_rate": 1e-12, "windows_per_scan": 1, "window": [32, 32, 64], "elastic_mm": 0.0}
    train(dataset, tmp_path, 1, **options, **QUIET)
    trained = torch.load(tmp_path / "spine_loc" / "model.pt")
    shipped = torch.load(BUNDLES / "spine_loc" / "models" / "model.pt")
    for key in (key for key in trained if key.endswith("weight")):
        torch.testing.assert_close(trained[key], shipped[key].float(), atol=1e-6, rtol=1e-6)


def test_a_fine_tuning_never_ends_worse_than_it_started(dataset, tmp_path, capfd):
    """The weights of the first epoch were the best, even where those that it started from were better."""
    options = {"window": [32, 32, 64], "elastic_mm": 0.0, **QUIET, "show_progress": True}
    train(dataset, tmp_path, 1, epochs=1, learning_rate=0.5, **options)
    trained = torch.load(tmp_path / "spine_loc" / "model.pt")
    shipped = torch.load(BUNDLES / "spine_loc" / "models" / "model.pt")
    assert all(torch.equal(trained[key], value.to(trained[key].dtype)) for key, value in shipped.items())
    before, after = (line for line in capfd.readouterr().err.splitlines() if "val_center_error_mm" in line)
    assert before.startswith("spine_loc: epoch 0 of 1, val_center_error_mm ")
    assert after.startswith("spine_loc: epoch 1 of 1, loss ")
    assert before.rpartition("best ")[2] == after.rpartition("best ")[2]


def test_a_run_from_random_weights_is_resumed_without_saying_so_again(dataset, tmp_path):
    options = {**QUIET, **SMALL["spine_loc"]}
    train(dataset, tmp_path, 1, checkpoint=None, epochs=1, **options)
    train(dataset, tmp_path, 1, resume=True, epochs=2, **options)
    state = tmp_path / "spine_loc" / "resume_checkpoint_2.pt"
    assert state.is_file()
    with pytest.raises(ValueError, match=r"resume_checkpoint_2\.pt: not weights for spine_loc as configured"):
        train(dataset, tmp_path, 1, resume=True, epochs=3, **{**options, "features": [2, 2, 4, 8]})
    state.write_bytes(state.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"resume_checkpoint_2\.pt: not weights for spine_loc as configured"):
        train(dataset, tmp_path, 1, resume=True, epochs=3, **options)


def test_weights_of_another_width_are_named(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"models/model\.pt: not weights for spine_loc as configured"):
        train(dataset, tmp_path, 1, features=[2, 2, 4, 4], **QUIET)


def test_stages_have_names_and_numbers():
    assert stage_names("all") == STAGES
    assert stage_names(2) == stage_names("2") == stage_names("vert_loc") == ("vert_loc",)
    with pytest.raises(ValueError, match="stage 4: expected 1, 2, 3, all"):
        stage_names(4)


def test_values_of_the_command_line():
    assert parse_overrides(["window=[32,32,64]", "scale=0.2", "device=cpu", "train::a::0::b=true"]) == {
        **{"window": [32, 32, 64], "scale": 0.2, "device": "cpu", "train::a::0::b": True}
    }
    with pytest.raises(ValueError, match="'window': expected KEY=VALUE"):
        parse_overrides(["window"])


@pytest.mark.parametrize("name", STAGES)
def test_the_defaults_are_the_specified_ones(name):
    config = json.loads((BUNDLES / name / "configs" / "train.json").read_text())
    stated = {key: config[key] for key in ("epochs", "batch_size", "learning_rate", "num_workers", "seed", "lr_gamma")}
    assert stated == {
        **{"epochs": 100, "batch_size": 1, "learning_rate": 1e-4},
        "num_workers": 4,
        "seed": 42,
        "lr_gamma": 0.99,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--stage", "1", "--set", "windw=3"],
            "'windw' is no key of spine_loc's train.json to be set like this; did you mean window?",
        ),
        (["--stage", "1", "--set", "checkpoint=a"], "'checkpoint=a': this has an option of its own"),
        (
            ["--stage", "2", "--set", "window=[64,80,96]"],
            "window [64, 80, 96]: every side must be a multiple of 32",
        ),
        (["--gpu", "93"], "device 'cuda:93': no such GPU here"),
        (["--stage", "1", "--batch-size", "3"], "has only 2 scans to train spine_loc on"),
        (["--epochs", "0"], "epochs 0: expected at least 1"),
        (["--set", "window=64"], "window 64: expected a value such as [64, 64, 128]"),
        (["--set", "scale=much"], "scale 'much': expected a value such as 0.12"),
        (["--checkpoint", "a.pt"], "--checkpoint a.pt: name the --stage it belongs to"),
        (["--stage", "1", "--checkpoint", "a.pt"], "a.pt: no weights for spine_loc"),
        (["--data-dir", "nowhere"], "nowhere/train.txt: not found"),
    ],
)
def test_bad_arguments_are_a_sentence(dataset, tmp_path, capsys, arguments, message):
    assert main(["train", "--data-dir", str(dataset), "--output-dir", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_corrupt_file_ends_a_small_training_with_a_sentence(dataset, tmp_path):
    broken = write_dataset(
        tmp_path / "data", {"a": ("L1", "L2"), "b": ("L1", "L2"), "c": ("L1",)}, val=("c",), spacing_mm=(4, 4, 4)
    )
    path = broken / "images" / "b.nii.gz"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"spine_loc: 1 of 2 scans cannot be read; the last was b: .*b\.nii\.gz"):
        train(broken, tmp_path / "out", 1, checkpoint=None, epochs=1, **QUIET, **SMALL["spine_loc"])


def test_too_many_corrupt_files_in_the_middle_of_an_epoch(tmp_path, capfd):
    """Read by another process, each time anew. The sentence came after two tracebacks of that process."""
    names = [f"s{i:02}" for i in range(22)]
    broken = write_dataset(tmp_path / "data", dict.fromkeys(names, ("L1", "L2")), val=("s21",), spacing_mm=(6, 6, 6))
    for name in ("s05", "s06"):
        path = broken / "images" / f"{name}.nii.gz"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    settings = ["window=[16,16,16]", "features=[2,2,4,4]", "elastic_mm=0", "cache_rate=0", "show_progress=false"]
    arguments = ["--data-dir", str(broken), "--output-dir", str(tmp_path / "out"), "--stage", "1", "--epochs", "1"]
    assert (
        main(["train", *arguments, "--from-scratch", "--num-workers", "1", "--set", *settings, "use_tensorboard=false"])
        == 2
    )
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("vertebrae: spine_loc: 2 of 21 scans cannot be read; the last was s0")


@pytest.mark.parametrize("name", STAGES)
def test_landmarks_in_another_frame_are_not_trained_on(name, dataset, tmp_path):
    """In a data folder that nobody prepared: LPS for RAS."""
    wrong = shutil.copytree(dataset, tmp_path / "data")
    write_csv(wrong / "landmarks" / "a.csv", read_csv(wrong / "landmarks" / "a.csv") * [-1, -1, 1])
    small = {"window": [32, 32, 32], "elastic_mm": 0.0, **(PARTS[name])}
    with pytest.raises(
        ValueError, match=f"{name}: 1 of 2 scans cannot be read; the last was a: .* as LPS mm they would"
    ):
        train(wrong, tmp_path / "out", name, checkpoint=None, epochs=1, **small, **QUIET)


class Greedy(torch.nn.Module):
    """A loss that runs out of memory at two windows, which counting memory never takes."""

    def forward(self, prediction, target):
        if len(prediction) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return prediction.mean()


def test_out_of_memory_is_a_sentence(dataset, tmp_path):
    options = {"loss": {"_target_": "test_training.Greedy"}, "epochs": 1, **QUIET, **SMALL["spine_loc"]}
    with pytest.raises(
        ValueError, match=r"spine_loc: out of memory \(2 windows of 24 x 24 x 56 .*make window, windows"
    ):
        train(dataset, tmp_path, 1, checkpoint=None, **options)


# --- slow: it learns, it survives kill -9, two processes agree

LEARN = {
    "spine_loc": {"window": [16, 16, 32], "features": [8, 16, 16, 16], "epochs": 200},
    "vert_loc": {"window": [64, 64, 96], "num_filters": 4, "spatial_filters": 8, "epochs": 150},
    "vert_seg": {
        "window": [32, 32, 48],
        "val_window": [48, 48, 64],
        "features": [8, 16, 16, 16],
        "epochs": 400,
        "lr_gamma": 0.996,
        "spacing_mm": 2.0,
    },
}


def without_augmentation(name: str) -> dict:
    """Every window is the same but for its place."""
    config = json.loads((BUNDLES / name / "configs" / "train.json").read_text())
    chances = {
        f"train::random_transforms::{i}::prob": 0.0
        for i, transform in enumerate(config["train"]["random_transforms"])
        if "prob" in transform
    }
    still = dict.fromkeys(("rotate_deg", "scale", "flip", "elastic_mm", "thick_slices_mm"), 0.0)
    if name == "vert_seg":
        still |= {"landmark_jitter_mm": 0.0, "landmark_drop": 0.0}
    return still | chances | {"jitter_mm": [4, 4, 4]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "good"),
    [("spine_loc", "val_center_error_mm", 2.0), ("vert_loc", "val_id_rate", 1.0), ("vert_seg", "val_mean_dice", 0.95)],
)
def test_each_stage_overfits_one_scan(name, metric, good, tmp_path):
    """The loss, above what the truth itself would score, falls to a twentieth; the whole scan comes out right.

    Of stage one that is the middle of its box, of stage two every landmark, within 2 mm.
    """
    data = write_dataset(
        tmp_path / "data", {"a": ("T12", "L1", "L2"), "b": ("T12", "L1", "L2")}, val=("b",), spacing_mm=(2, 2, 2)
    )
    options = {
        **LEARN[name],
        **without_augmentation(name),
        **QUIET,
        "learning_rate": 0.01,
        "val_interval": LEARN[name]["epochs"],
    }
    workflow = ConfigWorkflow(
        str(BUNDLES / name / "configs" / "train.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLES / name),
        **{"dataset_dir": str(data), "output_dir": str(tmp_path / "out"), **options},
    )
    workflow.initialize()
    trainer, loss = (workflow.parser.get_parsed_content(key) for key in ("train::trainer", "loss"))
    excess = []

    def note():
        output = trainer.state.output[0]
        truth = output["label"][None]
        perfect = (
            truth.nan_to_num()
            if name != "vert_seg"
            else 50.0 * torch.nn.functional.one_hot(truth[:, 0] % 255, 26).movedim(-1, 1)
        )
        excess.append(float(output["loss"]) - float(loss(perfect, truth)))

    def note_landmarks(evaluator):
        (output,) = evaluator.state.output
        if name == "vert_loc":
            errors_mm.extend(torch.linalg.norm(output["labelling"] - output["truth"], dim=1).tolist())

    errors_mm: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    workflow.evaluator.add_event_handler(Events.ITERATION_COMPLETED, note_landmarks)
    workflow.run()
    print(name, excess[0], np.median(excess[-10:]), workflow.evaluator.state.metrics, errors_mm)
    assert np.median(excess[-10:]) < excess[0] / 20
    value = workflow.evaluator.state.metrics[metric]
    assert value <= good if name == "spine_loc" else value >= good
    if name == "vert_loc":
        assert np.isfinite(errors_mm).sum() == 3
        assert np.nanmax(errors_mm) < 2.0


KILLED = """
import os, signal, sys, torch
from ignite.engine import Events
sys.path.insert(0, {tests!r})
from test_training import workflow_of
workflow = workflow_of({data!r}, {output!r}, 3, resume={resume})
trainer = workflow.parser.get_parsed_content("train::trainer")
if {step}:
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once={step}), kill)
workflow.run()
"""


def in_its_own_process(data: Path, output: Path, *, step: int = 0, resume: bool = False) -> int:
    script = KILLED.format(
        tests=str(Path(__file__).parent), data=str(data), output=str(output), step=step, resume=resume
    )
    environment = {**os.environ, "PYTHONPATH": str(BUNDLES.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", script], env=environment, timeout=600, check=False).returncode


@pytest.mark.slow
def test_kill_9_in_the_middle_of_an_epoch(dataset, tmp_path):
    """Killed after three of six steps; the weights are those of the run that was left alone, bit by bit."""
    assert in_its_own_process(dataset, tmp_path / "killed", step=3) == -signal.SIGKILL
    assert in_its_own_process(dataset, tmp_path / "killed", resume=True) == 0
    assert in_its_own_process(dataset, tmp_path / "whole") == 0
    killed, whole = (torch.load(tmp_path / name / "resume_checkpoint_3.pt") for name in ("killed", "whole"))
    for part in ("network", "ema"):
        assert all(torch.equal(value, whole[part][key]) for key, value in killed[part].items())
    moments = zip(killed["optimizer"]["state"].values(), whole["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(first["exp_avg"], second["exp_avg"]) for first, second in moments)


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(tmp_path):
    spines = {"a": ("T11", "T12"), "b": ("L1", "L2"), "c": ("T12", "L1"), "d": ("L2", "L3")}
    data = write_dataset(tmp_path / "data", spines, val=("c", "d"), spacing_mm=(4, 4, 4))
    configs = BUNDLES / "spine_loc" / "configs"
    save = "$torch.save(@network.state_dict(), @output_dir + '/rank' + str(dist.get_rank()) + '.pt')"
    end = json.dumps([save, "$dist.destroy_process_group()"])
    command = [
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            "-m",
            "monai.bundle",
            "run",
        ),
        *("--config_file", f"['{configs / 'train.json'}','{configs / 'multi_gpu_train.json'}']"),
        *(
            "--bundle_root",
            str(BUNDLES / "spine_loc"),
            "--dataset_dir",
            str(data),
            "--output_dir",
            str(tmp_path / "out"),
        ),
        *(
            "--epochs",
            "2",
            "--num_workers",
            "0",
            "--window",
            "[24,24,56]",
            "--features",
            "[2,2,4,4]",
            "--elastic_mm",
            "8.0",
        ),
        *("--learning_rate", "0.01", "--use_tensorboard", "false", "--finalize", end),
    ]
    environment = {**os.environ, "PYTHONPATH": str(BUNDLES.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / "out" / f"rank{rank}.pt") for rank in (0, 1))
    learned = [key for key in first if not key.rpartition(".")[2].startswith(("running", "num_batches"))]
    assert all(torch.equal(first[key], second[key]) for key in learned)
    best = torch.load(tmp_path / "out" / "model.pt")
    assert {f"module.{key}" for key in best} == set(first)
