"""Batches out of a stream: sizes are known only as samples arrive, and a bounded number of samples waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from resflow.checks import is_whole
from resflow.errors import ConfigError
from resflow.plan.batches import PlannedBatch
from resflow.plan.buckets import Buckets, Sizes, fit_loss
from resflow.plan.budget import PixelBudget
from resflow.plan.learn import learn_buckets
from resflow.plan.schedule import Schedule

UNKNOWN_EPOCH = 1 << 40
"""Samples an epoch counts for, in a schedule's eyes, where nobody knows how many it has."""

_MOST_EPOCHS = 1 << 22  # epoch x UNKNOWN_EPOCH stays within int64

_Waiting = tuple[int, int, int, int]  # place in the stream, sample id, height, width


def default_learn(batch_size: int | PixelBudget) -> int:
    """Samples that buckets are learned from: 4 batches, at least 256 and at most 4,096; with a pixel budget 256."""
    return 256 if isinstance(batch_size, PixelBudget) else min(max(256, 4 * batch_size), 4096)


def most_samples(batch_size: int | PixelBudget, schedule: Schedule, area_tolerance: float) -> int:
    """The most samples that a batch holds, whatever buckets will be learned.

    Args:
        batch_size: samples of a batch, or a pixel budget.
        schedule: resolution by progress.
        area_tolerance: as for `learn_buckets`.
    """
    if not isinstance(batch_size, PixelBudget):
        return batch_size
    least = int((1.0 - area_tolerance) * min(schedule.resolutions) ** 2)
    return batch_size.limit((max(1, least), 1))


