"""The comparison of halved models: what is run, what is not run again, and what fails."""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_halving_tools import calls, make_tools
from processes import start

from halvit_mm.errors import UserError
from halvit_mm.halving.comparison.experiment import Experiment, check, plan
from halvit_mm.halving.comparison.jobs import run_jobs
from halvit_mm.halving.comparison.logs import logged_accuracy
from halvit_mm.halving.comparison.results import collect

ARMS_OF_A_SEED = [
    "dense_40", "halved_average.pth", "halved_average_0", "halved_reconstruction.pth",
    "halved_reconstruction_0", "narrow-selected.pth", "narrow-selected_0",
    "scratch_10", "scratch-distilled_10", "narrow-selected_10", "halved-average_10", "halved_10",
    "halved-distilled_10", "dense-continued_10",
    "scratch_40", "scratch-distilled_40", "narrow-selected_40", "halved-average_40", "halved_40",
    "halved-distilled_40",
]  # fmt: skip


@pytest.fixture
def tools(tmp_path) -> Path:
    return make_tools(tmp_path / "tools")


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    configs = {name: tmp_path / f"{name}.py" for name in ("dense", "half", "distilled", "narrow")}
    for path in configs.values():
        path.touch()
    return Experiment(
        **configs,
        work_dir=tmp_path / "out",
        steps=40,
        budgets=(0.25, 1.0),
        seeds=(3, 4),
        methods=("average",),
    )


def run_all(experiment: Experiment, tools: Path, **options) -> dict[str, str]:
    return run_jobs(plan(experiment), tools=tools, tell=lambda text: None, **options)


def test_the_plan_of_a_seed(experiment):
    jobs = plan(experiment)
    names = [f"seed{seed}/{name}" for seed in (3, 4) for name in ARMS_OF_A_SEED]
    assert [job.name for job in jobs] == names
    seed = experiment.work_dir / "seed4"
    assert {job.name: job for job in jobs}["seed4/halved-distilled_10"].arguments == (
        str(experiment.distilled),
        "--work-dir",
        str(seed / "halved-distilled_10"),
        "--cfg-options",
        "train_cfg.max_iters=10",
        "train_cfg.val_interval=10",
        "param_scheduler.1.T_max=10",
        "randomness.seed=4",
        f"load_from={seed}/halved_reconstruction.pth",
        f"model.teacher.checkpoint={seed}/dense_40/iter_40.pth",
    )
    narrow = {job.name: job for job in jobs}["seed3/narrow-selected.pth"]
    assert (narrow.tool, narrow.arguments[-1]) == ("select_weights.py", str(experiment.narrow))


def test_arms_whose_configs_are_missing_are_left_out(experiment):
    short = replace(experiment, distilled=None, narrow=None, seeds=(0,))
    names = [name for name in ARMS_OF_A_SEED if "distilled" not in name and "narrow" not in name]
    assert [job.name for job in plan(short)] == [f"seed0/{name}" for name in names]
    few = replace(short, arms=("scratch", "halved"), methods=())
    assert [job.name for job in plan(few)] == [
        "seed0/dense_40", "seed0/halved_reconstruction.pth", "seed0/halved_reconstruction_0",
        "seed0/scratch_10", "seed0/halved_10", "seed0/scratch_40", "seed0/halved_40",
    ]  # fmt: skip
    assert [job.tool for job in plan(replace(short, arms=("scratch",), methods=()))] == [
        "train.py", "train.py", "train.py"
    ]  # fmt: skip


def test_all_is_run_once_and_read(experiment, tools):
    assert run_all(experiment, tools) == {}
    done = calls(tools)
    assert [name.split()[0] for name in done] == [job.name for job in plan(experiment)]
    assert "seed4/halved_average.pth --method average --seed 4" in done
    assert run_all(experiment, tools) == {}
    assert calls(tools) == done

    results = collect(experiment)
    assert len(results.all) == 2 * (len(ARMS_OF_A_SEED) - 3)
    assert results.by_seed("halved-distilled", 40) == {3: 23.0, 4: 24.0}  # the last in the log
    assert results.by_seed("halved-average", 0) == {3: 10.0, 4: 10.0}
    assert results.by_seed("halved-aligned", 0) == {}
    assert results.spread("dense", 40).mean == 23.5
    assert results.spread("dense", 40).half_range == 0.5
    commands = {(r.arm, r.steps, r.seed): r.command for r in results.all}
    assert commands["dense-continued", 10, 3] == (
        "python tools/train.py dense.py --work-dir DIR/seed3/dense-continued_10 --cfg-options "
        "train_cfg.max_iters=10 train_cfg.val_interval=10 param_scheduler.1.T_max=10 "
        "randomness.seed=3 load_from=DIR/seed3/dense_40/iter_40.pth"
    )
    # What is not asked for this time is shown nevertheless.
    few = collect(replace(experiment, arms=("scratch",), seeds=(4,)))
    assert few.by_seed("halved", 10) == {4: 9.0}


