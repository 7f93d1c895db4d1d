"""tools/predict.py: files in, results out; what is bad is one line and never half a file."""

import fcntl
import io
import json
import os
import pty
import resource
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run, start
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, detector_config, make_coco, make_folders

from halvit_mm.inference import load_model
from halvit_mm.inference.videos import Video, video_file

#: Untrained, it is half sure of everything; five objects an image are enough here.
FEW = ["--cfg-options", "model.test_cfg.rcnn.max_per_img=5"]
FEW += ["model.test_cfg.rpn.max_per_img=50", "model.test_cfg.rcnn.score_thr=0.0"]


@pytest.fixture(scope="session")
def masks(root, tmp_path_factory) -> list[str]:
    """Config and checkpoint of a Mask R-CNN."""
    config = root / "configs/nuclei/mask_rcnn_halvit_small_nuclei.py"
    checkpoint = tmp_path_factory.mktemp("masks") / "weights.pth"
    return [str(config), str(save_initial(config, checkpoint, classes=("nucleus",)))]


@pytest.fixture(scope="session")
def boxes(tmp_path_factory) -> list[str]:
    """Config and checkpoint of a RetinaNet that finds ten objects everywhere."""
    folder = tmp_path_factory.mktemp("boxes")
    config = detector_config(folder / "detector.py", make_coco(folder / "data"))
    with config.open("a") as file:
        file.write('\nmodel["test_cfg"]["score_thr"] = 0.0\n')
    return [str(config), str(save_initial(config, folder / "weights.pth", classes=CLASSES))]


@pytest.fixture(scope="session")
def classes(tmp_path_factory) -> list[str]:
    """Config and checkpoint of a classifier of two classes."""
    folder = tmp_path_factory.mktemp("classes")
    config = classifier_config(folder / "classifier.py", make_folders(folder / "data"))
    return [str(config), str(save_initial(config, folder / "weights.pth", classes=CLASSES))]


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder of three images and a subfolder, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (64, 64)), ("b.jpg", (48, 80)), ("sub/a.png", (64, 64))):
        file = tmp_path / "photos" / name
        file.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(file)
    return tmp_path / "photos"


@pytest.fixture
def predict(root, monkeypatch, capfd):
    """Runs the tool in this process: status, standard output, standard error."""
    monkeypatch.syspath_prepend(root / "tools")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(root / "tools/predict.py"), run_name="__main__")
        return caught.value.code, *capfd.readouterr()

    return call


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


LISTS = {"results.json", "images.json", "summary.csv"}
PICTURES = {"pictures/photos/a.jpg", "pictures/photos/b.jpg", "pictures/photos/sub/a.jpg"}


def test_a_folder_as_a_whole_process(root, tmp_path, photos, masks):
    command = [sys.executable, root / "tools/predict.py", *masks, "photos", "--masks", "both"]
    status, output, errors = run([*command, "--batch-size", "2", *FEW], tmp_path)
    assert (status, errors) == (0, "")
    assert output.endswith("3 images, 15 results: predictions/results.json\n")
    folder = tmp_path / "predictions"
    numbers = {name.replace("pictures", "masks").replace("jpg", "png") for name in PICTURES}
    assert files(folder) == LISTS | PICTURES | numbers
    results = json.loads((folder / "results.json").read_text())
    assert len(results) == 15
    assert {result["category_id"] for result in results} == {1}
    assert results[0]["segmentation"]["size"] == [64, 64]
    assert np.asarray(Image.open(folder / "masks/photos/b.png")).shape == (48, 80)
    assert Image.open(folder / "pictures/photos/b.jpg").size == (640, 384)


def test_classes_of_images(predict, photos, classes):
    status, output, errors = predict(*classes, "photos", "--out", "out", "--top-k", "1")
    assert (status, errors) == (0, "")
    assert "3 images, 3 results: out/results.json" in output
    assert files(Path("out")) == LISTS | PICTURES
    results = json.loads(Path("out/results.json").read_text())
    assert [result["name"] for result in results] == ["photos/a", "photos/b", "photos/sub/a"]
    assert all(len(r["top"]) == 1 and r["top"][0]["class"] in CLASSES for r in results)
    assert Path("out/summary.csv").read_text().startswith("file,frame,class_1,score_1\n")


