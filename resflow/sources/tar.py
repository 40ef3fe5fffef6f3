"""A strict reader of tar archives (POSIX ustar and pax, GNU long names, v7).

Python's `tarfile` ends an archive silently at a damaged header, at a lone zero block and where the file is cut short.
This reader checks every header's checksum, wants the end-of-archive and nothing but zeros after it, and says shard
and byte offset otherwise. Only headers are read; nothing is ever written to disk by a member's name.

Directories are skipped. Links, devices, sparse files and multi-volume parts are refused: they stand for data that is
not in the archive where a reader of samples would look for it. So are members larger than a limit: a reader would
allocate what a header claims.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from resflow.checks import whole
from resflow.errors import ConfigError, ShardError

BLOCK = 512
MAX_MEMBER_BYTES = 1 << 30
"""Bytes of the largest member that is read, unless the reader is told another limit."""

Read: TypeAlias = Callable[[int, int], bytes | memoryview]
"""(offset, count) -> the bytes there, fewer only where the archive ends."""

_HEADER = struct.Struct("100s24x12s12x8sc100x8s80x155s12x")  # name, size, checksum, type, magic, prefix
_ZEROS = bytes(BLOCK)
_MAX_EXTENSION = 1 << 20  # bytes of one long name or pax header
_MAX_DIGITS = 20  # of a number in a pax record: a signed one of 64 bits has 19
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"M": "a part of a multi-volume archive",
}


class Member(NamedTuple):
    """One regular file in a tar archive; offsets count bytes from the archive's start.

    Args:
        name: full name, including folders.
        offset: first byte of its data.
        size: bytes of data.
        header: first byte of its first header (a pax or long-name header, where it has one).
    """

    name: str
    offset: int
    size: int
    header: int


def read_members(
    read: Read,
    shard: str,
    *,
    end: int | None,
    start: int = 0,
    archive: bool = True,
    max_member_bytes: int = MAX_MEMBER_BYTES,
) -> Iterator[Member]:
    """List the regular files of a tar archive, or of a stretch of whole members within one.

    Args:
        read: gives bytes by offset and count.
        shard: name for error messages.
        end: bytes in the archive, or the end of the stretch; None where an archive arrives as a stream, whose reader
            then finds out for itself when a member's data are cut short.
        start: offset of the first header.
        archive: whether an end-of-archive must close the list; False for a stretch.
        max_member_bytes: of the largest member that is taken.

    Yields:
        Members in the order of the archive.

    Raises:
        ShardError: a damaged header, data or end cut short, bytes after the end, a member that is too large, or
            of a kind that is refused.
    """
    position, header, pax_size = start, -1, None
    long_name: str | None = None
    limit = sys.maxsize if end is None else end
    while archive or position < limit:
        block = bytes(read(position, BLOCK)) if position < limit else b""
        if len(block) < BLOCK:
            raise ShardError(
                f"truncated: a 512-byte block was expected, {len(block)} bytes are left, and no end-of-archive (two "
                "blocks of zeros) was met. Copy or write the shard again.",
                shard=shard,
                offset=position,
            )
        plain = _plain(block) if header < 0 else None
        if plain is not None and plain[1] <= max_member_bytes and position + BLOCK + plain[1] <= limit:
            yield Member(plain[0], position + BLOCK, plain[1], position)
            position += BLOCK + (plain[1] + BLOCK - 1) // BLOCK * BLOCK
            continue
        if block == _ZEROS:
            if header >= 0 or not archive:
                raise _damaged(shard, position, "zeros where a member's header was expected")
            _check_end(read, shard, position, end)
            return
        name, size_field, checksum, kind, magic, prefix = _HEADER.unpack(block)
        if not _checksum_matches(block, checksum):
            raise _damaged(shard, position, _checksum_hint(block, position))
        size = _number(size_field, shard, position)
        data = position + BLOCK
        if kind in b"0\x007" and pax_size is not None:
            size = pax_size
        if data + size > limit:
            raise ShardError(
                f"truncated: member {_text(name, shard, position)!r} needs bytes up to {data + size}; the "
                f"{'shard' if archive else 'sample'} ends at {end}. Copy or write the shard again.",
                shard=shard,
                offset=position,
            )
        if header < 0 and kind != b"g":
            header = position
        following = data + (size + BLOCK - 1) // BLOCK * BLOCK
        if kind in b"xXgLK":
            if size > _MAX_EXTENSION:
                raise _damaged(shard, position, f"a header extension of {size} bytes; at most {_MAX_EXTENSION}")
            extension = bytes(read(data, size))
            if kind == b"L":
                long_name = _text(extension, shard, position)
            elif kind != b"K":
                path, pax_value = _pax(extension, shard, position, everywhere=kind == b"g")
                long_name = path if path is not None else long_name
                pax_size = pax_value if pax_value is not None else pax_size
            position = following
            continue
        if long_name is not None:
            full = long_name
        else:
            full = _text(name, shard, position)
            if magic == b"ustar\x0000" and prefix[0]:
                full = f"{_text(prefix, shard, position)}/{full}"
        if kind in b"0\x007" and not full.endswith("/"):
            if size > max_member_bytes:
                raise too_large(f"member {full!r}", size, max_member_bytes, shard, position)
            yield Member(full, data, size, header)
        elif kind not in b"05\x00":
            what = _REFUSED.get(kind, f"a member of type {kind!r}")
            raise ShardError(
                f"{full!r} is {what}; only regular files and folders are read. Write the shard again with the "
                "files themselves (tar --dereference --hard-dereference, without --sparse).",
                shard=shard,
                offset=position,
            )
        position, header, pax_size, long_name = following, -1, None, None
    if header >= 0:
        raise _damaged(shard, position, "a header extension without a member")


def check_limit(max_member_bytes: int) -> int:
    """The limit itself; ConfigError unless it is a whole number above 0."""
    if (limit := whole(max_member_bytes, 1)) is None:
        raise ConfigError(f"max_member_bytes must be a whole number of bytes above 0; got {max_member_bytes!r}")
    return limit


def too_large(what: str, size: int, limit: int, shard: str, offset: int) -> ShardError:
    """The error for what is not read, since it has more bytes than the limit."""
    return ShardError(
        f"{what} has {size} bytes; at most max_member_bytes={limit} are read. Leave it out, or raise the limit where "
        f"the shards are opened: ShardSource or ShardStream(..., max_member_bytes={size}), resflow index "
        f"--max-member-bytes {size}.",
        shard=shard,
        offset=offset,
    )


def _plain(block: bytes) -> tuple[str, int] | None:
    """Name and size of a regular file whose header is of the kind that most are; None where there is more to see."""
    size, checksum = block[124:135], block[148:154]
    ended = block[135] in b"\0 " and block[154] in b"\0 "
    if block[156] not in b"0\0" or block[345] or not ended or not (size + checksum).isdigit():
        return None
    try:
        if sum(block) - sum(block[148:156]) + 8 * 0x20 != int(checksum, 8):
            return None
        name = block[:100].partition(b"\0")[0].decode()
        return None if name.endswith("/") else (name, int(size, 8))
    except ValueError:  # an 8 or a 9, or a name that is not UTF-8
        return None


def _checksum_matches(block: bytes, field: bytes) -> bool:
    """Whether the sum of the header's bytes, its own checksum field taken as spaces, is what the field says."""
    expected = _octal(field)
    if expected is None:
        return False
    total = sum(block) - sum(field) + 8 * 0x20
    if total == expected:
        return True
    signed = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in field)
    return total - 256 * signed == expected  # some old writers summed signed bytes


