"""Which stretches of which shards a batch needs, and how they are joined to few reads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, IndexFileError
from resflow.plan.tiers import ORIGINAL
from resflow.sources.index_file import ShardIndex
from resflow.sources.tar import BLOCK
from resflow.sources.tiers import Tiers

WHOLE, BEFORE, AFTER, TIER = range(4)
"""A whole sample; what lies before its image, the image's header included; what lies after it; its image in a tier."""


class Span(NamedTuple):
    """Pieces of one shard that are read at once: shard, first byte, byte after the last, numbers of the pieces."""

    shard: int
    start: int
    end: int
    pieces: list[int]


class Pieces(NamedTuple):
    """Stretches of shards that a batch needs.

    Args:
        shard: int64 [P]; those of the tiers are numbered on after the originals', tier by tier.
        start: int64 [P], first byte.
        end: int64 [P], byte after the last.
        place: int64 [P], the sample's place in the batch.
        kind: int64 [P], WHOLE, BEFORE, AFTER or TIER.
    """

    shard: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]

    def of(self, rows: npt.NDArray[np.bool_]) -> Pieces:
        """Some of the pieces."""
        return Pieces(*(column[rows] for column in self))


def whole_samples(index: ShardIndex, sample_ids: npt.NDArray[np.int64]) -> Pieces:
    """The extents of samples.

    Args:
        index: of the shards.
        sample_ids: int64 [B], in [0, N); repeats are allowed.

    Raises:
        ConfigError: a wrong dtype or shape, or a number outside the index.
        IndexFileError: a row that a damaged file points outside its shard.
    """
    total = len(index)
    if sample_ids.dtype != np.int64 or sample_ids.ndim != 1:
        raise ConfigError(f"sample_ids must be int64 [B]; got {sample_ids.dtype} {list(sample_ids.shape)}")
    if len(sample_ids) and not 0 <= int(sample_ids.min()) <= int(sample_ids.max()) < total:
        raise ConfigError(f"sample_ids must be in [0, {total}); got {int(sample_ids.min())} to {int(sample_ids.max())}")
    shard, start = index.index.shard[sample_ids].astype(np.int64), index.index.offset[sample_ids]
    end = start + index.index.length[sample_ids]
    sound = _inside(shard, start, end, np.array(index.shard_sizes, np.int64))
    if not sound.all():
        raise index.damaged(int(sample_ids[np.argmin(sound)]))
    place = np.arange(len(sample_ids))
    return Pieces(shard, start, end, place, np.full(len(place), WHOLE))


def parts_of_samples(
    index: ShardIndex,
    tiers: Tiers | None,
    sample_ids: npt.NDArray[np.int64],
    tier: npt.NDArray[np.int64],
    *,
    members: bool,
    command: str,
) -> Pieces:
    """What is read of samples whose images come out of tiers.

    Args:
        index: of the shards.
        tiers: of the index.
        sample_ids: int64 [B], in [0, N).
        tier: int64 [B], a tier's number, or ORIGINAL.
        members: whether the samples' other members are wanted.
        command: what makes the tiers again, for messages.

    Raises:
        ConfigError: a wrong dtype or shape, a number outside the index or the tiers.
        IndexFileError: a row of a damaged file, or a tier that has no entry for a sample.
    """
    whole = whole_samples(index, sample_ids)
    sides = () if tiers is None else tiers.sides
    if tier.dtype != np.int64 or tier.shape != sample_ids.shape or ((tier < ORIGINAL) | (tier >= len(sides))).any():
        raise ConfigError(
            f"tier must be int64 [{len(sample_ids)}] in [{ORIGINAL}, {len(sides)}); "
            f"got {tier.dtype} {list(tier.shape)} {tier.tolist()[:8]}"
        )
    original = tier == ORIGINAL
    parts = [whole.of(original)]
    if members:
        image = whole.start + index.image_offset[sample_ids]
        last = image + index.image_length[sample_ids]
        sound = (whole.start < image) & (image <= last) & (last <= whole.end)
        if not sound.all():
            raise index.damaged(int(sample_ids[np.argmin(sound)]))
        after = np.minimum(-(-last // BLOCK) * BLOCK, whole.end)  # members begin at whole blocks
        parts += [
            whole._replace(end=image, kind=np.full(len(image), BEFORE)).of(~original),
            whole._replace(start=after, kind=np.full(len(image), AFTER)).of(~original & (after < whole.end)),
        ]
    if tiers is not None:
        for number in np.unique(tier[~original]).tolist():
            parts.append(_entries(tiers, number, sample_ids, whole.of(tier == number), command))
    return Pieces(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def joined(pieces: Pieces, gap: int, most: int) -> list[Span]:
    """Order pieces by their place in the shards and join neighbours.

    Args:
        pieces: of a batch.
        gap: bytes between two pieces that are read and thrown away rather than asked for apart.
        most: bytes of several pieces that are read at once.
    """
    order = np.lexsort((pieces.start, pieces.shard))
    spans: list[Span] = []
    shard, first, last, members = -1, 0, 0, list[int]()
    columns = (order, pieces.shard[order], pieces.start[order], pieces.end[order])
    for piece, number, start, end in zip(*(column.tolist() for column in columns), strict=True):
        if number == shard and start - last <= gap and end - first <= most:
            members.append(piece)
            last = max(last, end)
            continue
        if members:
            spans.append(Span(shard, first, last, members))
        shard, first, last, members = number, start, end, [piece]
    return [*spans, Span(shard, first, last, members)] if members else spans


def _entries(tiers: Tiers, number: int, sample_ids: npt.NDArray[np.int64], whole: Pieces, command: str) -> Pieces:
    """The entries of samples in one tier."""
    ids, shards = sample_ids[whole.place], len(tiers.shards[number])
    start = tiers.offset[number][ids]
    end = start + tiers.length[number][ids]
    sound = _inside(whole.shard, start, end, np.array(tiers.shard_sizes[number], np.int64))
    if not sound.all():
        raise IndexFileError(
            f"tier {tiers.sides[number]} has no entry for sample {int(ids[np.argmin(sound)])}, or its index is "
            f"damaged. Run: {command} --tiers {','.join(map(str, tiers.sides))}",
            shard=str(tiers.path),
        )
    return Pieces((number + 1) * shards + whole.shard, start, end, whole.place, np.full(len(ids), TIER))


def _inside(
    shard: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """bool [B]: whether stretches lie in their shards."""
    known = (shard >= 0) & (shard < len(sizes))
    return np.asarray(known & (start >= 0) & (start < end) & (end <= sizes[np.where(known, shard, 0)]))
