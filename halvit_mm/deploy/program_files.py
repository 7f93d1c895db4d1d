"""Whether a file of a PyTorch program holds nothing but operations on tensors, before it is loaded.

``torch.export.load`` and ``torch.jit.load`` are made for files that one trusts. The former runs
pickles and compiled libraries, evaluates formulas of sizes as Python, and writes names into source
code that it executes; operators of the latter write files. Files of this project need none of that.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError

#: What the two kinds of files consist of, without the name of the folder at the top.
_PROGRAM = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|extra/\w+|archive_(format|version)|byteorder|\.(data/[\w.]+|format_version|storage_alignment)"
)
_SCRIPT = re.compile(
    r"code/[\w/]+\.py(\.debug_pkl)?|(data|constants|traced_inputs)\.pkl"
    r"|(data|constants|traced_inputs)/\d+"
    r"|extra/\w+|version|byteorder|\.(data/[\w.]+|format_version|storage_alignment)"
)
#: Of TorchScript's text, which is compressed.
_MOST_CODE = 1 << 26

#: PyTorch's operators on tensors and torchvision's, and arithmetic on sizes.
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|torchvision|prims)\.\w+(\.\w+)?"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(max|min|not|int|float|ite|sum)|math\.(ceil|floor|trunc|sqrt)"
)
#: Those that read or write files; others that reach out of the process are no ``aten``.
_OUTSIDE = frozenset({"from_file", "save", "read_file", "write_file"})
_WORDS = re.compile(r"[\w.+\-<>, ;]*")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
#: Which modules an operation comes from, which is kept as text.
_STACK = re.compile(r"[\w.,;@'\"\[\]()<> -]*")
_TREE = re.compile(r"[\w.,:\[\]{}\"\\ ()-]*")
#: What formulas of sizes are made of.
_FUNCTIONS = {
    *("Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Max", "Min", "Mod"),
    *(
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
        "CeilDiv",
        "IntTrueDiv",
        "FloatTrueDiv",
        "ModularIndexing",
    ),
    *("FloorToInt", "CeilToInt", "RoundToInt", "TruncToInt", "ToFloat", "PowByNatural"),
    *("Eq", "Equality", "Ne", "Unequality", "Ge", "GreaterThan", "Gt", "StrictGreaterThan"),
    *("Le", "LessThan", "Lt", "StrictLessThan", "And", "Or", "Not", "Where"),
}


class NotPlain(Exception):
    """What a file holds that programs of this project do not."""


def check_program(path: Path) -> None:
    """Looks at a file of ``torch.export``.

    Raises:
        UserError: It is damaged, or holds more than operations on tensors.
    """
    _check(path, _PROGRAM, _check_program)


def check_script(path: Path) -> None:
    """Looks at a file of TorchScript.

    Raises:
        UserError: It is damaged, or holds more than operations on tensors.
    """
    _check(path, _SCRIPT, _check_script)


def _check(path: Path, allowed: re.Pattern, check: Any) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, allowed, path.stat().st_size)
            if (wrong := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{wrong}: wrong checksum")
            check(archive)
    except NotPlain as error:
        raise UserError(
            f"{path}: loading could run code ({error}); export the model with "
            "tools/export_program.py"
        ) from error
    except Exception as error:  # damaged bytes can raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{path}: PyTorch cannot read this program ({reason!r:.200}); copy it again"
        ) from error


def _check_entries(archive: zipfile.ZipFile, allowed: re.Pattern, size: int) -> None:
    names = [entry.filename for entry in archive.infolist()]
    for entry in archive.infolist():
        name = entry.filename.partition("/")[2]
        if not allowed.fullmatch(name):
            raise NotPlain(f"the part {name!r:.80}")
        if entry.compress_type != zipfile.ZIP_STORED and not name.startswith("code/"):
            raise zipfile.BadZipFile("compressed tensors")
    sizes = [entry.file_size for entry in archive.infolist()]
    stored = [e.file_size for e in archive.infolist() if e.compress_type == zipfile.ZIP_STORED]
    if len(names) > len(set(names)) or sum(stored) > size or sum(sizes) > size + _MOST_CODE:
        raise zipfile.BadZipFile("its directory is wrong")
    if len({name.partition("/")[0] for name in names}) != 1:
        raise zipfile.BadZipFile("it has several folders at its top")


def _check_program(archive: zipfile.ZipFile) -> None:
    for entry in archive.namelist():
        if entry.endswith("_config.json"):
            payloads = json.loads(archive.read(entry))["config"]
            if any(payload["use_pickle"] for payload in payloads.values()):
                raise NotPlain("weights as pickles")
            _check_texts(payloads)
        elif entry.endswith("/model.json"):
            program = json.loads(archive.read(entry))
            if program.get("guards_code"):
                raise NotPlain("guards, which are Python")
            _check_texts(program)
        elif entry.endswith("/model.pt"):
            try:  # where torch could not, it would read it without that
                torch.load(io.BytesIO(archive.read(entry)), map_location="cpu", weights_only=True)
            except Exception as error:
                raise NotPlain("an example that is no tensor") from error


def _check_texts(node: Any, key: str = "") -> None:
    """Each text of a graph must be of the kind that its place is for."""
    if isinstance(node, dict):
        for name, value in node.items():
            if not _WORDS.fullmatch(name):
                raise NotPlain(f"the name {name!r:.80}")
            if name == "as_custom_obj" or (name == "metadata" and {*value} - {"nn_module_stack"}):
                raise NotPlain(f"the part {name}")
            _check_texts(value, name)
    elif isinstance(node, list):
        for value in node:
            _check_texts(value, key)
    elif isinstance(node, str):
        if key in ("target", "as_operator"):
            plain = _OPERATOR.fullmatch(node) and not _OUTSIDE & {*node.split(".")}
        elif key == "expr_str":
            plain = _is_formula(node)
        elif key == "name" or key.endswith("_name"):
            plain = not node or _NAME.fullmatch(node)
        elif key == "nn_module_stack":
            plain = _STACK.fullmatch(node)
        elif key in ("in_spec", "out_spec"):
            plain = _TREE.fullmatch(node)
        else:
            plain = _WORDS.fullmatch(node)
        if not plain:
            raise NotPlain(f"{key} {node!r:.80}")


def _is_formula(text: str) -> bool:
    """Whether a text is a formula of sizes and no other Python, and none that takes long."""
    nodes = list(ast.walk(ast.parse(text, mode="eval")))
    powers = [node for node in nodes if isinstance(node, ast.Call) and _name(node) == "Pow"]
    return (
        len(powers) <= 4
        and all(_is_small(power.args) for power in powers)
        and all(_is_plain(node) for node in nodes)
    )


def _is_plain(node: ast.AST) -> bool:
    match node:
        case ast.Expression() | ast.Load() | ast.USub() | ast.UnaryOp(op=ast.USub()):
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in _FUNCTIONS
        case ast.Name(id=name):
            return name in _FUNCTIONS or re.fullmatch(r"[a-z]+\d+", name) is not None
        case ast.keyword(arg=name, value=ast.Constant(value=bool())):
            return name is not None and name.isidentifier()
        case ast.Constant(value=str(text)):
            return re.fullmatch(r"[a-z]+\d+|-?\d{1,19}(\.\d{1,19})?", text) is not None
        case ast.Constant(value=value):
            return isinstance(value, bool | float) or (isinstance(value, int) and value < 1 << 63)
    return False


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _is_small(arguments: list[ast.expr]) -> bool:
    exponents = [node.value for node in ast.walk(arguments[-1]) if isinstance(node, ast.Constant)]
    return len(arguments) == 2 and all(
        isinstance(value, int) and 0 <= value <= 8 for value in exponents
    )


def _check_script(archive: zipfile.ZipFile) -> None:
    for name in archive.namelist():
        if name.endswith((".py", ".pkl", ".debug_pkl")):
            _check_code(archive.read(name), is_code=name.endswith(".py"))


def _check_code(content: bytes, *, is_code: bool) -> None:
    if b"torch.classes" in content:
        raise NotPlain("classes in C++")
    if not is_code:
        return
    text = content.decode()
    words: Iterable[str] = re.findall(r"\w+", text)
    for word in words:
        if word in _OUTSIDE or word == "__setstate__" or word.startswith("rpc_"):
            raise NotPlain(f"{word} in its code")
    for space in re.findall(r"\bops\s*\.\s*(\w+)", text):
        if space not in ("aten", "prim", "torchvision"):
            raise NotPlain(f"operators of {space:.80}")
