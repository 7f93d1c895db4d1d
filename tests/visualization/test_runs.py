"""Logs of trainings: of real ones by mmengine, and of every kind that a test can write."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from halvit_mm.errors import UserError
from halvit_mm.visualization import Run, read_run, read_runs
from halvit_mm.visualization.runs import group_seeds


def write_log(work_dir: Path, start: str, lines: list[dict | str]) -> Path:
    file = work_dir / start / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts) + "\n")
    return file


def train_line(iteration: int, epoch: int | None = None, **values) -> dict:
    counts = dict(iter=iteration, step=iteration) | (dict(epoch=epoch) if epoch else {})
    return dict(dict(lr=0.1, time=0.5, loss=1.0), **values, **counts)


class TestMmengine:
    """Trainings by mmengine's own runner: 25 iterations an epoch, logged every 10."""

    @pytest.fixture(autouse=True)
    def _a_second_apart(self):
        # mmengine names a start by the second.
        time.sleep(1.1)

    def train(self, work_dir: Path, *, loss: float, resume: bool = False, **options) -> None:
        options = dict(train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1)) | options
        loader = dict(
            dataset=[dict(x=torch.ones(1))] * 25,
            sampler=dict(type="DefaultSampler", shuffle=False),
            batch_size=1,
            num_workers=0,
        )
        runner = Runner(
            model=_Constant(loss),
            work_dir=str(work_dir),
            train_dataloader=loader,
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=[_Count()],
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            default_hooks=dict(logger=dict(type="LoggerHook", interval=10)),
            resume=resume,
            experiment_name=f"{work_dir}_{time.time()}".replace("/", "_"),
            log_level="ERROR",
            **options,
        )
        runner.train()

    def test_a_killed_and_resumed_training_becomes_one(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            self.train(tmp_path, loss=2, custom_hooks=[_KillAt(72)])
        time.sleep(1.1)
        self.train(tmp_path, loss=3, resume=True)
        assert len(list(tmp_path.glob("*/vis_data/scalars.json"))) == 2

        run = read_run(tmp_path)
        assert run.name == tmp_path.name
        assert run.iterations_per_epoch == 25
        loss = run.train["loss"]
        assert loss.iterations.tolist() == [10, 20, 35, 45, 60, 70, 85, 95]
        # The end of epoch 2 was saved; what came after is replaced.
        assert loss.values.tolist() == [2, 2, 2, 2, 3, 3, 3, 3]
        accuracy = run.find("top1")
        assert accuracy is run.val["accuracy/top1"]
        assert accuracy.iterations.tolist() == [25, 50, 75, 100]
        assert accuracy.values.tolist() == [1, 2, 1, 2]  # counted anew after resuming
        assert (run.iterations, run.epochs) == (100, 4)
        assert 0 < run.seconds_per_iteration < 1
        assert run.peak_memory is None or run.peak_memory >= 0

    def test_a_training_by_iterations(self, tmp_path):
        self.train(
            tmp_path,
            loss=2,
            train_cfg=dict(by_epoch=False, max_iters=60, val_interval=20),
            log_processor=dict(by_epoch=False),
        )
        run = read_run(tmp_path)
        assert run.iterations_per_epoch is None and run.epochs is None
        assert run.train["loss"].iterations.tolist() == [10, 20, 30, 40, 50, 60]
        assert run.find("top1").iterations.tolist() == [20, 40, 60]


class _Constant(BaseModel):
    """Its loss is always the same."""

    def __init__(self, loss: float) -> None:
        super().__init__()
        self.loss = loss
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, mode: str) -> dict | list:
        return dict(loss=self.loss + 0 * self.weight) if mode == "loss" else [dict()]


class _Count(BaseMetric):
    """Counts how often it was asked."""

    default_prefix = "accuracy"
    asked = 0

    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        self.asked += 1
        return dict(top1=float(self.asked))


class _KillAt(Hook):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.iter + 1 == self.iteration:
            raise KeyboardInterrupt


def test_epochs_shorter_than_the_logging_interval(tmp_path):
    lines = []
    for epoch in (1, 2, 3):
        lines += [train_line(7 * epoch, epoch), {"accuracy/top1": 50.0, "step": epoch}]
    write_log(tmp_path, "20250101_000000", lines)
    run = read_run(tmp_path)
    assert run.iterations_per_epoch == 7
    assert run.find("top1").iterations.tolist() == [7, 14, 21]


def test_a_single_epoch_ends_with_its_last_line(tmp_path):
    lines = [train_line(50, 1), train_line(100, 1), {"coco/bbox_mAP": 0.25, "step": 1}]
    write_log(tmp_path, "20250101_000000", lines)
    run = read_run(tmp_path)
    assert run.iterations_per_epoch == 100
    assert run.find("bbox_mAP").iterations.tolist() == [100]


