"""Tries the project in fresh environments: other Pythons, releases of torch, families of packages.

    python tools/check_matrix.py                         # names the combinations
    python tools/check_matrix.py onedl-lowest            # installs one, tries it, removes it
    python tools/check_matrix.py --env other/bin/python  # tries an environment that is there
    python tools/check_matrix.py --table                 # the results as docs/install.md shows them

A combination is installed by the commands that it prints and then tried: check_env, the models of
the COCO configs, a detector trained, resumed and tested, a classifier trained, and an ONNX file
where the extra is installed. What came out is written to docs/results/install. The status is 1 if
anything else fails than the combination says.

Runs on the standard library alone, as it judges environments where nothing else may import. Needs
uv, which stands in for pip where nothing else is said and is quick once it has the files in its
cache, and the combination's interpreter where uv finds it, such as on the PATH.
"""

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results/install"
TIMEOUT = 5400  # seconds of one command; networks and machines may be slow
ERROR_LINES = 6  # that are kept
PREFIXES = ("PYTHONPATH", "VIRTUAL_ENV", "HALVIT_")  # of variables that would change what is tried
# The distributions that decide whether things work.
TOLD = re.compile(
    r"torch|torchvision|numpy|setuptools|(onedl-)?mm(engine|cv|det|detection|pretrain)|"
    r"opencv-python(-headless)?|pycocotools|onnx|onnxruntime|onnxscript|halvit[-_]mm"
)


@dataclass(frozen=True)
class Combination:
    """A Python and the commands that install the project for it, as a user types them.

    ``broken`` names the steps that are known to fail; ``installer`` is what ``pip`` stands for.
    """

    python: str
    commands: tuple[str, ...]
    installer: Literal["uv", "pip"] = "uv"
    broken: tuple[str, ...] = ()


LOWEST = "pip install torch==2.6.0 torchvision==0.21.0"
PINNED = "pip install torch==2.11.0 torchvision==0.26.0"
ONEDL = 'pip install ".[onedl,deploy]"'
OPENMMLAB = 'pip install ".[openmmlab]"'
# Upstream mmcv's setup.py needs a setuptools that has pkg_resources.
OLDER_SETUPTOOLS = 'pip install --build-constraint requirements/build.in ".[openmmlab]"'
COMBINATIONS = {
    "pinned-py3.10": Combination("3.10", ("make install",)),
    "pinned-py3.11": Combination("3.11", ("make install",)),
    "pinned-py3.12": Combination("3.12", ("make install",)),
    "onedl-newest": Combination("3.11", ("pip install torch torchvision", ONEDL)),
    # Exporting a detector needs a newer torch and says so.
    "onedl-lowest": Combination("3.10", (LOWEST, ONEDL), "pip", broken=("onnx",)),
    "onedl-py3.13": Combination("3.13", ('pip install ".[onedl]"',)),  # uv ignores upper bounds
    "onedl-py3.13-pip": Combination("3.13", (ONEDL,), "pip", broken=("install",)),
    "openmmlab-plain": Combination("3.10", (LOWEST, OPENMMLAB), broken=("install",)),
    "openmmlab-lowest": Combination("3.10", (LOWEST, OLDER_SETUPTOOLS)),
    "openmmlab-pinned": Combination("3.11", (PINNED, OLDER_SETUPTOOLS)),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="combinations to install and try")
    parser.add_argument("--env", metavar="PYTHON", type=Path, help="try this environment instead")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument(
        "--results", metavar="FOLDER", type=Path, default=RESULTS, help="where the results are kept"
    )
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in COMBINATIONS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(COMBINATIONS)}")
    if args.env and not args.env.is_file():
        parser.error(f"--env {args.env}: there is no such interpreter")

    if args.table:
        print(table(args.results))
    elif args.env:
        with tempfile.TemporaryDirectory() as folder:
            return int(bool(failed(try_environment(args.env.absolute(), Path(folder)))))
    elif args.names:
        as_known = [try_combination(name, args.results) for name in args.names]
        return int(not all(as_known))
    else:
        for name, combination in COMBINATIONS.items():
            print(f"{name:<22}Python {combination.python}: {'; '.join(combination.commands)}")
    return 0


def try_combination(name: str, results: Path) -> bool:
    """Installs and tries a combination and keeps what came out; whether it is what is known."""
    combination = COMBINATIONS[name]
    print(f"{name}, Python {combination.python}", flush=True)
    result = about_this_run(name) | dict(python=combination.python, installer=combination.installer)
    result["commands"] = combination.commands
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "venv/bin/python")
        steps = install(combination, python, Path(folder))
        if python.exists():
            result |= describe(python)
        if not failed(steps):
            steps |= try_environment(python, Path(folder))
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result | dict(steps=steps), indent=1)
    (results / f"{name}.json").write_text(text + "\n")
    return tuple(failed(steps)) == combination.broken


