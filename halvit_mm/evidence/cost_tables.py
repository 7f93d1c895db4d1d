"""Tables of time, memory and bytes: the benchmark, deployment, and the summary of all models."""

import statistics
from collections.abc import Sequence
from typing import Any

from ..benchmark.results import Results, Row, quartiles, rows
from .experiments import PRECISIONS
from .logs import Logs
from .tables import NOTHING, gigas, markdown, seeds_of, several, table

_BENCHMARK = "benchmark/*"
BATCHES = (1, 8, 32)


def benchmark_rows(logs: Logs) -> list[Row]:
    """All ratios of the benchmark, in the order of its comparisons."""
    files = [logs.folder / f"{name}.json" for name in logs.matching(_BENCHMARK)]
    return rows(Results.read(files))


def find(
    found: Sequence[Row], comparison: str, measure: str, peer: str, batch: int | None
) -> Row | None:
    """The ratio to the one peer whose label begins with ``peer``; None where not measured."""
    case = "" if batch is None else f"batch {batch},"
    hits = [
        row
        for row in found
        if (row.comparison, row.measure) == (comparison, measure)
        and row.peer.startswith(peer)
        and row.case.startswith(case)
        and row.fault is None
    ]
    exact = [row for row in hits if row.peer == peer]
    return (exact or hits or [None])[0]


def _cell(row: Row | None) -> str:
    if row is None:
        return "not measured"
    ratio = f"**{row.ratio:.3f}**" if row.met is False else f"{row.ratio:.3f}"
    return ratio if row.low == row.high else f"{ratio} ({row.low:.3f}–{row.high:.3f})"


def _target(found: Sequence[Row | None]) -> str:
    """The target and whether all of the ratios meet it."""
    judged = [row for row in found if row is not None and row.met is not None]
    if not judged:
        return ""
    verdict = "met" if all(row.met for row in judged) else "**missed**"
    return f"≤ {judged[0].target:.2f} {verdict}"


#: Title, comparison, measure, beginning of the peer's label, batch sizes (None: it has none).
_TIMES = (
    ("HaLViT-Tiny to timm ViT-S, inference", "halvit_tiny", "inference time", "timm", BATCHES),
    ("… training step", "halvit_tiny", "training time", "timm", BATCHES),
    ("HaLViT-Tiny to mmpretrain ViT-S, inference", "halvit_tiny", "inference time", "mmpretrain",
     BATCHES),
    ("… training step", "halvit_tiny", "training time", "mmpretrain", BATCHES),
    ("HaLViT-Medium to timm ViT-B, inference", "halvit_medium", "inference time", "timm", BATCHES),
    ("… training step", "halvit_medium", "training time", "timm", BATCHES),
    ("HaLViT-Medium to mmpretrain ViT-B, inference", "halvit_medium", "inference time",
     "mmpretrain", BATCHES),
    ("… training step", "halvit_medium", "training time", "mmpretrain", BATCHES),
    ("HalfResNet-50 to torchvision ResNet-50, inference", "half_resnet50", "inference time",
     "torchvision", BATCHES),
    ("… training step", "half_resnet50", "training time", "torchvision", BATCHES),
    ("HalfResNet-50 folded to torchvision ResNet-50, inference", "half_resnet50_folded",
     "inference time", "torchvision resnet50", BATCHES),
    ("… to torchvision ResNet-50 folded as well", "half_resnet50_folded", "inference time",
     "torchvision resnet50, folded", BATCHES),
    ("Mini-DeiT-S to timm DeiT-S, inference", "mini_deit_small", "inference time", "timm", BATCHES),
    ("… training step, two rounds", "mini_deit_small", "training time", "timm", BATCHES),
    ("Mini-Swin-T to timm Swin-T, inference", "mini_swin_tiny", "inference time", "timm", BATCHES),
    ("Mask R-CNN, HaLViT-T to mmdet's Swin-T, training step at 800 × 1333", "mask_rcnn_halvit",
     "training time", "mmdet", (1,)),
    ("start-up: import and building the Mask R-CNN, to mmdet's Swin-T", "start_up",
     "start-up time", "mmdet", (None,)),
)  # fmt: skip