def test_a_model_in_onnx(predict, photos, classes, tmp_path):
    """Says what it says in PyTorch, and needs no config."""
    from halvit_mm.deploy import export_onnx

    images = [np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)]
    export_onnx(load_model(*classes), tmp_path / "model.onnx", images=images)
    predict(*classes, "photos/a.png", "--out", "one")
    status, _, errors = predict("-", "model.onnx", "photos/a.png", "--out", "two")
    assert (status, errors) == (0, "")
    (one,), (two,) = (json.loads(Path(d, "results.json").read_text()) for d in ("one", "two"))
    assert [entry["class"] for entry in one["top"]] == [entry["class"] for entry in two["top"]]
    assert one["top"][0]["score"] == pytest.approx(two["top"][0]["score"], abs=1e-5)
    status, _, errors = predict("-", "model.onnx", "photos", "--out", "three", "--device", "cuda")
    assert (status, errors.split(":")[:2]) == (2, ["error", " --device cuda"])


def test_the_batch_size_changes_nothing_for_images_of_one_size(predict, photos, boxes):
    found = []
    for size in ("1", "2"):
        options = ["--batch-size", size, "--no-pictures", "--score-threshold", "0"]
        status, *_ = predict(*boxes, "photos/a.png", "photos/sub/a.png", "--out", size, *options)
        assert status == 0
        assert files(Path(size)) == LISTS
        found.append(json.loads(Path(size, "results.json").read_text()))
    assert len(found[0]) == len(found[1]) == 20
    for one, two in zip(*found, strict=True):
        assert one["category_id"] == two["category_id"]
        assert one["bbox"] == pytest.approx(two["bbox"], abs=1e-3)
        assert one["score"] == pytest.approx(two["score"], abs=1e-5)


def test_the_threshold(predict, photos, boxes):
    scores = {}
    for threshold in ("0", "0.5", "1"):
        predict(*boxes, "photos", "--out", threshold, "--score-threshold", threshold)
        results = json.loads(Path(threshold, "results.json").read_text())
        scores[threshold] = [result["score"] for result in results]
    assert len(scores["0"]) == 30
    assert scores["0.5"] == [score for score in scores["0"] if score >= 0.5]
    assert scores["1"] == []


