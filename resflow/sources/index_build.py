"""One pass over a shard's headers: where its samples lie and how large their images are."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resflow.errors import HeaderError, SampleError, ShardError
from resflow.images import find_header
from resflow.sources.groups import Remarks, group_members, remark_lines, without_image
from resflow.sources.tar import MAX_MEMBER_BYTES, Read, read_members

_WINDOW = 16 * 1024  # bytes a read: a tar header, most image headers, and the small members in between
_BLOCKS = 16  # of a shard that its digest is of
_BLOCK = 4 * 1024  # bytes of each


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
