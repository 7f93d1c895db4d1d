"""How many bytes a model's weights take, and those of its dense twin."""

from mmengine.config import Config
from torch import nn

from ..analysis import count_model
from ..analysis.tracing import storage_key


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's state dict, each tensor once however many names it has.

    These are the parameters and the buffers that checkpoints keep. A model on the meta device has
    as many bytes as one with values.
    """
    tensors = {
        (storage_key(tensor), tensor.storage_offset(), tensor.shape): tensor
        for tensor in model.state_dict().values()
    }
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def dense_twin_bytes(cfg: Config) -> int | None:
    """Bytes of the weights of a config's dense twin with 32-bit floats; no weights are made.

    Args:
        cfg: A config of a detector of mmdet or a classifier of mmpretrain; it is not changed.

    Returns:
        Those of the whole model, head included; None where the backbone has no dense twin or the
        config is its own.

    Raises:
        UserError: The config cannot be built; see :func:`halvit_mm.analysis.count_model`.
    """
    twin = count_model(cfg).dense_twin
    return None if twin is None else twin.checkpoint_bytes
