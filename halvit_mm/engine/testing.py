"""What the options of a test change in a config of mmdet's or mmpretrain's."""

from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import BaseMetric, DumpResults

from ..errors import UserError
from .preflight import check_folder


def dump_metric(cfg: Config, out: str) -> BaseMetric:
    """A metric that measures nothing and writes the predictions to ``out``."""
    if _library(cfg, "--out") == "mmdet":
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults(out_file_path=out)
    return DumpResults(out_file_path=out)


def set_visualization(cfg: Config, *, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Draws predictions into a window, for ``wait_time`` seconds each, or into a folder."""
    # mmdet puts a relative folder below the log's.
    folder = None if show_dir is None else str(Path(show_dir).resolve())
    if folder is not None:
        check_folder(folder, "--show-dir")
    if _library(cfg, "--show-dir") == "mmdet":
        hook = dict(type="DetVisualizationHook", draw=True, test_out_dir=folder)
        hook.update(show=show, wait_time=wait_time)
        cfg.merge_from_dict({"default_hooks.visualization": hook})
        visualizer = "DetLocalVisualizer"
    else:
        hook = dict(type="ClassPicturesHook", out_dir=folder, show=show, wait_time=wait_time)
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or ()), hook]
        visualizer = "UniversalVisualizer"
    if cfg.get("visualizer") is None:
        cfg.visualizer = dict(type=visualizer)


def set_tta(cfg: Config, *, draw: bool) -> None:
    """Wraps model and test pipeline for test-time augmentation; mirror images by default."""
    library = _library(cfg, "--tta")
    if library == "mmpretrain" and draw:
        raise UserError("--show and --show-dir draw one view of an image: leave out --tta")
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "pipeline" not in dataset:
        raise UserError(
            "--tta needs a single test data set: test_dataloader.dataset has no pipeline"
        )
    if library == "mmdet":
        model = dict(type="InstanceTTAModel")
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        pack = dict(type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction"))
    else:
        model = dict(type="AverageClsScoreTTA")
        pack = deepcopy(dataset.pipeline[-1])
    if cfg.get("tta_model") is None:
        cfg.tta_model = model
    if cfg.get("tta_pipeline") is None:
        flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
        both = dict(type="TestTimeAug", transforms=[flips, [pack]])
        cfg.tta_pipeline = [*dataset.pipeline[:-1], both]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _library(cfg: Config, option: str) -> str:
    """mmdet or mmpretrain, whose classes serve ``option``."""
    scope = cfg.get("default_scope")
    if scope not in ("mmdet", "mmpretrain"):
        raise UserError(
            f"{option} needs a config of mmdet or mmpretrain, this one has default_scope={scope}"
        )
    return scope
