"""Where a dataset is cut, so that an epoch of any length is planned block by block.

An epoch of more samples than a block is planned in blocks, each by itself, from the sizes of its own samples. So the
time to the first batch and memory follow the block, not the dataset, and any rank gets to any step by arithmetic alone.
Samples lie in runs, neighbours in the index, cut where shards begin; shuffled, an epoch takes the runs in random
order, and every `block` samples of that order are a block, in which samples are shuffled as ever. What is lost
against a shuffle of everything: samples of one run come within the same block (or two in a row).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt

from resflow.errors import PlanError
from resflow.plan.arrange import Segment
from resflow.plan.buckets import Buckets, Sizes
from resflow.plan.budget import Ints
from resflow.plan.index import Index
from resflow.plan.mixture import Mixture
from resflow.plan.order import MOST_SAMPLES, Grouping, SampleIds, bits, group_samples, permute
from resflow.plan.sampling import Draws

BLOCK = 1 << 22
"""Samples of a block. Datasets of up to as many are planned as one."""
RUN = 1 << 12
"""Samples of a run, about: whole shards of together no more than as many, or a part of a shard."""
LANES = 128
"""Most parts of a batch that take their samples from runs of their own, lest every host read every shard."""

_RUNS, _ROUND = 4, 5  # purposes of random bits; those of `epoch` are 0 to 3


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A dataset as epochs are planned over it; `lay_out` makes it once for all epochs.

    Args:
        size: int32 [N, 2], height and width of each sample in pixels.
        buckets: the buckets.
        runs: for each source int64 [G+1]: the row at which each run begins, and the row after the last.
        mixture: proportions of several sources; None: each sample once.
        block: samples of a block.
        grouping: of all samples, where all are in one block and each comes once; otherwise None.
        draws: how often each sample comes in an epoch; None: once.
    """

    size: Sizes
    buckets: Buckets
    runs: tuple[Ints, ...]
    mixture: Mixture | None
    block: int
    grouping: Grouping | None
    draws: Draws | None = None

    def __len__(self) -> int:
        """Samples of an epoch, before any are left out."""
        if self.draws is not None:
            return len(self.draws)
        return len(self.size) if self.mixture is None else self.mixture.epoch_size

    def part(
        self, first: int, end: int, *, epoch: int, seed: int, shuffle: bool, batch_size: int
    ) -> tuple[Grouping, Segment]:
        """The samples of a part of an epoch.

        Args:
            first: samples of the epoch before it.
            end: samples of the epoch up to its end.
            epoch: at least 0.
            seed: the run's seed.
            shuffle: whether runs come in random order.
            batch_size: samples of a global batch; 0 where batches differ.

        Returns:
            The samples in order of aspect ratio, and what they stand for.
        """
        if self.grouping is not None:
            return self.grouping, Segment()
        group = repeats = lane = None
        lanes = gcd(batch_size, LANES)
        if self.draws is not None:
            rows, group, repeats = self._drawn(self.draws, first, end, epoch, seed, shuffle)
        elif self.mixture is None:
            source = bits(seed, epoch, _RUNS) if shuffle else None
            rows = _rows(self.runs[0], source, first, end)
            if shuffle and lanes > 1:
                lane = np.repeat(np.arange(lanes, dtype=np.int16), np.diff(np.arange(lanes + 1) * len(rows) // lanes))
        else:
            rows, group, repeats = self._mixed(self.mixture, first, end, epoch, seed, shuffle)
        grouping = group_samples(np.take(self.size, rows, axis=0), self.buckets)
        return grouping, Segment(rows=rows, group=group, repeats=repeats, lane=lane, lanes=lanes)

    def _drawn(
        self, draws: Draws, first: int, end: int, epoch: int, seed: int, shuffle: bool
    ) -> tuple[SampleIds, SampleIds | None, SampleIds | None]:
        """Rows, what comes several times and so is to be spread, and repeat of each sample."""
        rows, repeats = draws.rows(seed, epoch)
        if (first, end) != (0, len(rows)):
            places = np.arange(len(rows), dtype=np.int32)
            chosen = (permute(places, bits(seed, epoch, _RUNS)) if shuffle else places)[first:end]
            rows, repeats = rows[chosen], repeats[chosen]
        return (rows, rows, repeats) if repeats.any() else (rows, None, None)

    def _mixed(
        self, mixture: Mixture, first: int, end: int, epoch: int, seed: int, shuffle: bool
    ) -> tuple[SampleIds, npt.NDArray[np.int32], SampleIds | None]:
        """Rows, source and repeat of each sample; no repeats where nothing is repeated in this epoch."""
        rows, sources, repeats = [], [], []
        for source, (start, stop) in enumerate(zip(mixture.among(first), mixture.among(end), strict=True)):
            runs = self.runs[source]
            for turn, turns, begin, until in mixture.draws(source, epoch, start, stop):
                whole = until - begin == mixture.counts[source]
                random = bits(seed, turn, _ROUND, source) if shuffle and not whole else None
                if random is not None and mixture.counts[source] <= self.block:
                    found = permute(np.arange(runs[0], runs[-1], dtype=np.int32), random)[begin:until]
                else:
                    found = _rows(runs, random, begin, until)
                repeat = np.arange(turns, dtype=np.int32) + turn - mixture.first_round(source, epoch)
                rows.append(np.tile(found, turns))
                sources.append(np.full(len(found) * turns, source, dtype=np.int32))
                repeats.append(np.repeat(repeat, len(found)))
        used = np.concatenate(repeats)
        return np.concatenate(rows), np.concatenate(sources), used if used.any() else None


def lay_out(
    index: Index,
    buckets: Buckets,
    mixture: Mixture | None = None,
    *,
    draws: Draws | None = None,
    block: int = BLOCK,
    run: int = RUN,
) -> Layout:
    """Cut a dataset into runs and, if it is no larger than a block, sort it by aspect ratio.

    Args:
        index: shards and sizes of all samples, source after source.
        buckets: the buckets.
        mixture: of several sources, whose samples follow one another in the index.
        draws: how often each sample comes, without a mixture; None: once.
        block: samples of a block.
        run: samples of a run.

    Returns:
        The layout; good for all epochs.

    Raises:
        ConfigError: sizes that are not positive.
        PlanError: no samples, or 2**31 or more.
    """
    n = len(index)
    if draws is not None:
        return Layout(index.size, buckets, (np.array([0, n]),), None, block, None, draws)
    if mixture is None and n <= block:
        runs = (np.array([0, n]),)
        return Layout(index.size, buckets, runs, None, block, group_samples(index.size, buckets))
    for what, count in (("an index", n), ("an epoch", n if mixture is None else mixture.epoch_size)):
        if count > MOST_SAMPLES:
            raise PlanError(f"{what} holds at most {MOST_SAMPLES} samples; got {count}. Split the dataset.")
    ends = np.cumsum([n] if mixture is None else mixture.counts).tolist()
    starts = [0, *ends[:-1]]
    runs = tuple(cut_runs(index.shard[a:b], run) + a for a, b in zip(starts, ends, strict=True))
    return Layout(index.size, buckets, runs, mixture, block, None)


def cut_runs(shard: npt.NDArray[np.int32], run: int) -> Ints:
    """Cut samples into runs of about `run`, each of whole shards or within one.

    Args:
        shard: int32 [N], ascending; the cuts are valid, though not at shards' borders, if it is not.
        run: samples.

    Returns:
        int64 [G+1], ascending from 0 to N: runs are shorter than 2 `run`.
    """
    even = np.arange(0, len(shard), run)
    begins = np.searchsorted(shard, shard[even])
    moved = (even - begins < run) & (begins <= even) & (shard[np.minimum(begins, len(shard) - 1)] == shard[even])
    return np.append(np.unique(np.where(moved, begins, even)), len(shard))


def _rows(runs: Ints, source: np.random.PCG64 | None, first: int, end: int) -> SampleIds:
    """int32 [end - first]: rows of the index from `first` to `end` in the order of runs, random with a source."""
    count = len(runs) - 1
    order = np.arange(count, dtype=np.int32)
    if source is not None:
        order = permute(order, source)
    ends = np.cumsum(runs[order + 1] - runs[order])  # places after each run
    reach = slice(np.searchsorted(ends, first, side="right"), np.searchsorted(ends, end) + 1)
    order, ends = order[reach], ends[reach]
    begins, stops = runs[order], runs[order + 1]
    begins[0] = stops[0] - (ends[0] - first)
    stops[-1] -= ends[-1] - end
    counts = stops - begins
    rows = np.repeat((begins - (np.cumsum(counts) - counts)).astype(np.int32), counts)
    rows += np.arange(end - first, dtype=np.int32)
    return rows
