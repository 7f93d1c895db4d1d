"""The tables of the documentation, each a function of the stored logs.

A table's name is that of its block in the pages, see :mod:`.pages`.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .experiments import SEEDS
from .logs import Logs

NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        name: Its name.
        logs: The logs that it is made of, or patterns of them.
        make: Makes its Markdown.
    """

    name: str
    logs: tuple[str, ...]
    make: Callable[[Logs], str]


TABLES: dict[str, Table] = {}


def table(name: str, *logs: str) -> Callable:
    """Registers a function from logs to Markdown as a table that is made of ``logs``."""

    def register(make: Callable[[Logs], str]) -> Callable[[Logs], str]:
        TABLES[name] = Table(name=name, logs=logs, make=make)
        return make

    return register


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def several(values: Sequence[float], digits: int) -> tuple[str, str]:
    """What seeds gave, and their mean ± half of the range."""
    half_range = (max(values) - min(values)) / 2
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return each, f"{statistics.fmean(values):.{digits}f} ± {half_range:.{digits}f}"


def seeds_of(logs: Logs, log: str, metric: str) -> list[float]:
    """The last value of a metric for each seed; ``log`` goes without its ``_seed``."""
    return [logs.final(f"{log}_seed{seed}", metric) for seed in SEEDS]


def parameters(logs: Logs, config: str, *, head: bool) -> str:
    """With or without the head."""
    count = logs.count(config)
    return f"{count['parameters' if head else 'parameters_without_head']:,}"


def steps(
    logs: Logs, log: str, configs: Sequence[str], *, first: str | None = None
) -> dict[str, tuple[str, str]]:
    """Time of a training step, with its ratio to the first config's, and peak memory."""
    results = logs.json(log)["results"]
    base = statistics.median(results[first or configs[0]]["seconds"])
    found = {}
    for config in configs:
        if config in results:
            seconds = statistics.median(results[config]["seconds"])
            digits = 3 if base < 1 else 2
            time = f"{seconds:.{digits}f} s ({seconds / base:.2f})"
            found[config] = time, f"{results[config]['peak_mib']:,.0f} MiB"
    return found


AP = ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50")
AP_TITLES = ("box AP", "box AP50", "mask AP", "mask AP50")


def aps(logs: Logs, log: str) -> list[str]:
    """Box and mask AP of a detector."""
    return [f"{logs.final(log, metric):.3f}" for metric in AP]


def minutes(logs: Logs, log: str) -> str:
    """Time spent in training steps."""
    seconds = logs.run(log).training_seconds
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


@table("digits", "digits_demo")
def digits(logs: Logs) -> str:
    """The demo's AP on held-out digits."""
    return markdown(
        (*AP_TITLES, "training steps"), [(*aps(logs, "digits_demo"), minutes(logs, "digits_demo"))]
    )


@table("nuclei", "nuclei_small_cpu")
def nuclei(logs: Logs) -> str:
    """AP of the small HaLViT on nuclei, epoch by epoch."""
    series = [logs.run("nuclei_small_cpu").find(metric) for metric in AP]
    epochs = series[0].iterations / logs.run("nuclei_small_cpu").iterations_per_epoch
    rows = [
        (f"{epoch:.0f}", *(f"{one.values[i]:.3f}" for one in series))
        for i, epoch in enumerate(epochs)
    ]
    return markdown(("epoch", *AP_TITLES), rows)


@table("coco_by", "coco_by_cpu")
def coco_by(logs: Logs) -> str:
    """What the COCO pipeline takes on a CPU."""
    run = logs.run("coco_by_cpu")
    time, image = run.train["time"].values[-1], run.val["time"].values[-1]
    return markdown(
        ("training steps", "a training step", "a validation image"),
        [(f"{run.iterations}", f"{time:.1f} s", f"{image:.1f} s")],
    )


_CONTROLS = {
    "halvit": "HaLViT", "halvit_signed": "HaLViT, signed", "dense_vit": "dense twin",
    "narrow_vit": "narrow dense, width 69",
}  # fmt: skip
_RESNETS = {"half_resnet50": "half", "dense_resnet50": "dense", "narrow_resnet50": "narrow"}


