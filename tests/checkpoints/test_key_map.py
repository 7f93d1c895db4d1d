"""Renaming by a table, forth and back."""

import pytest
import torch
from torch import nn

from halvit_mm.checkpoints.key_map import Conversion, KeyMap
from halvit_mm.errors import UserError

TABLE = {"stem.0": "conv1", "a.*.b.*.c": "d.*.e.*", "layer*": "stages.*"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stem.0", "conv1"),
        ("stem.0.weight", "conv1.weight"),
        ("a.1.b.23.c.bias", "d.1.e.23.bias"),
        ("layer4.0.weight", "stages.4.0.weight"),
    ],
)
def test_names_go_forth_and_back(theirs, ours):
    names = KeyMap(TABLE)
    assert names.ours(theirs) == ours
    assert names.theirs(ours) == theirs


@pytest.mark.parametrize("name", ["stem", "stem.01", "stem.0weight", "xstem.0", "a.x.b.1.c", ""])
def test_names_that_the_table_lacks(name):
    assert KeyMap(TABLE).ours(name) is None
    assert KeyMap(TABLE).theirs(name) is None


def test_rename_follows_the_models_order_and_keeps_the_tensors():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    given = {"bn.bias": torch.ones(3), "fc.bias": nn.Parameter(torch.ones(3))}
    given |= {"fc.weight": torch.ones(3, 2), "bn.weight": torch.ones(3)}
    given |= {"bn.running_mean": torch.ones(3), "bn.running_var": torch.ones(3)}
    renamed = KeyMap({"fc": "0", "bn": "1"}).rename(given, model, title="model")
    assert list(renamed) == list(model.state_dict())
    assert renamed["0.weight"] is not None and not renamed["0.bias"].requires_grad
    assert renamed["0.bias"].data_ptr() == given["fc.bias"].data_ptr()
    assert renamed["1.num_batches_tracked"] == 0
    model.load_state_dict(renamed)


def test_rename_names_a_few_of_each_kind():
    model = nn.Sequential(*(nn.Linear(2, 1) for _ in range(6)))
    given = {f"fc{i}.weight": torch.ones(1, i + 1) for i in range(6)}
    given |= {"x": torch.ones(1), "fc7.bias": torch.ones(1)}
    with pytest.raises(UserError) as caught:
        KeyMap({"fc*": "*"}).rename(given, model, title="network")
    assert str(caught.value) == (
        "the weights do not make a whole network: "
        "missing fc0.bias, fc1.bias, fc2.bias and 3 more; unknown x, fc7.bias; "
        "of a wrong width: fc0.weight is (1, 1), not (1, 2), fc2.weight is (1, 3), not (1, 2), "
        "fc3.weight is (1, 4), not (1, 2) and 2 more. "
        "Download the file again, or give it as its model saved it"
    )


def test_summary_quotes_options_for_the_shell():
    conversion = Conversion(
        state_dict={"a": torch.ones(1)},
        source="Net",
        backbone={},
        config="c.py",
        cfg_options={"model.depth": 5, "model.tied": (3, 4)},
        fresh=("head",),
        left_out={"neck": 2},
        share=0.1079,
    )
    assert conversion.summary("out.pth").splitlines() == [
        "Net: 1 tensors",
        "fits c.py --cfg-options model.depth=5 'model.tied=(3,4)'",
        "left out: neck (2 tensors)",
        "not among the weights, so freshly initialised: head",
        'start from it by init_cfg=dict(type="PretrainedBackbone", checkpoint="out.pth", '
        "min_fraction=0.1), with norm_eval=False, as fresh BatchNorms have no statistics yet",
    ]
    assert "state_dict" not in conversion.facts()
