"""Samples out of indexed tar shards in a remote store, by range requests, or out of a cache of shards or pieces.

The index lies beside the shards under the name that `resflow index` gave it, and is downloaded once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, IndexFileError, ShardError
from resflow.sources.byte_ranges import Run
from resflow.sources.index_file import open_index_file
from resflow.sources.index_lookup import index_name, old_index_name
from resflow.sources.paths import Shards
from resflow.sources.shards import ShardSource
from resflow.sources.stream import stream_names
from resflow.sources.tar import MAX_MEMBER_BYTES
from resflow.sources.tiers import Tiers, open_tiers, tiers_path
from resflow.storage.addresses import shown, split_query
from resflow.storage.cache import ShardCache
from resflow.storage.download import BackgroundDownloads
from resflow.storage.etags import FirstEtags
from resflow.storage.fetch import Fetcher
from resflow.storage.store import Store

_COMMAND = "resflow index where the shards lie, and copy the index beside them"
_OPEN = 64  # shards in the cache that are held open


def find_index(shards: Shards, store: Store | None = None) -> RemoteShardSource | None:
    """The source of shards at a URL, if their index lies beside them.

    Args:
        shards: a URL with braces, or a sequence of URLs.
        store: how they are read.

    Returns:
        The source, or None where there is no index.

    Raises:
        ConfigError: the shards lie in several folders, or a package for the store is missing.
        ShardError: the store cannot be reached.
        IndexFileError: the index is damaged, of another version, or lists other shards.
    """
    found = _index_content(shards, store or Store())
    return None if found is None else RemoteShardSource(shards, store=store, content=found)


def index_urls(shards: Shards) -> tuple[str, str]:
    """Where the index of shards at URLs may lie: in their folder; a query such as a signature is kept.

    Args:
        shards: a URL with braces, or a sequence of URLs.

    Returns:
        By the names of the shards, and as Resflow 0.1 named it, by their pattern.

    Raises:
        ConfigError: the shards lie in several folders, or their queries differ.
    """
    patterns = [str(shards)] if isinstance(shards, str | Path) else [str(part) for part in shards]
    parts = [split_query(pattern) for pattern in patterns]
    folders = {path.rpartition("/")[0] for path, _ in parts}
    if len(folders) > 1 or any(character in folder for folder in folders for character in "{*["):
        raise ConfigError(
            f"shards at URLs must lie in one folder; got {sorted(map(shown, folders))[:3]}. Make one loader for each."
        )
    queries = {query for _, query in parts}
    if len(queries) != 1:
        raise ConfigError(
            "shards at URLs must have one query in common, under which their index is looked for; got "
            f"{len(queries)} that differ. Sign their folder rather than each file."
        )
    [folder], [query] = folders, queries
    names = [split_query(name)[0].rpartition("/")[2] for name in stream_names(shards)]
    older = old_index_name([path.rpartition("/")[2] for path, _ in parts])
    return f"{folder}/{index_name(names)}{query}", f"{folder}/{older}{query}"


class RemoteShardSource(ShardSource):
    """Reads samples of tar shards at URLs by ranges of bytes, those of a batch side by side.

    Args:
        shards: a URL with braces, or a sequence of URLs.
        index: their index file, where it does not lie beside them.
        store: how they are read, and whether they are kept.
        content: the index file's URL and bytes, if they are here already.
        max_member_bytes: most bytes that are read for one sample, all its members together; more is a `ShardError`.

    Raises:
        ConfigError: the shards lie in several folders, or a package for the store is missing.
        ShardError: the store cannot be reached.
        IndexFileError: there is no index; it is damaged, of another version, or lists other shards.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        index: str | Path | None = None,
        store: Store | None = None,
        content: tuple[str, bytes] | None = None,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ) -> None:
        self.store = store or Store()
        content = content or _index_content(shards, self.store, index)
        if content is None:
            raise IndexFileError(
                f"there is no index of these shards. Run: {_COMMAND}; or stream them without: "
                "rf.sources.ShardStream(urls, store=...).",
                shard=shown(index_urls(shards)[0]),
            )
        url, data = content
        folder = Path(tempfile.mkdtemp(prefix="resflow-index-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        path = folder / split_query(url)[0].rpartition("/")[2]
        _keep(path, data, url)
        try:
            found = open_index_file(path, command=_COMMAND, check=False)
        except IndexFileError as error:
            raise IndexFileError(error.message, shard=shown(url)) from error
        self._urls, self._url = stream_names(shards), url
        named = [split_query(shard)[0].rpartition("/")[2] for shard in self._urls]
        if [shard.name for shard in found.shards] != named:
            raise IndexFileError(
                f"the index is stale: it lists {len(found.shards)} shards, the pattern names {len(named)}, and the "
                f"lists differ. Run: {_COMMAND}",
                shard=shown(url),
            )
        self._cache = None if self.store.cache is None else ShardCache(Path(self.store.cache), self.store.cache_bytes)
        self._fetcher = Fetcher(self.store, FirstEtags(folder))
        super().__init__(found, max_member_bytes=max_member_bytes)

    def names(self, sample_ids: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
        """URL of the shard, without its secrets, and key of each sample, for messages."""
        found = super().names(sample_ids)
        shards = self.index.shard[sample_ids].tolist()
        urls = {shard: shown(self._urls[shard]) for shard in set(shards)}
        return [(urls[shard], key) for shard, (_, key) in zip(shards, found, strict=True)]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Nothing: worker processes are what reads ahead."""

    def fill_cache(self, timeout: float) -> None:
        """Wait until the shards read so far are in the cache, as far as it takes them.

        Args:
            timeout: seconds to wait at most.
        """
        if self._filler is not None:
            self._filler.join(timeout)

    def close(self) -> None:
        """Close connections and shards; a later read opens them again."""
        if self._process == os.getpid():
            if self._filler is not None:
                self._filler.close()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
            self._fetcher.close()
        super().close()

    def __getstate__(self) -> dict[str, Any]:
        names = ("store", "_urls", "_url", "_cache", "_fetcher")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    def _ask_ahead(self, runs: Sequence[Run]) -> None:
        """Nothing, as above."""

    def _find_tiers(self) -> Tiers | None:
        path = self.shard_index.path
        if path is None:
            return None
        place, query = split_query(self._url)
        folder = place.rpartition("/")[0]
        url = f"{folder}/{tiers_path(path).name}{query}"
        content = self._fetcher.read_whole(url)
        if content is None:
            return None
        _keep(tiers_path(path), content, url)
        try:
            tiers = open_tiers(self.shard_index, command=self._command, check=False)
        except IndexFileError as error:
            raise IndexFileError(error.message, shard=shown(url)) from error
        if tiers is not None:
            names = [shard.relative_to(path.parent).as_posix() for tier in tiers.shards for shard in tier]
            self._urls += tuple(f"{folder}/{name}{query}" for name in names)
        return tiers

    def _reset(self) -> None:
        super()._reset()
        self._pool: ThreadPoolExecutor | None = None
        self._filler: BackgroundDownloads | None = None
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._chosen = np.zeros(0, np.bool_)

    def _fetch(self, runs: Sequence[Run]) -> Iterator[bytes]:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.store.connections, thread_name_prefix="resflow-store")
            if self._cache is not None and self._filler is None:
                self._filler = BackgroundDownloads(self._fetcher, self._cache)
        waiting = [self._pool.submit(self._run, run) for run in runs]
        try:
            for read in waiting:
                yield read.result()
        finally:
            for read in waiting:
                read.cancel()

    def _run(self, run: Run) -> bytes:
        size = self._bytes_of(run.shard)
        if self._cache is not None and self.store.piece_bytes is not None:
            return self._by_pieces(self._cache, self.store.piece_bytes, run, size)
        kept = self._open_kept(run.shard, size)
        if kept is None:
            return self._fetcher.read(self._urls[run.shard], run.start, run.end, size=size)
        return kept.read(run.start, run.end, shown(self._urls[run.shard]))

    def _by_pieces(self, cache: ShardCache, length: int, run: Run, size: int) -> bytes:
        """The bytes of a run, out of the pieces of its shard that it lies in."""
        url = self._urls[run.shard]
        stamp = self._fetcher.stamp_once(url, size)
        parts = []
        for first in range(run.start // length * length, run.end, length):
            piece = first, min(first + length, size)
            start, end = max(run.start, first), min(run.end, piece[1])
            descriptor = cache.open(url, stamp, piece)
            if descriptor is None:
                content = (self._fetcher.read(url, *piece, size=size) for _ in range(1))  # asked for if it is wanted
                if cache.fill(url, stamp, content, piece):
                    descriptor = cache.open(url, stamp, piece)
            if descriptor is None:  # on its way by another, or there is no room
                parts.append(self._fetcher.read(url, start, end, size=size))
            else:
                parts.append(_Kept(descriptor, first).read(start, end, shown(url)))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _open_kept(self, number: int, size: int) -> _Kept | None:
        """A shard in the cache; where it is not there yet, it is asked for if it is to be there."""
        if self._cache is None or self._filler is None:
            return None
        with self._lock:
            kept = self._kept.get(number)
            if kept is not None:
                self._kept.move_to_end(number)
                return kept
        if not self._fits(number):
            return None
        url = self._urls[number]
        stamp = self._fetcher.stamp_once(url, size)
        descriptor = self._cache.open(url, stamp)
        if descriptor is None:
            self._filler.want(url, stamp, size)
            return None
        with self._lock:
            kept = self._kept[number] = _Kept(descriptor)
            if len(self._kept) > _OPEN:
                self._kept.popitem(last=False)
            return kept

    def _bytes_of(self, number: int) -> int:
        """Bytes of a shard when it was indexed."""
        return self._place(number)[1]

    def _fits(self, number: int) -> bool:
        """Whether a shard is among those kept: as many as fit, always the same, lest they drive each other out."""
        if len(self._chosen) != len(self._urls):
            originals = len(self.shard_index.shards)
            order = np.roll(np.arange(len(self._urls)), -originals)  # tiers first: they are what is read most
            total = np.cumsum([self._bytes_of(shard) for shard in order.tolist()])
            chosen = np.zeros(len(order), np.bool_)
            chosen[order] = total <= self.store.cache_bytes
            self._chosen = chosen
        return bool(self._chosen[number])


class _Kept:
    """A shard or a piece in the cache, open; not evicted until the last thread that reads from it lets go.

    Args:
        descriptor: of its file; closed at last.
        first: the shard's byte that the file begins with.
    """

    def __init__(self, descriptor: int, first: int = 0) -> None:
        self._descriptor, self._first = descriptor, first

    def read(self, start: int, end: int, shard: str) -> bytes:
        parts = []
        while start < end:
            try:
                part = os.pread(self._descriptor, end - start, start - self._first)
            except OSError as error:
                raise ShardError(
                    f"cannot be read from the cache: {error.strerror}. Check the disk, or use Store(cache=None).",
                    shard=shard,
                    offset=start,
                ) from error
            if not part:
                raise ShardError(
                    "was cut short in the cache. Remove the cache folder, and leave its files alone.",
                    shard=shard,
                    offset=start,
                )
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _index_content(shards: Shards, store: Store, index: str | Path | None = None) -> tuple[str, bytes] | None:
    """URL and bytes of the index of shards at URLs; None where there is none."""
    if index is not None:
        return index_urls(shards)[0], Path(index).read_bytes()
    fetcher = Fetcher(store)
    try:
        for url in index_urls(shards):
            if (content := fetcher.read_whole(url)) is not None:
                return url, content
        return None
    finally:
        fetcher.close()


def _keep(path: Path, content: bytes, url: str) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise IndexFileError(
            f"the index, {len(content)} bytes, cannot be kept in {path.parent}: {error.strerror}. Make room, or have "
            "TMPDIR name a folder that has some.",
            shard=shown(url),
        ) from error


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
