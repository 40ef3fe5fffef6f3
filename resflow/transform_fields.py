"""The fields of a pipeline that does what a torchvision transform does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from resflow.augment import per_image_kinds as kinds
from resflow.augment.per_image_erasing import ErasingOfBytes
from resflow.errors import ConfigError
from resflow.fusion.split import flatten
from resflow.geometry import Affine, Fit, HorizontalFlip, RandomResizedCrop, Rotate, VerticalFlip, View
from resflow.normalize import UNIT, Normalize
from resflow.plan import Buckets, as_schedule

_CROPS = ("RandomResizedCrop", "RandomResizedCropAndInterpolation")
_FILTERS = {"bilinear": "bilinear", "2": "bilinear", "bicubic": "bicubic", "3": "bicubic"}  # by value and number
_CONVERSIONS = kinds.CONVERSIONS | {"MaybeToTensor"}
_OURS = _CONVERSIONS | {"ErasingOfBytes"}
_SAME = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class _Reading:
    """What has been read of a transform's steps so far."""

    def __init__(self) -> None:
        self.side: int | None = None
        self.fit = Fit()
        self.placed = ""  # the step that decides the placement
        self.resize: Any = None  # of a Resize that waits for its CenterCrop
        self.views: list[View] = []
        self.interpolation = "bilinear"
        self.rest: list[Any] = []
        self.floating: torch.dtype | None = None  # once images are floating, in [0, 1]
        self.normalize: Normalize | None = None


