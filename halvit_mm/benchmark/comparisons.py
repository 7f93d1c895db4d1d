"""Which models are compared, and what is expected of the comparison.

A new comparison is one more entry in :data:`COMPARISONS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .sources import Folded, FromConfig, FromTimm, FromTorchvision, Source
from .start_up import BUILD_MMDET, BUILD_OURS, IMPORT_OURS, Script


@dataclass(frozen=True, kw_only=True)
class Target:
    """The ratio of ours to a peer that is not to be exceeded.

    Attributes:
        measure: A name in :data:`halvit_mm.benchmark.results.MEASURES`.
        limit: The highest ratio that meets the target.
        batches: Batch sizes that it is for; by default any.
    """

    measure: str
    limit: float
    batches: tuple[int, ...] | None = None

    def is_for(self, measure: str, batch: int | None) -> bool:
        """Whether the target is for this measure at this batch size."""
        return measure == self.measure and (self.batches is None or batch in self.batches)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model in a comparison.

    Attributes:
        label: Its name in tables and charts.
        source: What makes it; for ``start-up`` a script.
        targets: For a peer, what ours is to reach against it.
    """

    label: str
    source: Source | Script
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model of ours against its peers.

    Attributes:
        ours: The model of this project.
        peers: The models that it is compared with.
        modes: What is measured: ``inference`` and ``training`` (time and memory), ``sizes`` (bytes,
            FLOPs, error of bf16), or ``start-up``.
        task: A name in :data:`halvit_mm.benchmark.tasks.TASKS`.
        size: Height and width of the images in pixels.
        classes: Number of classes.
        batches: Usual batch sizes.
        convolutional: Whether all models are convolutional, so that the memory format matters.
    """

    ours: Contestant
    peers: tuple[Contestant, ...]
    modes: tuple[str, ...] = ("inference", "training", "sizes")
    task: str = "classification"
    size: tuple[int, int] = (224, 224)
    classes: int = 1000
    batches: tuple[int, ...] = (1, 8, 32)
    convolutional: bool = False

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        """Ours and then its peers."""
        return (self.ours, *self.peers)


def _time_targets(inference: float | None, training: float | None) -> tuple[Target, ...]:
    limits = {"inference time": inference, "training time": training}
    return tuple(Target(measure=m, limit=limit) for m, limit in limits.items() if limit is not None)


#: Half of everything that scales with the number of weights.
_HALF = tuple(
    Target(measure=f"{measure}, backbone", limit=0.51)
    for measure in ("weights", "gradients", "optimiser state", "checkpoint", "all-reduced")
)


def _twin(path: str, targets: Sequence[Target] = ()) -> Contestant:
    return Contestant(
        label="dense twin", source=FromConfig(path, twin=True), targets=tuple(targets)
    )


def _mmpretrain(
    label: str, path: str, drop_path: float, targets: Sequence[Target] = ()
) -> Contestant:
    options = {"model.backbone.drop_path_rate": drop_path}
    return Contestant(
        label=f"mmpretrain {label}",
        source=FromConfig(f"mmpretrain::{path}", options),
        targets=tuple(targets),
    )


def _timm(label: str, name: str, drop_path: float, targets: Sequence[Target] = ()) -> Contestant:
    options = {"drop_path_rate": drop_path}
    return Contestant(label=f"timm {label}", source=FromTimm(name, options), targets=tuple(targets))


def _halvit(
    arch: str,
    timm_name: str,
    mmpretrain_path: str,
    peer: str,
    *,
    drop_path: float = 0.0,
    timm_targets: Sequence[Target] = (),
    mmpretrain_targets: Sequence[Target] = (),
) -> Comparison:
    path = f"imagenet/halvit_{arch}_imagenet.py"
    return Comparison(
        ours=Contestant(label=f"HaLViT-{arch}", source=FromConfig(path)),
        peers=(
            _timm(f"ViT-{peer}", timm_name, drop_path, timm_targets),
            _mmpretrain(f"ViT-{peer}", mmpretrain_path, drop_path, mmpretrain_targets),
            _twin(path, _HALF),
        ),
    )


def _mini_deit(arch: str, *, drop_path: float = 0.0, targets: Sequence[Target] = ()) -> Comparison:
    path = f"imagenet/mini_deit_{arch}_imagenet.py"
    return Comparison(
        ours=Contestant(label=f"Mini-DeiT-{arch}", source=FromConfig(path)),
        peers=(_timm(f"DeiT-{arch}", f"deit_{arch}_patch16_224", drop_path, targets), _twin(path)),
    )


def _mini_swin(arch: str, *, drop_path: float = 0.0, targets: Sequence[Target] = ()) -> Comparison:
    path = f"imagenet/mini_swin_{arch}_imagenet.py"
    return Comparison(
        ours=Contestant(label=f"Mini-Swin-{arch}", source=FromConfig(path)),
        peers=(
            _timm(f"Swin-{arch}", f"swin_{arch}_patch4_window7_224", drop_path, targets),
            _mmpretrain(f"Swin-{arch}", f"swin_transformer/swin-{arch}_16xb64_in1k.py", drop_path),
            _twin(path),
        ),
    )


def _half_cnn(name: str, label: str, peer: str, targets: Sequence[Target] = ()) -> Comparison:
    path = f"imagenet/{name}_imagenet.py"
    return Comparison(
        ours=Contestant(label=label, source=FromConfig(path)),
        peers=(
            Contestant(
                label=f"torchvision {peer}", source=FromTorchvision(peer), targets=tuple(targets)
            ),
            _twin(path),
        ),
        convolutional=True,
    )


_NO_SLOWER = _time_targets(1.00, 1.00)
_FASTER = _time_targets(0.97, 0.97)

COMPARISONS: dict[str, Comparison] = {
    "halvit_nano": _halvit("nano", "vit_tiny_patch16_224", "deit/deit-tiny_4xb256_in1k.py", "Ti"),
    "halvit_tiny": _halvit(
        "tiny",
        "vit_small_patch16_224",
        "deit/deit-small_4xb256_in1k.py",
        "S",
        timm_targets=_NO_SLOWER,
        mmpretrain_targets=_FASTER,
    ),
    "halvit_medium": _halvit(
        "medium",
        "vit_base_patch16_224",
        "deit/deit-base_16xb64_in1k.py",
        "B",
        drop_path=0.1,
        timm_targets=(*_NO_SLOWER, Target(measure="training memory", limit=0.85, batches=(8,))),
        mmpretrain_targets=_FASTER,
    ),
    "half_resnet50": _half_cnn(
        "half_resnet50", "HalfResNet-50", "resnet50", _time_targets(1.05, 1.10)
    ),
    "half_resnet50_folded": Comparison(
        ours=Contestant(
            label="HalfResNet-50, folded",
            source=Folded(FromConfig("imagenet/half_resnet50_imagenet.py")),
        ),
        peers=(
            Contestant(
                label="torchvision resnet50, folded", source=Folded(FromTorchvision("resnet50"))
            ),
            Contestant(label="torchvision resnet50", source=FromTorchvision("resnet50")),
        ),
        modes=("inference",),
        convolutional=True,
    ),
    "half_resnext101": _half_cnn("half_resnext101", "HalfResNeXt-101", "resnext101_32x8d"),
    "mini_deit_tiny": _mini_deit("tiny"),
    "mini_deit_small": _mini_deit("small", targets=_time_targets(1.25, None)),
    "mini_deit_base": _mini_deit("base", drop_path=0.1),
    "mini_swin_tiny": _mini_swin("tiny", targets=_time_targets(1.25, None)),
    "mini_swin_small": _mini_swin("small", drop_path=0.1),
    "mini_swin_base": _mini_swin("base", drop_path=0.2),
    "mask_rcnn_halvit": Comparison(
        ours=Contestant(
            label="Mask R-CNN, HaLViT-tiny", source=FromConfig("mask_rcnn_halvit_1x_coco.py")
        ),
        peers=(
            Contestant(
                label="mmdet Mask R-CNN, Swin-T",
                source=FromConfig("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py"),
                targets=_time_targets(None, 1.00),
            ),
        ),
        task="detection",
        size=(800, 1333),
        classes=80,
        batches=(1,),
    ),
    "start_up": Comparison(
        ours=Contestant(label="HaLViT-tiny Mask R-CNN", source=BUILD_OURS),
        peers=(
            Contestant(
                label="mmdet Swin-T Mask R-CNN",
                source=BUILD_MMDET,
                targets=(Target(measure="start-up time", limit=1.15),),
            ),
            Contestant(label="import halvit_mm alone", source=IMPORT_OURS),
        ),
        modes=("start-up",),
        batches=(1,),
    ),
}

_SMALL = {
    "model.backbone.arch": dict(_delete_=True, dim=64, depth=2, num_heads=2),
    "model.backbone.img_size": 64,
    "model.head.in_channels": 64,
}
_SMALL_DETECTOR = {
    "model.backbone.arch": dict(_delete_=True, dim=64, depth=2, num_heads=2),
    "model.backbone.global_blocks": (1,),
    "model.neck.in_channels": 64,
    # Few regions: their heads take nearly all of the time.
    "model.roi_head.bbox_head.fc_out_channels": 64,
    "model.train_cfg.rcnn.sampler.num": 16,
}

#: Small models, for a look at whether everything works, in less than a minute.
QUICK: dict[str, Comparison] = {
    "quick_halvit": Comparison(
        ours=Contestant(
            label="small HaLViT", source=FromConfig("imagenet/halvit_nano_imagenet.py", _SMALL)
        ),
        peers=(
            Contestant(
                label="timm small ViT",
                source=FromTimm(
                    "vit_tiny_patch16_224",
                    dict(img_size=64, embed_dim=64, depth=2, num_heads=2),
                ),
            ),
        ),
        size=(64, 64),
        batches=(2,),
    ),
    "quick_mask_rcnn": Comparison(
        ours=Contestant(
            label="small HaLViT Mask R-CNN",
            source=FromConfig("mask_rcnn_halvit_1x_coco.py", _SMALL_DETECTOR),
        ),
        peers=(
            Contestant(
                label="dense twin",
                source=FromConfig("mask_rcnn_halvit_1x_coco.py", _SMALL_DETECTOR, twin=True),
            ),
        ),
        modes=("training",),
        task="detection",
        size=(64, 96),
        classes=80,
        batches=(1,),
    ),
    "quick_start_up": Comparison(
        ours=Contestant(label="import halvit_mm", source=IMPORT_OURS),
        peers=(Contestant(label="import torchvision", source=Script("import torchvision")),),
        modes=("start-up",),
        batches=(1,),
    ),
}
