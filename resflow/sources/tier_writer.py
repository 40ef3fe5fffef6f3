"""Tiers made of indexed shards: in parallel over images, resumable after each shard."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from resflow.checks import whole
from resflow.errors import ConfigError, SampleError, ShardError
from resflow.sources.groups import split_name
from resflow.sources.index_file import ShardIndex, write_index
from resflow.sources.index_lookup import index_path, open_index
from resflow.sources.paths import Shards, shell_words
from resflow.sources.processes import ordered
from resflow.sources.tar import BLOCK, read_members
from resflow.sources.tier_images import QUALITY, shrink
from resflow.sources.tiers import ABSENT, Tiers, check_sides, tier_shard, tiers_path, write_tiers
from resflow.sources.writer import StagedFile

_VERSION = 1  # of what a tier's shard holds; a new one makes tiers anew
_TASK = 32  # images a process is given at once

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all, of the shards that had to be made."""


class Unreadable(NamedTuple):
    """An image that no tier can be made of; it is read as it is, and the loader says what is wrong.

    Args:
        shard: path of its shard.
        key: its sample's key.
        message: what is wrong.
    """

    shard: str
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class TierReport:
    """What `make_tiers` did.

    Args:
        path: the tiers' index.
        sides: the tiers' short sides in pixels.
        samples: of the originals.
        original_bytes: of the originals' images.
        entries: images of each tier.
        image_bytes: of each tier's images.
        made: shards of each tier that were made now; the others were there.
        unreadable: images that no tier could be made of, in the shards that were made now.
    """

    path: Path
    sides: tuple[int, ...]
    samples: int
    original_bytes: int
    entries: tuple[int, ...]
    image_bytes: tuple[int, ...]
    made: tuple[int, ...]
    unreadable: tuple[Unreadable, ...]