def _classifiers(
    logs: Logs, folder: str, log: str, titles: dict[str, str], measured: str, *, digits: int
) -> str:
    """Classifiers of one class: parameters, top-1 by seeds, time and memory."""
    config = f"configs/{folder}/small_{{}}_{folder}.py".format
    turns = steps(logs, measured, [config(name) for name in titles])
    rows = []
    for name, title in titles.items():
        path = config(name)
        top1 = several(seeds_of(logs, log.format(name), "top1"), digits)
        sizes = [parameters(logs, path, head=head) for head in (False, True)]
        rows.append((title, *sizes, *top1, *turns.get(path, ("not measured", ""))))
    header = ("model", "parameters", "with head", "top-1, seeds 0 and 1", "mean",
              "time of a step", "peak memory")  # fmt: skip
    return markdown(header, rows)


@table("tinyimagenet", "tinyimagenet100_*_cpu_seed*", "steps_tinyimagenet100_small", "counts")
def tinyimagenet(logs: Logs) -> str:
    """HaLViT and its controls on a hundred classes of Tiny ImageNet."""
    log, measured = "tinyimagenet100_{}_cpu", "steps_tinyimagenet100_small"
    return _classifiers(logs, "tinyimagenet", log, _CONTROLS, measured, digits=2)


@table("cifar10", "cifar10_*vit*_cpu_seed*", "steps_cifar10_vit_small", "counts")
def cifar10(logs: Logs) -> str:
    """HaLViT and its controls on CIFAR-10."""
    measured = "steps_cifar10_vit_small"
    return _classifiers(logs, "cifar10", "cifar10_{}_cpu", _CONTROLS, measured, digits=2)


@table("cifar10_resnet", "cifar10_*_resnet50_cpu_seed*", "steps_cifar10_small", "counts")
def cifar10_resnet(logs: Logs) -> str:
    """The half-weight ResNet-50 and its controls on CIFAR-10."""
    measured = "steps_cifar10_small"
    return _classifiers(logs, "cifar10", "cifar10_{}_cpu", _RESNETS, measured, digits=1)


@table("nuclei_resnet", "nuclei_*_resnet50_cpu_seed*", "steps_nuclei_small", "counts")
def nuclei_resnet(logs: Logs) -> str:
    """The half-weight ResNet-50 and its controls on nuclei."""
    config = "configs/nuclei/mask_rcnn_{}_small_nuclei.py".format
    turns = steps(logs, "steps_nuclei_small", [config(name) for name in _RESNETS])
    rows = []
    for name, title in _RESNETS.items():
        found = {metric: seeds_of(logs, f"nuclei_{name}_cpu", metric) for metric in AP}
        box, mask = several(found["bbox_mAP"], 3), several(found["segm_mAP"], 3)
        at50 = [f"{statistics.fmean(found[m]):.3f}" for m in ("bbox_mAP_50", "segm_mAP_50")]
        size = parameters(logs, config(name), head=False)
        rows.append((title, size, *box, at50[0], *mask, at50[1], *turns[config(name)]))
    header = ("model", "parameters of the backbone", "box AP, seeds 0 and 1", "mean", "box AP50",
              "mask AP, seeds 0 and 1", "mean", "mask AP50", "time of a step",
              "peak memory")  # fmt: skip
    return markdown(header, rows)


#: Log, model, width, options.
_ABLATION = (
    ("dense", "dense", "96", ""),
    ("narrow", "narrow", "69", ""),
    ("halvit", "HaLViT", "96", "as published"),
    ("halvit_lr0.003", "HaLViT", "96", "learning rate doubled, `lr=0.003`"),
    ("halvit_signed", "HaLViT", "96", "`signed_ffn=True`"),
    ("halvit_std0.06", "HaLViT", "96", "`init_std=0.06`"),
    ("halvit_signed_std0.06", "HaLViT", "96", "`init_std=0.06`, `signed_ffn=True`"),
    ("halvit_signed_std0.1", "HaLViT", "96", "`init_std=0.1`, `signed_ffn=True`"),
    ("narrow_std0.06", "narrow", "69", "`init_std=0.06`"),
    ("narrow_std0.1", "narrow", "69", "`init_std=0.1`"),
    ("ffn_tied_84", "only the feed-forward tied", "84", "parameters of the HaLViT"),
    ("ffn_tied_84_signed_std0.1", "only the feed-forward tied", "84",
     "the same, `init_std=0.1`, `signed_ffn=True`"),
)  # fmt: skip