@table("benchmark_time", _BENCHMARK)
def benchmark_time(logs: Logs) -> str:
    """Time of ours to that of dense peers."""
    found, lines = benchmark_rows(logs), []
    for title, comparison, measure, peer, batches in _TIMES:
        ratios = [find(found, comparison, measure, peer, batch) for batch in batches]
        cells = [_cell(row) for row in ratios] + [""] * (len(BATCHES) - len(batches))
        lines.append((title, *cells, _target(ratios)))
    return markdown(("time", *(f"batch {b}" for b in BATCHES), "target"), lines)


_MEMORY = (
    ("HaLViT-Tiny to timm ViT-S, training step", "halvit_tiny", "training memory", "timm", BATCHES),
    ("HaLViT-Medium to timm ViT-B, training step", "halvit_medium", "training memory", "timm",
     BATCHES),
    ("HalfResNet-50 to torchvision ResNet-50, training step", "half_resnet50", "training memory",
     "torchvision", BATCHES),
    ("Mini-DeiT-S to timm DeiT-S, training step", "mini_deit_small", "training memory", "timm",
     BATCHES),
    ("Mask R-CNN, HaLViT-T to Swin-T, training step", "mask_rcnn_halvit", "training memory",
     "mmdet", (1,)),
    ("HaLViT-Tiny to timm ViT-S, inference", "halvit_tiny", "inference memory", "timm", BATCHES),
)  # fmt: skip


@table("benchmark_memory", _BENCHMARK)
def benchmark_memory(logs: Logs) -> str:
    """Peak memory of ours to that of dense peers."""
    found, lines = benchmark_rows(logs), []
    for title, comparison, measure, peer, batches in _MEMORY:
        ratios = [find(found, comparison, measure, peer, batch) for batch in batches]
        cells = [_mebibytes(row) for row in ratios] + [""] * (len(BATCHES) - len(batches))
        lines.append((title, *cells, _target(ratios)))
    return markdown(("peak memory", *(f"batch {b}" for b in BATCHES), "target"), lines)


def _mebibytes(row: Row | None) -> str:
    if row is None:
        return "not measured"
    ours, theirs = row.ours_value / 2**20, row.peer_value / 2**20
    return f"{row.ratio:.3f} ({ours:,.0f} of {theirs:,.0f} MiB)"


_BYTES = {
    "halvit_tiny": "HaLViT-Tiny", "halvit_medium": "HaLViT-Medium",
    "mini_deit_small": "Mini-DeiT-S", "mini_swin_tiny": "Mini-Swin-T",
    "half_resnet50": "HalfResNet-50",
}  # fmt: skip


@table("benchmark_bytes", "benchmark/sizes")
def benchmark_bytes(logs: Logs) -> str:
    """Bytes of ours to those of the dense twins."""
    found, lines = benchmark_rows(logs), []
    kinds = ("weights", "gradients", "optimiser state", "all-reduced")
    for comparison, title in _BYTES.items():
        each = [find(found, comparison, f"{kind}, backbone", "dense twin", None) for kind in kinds]
        shares = {f"{row.ratio:.4f}" for row in each}
        checkpoint = find(found, comparison, "checkpoint, backbone", "dense twin", None)
        flops = find(found, comparison, "FLOPs", "dense twin", None)
        lines.append(
            (title, " ".join(sorted(shares)) + " each", f"{checkpoint.ratio:.4f}",
             f"{flops.ratio:.3f}", _target([*each, checkpoint]))
        )  # fmt: skip
    header = ("backbone, to its dense twin", "bytes of weights, gradients, optimiser state, "
              "all-reduced", "checkpoint", "FLOPs of a forward pass", "target")  # fmt: skip
    return markdown(header, lines)


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.1f}"


@table("onnx_memory", "deploy/memory_*")
def onnx_memory(logs: Logs) -> str:
    """Files and memory in onnxruntime by precision."""
    lines = []
    for precision in PRECISIONS:
        half, dense = logs.json(f"deploy/memory_{precision}")["models"]
        pairs = [(half["file_bytes"], dense["file_bytes"])]
        pairs += [(half["memory"][k], dense["memory"][k]) for k in ("loaded", "ran")]
        cells = [f"{_megabytes(a)} / {_megabytes(b)} = {a / b:.3f}" for a, b in pairs]
        lines.append((precision, *cells))
    header = ("HaLViT-Medium / ViT-B", "file, MB", "loaded, MB", "after a run, MB")
    return markdown(header, lines)