@pytest.mark.parametrize("steps", [(40, 80), (0, 1)], ids=["iterations", "passes"])
def test_validations_of_a_training_by_iterations(tmp_path, steps):
    """Its step counts iterations or passes through the data, depending on the LoggerHook."""
    first, second = ({"coco/bbox_mAP": 0.1 + 0.1 * i, "step": s} for i, s in enumerate(steps))
    lines = [train_line(20), train_line(40), first, train_line(60), train_line(80), second]
    write_log(tmp_path, "20250101_000000", lines)
    mean_ap = read_run(tmp_path).find("bbox_mAP")
    assert mean_ap.iterations.tolist() == [40, 80]
    np.testing.assert_allclose(mean_ap.values, [0.1, 0.2])


def test_a_later_start_replaces_what_it_repeats(tmp_path):
    old = [train_line(i, loss=1.0) for i in (10, 20, 30, 40, 50)]
    write_log(tmp_path, "20250101_000000", old)
    write_log(tmp_path, "20250102_000000", [train_line(i, loss=2.0) for i in (30, 40)])
    loss = read_run(tmp_path).train["loss"]
    # 50 is gone as well: it belongs to a course of training that was given up.
    assert loss.iterations.tolist() == [10, 20, 30, 40]
    assert loss.values.tolist() == [1, 1, 2, 2]


def test_a_new_start_replaces_everything_also_with_another_logging_interval(tmp_path):
    old = [train_line(10 * i, 1 + (i - 1) // 5, loss=1.0) for i in range(1, 11)]
    old.append({"coco/bbox_mAP": 0.5, "step": 2})
    write_log(tmp_path, "20250101_000000", old)
    write_log(tmp_path, "20250102_000000", [train_line(25, 1), train_line(50, 1)])
    run = read_run(tmp_path)
    assert run.train["loss"].iterations.tolist() == [25, 50]
    assert run.find("bbox_mAP") is None


def test_a_validation_by_itself_does_not_count(tmp_path):
    write_log(tmp_path, "20250101_000000", [train_line(10), {"top1": 10.0, "step": 10}])
    write_log(tmp_path, "20250102_000000", [{"top1": 99.0, "step": 0}])
    assert read_run(tmp_path).find("top1").values.tolist() == [10]


def test_prefixes_of_a_hierarchical_log_are_dropped(tmp_path):
    lines = [{"train/loss": 2.0, "train/lr": 0.1, "iter": 5, "step": 5}]
    lines.append({"val/coco/bbox_mAP": 0.5, "step": 5})
    write_log(tmp_path, "20250101_000000", lines)
    run = read_run(tmp_path)
    assert run.train["loss"].values.tolist() == [2]
    assert run.find("bbox_mAP").values.tolist() == [0.5]


def test_finding_takes_the_first_name_that_there_is_and_training_first(tmp_path):
    lines = [train_line(10, base_lr=0.2), {"coco/time": 9.0, "coco/bbox_mAP": 0.5, "step": 10}]
    write_log(tmp_path, "20250101_000000", lines)
    run = read_run(tmp_path)
    assert run.find("base_lr", "lr").values.tolist() == [0.2]
    assert run.find("nothing", "lr").values.tolist() == [0.1]
    assert run.find("time").values.tolist() == [0.5]
    assert run.find("nothing") is None


def test_what_is_no_number_is_left_out(tmp_path):
    lines = [train_line(10, text="a", truth=True, table=[1, 2], nothing=None)]
    write_log(tmp_path, "20250101_000000", lines)
    assert set(read_run(tmp_path).train) == {"loss", "lr", "time"}


def test_times_and_memory(tmp_path):
    lines = [
        train_line(10, time=3.0, memory=100),
        train_line(20, time=0.5, memory=300),
        train_line(30, time=0.75, memory=200),
        train_line(100, time=0.25, memory=200),
    ]
    write_log(tmp_path, "20250101_000000", lines)
    run = read_run(tmp_path)
    assert run.seconds_per_iteration == 0.625
    assert run.training_seconds == 10 * 3 + 10 * 0.5 + 10 * 0.75 + 70 * 0.25
    assert run.peak_memory == 300


def test_final_loss_is_that_of_the_last_tenth(tmp_path):
    lines = [train_line(i, loss=float(i)) for i in range(1, 101)]
    write_log(tmp_path, "20250101_000000", lines)
    assert read_run(tmp_path).final_loss == sum(range(90, 101)) / 11


def test_the_last_line_may_be_cut_off(tmp_path):
    whole = json.dumps(train_line(20))
    for i in range(1, len(whole)):
        folder = tmp_path / str(i)
        write_log(folder, "20250101_000000", [train_line(10), whole[:i]])
        assert read_run(folder).iterations == 10


def test_a_damaged_line_elsewhere_is_named(tmp_path):
    lines = [train_line(10), '{"loss": 1.0, "it', train_line(30)]
    file = write_log(tmp_path, "20250101_000000", lines)
    with pytest.raises(UserError, match=r"line 2 is damaged .*delete that line") as caught:
        read_run(tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)

    file.write_text(file.read_text().replace('{"loss": 1.0, "it\n', "\n"))
    assert read_run(tmp_path).iterations == 30
    file.write_text("[1]\n" + json.dumps(train_line(10)))
    with pytest.raises(UserError, match=r"line 1 is damaged \(not an object\)"):
        read_run(tmp_path)


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: there is no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"there is no \*/vis_data/scalars\.json in it"):
        read_run(tmp_path)
    write_log(tmp_path, "20250101_000000", ['{"loss": 1'])
    with pytest.raises(UserError, match="no training is logged in it yet"):
        read_run(tmp_path)


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "other"]
    for folder in folders:
        write_log(folder, "20250101_000000", [train_line(10)])
    names = [run.name for run in read_runs(folders)]
    assert names == [str(folders[0]), str(folders[1]), "other"]


