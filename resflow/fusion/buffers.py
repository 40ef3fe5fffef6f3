"""One buffer for the images of a batch, filled image by image, and handed over without stacking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import collate, default_collate_fn_map

_stacked = default_collate_fn_map[torch.Tensor]
_SMALL = 32 * 1024  # bytes that shared memory and a file descriptor would not pay for


class _Handover:
    """What this process collates."""

    used = False  # whether by `_joined`
    buffer: torch.Tensor | None = None  # made last, and not handed over yet


class BatchBuffer:
    """Room for the B images of a batch; made when the first image's shape is known.

    Args:
        count: images.
        alike: whether they are expected to be of one shape; else each image has memory of its own.
    """

    def __init__(self, count: int, alike: bool = True) -> None:
        self.count = count
        self._alike = alike
        self._kinds: set[Any] = set()
        self._images: torch.Tensor | None = None
        if get_worker_info() is not None:  # nothing but this loader runs there, so PyTorch's own hands it over, too
            default_collate_fn_map[torch.Tensor] = _joined

    @property
    def alike(self) -> bool:
        """Whether its images were of one shape."""
        return len(self._kinds) == 1

    def slot(self, position: int, shape: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
        """Room for one image.

        Args:
            position: of the image in its batch.
            shape: channels, height and width.
            dtype: of its values.

        Returns:
            A contiguous tensor of that shape; a view of the buffer if shape and dtype are the first image's.
        """
        self._kinds.add((shape, dtype))
        if not self._alike:
            return torch.empty(shape, dtype=dtype)
        if self._images is None:
            self._images = _room((self.count, *shape), dtype)
        if self._images.shape[1:] != shape or self._images.dtype != dtype:
            return torch.empty(shape, dtype=dtype)
        return self._images[position]


def _room(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory for a batch; where a worker hands it over, memory that it shares with the loop."""
    size = math.prod(shape) * dtype.itemsize
    images = None
    if _Handover.used and get_worker_info() is not None and size > _SMALL:
        try:
            storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
            images = torch.empty(0, dtype=dtype).set_(storage).view(shape)
        except (RuntimeError, OSError):  # no room there: collating says so, as PyTorch does
            pass
    images = torch.empty(shape, dtype=dtype) if images is None else images
    _Handover.buffer = images if _Handover.used else None
    return images


def collate_views(batch: Sequence[Any]) -> Any:
    """PyTorch's `default_collate`, but a batch's images that were written to one buffer are not copied again.

    Args:
        batch: items of a fused dataset.
    """
    collated = collate(list(batch), collate_fn_map={**default_collate_fn_map, torch.Tensor: _joined})
    _Handover.buffer = None
    return collated


def _joined(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """One tensor of a batch's: the buffer they are in, which is handed over once, or a copy."""
    buffer, _Handover.used = _Handover.buffer, True
    if buffer is not None and len(batch) == len(buffer) and all(map(_is_slot, batch, buffer)):
        _Handover.buffer = None
        return buffer
    return _stacked(batch, collate_fn_map=collate_fn_map)


def _is_slot(image: Any, slot: torch.Tensor) -> bool:
    return (
        isinstance(image, torch.Tensor)
        and image.data_ptr() == slot.data_ptr()
        and image.shape == slot.shape
        and image.dtype == slot.dtype
        and image.is_contiguous()
    )
