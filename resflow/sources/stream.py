"""Samples out of tar shards from first byte to last, without an index: local files, or remote ones (`Store`)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import braceexpand
import numpy as np
import torch.utils.data

from resflow.errors import ConfigError, ShardError
from resflow.plan.order import bits
from resflow.plan.world import World
from resflow.sources.base import Sample
from resflow.sources.groups import (
    IMAGE_EXTENSIONS,
    Remarks,
    group_members,
    remark_lines,
    split_name,
    without_image,
)
from resflow.sources.paths import Shards, shard_paths
from resflow.sources.tar import MAX_MEMBER_BYTES, Member, check_limit, read_members, too_large
from resflow.storage.addresses import identity, is_remote, shown
from resflow.storage.cache import ShardCache
from resflow.storage.download import download_now
from resflow.storage.fetch import CHUNK, Fetcher, RemoteFile
from resflow.storage.store import Store
from resflow.world import current_world

__all__ = ["ShardStream", "is_remote", "read_shard", "stream_names"]

_LOG = logging.getLogger("resflow")
_SHARDS, _SAMPLES = 16, 17  # purposes of random bits


class ShardStream(torch.utils.data.IterableDataset[Sample]):
    """Reads shards forward only and gives their samples in the order of the archives; needs no index and no seeking.

    Shards are dealt to ranks and worker processes in turn: of all streams, rank by rank and worker by worker, stream
    s of S reads shards s, s + S, s + 2S ... of the epoch's order. So a sample comes once an epoch over all of them.

    Args:
        shards: a pattern with braces, a path, a URL with braces ("https://host/train-{0000..0146}.tar", or of any
            store that fsspec has a package for), or a sequence of them; local patterns may have wildcards.
        shuffle: whether the order of the shards is drawn anew for each epoch.
        shuffle_buffer: samples among which the next one is drawn (they wait in memory); 0 keeps the shards' order.
        seed: the order follows from it and the epoch, in [0, 2**64).
        world: which rank this is; default: what torch.distributed, else RANK and WORLD_SIZE, say when a pass begins.
        store: how shards at URLs are read; with a cache each is downloaded whole before its first sample comes.
        max_member_bytes: most bytes that are read for one sample, all its members together; more is a `ShardError`.

    Raises:
        ConfigError: no shards, one named twice, `pipe:`, a number out of range, or a scheme that is not allowed.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        shuffle: bool = False,
        shuffle_buffer: int = 0,
        seed: int = 0,
        world: World | None = None,
        store: Store | None = None,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ) -> None:
        self._max_member_bytes = check_limit(max_member_bytes)
        if not 0 <= seed < 1 << 64 or shuffle_buffer < 0:
            raise ConfigError(
                f"seed must be in [0, 2**64) and shuffle_buffer at least 0; got {seed} and {shuffle_buffer}"
            )
        self.shards = stream_names(shards)
        self.store = store or Store()
        for shard in filter(is_remote, self.shards):
            self.store.check_scheme(shard)
        self.given_world = world
        """The rank that it was made for, if it was."""
        self._told_world: World | None = None
        self._shuffle, self._shuffle_buffer, self._seed = shuffle, shuffle_buffer, seed
        self.epoch = 0

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' names and of what orders them; the bytes in them are not looked at."""
        how = f"{self._shuffle} {self._shuffle_buffer} {self._seed}"
        return hashlib.sha256(
            "\0".join([how, *map(identity, self.shards)]).encode(errors="surrogateescape")
        ).hexdigest()

    @property
    def world(self) -> World:
        """The rank whose shards the next pass reads."""
        return self.given_world or self._told_world or current_world()

    def read_for(self, world: World | None) -> None:
        """Say which rank the next passes are for, unless it was made for one; None: each pass finds out by itself."""
        self._told_world = world

    def __getstate__(self) -> dict[str, Any]:
        # A worker process that was not forked knows of no process group.
        world = self.world
        return self.__dict__ | ({"_told_world": world} if world.size > 1 else {})

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass has the order of; at least 0."""
        self.epoch = epoch

    def check_parts(self, ranks: int, workers: int) -> None:
        """Refuse to be dealt out to more streams than there are shards.

        Args:
            ranks: how many.
            workers: worker processes of each.

        Raises:
            ConfigError: some would get no shard.
        """
        if ranks * workers > len(self.shards):
            raise ConfigError(
                f"{len(self.shards)} shard(s) cannot be dealt out to {ranks * workers} streams ({ranks} rank(s) with "
                f"{workers} worker process(es) each): some would get none. Use fewer workers, write more and smaller "
                "shards, or index them (resflow index), which splits samples, not shards."
            )

    def __iter__(self) -> Iterator[Sample]:
        """The samples of this rank's and worker process's shards.

        Raises:
            ConfigError: fewer shards than streams.
            ShardError: a shard is missing, damaged or cut short, or the connection broke; names place and offset.
            HeaderError: a sample has no image.
        """
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        world = self.world
        parts, part = world.size * workers, world.rank * workers + worker
        self.check_parts(world.size, workers)
        order = np.arange(len(self.shards))
        if self._shuffle:
            order = np.argsort(bits(self._seed, self.epoch, _SHARDS).random_raw(len(order)), kind="stable")
        mine = [self.shards[shard] for shard in order[part::parts].tolist()]
        samples = _read_all(mine, self.store, self._max_member_bytes)
        if not self._shuffle_buffer:
            return samples
        return _mixed(samples, self._shuffle_buffer, bits(self._seed, self.epoch, _SAMPLES + part))


def stream_names(shards: Shards) -> tuple[str, ...]:
    """Paths and URLs of shards, braces and local wildcards expanded.

    Args:
        shards: as for `ShardStream`.

    Returns:
        Names in the order of the braces and of the sequence.

    Raises:
        ConfigError: nothing matches, a shard is named twice, braces do not close, or a `pipe:`.
    """
    names: list[str] = []
    for part in [shards] if isinstance(shards, str | os.PathLike) else shards:
        if isinstance(part, str) and part.lower().startswith("pipe:"):
            raise ConfigError(
                f"{part!r} would be run by a shell, which Resflow does not do. Name a URL, or pass a "
                "webdataset.WebDataset that you built of it as the dataset."
            )
        if not isinstance(part, str) or not is_remote(part):
            names.extend(map(str, shard_paths([part])))
            continue
        try:
            names.extend(braceexpand.braceexpand(part, escape=False))
        except ValueError as error:
            raise ConfigError(
                f"braces do not close in the shard pattern {shown(part)!r}: {error}. Close them."
            ) from error
    if not names:
        raise ConfigError("no shards were named; expected a pattern such as 'https://host/train-{0000..0003}.tar'.")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ConfigError(f"shard {shown(twice)} is named twice, so its samples would be. Name it once.")
    return tuple(names)


def read_shard(shard: str, store: Store | None = None, max_member_bytes: int = MAX_MEMBER_BYTES) -> Iterator[Sample]:
    """Read one shard from its first byte to its last.

    Args:
        shard: path or URL of an uncompressed tar.
        store: how a URL is read.
        max_member_bytes: most bytes that are read for one sample, all its members together.

    Yields:
        Its samples, in order.

    Raises:
        ShardError: it is missing, unreadable, damaged, cut short, holds no samples, repeats a key, or has a member
            that is too large.
        HeaderError: a sample has no image.
        ConfigError: the URL's scheme is not allowed, or its package is not installed.
    """
    return _read_all([shard], store or Store(), check_limit(max_member_bytes))


def _read_all(shards: list[str], store: Store, max_member_bytes: int) -> Iterator[Sample]:
    fetcher, said = Fetcher(store), False
    try:
        for shard in shards:
            stream, remarks = _Forward(_open(shard, fetcher)), Remarks()
            try:
                yield from _samples(stream, shown(shard), max_member_bytes, remarks)
            finally:
                stream.close()
            if not said and "doubled" in (found := remarks.found()):
                _LOG.warning("%s: %s", shown(shard), remark_lines(found)[-1])
                said = True
    finally:
        fetcher.close()


def _samples(stream: _Forward, shard: str, max_member_bytes: int, remarks: Remarks) -> Iterator[Sample]:
    held: dict[int, memoryview] = {}  # data by offset, from a member's arrival to its sample's end

    def members() -> Iterator[Member]:
        key, size, first = "", 0, 0  # of the sample under way, so far
        for member in read_members(stream.read, shard, end=None, max_member_bytes=max_member_bytes):
            if (parts := split_name(member.name)) is not None:
                if parts[0] != key:
                    for offset in [offset for offset in held if offset < first]:
                        del held[offset]  # of files that were no samples
                    key, size, first = parts[0], 0, member.offset
                size += member.size
                if size > max_member_bytes:
                    what = f"sample {key!r}, up to member {member.name!r},"
                    raise too_large(what, size, max_member_bytes, shard, member.header)
                held[member.offset] = data = memoryview(stream.read(member.offset, member.size))
                if len(data) < member.size:
                    raise ShardError(
                        f"truncated: member {member.name!r} has {member.size} bytes, and the stream ends after "
                        f"{len(data)} of them. Copy or write the shard again, or try again.",
                        shard=shard,
                        offset=member.offset + len(data),
                    )
            yield member

    found = False
    for group in group_members(members(), shard, remarks):
        found = True
        parts = {extension: held.pop(member.offset) for extension, member in group.members.items()}
        image = next((parts[extension] for extension in (*IMAGE_EXTENSIONS, "npy") if extension in parts), None)
        if image is None:
            raise without_image(group, shard)
        yield Sample(group.key, shard, image, parts)
    if not found:
        told = "".join(f" ({line})" for line in remark_lines(remarks.found()))
        raise ShardError(f"the shard holds no samples{told}. Leave it out, or write it again.", shard=shard)


class _Open(Protocol):
    """A shard to be read forward."""

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer only at the end."""

    def close(self) -> None:
        """Let it go."""


