"""The old name of `resflow.images`, kept until 0.3."""

from __future__ import annotations

import warnings

from resflow import images


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    warnings.warn(
        f"resflow.headers is now resflow.images: write `from resflow.images import {name}`; the old name goes in 0.3",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(images, name)
