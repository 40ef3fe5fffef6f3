"""What lets models take images of any size."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resflow.geometry.conv import (
        conv_input_size,
        conv_output_size,
        pool_input_size,
        pool_output_size,
        transposed_input_size,
        transposed_output_size,
    )
    from resflow.models.adapt import adapt_classifier
    from resflow.models.dynamic_input import DynamicInput
    from resflow.models.resize import resize_linear, resize_position_embedding
    from resflow.models.spec import SpatialSpec, spatial_spec

__all__ = [
    "DynamicInput",
    "SpatialSpec",
    "adapt_classifier",
    "conv_input_size",
    "conv_output_size",
    "pool_input_size",
    "pool_output_size",
    "resize_linear",
    "resize_position_embedding",
    "spatial_spec",
    "transposed_input_size",
    "transposed_output_size",
]

_HOME = {
    "DynamicInput": "resflow.models.dynamic_input",
    "SpatialSpec": "resflow.models.spec",
    "adapt_classifier": "resflow.models.adapt",
    "resize_linear": "resflow.models.resize",
    "resize_position_embedding": "resflow.models.resize",
    "spatial_spec": "resflow.models.spec",
} | {name: "resflow.geometry.conv" for name in __all__ if name.endswith(("_output_size", "_input_size"))}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
