"""Samples out of indexed tar shards, by offset: local files, or shards at URLs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, ShardError
from resflow.plan.index import Index
from resflow.plan.tiers import ORIGINAL
from resflow.sources.base import Sample
from resflow.sources.byte_ranges import (
    AFTER,
    BEFORE,
    TIER,
    WHOLE,
    Pieces,
    Span,
    joined,
    parts_of_samples,
    whole_samples,
)
from resflow.sources.groups import IMAGE_EXTENSIONS, split_name
from resflow.sources.index_file import ShardIndex
from resflow.sources.index_lookup import open_index
from resflow.sources.local_shards import LocalShards, ShardFile, SpanReader
from resflow.sources.paths import Shards, shell_words
from resflow.sources.remote_shards import COMMAND, NoRemoteIndexError, RemoteShards
from resflow.sources.tar import MAX_MEMBER_BYTES, Member, Read, check_limit, read_members, too_large
from resflow.sources.tiers import Tiers
from resflow.storage.addresses import is_remote
from resflow.storage.store import Store

_GAP = 64 * 1024  # bytes between two samples that are read and thrown away rather than asked for apart
_SMALL_GAP = 4 * 1024  # the same beside tiers, where the bytes between are the images that are not to be read
_SPAN = 8 << 20  # most bytes of several samples read at once


class ShardSource:
    """Reads samples of tar shards by offset, several neighbours with one system call.

    Safe to share between threads; a pickled or forked copy opens its shards anew. Those of
    shards at URLs are read by range requests, those of a batch side by side, or out of a cache (`Store`).

    Args:
        shards: a pattern, a path, a folder, a URL with braces, a sequence of them (their index is opened), or an index.
        index: the shards' index file, where it does not lie beside them.
        store: how shards at URLs are read.
        max_member_bytes: most bytes that are read for one sample, all its members together; more is a `ShardError`.

    Raises:
        IndexFileError: the index is missing, stale, damaged or of another version.
        ConfigError: no shards match; those at URLs lie in several folders, or a package for the store is missing.
        ShardError: the store cannot be reached.
    """

    def __init__(
        self,
        shards: Shards | ShardIndex,
        *,
        index: str | Path | None = None,
        store: Store | None = None,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ) -> None:
        self._max_member_bytes = check_limit(max_member_bytes)
        self._spans: SpanReader
        if not isinstance(shards, ShardIndex) and any(map(is_remote, _listed(shards))):
            self._spans = remote = RemoteShards(shards, store or Store(), index)
            self.shard_index, self._reindex = remote.index, COMMAND
            shards = remote.index
        elif store is not None:
            raise ConfigError("store is how shards at URLs are read; these are local files. Drop it, or name a URL.")
        else:
            self._spans = LocalShards()
            self.shard_index = shards if isinstance(shards, ShardIndex) else open_index(shards, index=index)
            self._reindex = f"resflow index {shell_words(self.shard_index.shards)}"
        self._command = f"resflow tiers {shell_words(shards.shards if isinstance(shards, ShardIndex) else shards)}"
        self._tiers: Tiers | None = None
        self._looked = False

    @property
    def index(self) -> Index:
        """Where each sample lies and how large its image is."""
        return self.shard_index.index

    @property
    def fingerprint(self) -> str:
        """The index's fingerprint."""
        return self.shard_index.fingerprint

    def __len__(self) -> int:
        return len(self.shard_index)

    def name(self, sample_id: int) -> tuple[str, str]:
        """Shard and key of a sample, for messages."""
        return self.names(np.array([sample_id]))[0]

    def names(self, sample_ids: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
        """Shard and key of each sample."""
        found = self.shard_index.names(sample_ids)
        if not self._spans.shown:
            return found
        shards = self.index.shard[sample_ids].tolist()
        return [(self._spans.shown[shard], key) for shard, (_, key) in zip(shards, found, strict=True)]

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Read samples.

        Args:
            sample_ids: int64 [B], in [0, N); repeats are allowed.

        Returns:
            B samples, in the order asked for.

        Raises:
            ConfigError: a wrong dtype or shape, or a number outside the index.
            ShardError: a shard is missing, cut short, damaged, or not what was indexed.
        """
        pieces = whole_samples(self.shard_index, sample_ids)
        self._check_lengths(pieces, sample_ids)
        found = self._read(pieces, joined(pieces, _GAP, _SPAN))
        named = enumerate(zip(sample_ids.tolist(), self.names(sample_ids), strict=True))
        return [self._sample(sample_id, name, found[place, WHOLE]) for place, (sample_id, name) in named]

    def open_tiers(self) -> Tiers | None:
        """The same images at smaller sizes, None where none were made (`resflow tiers`).

        Raises:
            IndexFileError: a tier is missing or stale, or the tiers' index is damaged.
        """
        if not self._looked:
            self._tiers, self._looked = self._spans.open_tiers(self.shard_index, self._command), True
        return self._tiers

    def read_tiers(
        self, sample_ids: npt.NDArray[np.int64], tier: npt.NDArray[np.int64], *, members: bool
    ) -> list[Sample]:
        """Read samples with their images out of tiers; the bytes of these originals' images are not read.

        Args:
            sample_ids: int64 [B], in [0, N); repeats are allowed.
            tier: int64 [B], the number of a tier that has an entry for the sample, or ORIGINAL.
            members: whether the samples' other members are wanted; they lie in the originals' shards.

        Returns:
            B samples, in the order asked for.

        Raises:
            ConfigError: a wrong dtype or shape, a number outside the index or the tiers.
            ShardError: a shard is missing, cut short, damaged, or not what was indexed.
        """
        pieces = parts_of_samples(
            self.shard_index, self.open_tiers(), sample_ids, tier, members=members, command=self._command
        )
        self._check_lengths(pieces, sample_ids)
        spans = joined(pieces, _SMALL_GAP, _SPAN)
        # All of the batch at once: the plan tells only what whole samples will be read.
        self._spans.read_ahead(spans, self._file)
        found = self._read(pieces, spans)
        columns = sample_ids.tolist(), self.names(sample_ids), tier.tolist()
        return [
            self._sample(sample_id, name, found[place, WHOLE])
            if number == ORIGINAL
            else self._tier_sample(
                sample_id, name, number, found[place, TIER], found.get((place, BEFORE)), found.get((place, AFTER))
            )
            for place, (sample_id, name, number) in enumerate(zip(*columns, strict=True))
        ]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Ask the system to read samples into its cache; returns at once, does nothing where that is not offered.

        Args:
            sample_ids: int64 [B], in [0, N).

        Raises:
            ConfigError: a wrong dtype or shape, or a number outside the index.
            ShardError: a shard is missing, or not what was indexed.
        """
        self._spans.read_ahead(joined(whole_samples(self.shard_index, sample_ids), _GAP, _SPAN), self._file)

    def fill_cache(self, timeout: float) -> None:
        """Wait until the shards at URLs that were read so far are in the cache, as far as it takes them.

        Args:
            timeout: seconds to wait at most.
        """
        if isinstance(self._spans, RemoteShards):
            self._spans.fill_cache(timeout)

    def close(self) -> None:
        """Close connections and shards; a later read opens them again."""
        self._spans.close()

    def _check_lengths(self, pieces: Pieces, sample_ids: npt.NDArray[np.int64]) -> None:
        """Refuse what is too large before memory is taken for it."""
        length = pieces.end - pieces.start
        if len(length) and int(length.max()) > self._max_member_bytes:
            piece = int(length.argmax())
            shard, key = self.name(int(sample_ids[pieces.place[piece]]))
            raise too_large(
                f"sample {key!r}", int(length[piece]), self._max_member_bytes, shard, int(pieces.start[piece])
            )

    def _read(self, pieces: Pieces, spans: Sequence[Span]) -> dict[tuple[int, int], memoryview]:
        """The bytes of pieces, by place in the batch and kind."""
        start, end, place, kind = (column.tolist() for column in pieces[1:])
        found = {}
        for span, data in zip(spans, self._spans.read(spans, self._file), strict=True):
            view = memoryview(data)
            for piece in span.pieces:
                found[place[piece], kind[piece]] = view[start[piece] - span.start : end[piece] - span.start]
        return found

    def _sample(self, sample_id: int, name: tuple[str, str], data: memoryview) -> Sample:
        """A sample out of its extent."""
        shard, key = name
        start = int(self.index.offset[sample_id])

        def read(offset: int, count: int) -> memoryview:
            return data[offset - start : offset - start + count]

        members, image = self._members(sample_id, shard, key, read)
        views = {extension: read(member.offset, member.size) for extension, member in members.items()}
        return Sample(key, shard, views[image], views)

    def _tier_sample(
        self,
        sample_id: int,
        name: tuple[str, str],
        number: int,
        data: memoryview,
        before: memoryview | None,
        after: memoryview | None,
    ) -> Sample:
        """A sample whose image comes out of a tier, from its entry there and what lies around the original's image."""
        shard, key = name
        entry = self._tier_image(sample_id, number, data, shard, key)
        if before is None:
            return Sample(key, shard, entry, {})
        start = int(self.index.offset[sample_id])
        following = start + int(self.index.length[sample_id]) - (0 if after is None else len(after))

        def read(offset: int, count: int) -> memoryview:
            if after is not None and offset >= following:
                return after[offset - following : offset - following + count]
            return before[offset - start : offset - start + count]

        members, image = self._members(sample_id, shard, key, read)
        views = {
            extension: entry if extension == image else read(member.offset, member.size)
            for extension, member in members.items()
        }
        return Sample(key, shard, entry, views)

    def _members(self, sample_id: int, shard: str, key: str, read: Read) -> tuple[dict[str, Member], str]:
        """Members of a sample by extension, and which of them is its image; only headers are read."""
        index = self.shard_index
        start = int(index.index.offset[sample_id])
        end = start + int(index.index.length[sample_id])
        members: dict[str, Member] = {}
        limit = self._max_member_bytes
        for member in read_members(read, shard, start=start, end=end, archive=False, max_member_bytes=limit):
            parts = split_name(member.name)
            if parts is None:
                continue
            if parts[0] != key:
                raise ShardError(
                    f"member {member.name!r} found where the index has sample {key!r}: the shard changed after it "
                    f"was indexed. Run: {self._reindex}",
                    shard=shard,
                    offset=member.header,
                )
            members[parts[1]] = member
        image = next((extension for extension in IMAGE_EXTENSIONS if extension in members), None)
        if image is None or members[image].size != int(index.image_length[sample_id]):
            raise ShardError(
                f"sample {key!r} has another image than the index says: the shard changed after it was indexed. "
                f"Run: {self._reindex}",
                shard=shard,
                offset=start,
            )
        return members, image

    def _tier_image(self, sample_id: int, number: int, data: memoryview, original: str, key: str) -> memoryview:
        """The image in a tier's entry, which must be this sample's."""
        tiers = self.open_tiers()
        if tiers is None:
            raise ShardError(
                f"tier {number} is asked for, and there are none. Make them: {self._command}", shard=original
            )
        start = int(tiers.offset[number][sample_id])
        shard = str(tiers.shards[number][int(self.index.shard[sample_id])])

        def read(offset: int, count: int) -> memoryview:
            return data[offset - start : offset - start + count]

        end, limit = start + len(data), self._max_member_bytes
        members = list(read_members(read, shard, start=start, end=end, archive=False, max_member_bytes=limit))
        if len(members) != 1 or split_name(members[0].name) != (key, "jpg"):
            raise ShardError(
                f"{members[0].name if members else 'nothing'!r} found where tier {tiers.sides[number]} should have "
                f"{key + '.jpg'!r}: the tier changed after it was made. Make it again: {self._command} --overwrite "
                f"--tiers {','.join(map(str, tiers.sides))}",
                shard=shard,
                offset=start,
            )
        return read(members[0].offset, members[0].size)

    def _file(self, number: int) -> ShardFile:
        """A shard by its number; those of the tiers come after the originals'."""
        index, tiers = self.shard_index, self._tiers
        tier, shard = number // len(index.shards) - 1, number % len(index.shards)
        if tier < 0 or tiers is None:
            return ShardFile(str(index.shards[shard]), index.shard_sizes[shard], self._reindex)
        command = f"{self._command} --tiers {','.join(map(str, tiers.sides))}"
        return ShardFile(str(tiers.shards[tier][shard]), tiers.shard_sizes[tier][shard], command)


def open_shards(shards: Shards, *, store: Store | None = None) -> ShardSource | None:
    """The source of shards, by whichever way their bytes are had.

    Args:
        shards: a pattern, a path, a folder, a URL with braces, or a sequence of them.
        store: how shards at URLs are read.

    Returns:
        The source; None where shards at URLs have no index, so that they can be streamed alone.

    Raises:
        ConfigError: no shards match, those at URLs lie in several folders, or a package for the store is missing.
        ShardError: shards are missing, or the store cannot be reached.
        IndexFileError: there is no index of local shards; it is stale, damaged, of another version, or lists others.
    """
    try:
        return ShardSource(shards, store=store)
    except NoRemoteIndexError:
        return None


def _listed(shards: Shards) -> Sequence[str | Path]:
    return [shards] if isinstance(shards, str | Path) else shards