def make_tiers(
    shards: Shards,
    sides: Sequence[int],
    *,
    quality: int = QUALITY,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    index_file: Path | None = None,
) -> TierReport:
    """Store the images of indexed shards again at smaller sizes, in tars of their own beside the shards.

    Afterwards the index knows these tiers and no others. A shard of a tier appears under its name when it is complete;
    one that was made before of the same shard, at the same quality, is kept, so that a run that was killed goes on.

    Args:
        shards: pattern, path, folder, or a sequence of them, which are indexed.
        sides: short side of each tier's images in pixels; images that are not larger have no entry in it.
        quality: of the JPEGs, 1 to 100.
        workers: processes, at least 1; by default one a CPU.
        overwrite: make all anew.
        progress: called as images are done.
        index_file: the shards' index, where it does not lie beside them.

    Returns:
        What was done; the same files for any number of workers.

    Raises:
        ConfigError: no shards, wrong sides, quality or number of workers, or a folder that cannot be written.
        IndexFileError: the index is missing, stale or damaged.
        ShardError: a shard cannot be read.
        WorkerError: a worker process died.
    """
    sides = check_sides(sides)
    if (asked := whole(quality, 1, 100)) is None:
        raise ConfigError(f"quality must be a whole number from 1 to 100; got {quality!r}")
    quality = asked
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1; got {workers}")
    index = open_index(shards, index=index_file)
    if index.path is None:  # put together from several, beside none of which these tiers can be told of
        index = write_index(index, index_path(shards))
    parts = [_part(index, number, quality) for number in range(len(index.shards))]
    todo = [
        (part, [side for side in sides if overwrite or not _is_made(tier_shard(part.path, side), part, side)])
        for part in parts
    ]
    total = sum(len(part.offset) for part, missing in todo if missing)
    unreadable: list[Unreadable] = []
    if total:
        missed = [(part, missing) for part, missing in todo if missing]
        jobs = (job for part, missing in missed for job in _jobs(part, missing, quality))
        done = 0
        with closing(ordered(_work, jobs, workers or os.cpu_count() or 1, "makes tiers")) as results:
            for part, missing in missed:
                made = itertools.islice(results, -(-len(part.offset) // _TASK))
                for count, failed in _write_part(part, missing, made):
                    done += count
                    unreadable += failed
                    if progress is not None:
                        progress(done, total)
    tiers, sizes = _index_tiers(index, parts, sides)
    return TierReport(
        path=tiers_path(index.path or index_path(shards)),
        sides=sides,
        samples=len(index),
        original_bytes=int(index.image_length.sum()),
        entries=tuple(int((offset != ABSENT).sum()) for offset in tiers.offset),
        image_bytes=tuple(sizes),
        made=tuple(sum(side in missing for _, missing in todo) for side in sides),
        unreadable=tuple(unreadable),
    )


class _Part(NamedTuple):
    """One shard of the originals: its path, its samples' keys, and the place and size of their images."""

    path: Path
    first: int
    keys: Any
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    quality: int

    def identity(self, side: int) -> str:
        """What decides what a tier of this shard holds."""
        digest = hashlib.sha256()
        for column in (self.offset, self.length, self.size):
            digest.update(np.ascontiguousarray(column).data)
        digest.update("\0".join(self.keys.to_pylist()).encode())
        made = {"resflow tier": side, "version": _VERSION, "quality": self.quality, "of": digest.hexdigest()}
        return json.dumps(made)


def _part(index: ShardIndex, number: int, quality: int) -> _Part:
    first, last = np.searchsorted(index.index.shard, [number, number + 1]).tolist()
    rows = slice(first, last)
    return _Part(
        index.shards[number],
        first,
        index.keys[first:last],
        index.index.offset[rows] + index.image_offset[rows],
        index.image_length[rows],
        index.index.size[rows],
        quality,
    )


def _is_made(path: Path, part: _Part, side: int) -> bool:
    """Whether a tier's shard is there and says in its first header that it was made of this shard."""
    try:
        with path.open("rb") as file:
            start = file.read(8 * BLOCK)
    except OSError:
        return False
    return start[156:157] == b"g" and f"comment={part.identity(side)}\n".encode() in start


class _Job(NamedTuple):
    """Images of one shard for one process."""

    path: str
    offset: list[int]
    length: list[int]
    size: list[tuple[int, int]]
    sides: list[int]
    quality: int


_Made = list[list[bytes | None] | str]
"""For each image a JPEG for each side, or what is wrong with it."""


def _work(job: _Job) -> _Made:
    results: _Made = []
    try:
        descriptor = os.open(job.path, os.O_RDONLY)
    except OSError as error:
        raise ShardError(f"cannot be opened: {error.strerror}. Put the shard back.", shard=job.path) from error
    try:
        for offset, length, size in zip(job.offset, job.length, job.size, strict=True):
            if min(size) <= min(job.sides):
                results.append([None] * len(job.sides))
                continue
            data = os.pread(descriptor, length, offset)
            try:
                results.append(shrink(data, size, job.sides, job.quality))
            except SampleError as error:
                results.append(error.message)
    finally:
        os.close(descriptor)
    return results


def _jobs(part: _Part, sides: list[int], quality: int) -> Iterator[_Job]:
    for first in range(0, len(part.offset), _TASK):
        rows = slice(first, first + _TASK)
        size = [(height, width) for height, width in part.size[rows].tolist()]
        yield _Job(str(part.path), part.offset[rows].tolist(), part.length[rows].tolist(), size, sides, quality)


def _write_part(part: _Part, sides: list[int], results: Iterable[_Made]) -> Iterator[tuple[int, list[Unreadable]]]:
    """Write the tiers of one shard; yields after each task how many images it had, and which could not be read."""
    keys = part.keys.to_pylist()
    position = 0
    with ExitStack() as stack:
        files = [stack.enter_context(_TierFile(tier_shard(part.path, side), part.identity(side))) for side in sides]
        for made in results:
            failed = []
            for key, images in zip(keys[position : position + len(made)], made, strict=True):
                if isinstance(images, str):
                    failed.append(Unreadable(str(part.path), key, images))
                    continue
                for file, image in zip(files, images, strict=True):
                    if image is not None:
                        file.add(key, image)
            position += len(made)
            yield len(made), failed
        for file in files:
            file.publish()


class _TierFile:
    """A tier's shard, staged until it is complete."""

    def __init__(self, path: Path, identity: str) -> None:
        self._identity = identity
        for left in path.parent.glob(f".{path.name}.*.part"):  # of a run that was killed
            with suppress(OSError):
                left.unlink()
        self._file = StagedFile(
            path, f"tier {path}", "Make room, or make its folder writable; shards that are complete are kept."
        )
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> _TierFile:
        return self

    def add(self, key: str, image: bytes) -> None:
        """Append one image."""
        if self._tar is None:
            self._tar = self._open({"comment": self._identity})
        member = tarfile.TarInfo(f"{key}.jpg")
        member.size = len(image)
        self._tar.addfile(member, io.BytesIO(image))

    def publish(self) -> None:
        """Bring the shard under its name."""
        if self._tar is None:  # without a comment: some readers refuse an archive of nothing but a global header
            self._tar = self._open({})
        self._tar.close()
        self._file.publish()

    def _open(self, headers: dict[str, str]) -> tarfile.TarFile:
        return tarfile.open(None, "w", fileobj=cast(Any, self._file), format=tarfile.PAX_FORMAT, pax_headers=headers)

    def __exit__(self, *_: object) -> None:
        self._file.discard()


def _index_tiers(index: ShardIndex, parts: Sequence[_Part], sides: tuple[int, ...]) -> tuple[Tiers, list[int]]:
    """Write the tiers' index from what their shards hold; also gives the bytes of each tier's images."""
    offsets, lengths, totals = [], [], []
    for side in sides:
        offset = np.full(len(index), ABSENT, np.int64)
        length = np.zeros(len(index), np.int32)
        total = 0
        for part in parts:
            found = _scan(tier_shard(part.path, side))
            rows = pc.index_in(pa.array(found.keys, pa.large_string()), part.keys).to_numpy(zero_copy_only=False)
            if rows.dtype.kind == "f" or (np.diff(rows) <= 0).any():
                raise ShardError(
                    f"the keys of tier {side} are not those of {part.path}, in its order. Make it again: "
                    f"resflow tiers {shell_words(index.shards)} --tiers {','.join(map(str, sides))} --overwrite",
                    shard=str(tier_shard(part.path, side)),
                )
            offset[part.first + rows] = found.offset
            length[part.first + rows] = found.length
            total += found.image_bytes
        offsets.append(offset)
        lengths.append(length)
        totals.append(total)
    return write_tiers(index, sides, offsets, lengths), totals


class _Scan(NamedTuple):
    keys: list[str]
    offset: list[int]
    length: list[int]
    image_bytes: int


def _scan(path: Path) -> _Scan:
    """Keys and extents of the entries of a tier's shard."""
    size = path.stat().st_size
    keys, offset, length, total = [], [], [], 0
    with path.open("rb") as file:
        descriptor = file.fileno()
        for member in read_members(lambda at, count: os.pread(descriptor, count, at), str(path), end=size):
            name = split_name(member.name)
            keys.append(name[0] if name else member.name)
            offset.append(member.header)
            length.append(member.offset + member.size - member.header)
            total += member.size
    return _Scan(keys, offset, length, total)