def test_trainings_made_by_hand_are_adopted(experiment, tools):
    first = replace(experiment, arms=("scratch",), seeds=(3,), methods=())
    run_all(first, tools)
    (tools / "calls.txt").unlink()
    (experiment.folder("scratch", 3, 10) / "done").unlink()  # interrupted, as it seems
    os.rename(experiment.folder("scratch", 3, 10), experiment.work_dir / "away")
    assert run_all(replace(first, arms=("scratch", "dense-continued")), tools) == {}
    assert calls(tools) == ["seed3/scratch_10", "seed3/dense-continued_10"]


def test_what_fails_does_not_stop_the_others(experiment, tools, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "seed3/halved_reconstruction.pth")
    lines = []
    failures = run_jobs(plan(experiment), tools=tools, tell=lines.append)
    reason = failures["seed3/halved_reconstruction.pth"]
    assert reason.startswith("failed with status 3\n  line 13\n")
    assert reason.endswith("\n  line 19\n  error: no memory is left")
    assert any(reason in line for line in lines)
    assert set(failures) == {
        "seed3/halved_reconstruction.pth", "seed3/halved_reconstruction_0",
        *(f"seed3/halved{kind}_{steps}" for kind in ("", "-distilled") for steps in (10, 40)),
    }  # fmt: skip
    assert failures["seed3/halved_40"] == "needs seed3/halved_reconstruction.pth, which failed"
    results = collect(experiment)
    assert results.by_seed("halved", 40) == {4: 24.0}
    assert results.by_seed("halved-average", 40) == {3: 23.0, 4: 24.0}

    monkeypatch.delenv("FAKE_FAIL")
    assert run_all(experiment, tools) == {}
    assert len(collect(experiment).by_seed("halved", 40)) == 2


def test_without_its_dense_twin_a_seed_has_scratch_only(experiment, tools, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "seed3/dense_40")
    failures = run_all(experiment, tools)
    assert len(failures) == len(ARMS_OF_A_SEED) - 2
    assert {r.arm for r in collect(experiment).all if r.seed == 3} == {"scratch"}


def test_a_training_without_an_accuracy_is_not_done(experiment, tools, monkeypatch):
    monkeypatch.setenv("FAKE_SILENT", "scratch_40")
    failures = run_all(replace(experiment, arms=("scratch",), seeds=(3,), methods=()), tools)
    assert failures.keys() == {"seed3/scratch_40"}
    assert "its log has no accuracy/top1" in failures["seed3/scratch_40"]
    assert not (experiment.folder("scratch", 3, 40) / "done").exists()


def test_a_training_shorter_than_the_logging_interval_is_read(tmp_path):
    """As mmengine logs it: the validation alone, at step 0."""
    log = tmp_path / "20260101_000000/vis_data/scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"accuracy/top1": 24.5, "time": 0.7, "step": 0}\n')
    assert logged_accuracy(tmp_path) == 24.5


