"""Dense models of other libraries with random weights, and what this project makes of them."""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from halvit_mm.checkpoints.key_map import Conversion


def randomised(model: nn.Module) -> nn.Module:
    """The model in double precision with weights, norms, scales and statistics that all matter."""
    generator = torch.Generator().manual_seed(0)
    model.double().eval()  # mmdet's Swin returns nothing from it
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point() or name.endswith("attn_mask"):
                continue
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                value.copy_(noise.abs() + 0.5)
            elif value.ndim == 1 and name.endswith(("weight", "gamma")):
                value.copy_(1 + 0.3 * noise)
            else:
                value.copy_(0.3 * noise if value.ndim < 2 else noise / value[0].numel() ** 0.5)
    return model


def images(size: int | tuple[int, int], *, channels: int = 3) -> Tensor:
    sides = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, *sides, generator=generator, dtype=torch.float64)


def classifier(conversion: Conversion) -> nn.Module:
    """The converted backbone and head in double precision, loaded strictly."""
    model = nn.Module()
    model.backbone = MODELS.build(conversion.backbone)
    if "head.fc.weight" in conversion.state_dict:
        model.head = nn.Module()
        classes, width = conversion.state_dict["head.fc.weight"].shape
        model.head.fc = nn.Linear(width, classes)
    model = model.double().eval()
    model.load_state_dict(conversion.state_dict)
    return model


@torch.no_grad()
def logits(backbone: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    """What a head makes of the last output, averaged over a map's places."""
    out = backbone(x)[-1]
    return head(out.mean((2, 3)) if out.ndim == 4 else out)


@torch.no_grad()
def assert_same_logits(theirs: nn.Module, conversion: Conversion, x: Tensor) -> None:
    ours = classifier(conversion)
    expected = theirs(x)
    assert expected.std() > 0.05
    given = logits(ours.backbone, ours.head.fc, x)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
