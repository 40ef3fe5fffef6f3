"""A transform taken apart: its steps, which of them are geometric, which make numbers of pixels, and what follows."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeAlias

import numpy as np
from torch import nn

Step: TypeAlias = Callable[..., Any]

_VISION = "torchvision.transforms"
_TIMM = "timm.data.transforms"
_ALBUMENTATIONS = "albumentations"
_CROPS = frozenset(
    ["CenterCrop", "RandomCrop", "RandomHorizontalFlip", "RandomVerticalFlip", "CenterCropOrPad", "RandomCropOrPad"]
)
_SIZES = frozenset(
    [
        "Resize",
        "RandomResizedCrop",
        "ScaleJitter",
        "RandomShortestSize",
        "RandomResize",
        "RandomResizedCropAndInterpolation",
        "ResizeKeepRatio",
    ]
)
_FLIPS = frozenset(["RandomHorizontalFlip", "RandomVerticalFlip"])
_TURNS = frozenset(["Pad", "RandomRotation", "RandomAffine", "RandomPerspective", "RandomZoomOut"])
_CHOICES = frozenset(["RandomApply", "RandomChoice"])
_TYPES = frozenset(
    [
        *("ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "ToPureTensor"),
        *("MaybeToTensor", "MaybePILToTensor"),  # timm's
    ]
)
_ATOMS = (type, FunctionType, BuiltinFunctionType)
_OF_MODULES = nn.Module().__dict__.keys()
_NUMBERS = _TYPES | {"Normalize"}
_BYTES = frozenset(["PILToTensor", "ToImage", "ToPureTensor", "MaybePILToTensor"])


@dataclass(frozen=True, slots=True)
class Split:
    """A transform's steps, in the order they are run in.

    Args:
        geometric: the geometric steps it begins with. Where conversions to a tensor stand before or between them,
            those are moved behind, which changes no number by more than rounding.
        colour: steps on PIL images between these and the conversion.
        convert: conversion to a tensor of numbers: ToTensor, ToImage, ToDtype, Normalize and their like, in a row.
        after: what follows.
        window: how many of `geometric` are decoded as one window; those behind run on that window's pixels.
        reason: which step is the first that does not become part of the window, and why; "" where none is left.
    """

    geometric: list[Step] = field(default_factory=list)
    colour: list[Step] = field(default_factory=list)
    convert: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    window: int = 0
    reason: str = ""

    @property
    def rest(self) -> list[Step]:
        """All that follows the geometric steps."""
        return [*self.colour, *self.convert, *self.after]

    @property
    def gains(self) -> bool:
        """Whether less than a whole image may be decoded, or numbers are made of it at once."""
        if any(called(step) not in _TURNS | _FLIPS for step in self.geometric) or not all(map(called, self.colour)):
            return True
        return any(called(step) in _NUMBERS - _BYTES for step in self.convert)


def split(transform: Step | None) -> Split:
    """Take a transform apart.

    Args:
        transform: of torchvision (v1 or v2), timm or your own; None for none.

    Returns:
        Its steps; unknown ones count as colour, or where a tensor was made before, as what follows.
    """
    steps = [OnArray(step) if name(step, _ALBUMENTATIONS) else step for step in flatten(transform)]
    geometric: list[Step] = []
    pending: list[Step] = []
    for step in steps:
        if kind(step) == "geometric" and (not pending or _same_on_pil(step)):
            geometric.append(step)
        elif called(step) in _TYPES:
            pending.append(step)
        else:
            break
    rest = [*pending, *steps[len(geometric) + len(pending) :]]
    first = next((i for i, step in enumerate(rest) if called(step) in _NUMBERS), len(rest))
    last = next((i for i in range(first, len(rest)) if called(rest[i]) not in _NUMBERS), len(rest))
    window, reason = _window(geometric)
    if not reason and rest:
        reason = _why_not(next((step for step in rest if called(step) not in _NUMBERS), None))
    return Split(geometric, rest[:first], rest[first:last], rest[last:], window, reason)


class OnArray:
    """A transform of albumentations as one of a PIL image: it is handed an array by name, and gives a dict.

    Args:
        transform: the transform.
    """

    def __init__(self, transform: Step) -> None:
        self._transform = transform
        self.__name__ = f"albumentations.{type(transform).__name__}"

    def __call__(self, image: Any) -> Any:
        """Run it.

        Args:
            image: PIL image.

        Returns:
            The image that the transform gives: an array, or what its last step makes of one.
        """
        return self._transform(image=np.array(image))["image"]


def flatten(transform: Any) -> list[Step]:
    """The steps of a transform, out of `Compose`, `nn.Sequential` and objects that only call one of their attributes.

    Args:
        transform: the transform; None for none.
    """
    if transform is None:
        return []
    if name(transform, _VISION) == "Compose":
        return [step for part in transform.transforms for step in flatten(part)]
    if type(transform) is nn.Sequential:
        return [step for part in transform for step in flatten(part)]
    if name(transform, "torchvision.transforms._presets") == "ImageClassification":
        return _preset(transform)
    inner = delegate(transform)
    return [transform] if inner is None else flatten(inner)


def marks(value: Any, found: list[Any], depth: int = 5) -> list[Any]:
    """What a transform is made of; if it has changed, one of these is another object.

    Args:
        value: the transform.
        found: the list that they are added to.
        depth: of transforms within transforms.
    """
    found.append(value)
    if isinstance(value, list | tuple):
        for part in value:
            marks(part, found, depth - 1)
        return found
    for key, held in getattr(value, "__dict__", {}).items() if depth else ():
        if key == "_modules":
            for part in held.values():
                marks(part, found, depth - 1)
        elif key == "transforms" or (callable(held) and not isinstance(held, _ATOMS)):
            marks(held, found, depth - 1)
        elif key not in _OF_MODULES:
            found.append(held)
    return found


def kind(step: Step) -> str:
    """ "geometric", "numbers" (conversion or normalisation) or "other"."""
    found = called(step)
    if found in _CROPS | _SIZES | _TURNS:
        return "geometric"
    if found in _CHOICES:
        return "geometric" if all(kind(part) == "geometric" for part in _parts(step)) else "other"
    return "numbers" if called(step) in _NUMBERS else "other"


def called(step: Any) -> str:
    """The class name of a step of torchvision's or timm's; "" for any other."""
    return name(step, _VISION) or name(step, _TIMM)


def name(step: Any, home: str) -> str:
    """A step's class name if that class itself is defined in a package; subclasses are somebody's own."""
    cls = type(step)
    return cls.__name__ if cls.__module__ == home or cls.__module__.startswith(f"{home}.") else ""


def delegate(step: Any) -> Step | None:
    """What an object calls that does nothing else when it is called, as torchvision's training presets.

    Args:
        step: any callable.

    Returns:
        The attribute that `__call__` (or a module's `forward`) hands its arguments to, unchanged; None if it does
        anything else.
    """
    if isinstance(step, nn.Module):
        if type(step).__call__ is not nn.Module.__call__ or step._forward_hooks or step._forward_pre_hooks:
            return None
        method: Any = type(step).forward
    else:
        method = getattr(type(step), "__call__", None)  # noqa: B004 (of the class, not of the object)
    code = getattr(method, "__code__", None)
    attribute = None if code is None else _forwarded(code)
    inner = None if attribute is None else getattr(step, attribute, None)
    return inner if callable(inner) and not inspect.ismethod(inner) else None


@lru_cache(maxsize=256)
def _forwarded(code: Any) -> str | None:
    """The attribute of a method `def f(self, *names): return self.attribute(*names)`."""
    names = code.co_varnames[: code.co_argcount]
    if code.co_argcount < 2 or code.co_kwonlyargcount or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        return None
    found: list[str] = []
    loaded: list[str] = []
    for one in dis.get_instructions(code):
        if one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            found.append(str(one.argval))
        elif one.opname.startswith("LOAD_FAST"):
            loaded += list(one.argval) if isinstance(one.argval, tuple) else [one.argval]
        elif one.opname not in ("RESUME", "PRECALL", "CALL", "RETURN_VALUE", "PUSH_NULL", "CACHE", "NOP"):
            return None
    return found[0] if len(found) == 1 and tuple(loaded) == names else None


def describe(step: Any) -> str:
    """A step's name for people."""
    return getattr(step, "__name__", "") or type(step).__name__


def _parts(step: Any) -> Iterator[Step]:
    for part in step.transforms:
        yield from flatten(part)


def _window(geometric: list[Step]) -> tuple[int, str]:
    """How many geometric steps make one window, and why the next one is not among them."""
    resized = False
    for position, step in enumerate(geometric):
        known = called(step)
        if known in _TURNS:
            return position, f"{known} runs on the decoded window: only crops, flips and a resize are decoded."
        if known in _CHOICES:
            return position, f"{known} decides anew for each image; what it leaves out is decoded all the same."
        if known in _SIZES:
            if resized:
                return position, f"{known} is a second resize, and two resizes are not one."
            resized = True
    return len(geometric), ""


def _why_not(step: Step | None) -> str:
    if step is None:
        return ""
    if isinstance(step, OnArray):
        return (
            f"{describe(step)} is handed an array of all pixels: OpenCV resizes without antialiasing, which the "
            "decoder cannot do. Crop or resize with torchvision before it to decode less."
        )
    if kind(step) == "geometric":
        return f"{describe(step)} follows a conversion to numbers, where it gives other values than on a PIL image."
    return f"{describe(step)} works on pixels, so it runs after decoding, as you wrote it."


def _same_on_pil(step: Any) -> bool:
    """Whether a step gives on a PIL image what it gives on a tensor, to rounding."""
    if name(step, _VISION) not in _CROPS | _SIZES:
        return False
    if not getattr(step, "antialias", True) or getattr(getattr(step, "interpolation", None), "value", "") == "nearest":
        return False
    return not getattr(step, "fill", 0) and getattr(step, "padding_mode", "constant") == "constant"


def _preset(preset: Any) -> list[Step]:
    """What torchvision's `weights.transforms()` does, in steps."""
    import torch
    from torchvision import transforms

    return [
        transforms.Resize(preset.resize_size[0], preset.interpolation, antialias=preset.antialias),
        transforms.CenterCrop(preset.crop_size),
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize(preset.mean, preset.std),
    ]
