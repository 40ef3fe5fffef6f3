"""Packages that Resflow does without until they are asked for, and the extra of `pip install` that brings each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from resflow.errors import ConfigError

EXTRAS = {
    "OpenEXR": "exr",
    "imagecodecs": "tiff",
    "kornia": "kornia",
    "matplotlib": "plots",
    "pillow_heif": "heif",
    "pycocotools": "coco",
    "pydicom": "dicom",
    "ray": "ray",
    "rich": "cli",
    "tifffile": "tiff",
    "torchvision": "vision",
    "typer": "cli",
}
"""The extra that brings a package, by the package's name in an import."""


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Around imports: says which extra brings a package that is not installed.

    Args:
        what: what needs it, with the verb: "masks need".

    Raises:
        ConfigError: a package of `EXTRAS` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise ConfigError(
            f"{what} {package}, which is not installed. Run: pip install 'resflow[{EXTRAS[package]}]'"
        ) from error


def loaded_class(module: str, name: str) -> Any:
    """A class to ask `isinstance` for, of a package that need not be installed.

    Args:
        module: that has it.
        name: its name there.

    Returns:
        The class, or () where the module is not loaded: then nothing can be an instance of it.
    """
    return getattr(sys.modules.get(module), name, ())
