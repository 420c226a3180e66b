"""Packed bundles: complete, reproducible, honest about what they need, and independent of this project."""

import hashlib
import importlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from ball_spine import ball_spine, save_scan, write_dataset
from conftest import BUNDLES, STAGES

from pipeline import closure
from pipeline.cli import main
from pipeline.landmarks import write_csv
from pipeline.packing import LARGE, pack

ROOT = BUNDLES.parent
# Networks and windows so small that a workflow takes a second.
SMALL = {
    "spine_loc": {"features": [2, 2, 4, 4], "window": [24, 24, 56], "elastic_mm": 0.0},
    "vert_loc": {"num_filters": 2, "spatial_filters": 2, "window": [96, 64, 96], "elastic_mm": 0.0},
    "vert_seg": {"features": [2, 2, 4, 4], "window": [40, 64, 56], "elastic_mm": 0.0, "val_window": [40, 64, 56]},
}


@pytest.fixture(scope="module")
def zips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dist")
    return {name: pack(BUNDLES / name, folder) for name in STAGES}


@pytest.fixture(scope="module")
def unpacked(zips, tmp_path_factory) -> Path:
    """Return a folder with the three bundles as a recipient has them."""
    folder = tmp_path_factory.mktemp("received")
    for path in zips.values():
        zipfile.ZipFile(path).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    spines = {"a": ("T12", "L1"), "b": ("L1", "L2"), "c": ("T12", "L1")}
    return write_dataset(
        tmp_path_factory.mktemp("data"), spines, val=("c",), axcodes="LPS", oblique=True, spacing_mm=(2.9, 3.3, 3.9)
    )


@pytest.fixture
def copied(tmp_path):
    """Return a function that copies a bundle, to be spoiled."""
    return lambda name: shutil.copytree(BUNDLES / name, tmp_path / name)


@pytest.fixture
def forgetful(monkeypatch):
    """Forget the bundles' packages and their import paths before and after."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def forget():
        for name in [name for name in sys.modules if re.match(r"\w+_code(\.|$)", name)]:
            del sys.modules[name]

    forget()
    yield forget
    forget()


@pytest.mark.parametrize("name", STAGES)
def test_the_zip_is_named_and_checked_as_metadata_and_sums_say(name, zips):
    version = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())["version"]
    assert zips[name].name == f"{name}_v{version}.zip"
    archive = zipfile.ZipFile(zips[name])
    assert archive.testzip() is None
    sums = dict(line.split("  ")[::-1] for line in archive.read(f"{name}/SHA256SUMS").decode().splitlines())
    assert {f"{name}/{file}" for file in sums} == set(archive.namelist()) - {f"{name}/SHA256SUMS"}
    for file, digest in sums.items():
        assert hashlib.sha256(archive.read(f"{name}/{file}")).hexdigest() == digest, file
    assert {"LICENSE", "docs/README.md", "models/model.pt", "configs/logging.conf", "configs/train.json"} <= set(sums)


def test_equal_input_gives_equal_bytes_and_nothing_but_the_bundle(zips, copied, tmp_path):
    bundle = copied("spine_loc")
    for extra in ("runs/model.pt", "data/scan.nii.gz", "models/last.pt", "models/model.pt.plan", "configs/.hidden"):
        (bundle / extra).parent.mkdir(exist_ok=True)
        (bundle / extra).write_text("not for others")
    os.utime(bundle / "LICENSE", (0, 0))
    assert pack(bundle, tmp_path / "dist").read_bytes() == zips["spine_loc"].read_bytes()
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [zips["spine_loc"].name]


@pytest.mark.parametrize("name", STAGES)
def test_configs_change_in_the_names_of_code_alone(name, unpacked):
    for path in sorted((unpacked / name / "configs").glob("*.json")):
        original, text = (BUNDLES / name / "configs" / path.name).read_text(), path.read_text()
        if path.name == "metadata.json":
            assert text == original
            continue
        assert text.count(f"{name}_code.") == text.count('"_requires_": "@code"') == original.count('"pipeline.')
        assert "pipeline." not in text
        text = re.sub(r'\n    "code": \{[^}]*\},', "", text).replace(', "_requires_": "@code"', "")
        assert text.replace(f"{name}_code.", "pipeline.") == original


@pytest.mark.parametrize("name", STAGES)
def test_the_code_is_a_copy_and_needs_none_of_ours(name, unpacked, forgetful, monkeypatch):
    code = unpacked / name / f"{name}_code"
    modules = sorted(code.rglob("*.py"))
    assert {"networks.py", "datalist.py", "spaces.py"} <= {path.name for path in modules}
    assert not {"cli.py", "batch.py", "packing.py", "demo.py"} & {path.name for path in modules}
    monkeypatch.setitem(sys.modules, "pipeline", None)  # importing it now fails
    monkeypatch.syspath_prepend(unpacked / name)
    for path in modules:
        inside = path.relative_to(code).with_suffix("")
        if path != code / "__init__.py":
            assert path.read_bytes() == (ROOT / "pipeline" / path.relative_to(code)).read_bytes()
            importlib.import_module(".".join([code.name, *inside.parts]).removesuffix(".__init__"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that writes modules of a package in the place of ours."""
    folder = tmp_path / "pipeline"

    def write(**modules: str) -> None:
        for name, text in {"__init__": "from . import unused", **modules}.items():
            path = folder / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(closure, "ROOT", folder)
    return write


