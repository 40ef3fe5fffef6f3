"""Spans of shards read out of files on a local disk; and what every way to read spans offers."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from resflow.errors import ShardError
from resflow.sources.byte_ranges import Span
from resflow.sources.index_file import ShardIndex
from resflow.sources.tiers import Tiers, open_tiers

_OPEN_FILES = 64


class ShardFile(NamedTuple):
    """A shard of the dataset, or of a tier.

    Args:
        name: its path.
        size: its bytes when it was indexed.
        command: what indexes or makes it again, for messages.
    """

    name: str
    size: int
    command: str


Files: TypeAlias = Callable[[int], ShardFile]
"""A shard by its number; those of the tiers are numbered on after the originals', tier by tier."""


class SpanReader(Protocol):
    """A way to read spans of shards. Safe to share between threads; a pickled or forked copy opens its shards anew."""

    shown: tuple[str, ...]
    """Names of the shards for messages; () where their paths will do."""

    def read(self, spans: Sequence[Span], files: Files) -> Iterator[bytes]:
        """The bytes of each span, in order."""

    def read_ahead(self, spans: Sequence[Span], files: Files) -> None:
        """Say that spans are wanted soon; returns at once."""

    def open_tiers(self, index: ShardIndex, command: str) -> Tiers | None:
        """The tiers of an index; `command` makes them again."""

    def close(self) -> None:
        """Close what is open; a later read opens it again."""


class LocalShards:
    """Reads spans of local files, each with one system call."""

    shown: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._open, self._process = OpenFiles(), os.getpid()

    def read(self, spans: Sequence[Span], files: Files) -> Iterator[bytes]:
        """The bytes of each span, in order; ShardError where a shard is missing, damaged or was changed."""
        return (file.read(span.start, span.end) for span, file in self._opened(spans, files))

    def read_ahead(self, spans: Sequence[Span], files: Files) -> None:
        """Ask the system to read spans into its cache; does nothing where that is not offered."""
        if hasattr(os, "posix_fadvise"):
            for span, file in self._opened(spans, files):
                os.posix_fadvise(file.descriptor, span.start, span.end - span.start, os.POSIX_FADV_WILLNEED)

    def open_tiers(self, index: ShardIndex, command: str) -> Tiers | None:
        """The tiers beside an index; IndexFileError where one is missing or stale."""
        return open_tiers(index, command=command)

    def close(self) -> None:
        """Close all shards; a later read opens them again."""
        self._open, self._process = OpenFiles(), os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalShards, ()

    def _opened(self, spans: Sequence[Span], files: Files) -> Iterator[tuple[Span, OpenFile]]:
        """Each span with its shard; spans of one shard follow each other."""
        if self._process != os.getpid():
            self.close()
        number, file = -1, None
        for span in spans:
            if file is None or span.shard != number:
                number = span.shard
                file = self._open.get(number) or self._open.put(number, _open(files(number)))
            yield span, file


class OpenFile:
    """A file that closes when the last thread that reads from it lets go.

    Args:
        descriptor: of the file.
        shard: its name for messages.
        first: the shard's byte that the file begins with.
        cached: whether it lies in a cache, for messages.
    """

    def __init__(self, descriptor: int, shard: str, first: int = 0, *, cached: bool = False) -> None:
        self.descriptor = descriptor
        self._shard, self._first, self._cached = shard, first, cached

    def read(self, start: int, end: int) -> bytes:
        """The shard's bytes from `start` to before `end`; ShardError where they cannot be read."""
        parts: list[bytes] = []
        position = start
        while position < end:
            try:
                part = os.pread(self.descriptor, end - position, position - self._first)
            except OSError as error:
                where, advice = (" from the cache", ", or use Store(cache=None)") if self._cached else ("", "")
                raise ShardError(
                    f"cannot be read{where}: {error.strerror}. Check the disk{advice}.",
                    shard=self._shard,
                    offset=position,
                ) from error
            if not part:
                raise self._cut_short(start, end, position)
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _cut_short(self, start: int, end: int, position: int) -> ShardError:
        if self._cached:
            what = "was cut short in the cache. Remove the cache folder, and leave its files alone."
            return ShardError(what, shard=self._shard, offset=position)
        size = os.fstat(self.descriptor).st_size
        return ShardError(
            f"truncated: bytes {start} to {end} were wanted, the file ends at {size}. "
            "Copy or write the shard again, then index it.",
            shard=self._shard,
            offset=min(position, size),
        )

    def __del__(self) -> None:
        os.close(self.descriptor)


class OpenFiles:
    """The shards used last, open, by number."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int) -> OpenFile | None:
        """A shard, None where it is not open."""
        with self._lock:
            file = self._files.get(number)
            if file is not None:
                self._files.move_to_end(number)
            return file

    def put(self, number: int, file: OpenFile) -> OpenFile:
        """Keep a shard open until 64 others were used after it; the one that was put first where there are two."""
        with self._lock:
            file = self._files.setdefault(number, file)
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
            return file


def _open(shard: ShardFile) -> OpenFile:
    try:
        descriptor = os.open(shard.name, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise ShardError(
            f"cannot be opened: {error.strerror}. Put the shard back, or index the rest.", shard=shard.name
        ) from error
    file, found = OpenFile(descriptor, shard.name), os.fstat(descriptor).st_size
    if found != shard.size:
        raise ShardError(
            f"has {found} bytes, {shard.size} when it was indexed: the shard changed. Run: {shard.command}",
            shard=shard.name,
            offset=min(found, shard.size),
        )
    return file
