"""The three bundles: each trains, is evaluated and runs alone, from any directory, and tells the truth of itself."""

import csv
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ball_spine import ball_spine, save_scan, write_dataset
from conftest import BUNDLES, STAGES
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow, verify_net_in_out

from pipeline.labels import NAMES, NUM_CHANNELS, NUM_ROWS
from pipeline.landmarks import present_rows, read_landmarks, write_csv
from pipeline.networks import UNet3D
from pipeline.stage import Stage, load_weights

CPU = torch.device("cpu")
METRICS = {"spine_loc": "val_center_error_mm", "vert_loc": "val_id_rate", "vert_seg": "val_mean_dice"}
# Networks and windows so small that a workflow takes a second.
WIDTH = {
    "spine_loc": {"features": [2, 2, 4, 4]},
    "vert_loc": {"num_filters": 2, "spatial_filters": 2},
    "vert_seg": {"features": [2, 2, 4, 4]},
}
# Large enough for every jittered window to show a vertebra; small ones take less bending.
WINDOW: dict[str, dict] = {
    "spine_loc": {"window": [24, 24, 56], "elastic_mm": 10.0},
    "vert_loc": {"window": [96, 64, 96]},
    "vert_seg": {"window": [40, 64, 56], "elastic_mm": 3.0, "val_window": [40, 64, 56]},
}
REQUIRED_METADATA = (
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task"),
    *("description", "authors", "copyright", "network_data_format", "name", "changelog", "intended_use"),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    spines = {"a": ("T11", "T12", "L1"), "b": ("L1", "L2", "L3"), "c": ("T12", "L1", "L2")}
    return write_dataset(
        tmp_path_factory.mktemp("data"), spines, val=("c",), axcodes="LPS", oblique=True, spacing_mm=(2.9, 3.3, 3.9)
    )


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Return an empty directory, made the current one."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def copied(tmp_path, checkpoints):
    """Return a function that copies a bundle to a folder of its own and puts random weights into it."""

    def copy(name: str) -> Path:
        bundle = shutil.copytree(BUNDLES / name, tmp_path / "somewhere" / name)
        shutil.copy(checkpoints[name], bundle / "models" / "model.pt")
        return bundle

    return copy


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(), object_pairs_hook=without_duplicates)


def without_duplicates(pairs: list) -> dict:
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"a key appears twice in {keys}"
    return dict(pairs)


def strings(document, key: str = ""):
    """Yield (key, text) for every string of a JSON document."""
    if isinstance(document, str):
        yield key, document
    elif isinstance(document, dict):
        for name, value in document.items():
            yield from strings(value, name)
    elif isinstance(document, list):
        for value in document:
            yield from strings(value, key)


def run(bundle: Path, *files: str, **overrides) -> ConfigWorkflow:
    """Run a workflow as `python -m monai.bundle run` does, after checking its properties."""
    kind = "infer" if files == ("inference",) else "train"
    workflow = ConfigWorkflow(
        [str(bundle / "configs" / f"{file}.json") for file in files],
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle),
        device=CPU,
        **overrides,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.mark.parametrize("name", STAGES)
def test_training_starts_from_a_checkpoint_and_changes_it(name, dataset, elsewhere):
    network = {**WIDTH[name], **WINDOW[name], "use_tensorboard": False, "show_progress": False}
    config = ConfigParser.load_config_file(str(BUNDLES / name / "configs" / "train.json"))
    torch.manual_seed(7)
    start = ConfigParser({**config, **network}).get_parsed_content("network_def").state_dict()
    torch.save(start, "start.pt")
    run(
        *(BUNDLES / name, "train"),
        **{"dataset_dir": str(dataset), "output_dir": "trained", "checkpoint": "start.pt", "learning_rate": 0.01},
        **{"epochs": 1, "num_workers": 0, **network},
    )
    written = sorted(path.name for path in Path("trained").iterdir())
    assert written == ["model.pt", "resume_checkpoint_1.pt", "validation"]
    trained = torch.load("trained/model.pt")
    assert trained.keys() == start.keys()
    changes = [(trained[key] - start[key]).abs().max().item() for key in start if key.endswith("weight")]
    assert 0 < max(changes) < 0.05  # four steps of 0.01; new random weights would differ by more