def failed(steps: dict[str, dict]) -> list[str]:
    """The names of the steps that did not work."""
    return [name for name, step in steps.items() if "error" in step]


def about_this_run(name: str) -> dict[str, Any]:
    """When, where and how a result came about."""
    info = Path("/proc/cpuinfo").read_text()
    return dict(
        name=name,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=f"python tools/check_matrix.py {name}",
        cpu=re.search(r"model name\s*: (.+)", info)[1],
        cores=os.cpu_count(),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        system=f"{platform.system()} {platform.release()}",
    )


def describe(python: Path) -> dict[str, Any]:
    """The version of an environment's Python and of what is installed there."""
    code = (
        "import json, platform; from importlib.metadata import distributions as all;"
        "versions = {d.name: d.version for d in all()};"
        "print(json.dumps(dict(python=platform.python_version(), versions=versions)))"
    )
    printed = subprocess.check_output([str(python), "-c", code], env=environment(), text=True)
    found = json.loads(printed)
    versions = sorted(found["versions"].items())
    return found | dict(versions={name: v for name, v in versions if TOLD.fullmatch(name)})


# ------------------------------------------------------------------------------- installation


def install(combination: Combination, python: Path, folder: Path) -> dict[str, dict]:
    """Makes the virtual environment of ``python`` by the combination's commands."""
    interpreter, venv = find_interpreter(combination.python), python.parent.parent
    if combination.commands != ("make install",):  # which makes its own
        subprocess.run([interpreter, "-m", "venv", str(venv)], check=True)
    seconds = 0.0
    for command in combination.commands:
        words = shlex.split(command)
        variables = [word for word in words if re.match(r"[A-Z_]+=", word)]
        program, *arguments = words[len(variables) :]
        if program == "make":
            argv = [interpreter, "tools/install.py", venv]
        elif combination.installer == "pip":
            argv = [python, "-m", "pip", *arguments]
        else:
            argv = [*uv(), "pip", *arguments, "--python", python]
        step = run(argv, ROOT, folder, dict(word.split("=", 1) for word in variables))
        seconds += step["seconds"]
        if "error" in step:
            break
    return show("install", step | dict(seconds=round(seconds, 1)))


def find_interpreter(version: str) -> str:
    command = [*uv(), "python", "find", "--system", "--no-python-downloads", version]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"error: no Python {version} was found; install it and put it on the PATH")
    return found.stdout.strip()


def uv() -> list[str]:
    return ["uv"] if shutil.which("uv") else [sys.executable, "-m", "uv"]


# -------------------------------------------------------------------------------------- trying

DETECTOR = str(ROOT / "configs/digits/mask_rcnn_halvit_digits.py")
CLASSIFIER = str(ROOT / "configs/cifar10/small_halvit_cifar10.py")
# Pictures of handwritten digits, in folders named as CIFAR-10's classes are.
MAKE_LABELLED_IMAGES = """
import sys
from pathlib import Path
from mmengine.config import Config
from PIL import Image
from sklearn.datasets import load_digits
classes, digits = Config.fromfile(sys.argv[1]).metainfo.classes, load_digits()
for i, (image, label) in enumerate(zip(digits.images[:200], digits.target)):
    folder = Path("data/cifar10", "train" if i % 4 else "test", classes[label])
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray((image * 15).astype("uint8")).convert("RGB")
    picture.resize((32, 32)).save(folder / f"{i}.png")
"""


def plan(*, onnx: bool) -> list[tuple[str, str | None, list[str]]]:
    """The steps: a name, the step that must have worked before, and what Python is to run."""

    def tool(name: str, *arguments: str) -> list[str]:
        return [str(ROOT / "tools" / name), *arguments]

    def train(config: str, epochs: int, *options: str) -> list[str]:
        settings = f"train_cfg.max_epochs={epochs}"
        return tool("train.py", config, "--work-dir=run", *options, "--cfg-options", settings)

    steps = [
        ("check_env", None, tool("check_env.py")),
        ("configs", None, tool("count_params.py", *map(str, ROOT.glob("configs/*_1x_coco.py")))),
        ("data", None, tool("make_digits.py", "data/digits", "--num-train=16", "--num-val=8")),
        ("train", "data", train(DETECTOR, 1)),
        ("resume", "train", train(DETECTOR, 2, "--resume=run/epoch_1.pth")),
        ("test", "resume", tool("test.py", DETECTOR, "run/epoch_2.pth")),
        ("labelled data", None, ["-c", MAKE_LABELLED_IMAGES, CLASSIFIER]),
        ("classifier", "labelled data", train(CLASSIFIER, 1)),
    ]
    if onnx:
        files = ("run/epoch_1.pth", "detector.onnx", "--images=data/digits/val")
        steps.insert(-2, ("onnx", "train", tool("export_onnx.py", DETECTOR, *files)))
    return steps


