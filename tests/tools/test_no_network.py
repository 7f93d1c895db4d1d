"""The tools at work where any other machine is out of reach, and watched for whether they try."""

import json
import sys
from pathlib import Path

from processes import run
from tiny_runs import CLASSES, classifier_config, detector_config, make_coco, make_folders

#: Runs tools one after the other in one process and says what they wanted of the network.
CODE = """
import json, runpy, sys
sys.path.insert(0, sys.argv[2])
from halvit_mm.serving.offline import is_loopback
tried = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0] or "localhost"
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not is_loopback(host):
        tried.append(f"{event} {host}")
        raise ConnectionRefusedError(host)

sys.addaudithook(watch)
for arguments in json.loads(sys.argv[1]):
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as error:
        assert not error.code, (arguments, error.code)
import socket
try:
    socket.create_connection(("203.0.113.1", 80), timeout=5)
except ConnectionRefusedError:
    pass
print("TRIED", json.dumps(tried))
"""


def tried(root: Path, folder: Path, *commands: list) -> list[str]:
    tools = [[str(root / "tools" / tool), *map(str, rest)] for tool, *rest in commands]
    status, output, errors = run(
        [sys.executable, "-c", CODE, json.dumps(tools), root],
        folder,
        PYTHONPATH=f"{root / 'tools'}:{root}",
        HF_HUB_OFFLINE="0",
        NO_ALBUMENTATIONS_UPDATE="",
    )
    assert status == 0, errors[-3000:]
    return json.loads(output.rpartition("TRIED ")[2])


#: That the watching itself works.
ITSELF = ["socket.getaddrinfo 203.0.113.1"]


def test_training_testing_predicting_and_exporting_stay_on_the_machine(root, tmp_path):
    data = make_folders(tmp_path / "data")
    config = classifier_config(tmp_path / "classifier.py", data)
    run_dir, picture = tmp_path / "run", next(data.glob("*/*.png"))
    checkpoint = run_dir / "epoch_1.pth"
    options = ["train_cfg.max_epochs=1", "default_hooks.checkpoint.interval=1"]
    found = tried(
        root,
        tmp_path,
        ["train.py", config, "--work-dir", run_dir, "--cfg-options", *options],
        ["test.py", config, checkpoint, "--work-dir", tmp_path / "test", "--out", "p.pkl"],
        ["draw_predictions.py", config, "p.pkl", "page.png"],
        ["predict.py", config, checkpoint, picture, "--out", tmp_path / "predicted"],
        ["publish_model.py", checkpoint, "small.safetensors"],
        ["count_params.py", config],
        ["export_program.py", config, checkpoint, "a.pt2", "--images", data / CLASSES[0]],
        ["export_onnx.py", config, checkpoint, "a.onnx", "--images", data / CLASSES[0]],
        ["analyze_run.py", run_dir],
    )
    assert found == ITSELF
    assert (tmp_path / "a.onnx").is_file() and (tmp_path / "page.png").is_file()


def test_so_does_a_detector(root, tmp_path):
    data = make_coco(tmp_path / "coco")
    config = detector_config(tmp_path / "detector.py", data)
    found = tried(
        root,
        tmp_path,
        ["train.py", config, "--work-dir", "run", "--cfg-options", "train_cfg.max_epochs=1"],
        ["test.py", config, "run/epoch_1.pth", "--work-dir", "test"],
    )
    assert found == ITSELF
