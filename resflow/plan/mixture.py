"""Mixtures: how many samples of each source an epoch has, and which."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from resflow.checks import is_number
from resflow.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several sources in exact proportions.

    An epoch of S samples has S w / (sum of w) of a source of weight w, to within one sample (by largest remainders),
    in every epoch the same number. Each source is gone through in rounds: a round is all of its samples in an order of
    its own, and the next begins when it is over, across the borders of epochs. So a small source repeats itself, and a
    large one takes up in the next epoch where it was left; in either, no sample is drawn again before all others were.

    Args:
        counts: samples of each source, at least 1.
        weights: of each source, above 0; only their ratios count.
        epoch_size: samples of an epoch.

    Raises:
        ConfigError: a number is out of range, or an epoch would have no sample of some source.

    Source:
        Hamilton's method of apportionment for the epoch, Webster's for its parts.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    epoch_size: int

    def __post_init__(self) -> None:
        if not self.counts or len(self.counts) != len(self.weights):
            raise ConfigError(
                f"a mixture needs a weight for each source; got {len(self.counts)} source(s), "
                f"{len(self.weights)} weight(s)"
            )
        for name, values in (("source", self.counts), ("epoch_size", (self.epoch_size,))):
            for value in values:
                if type(value) is not int or value < 1:
                    raise ConfigError(f"a mixture's {name} must have at least 1 sample; got {value!r}")
        for weight in self.weights:
            if not is_number(weight) or weight <= 0:
                raise ConfigError(f"a mixture's weights must be numbers above 0; got {weight!r}")
        if 0 in (shares := self.shares):
            number = shares.index(0)
            raise ConfigError(
                f"source {number} of weight {self.weights[number]} has no sample in an epoch of {self.epoch_size}. "
                "Raise its weight or the epoch's size, or leave the source out."
            )

    @property
    def shares(self) -> tuple[int, ...]:
        """Samples of each source in an epoch; together `epoch_size`."""
        total = sum(map(Fraction, self.weights))
        exact = [Fraction(weight) * self.epoch_size / total for weight in self.weights]
        shares = [int(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda number: (shares[number] - exact[number], number))
        for number in by_remainder[: self.epoch_size - sum(shares)]:
            shares[number] += 1
        return tuple(shares)

    def among(self, first: int) -> tuple[int, ...]:
        """How many of an epoch's first samples are of each source, when all are spread evenly.

        Sample j of a source with n in the epoch is at (j + 1/2) / n; this counts the `first` least of these numbers.
        So it never falls as `first` grows, and differs from n first / epoch_size by at most half the number of sources.

        Args:
            first: in [0, epoch_size].

        Returns:
            Samples of each source; together `first`.
        """
        shares = self.shares
        counts = [(2 * n * first + self.epoch_size) // (2 * self.epoch_size) for n in shares]

        def place(number: int, sample: int) -> tuple[Fraction, int]:
            return Fraction(2 * sample + 1, 2 * shares[number]), number

        while (over := sum(counts) - first) != 0:
            if over > 0:
                last = max((k for k, n in enumerate(counts) if n), key=lambda k: place(k, counts[k] - 1))
                counts[last] -= 1
            else:
                counts[min((k for k, n in enumerate(counts) if n < shares[k]), key=lambda k: place(k, counts[k]))] += 1
        return tuple(counts)

    def draws(self, source: int, epoch: int, first: int, end: int) -> list[tuple[int, int, int, int]]:
        """Which parts of which rounds give a part of a source's samples of an epoch.

        Args:
            source: its number.
            epoch: at least 0.
            first: in [0, shares[source]].
            end: in [first, shares[source]].

        Returns:
            (round, rounds, first, end) each: so many rounds from that one on give the places `first` to `end` of their
            orders. A part of a round stands by itself, whole rounds stand together.
        """
        n = self.counts[source]
        first, end = (epoch * self.shares[source] + place for place in (first, end))
        borders = sorted({first, end, *(n * turn for turn in (-(-first // n), end // n) if first <= n * turn <= end)})
        return [(a // n, -(-(b - a) // n), a % n, a % n + min(b - a, n)) for a, b in pairwise(borders)]

    def first_round(self, source: int, epoch: int) -> int:
        """The round of a source in which an epoch begins."""
        return epoch * self.shares[source] // self.counts[source]