def try_environment(python: Path, folder: Path) -> dict[str, dict]:
    """Runs the plan with ``folder`` as the working directory.

    A step whose forerunner did not work is left out, as nothing is known about it.
    """
    steps: dict[str, dict] = {}
    for name, before, command in plan(onnx="onnxscript" in describe(python)["versions"]):
        if before is None or "error" not in steps.get(before, {"error": "left out"}):
            steps |= show(name, run([python, *command], folder, folder))
    return steps


def run(command: list, cwd: Path, folder: Path, variables: dict[str, str] | None = None) -> dict:
    """Runs a command: its seconds and, where it failed, the end of what it printed."""
    command = [str(part) for part in command]
    start = time.monotonic()
    try:
        process = subprocess.run(
            command,
            cwd=cwd,
            env=environment() | (variables or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
        )
        status, output = process.returncode, process.stdout
    except subprocess.TimeoutExpired:
        status, output = 1, f"took longer than {TIMEOUT} s"
    step: dict[str, Any] = dict(seconds=round(time.monotonic() - start, 1))
    if operators := re.search(r"^  served by +(.+)$", output, re.MULTILINE):
        step["operators"] = operators[1]  # as check_env says
    if status:
        step["error"] = end_of(output, folder) or f"status {status}"
    return step


def environment() -> dict[str, str]:
    """This process's variables without those that would change what is tried."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(PREFIXES)}
    return kept | dict(PYTHONIOENCODING="utf-8")


def end_of(output: str, folder: Path) -> str:
    """What an output says about a failure, without this machine's folders and colours."""
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    for path, name in ((folder, "."), (ROOT, "halvit_mm"), (Path.home(), "~")):
        output = output.replace(str(path), name)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    problems = [line for line in lines if line.startswith(("problem: ", "ERROR: "))]
    return "\n".join(problems or lines[-ERROR_LINES:])  # problems are check_env's, errors pip's


def show(name: str, step: dict[str, Any]) -> dict[str, dict]:
    """Prints how a step went, and gives it its name."""
    print(f"  {name:<14}{'FAILED' if 'error' in step else 'ok':<7}{step['seconds']:7.1f} s")
    if "error" in step:
        print("    " + step["error"].replace("\n", "\n    "))
    sys.stdout.flush()
    return {name: step}


# --------------------------------------------------------------------------------------- table

STACK = ("mmengine", "mmcv", "mmdet", "mmpretrain")


def table(results: Path) -> str:
    """The results in ``results`` as Markdown."""
    heads = ("combination", "outcome", "by", "Python", "torch", "numpy", *STACK, "date")
    rows = [heads, ["---"] * len(heads)]
    for name, combination in COMBINATIONS.items():
        file = results / f"{name}.json"
        if file.exists():
            rows.append(table_row(json.loads(file.read_text())))
        else:
            blanks = ["–"] * (2 + len(STACK))
            how = [combination.installer, f"`{combination.python}`"]
            rows.append([f"`{name}`", "not tried yet", *how, *blanks, "–"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table_row(result: dict[str, Any]) -> list[str]:
    versions, steps = result.get("versions", {}), result["steps"]
    family = {name.removeprefix("onedl-"): version for name, version in versions.items()}
    family.setdefault("mmdet", family.get("mmdetection", "–"))
    wrong = failed(steps)
    if not wrong:
        outcome = "works, ONNX too" if "onnx" in steps else "works"
    elif wrong == ["install"]:
        outcome = "**does not install**"
    elif tuple(wrong) == COMBINATIONS[result["name"]].broken:
        outcome = f"works, except for {', '.join(wrong)}"
    else:
        outcome = f"**fails**: {', '.join(wrong)}"
    found = [family.get(name, "–") for name in ("torch", "numpy", *STACK)]
    how = [result["installer"], f"`{result['python']}`"]
    return [f"`{result['name']}`", outcome, *how, *found, result["date"][:10]]


if __name__ == "__main__":
    sys.exit(main())