def transform_fields(transform: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Pipeline` for a transform.

    Args:
        transform: as `Pipeline.from_transforms` takes it.
        changes: as there.

    Raises:
        ConfigError: names the step that a pipeline cannot take, and the way out.
    """
    read = _Reading()
    steps = flatten(transform)
    if not steps:
        raise ConfigError("from_transforms takes a transform of torchvision; got one without any step")
    for step in steps:
        _take(read, step)
    if read.resize is not None:
        _take_resize_alone(read, changes)
    fields: dict[str, Any] = {"views": read.views, "transforms": _transforms(read.rest), "normalize": read.normalize}
    if read.interpolation != "bilinear":
        fields["interpolation"] = read.interpolation
    if read.floating is not None:
        fields["normalize"] = read.normalize or UNIT
        fields["dtype"] = read.floating
    return fields | _shape(read, changes) | dict(changes)


def _shape(read: _Reading, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Resolution, buckets, stride and fit: the transform's square, unless `changes` say otherwise."""
    resolution = changes.get("resolution", read.side)
    if resolution is None:
        raise ConfigError(
            "from_transforms: the transform gives images no size. Put RandomResizedCrop(224), or Resize(256) and "
            "CenterCrop(224) into it, or pass from_transforms(transform, resolution=224)."
        )
    fit = read.fit
    if "buckets" in changes:
        if fit.short_side is not None or fit.stretched:  # of squares
            fit = Fit(fill=fit.fill)
        return {"resolution": resolution, "fit": fit}
    sides = as_schedule(resolution).resolutions
    if fit.short_side is not None and read.side is not None and sides != (read.side,):
        if len(sides) > 1 and "fit" not in changes:
            raise ConfigError(
                f"from_transforms: Resize({fit.short_side}) and CenterCrop({read.side}) are of one size, but "
                f"resolution is {resolution!r}. Pass fit=rf.Fit(max_crop=1), which crops the centre at any size."
            )
        fit = Fit(short_side=round(fit.short_side * sides[0] / read.side), fill=fit.fill)
    stride = math.gcd(changes.get("stride", 32), *sides)
    return {"resolution": resolution, "buckets": Buckets.square(*sides, stride=stride), "stride": stride, "fit": fit}


def _take(read: _Reading, step: Any) -> None:
    """Take one step of the transform."""
    name = kinds.named(step)
    names = kinds.names(step)
    if names & {"Normalize"}:
        _take_normalize(read, step, name)
    elif names & _CONVERSIONS:
        _take_conversion(read, step, name, names)
    elif read.normalize is not None:
        if "RandomErasing" not in names:
            raise _refused(name, "follows Normalize, where images are no bytes any more", "Put it before ToTensor")
        read.rest.append(ErasingOfBytes(step, read.normalize.mean, read.normalize.std))
    elif "RandomErasing" in names and read.floating is not None:
        read.rest.append(ErasingOfBytes(step, *_SAME))
    elif names & {*_CROPS, "Resize", "CenterCrop"}:
        _take_placement(read, step, name)
    elif names & {"RandomHorizontalFlip", "RandomVerticalFlip"}:
        if any(map(kinds.is_function, _worked(read))):
            raise _refused(name, "comes after a function", "Put it before")
        flip = HorizontalFlip if "RandomHorizontalFlip" in names else VerticalFlip
        read.views.append(flip(p=step.p))
    elif names & {"RandomRotation", "RandomAffine"}:
        _take_turn(read, step, name, names)
    else:
        try:
            kinds.check(step, spatial=False)
        except ConfigError as error:
            why = str(error).removeprefix("transforms: ").partition(". ")[0]
            raise ConfigError(
                f"from_transforms cannot take {name}: {why}. Leave it out, or keep the transform as it is with "
                "rf.fuse(dataset)."
            ) from error
        read.rest.append(step)


def _take_placement(read: _Reading, step: Any, name: str) -> None:
    if name != "CenterCrop":
        given = getattr(step, "interpolation", "bilinear")
        found = _FILTERS.get(str(getattr(given, "value", given)))
        if found is None:
            shown = [getattr(one, "value", one) for one in (given if isinstance(given, Sequence) else [given])]
            raise _refused(
                f"{name}(interpolation={' or '.join(map(str, shown))})",
                "is resized with antialiasing, bilinear or bicubic, by a pipeline",
                "Pass interpolation=BILINEAR or BICUBIC",
            )
        read.interpolation = found
    if _worked(read) or any(not isinstance(view, HorizontalFlip | VerticalFlip) for view in read.views):
        raise _refused(name, "comes after another operation", "Put it first")
    if read.placed and not (name == "CenterCrop" and read.resize is not None):
        raise _refused(name, f"comes after {read.placed}: a pipeline resizes once", "Leave one of them out")
    read.placed = name
    if name in _CROPS:
        read.side = _square(step.size, name)
        read.views.insert(0, RandomResizedCrop(scale=tuple(step.scale), ratio=tuple(step.ratio)))
    elif name == "Resize":
        if getattr(step, "max_size", None) is not None:
            raise _refused("Resize(max_size=...)", "bounds the long side", "Use fit and resolution of Pipeline")
        sides = step.size if isinstance(step.size, Sequence) else [step.size]
        if len(sides) == 2:
            read.side, read.fit = _square(sides, name), Fit.stretch()
        else:
            read.resize = int(sides[0])
    else:
        if read.resize is None:
            raise _refused("CenterCrop", "is not scaled before", "Put Resize before it")
        read.side = _square(step.size, name)
        read.fit, read.resize = Fit(short_side=read.resize), None


def _take_resize_alone(read: _Reading, changes: Mapping[str, Any]) -> None:
    """A Resize to a short side, which gives images of many shapes."""
    if "buckets" not in changes:
        raise _refused(
            f"Resize({read.resize})",
            "gives images of many shapes",
            "Put CenterCrop behind it, or pass buckets=8 for batches of several shapes",
        )
    read.side = read.resize


def _take_turn(read: _Reading, step: Any, name: str, names: frozenset[str]) -> None:
    if not read.placed:
        raise _refused(name, "comes before the images have their size", "Put it behind the resize or crop")
    if _worked(read):
        raise _refused(name, f"comes after {kinds.named(_worked(read)[0])}", "Put it before colour operations")
    if getattr(step, "expand", False) or getattr(step, "center", None) is not None:
        raise _refused(f"{name}(expand=..., center=...)", "changes the shape, or turns about another point", "Leave it")
    fill = step.fill.get("others", 0) if isinstance(step.fill, dict) else step.fill
    colour = fill if isinstance(fill, Sequence) else [fill or 0] * 3
    read.fit = Fit(
        fill=tuple(int(level) for level in (colour if len(colour) == 3 else [colour[0]] * 3)),  # type: ignore[arg-type]
        short_side=read.fit.short_side,
        stretched=read.fit.stretched,
    )
    degrees = tuple(map(float, step.degrees))
    if "RandomRotation" in names:
        read.views.append(Rotate(degrees=degrees))  # type: ignore[arg-type]
        return
    shear = tuple(map(float, step.shear or (0.0, 0.0)))
    if any(shear[2:]):
        raise _refused(f"{name}(shear={step.shear})", "shears along y", "Give shear along x alone")
    read.views.append(
        Affine(  # torchvision's angles and shear go the other way round here
            degrees=(-degrees[1], -degrees[0]),
            translate=tuple(step.translate or (0.0, 0.0)),
            scale=tuple(step.scale or (1.0, 1.0)),
            shear=(-shear[1], -shear[0]),
        )
    )


def _take_conversion(read: _Reading, step: Any, name: str, names: frozenset[str]) -> None:
    if names & {"ToPILImage", "ToTensorV2"}:
        read.rest.append(step)
        return
    if read.normalize is None:
        read.rest.append(step)
    dtype = getattr(step, "dtype", None)
    if isinstance(dtype, Mapping):
        dtype = next(
            (held for kind, held in dtype.items() if getattr(kind, "__name__", kind) in ("Image", "others")), None
        )
    if names & {"ToTensor", "MaybeToTensor"}:
        read.floating = read.floating or torch.float32
    elif isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        if read.floating is None and not getattr(step, "scale", True):
            raise _refused(f"{name}(scale=False)", "leaves floating values from 0 to 255", "Pass scale=True")
        read.floating = dtype


def _take_normalize(read: _Reading, step: Any, name: str) -> None:
    if read.normalize is not None:
        raise _refused(name, "comes twice", "Leave one out")
    if read.floating is None:
        raise _refused(name, "comes before images are floating", "Put ToTensor before it")
    mean, std = (tuple(map(float, values)) for values in (step.mean, step.std))
    read.normalize = Normalize(mean=mean, std=std)


def _worked(read: _Reading) -> list[Any]:
    """Steps so far that change intensities."""
    return [step for step in read.rest if not kinds.names(step) & _CONVERSIONS]


def _transforms(rest: list[Any]) -> list[Any]:
    """The steps that stay per-image transforms, without the conversions that no step but ours comes behind."""
    last = next((place for place in reversed(range(len(rest))) if not kinds.names(rest[place]) & _OURS), -1)
    kept = [*rest[: last + 1], *(step for step in rest[last + 1 :] if isinstance(step, ErasingOfBytes))]
    first = next((place for place, step in enumerate(kept) if kinds.names(step) & _CONVERSIONS), len(kept))
    if not any(map(kinds.is_function, kept[:first])):
        return kept
    from torchvision.transforms import ToPILImage

    return [ToPILImage(), *kept]  # a function before the first conversion was written for what datasets give


def _square(size: Any, name: str) -> int:
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(set(sides)) != 1:
        raise _refused(f"{name}{sides}", "is no square", "Pass resolution= and buckets= of your own")
    return int(sides[0])


def _refused(what: str, why: str, way_out: str) -> ConfigError:
    return ConfigError(
        f"from_transforms cannot take {what}: it {why}. {way_out}; or keep the transform as it is with "
        "rf.fuse(dataset)."
    )
