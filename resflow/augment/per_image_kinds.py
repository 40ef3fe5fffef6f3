"""What is known of per-image transforms: whose they are, what they take, and whether they move pixels."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

from resflow.errors import ConfigError

Transform: TypeAlias = Callable[..., Any]
Form: TypeAlias = Literal["pil", "tensor", "image", "array"]
"""How an image is handed to a transform: a PIL image; a tensor uint8 [3, H, W]; the same as `tv_tensors.Image`; an
array uint8 [H, W, 3], by the name `image`."""

CONVERSIONS = frozenset(
    {"ToTensor", "PILToTensor", "ToImage", "ToPILImage", "ToPureTensor", "ToDtype", "ConvertImageDtype", "ToTensorV2"}
)
"""Transforms that change what an image is held in, and no pixel."""
_NORMALIZES = frozenset({"Normalize", "LinearTransformation", "FromFloat"})
_BATCHES = frozenset({"MixUp", "CutMix", "Mosaic", "FiveCrop", "TenCrop"})
_OF_BOXES = frozenset({"SanitizeBoundingBoxes", "ClampBoundingBoxes", "ConvertBoundingBoxFormat", "ClampKeyPoints"})
_SHAPES = frozenset(
    {
        "Resize", "CenterCrop", "RandomCrop", "RandomResizedCrop", "Pad", "RandomZoomOut", "RandomIoUCrop",
        "RandomShortestSize", "RandomResize", "ScaleJitter", "RandomResizedCropAndInterpolation", "ResizeKeepRatio",
        "CenterCropOrPad", "RandomCropOrPad", "resize", "center_crop", "crop", "resized_crop", "pad", "five_crop",
        "ten_crop",
    }
)  # fmt: skip
_VIEWS = {
    "RandomHorizontalFlip": "HorizontalFlip", "HorizontalFlip": "HorizontalFlip", "hflip": "HorizontalFlip",
    "horizontal_flip": "HorizontalFlip", "RandomVerticalFlip": "VerticalFlip", "VerticalFlip": "VerticalFlip",
    "vflip": "VerticalFlip", "vertical_flip": "VerticalFlip", "RandomRotation": "Rotate", "Rotate": "Rotate",
    "SafeRotate": "Rotate", "rotate": "Rotate", "RandomAffine": "Affine", "Affine": "Affine", "affine": "Affine",
    "ShiftScaleRotate": "Affine",
}  # fmt: skip
_IN_PLACE = CONVERSIONS | {
    "ColorJitter", "RandomPhotometricDistort", "RandomGrayscale", "Grayscale", "RGB", "RandomChannelPermutation",
    "GaussianBlur", "GaussianNoise", "RandomInvert", "RandomPosterize", "RandomSolarize", "RandomAdjustSharpness",
    "RandomAutocontrast", "RandomEqualize", "RandomErasing", "ErasingOfBytes", "JPEG", "Identity", "Lambda",
}  # fmt: skip
_DETERMINISTIC = CONVERSIONS | {"Grayscale", "RGB", "ToGray", "Identity", "NoOp"}
_ALBUMENTATIONS_IN_PLACE = frozenset({"ImageOnlyTransform", "NoOp", "Morphological", "OverlayElements"})
_TENSORS = frozenset(  # torchvision's that take or prefer tensors
    {"RandomErasing", "GaussianNoise", "Lambda", "ToDtype", "ConvertImageDtype", "ToPureTensor", "ToPILImage"}
)
_LAMBDA = frozenset({"Lambda"})
_SEQUENTIAL = ("torch.nn.modules.container", "Sequential")
_LIBRARIES = ("torchvision", "albumentations", "timm", "kornia", "resflow")


def named(transform: Transform) -> str:
    """What a transform is called in messages: its class, or the function's own name."""
    if isinstance(transform, functools.partial):
        return named(transform.func)
    return str(getattr(transform, "__qualname__", type(transform).__name__))


def library(transform: Transform) -> str:
    """Whose class it is, or is made from: "torchvision", "albumentations", "timm", "kornia"; "" for all else."""
    roots = [kind.__module__.partition(".")[0] for kind in type(transform).__mro__]
    return next((root for root in roots if root in _LIBRARIES), "")


def parts(transform: Transform) -> list[Transform] | None:
    """The transforms that a container holds (Compose, RandomApply, Sequential, OneOf, ...); None: it is none."""
    held: Any = transform if _is_sequential(transform) else getattr(transform, "transforms", None)
    if not (library(transform) or held is transform) or isinstance(held, str) or not hasattr(held, "__iter__"):
        return None
    return [one for one in held if callable(one)]


