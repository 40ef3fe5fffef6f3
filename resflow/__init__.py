"""Resflow feeds images of many sizes to PyTorch models, in fixed-shape batches, at the speed of the hardware.

Example:
    import resflow as rf

    loader = rf.DataLoader(
        "shards/train-{0000..0146}.tar", batch_size=256, shuffle=True, num_workers=8,
        pipeline=rf.Pipeline(resolution=rf.schedules.Linear(128, 224, epochs=16), buckets=8),
    )
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resflow import augment, sampling, schedules, sources, views
    from resflow.batch import Batch
    from resflow.fusion import fuse
    from resflow.geometry import Fit
    from resflow.loader import DataLoader
    from resflow.normalize import IMAGENET, Normalize
    from resflow.pipeline import Pipeline
    from resflow.pixels import Pixels
    from resflow.plan import Buckets, PixelBudget, World
    from resflow.skip import Skip
    from resflow.targets import Targets

__version__ = "0.1.0"

__all__ = [
    "IMAGENET",
    "Batch",
    "Buckets",
    "DataLoader",
    "Fit",
    "Normalize",
    "Pipeline",
    "PixelBudget",
    "Pixels",
    "Skip",
    "Targets",
    "World",
    "augment",
    "fuse",
    "sampling",
    "schedules",
    "sources",
    "views",
]

_HOME = {
    "IMAGENET": "resflow.normalize",
    "Batch": "resflow.batch",
    "Buckets": "resflow.plan",
    "DataLoader": "resflow.loader",
    "Fit": "resflow.geometry",
    "Normalize": "resflow.normalize",
    "Pipeline": "resflow.pipeline",
    "PixelBudget": "resflow.plan",
    "Pixels": "resflow.pixels",
    "Skip": "resflow.skip",
    "Targets": "resflow.targets",
    "World": "resflow.plan",
    "fuse": "resflow.fusion",
}
_MODULES = ("augment", "errors", "models", "sampling", "schedules", "sources", "views")


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for, so that `import resflow` costs nothing."""
    if name in _MODULES:
        return importlib.import_module(f"resflow.{name}")
    if name in _HOME:
        from resflow.extras import needed_for

        with needed_for(f"rf.{name} needs"):
            return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'resflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
