"""Resolution schedules: which resolution to train at after so many samples.

A schedule is a function of values: the samples used since training began, the samples an epoch uses, and the
seed. It never sees a loader, an optimizer step or a rank, so every rank and every resumed run agrees. Progress is
counted in epochs, samples / epoch_size. Each schedule gives a bounded set of resolutions, so that `torch.compile`
and cuDNN meet few shapes. The resolution is the side of the square whose area a batch's shape comes close to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from resflow.checks import check_whole, whole
from resflow.errors import ConfigError

Samples = npt.NDArray[np.int64]
"""int64 [T]: samples used since training began."""
Resolutions = npt.NDArray[np.int32]
"""int32 [T]: resolution in pixels."""


@runtime_checkable
class Schedule(Protocol):
    """Gives the resolution after a number of samples."""

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All resolutions this schedule can give, ascending."""

    def __call__(self, samples: Samples, epoch_size: int, seed: int) -> Resolutions:
        """Resolution after each number of samples.

        Args:
            samples: int64 [T], samples used since training began.
            epoch_size: samples that one epoch uses.
            seed: the run's seed, in [0, 2**64).

        Returns:
            int32 [T], resolutions in pixels, each one of `resolutions`.
        """


@dataclass(frozen=True, slots=True)
class Constant:
    """The same resolution throughout.

    Args:
        resolution: pixels, at least 1.

    Raises:
        ConfigError: the resolution is not a positive whole number.
    """

    resolution: int

    def __post_init__(self) -> None:
        check_whole("Constant.resolution", self.resolution)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The one resolution."""
        return (self.resolution,)

    def __call__(self, samples: Samples, epoch_size: int, seed: int) -> Resolutions:
        """Resolution after each number of samples (see `Schedule`)."""
        return np.full(len(samples), self.resolution, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Linear:
    """From `start` to `stop` in equal strides of progress, then `stop` for good.

    The value is rounded to the nearest level; levels are start, start +- step, ... and stop itself. By default it
    changes only between epochs: epoch 0 is at `start`, epoch `epochs - 1` at `stop`. A single epoch is at `stop`.

    Args:
        start: first resolution, pixels.
        stop: last resolution, pixels; may be below `start`.
        epochs: epochs from `start` to `stop`, both included, at least 1; with 1, all of it is at `stop`.
        step: distance of the levels, pixels.
        within_epoch: let the resolution change from batch to batch; `stop` is then neared at the end of the last
            epoch.

    Raises:
        ConfigError: a number is out of range.

    Source:
        Tan and Le, EfficientNetV2 (2021), section 4, progressive learning: image size grows linearly over stages.
        FFCV's ImageNet recipe interpolates linearly between epochs and rounds to multiples of 32; a
        step of 32 is the default here, too.
    """

    start: int
    stop: int
    epochs: int
    step: int = 32
    within_epoch: bool = False

    def __post_init__(self) -> None:
        _check_ramp(self)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All levels, ascending."""
        return tuple(_levels(self.start, self.stop, self.step).tolist())

    def __call__(self, samples: Samples, epoch_size: int, seed: int) -> Resolutions:
        """Resolution after each number of samples (see `Schedule`)."""
        share = _ramp(samples, epoch_size, self.epochs, self.within_epoch)
        return _nearest(self.start + (self.stop - self.start) * share, self.start, self.stop, self.step)