class _Forward:
    """An open shard as a `Read` that only moves forward; the last bytes read may be asked for once more."""

    def __init__(self, file: _Open) -> None:
        self._file = file
        self._position = self._first = 0  # of the next byte; of the first byte of `_last`
        self._last = b""

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on, fewer only at the end."""
        kept = self._last[offset - self._first :]
        if len(kept) < count:
            self._position += _skip(self._file, offset - self._position)
            rest = self._file.read(count - len(kept))
            self._position += len(rest)
            kept += rest
            self._first, self._last = offset, kept
        return kept[:count]

    def close(self) -> None:
        self._file.close()


class _LocalFile:
    """A file on disk, or a descriptor of one, whose failures name the shard."""

    def __init__(self, file: str | int, shard: str) -> None:
        self._shard = shard
        try:
            self._file = open(file, "rb", buffering=CHUNK)  # noqa: PTH123, SIM115 (closed by close())
        except OSError as error:
            raise self._failure(error, 0) from error

    def read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except OSError as error:
            raise self._failure(error, self._file.tell()) from error

    def close(self) -> None:
        self._file.close()

    def _failure(self, error: OSError, offset: int) -> ShardError:
        return ShardError(
            f"cannot be read: {error.strerror or error} ({type(error).__name__}). Check the path and the disk; a "
            "resumed loader goes on from the last batch it gave.",
            shard=self._shard,
            offset=offset,
        )


def _open(shard: str, fetcher: Fetcher) -> _Open:
    if not is_remote(shard):
        return _LocalFile(shard, shard)
    store = fetcher.store
    if store.cache is not None:
        kept = download_now(fetcher, ShardCache(Path(store.cache), store.cache_bytes), shard)
        if kept is not None:
            return _LocalFile(kept, shown(shard))
    return RemoteFile(fetcher, shard)


def _skip(file: _Open, count: int) -> int:
    """Read and drop bytes; returns how many there were."""
    left = count
    while left > 0 and (data := file.read(min(left, CHUNK))):
        left -= len(data)
    return max(count, 0) - max(left, 0)


def _mixed(samples: Iterable[Sample], size: int, source: np.random.PCG64) -> Iterator[Sample]:
    """Samples in random order as far as a buffer of `size` allows."""
    buffer: list[Sample] = []
    for sample in samples:
        if len(buffer) < size:
            buffer.append(sample)
            continue
        slot = int(source.random_raw()) % size
        buffer[slot], sample = sample, buffer[slot]
        yield sample
    yield from (buffer[place] for place in np.argsort(source.random_raw(len(buffer)), kind="stable").tolist())
