"""Exported models that are damaged or an attacker's: nothing but operations on tensors runs."""

import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_pickles import Calls
from mutated_files import rezipped, saved, watched

from halvit_mm.deploy.export import export_onnx
from halvit_mm.deploy.export_programs import export_program
from halvit_mm.deploy.program_runtime import ProgramModel
from halvit_mm.deploy.runtime import OnnxModel
from halvit_mm.errors import UserError

pytestmark = pytest.mark.xdist_group("programs")


@pytest.fixture(scope="module")
def files(classifier, pictures, tmp_path_factory) -> dict[str, Path]:
    """The same classifier in each form."""
    folder = tmp_path_factory.mktemp("exported")
    for suffix in (".pt2", ".pt"):
        export_program(classifier, folder / f"a{suffix}", images=pictures[:2])
    export_onnx(classifier, folder / "a.onnx", images=pictures[:2])
    return {path.suffix: path for path in folder.iterdir()}


def damaged(content: bytes, count: int) -> Iterator[bytes]:
    rng = random.Random(len(content))
    for _ in range(count):
        yield content[: rng.randrange(len(content))]
        changed = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield bytes(changed)


GARBAGE = (b"", b"PK\x05\x06" + bytes(18), b"<html>404</html>", bytes(10_000), b"\x80\x02}.")


@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_damaged_programs_are_refused_or_as_they_were(files, pictures, tmp_path, suffix):
    content, path = files[suffix].read_bytes(), tmp_path / f"b{suffix}"
    expected = ProgramModel(files[suffix]).predict(pictures[:1])[0].scores
    for changed in (*damaged(content, 30), *GARBAGE):
        path.write_bytes(changed)
        try:
            with watched():
                model = ProgramModel(path)
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            np.testing.assert_array_equal(model.predict(pictures[:1])[0].scores, expected)


def test_damaged_graphs_are_refused_or_load(files, tmp_path):
    """ONNX has no checksum: a flipped bit in a weight is a weight."""
    content, path = files[".onnx"].read_bytes(), tmp_path / "b.onnx"
    for changed in (*damaged(content, 40), *GARBAGE):
        path.write_bytes(changed)
        for prefer in ("memory", "speed"):
            try:
                with watched(megabytes=4000):
                    OnnxModel(path, prefer=prefer)
            except UserError as error:
                assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".onnx"])
def test_what_is_no_file_is_refused(tmp_path, suffix):
    model = OnnxModel if suffix == ".onnx" else ProgramModel
    for name, make in {
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "zeros": lambda path: path.symlink_to("/dev/zero"),
        "nothing": lambda path: None,
    }.items():
        make(path := tmp_path / f"{name}{suffix}")
        with watched(), pytest.raises(UserError, match="there is no such model"):
            model(path)


@pytest.mark.parametrize("about", [b"", b"7", b"{", b"[]", b"{}", b'{"task": 3}', b"[" * 10**5])
@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_facts_that_are_none_are_refused(files, tmp_path, suffix, about):
    path = tmp_path / f"b{suffix}"
    path.write_bytes(changed_part(files[suffix], "extra/halvit_mm", lambda old: about))
    with pytest.raises(UserError, match="export it"):
        ProgramModel(path)


def changed_part(path: Path, end: str, change: Callable[[bytes], bytes]) -> bytes:
    return rezipped(path.read_bytes(), lambda name, old: change(old) if name.endswith(end) else old)


def edited(path: Path, edit: Callable[[Any], None], end: str = "models/model.json") -> bytes:
    def change(old: bytes) -> bytes:
        content = json.loads(old)
        edit(content)
        return json.dumps(content).encode()

    return changed_part(path, end, change)


def added(path: Path, name: str, data: bytes) -> bytes:
    buffer = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{name}", data)
    return buffer.getvalue()


def graph_of(program: dict) -> dict:
    return program["graph_module"]["graph"]


def with_formula(text: str) -> Callable[[dict], None]:
    def edit(program: dict) -> None:
        values = graph_of(program)["tensor_values"]
        sizes = next(v["sizes"] for v in values.values() if v["sizes"])
        sizes[0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}

    return edit


