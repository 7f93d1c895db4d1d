"""Writes a checkpoint with a config's random weights, for figures that do not depend on weights.

usage: python -m halvit_mm.evidence.random_weights CONFIG OUT.pth
"""

import sys
from pathlib import Path

import torch

import halvit_mm  # noqa: F401  registers the backbones

from ..cli import run
from ..engine.config_errors import load_config
from ..errors import UserError
from ..files import whole_file


def main() -> None:
    """Builds the config's model as it is initialised and saves its weights.

    Raises:
        UserError: The arguments are not two, or one is no config or cannot be written.
    """
    from mmengine.registry import MODELS, init_default_scope

    if len(sys.argv) != 3:
        raise UserError("give a config and the checkpoint to write")
    cfg = load_config(sys.argv[1])
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    if "data_preprocessor" in cfg:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    with whole_file(Path(sys.argv[2])) as temporary:
        torch.save({"state_dict": model.state_dict(), "meta": {}}, temporary)


if __name__ == "__main__":
    run(main)