class OnlineBucketer:
    """Gathers the samples of one stream into batches of one shape each, first come, first served.

    A sample waits in the bucket of its aspect ratio; the bucket's batch comes out with the sample that completes it.
    With K buckets at most K (batch_size - 1) + 1 samples wait (one more, and some bucket would have been full before),
    or the samples that buckets are learned from, if those are more (`bound`). At the stream's end what waits is
    sorted by aspect ratio and cut into full batches and one short one, each at the shape that wastes least.

    The resolution of a batch is the schedule's after epoch x epoch_size + streams x samples that came out of this
    stream before it in the epoch; never past the epoch's last sample, also where the stream is longer. Where
    `epoch_size` is not known an epoch counts 2**40 samples: schedules that follow epochs move at each epoch and stand
    still within it, and `RandomMultiScale`, which counts samples, draws as ever.

    Args:
        schedule: resolution by progress.
        batch_size: samples of a batch, or a pixel budget.
        buckets: the buckets, or how many to learn from the first `learn` samples (fewer if the stream is shorter).
        stride: as for `learn_buckets`.
        max_crop: as for `learn_buckets`.
        area_tolerance: as for `learn_buckets`.
        seed: the run's seed, in [0, 2**64).
        epoch: at least 0.
        drop_last: whether to leave out the samples of the short batch.
        epoch_size: samples of an epoch over all streams, if known.
        streams: how many streams make up the epoch, at least 1.
        learn: samples to learn from, at least 1; default: `default_learn`.

    Raises:
        ConfigError: a number is out of range.
        PlanError: a budget is too small for one image, or given buckets lack a resolution of the schedule.
    """

    def __init__(
        self,
        schedule: Schedule,
        batch_size: int | PixelBudget,
        *,
        buckets: Buckets | int = 8,
        stride: int = 32,
        max_crop: float = 0.0,
        area_tolerance: float = 0.15,
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = False,
        epoch_size: int | None = None,
        streams: int = 1,
        learn: int | None = None,
    ) -> None:
        counts = {"streams": streams, "learn": learn, "epoch_size": epoch_size}
        counts |= {} if isinstance(buckets, Buckets) else {"buckets": buckets}
        counts |= {} if isinstance(batch_size, PixelBudget) else {"batch_size": batch_size}
        for name, value in counts.items():
            if value is not None and not is_whole(value):
                raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}")
        if not 0 <= seed < 1 << 64 or not 0 <= epoch < _MOST_EPOCHS:
            raise ConfigError(f"seed must be in [0, 2**64) and epoch in [0, {_MOST_EPOCHS}); got {seed} and {epoch}")
        self._schedule, self._batch_size = schedule, batch_size
        self._stride, self._max_crop, self._area_tolerance = stride, max_crop, area_tolerance
        self._seed, self._epoch, self._drop_last = seed, epoch, drop_last
        self._epoch_size, self._streams = epoch_size or UNKNOWN_EPOCH, streams
        self._learn = default_learn(batch_size) if learn is None else learn
        self._wanted = len(buckets) if isinstance(buckets, Buckets) else buckets
        self._early: list[_Waiting] = []
        self._waiting: list[deque[_Waiting]] = []
        self._limits: dict[int, list[int]] = {}
        self._step = self._emitted = self._arrived = 0
        self.buckets: Buckets | None = None
        """The buckets, None until they are learned."""
        self._resolution = self._level()
        if isinstance(buckets, Buckets):
            self._learn = 0
            self._use(buckets)

    def __len__(self) -> int:
        return len(self._early) + sum(map(len, self._waiting))

    @property
    def bound(self) -> int:
        """The most samples that wait at any time, the one that arrives included."""
        if self.buckets is None:
            limit = most_samples(self._batch_size, self._schedule, self._area_tolerance)
            return max(self._learn, self._wanted * (limit - 1) + 1)
        return max(self._learn, *(sum(limits) - len(limits) + 1 for limits in self._limits.values()))

    def add(self, sample_id: int, height: int, width: int) -> list[PlannedBatch]:
        """Take the next sample of the stream.

        Args:
            sample_id: what the batch will call it, at least 0.
            height: pixels, at least 1.
            width: pixels, at least 1.

        Returns:
            The batches it completes: none or one; several where it completes the samples that buckets are learned
            from, or where a pixel budget holds fewer images at the resolution that is reached.

        Raises:
            ConfigError: a size that is not positive.
            PlanError: no shape satisfies stride and resolution.
        """
        if height < 1 or width < 1:
            raise ConfigError(f"height and width must be at least 1; got {height} and {width} for sample {sample_id}")
        sample = (self._arrived, sample_id, height, width)
        self._arrived += 1
        if self.buckets is not None:
            return self._place(sample, self.buckets)
        self._early.append(sample)
        return self._learned() if len(self._early) >= self._learn else []

    def finish(self) -> list[PlannedBatch]:
        """Take note that the stream has ended.

        Returns:
            Batches of all that waits, full but for the last; without the last, if short, under `drop_last`.

        Raises:
            PlanError: no shape satisfies stride and resolution.
        """
        batches = self._learned() if self._early else []
        if self.buckets is None:
            return batches
        rest = sorted(sample for waiting in self._waiting for sample in waiting)
        self._waiting = [deque() for _ in self._waiting]
        size = np.array([sample[2:] for sample in rest], dtype=np.int32).reshape(-1, 2)
        order = np.argsort(size[:, 1] / size[:, 0], kind="stable").tolist()
        while order:
            count = min(self._limits[self._resolution])
            if len(order) < count and self._drop_last:
                break
            taken, order = order[:count], order[count:]
            bucket = _least_waste(self.buckets, size[taken], self._resolution)
            batches.append(self._emit([rest[place] for place in sorted(taken)], self.buckets, bucket))
        return batches

    def _learned(self) -> list[PlannedBatch]:
        """Learn buckets from the samples so far, then let these come as if they had just arrived."""
        buckets = learn_buckets(
            np.array([sample[2:] for sample in self._early], dtype=np.int32),
            self._wanted,
            resolutions=self._schedule.resolutions,
            stride=self._stride,
            max_crop=self._max_crop,
            area_tolerance=self._area_tolerance,
        )
        self._use(buckets)
        early, self._early = self._early, []
        return [batch for sample in early for batch in self._place(sample, buckets)]

    def _use(self, buckets: Buckets) -> None:
        self.buckets = buckets
        self._waiting = [deque() for _ in range(len(buckets))]
        for resolution in self._schedule.resolutions:
            shapes = [buckets.shape(bucket, resolution) for bucket in range(len(buckets))]
            size = self._batch_size
            self._limits[resolution] = [size.limit(s) if isinstance(size, PixelBudget) else size for s in shapes]

    def _place(self, sample: _Waiting, buckets: Buckets) -> list[PlannedBatch]:
        self._waiting[int(buckets.assign(np.array([sample[2:]], dtype=np.int32))[0])].append(sample)
        batches = []
        while (bucket := self._full()) is not None:
            waiting = self._waiting[bucket]
            count = self._limits[self._resolution][bucket]
            batches.append(self._emit([waiting.popleft() for _ in range(count)], buckets, bucket))
        return batches

    def _full(self) -> int | None:
        limits = self._limits[self._resolution]
        return next((bucket for bucket, waiting in enumerate(self._waiting) if len(waiting) >= limits[bucket]), None)

    def _emit(self, samples: Iterable[_Waiting], buckets: Buckets, bucket: int) -> PlannedBatch:
        ids = np.array([sample[1] for sample in samples], dtype=np.int64)
        shape = buckets.shape(bucket, self._resolution)
        batch = PlannedBatch(self._epoch, self._step, ids, shape, self._resolution, self._seed)
        self._step += 1
        self._emitted += len(ids)
        self._resolution = self._level()
        return batch

    def _level(self) -> int:
        """The resolution of the next batch."""
        within = min(self._emitted * self._streams, self._epoch_size - 1)
        samples = np.array([self._epoch * self._epoch_size + within], dtype=np.int64)
        return int(self._schedule(samples, self._epoch_size, self._seed)[0])


def _least_waste(buckets: Buckets, size: Sizes, resolution: int) -> int:
    """The bucket whose shape pads and crops the fewest pixels of these images, the narrower of two alike."""
    shapes = buckets.shape(np.arange(len(buckets)), resolution).astype(np.float64)  # [K, 2]
    image, shape = np.log(size[:, 1] / size[:, 0]), np.log(shapes[:, 1] / shapes[:, 0])
    padded, cropped = fit_loss(image[:, None], shape[None, :], buckets.max_crop)  # [n, K]
    return int(((padded + cropped).sum(axis=0) * shapes.prod(axis=1)).argmin())
