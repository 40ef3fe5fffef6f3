"""One pass over the headers of shards: where their samples lie and how large their images are."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from resflow.errors import ConfigError, HeaderError, SampleError, ShardError
from resflow.images import find_header
from resflow.sources.groups import Remarks, group_members, remark_lines, without_image
from resflow.sources.index_file import SCHEMA, ShardIndex, from_columns
from resflow.sources.paths import Shards, shard_paths, shard_sizes
from resflow.sources.processes import ordered
from resflow.sources.tar import MAX_MEMBER_BYTES, Read, check_limit, read_members

_WINDOW = 16 * 1024  # bytes a read: a tar header, most image headers, and the small members in between
_BLOCKS = 16  # of a shard that its digest is of
_BLOCK = 4 * 1024  # bytes of each
_SMALL = 4 << 30  # bytes of shards below which starting worker processes costs more than it saves


@dataclass(frozen=True, slots=True, eq=False)
class ShardScan:
    """The samples of one shard.

    Args:
        keys: [N].
        offset: int64 [N], first byte of each sample's extent in the shard.
        length: int64 [N], bytes of the extent.
        size: int32 [N, 2], height and width after EXIF orientation.
        image_offset: int64 [N], first byte of the image, from the start of the extent.
        image_length: int64 [N], bytes of the image.
        shard_size: bytes of the shard.
        digest: of the shard, see `digest_of`.
        left_out: why samples without a readable image are not among them, an error each.
        remarks: what was noticed about the members.
    """

    keys: list[str]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    image_offset: npt.NDArray[np.int64]
    image_length: npt.NDArray[np.int64]
    shard_size: int
    digest: str
    left_out: list[SampleError]
    remarks: Remarks


Progress = Callable[[int, int], None]
"""Called with the bytes of shards done and the bytes in all."""
Scans = Callable[[Callable[[Path], ShardScan], list[Path]], Iterator[ShardScan]]
"""Applies a function to paths; results in their order."""


def build_index(
    shards: Shards,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
    scans: Scans | None = None,
    left_out: Callable[[SampleError], None] | None = None,
) -> ShardIndex:
    """Scan the headers of all shards.

    Args:
        shards: pattern, path, folder, or a sequence of them.
        workers: processes, at least 1; by default 1 for less than 4 GiB of shards, else at most 4.
        progress: called after each shard with bytes done and bytes in all.
        max_member_bytes: of the largest member that is taken; readers have the same limit.
        scans: applies a function to each path, elsewhere than in this process and its workers.
        left_out: called for each sample without an image whose size can be read, which is then left out; None: the
            first such sample is an error.

    Returns:
        The index, the same for any number of workers.

    Raises:
        ConfigError: no shards, or a wrong number of workers.
        ShardError: a shard is missing, damaged, cut short or empty, repeats a key, or has a member that is too large.
        HeaderError: a sample has no image, or one whose size cannot be read.
        WorkerError: a worker process died.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1; got {workers}")
    limit = check_limit(max_member_bytes)
    scan = functools.partial(scan_shard, max_member_bytes=limit, leave_out=left_out is not None)
    paths = shard_paths(shards)
    sizes = shard_sizes(paths)
    if workers is None:
        workers = 1 if sum(sizes) < _SMALL else min(4, os.cpu_count() or 1)
    workers = min(workers, len(paths))
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    digests: list[str] = []
    noticed: dict[int, Mapping[str, Any]] = {}
    done = 0
    with (
        closing(ordered(scan, paths, workers, "scans shards"))
        if scans is None
        else nullcontext(scans(scan, paths)) as results
    ):
        for number, found in enumerate(results):
            if found.shard_size != sizes[number]:
                raise ShardError("changed size while it was scanned. Index it again.", shard=str(paths[number]))
            digests.append(found.digest)
            noticed |= {number: told} if (told := found.remarks.plain()) else {}
            columns["shard"].append(np.full(len(found.keys), number, np.int32))
            for name in ("offset", "length", "size", "image_offset", "image_length"):
                columns[name].append(getattr(found, name))
            columns["key"].append(pa.array(found.keys, pa.large_string()))
            if left_out is not None:
                for error in found.left_out:
                    left_out(error)
            done += sizes[number]
            if progress is not None:
                progress(done, sum(sizes))
    keys = pa.concat_arrays(columns.pop("key"))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    return from_columns(arrays, keys, paths, sizes, digests=tuple(digests), noticed=noticed)