def test_the_needed_modules_are_those_that_are_imported(package):
    package(
        a="import json\nimport scipy.ndimage\nfrom .b import x\nfrom . import __version__, c",
        b="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .typing_only import T",
        c="def later():\n    from .sub.d import y\n    import torch",
        unused="import a_mistake",
        typing_only="",
        sub__in____init__="from ..e import z",
        sub__in__d="from .. import b\nfrom . import f",
        sub__in__f="",
        e="from .sub import d",
    )
    names = ("a", "b", "c", "e", "sub", "sub.d", "sub.f")
    expected = {f"pipeline.{name}" for name in names}
    assert closure.needed_modules({"pipeline.a"}) == expected
    assert closure.foreign_packages(expected) == {"scipy": "pipeline.a", "torch": "pipeline.c"}
    assert closure.module_of("pipeline.sub.d.Class.method") == "pipeline.sub.d"
    assert closure.module_of("pipeline.sub.Class") == "pipeline.sub"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nimport pipeline.b", r"a\.py:2: names pipeline; a copy of the module needs a relative import"),
        ("from pipeline import b", r"a\.py:1: names pipeline"),
        ("from . import Scan", r"a\.py:1: imports Scan from pipeline itself"),
    ],
)
def test_imports_that_a_copy_cannot_have_are_named(text, message, package):
    package(a=text, b="", unused="")
    with pytest.raises(ValueError, match=message):
        closure.needed_modules({"pipeline.a"})
    with pytest.raises(ValueError, match=r"pipeline\.Scan: not in a module of pipeline"):
        closure.module_of("pipeline.Scan")