def test_a_training_resumed_within_an_epoch_keeps_what_came_before(tmp_path):
    old = [train_line(10 * i, 1 + (i - 1) // 5, loss=1.0) for i in range(1, 9)]
    write_log(tmp_path, "20250101_000000", old)  # epochs of 50 iterations, killed after 80
    new = write_log(tmp_path, "20250102_000000", [train_line(70, 2, loss=2.0)])
    write_surroundings(new, None, "load checkpoint\nresumed epoch: 1, iter: 64\n")
    loss = read_run(tmp_path).train["loss"]
    assert loss.iterations.tolist() == [10, 20, 30, 40, 50, 60, 70]
    assert loss.values.tolist() == [1, 1, 1, 1, 1, 1, 2]


def write_surroundings(log: Path, config: str | None, text: str | None) -> None:
    """Writes what mmengine leaves beside a log: the config, and what it printed."""
    start = log.parents[1]
    if config is not None:
        (log.parent / "config.py").write_text(config)
    if text is not None:
        (start / f"{start.name}.log").write_text(text)


def test_throughput_counts_the_images_of_all_processes(tmp_path):
    first = write_log(tmp_path, "20250101_000000", [train_line(10), train_line(20, time=0.25)])
    write_surroundings(first, "train_dataloader = dict(batch_size=8)", "    GPU number: 2\n")
    run = read_run(tmp_path)
    assert run.train["images_per_second"].values.tolist() == [32, 64]
    assert run.images_per_second == 48

    # Resumed on another machine.
    second = write_log(tmp_path, "20250102_000000", [train_line(30)])
    write_surroundings(second, "train_dataloader = dict(batch_size=8)", "    GPU number: 8\n")
    assert read_run(tmp_path).train["images_per_second"].values.tolist() == [32, 64, 128]


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (None, "GPU number: 2"),
        ("train_dataloader = dict(batch_size=8)", None),
        ("train_dataloader = dict(batch_size=8)", "cut off"),
        ("train_dataloader = dict()", "GPU number: 2"),
        ("train_dataloader = dict(", "GPU number: 2"),
        ("import nothing_of_this_name", "GPU number: 2"),
    ],
)
def test_throughput_is_unknown_where_the_number_of_images_is(tmp_path, config, text):
    write_surroundings(write_log(tmp_path, "20250101_000000", [train_line(10)]), config, text)
    run = read_run(tmp_path)
    assert run.images_per_second is None
    assert run.seconds_per_iteration == 0.5


def test_time_in_training_follows_the_speed(tmp_path):
    lines = [train_line(10, 1, time=0.5), train_line(20, 1, time=0.1), {"top1": 9.0, "step": 1}]
    write_log(tmp_path, "20250101_000000", [*lines, train_line(30, 2, time=0.2), {"step": 2}])
    run = read_run(tmp_path)
    np.testing.assert_allclose(run.seconds_at(np.array([0, 5, 10, 15, 20])), [0, 2.5, 5, 5.5, 6])
    assert run.training_seconds == pytest.approx(8)


def test_what_no_line_tells_takes_the_time_of_the_last_one(tmp_path):
    lines = [train_line(10, time=0.5), {"top1": 9.0, "step": 14}]
    write_log(tmp_path, "20250101_000000", lines)
    assert read_run(tmp_path).training_seconds == pytest.approx(7)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a_seed0", "a_seed1", "b"], {"a": 2, "b": 1}),
        (["vit_s0", "vit-s12", "vit_seed_3"], {"vit": 3}),
        (["half/seed0", "half/seed1", "dense/seed0"], {"half": 2, "dense": 1}),
        (["seed0", "seed1", "vits16", "vit_s"], {"seed0": 1, "seed1": 1, "vits16": 1, "vit_s": 1}),
    ],
)
def test_seeds_are_told_by_the_end_of_the_name(names, expected):
    runs = [Run(name=name, train={}, val={}, iterations_per_epoch=None) for name in names]
    assert {name: len(group) for name, group in group_seeds(runs)} == expected
