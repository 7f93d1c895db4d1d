"""Commands that stand for the tools and take no time; their accuracies are known.

What they do otherwise is set by variables: a name that contains ``FAKE_FAIL`` fails,
``FAKE_SILENT`` ends well without having logged an accuracy, and ``FAKE_SLOW`` takes a minute.
"""

import json
from pathlib import Path

_COMMON = """
import json, os, shutil, sys, time
from pathlib import Path

def enter(name):
    call = [name, os.environ["OMP_NUM_THREADS"], time.time(), os.getpid()]
    with open(Path(__file__).parent / "calls.txt", "a") as file:
        print(json.dumps(call), file=file)
    if os.environ.get("FAKE_FAIL", "nothing") in name:
        print("\\n".join(f"line {i}" for i in range(20)), file=sys.stderr)
        print("error: no memory is left", file=sys.stderr)
        sys.exit(3)
    time.sleep(60 if os.environ.get("FAKE_SLOW", "nothing") in name else 0)
"""

_TRAIN = """
config, _, folder, _, *options = sys.argv[1:]
options = dict(option.split("=", 1) for option in options)
for key in ("load_from", "model.teacher.checkpoint"):
    assert key not in options or Path(options[key]).is_file(), options
folder = Path(folder)
(folder / "20260101_000000/vis_data").mkdir(parents=True)
shutil.copy(config, folder)
enter(f"{folder.parent.name}/{folder.name}")
steps, seed = (int(options[key]) for key in ("train_cfg.max_iters", "randomness.seed"))
lines = [{"loss": 1.0, "iter": steps, "step": steps}]
if os.environ.get("FAKE_SILENT", "nothing") not in folder.name:
    lines += [{"accuracy/top1": 1.0, "step": 0}, {"accuracy/top1": steps / 2 + seed, "step": 0}]
log = folder / "20260101_000000/vis_data/scalars.json"
log.write_text("".join(json.dumps(line) + "\\n" for line in lines))
(folder / f"iter_{steps}.pth").touch()
"""

_START = """
dense, target, _, config, *options = sys.argv[1:]
assert Path(dense).is_file()
enter(f"{Path(target).parent.name}/{Path(target).name} {' '.join(options)}")
Path(target).touch()
"""

_TEST = """
config, checkpoint, _, folder, _, file = sys.argv[1:]
assert Path(checkpoint).is_file()
enter(f"{Path(folder).parent.name}/{Path(folder).name}")
Path(folder).mkdir()
Path(file).write_text(json.dumps({"accuracy/top1": 10.0}))
"""


def make_tools(folder: Path) -> Path:
    """Writes the commands."""
    folder.mkdir()
    for name, text in {
        "train.py": _TRAIN, "halve.py": _START, "select_weights.py": _START, "test.py": _TEST
    }.items():  # fmt: skip
        (folder / name).write_text(_COMMON + text)
    return folder


def calls(folder: Path) -> list[str]:
    """What was run, in this order."""
    file = folder / "calls.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)[0] for line in lines]
