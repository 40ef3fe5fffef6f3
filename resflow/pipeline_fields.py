"""How the fields of a pipeline are read from YAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from resflow.config import Node, read_choice, read_fields
from resflow.errors import ConfigError
from resflow.geometry import Affine, Fit, HorizontalFlip, RandomResizedCrop, Rotate, VerticalFlip, View
from resflow.geometry.ramp import read_ramps
from resflow.normalize import IMAGENET, UNIT, Normalize
from resflow.pixels import Percentiles, Pixels, ValueRange, Window
from resflow.plan import Constant, Cosine, Cyclic, Linear, RandomMultiScale, Schedule, Steps
from resflow.skip import Skip
from resflow.targets import Targets

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What images may be once they are normalised."""
MEMORY_FORMATS = {"contiguous_format": torch.contiguous_format, "channels_last": torch.channels_last}
"""How images may lie in memory."""
_SCHEDULES = (Constant, Linear, Cosine, Steps, Cyclic, RandomMultiScale)
_VIEWS = (RandomResizedCrop, HorizontalFlip, VerticalFlip, Rotate, Affine)
_VALUES = (Window, ValueRange, Percentiles)
_NORMALIZATIONS = {"imagenet": IMAGENET, "unit": UNIT}


def _read_resolution(node: Node) -> int | Schedule:
    plain = node.plain()
    return plain if isinstance(plain, int) else _chosen(node, _SCHEDULES, "schedule")


def _read_views(node: Node) -> tuple[View, ...]:
    return tuple(_chosen(element, _VIEWS, "view") for element in node.elements("views"))


def _read_augment(node: Node) -> tuple[Any, ...]:
    from resflow.augment import named_operation

    operations = []
    for element in node.elements("augment"):
        name, nodes = element.named("operation")
        fields = {key: _magnitude(node) for key, node in nodes.items()}
        try:
            operations.append(named_operation(name, fields))
        except ConfigError as error:
            raise element.error(f"{name}: {error}") from error
    return tuple(operations)


def _read_transforms(node: Node) -> tuple[Any, ...]:
    from resflow.augment.per_image_by_name import named_transform

    transforms = []
    for element in node.elements("transforms"):
        try:
            transforms.append(named_transform(element.plain()))
        except ConfigError as error:
            raise element.error(str(error)) from error
    return tuple(transforms)


def _read_targets(node: Node) -> str | Targets | None:
    plain = node.plain()
    if plain is None or isinstance(plain, str):
        return plain
    targets: Targets = read_fields(node, Targets)
    return targets


def _magnitude(node: Node) -> Any:
    """A plain value in which `{ramp: [lo, hi]}` may stand wherever a number may."""
    try:
        return read_ramps(node.plain())
    except ConfigError as error:
        raise node.error(str(error)) from error


def _read_fit(node: Node) -> Fit:
    if node.plain() == "stretch":
        return Fit.stretch()
    fit: Fit = read_fields(node, Fit)
    return fit


def _read_normalize(node: Node) -> Normalize | None:
    plain = node.plain()
    if plain is None:
        return None
    if isinstance(plain, str):
        if plain in _NORMALIZATIONS:
            return _NORMALIZATIONS[plain]
        raise node.error(f"normalize knows {', '.join(_NORMALIZATIONS)}, or mean and std; got {plain!r}")
    normalize: Normalize = read_fields(node, Normalize)
    return normalize


def _read_pixels(node: Node) -> Pixels:
    pixels: Pixels = read_fields(node, Pixels, {"values": lambda part: read_choice(part, _VALUES, what="values")})
    return pixels


def _read_memory_format(node: Node) -> torch.memory_format:
    plain = node.plain()
    if plain not in MEMORY_FORMATS:
        raise node.error(f"memory_format must be one of {', '.join(MEMORY_FORMATS)}; got {plain!r}")
    return MEMORY_FORMATS[plain]


def _read_dtype(node: Node) -> torch.dtype:
    plain = node.plain()
    if not isinstance(plain, str) or plain not in DTYPES:
        raise node.error(f"dtype must be one of {', '.join(DTYPES)}; got {plain!r}")
    return DTYPES[plain]


def _read_on_error(node: Node) -> str | Skip:
    plain = node.plain()
    if plain == "raise":
        return "raise"
    if plain != "skip" and not (isinstance(plain, dict) and plain.keys() == {"skip"}):
        raise node.error(f"on_error must be `raise`, `skip`, or `skip` with its fields; got {plain!r}")
    skip: Skip = read_choice(node, (Skip,), what="on_error")
    return skip


def _chosen(node: Node, classes: tuple[type[Any], ...], what: str) -> Any:
    return read_choice(node, classes, what=what, default=_magnitude)


READERS: dict[str, Callable[[Node], Any]] = {
    "resolution": _read_resolution,
    "views": _read_views,
    "transforms": _read_transforms,
    "augment": _read_augment,
    "targets": _read_targets,
    "fit": _read_fit,
    "normalize": _read_normalize,
    "dtype": _read_dtype,
    "pixels": _read_pixels,
    "memory_format": _read_memory_format,
    "on_error": _read_on_error,
}
"""How to read a field that is more than a plain value."""
