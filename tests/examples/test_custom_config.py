"""The example of configs outside of the repository."""

import json
import re
from pathlib import Path

import pytest
from example_folders import commands, copied, execute, in_one_process, program

# A real detector, made to pass in seconds.
FEW = "max_per_img=20"
SHORTER = {
    "make_digits": ["--num-train", "2", "--num-val", "1", "--image-size", "96"],
    "my_detector.py train": [
        *("--cfg-options", "train_cfg.max_epochs=1", *in_one_process("train")),
        *("default_hooks.logger.interval=1", "default_hooks.checkpoint.save_optimizer=False"),
        *(f"model.train_cfg.rpn_proposal.{FEW}", f"model.test_cfg.rpn.{FEW}"),
        *("model.train_cfg.rcnn.sampler.num=16", f"model.test_cfg.rcnn.{FEW}"),
    ],
    "my_detector.py test": [
        *("--cfg-options", *in_one_process("test")),
        *(f"model.test_cfg.rpn.{FEW}", f"model.test_cfg.rcnn.{FEW}"),
    ],
    "my_classifier.py train": [
        *("--cfg-options", "train_cfg.max_epochs=1", *in_one_process("train")),
        *("train_dataloader.dataset.indices=64", "default_hooks.logger.interval=1"),
    ],
    "my_classifier.py test": [
        *("--cfg-options", *in_one_process("test"), "test_dataloader.dataset.indices=64"),
    ],
}


def key(words: list[str]) -> str:
    """The program, with the config before it if there is one."""
    config = [word for word in words[4:5] if word.startswith("my_")]
    return " ".join([*config, program(words)])


def test_its_page_in_another_folder(tmp_path):
    folder = copied("custom_config", tmp_path)
    said = {}
    for words in commands(folder / "README.md"):
        words = [re.sub(r"epoch_\d+\.pth", "epoch_1.pth", word) for word in words]
        said[key(words)] = execute([*words, *SHORTER.get(key(words), [])], folder)

    assert "13,466,176" in said["my_detector.py count_params"]
    assert "loss_mask: " in said["my_detector.py train"]
    assert "coco/segm_mAP: " in said["my_detector.py test"]
    assert "MiniSwin" in said["my_classifier.py count_params"]
    assert re.search(r"Epoch\(train\) +\[1\]\[1/1\].* loss: 2\.", said["my_classifier.py train"])
    assert "accuracy/top1: " in said["my_classifier.py test"]
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "data", "make_digit_images.py", "my_classifier.py", "my_detector.py"),
        "work_dirs",
    }


def test_its_numbers_are_in_the_log(root):
    log = json.loads((root / "docs/results/examples/custom_config.json").read_text())
    page = (root / "examples/custom_config/README.md").read_text()
    assert f"{log['metrics']['accuracy/top1']:.1f}% of\nthe {log['images']['val']} held-out" in page
    assert f"{log['cpu_seconds_of_training']} seconds of CPU time" in page


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_the_classifier_as_its_page_has_it(tmp_path):
    folder = copied("custom_config", tmp_path)
    said = {}
    for words in commands(folder / "README.md"):
        if "my_detector.py" not in words and program(words) != "make_digits":
            said[key(words)] = execute(words, folder)
    assert float(re.search(r"accuracy/top1: ([\d.]+)", said["my_classifier.py test"])[1]) > 85


def test_configs_name_no_place(root):
    """They inherit by the names of packages alone, so that they work anywhere."""
    from mmengine.config import Config

    for file in sorted(Path(root, "examples").rglob("my_*.py")):
        bases = Config._get_base_files(str(file))
        bases = [bases] if isinstance(bases, str) else bases
        assert bases and all("::" in base for base in bases), f"{file.name}: {bases}"