def renamed(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(json.dumps(old).encode(), json.dumps(new).encode())


def first_node(**changed: Any) -> Callable[[dict], None]:
    return lambda program: graph_of(program)["nodes"][0].update(changed)


def hostile_programs(path: Path, canary: Path) -> dict[str, bytes]:
    call = saved(Calls(os.system, f"touch {canary}"))
    python = f"__import__('os').system('touch {canary}')"

    def pickled(config: dict) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    def custom(program: dict) -> None:
        argument = {"as_custom_obj": {"name": "x", "class_fqn": "__torch__.torch.classes.a"}}
        graph_of(program)["nodes"][0]["inputs"][0]["arg"] = argument

    def keyword(program: dict) -> None:
        graph_of(program)["nodes"][0]["inputs"][0] |= {"name": f"x={python}, y", "kind": 2}

    weights = "data/weights/model_weights_config.json"
    return {
        "formula": edited(path, with_formula(python)),
        "formula that opens": edited(path, with_formula(f"open('{canary}', 'w')")),
        "formula of attributes": edited(path, with_formula("Symbol('s1').__class__")),
        "formula that takes long": edited(
            path, with_formula("Pow(Integer(9), Pow(Integer(9), Integer(99999999)))")
        ),
        "guards": edited(path, lambda program: program.update(guards_code=[python])),
        "function": edited(path, first_node(target="torch.hub.load")),
        "function of os": edited(path, first_node(target="torch.serialization.os.system")),
        "file": edited(path, first_node(target="torch.ops.aten.from_file.default")),
        "other operators": edited(path, first_node(target="torch.ops.image.write_file.default")),
        "metadata": edited(path, first_node(metadata={"source_fn_stack": "torch.hub.load"})),
        "input's name": changed_part(path, "model.json", renamed("image", f"image={python}")),
        "keyword": edited(path, keyword),
        "custom object": edited(path, custom),
        "pickled weight": edited(path, pickled, weights),
        "weight's name": changed_part(
            path, weights, renamed("backbone.pos_embed", f'x", {python}, "')
        ),
        "example": changed_part(path, "sample_inputs/model.pt", lambda old: call),
        "library": added(path, "data/aotinductor/model/a.so", b"\x7fELF"),
        "source": added(path, "data/aotinductor/model/a.wrapper.cpp", b"int main() {}"),
        "old constants": added(path, "data/constants/model.pt", call),
        "object": added(path, "data/constants/custom_obj_0", call),
        "twice": added(path, "models/model.json", b"{}"),
    }


def test_a_program_that_could_run_code_is_refused(files, tmp_path):
    path, canary = tmp_path / "b.pt2", tmp_path / "canary"
    for name, content in hostile_programs(files[".pt2"], canary).items():
        path.write_bytes(content)
        with watched(), pytest.raises(UserError, match=r"b\.pt2") as caught:
            ProgramModel(path)
        assert "\n" not in str(caught.value) and not canary.exists(), name
        assert "could run code" in str(caught.value) or name == "twice", name


@pytest.mark.parametrize("name", ["formula", "example"])
def test_pytorch_itself_would_run_it(files, tmp_path, name):
    """Why the files are looked at: else the test above would show nothing."""
    path, canary = tmp_path / "b.pt2", tmp_path / "canary"
    path.write_bytes(hostile_programs(files[".pt2"], canary)[name])
    try:
        torch.export.load(path)
    except Exception as error:  # it may fail afterwards
        print(error)
    assert canary.exists()


def test_a_script_that_could_reach_out_is_refused(files, tmp_path):
    path, canary = tmp_path / "b.pt", tmp_path / "canary"
    whole = files[".pt"]
    code = code_of(whole, "deploy/programs")
    lines = {
        "saves": f'    torch.save(image, "{canary}")\n',
        "maps a file": f'    x = torch.from_file("{canary}", True, 8)\n',
        "writes": f'    ops.image.write_file("{canary}", image)\n',
        "calls": '    rpc_async("x", "y")\n',
        "class": "    x = __torch__.torch.classes.a.B.__new__(__torch__.torch.classes.a.B)\n",
    }
    made = {
        name: changed_part(whole, code, lambda old, line=line: after_def(old, line.encode()))
        for name, line in lines.items()
    }
    setstate = b"  def __setstate__(self, x: Tensor) -> NoneType:\n    return None\n"
    made["at once"] = changed_part(whole, code, lambda old: old + setstate)
    made["other part"] = added(whole, "a.so", b"\x7fELF")
    made["bomb"] = added(whole, "code/__torch__/a.py", b"")
    buffer = io.BytesIO(whole.read_bytes())
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/code/__torch__/a.py", bytes(100_000_000))
    made["bomb"] = buffer.getvalue()
    for name, content in made.items():
        assert content != whole.read_bytes(), name
        path.write_bytes(content)
        with watched(), pytest.raises(UserError, match=r"b\.pt"):
            ProgramModel(path)
        assert not canary.exists(), name


def code_of(script: Path, module: str) -> str:
    """Where its code lies, as TorchScript names classes anew that a process exports again."""
    with zipfile.ZipFile(script) as archive:
        (name,) = [n for n in archive.namelist() if module in n and n.endswith(".py")]
    return name


def after_def(code: bytes, line: bytes) -> bytes:
    head, _, rest = code.partition(b":\n    ")
    return head + b":\n" + line + b"    " + rest


def test_each_operator_of_pytorch_that_names_a_file_is_known():
    """Of those that programs may use by their namespace."""
    from halvit_mm.deploy.program_files import _OUTSIDE

    named = {
        schema.name.partition("::")[2]
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith(("aten::", "prims::", "torchvision::"))
        and any(
            str(argument.type) == "str" and ("file" in argument.name or "path" in argument.name)
            for argument in schema.arguments
        )
    }
    assert named and named <= _OUTSIDE
