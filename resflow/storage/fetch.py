"""Reads of files in remote stores: tried again within a deadline, checked, and named without their secrets."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref

from resflow.errors import StoreError
from resflow.storage.addresses import shown
from resflow.storage.etags import FirstEtags
from resflow.storage.fsspec_store import FsspecTransport
from resflow.storage.http_store import HttpTransport
from resflow.storage.store import Store
from resflow.storage.transport import Answer, GiveUp, Stamp, Transport, TryAgain

CHUNK = 1 << 20  # bytes asked of a connection at a time
_FIRST, _LONGEST = 0.2, 10.0  # seconds of the first wait and of the longest
_ADVICE = "Check the address and the connection; a resumed loader goes on from the last batch it gave."
_CHANGED = "Index it again (resflow index), or put the old one back."

_OPEN: weakref.WeakSet[Fetcher] = weakref.WeakSet()
_INHERITED: list[Transport] = []


class Fetcher:
    """Reads files by URL. Safe to share between threads; after a fork each process has connections of its own.

    Args:
        store: how.
        etags: the states of files as they were first seen; default: what this object saw.
    """

    def __init__(self, store: Store, etags: FirstEtags | None = None) -> None:
        self.store, self._etags = store, etags or FirstEtags()
        self._reset()

    def read(self, url: str, start: int, end: int, *, size: int | None = None) -> bytes:
        """Bytes of a file.

        Args:
            url: of the file.
            start: first byte.
            end: byte after the last.
            size: bytes of the whole file, if they are known.

        Raises:
            ShardError: they cannot be had within the deadline, or the file is not what it was; names URL and offset.
            ConfigError: the scheme is not allowed, or its package is not installed.
        """
        with RemoteFile(self, url, start, end, size=size) as file:
            return file.read(end - start)

    def read_whole(self, url: str) -> bytes | None:
        """All bytes of a small file; None where there is none.

        Raises:
            ShardError: they cannot be had within the deadline.
            ConfigError: the scheme is not allowed, or its package is not installed.
        """
        try:
            with RemoteFile(self, url) as file:
                return file.read(None)
        except _Missing:
            return None

    def stamp(self, url: str) -> Stamp:
        """Size and ETag of a file, of which one byte is asked for (an address signed for GET allows nothing else).

        Raises:
            ShardError: it cannot be asked for within the deadline.
            ConfigError: the scheme is not allowed, or its package is not installed.
        """
        with RemoteFile(self, url, 0, 1, whole=True) as file:
            file.read(1)
            return file.stamp

    def stamp_once(self, url: str, size: int) -> Stamp:
        """Size and ETag of a file, asked for at the first call alone.

        Args:
            url: of the file.
            size: its bytes when it was indexed.

        Raises:
            ShardError: it cannot be asked for within the deadline, or is not of this size.
            ConfigError: the scheme is not allowed, or its package is not installed.
        """
        if url not in self._stamps:
            with RemoteFile(self, url, 0, 1, size=size, whole=True) as file:
                file.read(1)
                self._stamps[url] = file.stamp
        return self._stamps[url]

    def close(self) -> None:
        """Close all connections; a later read opens them again."""
        transports = list(self._transports.values())
        self._transports.clear()
        for transport in transports:
            transport.close()

    def check(self, url: str, stamp: Stamp, size: int | None) -> None:
        """Refuse a file that is not what it was; GiveUp."""
        if size is not None and stamp.size is not None and stamp.size != size:
            raise GiveUp(f"has {stamp.size} bytes, {size} when it was indexed: the shard changed", _CHANGED)
        first = self._etags.first(url, stamp.etag) if stamp.etag is not None and self.store.check_etag else stamp.etag
        if first != stamp.etag:
            raise GiveUp(
                f"its ETag is {stamp.etag}, {first} when it was first read: the shard changed",
                f"{_CHANGED[:-1]}; if the bytes are equal, use Store(check_etag=False).",
            )

    def open(self, url: str, start: int, end: int | None, until: float) -> Answer:
        """One try."""
        return self._transport(url).get(url, start, end, until)

    def _transport(self, url: str) -> Transport:
        scheme = self.store.check_scheme(url)
        with self._lock:
            if scheme not in self._transports:
                over_http = scheme in ("http", "https")
                self._transports[scheme] = HttpTransport(self.store) if over_http else FsspecTransport(url, self.store)
            return self._transports[scheme]

    def _reset(self) -> None:
        self._transports: dict[str, Transport] = {}
        self._stamps: dict[str, Stamp] = {}
        self._lock = threading.Lock()
        _OPEN.add(self)

    def forget(self) -> None:
        """In a process just forked: let go of what belongs to the other."""
        for transport in self._transports.values():
            if isinstance(transport, HttpTransport):
                transport.forget()
            else:  # a file system that is let go speaks to threads that the fork did not bring along
                _INHERITED.append(transport)
        self._reset()

    def __getstate__(self) -> tuple[Store, FirstEtags]:
        return self.store, self._etags

    def __setstate__(self, state: tuple[Store, FirstEtags]) -> None:
        self.store, self._etags = state
        self._reset()


class RemoteFile:
    """Bytes of a file, read forward; where a connection breaks, the next one goes on from the byte reached.

    Args:
        fetcher: what asks for them.
        url: of the file.
        start: first byte.
        end: byte after the last, None: to the end.
        size: bytes of the whole file, if they are known.
        whole: whether an answer with the whole file will do where a range was asked for.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        url: str,
        start: int = 0,
        end: int | None = None,
        *,
        size: int | None = None,
        whole: bool = False,
    ) -> None:
        self._fetcher, self._url, self._size, self._whole = fetcher, url, size, whole
        self._start, self._end = start, end
        self.position = start
        self.stamp = Stamp(None, None)
        self._answer: Answer | None = None
        self._earlier = ""  # what the try before failed of

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, count: int | None) -> bytes:
        """`count` bytes, fewer only at the end of the file; None: all that are left.

        Raises:
            ShardError: they cannot be had within the deadline, or the file is not what it was.
            ConfigError: the scheme is not allowed, or its package is not installed.
        """
        began = time.monotonic()
        until = began + self._fetcher.store.deadline
        parts: list[bytes] = []
        left = count if count is not None else 1 << 62
        tries = failed = 0
        while left > 0:
            try:
                if time.monotonic() >= until:
                    raise TryAgain(f"{sum(map(len, parts))} bytes came in {self._fetcher.store.deadline:g} s")
                tries += self._answer is None
                data = self._next(min(left, CHUNK), until)
            except GiveUp as failure:
                self.close()
                raise self._error(failure) from None
            except TryAgain as failure:
                self.close()
                failed += 1
                earlier, self._earlier = self._earlier, failure.reason
                if time.monotonic() >= until and earlier not in ("", failure.reason):
                    failure = TryAgain(f"{failure.reason}, after {earlier}")
                wait = self._wait(failed, failure, until, f"{tries} tries in {time.monotonic() - began:.1f} s")
                time.sleep(wait)
                continue
            if not data:
                break
            failed = 0
            parts.append(data)
            left -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Let the connection go; a later read opens another."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _next(self, count: int, until: float) -> bytes:
        if self._answer is None:
            if self._end is not None and self.position >= self._end:
                return b""
            if self.position > self._start and self.position == self.stamp.size:
                return b""
            self._answer = self._fetcher.open(self._url, self.position, self._end, until)
            self._check(self._answer)
        data = self._answer.read(count, until)
        self.position += len(data)
        end = self._end if self._end is not None else self.stamp.size
        if not data and end is not None and self.position < end:
            raise TryAgain(f"the connection ended {end - self.position} bytes too early")
        return data

    def _check(self, answer: Answer) -> None:
        """Refuse what is not the file, or not the part of it that was asked for."""
        stamp = answer.stamp
        if answer.start == 0 and self.position > self._start == 0 and self._end is None:
            raise GiveUp(
                f"the connection broke after {self.position} bytes, and the server does not serve ranges, so the rest "
                "cannot be asked for"
            )
        exact = self._whole or self._end in (None, stamp.size) or not answer.whole
        if answer.start != self.position or not exact:
            asked = "all that is left" if self._end is None else f"{self._end - self.position} bytes"
            raise GiveUp(
                f"{asked} were asked for, {stamp.size or 'an unknown number'} came: the whole file (HTTP "
                "status 200), so the server does not serve ranges",
                "Serve the shards by a server that does, or stream them without their index (ShardStream).",
            )
        self._fetcher.check(self._url, stamp, self._size)
        if self.stamp.etag is not None and stamp.etag != self.stamp.etag and self._fetcher.store.check_etag:
            raise GiveUp("it changed while it was read (another ETag)", _CHANGED)
        self.stamp = stamp

    def _wait(self, failed: int, failure: TryAgain, until: float, tried: str) -> float:
        """Seconds until the next try, or the error where there is to be none."""
        store = self._fetcher.store
        left = until - time.monotonic()
        if left <= 0:
            raise self._error(
                GiveUp(f"{failure.reason}; the deadline of {store.deadline:g} s is over ({tried})")
            ) from None
        if failed > store.retries:
            raise self._error(GiveUp(f"{failure.reason}, {tried}")) from None
        # Jitter keeps the ranks that failed together from coming back together.
        wait = min(_LONGEST, _FIRST * 2.0 ** (failed - 1)) * random.uniform(0.5, 1.0)
        if failure.wait is not None and failure.wait >= left:
            raise self._error(
                GiveUp(
                    f"{failure.reason}: the store asks to wait {failure.wait:g} s, longer than the deadline of "
                    f"{store.deadline:g} s leaves"
                )
            ) from None
        return min(max(wait, failure.wait or 0.0), left)

    def _error(self, failure: GiveUp) -> StoreError:
        kind = _Missing if failure.missing else StoreError
        return kind(
            f"cannot be read: {failure.reason}. {failure.advice or _ADVICE}",
            shard=shown(self._url),
            offset=self.position,
        )


class _Missing(StoreError):
    """There is no such file."""


def _forked() -> None:
    for fetcher in list(_OPEN):
        fetcher.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