def test_several_at_a_time_share_the_cores(experiment, tools, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("halvit_mm.halving.comparison.jobs.cores", lambda: 6)
    train = tools / "train.py"
    train.write_text(train.read_text().replace("else 0)", "else 0.5)"))
    assert run_all(replace(experiment, arms=("scratch",), methods=()), tools, at_once=3) == {}
    rows = [json.loads(line) for line in (tools / "calls.txt").read_text().splitlines()]
    assert {threads for _, threads, _, _ in rows} == {"2"}
    # The dense twin needs nothing, and neither do those from scratch.
    began = [when for _, _, when, _ in rows]
    assert began[2] - began[0] < 0.5 <= began[3] - began[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run_all(replace(experiment, arms=("scratch",), methods=(), seeds=(9,)), tools, at_once=3)
    assert json.loads((tools / "calls.txt").read_text().splitlines()[-1])[1] == "5"


DRIVER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{root!r}]
from halvit_mm.cli import run
from halvit_mm.halving.comparison.experiment import Experiment, plan
from halvit_mm.halving.comparison.jobs import run_jobs
folder = Path.cwd()
experiment = Experiment(
    dense=folder / "dense.py", half=folder / "half.py", work_dir=folder / "out", steps=40,
    budgets=(0.25, 1.0), seeds=(3,), arms=("scratch",), methods=(),
)
run(lambda: run_jobs(plan(experiment), tools=folder / "tools", at_once=2) and None)
"""


def test_ctrl_c_ends_the_trainings_and_keeps_what_is_finished(experiment, tools, tmp_path, root):
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(root=str(root)))
    with start([sys.executable, driver], tmp_path, FAKE_SLOW="scratch_40") as process:
        try:
            deadline = time.monotonic() + 120
            while len(calls(tools)) < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors.strip()) == (130, "interrupted")
    rows = [json.loads(line) for line in (tools / "calls.txt").read_text().splitlines()]
    slow = next(pid for name, _, _, pid in rows if name == "seed3/scratch_40")
    with pytest.raises(ProcessLookupError):
        os.kill(slow, 0)
    assert experiment.folder("scratch", 3, 10).joinpath("done").exists()
    assert not experiment.folder("scratch", 3, 40).joinpath("done").exists()


def test_finished_parts_of_another_experiment_are_refused(experiment, tools):
    run_all(replace(experiment, arms=("scratch",), methods=()), tools)
    other = replace(experiment, half=experiment.half.with_name("other.py"))
    with pytest.raises(UserError, match=r"scratch_10: this was not trained with .*other\.py"):
        collect(other)


def test_damaged_results_are_told(experiment, tools):
    run_all(replace(experiment, arms=("scratch",), seeds=(3,)), tools)
    file = experiment.work_dir / "seed3/halved_average_0/accuracy.json"
    file.write_text("{}")
    with pytest.raises(UserError, match=r"accuracy\.json: there is no accuracy/top1 in it"):
        collect(experiment)


def config(path: Path, root: Path, change: str = "") -> Path:
    path.write_text(f"_base_ = {str(root / 'configs/halving/half_vit_cifar10.py')!r}\n{change}\n")
    return path


def test_configs_are_checked_before(experiment, tmp_path, root):
    good = config(tmp_path / "good.py", root)
    teacher = config(tmp_path / "teacher.py", root, "model = dict(teacher=dict(config='x'))")
    shown = replace(experiment, dense=good, half=good, distilled=teacher, narrow=None)
    assert check(replace(shown, steps=4000, budgets=(0.0625, 1.0))) == []
    assert check(replace(shown, steps=400, budgets=(0.25, 1.0))) == [
        "100 steps are less than twice the warm-up of 100 steps"
    ]
    with pytest.raises(UserError, match=r"good\.py: there is no model\.teacher"):
        check(replace(shown, distilled=good))
    epochs = config(tmp_path / "epochs.py", root, "train_cfg = dict(_delete_=True, max_epochs=3)")
    with pytest.raises(UserError, match=r"epochs\.py: .* needs a training by iterations"):
        check(replace(shown, half=epochs))
    single = config(tmp_path / "single.py", root, "param_scheduler = []")
    with pytest.raises(UserError, match=r"single\.py: .* second scheduler is a CosineAnnealingLR"):
        check(replace(shown, half=single))
    with pytest.raises(UserError, match="no such config"):
        check(replace(shown, dense=tmp_path / "absent.py"))
    with pytest.raises(UserError, match="read as the parts of a list"):
        check(replace(shown, work_dir=tmp_path / "a,b"))


def test_the_repositorys_configs_can_be_compared(experiment, root):
    folder = root / "configs/halving"
    for data in ("cifar10", "tinyimagenet"):
        configs = {name: folder / f"{name}_vit_{data}.py" for name in ("dense", "half", "narrow")}
        assert check(replace(experiment, **configs, distilled=None, steps=4000)) == []
