"""Downloads of shards into the cache: at once, or beside the reads that need them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from resflow.errors import ResflowError
from resflow.storage.cache import ShardCache
from resflow.storage.fetch import CHUNK, Fetcher, RemoteFile
from resflow.storage.transport import Stamp


def download_now(fetcher: Fetcher, cache: ShardCache, url: str, size: int | None = None) -> int | None:
    """A descriptor of a shard in the cache, downloaded now if need be; None where the cache does not take it.

    Args:
        fetcher: what downloads it.
        cache: where to.
        url: of the shard.
        size: its bytes, if they are known.

    Raises:
        ShardError: it cannot be had, or not be kept.
    """
    stamp = fetcher.stamp(url)
    descriptor = cache.open(url, stamp)
    if descriptor is None and cache.fill(url, stamp, _content(fetcher, url, size, threading.Event())):
        descriptor = cache.open(url, stamp)
    return descriptor


class BackgroundDownloads:
    """Brings the shards that reads asked for into the cache, one after the other, in a thread of its own.

    Args:
        fetcher: what downloads them.
        cache: where to.
    """

    def __init__(self, fetcher: Fetcher, cache: ShardCache) -> None:
        self._fetcher, self._cache = fetcher, cache
        self._waiting: OrderedDict[str, tuple[Stamp, int]] = OrderedDict()
        self._asked: set[str] = set()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._error: ResflowError | None = None

    def want(self, url: str, stamp: Stamp, size: int) -> None:
        """Ask for a shard; returns at once. Each is asked for once.

        Args:
            url: of the shard.
            stamp: its size and ETag.
            size: its bytes when it was indexed.

        Raises:
            ShardError: an earlier one could not be had, or not be kept.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if url in self._asked:
                return
            self._asked.add(url)
            self._waiting[url] = stamp, size
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="resflow-cache")
                self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait until all that was asked for is here, or was given up; at most `timeout` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def close(self) -> None:
        """Stop; a shard that is half here is dropped."""
        self._stop.set()
        self.join(self._fetcher.store.stall)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._stop.is_set():
                    self._thread = None
                    return
                url, (stamp, size) = self._waiting.popitem(last=False)
            try:
                self._cache.fill(url, stamp, _content(self._fetcher, url, size, self._stop))
            except _Stopped:
                pass
            except ResflowError as error:
                with self._lock:
                    self._error = error
                    self._waiting.clear()


class _Stopped(Exception):
    """It was closed in the middle of a shard."""


def _content(fetcher: Fetcher, url: str, size: int | None, stop: threading.Event) -> Iterator[bytes]:
    """The bytes of a shard, each piece of them within the deadline."""
    with RemoteFile(fetcher, url, size=size) as file:
        while data := file.read(CHUNK):
            if stop.is_set():
                raise _Stopped
            yield data