@table("ablation", "ablation_[dnhf]*_cpu")
def ablation(logs: Logs) -> str:
    """Options of HaLViT and what each does to the loss."""
    rows = []
    for name, model, width, options in _ABLATION:
        run = logs.run(f"ablation_{name}_cpu")
        top1 = logs.final(f"ablation_{name}_cpu", "top1")
        rows.append((model, width, options, f"{top1:.2f}", f"{run.final_loss:.3f}"))
    header = ("model", "width", "options beside `tied`", "top-1", "training loss at the end")
    return markdown(header, rows)


_PAIRS = (
    ("mini_deit", "Mini-DeiT, width 128, six layers on three blocks", "mini_deit"),
    ("dense_deit", "its unshared twin", "mini_deit"),
    ("mini_swin", "Mini-Swin, width 48, twelve layers on four blocks", "mini_swin"),
    ("dense_swin", "its unshared twin", "mini_swin"),
)


@table(
    "nuclei_minivit", "nuclei_mini_*_cpu", "nuclei_dense_deit_cpu", "nuclei_dense_swin_cpu",
    "steps_nuclei_minivit_small", "counts",
)  # fmt: skip
def nuclei_minivit(logs: Logs) -> str:
    """Mini-DeiT and Mini-Swin beside their unshared twins on nuclei."""
    config = "configs/nuclei/mask_rcnn_{}_small_nuclei.py".format
    rows = []
    for name, title, pair in _PAIRS:
        path, dense = config(name), config(pair.replace("mini", "dense"))
        turns = steps(logs, "steps_nuclei_minivit_small", [path], first=dense)
        sizes = [parameters(logs, path, head=head) for head in (False, True)]
        rows.append((title, *sizes, *aps(logs, f"nuclei_{name}_cpu"), *turns[path]))
    header = ("backbone", "parameters", "detector", *AP_TITLES, "time of a step", "peak memory")
    return markdown(header, rows)


@table("distillation", "cifar10_mini_swin_*_cpu_seed*")
def distillation(logs: Logs) -> str:
    """A small Mini-Swin with and without a teacher."""
    levels = {
        "labels": "labels (label smoothing)",
        "prediction": "predictions",
        "prediction_attention": "predictions and attention",
        "all_levels": "predictions, attention and hidden states, as published",
    }
    log = "cifar10_mini_swin_{}_cpu".format
    base = statistics.fmean(seeds_of(logs, log("labels"), "top1"))
    rows = []
    for name, title in levels.items():
        values = seeds_of(logs, log(name), "top1")
        gain = statistics.fmean(values) - base
        rows.append((title, *several(values, 2), f"+ {gain:.1f}" if gain else ""))
    return markdown(("learns from", "top-1, seeds 0 and 1", "mean", "against labels"), rows)


@table("transfer", "nuclei_transfer_*_cpu")
def transfer(logs: Logs) -> str:
    """Nuclei from a pretrained backbone and from scratch."""
    rows = []
    for name, title in (("pretrained", "pretrained"), ("scratch", "from scratch")):
        log = f"nuclei_transfer_{name}_cpu"
        boxes = [f"{value:.3f}" for value in logs.run(log).find("bbox_mAP").values]
        rows.append((title, *boxes, *aps(logs, log)[1:]))
    return markdown(("box AP after epoch", *"12345", *AP_TITLES[1:]), rows)


@table("windows", "windows_800x1333")
def windows(logs: Logs) -> str:
    """Memory and time of windowed against global attention."""
    titles = {
        "plain attention": "written out (holds its N × N matrix)",
        "fused attention": "fused (`scaled_dot_product_attention`, the default)",
    }
    rows = []
    for name, title in titles.items():
        pair = logs.json("windows_800x1333")["results"][name]
        cells = [
            f"{pair[k]['peak_mib']:,.0f} MiB, {pair[k]['seconds']:.1f} s"
            for k in ("global", "windowed")
        ]
        ratios = [pair["windowed"][k] / pair["global"][k] for k in ("peak_mib", "seconds")]
        rows.append((title, *cells, *(f"{ratio:.2f}" for ratio in ratios)))
    header = ("attention", "all global", "windowed", "ratio of memory", "ratio of time")
    return markdown(header, rows)


