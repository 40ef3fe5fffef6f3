"""Per-image transforms, and augmentation of whole batches on their device: Kornia's and mixing, with targets along."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from resflow.extras import needed_for

if TYPE_CHECKING:
    from resflow.augment.by_name import named_operation
    from resflow.augment.copy_paste import CopyPaste
    from resflow.augment.kornia import Augment
    from resflow.augment.mixing import CutMix, MixUp
    from resflow.augment.mosaic import Mosaic
    from resflow.augment.pad_crop import DynamicPadCrop
    from resflow.augment.per_image import sample_seeds
    from resflow.augment.place import place_pixels
    from resflow.augment.ramped import Ramped
    from resflow.augment.random_choice import RandomChoice
    from resflow.augment.scheduled import ScheduledResize
    from resflow.augment.state import Augmented

__all__ = [
    "Augment",
    "Augmented",
    "CopyPaste",
    "CutMix",
    "DynamicPadCrop",
    "MixUp",
    "Mosaic",
    "Ramped",
    "RandomChoice",
    "ScheduledResize",
    "named_operation",
    "place_pixels",
    "sample_seeds",
]

_HOME = {
    "Augment": "kornia",
    "Augmented": "state",
    "CopyPaste": "copy_paste",
    "CutMix": "mixing",
    "DynamicPadCrop": "pad_crop",
    "MixUp": "mixing",
    "Mosaic": "mosaic",
    "Ramped": "ramped",
    "RandomChoice": "random_choice",
    "ScheduledResize": "scheduled",
    "named_operation": "by_name",
    "place_pixels": "place",
    "sample_seeds": "per_image",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for: Kornia takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needed_for(f"augment.{name} needs"):
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
