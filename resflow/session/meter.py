"""Takes the times of a pass over a loader.

Workers time what they do to each batch and send the figures with it (`Batch.cost`); the loop times how long it waits
for batches, finishes them, and how long the training step between two of them takes.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from resflow.batch import Cost
from resflow.geometry import Geometry
from resflow.geometry.affine import is_axis_aligned, transform_points
from resflow.session.stats import LOOP, MADE, Stats
from resflow.session.torch_compat import queued
from resflow.sources import Sample
from resflow.targets.types import REMOVED

_Item = TypeVar("_Item")
_LOG = logging.getLogger("resflow")
_TOLD = {
    "damaged": "%s/%s is damaged (%s) and decoded as far as Pillow, and so torchvision, can. Further ones are "
    "counted in DataLoader.stats(); `resflow lint` lists them, Pipeline(strict=True) refuses them.",
    "cut off": "%s/%s: %s. If you want them scaled instead, convert the images to 8 bits first. Further ones are "
    "counted in DataLoader.stats(); Pipeline(strict=True) refuses them.",
}
"""What is said of the first image of each kind that is tolerated."""
_LATTICE = 144, 89  # points at which a turned image is looked at, neighbours in the Fibonacci numbers


class Stopwatch:
    """Seconds by stage, of one batch or of many."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = seconds or {}

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Count what happens inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def over(self, stage: str, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items; what it takes to get each counts to a stage."""
        iterator = iter(items)
        while True:
            with self.on(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def take(self) -> dict[str, float]:
        """The seconds so far; it begins again at none."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def batch_cost(spent: Stopwatch, samples: Sequence[Sample], geometry: Geometry) -> Cost:
    """What a batch cost where it was made.

    Args:
        spent: its stages.
        samples: its B samples, whose bytes are counted: all members that were read, or else the encoded image.
        geometry: how its originals are placed.
    """
    shown = _shown_pixels(geometry)
    area = geometry.source_size.prod(axis=1) * np.abs(np.linalg.det(geometry.matrix[:, :2, :2]))
    read, place, decode, transform = (spent.seconds.get(stage, 0.0) for stage in MADE)
    return Cost(
        read=read,
        place=place,
        decode=decode,
        transform=transform,
        bytes_read=sum(map(_bytes, samples)),
        shown=int(shown.sum()),
        cropped=float(np.clip(1 - shown / area, 0, 1).sum()),
    )


class Meter:
    """Takes the times of one pass.

    Args:
        epoch: of the pass.
        workers: worker processes.
        threads: of this process that make batches ahead.
        queue_size: the most batches that may wait.
        before: the meter of the pass before; what that has said is not said again.
    """

    def __init__(self, epoch: int, *, workers: int, threads: int, queue_size: int, before: Meter | None = None) -> None:
        self._epoch, self._workers, self._threads, self._queue_size = epoch, workers, threads, queue_size
        self._seconds = dict.fromkeys((*MADE, *LOOP), 0.0)
        self._begun = self._last = time.perf_counter()
        self._ended: float | None = None
        self._first, self._waiting = 0.0, False
        self._batches = self._images = self._pixels = self._shown = self._bytes = 0
        self._cropped = 0.0
        self._tolerated: Counter[str] = Counter()
        self._said: set[str] = set() if before is None else before._said
        self._objects: Counter[str] = Counter()
        self._depths = self._asked = 0
        self.depth: Callable[[], int | None] = _unknown
        """How many finished batches wait."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"depth": _unknown}  # a copy of a loader has no iterator

    def asked(self) -> None:
        """The loop asks for a batch: what it did since the last one was its step."""
        self._until("step" if self._batches else "wait")
        self._waiting = True
        depth = self.depth()
        if depth is not None:
            self._depths, self._asked = self._depths + depth, self._asked + 1

    def got(self, batch: Any) -> None:
        """A batch is there; the loop has waited for what it did not make itself."""
        self._until("wait")
        self._waiting = False
        if not self._batches:
            self._first = self._last - self._begun
        for one in batch.tolerated:
            self._tolerated[one.kind] += 1
            if one.kind not in self._said:
                self._said.add(one.kind)
                _LOG.warning(_TOLD[one.kind], one.shard, one.key, one.reason)
        cost: Cost | None = batch.cost
        self._batches, self._images = self._batches + 1, self._images + len(batch)
        if cost is None:
            return
        for stage in MADE:
            self._seconds[stage] += getattr(cost, stage)
        if not (self._workers or self._threads):
            self._seconds["wait"] -= sum(getattr(cost, stage) for stage in MADE)
        self._pixels += batch.images.shape[-2] * batch.images.shape[-1] * len(batch)
        self._shown, self._bytes = self._shown + cost.shown, self._bytes + cost.bytes_read
        self._cropped += cost.cropped

    def finished(self, finish: Any) -> None:
        """The loop is given its batch, which `finish` has finished and may have timed."""
        spent: Stopwatch | None = getattr(finish, "spent", None)
        copied = 0.0 if spent is None else spent.take().get("copy", 0.0)
        objects: Counter[str] | None = getattr(finish, "objects", None)
        if objects:
            self._objects.update(objects)
            objects.clear()
        self._until("augment")
        self._seconds["augment"] -= copied
        self._seconds["copy"] += copied

    def end(self) -> None:
        """The pass is over; harmless when repeated."""
        if self._ended is None:
            self._until("step" if self._batches and not self._waiting else "wait")
            self._ended = self._last

    def stats(self) -> Stats:
        """The figures so far."""
        seconds, now = dict(self._seconds), self._ended
        if now is None:
            now = time.perf_counter()
            seconds["step" if self._batches else "wait"] += now - self._last
        return Stats(
            epoch=self._epoch,
            batches=self._batches,
            images=self._images,
            wall=now - self._begun,
            first=self._first,
            seconds=seconds,
            workers=self._workers,
            threads=self._threads,
            queue_depth=self._depths / self._asked if self._asked else None,
            queue_size=self._queue_size,
            padded=1 - self._shown / self._pixels if self._pixels else 0.0,
            cropped=self._cropped / self._images if self._images else 0.0,
            bytes_read=self._bytes,
            tolerated=dict(self._tolerated),
            objects=self._objects["given"],
            removed={reason: self._objects[reason] for reason in REMOVED if self._objects[reason]},
        )

    def _until(self, stage: str) -> None:
        """All time since the last event was this stage's."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now


def ready_batches(iterator: Any) -> Callable[[], int | None]:
    """How many finished batches wait in an iterator; the answer is None where that is not known.

    Args:
        iterator: PyTorch's over worker processes, or one over batches made by threads; it is not kept alive.
    """
    alive = weakref.ref(iterator)

    def count() -> int | None:
        living = alive()
        if isinstance(depth := getattr(living, "depth", None), int):
            return depth
        return queued(living)

    return count


def _unknown() -> None:
    return None


def _bytes(sample: Sample) -> int:
    if sample.members:
        return sum(map(len, sample.members.values()))
    return 0 if isinstance(sample.image, np.ndarray) else len(sample.image)


def _shown_pixels(geometry: Geometry) -> Any:
    """float64 [B]: output pixels that show the image; of turned images an estimate, since counting takes too long."""
    box = geometry.valid.astype(np.float64)
    shown = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    turned = ~is_axis_aligned(geometry.matrix)
    if turned.any():
        height, width = geometry.output_size
        count, turn = _LATTICE
        place = np.arange(count) + 0.5
        points = np.stack([place / count * width, place * turn / count % 1 * height], axis=-1)[None]  # [1, P, 2]
        inverse = np.linalg.inv(geometry.matrix[turned]).astype(np.float64)
        source = transform_points(inverse, points)  # [T, P, 2]
        inside = (source >= 0) & (source < geometry.source_size[turned][:, None, ::-1])
        shown[turned] = inside.all(axis=-1).mean(axis=1) * height * width
    return shown
