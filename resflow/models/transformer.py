"""torchvision's VisionTransformer for images of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models import VisionTransformer

from resflow.errors import ConfigError
from resflow.models.resize import resize_position_embedding


class FreeVisionTransformer(VisionTransformer):  # type: ignore[misc]
    """torchvision's VisionTransformer that resizes its position embedding to the image's grid of patches.

    Pixels beyond the last whole patch, on the right and at the bottom, are not seen. At its native size it computes
    what its parent does.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, classes] of images [B, C, H, W], at least one patch high and wide.

        Raises:
            ConfigError: an image is smaller than a patch.
        """
        patch, native = self.patch_size, self.image_size // self.patch_size
        grid = x.shape[-2] // patch, x.shape[-1] // patch
        if min(grid) < 1:
            raise ConfigError(
                f"images of {x.shape[-2]}x{x.shape[-1]} hold no whole patch of {patch}x{patch} pixels; use larger ones"
            )
        tokens = self.conv_proj(x[..., : grid[0] * patch, : grid[1] * patch]).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        position = self.encoder.pos_embedding
        if grid != (native, native):
            position = resize_position_embedding(position, native, grid)
        tokens = self.encoder.ln(self.encoder.layers(self.encoder.dropout(tokens + position)))
        logits: torch.Tensor = self.heads(tokens[:, 0])
        return logits


def free_transformer(model: Any) -> nn.Module:
    """Make a VisionTransformer take any size, in place: its class changes, its parameters and their names do not.

    Raises:
        ConfigError: its class is derived from torchvision's and may do something else.
    """
    if type(model) is VisionTransformer:
        model.__class__ = FreeVisionTransformer
    if not isinstance(model, FreeVisionTransformer):
        raise ConfigError(
            f"adapt_classifier knows torchvision's VisionTransformer itself; got {type(model).__name__}, which is "
            "derived from it. Use resize_position_embedding in its forward."
        )
    return model