@table("onnx_time", "deploy/time_fp32_timm")
def onnx_time(logs: Logs) -> str:
    """Time of one image in onnxruntime."""
    measured = logs.json("deploy/time_fp32_timm")["models"]
    peer, lines = measured[-1], []
    titles = ("HaLViT-Medium", "… prefer speed", "ViT-B of timm")
    for title, model in zip(titles, measured, strict=True):
        ratios = [a / b for a, b in zip(model["seconds"], peer["seconds"], strict=True)]
        low, middle, high = quartiles(ratios)
        ratio = "1" if model is peer else f"{middle:.3f} ({low:.3f}–{high:.3f})"
        time = f"{1000 * statistics.median(model['seconds']):.0f}"
        lines.append((title, time, ratio, f"{model['memory']['loaded'] / 1e6:.0f}"))
    return markdown(("batch 1, one thread", "ms", "ratio, quartiles", "loaded, MB"), lines)


#: Title, config, row of published.json, comparison of the benchmark.
_MODELS = (
    ("HaLViT nano (ours)", "halvit_nano", None, None),
    ("HaLViT tiny", "halvit_tiny", "halvit_tiny", "halvit_tiny"),
    ("HaLViT medium (the paper's S or M)", "halvit_medium", "halvit_medium", "halvit_medium"),
    ("HaLViT large (ours, with LayerScale)", "halvit_large", None, None),
    ("HalfResNet-50", "half_resnet50", "half_resnet50", "half_resnet50"),
    ("HalfResNeXt-101 32x8d", "half_resnext101", None, None),
    ("Mini-DeiT-Ti", "mini_deit_tiny", "mini_deit_tiny", None),
    ("… tied (ours)", "mini_deit_tiny tied", None, None),
    ("Mini-DeiT-S", "mini_deit_small", "mini_deit_small", "mini_deit_small"),
    ("… tied (ours)", "mini_deit_small tied", None, None),
    ("Mini-DeiT-B", "mini_deit_base", "mini_deit_base", None),
    ("… tied (ours)", "mini_deit_base tied", None, None),
    ("Mini-Swin-T", "mini_swin_tiny", "mini_swin_tiny", "mini_swin_tiny"),
    ("… tied (ours)", "mini_swin_tiny tied", None, None),
    ("Mini-Swin-S", "mini_swin_small", "mini_swin_small", None),
    ("… tied (ours)", "mini_swin_small tied", None, None),
    ("Mini-Swin-B", "mini_swin_base", "mini_swin_base", None),
    ("… tied (ours)", "mini_swin_base tied", None, None),
)


@table("models", "counts", "counts_tied", "published", _BENCHMARK)
def models(logs: Logs) -> str:
    """All models: parameters, memory, time, and the papers' accuracy."""
    found, lines = benchmark_rows(logs), []
    for title, config, paper, comparison in _MODELS:
        count = _model_count(logs, config)
        cost = [NOTHING] * 3
        if comparison is not None:
            measures = ("training memory", "inference time", "training time")
            cost = [_ratio(find(found, comparison, m, _peer(comparison), 8)) for m in measures]
        top1 = logs.json("published")["imagenet"][paper]["top1"] if paper else None
        lines.append(
            (title, f"{count['parameters_without_head']:,}", f"{count['parameters']:,}",
             f"{count['dense_twin']['parameters_without_head']:,}",
             f"{count['ratio_without_head']:.3f}",
             f"{gigas(count['macs'])} ({gigas(count['dense_twin']['macs'])})",
             *cost, NOTHING if top1 is None else f"{top1:.1f}")
        )  # fmt: skip
    header = ("model", "parameters without head", "with 1000-class head", "dense twin without",
              "ratio", "GMACs at 224 (dense)", "memory of a training step", "time of inference",
              "time of a training step", "paper reports, top-1")  # fmt: skip
    return markdown(header, lines)


def _model_count(logs: Logs, config: str) -> dict[str, Any]:
    name, _, tied = config.partition(" ")
    path = f"configs/imagenet/{name}_imagenet.py"
    if not tied:
        return logs.count(path)
    return next(one for one in logs.json("counts_tied")["configs"] if one["config"] == path)


def _peer(comparison: str) -> str:
    return "torchvision" if comparison == "half_resnet50" else "timm"


