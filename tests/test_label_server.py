"""A live server process and MONAI Label's own client: every model, uploads, labels, batch, training, bad input."""

import gc
import json
import threading
import time
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from ball_spine import ball_spine, save_scan
from browser import CHROMIUM
from devtools import Page
from label_server import Server, oracle_bundles

from pipeline.labels import LABELS, NAMES, row_of_name
from pipeline.metrics import dice

pytest.importorskip("monailabel", reason="MONAI Label is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'cgi' is deprecated:DeprecationWarning"),  # the client; it also leaves sockets
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # and files open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ONE = ("T12", "L1")
GRID = {"axcodes": "PIR", "oblique": True, "spacing_mm": (2.0, 2.4, 1.8)}


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("label") / "my studies"
    save_scan(folder / "one.nii.gz", ball_spine(ONE, **GRID)[0])
    save_scan(folder / "two.nii.gz", ball_spine(("L2", "L3"), "LAS", spacing_mm=(3.0, 2.4, 2.0))[0])
    (folder / "broken.nii.gz").write_bytes(b"this is no image")
    return folder


@pytest.fixture(scope="module")
def server(studies):
    server = Server(studies, oracle_bundles(studies.parent / "bundles"), studies.parent / "server.log")
    yield server
    server.stop()


@pytest.fixture
def client(server, tmp_path):
    from monailabel.client import MONAILabelClient

    yield MONAILabelClient(server.url, tmpdir=str(tmp_path))
    gc.collect()  # its sockets, while this is not an error


def refused(call, *arguments, **options) -> str:
    """Return what a client is told, and check that it was told politely."""
    from monailabel.client.client import MONAILabelClientException

    with pytest.raises(MONAILabelClientException) as error:
        call(*arguments, **options)
    assert "Status: 4" in error.value.msg
    return json.loads(error.value.msg.partition("Response: ")[2])["detail"]


def get(url: str | urllib.request.Request) -> bytes:
    with urllib.request.urlopen(url) as response:
        return response.read()


def contiguous(labels: np.ndarray) -> np.ndarray:
    """Return the mask as viewers get it: row + 1."""
    values = np.zeros_like(labels)
    for row, label in enumerate(LABELS):
        values[labels == label] = row + 1
    return values


def test_info_names_models_labels_and_strategies(client):
    info = client.info()
    assert info["labels"] == list(NAMES)
    kinds = {name: model["type"] for name, model in info["models"].items()}
    assert kinds == {
        "vertebrae": "segmentation",
        "vertebrae_landmarks": "detection",
        "spine_loc": "detection",
        "vert_loc": "detection",
        "vert_seg": "segmentation",
        "vertebra_click": "deepgrow",
    }
    assert sorted(info["trainers"]) == ["spine_loc", "vert_loc", "vert_seg"]
    assert "least_confident" in info["strategies"]


def test_the_whole_pipeline_on_an_oblique_scan(client, studies):
    _, labels, landmarks_mm = ball_spine(ONE, **GRID)
    file, answer = client.infer("vertebrae", "one", {})
    mask, scan = nib.load(file), nib.load(studies / "one.nii.gz")
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert mask.get_data_dtype() == np.uint8
    values = np.asarray(mask.dataobj)
    assert set(np.unique(values)) == {0, 19, 20}
    assert dice(values, labels, 19) > 0.9
    assert dice(values, labels, 20) > 0.9
    assert list(answer["label_names"].items()) == [(name, row + 1) for row, name in enumerate(NAMES)]
    assert len({tuple(color) for color in answer["label_colors"].values()}) == 26
    assert [vertebra["name"] for vertebra in answer["vertebrae"]] == list(ONE)
    for vertebra in answer["vertebrae"]:
        assert 0 < vertebra["probability"] <= 1
        true_mm = landmarks_mm[row_of_name(vertebra["name"])]
        assert np.linalg.norm(vertebra["position_mm"] - true_mm) < 0.5
    assert (answer["space"], answer["units"]) == ("RAS", "mm")
    assert all(set(warning) == {"code", "message", "vertebrae"} for warning in answer["warnings"])


