"""What a model's ``data_preprocessor`` does to images, as a part of its graph."""

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..layers.sizes import pad_to_grid

#: The preprocessors that are known, and the attribute of each that says whether it turns the order
#: of colours round. Images are read as BGR by OpenMMLab: one that leaves them so is of a model
#: that looks at BGR.
_TURNS = {"DetDataPreprocessor": "_channel_conversion", "ClsDataPreprocessor": "to_rgb"}


class Pixels(nn.Module):
    """Order of colours, scale of values, and padding to whole cells.

    Args:
        preprocessor: mmdet's ``DetDataPreprocessor`` or mmpretrain's ``ClsDataPreprocessor``.

    Raises:
        UserError: It is of another type or pads by something else than zeros.
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        super().__init__()
        kind = type(preprocessor).__name__
        if kind not in _TURNS or preprocessor.pad_value != 0:
            raise UserError(
                f"data_preprocessor {kind} cannot be exported as it is set; supported are "
                f"{' and '.join(_TURNS)} with pad_value=0"
            )
        self.divisor = preprocessor.pad_size_divisor
        self.swap = not getattr(preprocessor, _TURNS[kind])
        plain = not preprocessor._enable_normalize
        mean = torch.zeros(3, 1, 1) if plain else preprocessor.mean.float()
        std = torch.ones(3, 1, 1) if plain else preprocessor.std.float()
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB from 0 to 255 → what the backbone takes."""
        image = image.flip(1) if self.swap else image
        image = (image - self.mean) / self.std
        if self.divisor > 1:
            image = pad_to_grid(image, (self.divisor, self.divisor))
        return image
