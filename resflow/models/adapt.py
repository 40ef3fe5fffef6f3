"""Classifiers of one size, made to take any."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from resflow.errors import ConfigError
from resflow.extras import loaded_class
from resflow.models.probe import Probe
from resflow.models.spec import spatial_spec


class PoolTo:
    """A forward hook that averages a module's output [B, C, H, W] to one size; of that size already, it is kept.

    Args:
        size: height and width, features.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        """The output at that size; None, which keeps it, where it has that."""
        return None if tuple(output.shape[-2:]) == self.size else adaptive_avg_pool2d(output, self.size)


def adapt_classifier(model: nn.Module, *, size: int | None = None, channels: int | None = None) -> nn.Module:
    """Make a classifier take images of any size at and above its minimum; at its native size the output is the same.

    - A model that takes any size already (most of torchvision's) is left as it is.
    - torchvision's VisionTransformer gets its position embedding resized on the fly, as `resize_position_embedding`
      does, to the grid of whole patches in the image.
    - A network that flattens a map into a fully connected layer gets the map averaged to its native size before
      (adaptive average pooling, as torchvision's VGG has): a forward hook on the last module that suits, found by
      trying.

    Names of parameters and so state dicts stay. Changes `model` in place; adapting twice changes nothing more. The hook
    is kept by `copy.deepcopy`, pickling of the whole module, DistributedDataParallel and torch.compile.

    Args:
        model: takes one tensor [B, C, H, W], in evaluation or training mode.
        size: side of its native square, pixels; needed only where none is found.
        channels: of the images; None takes what the first Conv2d wants.

    Returns:
        The same model.

    Raises:
        ConfigError: the model ties its size to something else, such as partitions of the map (MaxViT); names the layer.
    """
    if isinstance(model, loaded_class("torchvision.models", "VisionTransformer")):
        from resflow.models.transformer import free_transformer

        return free_transformer(model)
    spec = spatial_spec(model, size=size, channels=channels)
    if spec.fixed_size is None:
        return model
    probe = Probe(model, channels)
    sides = (spec.fixed_size[0] + 2 * spec.stride, 2 * spec.fixed_size[0] + spec.stride)
    for name, shape in reversed(probe.maps(spec.fixed_size)):
        handle = model.get_submodule(name).register_forward_hook(PoolTo(shape))
        free = Probe(model, channels)
        if all(free.accepts(*one) for one in (sides, sides[::-1], spec.fixed_size)):
            return model
        handle.remove()
    raise ConfigError(
        f"{type(model).__name__} takes images of {spec.fixed_size[0]}x{spec.fixed_size[1]} only, because of "
        f"{spec.where}, and averaging no module's output to its native size mends that. Resize the "
        "images, or build the model for another size."
    )
