"""Checkpoints as files of safetensors: what is in them, and what is said of damaged ones."""

import functools
import http.server
import json
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from safetensors.torch import load_file, save_file
from torch import nn

from halvit_mm.checkpoints import load_backbone, read_state_dict
from halvit_mm.checkpoints.conversion import convert_file, export_file
from halvit_mm.checkpoints.publish import publish
from halvit_mm.checkpoints.reading import check_file, read_checkpoint
from halvit_mm.checkpoints.safetensors_format import is_safetensors
from halvit_mm.checkpoints.saving import save_checkpoint
from halvit_mm.errors import UserError

BACKBONES = {
    "HaLViT": dict(arch=dict(dim=192, depth=4, num_heads=3), img_size=64),
    "HalfResNet": dict(depth=50),
    "MiniSwin": dict(arch="tiny"),
}


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def header_of(path) -> dict:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


@pytest.mark.parametrize("kind", BACKBONES)
def test_each_weight_of_a_model_is_stored_once_and_comes_back_bit_for_bit(tmp_path, kind):
    model = MODELS.build(dict(type=kind, **BACKBONES[kind]))
    weights = model.state_dict()
    save_checkpoint({"state_dict": weights}, tmp_path / "c.safetensors")
    stored = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    assert stored <= (tmp_path / "c.safetensors").stat().st_size <= 1.01 * stored

    for found in (
        read_state_dict(tmp_path / "c.safetensors"),
        load_file(tmp_path / "c.safetensors"),
    ):
        assert found.keys() == weights.keys()
        for name, tensor in weights.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert bytes_of(found[name]) == bytes_of(tensor), name
    again = MODELS.build(dict(type=kind, **BACKBONES[kind]))
    again.load_state_dict(read_state_dict(tmp_path / "c.safetensors"), strict=True)


