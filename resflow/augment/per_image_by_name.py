"""Per-image transforms by their names, as YAML writes them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from resflow.errors import ConfigError
from resflow.extras import needed_for

_NESTED = "transforms"  # the argument of containers


def named_transform(value: Any) -> Any:
    """A transform of torchvision.transforms.v2, or of albumentations.

    Args:
        value: the class's name, or a mapping of it to its arguments: "trivial_augment_wide",
            {"color_jitter": {"brightness": 0.4}}, {"albumentations.clahe": {"p": 0.2}}. What a container holds is
            given in the same way: {"random_apply": {"transforms": ["grayscale"], "p": 0.2}}.

    Returns:
        The transform.

    Raises:
        ConfigError: there is no such transform, it refuses its arguments, or albumentations is not installed.
    """
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, Mapping) or len(value) != 1 or not isinstance(next(iter(value)), str):
        raise ConfigError(f"a transform must be one name with its fields; got {value!r}")
    [(name, fields)] = value.items()
    if not isinstance(fields, Mapping | None):
        raise ConfigError(f"{name}: the fields of a transform must be a mapping; got {fields!r}")
    arguments = dict(fields or {})
    if isinstance(arguments.get(_NESTED), list | tuple):
        arguments[_NESTED] = [named_transform(part) for part in arguments[_NESTED]]
    cls = _found(name)
    try:
        return cls(**arguments)
    except Exception as error:  # libraries raise what they like
        raise ConfigError(f"{cls.__name__} refuses {arguments}: {error}") from error


def _found(name: str) -> type[Any]:
    library, _, short = name.rpartition(".")
    if library not in ("", "albumentations"):
        raise ConfigError(f"there is no transform {name!r}: name one of torchvision's, or albumentations.NAME")
    try:
        with needed_for(f"{name} in transforms needs"):
            module = importlib.import_module(library or "torchvision.transforms.v2")
    except ImportError as error:
        raise ConfigError(
            f"{name} needs {library}, which cannot be imported ({error}): pip install {library}"
        ) from error
    kinds = {_plain(kind): cls for kind, cls in vars(module).items() if isinstance(cls, type)}
    if _plain(short) not in kinds:
        close = difflib.get_close_matches(_plain(short), kinds, n=1)
        way_out = f"did you mean {kinds[close[0]].__name__}?" if close else f"Name a class of {module.__name__}."
        raise ConfigError(f"there is no transform {name!r}; {way_out}")
    return kinds[_plain(short)]


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