def test_nrrd_has_the_same_voxels_in_the_same_places_and_names_for_slicer(client):
    reference = nib.load(client.infer("vertebrae", "one", {})[0])
    image = SimpleITK.ReadImage(client.infer("vertebrae", "one", {"result_extension": ".nrrd"})[0])
    values = SimpleITK.GetArrayFromImage(image).T
    np.testing.assert_array_equal(values, np.asarray(reference.dataobj))
    for voxel in ((0, 0, 0), (7, 3, 12)):
        ras = np.array(image.TransformIndexToPhysicalPoint(voxel)) * [-1, -1, 1]
        np.testing.assert_allclose(ras, (reference.affine @ [*voxel, 1])[:3], atol=1e-3)
    assert image.GetMetaData("Segment25_Name") == "T13"
    assert image.GetMetaData("Segment25_LabelValue") == "26"
    assert len(image.GetMetaData("Segment25_Color").split()) == 3


def test_landmarks_come_as_slicer_points(client):
    file, _ = client.infer("vertebrae_landmarks", "one", {})
    assert file.endswith(".json")
    markup = json.loads(Path(file).read_text())["markups"][0]
    assert (markup["type"], markup["coordinateSystem"]) == ("Fiducial", "LPS")
    landmarks_mm = ball_spine(ONE, **GRID)[2]
    assert [point["label"] for point in markup["controlPoints"]] == list(ONE)
    for point in markup["controlPoints"]:
        true_mm = landmarks_mm[row_of_name(point["label"])]
        assert np.linalg.norm(np.array(point["position"]) * [-1, -1, 1] - true_mm) < 0.5


def test_each_stage_alone(client):
    landmarks_mm = ball_spine(ONE, **GRID)[2]
    present_mm = landmarks_mm[np.isfinite(landmarks_mm).all(axis=1)]
    file, answer = client.infer("spine_loc", "one", {})
    low, high = np.array(answer["spine_box_mm"])
    assert (low < present_mm).all()
    assert (present_mm < high).all()
    roi = json.loads(Path(file).read_text())["markups"][0]
    np.testing.assert_allclose(np.array(roi["center"]) * [-1, -1, 1], (low + high) / 2, atol=0.01)
    np.testing.assert_allclose(roi["size"], high - low, atol=0.01)

    _, answer = client.infer("vert_loc", "one", {"spine_box_mm": answer["spine_box_mm"]})
    assert [vertebra["name"] for vertebra in answer["vertebrae"]] == list(ONE)

    given = {"L5": landmarks_mm[row_of_name("L1")].tolist()}  # the name is the annotator's
    values = np.asarray(nib.load(client.infer("vert_seg", "one", {"landmarks": given})[0]).dataobj)
    assert set(np.unique(values)) == {0, 24}
    assert "landmark L5" in refused(client.infer, "vert_seg", "one", {"landmarks": {"L5": [1, 2]}})
    assert "weights" in refused(client.infer, "vertebrae", "one", {"weights": "better"})


def test_a_click_gives_one_vertebra(client):
    scan, labels, landmarks_mm = ball_spine(ONE, **GRID)
    voxel = np.linalg.inv(scan.affine) @ [*landmarks_mm[row_of_name("L1")], 1]
    point = voxel[:3].round().astype(int).tolist()
    file, _ = client.infer("vertebra_click", "one", {"label": "L1", "foreground": [point]})
    values = np.asarray(nib.load(file).dataobj)
    assert set(np.unique(values)) == {0, 1}
    assert dice(values, (labels == 20).astype(np.uint8), 1) > 0.9
    detail = refused(client.infer, "vertebra_click", "one", {"label": "L1", "foreground": [[900, 1, 1]]})
    assert detail.startswith("foreground [900, 1, 1]: outside the scan of ")
    assert "is not a vertebra name" in refused(client.infer, "vertebra_click", "one", {"foreground": [point]})