def test_tensors_of_any_kind_come_back(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    weights = {
        "transposed": whole.t(),
        "rows": whole[1:3],
        "columns": whole[:, 1:3],
        "alias": whole[1:3],
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "empty_too": torch.zeros(0, 3),
        "bf16": torch.tensor([1.5, -2.0, -0.0], dtype=torch.bfloat16),
        "fp16": torch.tensor([0.1, 65504.0]).half(),
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    save_checkpoint({"state_dict": weights}, tmp_path / "c.safetensors")
    found = read_state_dict(tmp_path / "c.safetensors")
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bytes_of(found[name]) == bytes_of(tensor.detach()), name
    assert found["alias"].data_ptr() == found["rows"].data_ptr()
    assert "alias" not in header_of(tmp_path / "c.safetensors")


def test_facts_beside_the_weights_are_kept_where_json_has_them(tmp_path):
    meta = dict(
        dataset_meta=dict(classes=("cat", "Äpfel"), palette=[(1, 2, 3)]),
        cfg="model = dict(type='x')\n",
        epoch=3,
        hook=object(),
    )
    content = {"state_dict": {"a": torch.ones(2)}, "meta": meta}
    save_checkpoint(content, tmp_path / "c.safetensors")
    assert read_checkpoint(tmp_path / "c.safetensors")["meta"] == dict(
        dataset_meta=dict(classes=["cat", "Äpfel"], palette=[[1, 2, 3]]),
        cfg="model = dict(type='x')\n",
        epoch=3,
    )


def test_the_same_content_gives_the_same_bytes_in_every_process(tmp_path):
    code = (
        "import torch; from pathlib import Path;"
        "from halvit_mm.checkpoints.saving import save_checkpoint;"
        "w = torch.arange(4.); meta = dict(b=1, a=dict(z=1, c=2));"
        "save_checkpoint(dict(state_dict=dict(b=w, a=w), meta=meta), Path('{}.safetensors'))"
    )
    for i in range(3):
        subprocess.run(
            [sys.executable, "-c", code.format(i)],
            cwd=tmp_path,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(3)}) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"state_dict": {}, "optimizer": {}}, "not 'optimizer'; write a .pth file"),
        ({"state_dict": {"a": torch.ones(2, dtype=torch.complex128)}}, "complex128"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused(tmp_path, content, reason):
    with pytest.raises(UserError, match=reason):
        save_checkpoint(content, tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk(size: int):
    """Lets no file grow over ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["c.safetensors", "c.pth"])
def test_a_full_disk_is_said_so_and_nothing_is_left_of_the_file(tmp_path, name):
    content = {"state_dict": {"a": torch.ones(100_000)}}
    torch.save(content, tmp_path / "source.pth")
    before = sorted(tmp_path.iterdir())
    with full_disk(50_000), pytest.raises(UserError, match=f"{name}: cannot write it .* make room"):
        save_checkpoint(content, tmp_path / name)
    with full_disk(50_000), pytest.raises(UserError, match="on a disk with room"):
        publish(tmp_path / "source.pth", tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_files_of_other_tools_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "c.safetensors", {"format": "pt", "checkpoint": "7"})
    assert read_checkpoint(tmp_path / "c.safetensors").keys() == {"state_dict"}
    save_file({"a": torch.ones(2)}, tmp_path / "bare.safetensors")
    assert read_state_dict(tmp_path / "bare.safetensors")["a"].tolist() == [1, 1]


def test_files_are_told_apart_by_content(tmp_path):
    weights = {"a": torch.ones(2)}
    save_checkpoint({"state_dict": weights}, tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").rename(tmp_path / "renamed.pth")
    torch.save(weights, tmp_path / "torch.safetensors")
    torch.save(weights, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    for name in ("renamed.pth", "torch.safetensors", "old.safetensors"):
        check_file(tmp_path / name)
        assert torch.equal(read_state_dict(tmp_path / name)["a"], torch.ones(2))


def test_a_header_whose_length_looks_like_a_pickle_is_no_pickle(tmp_path):
    # 640 bytes: the length begins with 80 02, as pickles do.
    save_file({"a": torch.ones(2)}, tmp_path / "c.pth", {"x": ""})
    length = int.from_bytes((tmp_path / "c.pth").read_bytes()[:8], "little")
    save_file({"a": torch.ones(2)}, tmp_path / "c.pth", {"x": "x" * (640 - length)})
    assert (tmp_path / "c.pth").read_bytes()[:2] == b"\x80\x02"
    assert is_safetensors(tmp_path / "c.pth")
    assert list(read_state_dict(tmp_path / "c.pth")) == ["a"]


def with_header(header: bytes, rest: bytes = b"", *, length: int | None = None) -> bytes:
    length = len(header) if length is None else length
    return length.to_bytes(8, "little") + header + rest


ENTRY = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no file of safetensors"),
        (b"{}", "no file of safetensors"),
        (b"<html>404: not found</html>", "no file of safetensors"),
        (with_header(ENTRY, bytes(8), length=10**15), "no file of safetensors"),
        (with_header(ENTRY, length=5000), "cut off"),
        (with_header(ENTRY, bytes(7)), "cut off"),
        (with_header(b"{" + bytes(50)), "header of this checkpoint is damaged"),
        (with_header(b'{"a":' * 50_000), "header of this checkpoint is damaged"),
        (with_header(b'{"a":7}'), "header of this checkpoint is damaged"),
        (with_header(ENTRY, bytes(9)), "is damaged"),
        (with_header(ENTRY.replace(b"[2]", b"[3]"), bytes(8)), "is damaged"),
        (with_header(ENTRY.replace(b"F32", b"F99"), bytes(8)), "is damaged"),
        (
            with_header(
                b'{"__metadata__":{"checkpoint":"{\\"aliases\\":{\\"b\\":\\"c\\"}}"},' + ENTRY[1:],
                bytes(8),
            ),
            "is damaged",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, content, reason):
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=rf"c\.safetensors: .*{reason}") as caught:
        read_state_dict(tmp_path / "c.safetensors")
    assert "\n" not in str(caught.value)


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    save_checkpoint({"state_dict": {"a": torch.ones(2)}}, tmp_path / "c.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        read_state_dict(tmp_path / "c.safetensors")


def test_backbones_start_from_such_files(tmp_path):
    options = BACKBONES["HaLViT"]
    source, backbone = (MODELS.build(dict(type="HaLViT", **options)) for _ in range(2))
    weights = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    save_checkpoint({"state_dict": weights}, tmp_path / "c.safetensors")
    assert load_backbone(backbone, tmp_path / "c.safetensors").fraction == 1
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


def test_mmengines_own_loading_reads_them_and_torch_files_as_before(tmp_path):
    source = nn.Linear(2, 3)
    content = {"state_dict": source.state_dict(), "meta": {"epoch": 3}}
    for name in ("c.safetensors", "c.pth"):
        save_checkpoint(content, tmp_path / name)
        model = nn.Linear(2, 3)
        loaded = load_checkpoint(model, str(tmp_path / name), map_location="cpu", strict=True)
        assert torch.equal(model.weight, source.weight)
        assert loaded["meta"]["epoch"] == 3
    with pytest.raises(UserError, match="there is no such checkpoint"):
        load_checkpoint(nn.Linear(2, 3), str(tmp_path / "absent.safetensors"))


def test_addresses_of_such_files_are_read_as_well(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    save_checkpoint({"state_dict": {"a": torch.ones(2)}}, site / "c.safetensors")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/c.safetensors"
    try:
        assert list(read_state_dict(address)) == ["a"]
        loaded = CheckpointLoader.load_checkpoint(f"{address}?download=true", map_location="cpu")
        assert list(loaded["state_dict"]) == ["a"]
    finally:
        server.shutdown()
        server.server_close()


def test_publishing_and_converting_write_such_files(tmp_path):
    model = MODELS.build(dict(type="MiniSwin", **BACKBONES["MiniSwin"]))
    weights = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    # As in mmpretrain's ViTs, where norms have two names.
    weights["backbone.alias"] = next(iter(weights.values()))
    meta = {"dataset_meta": {"classes": ("a", "b")}, "epoch": 3, "experiment_name": "somewhere"}
    torch.save({"state_dict": weights, "meta": meta, "optimizer": {}}, tmp_path / "c.pth")

    path = publish(tmp_path / "c.pth", tmp_path / "m.safetensors")
    assert path == tmp_path / f"m-{path.stem[2:]}.safetensors" and len(path.stem) == 10
    content = read_checkpoint(path)
    assert content["meta"]["dataset_meta"] == {"classes": ["a", "b"]}
    assert "experiment_name" not in content["meta"]
    assert content["state_dict"].keys() == weights.keys()
    assert "backbone.alias" not in header_of(path)

    half = publish(path, tmp_path / "half.safetensors", fp16=True)  # such files are read as well
    assert half.stat().st_size < 0.51 * path.stat().st_size
    back = publish(path, tmp_path / "back.pth")
    assert torch.load(back)["meta"]["epoch"] == 3


def test_conversion_writes_what_it_would_write_to_a_torch_file(tmp_path):
    import torchvision

    save_file(torchvision.models.resnet50().state_dict(), tmp_path / "dense.safetensors")
    convert_file(tmp_path / "dense.safetensors", tmp_path / "half.safetensors")
    convert_file(tmp_path / "dense.safetensors", tmp_path / "half.pth")
    found, expected = (read_checkpoint(tmp_path / f"half.{s}") for s in ("safetensors", "pth"))
    assert found["meta"] == json.loads(json.dumps(expected["meta"]))
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value)


def test_minivits_authors_read_torch_files_only(tmp_path):
    from mmpretrain.models import ImageClassifier

    model = ImageClassifier(
        backbone=dict(type="MiniDeiT", arch="tiny"),
        head=dict(type="LinearClsHead", num_classes=3, in_channels=192),
    )
    torch.save({"state_dict": model.state_dict()}, tmp_path / "ours.pth")
    with pytest.raises(UserError, match=r"not 'model'; write a \.pth file"):
        export_file(tmp_path / "ours.pth", tmp_path / "theirs.safetensors")
    assert not (tmp_path / "theirs.safetensors").exists()
