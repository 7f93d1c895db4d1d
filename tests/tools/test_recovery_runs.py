"""From a checkpoint of timm to a half-weight detector, by the commands of docs/halving.md."""

import sys
from pathlib import Path

import torch
from processes import run
from tiny_runs import classifier_config, detector_config, make_coco, make_folders

#: timm's ViT of the size of the tiny configs.
SHAPE = dict(img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=2)
STUDENT = """
_base_ = "half.py"
custom_imports = dict(imports=["halvit_mm", "halvit_mm.distillation"])
load_from = "half.pth"
model = dict(
    type="DistilledClassifier",
    teacher=dict(config="dense.py", checkpoint="dense.pth"),
    distillation=dict(prediction=dict(weight=0.5)),
    label_weight=0.5,
)
"""


def test_dense_checkpoint_to_half_model_to_detector(root: Path, tmp_path: Path) -> None:
    import timm

    def command(tool: str, *arguments: str) -> str:
        status, output, errors = run([sys.executable, root / "tools" / tool, *arguments], tmp_path)
        assert status == 0, errors
        return output

    torch.manual_seed(0)
    model = timm.models.VisionTransformer(**SHAPE)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    classifier_config(tmp_path / "half.py", make_folders(tmp_path / "images"))
    (tmp_path / "dense.py").write_text(
        '_base_ = "half.py"\nmodel = dict(backbone=dict(tied=False))'
    )
    (tmp_path / "student.py").write_text(STUDENT)

    command("convert_checkpoint.py", "timm.pth", "dense.pth", "--num-heads", "2")
    output = command(
        "halve.py", "dense.pth", "half.pth", "--config", "student.py", "--calib", "images",
        "--images", "8", "--steps", "2",
    )  # fmt: skip
    assert "agreement: " in output
    command(
        "train.py", "student.py", "--work-dir", "run", "--cfg-options", "train_cfg.max_epochs=1"
    )
    trained = torch.load(tmp_path / "run/epoch_1.pth", weights_only=False)["state_dict"]
    halved = torch.load(tmp_path / "half.pth", weights_only=True)["state_dict"]
    assert trained.keys() == halved.keys()  # the teacher is no part of it
    name = "backbone.blocks.0.ffn.weight"
    moved = (trained[name] - halved[name]).norm() / halved[name].norm()
    assert 0 < moved < 0.5  # it started from the halved weights

    detector = detector_config(tmp_path / "detector.py", make_coco(tmp_path / "coco"))
    init = 'dict(type="PretrainedBackbone", checkpoint="run/epoch_1.pth")'
    detector.write_text(f"{detector.read_text()}\nmodel['backbone']['init_cfg'] = {init}\n")
    output = command(
        "train.py", "detector.py", "--work-dir", "boxes", "--cfg-options", "train_cfg.max_epochs=1"
    )
    found = torch.load(tmp_path / "boxes/epoch_1.pth", weights_only=False)["state_dict"]
    moved = (found[name] - trained[name]).norm() / trained[name].norm()
    assert moved < 0.5
