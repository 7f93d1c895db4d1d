"""The page in a real browser, served by the real command."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import ROOT, chromium, open_browser, serve
from PIL import Image
from tiny_runs import CLASSES, classifier_config, detector_config, make_coco, make_folders

from halvit_mm.deploy import export_onnx
from halvit_mm.inference import Classifier, Detector, draw_detections, load_model, read_image

pytestmark = [
    pytest.mark.xdist_group("page"),
    pytest.mark.skipif(
        chromium() is None,
        reason="needs Chromium: install it, or set HALVIT_CHROMIUM to the browser's file",
    ),
]

LIMIT_MB = 1

#: Python runs this first: it notes every address that the server, or a library in it, looks up or
#: connects to.
_WATCHER = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[1] if event == "socket.connect" else arguments[0]
        with open(os.environ["CONTACTS"], "a") as file:
            print(event, host, file=file)
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Two models, pictures to send and pictures to pick."""
    folder = tmp_path_factory.mktemp("serving")
    coco = make_coco(folder / "coco", images=2)
    names = make_folders(folder / "names", images=1)
    detector = detector_config(folder / "finder.py", coco)
    classifier = classifier_config(folder / "namer.py", names)
    files = {
        "detector": detector,
        "detector_weights": folder / "finder.pth",
        "classifier": classifier,
        "classifier_weights": folder / "namer.pth",
        "graph": folder / "graph.onnx",
        "examples": coco / "images",
        "picture": folder / "picture.png",
        "watcher": folder / "watcher",
        "contacts": folder / "contacts.txt",
        "temporary": folder / "temporary",
    }
    torch.manual_seed(0)
    finder = load_model(detector, None, untrained=True).model
    with torch.no_grad():  # scores on both sides of every threshold
        torch.nn.init.normal_(finder.bbox_head.retina_cls.weight)
        finder.bbox_head.retina_cls.bias.fill_(-1.5)
    _save(finder, files["detector_weights"])
    _save(load_model(classifier, None, untrained=True).model, files["classifier_weights"])
    namer = load_model(classifier, files["classifier_weights"])
    files["temporary"].mkdir()
    files["contacts"].touch()
    pixels = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(files["picture"])
    export_onnx(namer, files["graph"], images=[pixels])
    files["watcher"].mkdir()
    (files["watcher"] / "sitecustomize.py").write_text(_WATCHER)
    return files


@pytest.fixture(scope="module")
def served(files, tmp_path_factory):
    """The running command; a proxy that is not there must not be in its way."""
    arguments = [
        *(files["detector"], files["detector_weights"]),
        *(files["classifier"], files["classifier_weights"], files["graph"]),
        *("--examples", files["examples"], "--max-size-mb", LIMIT_MB, "--max-side", 200),
    ]
    with serve(
        arguments,
        tmp_path_factory.mktemp("cwd"),
        PYTHONPATH=f"{files['watcher']}{os.pathsep}{ROOT}",
        CONTACTS=str(files["contacts"]),
        TMPDIR=str(files["temporary"]),
        http_proxy="http://127.0.0.1:9",
        https_proxy="http://127.0.0.1:9",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def tabs():
    """Tabs of one browser, which share what it keeps."""
    with open_browser() as browser:
        yield browser.new_context(viewport=dict(width=1280, height=900))


class Visit:
    """One tab on the page, with what it asked for and complained about."""

    def __init__(self, tabs, url: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = tabs.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )
        self.page.goto(url)
        self.page.locator("#picture").wait_for()

    def send(self, *files: Path) -> None:
        self.page.locator("#picture input[type=file]").set_input_files(files)

    def summary(self, start: str) -> str:
        """Waits for a summary that starts so."""
        self.page.locator("#summary p", has_text=start).wait_for()
        return self.page.inner_text("#summary")

    def rows(self) -> list[list[str]]:
        rows = self.page.locator("#objects tbody tr").all()
        return [row.locator("td").all_inner_texts() for row in rows]

    def drawn(self, element: str) -> np.ndarray:
        """Downloads the picture of an element."""
        picture = self.page.locator(f"#{element} img[src]")
        picture.wait_for()
        answer = self.page.request.get(picture.get_attribute("src"))
        return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))

    def choose(self, model: str) -> None:
        self.page.locator("#model input").click()
        self.page.get_by_role("option", name=model).click()