def leaves(transform: Transform) -> Iterator[Transform]:
    """The transforms that one is made of, in order."""
    held = parts(transform)
    if held is None:
        yield transform
    for one in held or ():
        yield from leaves(one)


def form(transform: Transform) -> Form:
    """What a transform is handed where nothing before it has converted the image.

    torchvision's own take PIL images, as its datasets give them: most of its colour operations are faster on these than
    on tensors. Its erasing and noise, which work on tensors, are given these, and so are plain functions and modules. A
    `Compose` with functions or conversions in it was written for what datasets give, and begins with that.
    """
    whose, kind = library(transform), type(transform)
    if whose == "albumentations":
        return "array"
    if whose == "timm":
        return "tensor" if kind.__name__ == "RandomErasing" else "pil"
    if whose != "torchvision" or _is(transform, _TENSORS):
        return "tensor"
    if parts(transform) is not None:
        inside = list(leaves(transform))
        if kind.__name__ == "Compose" and any(converts(one) or is_function(one) for one in inside):
            return "pil" if is_function(inside[0]) else form(inside[0])
        forms = [form(one) for one in inside]
        return "tensor" if "tensor" in forms else "image" if "image" in forms else "pil"
    own = kind.__module__.startswith("torchvision.")
    return "image" if not own and any(".transforms.v2." in base.__module__ for base in kind.__mro__) else "pil"


def converts(transform: Transform) -> bool:
    """Whether a transform is a conversion, after which the image is handed on as it is."""
    return _is(transform, CONVERSIONS)


def check(transform: object, *, spatial: bool) -> None:
    """Refuse what cannot stand among the transforms of a pipeline.

    Args:
        transform: what was given.
        spatial: whether targets have places in the images: boxes, masks, keypoints, label maps.

    Raises:
        ConfigError: names the transform, the reason and the way out.
    """
    if not callable(transform) or isinstance(transform, type):
        what = f"the class {transform.__name__}; make an instance" if isinstance(transform, type) else repr(transform)
        raise ConfigError(
            "transforms takes callables of one image: torchvision's, albumentations', or any function of a tensor "
            f"uint8 [3,H,W]; got {what}."
        )
    if library(transform) == "kornia":
        raise ConfigError(
            f"transforms: {named(transform)} is Kornia's, whose modules work on whole batches. Put it in "
            "Pipeline(augment=[...]), which draws for each image all the same."
        )
    for leaf in leaves(transform):
        _check_leaf(leaf, spatial=spatial)


def is_untraced(transform: Transform) -> bool:
    """Whether a transform may move pixels as no matrix of the batch tells (RandAugment, ElasticTransform)."""
    return any(_is_untraced(leaf) for leaf in leaves(transform))


def deterministic_transforms(transforms: Sequence[Transform]) -> tuple[Transform, ...]:
    """Those that do the same to an image each time.

    Raises:
        ConfigError: that cannot be told of one.
    """
    answers = [(transform, is_deterministic(transform)) for transform in transforms]
    for transform, fixed in answers:
        if fixed is None:
            raise ConfigError(
                f"Pipeline.evaluation cannot tell whether {named(transform)} of Pipeline.transforms is random. Name "
                "the transforms that evaluation keeps: Pipeline.evaluation(transforms=[...]), or [] for none."
            )
    return tuple(transform for transform, fixed in answers if fixed)


def is_deterministic(transform: Transform) -> bool | None:
    """Whether a transform does the same to an image each time; None: that cannot be told."""
    held = parts(transform)
    if held is not None:
        answers = [is_deterministic(one) for one in held]
        in_order = type(transform).__name__ in ("Compose", "Sequential")
        return False if not in_order or False in answers else None if None in answers else True
    if is_function(transform) or not library(transform):
        return None
    return _is(transform, _DETERMINISTIC) and getattr(transform, "p", 1) == 1


def shape_error(name: str, detail: str = "") -> ConfigError:
    """What to say to a transform that changes the shape."""
    return ConfigError(
        f"transforms: {name} changes the shape of the image{detail}, but the plan owns the shape: it is decided before "
        "decoding, and the same on every rank. Use views=[rf.views.RandomResizedCrop(...)] to crop at random, "
        "fit=rf.Fit(...) to crop and pad, and resolution=... to resize; rf.Pipeline.from_transforms(transform) takes a "
        "whole torchvision transform apart."
    )