def bad_inputs(folder: Path) -> None:
    whole = (folder / "b.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    Image.new("RGB", (20_000, 20)).save(folder / "narrow.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")


@pytest.mark.parametrize("batch_size", ["1", "4"])
def test_it_goes_on_past_what_cannot_be_read(predict, photos, boxes, batch_size):
    """The narrow image is read, but the pipeline makes nothing of it, in a batch with others."""
    bad_inputs(photos)
    options = ["--out", "out", "--batch-size", batch_size, "--score-threshold", "0"]
    status, output, errors = predict(*boxes, "gone.jpg", "photos", *options)
    assert status == 3
    assert "4 images, 40 results: out/results.json" in output
    first, *rest = errors.strip().split("\n")
    assert first == "5 of the inputs could not be used:"
    starts = [
        "  gone.jpg: there is no such file; check the path",
        "  photos/cut.jpg: the image is damaged or cut off",
        "  photos/empty.png: the file is empty",
        "  photos/narrow.png: an image of 20000 × 20 pixels does not go through the test pipeline",
        "  photos/text.jpg: this is no image that can be read",
    ]
    assert sorted(rest) == sorted(
        next(line for line in rest if line.startswith(start)) for start in starts
    )
    assert files(Path("out")) == LISTS | PICTURES | {"pictures/photos/dot.jpg"}


def test_nothing_is_left_of_a_run_of_bad_inputs_only(predict, photos, boxes):
    (photos / "a.png").write_bytes(b"")
    status, output, errors = predict(*boxes, "photos/a.png", "--out", "out")
    assert status == 3
    assert "0 images, 0 results" in output
    assert "photos/a.png: the file is empty" in errors
    assert json.loads(Path("out/results.json").read_text()) == []


def test_paths_from_standard_input(root, tmp_path, photos, boxes):
    command = [sys.executable, root / "tools/predict.py", *boxes, "-", "--no-pictures"]
    process = subprocess.run(
        list(map(str, command)), input="photos/a.png\ngone.png\n", text=True, capture_output=True
    )
    assert process.returncode == 3
    assert "1 image, " in process.stdout
    assert process.stderr.endswith("\n  gone.png: there is no such file; check the path\n")


def write_video(path: Path, count: int = 12) -> None:
    rng = np.random.default_rng(0)
    with video_file(path, 25.0) as writer:
        for _ in range(count):
            writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("batch_size", ["1", "4"])
def test_videos_frame_by_frame(predict, photos, boxes, batch_size):
    write_video(photos / "film.mp4")
    (photos / "broken.mp4").write_bytes((photos / "film.mp4").read_bytes()[:2000])
    sources = ["photos/a.png", "photos/film.mp4", "photos/broken.mp4", "photos/b.jpg"]
    options = ["--every", "5", "--batch-size", batch_size, "--score-threshold", "0"]
    status, _, errors = predict(*boxes, *sources, "--out", "out", *options)
    assert status == 3
    assert errors.split("\n")[1].startswith("  photos/broken.mp4: the video cannot be decoded;")
    assert "moov" not in errors  # which FFmpeg would say by itself
    pictures = {"pictures/a.jpg", "pictures/film.mp4", "pictures/b.jpg"}
    assert files(Path("out")) == LISTS | pictures
    video = Video("out/pictures/film.mp4")
    assert video.rate == pytest.approx(5)
    assert [frame.shape for _, frame in video] == [(480, 640, 3)] * 3
    images = json.loads(Path("out/images.json").read_text())["images"]
    assert [(image["name"], image.get("frame")) for image in images] == [
        ("a", None),
        ("film/000000", 0),
        ("film/000005", 5),
        ("film/000010", 10),
        ("b", None),
    ]


def test_earlier_results_are_not_mixed_with_new_ones(predict, photos, boxes):
    assert predict(*boxes, "photos", "--out", "out")[0] == 0
    before = {name: (Path("out") / name).stat().st_mtime_ns for name in files(Path("out"))}
    status, _, errors = predict(*boxes, "photos/a.png", "--out", "out")
    assert (status, errors.split(";")[0]) == (2, "error: --out out: the folder is not empty")
    assert before == {n: (Path("out") / n).stat().st_mtime_ns for n in files(Path("out"))}
    assert predict(*boxes, "photos/a.png", "--out", "out", "--overwrite")[0] == 0
    assert files(Path("out")) == LISTS | {"pictures/a.jpg"}


MISTAKES = {
    "no config": (["gone.py", "CHECKPOINT", "photos"], "gone.py: there is no such config"),
    "no checkpoint": (["CONFIG", "gone.pth", "photos"], "gone.pth: there is no such checkpoint"),
    "text": (["CONFIG", "text.pth", "photos"], "text.pth: this is not a checkpoint of PyTorch"),
    "other model": (
        ["CONFIG", "OTHER", "photos"],
        "OTHER: the checkpoint is of another model than",
    ),
    "other classes": (
        ["CONFIG", "CHECKPOINT", "photos", "--cfg-options", "model.bbox_head.num_classes=7"],
        "CHECKPOINT: the checkpoint is for 2 classes, but CONFIG has model.bbox_head.num_classes=7",
    ),
    "no image": (["CONFIG", "CHECKPOINT", "empty"], "empty: there is no image (.bmp, "),
    "nothing": (["CONFIG", "CHECKPOINT", "gone.jpg"], "there is no image to look at"),
    "gpu": (["CONFIG", "CHECKPOINT", "photos", "--device", "cuda:99"], "--device cuda:99: this"),
    "device": (["CONFIG", "CHECKPOINT", "photos", "--device", "gpu"], "--device gpu: there is no"),
    "batch": (["CONFIG", "CHECKPOINT", "photos", "--batch-size", "0"], "--batch-size 0: give 1"),
    "threshold": (
        ["CONFIG", "CHECKPOINT", "photos", "--score-threshold", "2"],
        "--score-threshold 2.0: give a number from 0 to 1",
    ),
    "out is a file": (["CONFIG", "CHECKPOINT", "photos", "--out", "text.pth"], "--out text.pth: t"),
    "out is not writable": (
        ["CONFIG", "CHECKPOINT", "photos", "--out", "/proc/1/x"],
        "--out /proc/1/x: cannot write there",
    ),
    "option": (
        ["CONFIG", "CHECKPOINT", "photos", "--cfg-options", "modle.neck=1"],
        "--cfg-options modle.neck: CONFIG has no modle; did you mean model?",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_in_one_line(predict, photos, boxes, classes, case):
    arguments, sentence = MISTAKES[case]
    Path("text.pth").write_text("no checkpoint")
    Path("empty").mkdir()
    names = {"CONFIG": boxes[0], "CHECKPOINT": boxes[1], "OTHER": classes[1]}
    for name, path in names.items():
        sentence = sentence.replace(name, path)
    before = files(Path())
    status, _, errors = predict(*(names.get(a, a) for a in arguments), "--no-pictures")
    assert status == 2
    assert "Traceback" not in errors
    assert errors.startswith(f"error: {sentence}")
    assert files(Path()) == before
    assert not Path("predictions/results.json").exists()


def test_empty_standard_input(predict, photos, boxes, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    status, _, errors = predict(*boxes, "-")
    assert status == 2
    assert errors == "error: there is no image to look at; name files, folders or patterns\n"
    assert not Path("predictions").exists()


def many(photos: Path, count: int) -> None:
    for i in range(count):
        shutil.copy(photos / "a.png", photos / f"{i:04}.png")


def assert_whole(folder: Path) -> None:
    """Whatever lies there can be read to its end."""
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".jpg", ".png"):
            Image.open(path).load()
        else:
            assert path.is_dir() or path.suffix == ".csv", path


def test_ctrl_c_leaves_whole_files_that_say_they_are_a_part(root, tmp_path, photos, boxes):
    many(photos, 2000)
    process = start([sys.executable, root / "tools/predict.py", *boxes, "photos"], tmp_path)
    pictures = tmp_path / "predictions/pictures/photos"
    deadline = time.monotonic() + 120
    while not pictures.is_dir() or len(list(pictures.iterdir())) < 5:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted\n"
    folder = tmp_path / "predictions"
    assert_whole(folder)
    names = {name for name in files(folder) if "/" not in name}
    assert names == {"results.part.json", "images.part.json", "summary.part.csv"}
    images = json.loads((folder / "images.part.json").read_text())["images"]
    assert 4 <= len(images) < 2000
    # A picture may have been written just before its image would have been noted.
    assert 0 <= len(list(pictures.iterdir())) - len(images) <= 1


SMALL_DISK = 'mount -t tmpfs -o size="$1" tmpfs "$2" && cd "$2" && shift 2 && exec "$@"'


@contextmanager
def short_files():
    """No file of this process may grow beyond 8 kB, which goes wrong as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_files_that_may_not_grow(predict, photos, boxes):
    with short_files():
        status, _, errors = predict(*boxes, "photos", "--out", "out")
    assert status == 2
    assert errors == (
        "error: out/pictures/photos/a.jpg: cannot write it (File too large); make room, or choose "
        "another place\n"
    )
    assert files(Path("out")) == {"results.part.json"}


def test_lists_that_may_not_grow(predict, photos, boxes):
    """Pictures are left out, so that the long list of results is the first to be too much."""
    many(photos, 20)
    options = ["--no-pictures", "--score-threshold", "0"]
    with short_files():
        status, _, errors = predict(*boxes, "photos", "--out", "out", *options)
    assert status == 2
    assert errors.startswith("error: out/summary.csv: cannot write it (File too large)")
    assert files(Path("out")) == {"results.part.json"}


def test_a_full_disk(root, tmp_path, photos, boxes):
    """A disk of 400 kB, of which the pictures of the first images take all."""
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /tmp"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs to mount a small disk: no right to do so here")
    many(photos, 40)
    (tmp_path / "disk").mkdir()
    # The disk is gone when its process ends, and its content with it.
    script = '"$@"; echo status=$?; cp -r predictions ../copy'
    tool = [sys.executable, root / "tools/predict.py", *boxes, photos]
    command = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "-", "400k", "disk", "sh", "-c", script]
    _, output, errors = run([*command, "-", *tool], tmp_path)
    assert "status=2" in output, errors
    (error,) = errors.strip().split("\n")
    assert error.startswith("error: predictions/pictures/photos/00")
    assert "cannot write it (No space left on device); make room" in error
    assert_whole(tmp_path / "copy")
    assert len(files(tmp_path / "copy")) > 1
    assert not (tmp_path / "copy/results.json").exists()


def test_a_terminal_shows_progress(root, tmp_path, photos, boxes):
    terminal, other_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, root / "tools/predict.py", *boxes, "photos"]
    with subprocess.Popen(
        list(map(str, command)), cwd=tmp_path, stdout=subprocess.PIPE, stderr=other_end, text=True
    ) as process:
        output, _ = process.communicate(timeout=120)
    os.close(other_end)
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert process.returncode == 0
    assert "100%" in shown
    assert "3/3" in shown
    assert "3 images" in output