@pytest.mark.parametrize("name", STAGES)
def test_evaluation_writes_the_metric_of_every_scan(name, dataset, elsewhere, copied):
    bundle, metric = copied(name), METRICS[name]
    workflow = run(bundle, "train", "evaluate", dataset_dir=str(dataset), num_workers=0, **WINDOW[name])
    value = workflow.evaluator.state.metrics[metric]
    assert 0 <= value <= (1 if name != "spine_loc" else 200)
    assert (bundle / "eval" / "metrics.csv").read_text() == f"{metric},{value}\n"
    with open(bundle / "eval" / f"{metric}_raw.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["filename"] for line in lines] == ["c"]  # the one scan in val.txt
    columns = 1 if name == "spine_loc" else NUM_ROWS
    assert list(lines[0]) == ["filename", *(f"class{i}" for i in range(columns)), "mean"]
    if name != "spine_loc":  # a number where the scan shows a vertebra, and nowhere else
        numbers = {f"class{i}" for i in range(NUM_ROWS) if lines[0][f"class{i}"] != "nan"}
        assert numbers == {f"class{NAMES.index(vertebra)}" for vertebra in ("T12", "L1", "L2")}
    assert list(elsewhere.iterdir()) == []


def oracle(name: str, folder: Path) -> dict:
    """Return the overrides that put an oracle in the place of a bundle's network, with its (no) weights."""
    torch.save({}, folder / "nothing.pt")
    target = {"spine_loc": "SpineOracle", "vert_loc": "LandmarkOracle", "vert_seg": "MaskOracle"}[name]
    return {"network_def": {"_target_": f"oracles.{target}"}, "checkpoint": str(folder / "nothing.pt")}


def test_inference_hands_over_files_and_agrees_with_the_pipeline(elsewhere, oracle_pipeline, monkeypatch):
    names, scans = ("L2", "L3"), {}
    for name, axcodes in (("case_1", "PIR"), ("case_2", "LPS")):
        scans[name], _, landmarks_mm = ball_spine(names, axcodes, oblique=True, spacing_mm=(2.0, 2.6, 3.1))
        save_scan(Path("in") / f"{name}.nii.gz", scans[name])

    run(BUNDLES / "spine_loc", "inference", image="in", output_dir="boxes", **oracle("spine_loc", elsewhere))
    box = json.loads(Path("boxes/case_1_spine_box.json").read_text())
    assert (box["space"], box["units"], box["found"]) == ("RAS", "mm", True)
    present = landmarks_mm[present_rows(landmarks_mm)]
    assert (box["low_mm"] < present).all()
    assert (present < box["high_mm"]).all()

    vert_loc, first = oracle("vert_loc", elsewhere), "in/case_1.nii.gz"
    run(BUNDLES / "vert_loc", "inference", image=first, output_dir="marks", spine_box="boxes", **vert_loc)
    run(BUNDLES / "vert_loc", "inference", image="in", output_dir="marks_2", **vert_loc)
    for file in ("marks/case_1_landmarks.json", "marks/case_1_landmarks.csv", "marks_2/case_2_landmarks.csv"):
        assert np.nanmax(np.linalg.norm(read_landmarks(Path(file)) - landmarks_mm, axis=1)) < 3

    window = (64, 72, 64)  # enough for a ball
    vert_seg = {"landmarks": "marks", "window": list(window), **oracle("vert_seg", elsewhere)}
    run(BUNDLES / "vert_seg", "inference", image=first, output_dir="masks", **vert_seg)
    written = nib.load("masks/case_1_segmentation.nii.gz")
    np.testing.assert_array_equal(written.affine, nib.load(first).affine)
    monkeypatch.setattr(oracle_pipeline.vert_seg.inferer, "window", window)
    expected = oracle_pipeline(Path(first)).labels
    assert (np.asarray(written.dataobj) != expected).mean() < 1e-4  # the landmark file has two decimals


@pytest.mark.parametrize("name", STAGES)
def test_inference_runs_from_the_bundle_s_own_folder(name, copied, tmp_path, monkeypatch):
    scan, _, landmarks_mm = ball_spine(("L3",), "LAS", spacing_mm=(3.0, 4.0, 2.5), size_mm=(80, 70))
    image = save_scan(tmp_path / "in" / "one.nii.gz", scan)
    write_csv(tmp_path / "one.csv", landmarks_mm)
    monkeypatch.chdir(copied(name))
    prior = {"vert_seg": {"landmarks": str(tmp_path / "one.csv"), "window": [40, 64, 56]}}.get(name, {})
    workflow = ConfigWorkflow(
        "configs/inference.json", logging_file=False, workflow_type="infer", device=CPU, image=str(image), **prior
    )
    workflow.initialize()
    workflow.run()
    written = {
        "spine_loc": {"one_spine_box.json"},
        "vert_loc": {"one_landmarks.json", "one_landmarks.csv"},
        "vert_seg": {"one_segmentation.nii.gz"},
    }
    assert {path.name for path in Path("eval").iterdir()} == written[name]


def test_a_scan_without_its_prior_is_named(elsewhere):
    scan, _, _ = ball_spine(("L3",), spacing_mm=(3.0, 4.0, 2.5), size_mm=(80, 70))
    save_scan(Path("in/one.nii.gz"), scan)
    Path("empty").mkdir()
    with pytest.raises(Exception, match="instantiate") as raised:
        run(BUNDLES / "vert_seg", "inference", image="in", landmarks="empty", output_dir="out")
    assert "empty/one_landmarks.json: not found" in str(raised.value.__cause__)


def test_all_three_load_in_one_process(copied, elsewhere):
    stages = [Stage(copied(name), CPU) for name in reversed(STAGES)]
    assert [stage.name for stage in stages] == ["vert_seg", "vert_loc", "spine_loc"]
    assert all(not stage.network.training for stage in stages)


@pytest.mark.parametrize("name", STAGES)
def test_shipped_weights_load(name):
    parser = ConfigParser()
    parser.read_config(BUNDLES / name / "configs" / "inference.json")
    load_weights(parser.get_parsed_content("network_def"), BUNDLES / name / "models" / "model.pt", name)


@pytest.mark.parametrize("name", STAGES)
def test_the_network_is_what_metadata_says(name):
    configs = BUNDLES / name / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out("network_def", device="cpu", **files)

    data = read_json(configs / "metadata.json")["network_data_format"]
    source, result = data["inputs"]["image"], data["outputs"]["pred"]
    network = ConfigParser.load_config_file(files["config_file"])
    network = ConfigParser({**network, **WIDTH[name]}).get_parsed_content("network_def").eval()
    for n in (1, 2):
        shape, expected = ([int(term.removesuffix("*n")) * n for term in x["spatial_shape"]] for x in (source, result))
        shape[2], expected[2] = 2 * shape[2], 2 * expected[2]
        with torch.inference_mode():
            output = network(torch.rand(1, source["num_channels"], *shape))
        assert output.shape == (1, result["num_channels"], *expected)
        low, high = result["value_range"] or (-np.inf, np.inf)
        assert low <= output.min() <= output.max() <= high


@pytest.mark.parametrize("name", STAGES)
def test_metadata_is_complete(name):
    metadata = read_json(BUNDLES / name / "configs" / "metadata.json")
    assert set(REQUIRED_METADATA) <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    for tensor in (metadata["network_data_format"][side] for side in ("inputs", "outputs")):
        for key, definition in tensor.items():
            assert {"type", "format", "dtype", "value_range", "spatial_shape"} <= set(definition)
            # Of a label map, MONAI Label wants the values described, not its one channel.
            count = definition["value_range"][1] + 1 if key == "label_map" else definition["num_channels"]
            assert list(definition["channel_def"]) == [str(i) for i in range(count)]


@pytest.mark.parametrize("name", ["vert_loc", "vert_seg"])
def test_channels_are_the_label_table(name):
    data = read_json(BUNDLES / name / "configs" / "metadata.json")["network_data_format"]
    channels = list(data["outputs"]["pred"]["channel_def"].values())
    assert channels[-NUM_CHANNELS:] == list(NAMES[:NUM_CHANNELS])
    assert channels[:-NUM_CHANNELS] == {"vert_loc": [], "vert_seg": ["background"]}[name]
    if name == "vert_seg":
        inputs = list(data["inputs"]["image"]["channel_def"].values())
        assert inputs == ["image", *(f"nearness of {vertebra}" for vertebra in NAMES[:NUM_CHANNELS])]


@pytest.mark.parametrize("name", STAGES)
def test_training_and_inference_state_the_same_facts(name):
    train, inference = (read_json(BUNDLES / name / "configs" / f"{file}.json") for file in ("train", "inference"))
    paths = {"dataset_dir", "output_dir", "checkpoint", "initialize", "run"}
    larger = {"window"}  # the windows of inference may be larger
    shared = set(train) & set(inference) - paths - larger
    assert {"spacing_mm", "hu_window", "network_def", "network", "device", "bundle_root"} <= shared
    assert {key: train[key] for key in shared} == {key: inference[key] for key in shared}
    transforms = [*train["train"]["random_transforms"], *inference["preprocessing"]["transforms"]]
    scaling = [x for x in transforms if x["_target_"] == "ScaleIntensityRanged"]
    assert len(scaling) == 2
    assert scaling[0] == scaling[1]
    for component, key in (("HeatmapTargetd", "stride"), ("DistanceChannelsd", "reach_mm")):
        for x in transforms:
            assert not x["_target_"].endswith(component) or x.get(key, f"@{key}") == f"@{key}"


@pytest.mark.parametrize("name", STAGES)
def test_configs_are_tidy(name):
    for path in sorted((BUNDLES / name / "configs").glob("*.json")):
        for key, text in strings(read_json(path)):
            assert not text.startswith(("/", "~", "..")), f"{path.name}: {key} {text}"
            assert "../" not in text, f"{path.name}: {key} {text}"
            assert "#" not in text, f"{path.name}: {key} {text}"  # MONAI rewrites it to "::"
            if key == "_target_":
                assert exists(text), f"{path.name}: {text}"


@cache
def locator() -> ComponentLocator:
    return ComponentLocator()


def exists(target: str) -> bool:
    if "." not in target:
        return locator().get_component_module_name(target) is not None
    module, _, attribute = target.rpartition(".")
    return find_spec(module) is not None and hasattr(__import__(module, fromlist=[attribute]), attribute)


@pytest.mark.parametrize("name", STAGES)
def test_the_model_card_explains_every_key(name):
    card = (BUNDLES / name / "docs" / "README.md").read_text()
    for file in ("train", "inference"):
        missing = [key for key in read_json(BUNDLES / name / "configs" / f"{file}.json") if f"`{key}`" not in card]
        assert missing == []
    assert METRICS[name] in card


@pytest.mark.parametrize("name", STAGES)
def test_the_metric_saved_is_the_metric_computed(name):
    train, evaluate = (read_json(BUNDLES / name / "configs" / f"{file}.json") for file in ("train", "evaluate"))
    (saver,) = (x for x in evaluate["validate::handlers"] if x["_target_"] == "MetricsSaver")
    assert saver["metrics"] == saver["metric_details"] == list(train["validate"]["key_metric"]) == [METRICS[name]]


PLAIN = {"network_def::_target_": "pipeline.networks.UNet3D"}


# By hand: two convolutions a -> b -> b have 27 b (a + b) weights and 4 b of their norms; the output a -> b has a b + b.
@pytest.mark.parametrize(
    ("name", "override", "parameters"),
    [
        ("spine_loc", {}, 365_537),
        ("spine_loc", {"features": [64, 128, 256, 512]}, 23_342_337),
        ("vert_loc", {}, 7_427_499),
        ("vert_loc", {"num_filters": 64}, 46_831_195),
        ("vert_seg", {}, 1_461_602),
        ("vert_seg", {"features": [64, 128, 256, 512]}, 23_347_586),
        ("vert_seg", {"features": [64, 128, 256, 512], **PLAIN}, 23_387_162),
    ],
)
def test_shipped_widths_and_the_specified_ones_by_one_value(name, override, parameters):
    for file in ("train", "inference"):
        config = ConfigParser.load_config_file(str(BUNDLES / name / "configs" / f"{file}.json"))
        with torch.device("meta"):
            parser = ConfigParser(config)
            parser.update(override)
            network = parser.get_parsed_content("network_def")
        assert sum(parameter.numel() for parameter in network.parameters()) == parameters
        unets = [module for module in network.modules() if isinstance(module, UNet3D)] if override else []
        for unet in unets:
            assert [encoder[0].out_channels for encoder in unet.encoders] == [64, 128, 256, 512]


def command(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(BUNDLES.parent), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_command_line_train_then_evaluate(dataset, elsewhere):
    configs = BUNDLES / "vert_loc" / "configs"
    common = ["--dataset_dir", str(dataset), "--num_workers", "0", "--window", "[96,64,96]", "--num_filters", "2"]
    once = ["--epochs", "1", "--output_dir", "out"]
    command("--config_file", str(configs / "train.json"), *common, *once, cwd=elsewhere)
    files = f"['{configs / 'train.json'}','{configs / 'evaluate.json'}']"
    checkpoint = ["--checkpoint", "out/model.pt", "--output_dir", "eval"]
    nested = ["--validate::handlers::2::save_dir", "eval/deep"]
    printed = command("--config_file", files, *common, *checkpoint, *nested, cwd=elsewhere)
    assert "val_id_rate" in printed
    assert (elsewhere / "eval" / "deep" / "val_id_rate_raw.csv").is_file()


@pytest.mark.slow
def test_command_line_inference(copied, elsewhere):
    bundle = copied("spine_loc")
    scan, _, _ = ball_spine(("L3",), spacing_mm=(3.0, 4.0, 2.5), size_mm=(80, 70))
    image = save_scan(elsewhere / "one.nii.gz", scan)
    config = ["--config_file", str(bundle / "configs" / "inference.json"), "--bundle_root", str(bundle)]
    command(*config, "--image", str(image), "--output_dir", "out", cwd=elsewhere)
    assert (elsewhere / "out" / "one_spine_box.json").is_file()
