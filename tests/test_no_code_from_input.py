"""What is read is never run: how the source may and may not treat files, options and names."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("halvit_mm/**/*.py"), *ROOT.glob("tools/*.py"), ROOT / "setup.py"])
SCRIPTS = sorted(ROOT.glob("tools/*.sh"))

#: Calls that turn data into code, by the end of their dotted name, and where each is allowed.
FORBIDDEN: dict[str, dict[str, str]] = {
    "eval": {},
    "exec": {},
    "compile": {},
    "__import__": {},
    "os.system": {},
    "os.popen": {},
    "pty.spawn": {},
    "marshal.loads": {},
    "shelve.open": {},
    "dill.load": {},
    "joblib.load": {},
    "cloudpickle.load": {},
    "pickle.load": {},
    "pickle.loads": {},
    "pickle.Unpickler": {},
    "pd.read_pickle": {},
    "yaml.load": {},
    "yaml.unsafe_load": {},
    "mmengine.load": {},
    "torch.hub.load": {},
    "load_from_local": {},
    "torch.jit.load": {
        "halvit_mm/deploy/program_runtime.py": "after `program_files` has looked at the file"
    },
    "torch.export.load": {
        "halvit_mm/deploy/program_runtime.py": "after `program_files` has looked at the file",
    },
    "import_module": {
        "halvit_mm/deploy/__init__.py": "names of this package's own, from a table",
        "halvit_mm/inference/__init__.py": "names of this package's own, from a table",
        "halvit_mm/halving/pairing.py": "names of this package's own, from a table",
        "halvit_mm/benchmark/sources.py": "libraries by constant names, or a config's scope",
        "halvit_mm/datasets/check_classes.py": "mmdet or mmpretrain",
        "tools/check_env.py": "libraries by constant names",
    },
    # A config of mmengine is a Python program by design: one runs those that one trusts.
    "Config.fromfile": {
        "halvit_mm/engine/config_errors.py": "the config that the user names",
        "halvit_mm/visualization/runs.py": "the copy of it in a run's own folder",
        "tools/check_env.py": "a config of this project's",
    },
    "Config.fromstring": {"halvit_mm/distillation/teacher.py": "the config that the user names"},
}

#: Calls that are allowed with some options only: the option, its value, and exceptions.
NEEDED: dict[str, tuple[str, bool, dict[str, str]]] = {
    "torch.load": (
        "weights_only",
        True,
        {"halvit_mm/checkpoints/reading.py": "True unless a caller in Python says no"},
    ),
    "np.load": ("allow_pickle", False, {}),
}


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an expression, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def problems(text: str, place: str) -> list[str]:
    """What in a source file could run what was read."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "shelve"):
            names = {alias.name for alias in node.names} - {"UnpicklingError"}
            found += [f"{place}:{node.lineno} imports {name}" for name in names]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        where = f"{place}:{node.lineno} {name}"
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        for end, allowed in FORBIDDEN.items():
            is_builtin = "." not in end and end in ("eval", "exec", "compile")
            same = name == end if is_builtin else name == end or name.endswith(f".{end}")
            if same and place not in allowed:
                found.append(where)
        for end, (option, value, allowed) in NEEDED.items():
            given = options.get(option)
            right = isinstance(given, ast.Constant) and given.value is value
            if name == end and not right and place not in allowed:
                found.append(f"{where} without {option}={value}")
        shell = options.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            found.append(f"{where} with shell")
        if name.startswith("subprocess.") and node.args:
            command = node.args[0]
            if isinstance(command, ast.JoinedStr) or (
                isinstance(command, ast.Constant) and isinstance(command.value, str)
            ):
                found.append(f"{where} with a command in one text")
    return found


def test_no_source_runs_what_it_reads():
    found = [
        problem
        for path in SOURCES
        for problem in problems(path.read_text(), path.relative_to(ROOT).as_posix())
    ]
    assert found == []


def test_the_exceptions_are_still_in_use():
    """A line that nothing needs any more would hide the next one."""
    unused = []
    rules = {**FORBIDDEN, **{end: allowed for end, (_, _, allowed) in NEEDED.items()}}
    for end, allowed in rules.items():
        for place in allowed:
            calls = [
                dotted(node.func)
                for node in ast.walk(ast.parse((ROOT / place).read_text()))
                if isinstance(node, ast.Call)
            ]
            if not any(name == end or name.endswith(f".{end}") for name in calls):
                unused.append(f"{place}: {end}")
    assert unused == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trust)",
        "np.load(path, allow_pickle=True)",
        "np.load(path)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(f'ls {path}')",
        "subprocess.Popen('ls')",
        "importlib.import_module(name)",
        "from pickle import loads",
        "Config.fromfile(path)",
    ],
)
def test_the_rules_find_what_they_are_for(line):
    assert problems(line, "halvit_mm/x.py")


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "re.compile(text)",
        "small.compile()",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "subprocess.run([python, path])",
        "from pickle import UnpicklingError",
    ],
)
def test_and_nothing_else(line):
    assert not problems(line, "halvit_mm/x.py")


_UNQUOTED = re.compile(r"\$(?:\{[^}]*\}|[\w@*])")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_quote_what_they_are_given(path):
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        assert not re.search(r"\beval\b|`", line), f"{path.name}:{number} {line}"
        line = re.sub(r'"\$\([^()]*\)[^"]*"', "", line)  # quotes within a command within quotes
        line = re.sub(r'\$\{\w+:\+--\w+="\$\w+"\}', "", line)  # one word or none
        line = line.replace("${SRUN_ARGS:-}", "")  # several options of srun's, by its meaning
        bare = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'', "", line)  # what stands outside of quotes
        bare = re.sub(r"^\s*(?:export )?\w+=\S*", "", bare)  # the shell splits no assignment
        assert not _UNQUOTED.search(bare), f"{path.name}:{number} {line}"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_is_content():
    done = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
