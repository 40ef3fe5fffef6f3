"""Samples out of tar shards from first byte to last, without an index: local files, HTTP, any store fsspec knows."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import braceexpand
import numpy as np
import torch.utils.data

from resflow.errors import ConfigError, HeaderError, ResflowError, ShardError
from resflow.plan.order import bits
from resflow.plan.world import World
from resflow.sources.base import Sample
from resflow.sources.groups import IMAGE_EXTENSIONS, group_members, split_name
from resflow.sources.paths import Shards, shard_paths
from resflow.sources.tar import Member, read_members

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CHUNK = 1 << 20  # bytes asked of a store at a time
_SILENCE = 60.0  # seconds without a byte after which an HTTP server is given up
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
        world: which rank this is.

    Raises:
        ConfigError: no shards, one named twice, `pipe:`, or a number out of range.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        shuffle: bool = False,
        shuffle_buffer: int = 0,
        seed: int = 0,
        world: World | None = None,
    ) -> None:
        if not 0 <= seed < 1 << 64 or shuffle_buffer < 0:
            raise ConfigError(
                f"seed must be in [0, 2**64) and shuffle_buffer at least 0; got {seed} and {shuffle_buffer}"
            )
        self.shards = stream_names(shards)
        self.world = world or World()
        self._shuffle, self._shuffle_buffer, self._seed = shuffle, shuffle_buffer, seed
        self.epoch = 0

    @property
    def fingerprint(self) -> str:
        """Hash of the shards' names and of what orders them; the bytes in them are not looked at."""
        how = f"{self._shuffle} {self._shuffle_buffer} {self._seed}"
        return hashlib.sha256("\0".join([how, *self.shards]).encode(errors="surrogateescape")).hexdigest()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass has the order of; at least 0."""
        self.epoch = epoch

    def check_parts(self, parts: int) -> None:
        """Refuse to be dealt out to more streams than there are shards.

        Args:
            parts: ranks times worker processes.

        Raises:
            ConfigError: some would get no shard.
        """
        if parts > len(self.shards):
            raise ConfigError(
                f"{len(self.shards)} shard(s) cannot be dealt out to {parts} streams ({self.world.size} rank(s) with "
                f"{parts // self.world.size} worker process(es) each): some would get none. Use fewer workers, write "
                "more and smaller shards, or index them (resflow index), which splits samples, not shards."
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
        parts, part = self.world.size * workers, self.world.rank * workers + worker
        self.check_parts(parts)
        order = np.arange(len(self.shards))
        if self._shuffle:
            order = np.argsort(bits(self._seed, self.epoch, _SHARDS).random_raw(len(order)), kind="stable")
        samples = (sample for shard in order[part::parts].tolist() for sample in read_shard(self.shards[shard]))
        if not self._shuffle_buffer:
            return samples
        return _mixed(samples, self._shuffle_buffer, bits(self._seed, self.epoch, _SAMPLES + part))


def is_remote(shard: object) -> bool:
    """Whether a shard is named by a URL rather than a path."""
    return isinstance(shard, str) and _URL.match(shard) is not None


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
            raise ConfigError(f"braces do not close in the shard pattern {part!r}: {error}. Close them.") from error
    if not names:
        raise ConfigError("no shards were named; expected a pattern such as 'https://host/train-{0000..0003}.tar'.")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ConfigError(f"shard {twice} is named twice, so its samples would be. Name it once.")
    return tuple(names)


def read_shard(shard: str) -> Iterator[Sample]:
    """Read one shard from its first byte to its last.

    Args:
        shard: path or URL of an uncompressed tar.

    Yields:
        Its samples, in order.

    Raises:
        ShardError: it is missing, unreadable, damaged, cut short, holds no samples, or repeats a key.
        HeaderError: a sample has no image.
    """
    stream = _Forward(shard)
    try:
        yield from _samples(stream, shard)
    finally:
        stream.close()


def _samples(stream: _Forward, shard: str) -> Iterator[Sample]:
    held: dict[int, memoryview] = {}  # data by offset, from a member's arrival to its sample's end

    def members() -> Iterator[Member]:
        for member in read_members(stream.read, shard, end=None):
            if split_name(member.name) is not None:
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
    for group in group_members(members(), shard):
        found = True
        parts = {extension: held.pop(member.offset) for extension, member in group.members.items()}
        image = next((parts[extension] for extension in IMAGE_EXTENSIONS if extension in parts), None)
        if image is None:
            raise HeaderError(
                f"no image among its members {sorted(parts)}; expected one of {', '.join(IMAGE_EXTENSIONS)}. "
                "Add the image or drop the sample",
                key=group.key,
                shard=shard,
            )
        yield Sample(group.key, shard, image, parts)
    if not found:
        raise ShardError("the shard holds no samples. Leave it out, or write it again.", shard=shard)


class _Forward:
    """A file or download as a `Read` that only moves forward; the last bytes read may be asked for once more."""

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._position = self._first = 0  # of the next byte; of the first byte of `_last`
        self._last = b""
        self._failures: tuple[type[Exception], ...] = (OSError,)
        self._file = self._attempt(self._open)

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on, fewer only at the end."""
        kept = self._last[offset - self._first :]
        if len(kept) < count:
            skipped = self._attempt(lambda: _skip(self._file, offset - self._position))
            self._position += skipped
            rest = self._attempt(lambda: self._file.read(count - len(kept)))
            self._position += len(rest)
            kept += rest
            self._first, self._last = offset, kept
        return kept[:count]

    def close(self) -> None:
        self._file.close()

    def _attempt(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except ResflowError:
            raise
        except self._failures as error:
            status = getattr(error, "status", None)
            reason = f"HTTP status {status}" if status else getattr(error, "strerror", None) or str(error)
            if isinstance(error, FileNotFoundError) and is_remote(self._shard):
                reason = "there is no such file (HTTP status 404)" if _is_http(self._shard) else "there is no such file"
            raise ShardError(
                f"cannot be read: {reason or type(error).__name__} ({type(error).__name__}). Check the "
                f"{'address and the connection' if is_remote(self._shard) else 'path and the disk'}; a resumed "
                "loader goes on from the last batch it gave.",
                shard=self._shard,
                offset=self._position,
            ) from error

    def _open(self) -> BinaryIO:
        if not is_remote(self._shard):
            return open(self._shard, "rb", buffering=_CHUNK)  # noqa: PTH123 (closed by close())
        files = remote_files(self._shard)
        self._failures = remote_failure()
        if not _is_http(self._shard):
            return io.BufferedReader(files.open(self._shard, "rb"), _CHUNK)
        # A size keeps fsspec from asking for it first; without blocks the file is one stream of unknown size.
        return io.BufferedReader(files.open(self._shard, block_size=0, size=1), _CHUNK)


def remote_files(url: str) -> Any:
    """The file system that serves a URL, made anew (an open one does not survive a fork).

    Args:
        url: any that fsspec has a package for.

    Returns:
        An fsspec file system.

    Raises:
        ConfigError: the scheme is unknown, or its package is not installed.
    """
    scheme = url.partition("://")[0].lower()
    options: dict[str, Any] = {"skip_instance_cache": True}
    try:
        import fsspec  # type: ignore[import-untyped]

        if _is_http(url):
            import aiohttp

            # aiohttp would end any download after 5 minutes; a loader takes as long as training does.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
            options["client_kwargs"] = {"timeout": timeout}
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise ConfigError(
            f"reading {url} needs a package that is not installed: {error}. Install it (for http and "
            'https: pip install "fsspec[http]").'
        ) from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}. Name a scheme that fsspec knows.") from error


def remote_failure() -> tuple[type[Exception], ...]:
    """What a store raises where bytes cannot be had."""
    aiohttp = sys.modules.get("aiohttp")
    return (OSError,) if aiohttp is None else (OSError, aiohttp.ClientError)


def _skip(file: BinaryIO, count: int) -> int:
    """Read and drop bytes; returns how many there were."""
    left = count
    while left > 0 and (data := file.read(min(left, _CHUNK))):
        left -= len(data)
    return max(count, 0) - max(left, 0)


def _is_http(shard: str) -> bool:
    return shard.lower().startswith(("http://", "https://"))


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
