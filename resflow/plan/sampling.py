"""How often each sample comes in an epoch, where that is not once: balanced classes, weights, repeat factors."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from resflow.checks import is_number, whole
from resflow.errors import ConfigError
from resflow.plan.order import MOST_SAMPLES, SampleIds, bits, permute, words

Floats: TypeAlias = npt.NDArray[np.float64]
Column: TypeAlias = Callable[[str], Any]
"""From a column's name to its N values: numbers, text, or for "categories" a sequence for each sample."""

_DRAW, _ORDER = 7, 8  # purposes of random bits


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """How often each sample of a dataset is to come in an epoch, and which samples share a proportion.

    In an epoch of S samples, one of `expected` x comes floor(x) or ceil(x) times, those of one group together floor or
    ceil of their sum, all together S. On average over epochs it is x.

    Args:
        expected: float64 [N], times in an epoch, at least 0; together S.
        group: integer [N], the samples' groups; None: one of all.
        independent: whether samples are drawn one by one instead, each time with the shares of `expected`.

    Source:
        Systematic sampling (Madow, 1949): a comb of even teeth over the line of all samples, laid at random.
    """

    expected: Floats
    group: npt.NDArray[np.int64] | None = None
    independent: bool = False

    def __len__(self) -> int:
        """Samples of an epoch."""
        return round(float(self.expected.sum()))

    def rows(self, seed: int, epoch: int) -> tuple[SampleIds, SampleIds]:
        """The samples of an epoch.

        Args:
            seed: the run's seed.
            epoch: at least 0.

        Returns:
            int32 [S], rows in ascending order; int32 [S], how often each came before.
        """
        used, n = len(self), len(self.expected)
        source = bits(seed, epoch, _DRAW)
        if self.independent:
            line = np.cumsum(self.expected / self.expected.sum())
            shares = (words(source, used) >> np.uint64(11)) * 2.0**-53
            counts = np.bincount(np.minimum(np.searchsorted(line, shares, side="right"), n - 1), minlength=n)
        else:
            order = permute(np.arange(n, dtype=np.int32), bits(seed, epoch, _ORDER))
            if self.group is not None:
                order = order[np.argsort(self.group[order], kind="stable")]
            line = np.cumsum(self.expected[order])
            line *= used / line[-1]
            line[-1] = used
            offset = (int(words(source, 1)[0]) >> 11) * 2.0**-53
            teeth = np.floor(line + offset)
            counts = np.empty(n, np.int64)
            counts[order] = np.diff(teeth, prepend=np.floor(offset)).astype(np.int64)
        rows = np.repeat(np.arange(n, dtype=np.int32), counts)
        first = np.cumsum(counts) - counts
        return rows, (np.arange(used) - np.repeat(first, counts)).astype(np.int32)

    def fingerprint(self) -> str:
        """Tells these draws from others, for saved states."""
        group = b"" if self.group is None else self.group.tobytes()
        return f"{zlib.crc32(group, zlib.crc32(self.expected.tobytes())):08x}"


