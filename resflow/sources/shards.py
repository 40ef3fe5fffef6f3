"""Samples out of local tar shards, by offset."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, ShardError
from resflow.plan.index import Index
from resflow.sources.base import Sample
from resflow.sources.groups import IMAGE_EXTENSIONS, split_name
from resflow.sources.index_file import ShardIndex, open_index
from resflow.sources.paths import Shards
from resflow.sources.tar import read_members

_OPEN_SHARDS = 64
_GAP = 64 * 1024  # bytes between two samples that are read and thrown away rather than asked for apart
_RUN = 8 << 20  # most bytes of several samples read at once


class Run(NamedTuple):
    """Samples of one shard that are read at once: shard, first byte, byte after the last, places in the batch."""

    shard: int
    start: int
    end: int
    places: list[int]


class ShardSource:
    """Reads samples of tar shards by offset, several neighbours with one system call.

    Safe to share between threads; a pickled or forked copy opens its shards anew.

    Args:
        shards: a pattern, a path, a sequence of them (their index is opened), or an index.

    Raises:
        IndexFileError: the index is missing, stale, damaged or of another version.
        ConfigError: no shards match.
    """

    def __init__(self, shards: Shards | ShardIndex) -> None:
        self.shard_index = shards if isinstance(shards, ShardIndex) else open_index(shards)
        self._reset()

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
        return self.shard_index.name(sample_id)

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
        samples: list[Sample | None] = [None] * len(sample_ids)
        runs = self._runs(sample_ids)
        for run, data in zip(runs, self._fetch(runs), strict=True):
            for place in run.places:
                samples[place] = self._sample(int(sample_ids[place]), run, memoryview(data))
        return [sample for sample in samples if sample is not None]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Ask the system to read samples into its cache; returns at once, does nothing where that is not offered.

        Args:
            sample_ids: int64 [B], in [0, N).

        Raises:
            ConfigError: a wrong dtype or shape, or a number outside the index.
            ShardError: a shard is missing, or not what was indexed.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for run in self._runs(sample_ids):
            shard = self._open(run.shard)
            os.posix_fadvise(shard.descriptor, run.start, run.end - run.start, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close all shards; a later read opens them again."""
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        return {"shard_index": self.shard_index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.shard_index = state["shard_index"]
        self._reset()

    def _reset(self) -> None:
        self._shard_sizes = np.array(self.shard_index.shard_sizes, np.int64)
        self._shards: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def _runs(self, sample_ids: npt.NDArray[np.int64]) -> list[Run]:
        """Order samples by place in the shards and join neighbours."""
        total = len(self.shard_index)
        if sample_ids.dtype != np.int64 or sample_ids.ndim != 1:
            raise ConfigError(f"sample_ids must be int64 [B]; got {sample_ids.dtype} {list(sample_ids.shape)}")
        if len(sample_ids) and not 0 <= int(sample_ids.min()) <= int(sample_ids.max()) < total:
            raise ConfigError(
                f"sample_ids must be in [0, {total}); got {int(sample_ids.min())} to {int(sample_ids.max())}"
            )
        shard, offset = self.index.shard[sample_ids], self.index.offset[sample_ids]
        ends = offset + self.index.length[sample_ids]
        self._check_rows(sample_ids, shard, offset, ends)
        order = np.lexsort((offset, shard))
        runs: list[Run] = []
        columns = (order, shard[order], offset[order], ends[order])
        for place, number, start, end in zip(*(column.tolist() for column in columns), strict=True):
            last = runs[-1] if runs else None
            if last and last.shard == number and start - last.end <= _GAP and end - last.start <= _RUN:
                last.places.append(place)
                runs[-1] = last._replace(end=max(last.end, end))
            else:
                runs.append(Run(number, start, end, [place]))
        return runs

    def _check_rows(
        self,
        sample_ids: npt.NDArray[np.int64],
        shard: npt.NDArray[np.int32],
        start: npt.NDArray[np.int64],
        end: npt.NDArray[np.int64],
    ) -> None:
        """Refuse rows that a damaged index file points outside their shards."""
        sizes = self._shard_sizes
        known = (shard >= 0) & (shard < len(sizes))
        sound = known & (start >= 0) & (start < end) & (end <= sizes[np.where(known, shard, 0)])
        if not sound.all():
            raise self.shard_index.damaged(int(sample_ids[np.argmin(sound)]))

    def _sample(self, sample_id: int, run: Run, data: memoryview) -> Sample:
        index = self.shard_index
        start = int(index.index.offset[sample_id])
        end = start + int(index.index.length[sample_id])
        shard, key = index.name(sample_id)
        first = run.start

        def read(offset: int, count: int) -> memoryview:
            return data[offset - first : min(offset + count, end) - first]

        members: dict[str, memoryview] = {}
        for member in read_members(read, shard, start=start, end=end, archive=False):
            parts = split_name(member.name)
            if parts is None:
                continue
            if parts[0] != key:
                raise ShardError(
                    f"member {member.name!r} found where the index has sample {key!r}: the shard changed after it "
                    "was indexed. Index it again (resflow index).",
                    shard=shard,
                    offset=member.header,
                )
            members[parts[1]] = read(member.offset, member.size)
        image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        if image is None or len(image) != int(index.image_length[sample_id]):
            raise ShardError(
                f"sample {key!r} has another image than the index says: the shard changed after it was indexed. "
                "Index it again (resflow index).",
                shard=shard,
                offset=start,
            )
        return Sample(key, shard, image, members)

    def _fetch(self, runs: Sequence[Run]) -> Iterator[bytes]:
        """The bytes of each run, in order."""
        return (self._pread(run.shard, run.start, run.end) for run in runs)

    def _pread(self, number: int, start: int, end: int) -> bytes:
        shard = self._open(number)
        parts: list[bytes] = []
        position = start
        while position < end:
            try:
                part = os.pread(shard.descriptor, end - position, position)
            except OSError as error:
                raise ShardError(
                    f"cannot be read: {error.strerror}. Check the disk.",
                    shard=str(shard.path),
                    offset=position,
                ) from error
            if not part:
                size = os.fstat(shard.descriptor).st_size
                raise ShardError(
                    f"truncated: bytes {start} to {end} were wanted, the file ends at {size}. "
                    "Copy or write the shard again, then index it.",
                    shard=str(shard.path),
                    offset=min(position, size),
                )
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _open(self, number: int) -> _OpenShard:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            shard = self._shards.get(number)
            if shard is None:
                index = self.shard_index
                shard = _OpenShard(index.shards[number], index.shard_sizes[number])
                self._shards[number] = shard
                if len(self._shards) > _OPEN_SHARDS:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(number)
            return shard


class _OpenShard:
    """A file descriptor that closes when the last thread that reads from it lets go."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.descriptor = path, -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise ShardError(
                f"cannot be opened: {error.strerror}. Put the shard back, or index the rest.", shard=str(path)
            ) from error
        found = os.fstat(self.descriptor).st_size
        if found != size:
            raise ShardError(
                f"has {found} bytes, {size} when it was indexed: the shard changed. Index it again (resflow index).",
                shard=str(path),
                offset=min(found, size),
            )

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