def _ratio(row: Row | None) -> str:
    return NOTHING if row is None else f"{row.ratio:.2f}"


@table(
    "small_models", "tinyimagenet100_*_cpu_seed*", "cifar10_*_cpu_seed*", "nuclei_*_cpu_seed*",
    "counts",
)  # fmt: skip
def small_models(logs: Logs) -> str:
    """What small models reached beside their controls."""
    vits = ("halvit", "halvit_signed", "dense_vit", "narrow_vit")
    resnets = (None, None, "dense_resnet50", "narrow_resnet50")
    lines = []
    for title, folder, names, log, metric, digits in (
        ("HaLViT, Tiny ImageNet (100 classes), 4 epochs, top-1", "tinyimagenet", vits,
         "tinyimagenet100_{}_cpu", "top1", 2),
        ("HaLViT, CIFAR-10, 1 epoch, top-1", "cifar10", vits, "cifar10_{}_cpu", "top1", 2),
        ("HalfResNet-50 at a quarter of the width, CIFAR-10, 3 epochs, top-1", "cifar10",
         ("half_resnet50", *resnets[1:]), "cifar10_{}_cpu", "top1", 1),
        ("Mask R-CNN on HalfResNet-50 at half of the width, nuclei, 4 epochs, box AP", "nuclei",
         ("half_resnet50", *resnets[1:]), "nuclei_{}_cpu", "bbox_mAP", 3),
    ):  # fmt: skip
        cells = []
        for name in names:
            if name is None:
                cells.append(NOTHING)
                continue
            prefix = "mask_rcnn_{}_small" if folder == "nuclei" else "small_{}"
            count = logs.count(f"configs/{folder}/{prefix.format(name)}_{folder}.py")
            mean = several(seeds_of(logs, log.format(name), metric), digits)[1]
            cells.append(f"{mean} ({count['parameters_without_head'] / 1000:,.0f}k)")
        lines.append((title, *cells))
    header = ("two seeds, from scratch (parameters of the backbone)", "half", "half, signed",
              "dense twin", "narrow dense")  # fmt: skip
    return markdown(header, lines)


@table("onnx_accuracy", "deploy/accuracy_*")
def onnx_accuracy(logs: Logs) -> str:
    """Accuracy in onnxruntime by precision."""
    titles = {"half": "HaLViT of width 96", "dense": "its dense twin"}
    lines = []
    for name, title in titles.items():
        cells = []
        for one in logs.json(f"deploy/accuracy_{name}_vit_cifar10")["results"]:
            cell = f"{one['metrics']['accuracy/top1']:.2f}"
            same = one["agreement"]
            cells.append(cell if same is None else f"{cell} ({100 * same:.2f})")
        lines.append((title, *cells))
    return markdown(("model", "PyTorch", *PRECISIONS), lines)


@table("onnx_detections", "deploy/detections_halvit_nuclei")
def onnx_detections(logs: Logs) -> str:
    """APs of a detector in onnxruntime by precision."""
    results = logs.json("deploy/detections_halvit_nuclei")["results"]
    lines = [
        (title, *(f"{one['metrics'][f'coco/{metric}']:.3f}" for one in results))
        for title, metric in {"box AP": "bbox_mAP", "mask AP": "segm_mAP"}.items()
    ]
    sizes = (one["file_bytes"] for one in results)
    lines.append(("file, MB", *(NOTHING if n is None else f"{n / 1e6:.2f}" for n in sizes)))
    return markdown(("", *(one["precision"] for one in results)), lines)


@table("stability", "reliability/precision")
def stability(logs: Logs) -> str:
    """Losses and norms in two precisions."""
    titles = {"half": "half-weight ViT", "dense": "dense twin"}
    lines = []
    for one in logs.json("reliability/precision")["trainings"]:
        model = titles[one["config"].split("/")[-1].split("_")[0]]
        norm = one["second_half"]["gradient_norm"]
        lines.append(
            (model, one["dtype"], f"{one['final_loss']:.3f}",
             f"{one['metrics']['accuracy/top1']:.1f}", f"{norm['median']:.2f}",
             f"{norm['max']:.2f}")
        )  # fmt: skip
    header = ("model", "precision", "loss at the end", "top-1 (%)", "gradient norm, median",
              "largest")  # fmt: skip
    return markdown(header, lines)
