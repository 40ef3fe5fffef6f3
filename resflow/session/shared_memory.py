"""Memory that worker processes share with the loop."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import torch
from torch.utils.data import get_worker_info

from resflow.session.torch_compat import shared_storage
from resflow.session.workers import SHARED

SMALL = 32 * 1024
"""Bytes of a tensor that shared memory and a file descriptor would not pay for."""
_LOG = logging.getLogger("resflow")
_NAME = re.compile(r"</(torch_\w+)>")
_told = False  # whether this process said that shared memory has no room


def room_for_images(
    count: int, height: int, width: int, channels: int = 3, dtype: torch.dtype = torch.uint8
) -> torch.Tensor | None:
    """A batch's images, to be filled, where they need not be moved before they are handed over.

    Args:
        count: images.
        height: of each in pixels.
        width: the same.
        channels: of each.
        dtype: of each.

    Returns:
        `dtype` [count, channels, height, width] in channels_last, in shared memory; None outside of workers, or without
        room.
    """
    size = count * height * width * channels * dtype.itemsize
    if get_worker_info() is None or size <= SMALL:
        return None
    storage = allocated(lambda: shared_storage(size))
    if storage is None:
        return None
    return torch.empty(0, dtype=dtype).set_(storage).view(count, height, width, channels).permute(0, 3, 1, 2)


def allocated(allocate: Callable[[], torch.UntypedStorage | None]) -> torch.UntypedStorage | None:
    """What `allocate` gives; None where shared memory has no room, or this process no file descriptor."""
    global _told
    try:
        return allocate()
    except (RuntimeError, OSError) as error:
        for name in _NAME.findall(str(error)):  # made, but too large: PyTorch leaves it
            (SHARED / name).unlink(missing_ok=True)
        if not _told:
            _told = True
            _LOG.warning(
                "shared memory has no room for a batch (%s), so batches go through a pipe, which takes longer. Give "
                "/dev/shm more (docker run --shm-size=2g), or lower num_workers, prefetch_factor or batch_size.",
                str(error).splitlines()[0],
            )
        return None
