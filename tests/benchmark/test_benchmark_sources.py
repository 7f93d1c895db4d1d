"""Where measured models come from."""

import pytest
import torch
from torch import nn

from halvit_mm.benchmark.comparisons import COMPARISONS
from halvit_mm.benchmark.sources import Folded, FromConfig, FromTorchvision

CONFIGS = {
    source.path: source
    for comparison in COMPARISONS.values()
    for contestant in comparison.contestants
    if isinstance(source := contestant.source, FromConfig)
}


@pytest.mark.parametrize("path", CONFIGS)
def test_configs_of_the_table_exist_and_need_no_files(path):
    model = CONFIGS[path].config().model
    assert model.backbone.type
    assert not (model.backbone.get("init_cfg") or {}).get("checkpoint")


def test_folded_models_compute_the_same_without_batch_norms():
    torch.manual_seed(0)
    plain = FromTorchvision("resnet18").build().eval()
    torch.manual_seed(0)
    source = Folded(FromTorchvision("resnet18"))
    folded = source.build()
    assert source.requires == ("torchvision",)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), plain(images), rtol=1e-4, atol=1e-4)
