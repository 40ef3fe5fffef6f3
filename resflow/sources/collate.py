"""The targets of a batch, from the targets of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from resflow.errors import TargetError
from resflow.sources.base import NO_TARGET, Sample

_OBJECTS = frozenset({"boxes", "bbox", "bboxes", "masks", "keypoints", "objects", "annotation", "annotations"})
"""Keys of targets whose values are as many as an image has objects."""


def collate_targets(samples: Sequence[Sample], targets: Sequence[object] | None = None) -> Any:
    """Put the targets of a batch's samples together.

    Args:
        samples: the batch's samples.
        targets: of each; None for those that the samples bring.

    Returns:
        Numbers: a tensor [B], as PyTorch collates them (int: int64, float: float64). Arrays and tensors of one shape
        and dtype: a tensor [B, ...]. Tuples of one length: a tuple of each place, collated so. Dicts with the same
        keys: a dict of each key, collated so; those with boxes, masks or keypoints, of which images have different
        numbers, stay a list of dicts, as detectors take them. All else (lists, strings, shapes that differ, tensors
        of a class of their own such as boxes): a list of B targets as they are. None where no sample has a target.

    Raises:
        TargetError: the targets are of different kinds; names the first sample that differs.
    """
    values = [sample.target for sample in samples] if targets is None else list(targets)
    return None if all(value is NO_TARGET for value in values) else _collate(values, samples, "targets")


def emptied(targets: Any) -> Any:
    """Targets of no samples, of the same kind as those of a batch.

    Args:
        targets: what `collate_targets` returned for any samples of the dataset.

    Returns:
        The same with B = 0: what the batch of a rank holds that has no part in a short one.
    """
    if isinstance(targets, tuple):
        return tuple(map(emptied, targets))
    if isinstance(targets, dict):
        return {name: emptied(column) for name, column in targets.items()}
    return None if targets is None else targets[:0]


def _collate(values: list[Any], samples: Sequence[Sample], name: str) -> Any:
    kinds = [_kind(value) for value in values]
    odd = next((place for place, kind in enumerate(kinds) if kind != kinds[0]), None)
    if odd is not None:
        raise TargetError(
            f"{name} of a batch must be of one kind; got {kinds[odd]} beside {kinds[0]} (sample {samples[0].key}). "
            "Have the dataset return one kind, or set a target_transform.",
            position=odd,
            key=samples[odd].key,
            shard=samples[odd].shard,
        )
    kind = kinds[0]
    if kind == "tuple" and len({len(value) for value in values}) == 1:
        places = enumerate(zip(*values, strict=True))
        return tuple(_collate(list(column), samples, f"{name}[{place}]") for place, column in places)
    if kind == "dict" and _alike(values):
        columns = {key: [value[key] for value in values] for key in values[0]}
        return {key: _collate(column, samples, f"{name}[{key!r}]") for key, column in columns.items()}
    if kind in ("int", "float") and len({type(value) for value in values}) > 1:
        values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if kind in ("bool", "int", "float") or (
        kind in ("array", "tensor") and len({(tuple(value.shape), value.dtype) for value in values}) == 1
    ):
        return default_collate(values)
    return values


def _alike(values: list[dict[Any, Any]]) -> bool:
    """Whether dicts make columns: with the same keys, none of them of objects."""
    keys = values[0].keys()
    return bool(keys) and not _OBJECTS & keys and all(value.keys() == keys for value in values)


def _kind(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer):
        return "int"
    if isinstance(value, float | np.floating):
        return "float"
    if type(value) is torch.Tensor:
        return "tensor"
    if type(value) is np.ndarray and value.dtype.kind in "biuf":
        return "array"
    if value is NO_TARGET:
        return "no target"
    return "None" if value is None else type(value).__name__