@pytest.fixture
def visit(tabs, served):
    visit = Visit(tabs, served.url)
    yield visit
    visit.page.close()


@pytest.fixture(scope="module")
def found(files):
    """What the detector says of the picture, apart from any page."""
    return Detector(files["detector"], files["detector_weights"], score_threshold=0.05)(
        files["picture"]
    )


def test_upload_gives_boxes_table_and_attention(visit, files, found):
    visit.send(files["picture"])
    above = found.above(0.5)
    assert 0 < len(above) < len(found)
    summary = visit.summary(f"{len(above)} object")
    assert f"({len(found) - len(above)} less certain)" in summary
    assert "90 × 60 pixels" in summary

    picture, image = visit.drawn("found"), read_image(files["picture"])
    assert _difference(picture, draw_detections(image, above)) < 1
    assert _difference(picture, draw_detections(image, found.above(2))) > 5

    rows = visit.rows()
    assert [row[1:3] for row in rows] == [
        [CLASSES[label], f"{score:.2f}"]
        for label, score in zip(above.labels, above.scores, strict=True)
    ]
    left, top, right, bottom = above.boxes[0]
    expected = [left, top, right - left, bottom - top]
    assert np.allclose([float(value) for value in rows[0][3:]], expected, atol=1)
    assert visit.drawn("inside").std() > 10
    assert visit.complaints == []


def test_the_threshold_leaves_fewer(visit, files, found):
    visit.send(files["picture"])
    before = visit.summary(f"{len(found.above(0.5))} object")
    slider = visit.page.get_by_role("slider", name="Least score")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    fewer = len(found.above(0.7))
    after = visit.summary("scoring 0.70 or more")
    assert fewer < len(found.above(0.5))
    assert len(visit.rows()) == fewer
    # The same run: its time is not measured anew.
    assert before.rpartition(", ")[2] == after.rpartition(", ")[2]
    assert visit.complaints == []


def test_an_example_and_another_model(visit, files):
    visit.page.locator("#examples").get_by_role("button").nth(1).click()
    visit.summary("64 × 64 pixels")
    assert visit.drawn("found").shape == (640, 640, 3)
    assert visit.page.get_by_role("slider", name="Least score").is_visible()

    visit.choose("namer")
    visit.page.locator("#classes").get_by_text(CLASSES[0]).first.wait_for()
    said = Classifier(files["classifier"], files["classifier_weights"])(
        sorted(files["examples"].iterdir())[1]
    )
    shown = visit.page.locator("#classes").inner_text()
    for name, score in said.top(5):
        assert name in shown and f"{score:.0%}" in shown
    assert visit.page.locator("#found").count() == 0
    assert visit.rows() == []
    assert not visit.page.get_by_role("slider", name="Least score").is_visible()
    assert "tells apart dark, light" in visit.page.inner_text("#facts")
    assert visit.drawn("inside").std() > 5

    visit.choose("graph")  # the same model in ONNX
    visit.page.locator("#facts", has_text="onnxruntime").wait_for()
    visit.page.locator("#note", has_text="no attention").wait_for()
    assert visit.page.locator("#classes").inner_text() == shown
    assert visit.page.locator("#inside").count() == 0
    assert visit.complaints == []


def test_facts_are_those_of_the_model(visit, files):
    from mmengine.config import Config

    from halvit_mm.analysis import count_model

    count = count_model(Config.fromfile(files["detector"]))
    facts = visit.page.inner_text("#facts")
    assert f"{count.total.parameters:,}" in facts
    assert f"{count.dense_twin.total.parameters:,}" in facts


def test_pictures_of_odd_kinds_are_shown(visit, tmp_path):
    """Browsers show no TIFF; large pictures are scaled down."""
    deep = np.linspace(0, 65535, 300 * 400).reshape(300, 400).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    visit.send(tmp_path / "deep.tiff")
    visit.summary("200 × 150 pixels")
    shown = visit.drawn("picture")
    assert shown.shape == (150, 200, 3)
    assert shown[0].mean() < 5 and shown[-1].mean() > 250


