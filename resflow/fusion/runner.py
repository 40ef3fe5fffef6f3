"""Run a user's own transform on images that wait to be decoded, and write a batch's images to one buffer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch.utils._pytree import tree_map
from torch.utils.data import get_worker_info
from torchvision import tv_tensors

from resflow.fusion.buffers import BatchBuffer
from resflow.fusion.lazy import LazyImage, real
from resflow.fusion.split import Split, Step, split
from resflow.fusion.table import LevelTable, level_table

_pools: dict[int, ThreadPoolExecutor] = {}  # by process


class Runner:
    """Stands in for the transform of a dataset: the same steps, the same random numbers, in the same order.

    Args:
        transform: the user's, of an image; None for none.
        waits: whether nobody looks at an image before the batch it belongs to is finished.
    """

    def __init__(self, transform: Step | None, waits: bool = False) -> None:
        self._waits = waits
        self._transform = transform
        self.split: Split = split(transform)
        self._before = [*self.split.geometric, *self.split.colour]
        self._tables: dict[str, LevelTable | None] = {}
        self._buffer: BatchBuffer | None = None
        self._positions: list[int] = []
        self._jobs: list[Callable[[], None]] = []

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the transform on one image.

        Args:
            *inputs: what the dataset opened. Anything but one PIL image (an array, an image and its mask) is handed to
                the transform as it is.
            **named: likewise.

        Returns:
            What the transform returns. Within a batch, and if it `waits`, a tensor may be written later: by the jobs
            that `finish` returns.
        """
        if named or len(inputs) != 1 or not isinstance(inputs[0], Image.Image):
            return inputs[0] if self._transform is None else tree_map(_real, self._transform(*inputs, **named))
        image: Any = inputs[0]
        for step in self._before:
            image = step(image)
        table = self._table(image)
        if table is None:
            for step in self.split.rest[len(self.split.colour) :]:
                image = step(image)
            return image if isinstance(image, torch.Tensor) else tree_map(_real, image)
        width, height = image.size
        shape, buffer = (table.channels, height, width), self._buffer
        if buffer is not None and self._positions:
            out = buffer.slot(self._positions.pop(0), shape, table.dtype)
        else:
            out = torch.empty(shape, dtype=table.dtype)
        if self.split.after or not self._waits or buffer is None or not isinstance(image, LazyImage):
            _write(image, table, out)
        else:
            self._jobs.append(lambda: _write(image, table, out))
        shown: Any = tv_tensors.Image(out) if table.is_image else out
        return self._after(shown, out)

    def begin(self, buffer: BatchBuffer | None) -> None:
        """Begin a batch; None: an item of its own."""
        self._buffer, self._positions, self._jobs = buffer, [], []

    def at(self, positions: Sequence[int]) -> None:
        """Say which images of the batch are next; others, such as an item's second, get memory of their own."""
        self._positions = list(positions)

    def finish(self) -> list[Callable[[], None]]:
        """End a batch; what is still to be done for it."""
        jobs, self._jobs, self._buffer = self._jobs, [], None
        return jobs

    def _table(self, image: Any) -> LevelTable | None:
        if not isinstance(image, Image.Image):
            return None
        if image.mode not in self._tables:
            self._tables[image.mode] = level_table(self.split.convert, image.mode)
        return self._tables[image.mode]

    def _after(self, shown: Any, out: torch.Tensor) -> Any:
        """Run what follows the conversion; its result in the batch's memory, if that has room for it."""
        image = shown
        for step in self.split.after:
            image = step(image)
        if image is shown or type(image) is not type(shown) or image.shape != out.shape or image.dtype != out.dtype:
            return image
        out.copy_(image)
        return shown


class JointRunner:
    """Stands in for a transform of images and targets together.

    Args:
        transforms: the user's.
    """

    def __init__(self, transforms: Step) -> None:
        self.split = split(transforms)
        self._steps = [*self.split.geometric, *self.split.rest]

    def __call__(self, *inputs: Any) -> Any:
        """Run it on one image and its target, or on whatever else the dataset hands to it."""
        outputs: Any = inputs
        for step in self._steps:
            outputs = step(*outputs)
        return tree_map(_real, outputs)


def _real(value: Any) -> Any:
    return real(value) if isinstance(value, LazyImage) else value


def do(jobs: Sequence[Callable[[], None]]) -> None:
    """Do what a batch's runners left: in threads, unless this is a worker process."""
    if len(jobs) < 2 or get_worker_info() is not None or _threads() < 2:
        for job in jobs:
            job()
    else:
        for _ in _pool().map(lambda job: job(), jobs):
            pass


def _write(image: Image.Image, table: LevelTable, out: torch.Tensor) -> None:
    import numpy as np

    pixels = image.pixels() if isinstance(image, LazyImage) else np.asarray(image)
    table.write(pixels, out)


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool() -> ThreadPoolExecutor:
    pid = os.getpid()
    if pid not in _pools:
        _pools.clear()
        _pools[pid] = ThreadPoolExecutor(_threads(), "resflow-fuse")
    return _pools[pid]
