"""Spans of shards read from a remote store, by range requests, or out of a cache of shards or pieces.

The index lies beside the shards under the name that `resflow index` gave it, and is downloaded once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from resflow.errors import ConfigError, IndexFileError
from resflow.sources.byte_ranges import Span
from resflow.sources.index_file import ShardIndex, open_index_file
from resflow.sources.index_lookup import index_name, old_index_name
from resflow.sources.local_shards import Files, OpenFile, OpenFiles
from resflow.sources.paths import Shards
from resflow.sources.stream import stream_names
from resflow.sources.tiers import Tiers, open_tiers, tiers_path
from resflow.storage.addresses import shown, split_query
from resflow.storage.cache import ShardCache
from resflow.storage.download import BackgroundDownloads
from resflow.storage.etags import FirstEtags
from resflow.storage.fetch import Fetcher
from resflow.storage.store import Store

COMMAND = "resflow index where the shards lie, and copy the index beside them"
"""What makes the index of shards at URLs again, for messages."""


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


class NoRemoteIndexError(IndexFileError):
    """Shards at URLs have no index beside them."""


class RemoteShards:
    """Reads spans of shards at URLs by ranges of bytes, several side by side.

    Args:
        shards: a URL with braces, or a sequence of URLs.
        store: how they are read, and whether they are kept.
        index: their index file, where it does not lie beside them.

    Attributes:
        index: of the shards.

    Raises:
        ConfigError: the shards lie in several folders, or a package for the store is missing.
        ShardError: the store cannot be reached.
        IndexFileError: there is no index; it is damaged, of another version, or lists other shards.
    """

    _pool: ThreadPoolExecutor | None
    _downloads: BackgroundDownloads | None

    def __init__(self, shards: Shards, store: Store, index: str | Path | None = None) -> None:
        self.store = store
        content = _index_content(shards, store, index)
        if content is None:
            raise NoRemoteIndexError(
                f"there is no index of these shards. Run: {COMMAND}; or stream them without: "
                "rf.sources.ShardStream(urls, store=...).",
                shard=shown(index_urls(shards)[0]),
            )
        url, data = content
        folder = Path(tempfile.mkdtemp(prefix="resflow-index-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        path = folder / split_query(url)[0].rpartition("/")[2]
        _save(path, data, url)
        try:
            found = open_index_file(path, command=COMMAND, check=False)
        except IndexFileError as error:
            raise IndexFileError(error.message, shard=shown(url)) from error
        self._urls, self._url = stream_names(shards), url
        named = [split_query(shard)[0].rpartition("/")[2] for shard in self._urls]
        if [shard.name for shard in found.shards] != named:
            raise IndexFileError(
                f"the index is stale: it lists {len(found.shards)} shards, the pattern names {len(named)}, and the "
                f"lists differ. Run: {COMMAND}",
                shard=shown(url),
            )
        self._cache = None if self.store.cache is None else ShardCache(Path(self.store.cache), self.store.cache_bytes)
        self._fetcher = Fetcher(self.store, FirstEtags(folder))
        self.index, self.shown = found, tuple(map(shown, self._urls))
        self._reset()

    def read(self, spans: Sequence[Span], files: Files) -> Iterator[bytes]:
        """The bytes of each span, in order; ShardError where they cannot be had, or a shard was changed."""
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.store.connections, thread_name_prefix="resflow-store")
            if self._cache is not None and self._downloads is None:
                self._downloads = BackgroundDownloads(self._fetcher, self._cache)
        waiting = [self._pool.submit(self._span, span, files) for span in spans]
        try:
            for read in waiting:
                yield read.result()
        finally:
            for read in waiting:
                read.cancel()

    def read_ahead(self, spans: Sequence[Span], files: Files) -> None:
        """Nothing: worker processes are what reads ahead."""

    def fill_cache(self, timeout: float) -> None:
        """Wait until the shards read so far are in the cache, as far as it takes them.

        Args:
            timeout: seconds to wait at most.
        """
        if self._downloads is not None:
            self._downloads.join(timeout)

    def close(self) -> None:
        """Close connections and shards; a later read opens them again."""
        if self._process == os.getpid():
            if self._downloads is not None:
                self._downloads.close()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
            self._fetcher.close()
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        names = ("store", "index", "shown", "_urls", "_url", "_cache", "_fetcher")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def open_tiers(self, index: ShardIndex, command: str) -> Tiers | None:
        """The tiers whose index lies beside that of the shards; IndexFileError where it is damaged or stale."""
        path = index.path
        if path is None:
            return None
        place, query = split_query(self._url)
        folder = place.rpartition("/")[0]
        url = f"{folder}/{tiers_path(path).name}{query}"
        content = self._fetcher.read_whole(url)
        if content is None:
            return None
        _save(tiers_path(path), content, url)
        try:
            tiers = open_tiers(index, command=command, check=False)
        except IndexFileError as error:
            raise IndexFileError(error.message, shard=shown(url)) from error
        if tiers is not None:
            names = [shard.relative_to(path.parent).as_posix() for tier in tiers.shards for shard in tier]
            self._urls += tuple(f"{folder}/{name}{query}" for name in names)
        return tiers

    def _reset(self) -> None:
        self._open, self._process, self._lock = OpenFiles(), os.getpid(), threading.Lock()
        self._pool, self._downloads = None, None
        self._chosen = np.zeros(0, np.bool_)

    def _span(self, span: Span, files: Files) -> bytes:
        size = files(span.shard).size
        if self._cache is not None and self.store.piece_bytes is not None:
            return self._by_pieces(self._cache, self.store.piece_bytes, span, size)
        file = self._open_cached(span.shard, size, files)
        if file is None:
            return self._fetcher.read(self._urls[span.shard], span.start, span.end, size=size)
        return file.read(span.start, span.end)

    def _by_pieces(self, cache: ShardCache, length: int, span: Span, size: int) -> bytes:
        """The bytes of a span, out of the pieces of its shard that it lies in."""
        url = self._urls[span.shard]
        stamp = self._fetcher.stamp_once(url, size)
        parts = []
        for first in range(span.start // length * length, span.end, length):
            piece = first, min(first + length, size)
            start, end = max(span.start, first), min(span.end, piece[1])
            descriptor = cache.open(url, stamp, piece)
            if descriptor is None:
                content = (self._fetcher.read(url, *piece, size=size) for _ in range(1))  # asked for if it is wanted
                if cache.fill(url, stamp, content, piece):
                    descriptor = cache.open(url, stamp, piece)
            if descriptor is None:  # on its way by another, or there is no room
                parts.append(self._fetcher.read(url, start, end, size=size))
            else:
                parts.append(OpenFile(descriptor, shown(url), first, cached=True).read(start, end))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _open_cached(self, number: int, size: int, files: Files) -> OpenFile | None:
        """A shard in the cache; where it is not there yet, it is asked for if it is to be there."""
        if self._cache is None or self._downloads is None:
            return None
        file = self._open.get(number)
        if file is not None:
            return file
        if not self._fits(number, files):
            return None
        url = self._urls[number]
        stamp = self._fetcher.stamp_once(url, size)
        descriptor = self._cache.open(url, stamp)
        if descriptor is None:
            self._downloads.want(url, stamp, size)
            return None
        return self._open.put(number, OpenFile(descriptor, shown(url), cached=True))

    def _fits(self, number: int, files: Files) -> bool:
        """Whether a shard is among those kept: as many as fit, always the same, lest they drive each other out."""
        if len(self._chosen) != len(self._urls):
            originals = len(self.index.shards)
            order = np.roll(np.arange(len(self._urls)), -originals)  # tiers first: they are what is read most
            total = np.cumsum([files(shard).size for shard in order.tolist()])
            chosen = np.zeros(len(order), np.bool_)
            chosen[order] = total <= self.store.cache_bytes
            self._chosen = chosen
        return bool(self._chosen[number])


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


def _save(path: Path, content: bytes, url: str) -> None:
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