def test_a_bad_file_gives_a_message(visit, files, tmp_path):
    """Three kinds of them, and the page goes on working."""
    whole = files["picture"].read_bytes()
    for name, content, said in (
        ("<b>words.png", b"no picture", "this is no image"),
        ("empty.jpg", b"", "the file is empty"),
        ("half.png", whole[: len(whole) // 2], "the image is damaged or cut off"),
    ):
        (tmp_path / name).write_bytes(content)
        visit.send(tmp_path / name)
        message = visit.page.get_by_role("alert").filter(has_text=f"{name}: {said}")
        message.wait_for()
        assert visit.complaints == []
        visit.send(files["picture"])
        visit.summary("90 × 60 pixels")
        message.wait_for(state="detached")


def test_too_large_a_file_gives_a_message(visit, files, tmp_path):
    (tmp_path / "large.png").write_bytes(os.urandom((LIMIT_MB + 1) * 2**20))
    visit.send(tmp_path / "large.png")
    visit.page.get_by_text("exceed the maximum allowed size").wait_for()
    visit.send(files["picture"])
    visit.summary("90 × 60 pixels")


def test_inputs_have_names_and_keys_reach_them(visit):
    page = visit.page
    assert page.get_by_role("combobox", name="Model").count() == 1
    assert page.get_by_role("slider", name="Least score").count() == 1
    assert page.get_by_role("button", name="Upload file").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.ariaLabel"))
    assert {"Upload file", "Thumbnail 1 of 2", "Model", "range slider for Least score"} <= reached


def test_the_browser_asks_nobody_else(visit, served, files):
    visit.send(files["picture"])
    visit.summary("90 × 60 pixels")
    visit.drawn("inside")
    assert len(visit.requests) > 20
    foreign = [url for url in visit.requests if not url.startswith((served.url, "data:", "blob:"))]
    assert foreign == []
    assert visit.complaints == []  # the page's own rules forbid others, and say so here


def test_strangers_files_are_refused(visit, served, files):
    """Gradio serves files, fetches addresses and has more routes than the page needs."""
    here = served.url + "gradio_api/"
    log = served.folder / "serve.log"  # in the server's own folder
    example, address = str(files["examples"] / "0.png"), "http://203.0.113.1/a.png"
    for path in ("/etc/passwd", example, files["detector"], log, log.name, address):
        assert visit.page.request.get(f"{here}file={path}").status == 403, path
    for route in ("info", "openapi.json", "run-history/buckets", "proxy=http://127.0.0.1:9/"):
        assert visit.page.request.get(here + route).status == 404, route
    for path in ("/etc/passwd", example, address):
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        request = {"data": [image], "fn_index": 0, "session_hash": "stranger"}
        assert visit.page.request.post(f"{here}queue/join", data=request).status == 403, path
    other = visit.page.request.get(served.url, headers={"Host": "example.org"})
    assert other.status == 421


def test_the_server_is_sound_in_the_end(visit, served, files):
    """After all of the above: no traceback, nothing contacted, and Ctrl-C ends it cleanly."""
    visit.send(files["picture"])
    visit.summary("90 × 60 pixels")  # this tab stays open
    assert served.process.poll() is None
    contacts = files["contacts"].read_text().splitlines()
    assert all("127.0.0.1" in line or "localhost" in line for line in contacts), contacts
    assert len(list(files["temporary"].glob("halvit_mm_*"))) == 1
    assert served.stop() == 130
    assert "Traceback" not in served.output()
    assert "ERROR" not in served.output()
    assert served.output().endswith("interrupted\n")
    assert list(files["temporary"].glob("halvit_mm_*")) == []
    assert [file.name for file in served.folder.iterdir()] == ["serve.log"]


def _save(model: torch.nn.Module, path: Path) -> None:
    meta = {"dataset_meta": {"classes": CLASSES}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two pictures of one size, in levels of 255."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())
