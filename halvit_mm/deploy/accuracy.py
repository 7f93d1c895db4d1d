"""What fewer bits cost: a test set through the exported model at each precision, and in PyTorch."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import InstanceData

from ..analysis import count_model
from ..datasets.check import check_dataset
from ..engine.config_errors import config_errors
from ..errors import UserError
from ..inference.images import read_image
from ..inference.models import LoadedModel, load_model
from ..inference.pipeline import prepare
from ..inference.results import Classification, Detections
from .export import export_onnx
from .precision import set_precision
from .runtime import OnnxModel

#: What PyTorch's own results go by in a table.
PYTORCH = "PyTorch"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A model at one precision.

    Attributes:
        precision: One of :data:`~halvit_mm.deploy.precision.PRECISIONS`, or :data:`PYTORCH`.
        metrics: What the config's ``test_evaluator`` says.
        agreement: Share of the images that get the class that PyTorch gives them; None of a
            detector.
        milliseconds: Median of an image, by itself and with its preprocessing.
        file_bytes: Size of the file; None of PyTorch.
        twin_bytes: Size of the dense twin's file at the same precision; None where there is none.
    """

    precision: str
    metrics: dict[str, float]
    agreement: float | None
    milliseconds: float
    file_bytes: int | None = None
    twin_bytes: int | None = None

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_accuracy(
    loaded: LoadedModel, precisions: Sequence[str], *, images: int | None = None
) -> list[Accuracy]:
    """Runs a config's test set through a model in PyTorch and at each precision in onnxruntime.

    Images go one at a time, as the scale of 8-bit activations would otherwise be a batch's.

    Args:
        loaded: The model.
        precisions: Of :data:`~halvit_mm.deploy.precision.PRECISIONS`.
        images: So many images in equal steps; None takes all. For classifiers only: a detector's
            evaluator counts images that it does not get as misses.

    Raises:
        UserError: The config has no test set or evaluator; the model cannot be exported.
    """
    if images is not None and loaded.task == "detection":
        raise UserError("a detector is measured on its whole test set; leave --images out")
    if images is not None and images < 1:
        raise UserError(f"--images {images}: at least one image is needed; give a number above 0")
    dataset = _test_set(loaded)
    count = min(images or len(dataset), len(dataset))
    chosen = (np.arange(count) * len(dataset) // count).tolist()
    torch_result, classes = _run(loaded, dataset, chosen, _in_pytorch(loaded))
    results = [Accuracy(precision=PYTORCH, agreement=None, **torch_result)]
    with TemporaryDirectory() as folder:
        files = _files(loaded, precisions, Path(folder) / "model", [_image(dataset, chosen[0])])
        twins = _files(_twin(loaded), precisions, Path(folder) / "twin", [_image(dataset, 0)])
        for precision in precisions:
            session = OnnxModel(files[precision])
            result, found = _run(loaded, dataset, chosen, _in_onnxruntime(session))
            agreement = float(np.mean(np.equal(found, classes))) if classes else None
            results.append(
                Accuracy(
                    precision=precision,
                    agreement=agreement,
                    file_bytes=files[precision].stat().st_size,
                    twin_bytes=twins[precision].stat().st_size if twins else None,
                    **result,
                )
            )
    return results


def table(results: Sequence[Accuracy]) -> str:
    """A Markdown table; differences are from PyTorch."""
    (torch_result,) = (r for r in results if r.precision == PYTORCH)
    shown = [name for name in torch_result.metrics if name.endswith(("mAP", "top1"))]
    heads = [name.rpartition("/")[2].removesuffix("_mAP") for name in shown]
    lines = [
        f"| precision | file, MB | of its dense twin's | {' | '.join(heads)} "
        "| as PyTorch, % | ms per image |",
        "|---" * (5 + len(shown)) + "|",
    ]
    for r in results:
        size = "" if r.file_bytes is None else f"{r.file_bytes / 1e6:.2f}"
        of_twin = "" if r.twin_bytes is None else f"{r.file_bytes / r.twin_bytes:.3f}"
        metrics = [_percent(r.metrics[name], name) for name in shown]
        if r is not torch_result:
            before = [_percent(torch_result.metrics[name], name) for name in shown]
            metrics = [f"{m:.2f} ({m - b:+.2f})" for m, b in zip(metrics, before, strict=True)]
        else:
            metrics = [f"{m:.2f}" for m in metrics]
        same = "" if r.agreement is None else f"{100 * r.agreement:.2f}"
        cells = [r.precision, size, of_twin, *metrics, same, f"{r.milliseconds:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(value: float, metric: str) -> float:
    """mmdet's evaluators give fractions, mmpretrain's give percents."""
    return 100 * value if metric.endswith("mAP") else value


def _test_set(loaded: LoadedModel) -> BaseDataset:
    cfg = loaded.cfg
    option = "test_dataloader.dataset"
    dataset = (cfg.get("test_dataloader") or {}).get("dataset")
    if dataset is None or not cfg.get("test_evaluator"):
        missing = option if dataset is None else "test_evaluator"
        raise UserError(f"the config {cfg.filename} has no {missing}; name one that has")
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")), config_errors(cfg):
        check_dataset(dataset, option=option)
        built = DATASETS.build(deepcopy(dataset))
    if not len(built):
        raise UserError(f"{option} has no images: correct it")
    return built


def _image(dataset: BaseDataset, number: int) -> np.ndarray:
    """An image of a set before its pipeline, (height, width, 3) uint8 in RGB."""
    info = dataset.get_data_info(number)
    if "img" in info:  # blue first, as mmcv loads images
        return np.ascontiguousarray(info["img"][..., ::-1])
    return read_image(info["img_path"])


def _files(
    loaded: LoadedModel | None, precisions: Sequence[str], stem: Path, images: list[np.ndarray]
) -> dict[str, Path]:
    """Writes a model at each precision; nothing of None."""
    if loaded is None:
        return {}
    exported = stem.with_suffix(".onnx")
    export_onnx(loaded, exported, images=images)
    files = {}
    for precision in precisions:
        files[precision] = stem.with_suffix(f".{precision}.onnx")
        model = ir.load(exported)
        set_precision(model, precision)
        ir.save(model, files[precision])
    return files


def _twin(loaded: LoadedModel) -> LoadedModel | None:
    """The dense twin with the weights that its training would start from."""
    options = count_model(loaded.cfg).twin_options
    if options is None:
        return None
    cfg = deepcopy(loaded.cfg)
    cfg.model.backbone.update(options)
    cfg.model.backbone.pop("init_cfg", None)
    return load_model(cfg, None, untrained=True)


Predict = Callable[[np.ndarray], Any]


def _in_pytorch(loaded: LoadedModel) -> Predict:
    @torch.inference_mode()
    def predict(image: np.ndarray) -> Any:
        return loaded.model.test_step(prepare(loaded, [image]))[0]

    return predict


def _in_onnxruntime(session: OnnxModel) -> Predict:
    return lambda image: session.predict([image])[0]


def _run(
    loaded: LoadedModel, dataset: BaseDataset, chosen: Sequence[int], predict: Predict
) -> tuple[dict[str, Any], list[int]]:
    """Metrics and time, and the classes that a classifier gives."""
    with DefaultScope.overwrite_default_scope(loaded.cfg.get("default_scope")):
        evaluator = Evaluator(deepcopy(loaded.cfg.test_evaluator))
    evaluator.dataset_meta = dataset.metainfo
    seconds, classes = [], []
    for number in chosen:
        image = _image(dataset, number)
        start = time.perf_counter()
        prediction = predict(image)
        seconds.append(time.perf_counter() - start)
        sample = dataset[number]["data_samples"]
        _put(prediction, sample)
        if loaded.task == "classification":
            classes.append(int(sample.pred_score.argmax()))
        evaluator.process([sample])
    metrics = {k: float(v) for k, v in evaluator.evaluate(len(chosen)).items()}
    return dict(metrics=metrics, milliseconds=1e3 * median(seconds)), classes


def _put(prediction: Any, sample: Any) -> None:
    """Puts what PyTorch or onnxruntime predicts into the sample with the truth."""
    if isinstance(prediction, Classification):
        sample.set_pred_score(torch.from_numpy(prediction.scores))
        sample.set_pred_label(int(prediction.scores.argmax()))
    elif isinstance(prediction, Detections):
        sample.pred_instances = _instances(prediction)
    elif "pred_score" in prediction:
        sample.set_pred_score(prediction.pred_score)
        sample.set_pred_label(prediction.pred_label)
    else:
        sample.pred_instances = prediction.pred_instances


def _instances(found: Detections) -> InstanceData:
    parts = dict(bboxes=found.boxes, scores=found.scores, labels=found.labels)
    if found.masks is not None:
        parts["masks"] = found.masks
    return InstanceData(**{name: torch.from_numpy(part) for name, part in parts.items()})