def test_a_scan_the_server_does_not_have(client, tmp_path):
    own = ball_spine(("L4", "L5"), "LPS", spacing_mm=(2.5, 2.2, 3.0))[0]
    path = save_scan(tmp_path / "mine.nii.gz", own)
    file, answer = client.infer("vertebrae", "", {}, file=str(path))
    np.testing.assert_array_equal(nib.load(file).affine, nib.load(path).affine)
    assert [vertebra["name"] for vertebra in answer["vertebrae"]] == ["L4", "L5"]
    session = client.create_session(str(path))["session_id"]
    assert client.infer("vert_loc", "", {}, session_id=session)[1]["vertebrae"] == answer["vertebrae"]


def test_bad_input_is_a_sentence(client, server, tmp_path, studies):
    assert "broken.nii.gz" in refused(client.infer, "vertebrae", "broken", {})
    assert "'nobody': no scan of this server" in refused(client.infer, "vertebrae", "nobody", {})
    assert "no model 'nix'" in refused(client.infer, "nix", "one", {})
    assert "no model 'nix'" in refused(client.train_start, "nix", {})
    upload = tmp_path / "noise.nii.gz"
    upload.write_bytes(b"noise")
    assert "cannot be read" in refused(client.infer, "vertebrae", "", {}, file=str(upload))
    assert "result_extension '.exe'" in refused(client.infer, "vertebrae", "one", {"result_extension": ".exe"})


def test_files_outside_the_studies_are_refused(client, studies):
    outside = save_scan(studies.parent / "secret.nii.gz", ball_spine(ONE)[0])
    for path in (str(outside), "../secret.nii.gz", f"{studies}/../secret.nii.gz", "/etc/passwd", "/etc/nothing"):
        assert "no scan of this server" in refused(client.infer, "vertebrae", path, {})
        assert "no scan of this server" in refused(client.infer, "vertebrae", "one", {"image": path})
    for name in ("../evil", "/tmp/evil", ".evil"):
        assert "cannot be the name of a file" in refused(client.upload_image, str(outside), name)
    assert "cannot be the name" in refused(client.save_label, "one", str(outside), tag="../..")
    assert not list(studies.parent.glob("*evil*"))


def test_other_origins_may_not_read(server):
    request = urllib.request.Request(f"{server.url}/info/", headers={"Origin": "http://elsewhere.example"})
    with urllib.request.urlopen(request) as response:
        assert "access-control-allow-origin" not in response.headers