def change(path: Path, **values) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **values}))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("metadata", {"version": "0.9.0"}, r"metadata\.json: version is 0\.9\.0, the newest entry of changelog \d"),
        ("metadata", {"version": "1.0", "changelog": {"1.0": ""}}, r"version '1\.0': expected three numbers"),
        ("metadata", {"changelog": {}, "task": ""}, r"metadata\.json: changelog, task missing or empty"),
        ("metadata", {"required_packages_version": {"itk": "5"}}, r"required_packages_version lacks \w+, which pipe"),
        ("train", {"loss": "$pipeline.losses.make()"}, r"train\.json: '\$pipeline.* only a _target_ can"),
        ("train", {"code": 1}, r"train\.json: a key appears twice"),
        ("train", {"loss": {"_target_": "pipeline.absent.Loss"}}, r"pipeline\.absent\.Loss: not in a module"),
    ],
)
def test_an_inconsistent_bundle_is_refused(file, values, message, copied, tmp_path):
    bundle = copied("spine_loc")
    change(bundle / "configs" / f"{file}.json", **values)
    with pytest.raises(ValueError, match=message):
        pack(bundle, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_files_that_are_missing_or_too_large_for_the_zoo_are_named(copied, tmp_path):
    bundle = copied("spine_loc")
    weights = bundle / "models" / "model.pt"
    weights.write_bytes(bytes(LARGE + 1))
    with pytest.raises(ValueError, match=r"model\.pt: over 25 MB; large_files\.yml must name it"):
        pack(bundle, tmp_path)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    entry = f"- path: models/model.pt\n  url: https://example.org\n  hash_val: {digest}\n  hash_type: sha256\n"
    (bundle / "large_files.yml").write_text(f"large_files:\n{entry}")
    assert "spine_loc/large_files.yml" in zipfile.ZipFile(pack(bundle, tmp_path)).namelist()
    weights.unlink()
    assert "spine_loc/models/model.pt" not in zipfile.ZipFile(pack(bundle, tmp_path)).namelist()
    (bundle / "large_files.yml").unlink()
    with pytest.raises(ValueError, match=r"model\.pt: neither there nor named in large_files\.yml"):
        pack(bundle, tmp_path)
    (bundle / "LICENSE").unlink()
    with pytest.raises(ValueError, match=r"spine_loc/LICENSE: not found"):
        pack(bundle, tmp_path)


def test_a_bundle_that_is_packed_or_misnamed_is_refused(unpacked, copied, tmp_path):
    with pytest.raises(ValueError, match=r"vert_loc: packed already, vert_loc_code is there"):
        pack(unpacked / "vert_loc", tmp_path / "dist")
    bundle = copied("spine_loc").rename(tmp_path / "my-bundle")
    with pytest.raises(ValueError, match=r"my-bundle: its name cannot be that of a module"):
        pack(bundle, tmp_path / "dist")


def test_command_line(tmp_path, capsys):
    assert main(["pack", "spine_loc", str(BUNDLES / "vert_seg"), "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(path) for path in tmp_path.glob("*.zip"))
    assert [Path(line).name.split("_v")[0] for line in printed] == ["spine_loc", "vert_seg"]
    assert main(["pack", str(tmp_path / "absent"), "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"vertebrae: {tmp_path / 'absent'}: no bundle there\n"


@pytest.mark.parametrize("name", STAGES)
def test_the_versions_asked_for_are_the_ones_tested_with(name):
    pins = dict(
        re.findall(r"(?m)^([\w-]+)==([\w.]+)(?:; python_version >= .*)?$", (ROOT / "constraints.txt").read_text())
    )
    metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())
    base = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    asked = {package: metadata[key] for package, key in base.items()} | metadata["required_packages_version"]
    assert asked == {package: pins.get(package) for package in asked}


@pytest.mark.filterwarnings("ignore:No hash value provided")
@pytest.mark.parametrize("name", STAGES)
def test_metadata_fits_the_schema_of_the_model_zoo(name, unpacked):
    schema = os.environ.get("MONAI_META_SCHEMA")
    if not schema:
        pytest.skip("MONAI_META_SCHEMA names no copy of meta_schema_20240725.json")
    from monai.bundle import verify_metadata

    verify_metadata(meta_file=str(unpacked / name / "configs" / "metadata.json"), filepath=schema)


@pytest.mark.parametrize("order", list(itertools.permutations(STAGES)))
def test_all_load_in_one_process_beside_the_project(order, unpacked, forgetful, tmp_path, monkeypatch):
    from monai.bundle import ConfigParser

    monkeypatch.chdir(tmp_path)
    for name in order:
        parser = ConfigParser()
        parser.read_config(unpacked / name / "configs" / "inference.json")
        parser["bundle_root"] = str(unpacked / name)
        network = parser.get_parsed_content("network_def")
        assert type(network).__module__.startswith(f"{name}_code.")
        assert sys.modules[f"{name}_code"].__file__ == str(unpacked / name / f"{name}_code" / "__init__.py")
        weights = torch.load(unpacked / name / "models" / "model.pt", weights_only=True)
        assert network.state_dict().keys() == weights.keys()


@pytest.mark.parametrize("name", STAGES)
def test_properties_are_complete_before_the_data_are_there(name, unpacked, dataset, forgetful, tmp_path, monkeypatch):
    from monai.bundle import ConfigWorkflow

    monkeypatch.chdir(tmp_path)
    common = {"logging_file": False, "bundle_root": str(unpacked / name), "num_workers": 0}
    configs = unpacked / name / "configs"
    inference = ConfigWorkflow(str(configs / "inference.json"), workflow_type="infer", **common)
    inference.initialize()
    assert inference.check_properties() == []
    train = ConfigWorkflow(str(configs / "train.json"), dataset_dir=str(dataset), **SMALL[name], **common)
    train.initialize()
    assert train.check_properties() == []


def test_a_scan_that_is_not_there_is_named_when_it_is_read(unpacked, forgetful):
    from monai.bundle import ConfigWorkflow

    bundle = unpacked / "spine_loc"
    config = str(bundle / "configs" / "inference.json")
    workflow = ConfigWorkflow(
        config, logging_file=False, workflow_type="infer", bundle_root=str(bundle), image="gone.nii"
    )
    workflow.initialize()
    with pytest.raises(RuntimeError) as raised:
        workflow.run()
    reasons, error = [], raised.value
    while error := error.__cause__:
        reasons.append(str(error))
    assert "gone.nii: no such file or folder" in reasons


@pytest.mark.filterwarnings("ignore:No hash value provided")
def test_monai_downloads_and_loads_the_zip(zips, forgetful, tmp_path, monkeypatch):
    from monai.bundle import download, load

    monkeypatch.chdir(tmp_path)
    download(name="spine_loc", url=zips["spine_loc"].as_uri(), bundle_dir="in", progress=False)
    root = str(tmp_path / "in" / "spine_loc")
    network = load(
        "spine_loc", bundle_dir="in", workflow_type="inference", args_file={"bundle_root": root}, device="cpu"
    )
    shipped = torch.load(BUNDLES / "spine_loc" / "models" / "model.pt", weights_only=True)
    assert type(network).__module__ == "spine_loc_code.networks"
    for key, value in network.state_dict().items():
        assert torch.equal(value, shipped[key].to(value.dtype)), key


def arguments(*words: str, **options) -> list[str]:
    return [*words, *(text for key, value in options.items() for text in (f"--{key}", str(value)))]


def commands(name: str, bundle: Path, dataset: Path, scan: Path, prior: Path) -> list:
    """Return what a recipient does with a bundle inside its folder, and the Model Zoo's checks from elsewhere."""
    small = {key: str(value).replace(" ", "") for key, value in SMALL[name].items()}
    data = {"dataset_dir": dataset, "num_workers": 0, **small}
    infer = {"image": scan, "output_dir": "out"}
    if name == "vert_seg":
        infer |= {"landmarks": prior, "window": small["window"]}
    files = {"meta_file": f"{name}/configs/metadata.json", "config_file": f"{name}/configs/inference.json"}
    files |= {"net_id": "network_def", "bundle_root": name}
    overlay = "['configs/train.json','configs/evaluate.json']"
    export = {"ckpt_file": f"{name}/models/model.pt", "filepath": f"{name}/model.ts"}
    return [
        [str(bundle), arguments("run", config_file="configs/train.json", epochs=1, output_dir="trained", **data)],
        [str(bundle), arguments("run", config_file=overlay, checkpoint="trained/model.pt", output_dir="eval", **data)],
        [str(bundle), arguments("run", config_file="configs/inference.json", **infer)],
        [str(bundle.parent), arguments("verify_net_in_out", device="cpu", **files)],
        [str(bundle.parent), arguments("ckpt_export", **files, **export)],
    ]


@pytest.mark.slow
def test_all_run_in_one_process_with_nothing_but_what_they_require(zips, dataset, forgetful, tmp_path):
    """The acceptance test: unzip in an empty folder, no project, no other package, MONAI's own commands."""
    scan, _, landmarks_mm = ball_spine(("L3",), "LAS", spacing_mm=(3.0, 4.0, 2.5), size_mm=(80, 70))
    image = save_scan(tmp_path / "in" / "one.nii.gz", scan)
    write_csv(tmp_path / "one.csv", landmarks_mm)
    order = ("vert_seg", "spine_loc", "vert_loc")
    work, required = [], {}
    for name in order:
        zipfile.ZipFile(zips[name]).extractall(tmp_path)
        work += commands(name, tmp_path / name, dataset, image, tmp_path / "one.csv")
        required |= json.loads((tmp_path / name / "configs" / "metadata.json").read_text())["required_packages_version"]
    (tmp_path / "work.json").write_text(json.dumps(work))
    (tmp_path / "required.json").write_text(json.dumps({"required_packages_version": required}))
    isolated = Path(__file__).with_name("isolated.py")
    line = [sys.executable, str(isolated), str(tmp_path / "required.json"), str(tmp_path / "work.json")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "loaded: spine_loc_code vert_loc_code vert_seg_code"
    results = {
        "spine_loc": {"one_spine_box.json"},
        "vert_loc": {"one_landmarks.json", "one_landmarks.csv"},
        "vert_seg": {"one_segmentation.nii.gz"},
    }
    for name in order:
        assert (tmp_path / name / "trained" / "model.pt").is_file()
        assert (tmp_path / name / "eval" / "metrics.csv").read_text().startswith("val_")
        assert {path.name for path in (tmp_path / name / "out").iterdir()} == results[name]
        check_torchscript(tmp_path / name)


def check_torchscript(bundle: Path) -> None:
    from pipeline.exporting import largest_difference, read_network

    network = read_network(BUNDLES / bundle.name)
    with torch.no_grad():
        assert largest_difference(network, torch.jit.load(bundle / "model.ts")) < 1e-6