def _checksum_hint(block: bytes, position: int) -> str:
    if position == 0 and block[:2] == b"\x1f\x8b":
        return "the file is compressed with gzip, and compressed shards cannot be read by offset; run gunzip on it"
    return "the header's checksum does not match" + (", so this is not a tar archive" if position == 0 else "")


def _number(field: bytes, shard: str, position: int) -> int:
    """An octal or base-256 number."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    number = _octal(field)
    if number is None:
        raise _damaged(shard, position, f"size field {field!r} is not a number")
    return number


def _octal(field: bytes) -> int | None:
    """An octal number, up to its first NUL; None where it is none."""
    digits = field.split(b"\0", 1)[0].strip(b" ")
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:  # an 8 or a 9
        return None


def _text(field: bytes, shard: str, position: int) -> str:
    """A name, up to its first NUL."""
    try:
        return field.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise ShardError(
            f"member name {field.rstrip(bytes(1))!r} is not UTF-8. Write the shard again with UTF-8 names.",
            shard=shard,
            offset=position,
        ) from error


def _pax(body: bytes, shard: str, position: int, *, everywhere: bool) -> tuple[str | None, int | None]:
    """Path and size from a pax header's records, `length key=value` and a newline each."""
    path: str | None = None
    size: int | None = None
    start, end = 0, len(body.rstrip(b"\0"))
    while start < end:
        space = body.find(b" ", start, start + _MAX_DIGITS)
        digits = body[start : max(space, start)]
        stop = start + (int(digits) if digits.isdigit() else 0)
        key, equals, value = body[space + 1 : stop - 1].partition(b"=")
        if not equals or not start < space < stop <= end or body[stop - 1] != 0x0A:
            raise _damaged(shard, position, "a pax record is malformed")
        if key.startswith(b"GNU.sparse."):
            raise _damaged(shard, position, "a sparse file, which is not read; write the shard without --sparse")
        if key in (b"path", b"size") and everywhere:
            raise _damaged(shard, position, f"a global pax header sets {key.decode()} for all members")
        if key == b"path" and value:
            path = _text(value, shard, position).rstrip("/")
        elif key == b"size" and value:
            if not value.isdigit() or len(value) >= _MAX_DIGITS:
                raise _damaged(shard, position, f"pax size {value[:40]!r} is not a number")
            size = int(value)
        start = stop
    return path, size


def _check_end(read: Read, shard: str, first: int, end: int | None) -> None:
    """Want a second block of zeros after the one at `first`, and nothing but zeros after it."""
    if len(read(first, 2 * BLOCK)) < 2 * BLOCK:
        raise ShardError(
            "truncated: one block of zeros, then the file ends; the end-of-archive is two. "
            "Copy or write the shard again.",
            shard=shard,
            offset=first,
        )
    for position in itertools.count(first, 1 << 20) if end is None else range(first, end, 1 << 20):
        chunk = bytes(read(position, 1 << 20 if end is None else min(1 << 20, end - position)))
        if not chunk:
            return
        if chunk.strip(b"\0"):
            at = position + len(chunk) - len(chunk.lstrip(b"\0"))
            raise ShardError(
                f"bytes follow the end-of-archive at {first}: a damaged header, or archives joined by cat. "
                "Write the shard again (archives are joined by tar --concatenate).",
                shard=shard,
                offset=at // BLOCK * BLOCK,
            )


def _damaged(shard: str, position: int, what: str) -> ShardError:
    return ShardError(f"damaged header: {what}. Copy or write the shard again.", shard=shard, offset=position)
