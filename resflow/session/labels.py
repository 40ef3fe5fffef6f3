"""From what a sample brings to what its batch holds as targets: classes, objects moved by the geometry, label maps."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from resflow.errors import TargetError
from resflow.geometry import Geometry
from resflow.sources import Sample
from resflow.sources.base import NO_TARGET
from resflow.sources.collate import collate_targets, emptied
from resflow.sources.groups import IMAGE_EXTENSIONS
from resflow.targets import (
    Annotation,
    Instances,
    KeypointPairs,
    LabelMap,
    Targets,
    annotation_from,
    annotation_from_json,
    place_annotations,
    place_label_maps,
)
from resflow.targets.values import strange_values

_NUMBER = re.compile(rb"\s*[+-]?\d{1,18}\s*")
_WAY_OUT = "Name the right member in Pipeline(targets=...), or pass Pipeline(targets=None) to read none."


@dataclass(frozen=True, slots=True, eq=False)
class PixelClasses:
    """A class for each pixel of a batch, on its way to the loop.

    Args:
        classes: uint8, int16 or int32 [B, H, W], whatever holds them and is cheap to send.
        strange: what is wrong with the numbers in the maps, where they were looked at and something is.
    """

    classes: torch.Tensor
    strange: str | None = None


Spec = str | Targets | None
"""`Pipeline.targets`: the extension of a member that holds a class, how spatial targets are made, or no targets."""


def sample_target(
    members: Mapping[str, Any], target: object, spec: Spec, keypoint_pairs: KeypointPairs | None = None
) -> object:
    """The target of one sample.

    Args:
        members: of the sample, by extension: bytes, or what a pipeline has decoded them to; empty for a dataset.
        target: what the source brings; NO_TARGET where it brings none.
        spec: the pipeline's targets.
        keypoint_pairs: of a target that does not say itself which keypoints swap places in a mirror.

    Returns:
        An `Annotation`, a `LabelMap`, a class number, whatever else the source brings, or NO_TARGET.

    Raises:
        TargetError: the member is missing, or holds something else; knows no key yet.
    """
    if spec is None:
        return NO_TARGET
    if isinstance(target, Annotation | LabelMap):
        return target
    if target is NO_TARGET:
        if not members:
            return NO_TARGET
        name = spec if isinstance(spec, str) else spec.member or _spatial_member(members)
        if name not in members:
            kind = "class" if isinstance(spec, str) else "objects"
            raise TargetError(f"no {kind}: expected a member .{name}; got {_names(members)}. {_WAY_OUT}")
        value = members[name]
        if isinstance(spec, str):
            return class_number(value, name) if isinstance(value, bytes | memoryview) else value
        if isinstance(value, bytes | memoryview):
            options = {"box_format": spec.box_format}
            return annotation_from_json(bytes(value), **options) if name.endswith("json") else LabelMap(value)
        target = value
    if isinstance(spec, str):
        _warn_of_places(target)
        return target
    return _spatial(target, keypoint_pairs, spec.box_format)


def batch_targets(
    values: Sequence[object], samples: Sequence[Sample], geometry: Geometry, spec: Spec, *, look: bool = False
) -> Any:
    """What a batch holds as targets.

    Args:
        values: B targets of samples, as `sample_target` gave them.
        samples: the B samples, for messages.
        geometry: how the images are placed.
        spec: the pipeline's targets.
        look: whether to look at the numbers in label maps.

    Returns:
        `Instances` of annotations; `PixelClasses` of label maps; else what `collate_targets` makes of them.

    Raises:
        TargetError: targets of different kinds, or one that is wrong; names the sample.
    """
    options = spec if isinstance(spec, Targets) else Targets()
    kinds = {type(value) for value in values} & {Annotation, LabelMap}
    if len(kinds) == 1:
        odd = next((place for place, value in enumerate(values) if type(value) not in kinds), None)
        if odd is not None:
            raise TargetError(
                f"targets of a batch must be of one kind; got {type(values[odd]).__name__} beside "
                f"{kinds.pop().__name__}. Give every sample the same kind.",
                position=odd,
            )
        if kinds == {Annotation}:
            return place_annotations([v for v in values if isinstance(v, Annotation)], geometry, options)
        maps, found = [v for v in values if isinstance(v, LabelMap)], set[int]()
        placed = place_label_maps(maps, geometry, options, found if look else None)
        strange = strange_values(found, maps[0].known, options.ignore_index)
        return PixelClasses(placed, strange and f"{strange} (first seen in {samples[0].shard}/{samples[0].key})")
    return collate_targets(samples, values)


def without_samples(targets: Any) -> Any:
    """Targets of no samples, of the kind that a batch holds: for a batch of which no sample is sound."""
    if not isinstance(targets, Instances | PixelClasses):
        return emptied(targets)
    parts = {field.name: getattr(targets, field.name) for field in dataclasses.fields(targets)}
    none: dict[str, Any] = {name: part[:0] for name, part in parts.items() if isinstance(part, torch.Tensor)}
    return dataclasses.replace(targets, **none)


def without_content(target: object, size: tuple[int, int]) -> object:
    """A target of the same kind that holds nothing that could be wrong.

    Args:
        target: of a sample, as `sample_target` gave it.
        size: height and width of its image.
    """
    if isinstance(target, Annotation):
        return Annotation.empty()
    return LabelMap.from_array(np.zeros(size, np.uint8)) if isinstance(target, LabelMap) else target


def is_class(text: bytes | memoryview) -> bool:
    """Whether bytes are a class as decimal text."""
    return _NUMBER.fullmatch(text) is not None


def class_number(text: bytes | memoryview, member: str) -> int:
    """A class as a number, from its decimal text.

    Args:
        text: the digits, spaces around them allowed.
        member: where they come from, for the error.

    Raises:
        TargetError: not a decimal number.
    """
    if not _NUMBER.fullmatch(text):
        raise TargetError(
            f"a class must be a decimal number; member .{member} holds {bytes(text[:40])!r}. {_WAY_OUT} For texts, "
            f'hand over webdataset\'s own pipeline: wds.WebDataset(...).decode().to_tuple("jpg", "{member}").'
        )
    return int(bytes(text))


def _spatial_member(members: Mapping[str, Any]) -> str:
    """The member that holds objects, or else a class for each pixel."""
    maps = [name for name in members if name.endswith(".png")]
    if not maps and "png" in members and any(name in members for name in IMAGE_EXTENSIONS if name != "png"):
        maps = ["png"]
    return "json" if "json" in members or len(maps) != 1 else maps[0]


def _warn_of_places(target: object) -> None:
    """Say once that boxes of a dataset's own form are not moved along with the pixels."""
    one = target[0] if isinstance(target, list) and target else target
    if isinstance(one, Mapping) and ("boxes" in one or "bbox" in one):
        warnings.warn(
            "the dataset's targets hold boxes, which stay in the pixels of the source images. Set "
            "Pipeline(targets=rf.Targets()) to have them follow the images, or move them by batch.transform.",
            stacklevel=2,
        )


def _spatial(target: object, pairs: KeypointPairs | None, box_format: str | None) -> object:
    """What a dataset brings as objects or as a class for each pixel."""
    if isinstance(target, Image.Image):
        return LabelMap.from_array(np.asarray(target))
    if isinstance(target, np.ndarray | torch.Tensor) and target.ndim in (2, 3):
        return LabelMap.from_array(np.asarray(target))
    return annotation_from(target, keypoint_pairs=pairs, box_format=box_format)


def _names(members: Mapping[str, Any]) -> str:
    return ", ".join("." + name for name in members if not name.startswith("__"))
