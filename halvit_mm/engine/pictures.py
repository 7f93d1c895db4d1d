"""Pictures of what a classifier predicts in a test."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

if TYPE_CHECKING:
    from mmpretrain.structures import DataSample


@HOOKS.register_module()
class ClassPicturesHook(Hook):
    """Draws each image of a test, as the model sees it, with its true and its predicted class.

    mmpretrain's ``VisualizationHook`` exchanges red and blue, as it takes images for RGB that
    loaders deliver as BGR; it writes on images of 32 pixels as on large ones, and writes images of
    the same name in several folders over each other.

    Args:
        out_dir: Folder for the pictures, ``<number>_<image>.png``; None writes none.
        show: Shows each picture in a window.
        wait_time: For so many seconds.
        min_side: Images are enlarged until their shorter side has so many pixels.
    """

    priority = "NORMAL"

    def __init__(
        self,
        *,
        out_dir: str | None = None,
        show: bool = False,
        wait_time: float = 0.0,
        min_side: int = 256,
    ) -> None:
        self.out_dir = out_dir
        self.show = show
        self.wait_time = wait_time
        self.min_side = min_side

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: "Sequence[DataSample]",
    ) -> None:
        """Draws the images of a batch with their classes."""
        for image, sample in zip(data_batch["inputs"], outputs, strict=True):
            file = Path(sample.get("img_path", "image"))
            name = f"{sample.sample_idx:05}_{file.stem}.png"
            runner.visualizer.visualize_cls(
                image.flip(0).permute(1, 2, 0).byte().cpu().numpy(),
                sample,
                resize=max(self.min_side, min(image.shape[1:])),
                show=self.show,
                wait_time=self.wait_time,
                out_file=None if self.out_dir is None else str(Path(self.out_dir) / name),
                name=name,
            )
