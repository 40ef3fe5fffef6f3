"""What a loader hands out: fixed-shape images, their targets, and how each image came to lie where it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from resflow.geometry import Geometry


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch of images of one shape; unpacks as `images, targets = batch`.

    Args:
        images: [B, 3, H, W] in channels_last memory format: uint8, or the pipeline's dtype once normalised.
        targets: int64 [B] class labels; with a dataset, what it gives as targets, collated; None where there are none.
        transform: float32 [B, 3, 3], source pixels to output pixels, in continuous pixel edges.
        valid: int32 [B, 4], left, top, right, bottom of the part of each image that is not padding.
        source_size: int32 [B, 2], height and width of each source image, after EXIF orientation.
        sample_ids: int64 [B], the samples' numbers in the index.
        keys: the samples' keys.
        resolution: side in pixels of the square of about equal area that the schedule gave.
    """

    images: torch.Tensor
    targets: Any
    transform: torch.Tensor
    valid: torch.Tensor
    source_size: torch.Tensor
    sample_ids: torch.Tensor
    keys: tuple[str, ...]
    resolution: int

    def __iter__(self) -> Iterator[Any]:
        return iter((self.images, self.targets))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def geometry(self) -> Geometry:
        """The batch's placement as float64 NumPy arrays."""
        height, width = self.images.shape[2:]
        matrix = self.transform.cpu().numpy().astype(np.float64)
        return Geometry(matrix, self.source_size.cpu().numpy(), (height, width))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with all of its tensors on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: torch.device | str | None = None) -> Batch:
        """The same batch with all of its tensors in pinned memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        changed: dict[str, Any] = {field.name: _changed(getattr(self, field.name), change) for field in fields(self)}
        return replace(self, **changed)


def _changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A value with its tensors changed, also those in the lists, tuples and dicts of targets."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _changed(part, change) for name, part in value.items()}
    if isinstance(value, list):
        return [_changed(part, change) for part in value]
    if type(value) is tuple:
        return tuple(_changed(part, change) for part in value)
    return value