@dataclass(frozen=True, slots=True)
class Cosine:
    """From `start` to `stop` along half a cosine: slow, fast, slow; then `stop` for good.

    Args:
        start: first resolution, pixels.
        stop: last resolution, pixels; may be below `start`.
        epochs: epochs from `start` to `stop`, both included, at least 1; with 1, all of it is at `stop`.
        step: distance of the levels, pixels.
        within_epoch: let the resolution change from batch to batch.

    Raises:
        ConfigError: a number is out of range.

    Source:
        The shape of Loshchilov and Hutter, SGDR (2017), applied to resolution.
    """

    start: int
    stop: int
    epochs: int
    step: int = 32
    within_epoch: bool = False

    def __post_init__(self) -> None:
        _check_ramp(self)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All levels, ascending."""
        return tuple(_levels(self.start, self.stop, self.step).tolist())

    def __call__(self, samples: Samples, epoch_size: int, seed: int) -> Resolutions:
        """Resolution after each number of samples (see `Schedule`)."""
        share = (1.0 - np.cos(np.pi * _ramp(samples, epoch_size, self.epochs, self.within_epoch))) / 2.0
        return _nearest(self.start + (self.stop - self.start) * share, self.start, self.stop, self.step)


@dataclass(frozen=True, slots=True)
class Steps:
    """A new resolution from each named epoch on.

    Args:
        at: first epoch of each stage to its resolution; must name epoch 0, for example {0: 128, 6: 160, 12: 192}.

    Raises:
        ConfigError: epoch 0 is missing, or an epoch or resolution is out of range.

    Source:
        fast.ai's progressive resizing; EfficientNetV2 trains in such stages.
    """

    at: Mapping[int, int]

    def __post_init__(self) -> None:
        if not isinstance(self.at, Mapping) or 0 not in self.at:
            raise ConfigError(f"Steps.at must map epochs to resolutions and name epoch 0; got {self.at!r}")
        for epoch, resolution in self.at.items():
            check_whole("Steps.at epoch", epoch, least=0)
            check_whole(f"Steps.at[{epoch}]", resolution)
        object.__setattr__(self, "at", dict(sorted(self.at.items())))

    def __hash__(self) -> int:
        return hash(tuple(self.at.items()))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The resolutions of all stages, ascending."""
        return tuple(sorted(set(self.at.values())))

    def __call__(self, samples: Samples, epoch_size: int, seed: int) -> Resolutions:
        """Resolution after each number of samples (see `Schedule`)."""
        stage = np.searchsorted(np.array(list(self.at)), samples // epoch_size, side="right") - 1
        return np.array(list(self.at.values()), dtype=np.int32)[stage]


@dataclass(frozen=True, slots=True)
class Cyclic:
    """Up from `low` to `high` and down again in a triangle wave, for ever.

    Args:
        low: lowest resolution, pixels; every cycle begins here.
        high: highest resolution, pixels, reached half-way.
        period: epochs a cycle takes, may be fractional; at least 2 unless `within_epoch`, or 1, which stays at `low`.
        step: distance of the levels, pixels.
        within_epoch: let the resolution change from batch to batch.

    Raises:
        ConfigError: a number is out of range.

    Source:
        The triangular policy of Smith, Cyclical Learning Rates (2017), applied to resolution.
    """

    low: int
    high: int
    period: float
    step: int = 32
    within_epoch: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            check_whole(f"Cyclic.{name}", getattr(self, name))
        if self.low > self.high:
            raise ConfigError(f"Cyclic needs low <= high; got low {self.low}, high {self.high}. Swap them.")
        whole = self.within_epoch or self.period == 1 or self.period >= 2
        if not (np.isfinite(self.period) and self.period > 0 and whole):
            raise ConfigError(
                f"Cyclic.period must be at least 2 epochs while the resolution changes only between epochs, and "
                f"positive otherwise; got {self.period!r}. Lengthen it, or set within_epoch=True."
            )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All levels, ascending."""
        return tuple(_levels(self.low, self.high, self.step).tolist())

    def __call__(self, samples: Samples, epoch_size: int, seed: int) -> Resolutions:
        """Resolution after each number of samples (see `Schedule`)."""
        progress = samples / epoch_size if self.within_epoch else (samples // epoch_size).astype(np.float64)
        share = 1.0 - np.abs(2.0 * ((progress / self.period) % 1.0) - 1.0)
        return _nearest(self.low + (self.high - self.low) * share, self.low, self.high, self.step)


@dataclass(frozen=True, slots=True)
class RandomMultiScale:
    """A resolution drawn at random, the same on every rank.

    The draw is a hash of (seed, samples // every), so it needs no state, and repeats on resume.

    Args:
        resolutions: the resolutions to draw from, pixels, each equally likely; kept ascending and without repeats.
        every: samples between draws. With 1, each batch has a draw of its own; ten global batches: `10 *
            batch_size`.

    Raises:
        ConfigError: no resolution, or a number out of range.

    Source:
        Redmon and Farhadi, YOLO9000 (2017), section 2, multi-scale training: a new size every 10 batches.
    """

    resolutions: tuple[int, ...]
    every: int = 1

    def __post_init__(self) -> None:
        if not self.resolutions:
            raise ConfigError("RandomMultiScale.resolutions must name at least one resolution; got none")
        for resolution in self.resolutions:
            check_whole("RandomMultiScale.resolutions", resolution)
        check_whole("RandomMultiScale.every", self.every)
        object.__setattr__(self, "resolutions", tuple(sorted(set(self.resolutions))))

    def __call__(self, samples: Samples, epoch_size: int, seed: int) -> Resolutions:
        """Resolution after each number of samples (see `Schedule`)."""
        draw = _hash((samples // self.every).astype(np.uint64), seed) % np.uint64(len(self.resolutions))
        return np.array(self.resolutions, dtype=np.int32)[draw.astype(np.int64)]


def as_schedule(value: int | Schedule) -> Schedule:
    """A whole number as a constant schedule; a schedule as it is.

    Args:
        value: pixels, or any object with `resolutions` and `__call__` as in `Schedule`.

    Returns:
        The schedule.

    Raises:
        ConfigError: neither.
    """
    if (side := whole(value, None)) is not None:
        return Constant(side)
    if isinstance(value, type) or not isinstance(value, Schedule):
        raise ConfigError(f"resolution must be a whole number of pixels or a schedule; got {value!r}")
    return value


def _check_ramp(ramp: Linear | Cosine) -> None:
    """Check the fields that Linear and Cosine share."""
    kind = type(ramp).__name__
    for name in ("start", "stop", "epochs", "step"):
        check_whole(f"{kind}.{name}", getattr(ramp, name))


def _ramp(samples: Samples, epoch_size: int, epochs: int, within_epoch: bool) -> npt.NDArray[np.float64]:
    """float64 [T] in [0, 1]: how far along the ramp each number of samples is."""
    if within_epoch:
        return np.minimum(samples / (epoch_size * epochs), 1.0)
    last = epochs - 1
    return np.minimum(samples // epoch_size / last, 1.0) if last else np.ones(len(samples))


def _levels(start: int, stop: int, step: int) -> npt.NDArray[np.int32]:
    """int32 [L], ascending: start, then every `step` towards stop, then stop."""
    towards = np.arange(start, stop, step if stop >= start else -step)
    return np.unique(np.append(towards, (start, stop))).astype(np.int32)


def _nearest(value: npt.NDArray[np.float64], start: int, stop: int, step: int) -> Resolutions:
    """int32 [T]: the level nearest to each value, the higher of two equally near."""
    levels = _levels(start, stop, step)
    middles = (levels[1:] + levels[:-1]) / 2.0
    return levels[np.searchsorted(middles, value, side="right")]


def _hash(values: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """uint64 [T]: SplitMix64's finaliser (Steele, Lea and Flood, 2014) of each value in a stream chosen by
    `seed`."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    mixed = state + (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
