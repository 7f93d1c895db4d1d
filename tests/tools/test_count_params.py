"""`tools/count_params.py` as a whole process."""

import json
import sys

from processes import run

CONFIG = """
default_scope = "mmpretrain"
model = dict(
    type="ImageClassifier",
    backbone=dict(type="HaLViT", arch="{arch}"),
    head=dict(type="LinearClsHead", num_classes=1000, in_channels={dim}),
)
"""


def test_good_and_bad_configs_together(tmp_path, root):
    (tmp_path / "nano.py").write_text(CONFIG.format(arch="nano", dim=192))
    (tmp_path / "huge.py").write_text(CONFIG.format(arch="huge", dim=192))
    (tmp_path / "tiny.py").write_text(CONFIG.format(arch="tiny", dim=384))
    tool = [sys.executable, root / "tools/count_params.py"]
    files = ["absent.py", "nano.py", "huge.py", "tiny.py"]
    status, output, errors = run([*tool, *files, "--json", "out/counts.json"], tmp_path)
    assert status == 2
    assert [line for line in errors.splitlines() if line.startswith("error: ")] == [
        "error: absent.py: there is no such config; check the path",
        next(line for line in errors.splitlines() if line.startswith("error: huge.py: ")),
    ]
    assert "'huge' is unknown" in errors
    assert "Traceback" not in errors
    assert "nano.py: ImageClassifier on HaLViT, 224 × 224\n" in output
    assert "3,063,208" in output and "11,433,832" in output
    counts = json.loads((tmp_path / "out/counts.json").read_text())
    assert [entry["parameters"] for entry in counts["configs"]] == [3_063_208, 11_433_832]
    assert [entry["config"] for entry in counts["errors"]] == ["absent.py", "huge.py"]


def test_json_on_stdout(tmp_path, root):
    """A detector of the repository, from another folder: stdout is JSON and nothing else."""
    config = root / "configs/nuclei/mask_rcnn_halvit_small_nuclei.py"
    tool = [sys.executable, root / "tools/count_params.py", config]
    options = ["--json", "-", "--input-size", "100", "60", "--cfg-options"]
    status, output, errors = run([*tool, *options, "model.backbone.tied=False"], tmp_path)
    assert status == 0, errors
    (entry,) = json.loads(output)["configs"]
    assert entry["padded_size"] == [104, 64]
    assert entry["dense_twin"] is None
    assert entry["parameters"] == entry["naive"] == sum(p["parameters"] for p in entry["parts"])


def test_a_wrong_size(tmp_path, root):
    tool = [sys.executable, root / "tools/count_params.py", "x.py", "--input-size", "0", "5"]
    status, output, errors = run(tool, tmp_path)
    assert (status, output) == (2, "")
    assert "a whole number of pixels above 0, not '0'" in errors