@runtime_checkable
class Sampling(Protocol):
    """What `DataLoader(sampling=...)` takes: how often each sample comes in an epoch."""

    @abstractmethod
    def draws(self, count: int, column: Column) -> Draws:
        """The draws of a dataset.

        Args:
            count: its samples.
            column: gives the values of a column by name.

        Raises:
            ConfigError: a column that is missing or of another kind.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """Each class equally often: a class of n samples has a share of the epoch in proportion to n ** (1 - power).

    Args:
        label: "label", the class that the dataset tells (`targets` of torchvision's datasets, class folders), or an
            array of N classes: numbers or text.
        power: 1.0 gives each class the same share, 0.0 leaves classes as they are, 0.5 lies between.
        size: samples of an epoch; None: as many as the dataset has.
    """

    label: Any = "label"
    power: float = 1.0
    size: int | None = None

    def draws(self, count: int, column: Column) -> Draws:
        """See `Sampling.draws`."""
        if not is_number(self.power) or not 0 <= self.power <= 1:
            raise ConfigError(f"Balanced.power must be a number in [0, 1]; got {self.power!r}")
        values = _column("Balanced.label", self.label, count, column)
        if values.ndim != 1 or values.dtype.kind not in "biuUS":
            raise ConfigError(
                f"Balanced.label must be one class for each sample, whole numbers or text; got {values.dtype} "
                f"{list(values.shape)}. RepeatFactor takes samples of several categories."
            )
        _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
        weight = (counts.astype(np.float64) ** -self.power)[group]
        return Draws(_scaled(weight, _size("Balanced", self.size, count)), group.astype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """Each sample in proportion to its weight, to within one time in an epoch.

    Args:
        weights: array of N numbers of at least 0, or the name of a column of them.
        size: samples of an epoch; None: as many as the dataset has.
    """

    weights: Any
    size: int | None = None

    def draws(self, count: int, column: Column) -> Draws:
        """See `Sampling.draws`."""
        values = _column("Weighted.weights", self.weights, count, column)
        return Draws(_scaled(_numbers("Weighted.weights", values), _size("Weighted", self.size, count)))


@dataclass(frozen=True, slots=True, eq=False)
class RepeatFactor:
    """Images of rare categories more often, as LVIS is trained: r = max over an image's categories of sqrt(t / f).

    f is the share of images that a category is in; no factor is below 1. An epoch has the sum of all factors.

    Args:
        categories: "categories", those of an annotated dataset's objects, or a sequence of sequences of numbers.
        threshold: t, the share of images below which a category counts as rare, in (0, 1].

    Source:
        Gupta, Dollar and Girshick, LVIS (2019), section 5.1.
    """

    categories: Any = "categories"
    threshold: float = 1e-3

    def draws(self, count: int, column: Column) -> Draws:
        """See `Sampling.draws`."""
        if not is_number(self.threshold) or not 0 < self.threshold <= 1:
            raise ConfigError(f"RepeatFactor.threshold must be a number in (0, 1]; got {self.threshold!r}")
        lists = column(self.categories) if isinstance(self.categories, str) else self.categories
        if len(lists) != count:
            raise ConfigError(
                f"RepeatFactor.categories must be {count} sequences, one for each sample; got {len(lists)}"
            )
        own = [np.unique(np.asarray(one, np.int64)) for one in lists]
        every = np.concatenate([*own, np.empty(0, np.int64)])
        _, place, images = np.unique(every, return_inverse=True, return_counts=True)
        factor = np.maximum(1.0, np.sqrt(self.threshold * count / images))[place]
        lengths = np.array([len(one) for one in own])
        expected, begins = np.ones(count), np.cumsum(lengths) - lengths
        some = lengths > 0
        if some.any():
            expected[some] = np.maximum.reduceat(factor, begins[some])
        return Draws(_scaled(expected, max(1, round(float(expected.sum())))))


@dataclass(frozen=True, slots=True)
class Replacement:
    """Samples drawn at random, each independent of those before: some come several times, some not at all.

    Args:
        size: samples of an epoch.
    """

    size: int

    def draws(self, count: int, column: Column) -> Draws:
        """See `Sampling.draws`."""
        size = _size("Replacement", self.size, count)
        return Draws(np.full(count, size / count), independent=True)


def _column(name: str, given: Any, count: int, column: Column) -> npt.NDArray[Any]:
    given = column(given) if isinstance(given, str) else given
    try:
        values = np.asarray(given)
    except ValueError as error:  # lists of several lengths
        raise ConfigError(f"{name} must be one value for each sample; got lists of several lengths") from error
    if values.ndim == 0 or len(values) != count:
        raise ConfigError(f"{name} must be {count} values, one for each sample; got shape {list(values.shape)}")
    return values


def _numbers(name: str, values: npt.NDArray[Any]) -> Floats:
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise ConfigError(f"{name} must be one number for each sample; got {values.dtype} {list(values.shape)}")
    numbers = values.astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))
    if len(wrong):
        raise ConfigError(f"{name} must be numbers of at least 0; got {numbers[wrong[0]]:g} for sample {wrong[0]}")
    if not numbers.any():
        raise ConfigError(f"{name} are all 0, so no sample would come. Give one sample a weight above 0.")
    return numbers


def _scaled(weights: Floats, size: int) -> Floats:
    scaled: Floats = weights * (size / weights.sum())
    return scaled


def _size(name: str, size: Any, count: int) -> int:
    number = count if size is None else whole(size, 1, MOST_SAMPLES)
    if number is None:
        raise ConfigError(f"{name}.size must be a whole number of samples from 1 to {MOST_SAMPLES}; got {size!r}")
    return number