def view_error(view: Any) -> ConfigError:
    """What to say to what is no view.

    Args:
        view: what was given among a pipeline's views.
    """
    must = "Pipeline.views must be a sequence of views"
    if isinstance(view, type):
        return ConfigError(f"{must}; got the class {view.__name__}. Write {view.__name__}(...).")
    found = names(view)
    named_view = next((_VIEWS[kind] for kind in found if kind in _VIEWS), "")
    if "RandomResizedCrop" in found:
        named_view = "RandomResizedCrop"
    if named_view:
        way_out = f"Write rf.views.{named_view}(...), which is drawn before decoding and takes targets along."
    elif not found.isdisjoint(_SHAPES):
        way_out = (
            "Pipeline(resolution=..., fit=rf.Fit(...)) decides shapes; evaluation(resize=256, crop=224) the classic."
        )
    elif not found.isdisjoint(_NORMALIZES | CONVERSIONS):
        way_out = "Drop it: images come as tensors, and Pipeline(normalize=rf.IMAGENET) normalises them."
    elif library(view) == "kornia":
        way_out = "Put it in Pipeline(augment=[...]), which takes Kornia's modules."
    else:
        way_out = "Put transforms of an image's colours in Pipeline(transforms=[...]), which runs on each image."
    whose = library(view)
    return ConfigError(
        f"{must} (rf.views.RandomResizedCrop, HorizontalFlip, VerticalFlip, Rotate, Affine, or your own); got "
        f"{named(view)}{f' of {whose}' if whose else ''}. {way_out}"
    )


def move_error(name: str, view: str = "") -> ConfigError:
    """What to say to a transform that moves pixels."""
    instead = f"rf.views.{view}(...)" if view else "rf.views (HorizontalFlip, VerticalFlip, Rotate, Affine)"
    return ConfigError(
        f"transforms: {name} moves pixels, which the batch's transform and targets would not follow. Use "
        f"Pipeline(views=[...]) with {instead}, which costs less: it is done while the image is decoded."
    )


def _check_leaf(leaf: Transform, *, spatial: bool) -> None:
    name, kinds = named(leaf), names(leaf)
    if not kinds.isdisjoint(_NORMALIZES):
        mean, std = getattr(leaf, "mean", "mean"), getattr(leaf, "std", "std")
        mean, std = (tuple(values) if isinstance(values, list) else values for values in (mean, std))
        raise ConfigError(
            f"transforms: {name} takes intensities out of bytes, in which images are handed on. Use "
            f"Pipeline(normalize=rf.Normalize({mean}, {std})), which normalises after everything else."
        )
    if not kinds.isdisjoint(_SHAPES):
        raise shape_error(name)
    if view := next((_VIEWS[kind] for kind in kinds if kind in _VIEWS), ""):
        raise move_error(name, view)
    if not kinds.isdisjoint(_BATCHES):
        raise ConfigError(
            f"transforms: {name} needs more than one image, or makes more than one. Use MixUp, CutMix or Mosaic of "
            "resflow.augment in Pipeline(augment=[...]), which mix targets, too."
        )
    if not kinds.isdisjoint(_OF_BOXES):
        raise ConfigError(
            f"transforms: {name} changes boxes, and transforms are given images alone. Boxes are clipped and filtered "
            "by Pipeline(targets=rf.Targets(clip=..., min_side=..., min_visible=...))."
        )
    if _is_untraced(leaf) and library(leaf) == "albumentations":
        raise move_error(name)
    if _is_untraced(leaf) and spatial:
        raise ConfigError(
            f"transforms: {name} may move pixels, so boxes, masks, keypoints and label maps cannot follow. Use colour "
            "operations (ColorJitter, RandomAutocontrast, ...), and views for geometry."
        )


def _is_untraced(leaf: Transform) -> bool:
    if library(leaf) == "albumentations":
        return ".dropout." not in type(leaf).__module__ and not _is(leaf, _ALBUMENTATIONS_IN_PLACE | CONVERSIONS)
    return bool(library(leaf)) and not _is(leaf, _IN_PLACE)


def names(transform: Transform) -> frozenset[str]:
    """Names of a library's classes that a transform is, or of torchvision's functions."""
    if isinstance(transform, functools.partial):
        return names(transform.func)
    if inspect.isroutine(transform):
        own = str(getattr(transform, "__module__", "")).startswith("torchvision.")
        return frozenset({transform.__name__} if own else ())
    return frozenset(kind.__name__ for kind in type(transform).__mro__ if kind.__module__.startswith(_LIBRARIES))


def _is(transform: Transform, known: frozenset[str]) -> bool:
    return not known.isdisjoint(names(transform))


def is_function(transform: Transform) -> bool:
    """Whether nothing is known of what a transform does: a function, one's own class, `Lambda`."""
    return not library(transform) or _is(transform, _LAMBDA)


def _is_sequential(transform: object) -> bool:
    return any((kind.__module__, kind.__name__) == _SEQUENTIAL for kind in type(transform).__mro__)