def test_info_answers_while_a_model_runs(server, client, tmp_path):
    path = save_scan(tmp_path / "long.nii.gz", ball_spine(NAMES[9:22], spacing_mm=(2.0, 2.0, 2.0))[0])
    answers = []
    run = threading.Thread(target=lambda: answers.append(client.infer("vertebrae", "", {}, file=str(path))))
    run.start()
    time.sleep(0.1)
    waits = []
    while run.is_alive():
        start = time.monotonic()
        get(f"{server.url}/info/")
        waits.append(time.monotonic() - start)
        time.sleep(0.05)
    run.join()
    assert len(answers) == 1
    assert len(waits) > 2
    assert sorted(waits)[len(waits) // 2] < 1.0  # the median: other work on the machine may hold up a single answer


def colored(path: Path) -> int:
    """Return how many pixels of the viewer have a color; the crosshair's red is none."""
    import matplotlib.pyplot as plt

    view = plt.imread(path)[:, 320:, :3]
    return int(((view.max(axis=2) - view.min(axis=2) > 0.1) & (view[..., 0] < 2 * view[..., 1:].max(axis=2))).sum())


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_the_page_runs_a_scan_and_shows_it(server, tmp_path):
    page = Page(tmp_path / "profile")
    try:
        page("Page.navigate", url=f"{server.url}/spine/?scan=one")
        page.wait(
            "document.body && document.body.dataset.state === 'ready' && !document.getElementById('run').disabled"
        )
        before = colored(page.picture(tmp_path / "before.png"))
        page.value("document.getElementById('run').click()")
        page.wait("document.body.dataset.state === 'done'")
        page.wait("document.getElementById('place').textContent.includes('HU L1')", 20)  # the middle one is chosen
        after = colored(page.picture(tmp_path / "after.png"))
        rows = page.value("[...document.querySelectorAll('#vertebrae tr')].map(row => row.children[1].textContent)")
        assert rows == list(ONE)
        assert before < 500 < after - before
        page.value("[...document.querySelectorAll('#scans button')].find(b => b.dataset.scan === 'broken').click()")
        page.wait("document.body.dataset.state === 'failed'")
        asked = [url for url, _ in page.asked if not url.startswith(("data:", "blob:"))]
        assert all(url.startswith(f"{server.url}/") for url in asked)
        assert {status for _, status in page.asked} == {200}
    finally:
        page.close()


def finished(server, kind: str, seconds: float = 500) -> dict:
    """Wait for a background task; return its status."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = json.loads(get(f"{server.url}/{kind}"))
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            return status
        time.sleep(0.5)
    raise TimeoutError(kind)


def test_batch_runs_all_and_the_least_confident_comes_next(server, client, studies):
    header = {"content-type": "application/json"}
    get(urllib.request.Request(f"{server.url}/batch/infer/vertebrae", b"{}", header))
    status = finished(server, "batch/infer")
    assert status["status"] == "DONE", "\n".join(status["details"])
    assert "cannot be read" in "".join(line for line in status["details"] if " broken: " in line)
    assert {path.name for path in (studies / "labels" / "original").iterdir()} == {"one.nii.gz", "two.nii.gz"}
    store = client.datastore()["objects"]
    confidence = {name: store[name]["image"]["info"].get("confidence") for name in ("one", "two", "broken")}
    assert confidence["broken"] is None
    surely = min(("one", "two"), key=lambda name: confidence[name])
    assert client.next_sample("least_confident", {})["id"] == surely


def save_final(client, name: str, labels: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """Save a label as a viewer that numbers its segments in its own way."""
    shown = [NAMES[LABELS.index(label)] for label in np.unique(labels[labels > 0])][::-1]
    values = np.zeros_like(labels)
    for number, vertebra in enumerate(shown, start=5):
        values[labels == LABELS[row_of_name(vertebra)]] = number
    path = folder / f"{name}_label.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    info = [{"name": vertebra, "idx": number} for number, vertebra in enumerate(shown, start=5)]
    client.save_label(name, str(path), params={"label_info": info})


def test_saved_labels_train_a_stage(server, client, studies, tmp_path):
    assert "0 scans have a label saved as final" in refused(client.train_start, "spine_loc", {})
    for name, names, grid in (
        ("one", ONE, GRID),
        ("two", ("L2", "L3"), {"axcodes": "LAS", "spacing_mm": (3.0, 2.4, 2.0)}),
    ):
        scan, labels, _ = ball_spine(names, **grid)
        save_final(client, name, labels, scan.affine, tmp_path)
        saved = nib.load(studies / "labels" / "final" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(saved.dataobj), contiguous(labels))
        np.testing.assert_allclose(saved.affine, scan.affine, atol=1e-5)
    unknown = tmp_path / "one_label.nii.gz"
    assert "label value 5 has no name" in refused(
        client.save_label, "one", str(unknown), params={"label_info": [{"name": "L1", "idx": 1}]}
    )
    assert client.next_sample("least_confident", {})["id"] == "broken"
    small = {"features": [2, 2, 4, 4], "window": [24, 24, 56], "elastic_mm": 0.0, "num_workers": 0}
    client.train_start("spine_loc", {"max_epochs": 1, "pretrained": False, "overrides": small})
    status = finished(server, "train/")
    assert status["status"] == "DONE", "\n".join(status["details"])
    assert (studies / ".vertebrae" / "weights" / "spine_loc.pt").is_file()
    assert "not weights for spine_loc" in refused(client.infer, "spine_loc", "one", {})  # an oracle has none
    _, answer = client.infer("spine_loc", "one", {"weights": "shipped"})
    assert answer["spine_box_mm"]