@table("overfit", "overfit_*")
def overfit(logs: Logs) -> str:
    """Training on eight images until they are known by heart."""
    more = logs.run("overfit_coco8_continued_cpu").find("bbox_mAP_50").values
    schedules = (
        ("130 epochs, lr 3e-4, ÷ 10 at 97 and 117",
         f"{logs.final('overfit_coco8_cpu', 'bbox_mAP_50'):.3f}"),
        ("10 and 20 epochs more at lr 2e-4 from the run above (`load_from`)",
         ", ".join(f"{value:.3f}" for value in more)),
        ("170 epochs, lr 3e-4, ÷ 10 at 136 and 161: what the test does",
         f"{logs.final('overfit_coco8_170_cpu', 'bbox_mAP_50'):.3f}"),
    )  # fmt: skip
    return markdown(("schedule", "box AP50"), schedules)


def gigas(macs: float) -> str:
    """10⁹ multiply-accumulates."""
    return f"{macs / 1e9:.2f}"


def _counted(title: str, count: dict[str, Any]) -> tuple[str, ...]:
    twin = count["dense_twin"]
    cells = [title]
    for key, ratio in (("parameters_without_head", "ratio_without_head"), ("parameters", "ratio")):
        cells += [f"{count[key]:,}", f"{twin[key]:,}", f"{count[ratio]:.3f}"]
    cells.append(f"{gigas(count['macs'])} ({gigas(twin['macs'])})")
    sizes = [one["checkpoint_bytes"] / 1e6 for one in (count, twin)]
    return (*cells, f"{sizes[0]:.1f} MB ({sizes[1]:.1f})")


_COUNTED = ("model", "backbone", "dense twin", "ratio", "with head", "dense twin", "ratio",
            "GMACs (dense)", "checkpoint (dense)")  # fmt: skip


def _count_table(logs: Logs, models: dict[str, str]) -> str:
    rows = [_counted(title, logs.count(f"configs/{name}.py")) for name, title in models.items()]
    return markdown(_COUNTED, rows)


@table("minivit_counts", "counts")
def minivit_counts(logs: Logs) -> str:
    """Parameters, arithmetic and checkpoints of MiniViT's models and their twins."""
    models = {
        "mini_deit_tiny": "Mini-DeiT-Ti", "mini_deit_small": "Mini-DeiT-S",
        "mini_deit_base": "Mini-DeiT-B", "mini_deit_base_384": "Mini-DeiT-B, 384",
        "mini_swin_tiny": "Mini-Swin-T", "mini_swin_small": "Mini-Swin-S",
        "mini_swin_base": "Mini-Swin-B", "mini_swin_base_384": "Mini-Swin-B, 384",
        "mini_deit_base_one_block": "Mini-DeiT-B, one block",
        "mini_deit_small_tied": "Mini-DeiT-S, tied (ours)",
        "mini_deit_base_tied": "Mini-DeiT-B, tied (ours)",
        "mini_swin_tiny_tied": "Mini-Swin-T, tied (ours)",
        "mini_swin_base_tied": "Mini-Swin-B, tied (ours)",
    }  # fmt: skip
    named = {f"imagenet/{name}_imagenet": title for name, title in models.items()}
    named["mask_rcnn_mini_deit_1x_coco"] = "Mask R-CNN on Mini-DeiT-S, 800 × 1333"
    named["mask_rcnn_mini_swin_1x_coco"] = "Mask R-CNN on Mini-Swin-T, 800 × 1333"
    return _count_table(logs, named)


@table("half_resnet_counts", "counts")
def half_resnet_counts(logs: Logs) -> str:
    """Parameters, arithmetic and checkpoints of half-weight ResNets and their twins."""
    return _count_table(
        logs,
        {
            "imagenet/half_resnet50_imagenet": "HalfResNet-50, 224 × 224",
            "imagenet/half_resnext101_imagenet": "HalfResNeXt-101 32x8d, 224 × 224",
            "mask_rcnn_half_resnet50_1x_coco": "Mask R-CNN on HalfResNet-50, 800 × 1333",
        },
    )


@table("halvit_counts", "counts")
def halvit_counts(logs: Logs) -> str:
    """Parameters, arithmetic and checkpoints of HaLViT and its dense twins."""
    named = {
        f"imagenet/halvit_{arch}_imagenet": f"HaLViT {arch}, 224 × 224"
        for arch in ("nano", "tiny", "medium", "large")
    }
    named["mask_rcnn_halvit_1x_coco"] = "Mask R-CNN on HaLViT tiny, 800 × 1333"
    named["mask_rcnn_halvit_medium_1x_coco"] = "Mask R-CNN on HaLViT medium, 800 × 1333"
    return _count_table(logs, named)