def scan_shard(path: Path, max_member_bytes: int = MAX_MEMBER_BYTES, leave_out: bool = False) -> ShardScan:
    """Read the headers of one shard's members and images; no image is decoded.

    Args:
        path: a local, uncompressed tar.
        max_member_bytes: of the largest member that is taken.
        leave_out: leave out samples without an image whose size can be read, instead of raising.

    Returns:
        Its samples, in order.

    Raises:
        ShardError: the shard is missing, unreadable, damaged, cut short, holds no samples, repeats a key, or has a
            member that is too large.
        HeaderError: a sample has no image, or one whose size cannot be read.
    """
    shard = str(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise ShardError(f"cannot be opened: {error.strerror}. Check the path.", shard=shard) from error
    try:
        return _scan(descriptor, shard, max_member_bytes, leave_out)
    except OSError as error:
        raise ShardError(f"cannot be read: {error.strerror}. Check the disk.", shard=shard) from error
    finally:
        os.close(descriptor)


def digest_of(path: Path) -> str:
    """By which a shard is known again under another name: a hash of its size and of 4 KiB at 16 places.

    Raises:
        ShardError: the shard cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            return _digest(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ShardError(f"cannot be read: {error.strerror}. Check the disk.", shard=str(path)) from error


def _digest(descriptor: int, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    for block in range(_BLOCKS):
        digest.update(os.pread(descriptor, _BLOCK, max(size - _BLOCK, 0) * block // (_BLOCKS - 1)))
    return digest.hexdigest()[:32]


def _scan(descriptor: int, shard: str, max_member_bytes: int, leave_out: bool) -> ShardScan:
    shard_size = os.fstat(descriptor).st_size
    read = _windowed(descriptor)
    keys: list[str] = []
    rows: list[tuple[int, ...]] = []
    left_out: list[SampleError] = []
    remarks = Remarks()
    members = read_members(read, shard, end=shard_size, max_member_bytes=max_member_bytes)
    for group in group_members(members, shard, remarks):
        image, (start, end) = group.image, group.extent
        if image is None:  # an error further on may tell that its image lies there
            left_out.append(without_image(group, shard))
            continue
        try:
            header = find_header(functools.partial(read, image.offset), image.size)
        except HeaderError as error:
            located = error.located(key=group.key, shard=shard)
            if not leave_out:
                raise located from error
            left_out.append(located)
            continue
        keys.append(group.key)
        rows.append((start, end - start, header.height, header.width, image.offset - start, image.size))
    if left_out and not leave_out:
        raise left_out[0]
    if not rows:
        some = f"no sample with a readable image, and {len(left_out)} without" if left_out else "no samples"
        if not left_out:
            some += "".join(f" ({line})" for line in remark_lines(remarks.found()))
        raise ShardError(f"the shard holds {some}. Leave it out, or write it again.", shard=shard)
    table = np.array(rows, dtype=np.int64)
    return ShardScan(
        keys=keys,
        offset=table[:, 0].copy(),
        length=table[:, 1].copy(),
        size=table[:, 2:4].astype(np.int32),
        image_offset=table[:, 4].copy(),
        image_length=table[:, 5].copy(),
        shard_size=shard_size,
        digest=_digest(descriptor, shard_size),
        left_out=left_out,
        remarks=remarks,
    )


def _windowed(descriptor: int) -> Read:
    """Reads by offset, through one window, so that neighbouring small reads cost one system call."""
    window, first = memoryview(b""), 0

    def read(offset: int, count: int) -> memoryview:
        nonlocal window, first
        if not first <= offset <= offset + count <= first + len(window):
            window, first = memoryview(os.pread(descriptor, max(count, _WINDOW), offset)), offset
        return window[offset - first : offset - first + count]

    return read
