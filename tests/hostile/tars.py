"""Hostile tar archives, built header by header."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from tests.decode import samples

END = bytes(1024)
JPEG = samples.jpeg(40, 50)


class Case(NamedTuple):
    """A hostile archive.

    Args:
        data: its bytes.
        keys: of the samples that it gives, or None where it is refused.
        words: of the refusal.
    """

    data: bytes
    keys: list[str] | None
    words: str = ""


def member(
    name: bytes,
    body: bytes = JPEG,
    *,
    kind: bytes = b"0",
    size: int | None = None,
    size_field: bytes | None = None,
    link: bytes = b"",
    checksum: int = 0,
) -> bytes:
    """One member with any header; `size` is what it claims, `checksum` what is added to the true one."""
    claimed = size_field or b"%011o\0" % (len(body) if size is None else size)
    header = bytearray(512)
    header[:100] = name.ljust(100, b"\0")
    header[100:124] = b"".join(field.rjust(7, b"0") + b"\0" for field in (b"644", b"", b""))
    header[124:136] = claimed
    header[136:148] = b"00000000000\0"
    header[148:156] = b" " * 8
    header[156:157] = kind
    header[157:257] = link.ljust(100, b"\0")
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % (sum(header) + checksum)
    return bytes(header) + body + bytes(-len(body) % 512)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    return member(b"pax", b"".join(records), kind=kind)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while length != len(str(length)) + len(key) + len(value) + 3:
        length = len(str(length)) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def base256(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big")


def sample(key: bytes) -> bytes:
    return member(key + b".jpg") + member(key + b".cls", b"1")


def cases() -> dict[str, Case]:
    """All hostile archives by name."""
    return dict(_cases())


def _cases() -> Iterator[tuple[str, Case]]:
    good = sample(b"a") + sample(b"b") + END
    yield "sound", Case(good, ["a", "b"])
    for name, data in {
        "one byte": good[:1],
        "half a header": good[:300],
        "within data": good[:700],
        "between members": sample(b"a"),
        "one block of zeros": sample(b"a") + bytes(512),
    }.items():
        yield f"cut: {name}", Case(data, None, "truncated")
    yield "nothing", Case(b"", None, "truncated")
    yield "zeros", Case(bytes(10240), None, "no samples")
    yield "zeros in the middle", Case(sample(b"a") + END + sample(b"b") + END, None, "follow the end-of-archive")
    yield "text", Case(b"not a tar" * 100, None, "not a tar archive")
    yield "checksum", Case(member(b"a.jpg", checksum=1) + END, None, "checksum does not match")
    yield "a later checksum", Case(sample(b"a") + member(b"b.jpg", checksum=1) + END, None, "checksum does not match")
    yield "gzip", Case(gzip.compress(good), None, "compressed with gzip")
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    yield "gzip bomb", Case(packed.getvalue(), None, "compressed with gzip")

    # Names are keys and nothing else.
    for name in (b"../../../tmp/resflow-owned", b"/tmp/resflow-owned", b"./x/../../y", b"a;touch b", b"$(id)", b"-rf"):
        yield f"name {name.decode()}", Case(sample(name) + END, [name.decode()])
    yield "name of 100 bytes", Case(sample(b"n" * 96) + END, ["n" * 96])
    yield "name that is not utf-8", Case(member(b"\xff\xfe.jpg") + END, None, "not UTF-8")
    yield "name of control characters", Case(sample(b"\x1b[2J\r\n") + END, ["\x1b[2J\r\n"])
    yield "same member twice", Case(member(b"a.jpg") + member(b"a.jpg") + END, None, "two members")
    yield (
        "same key apart",
        Case(sample(b"a") + sample(b"b") + member(b"a.txt", b"x") + END, None, "members of sample 'a' lie"),
    )
    yield "sample without image", Case(sample(b"a") + member(b"b.cls", b"1") + END, None, "no image")

    for kind, word in (
        (b"1", "hard link"),
        (b"2", "symbolic link"),
        (b"3", "device"),
        (b"4", "device"),
        (b"6", "FIFO"),
    ):
        yield f"type {kind.decode()}", Case(member(b"a.jpg", b"", kind=kind, link=b"/etc/passwd") + END, None, word)
    yield "sparse", Case(member(b"a.jpg", kind=b"S") + END, None, "sparse")
    yield "multi-volume", Case(member(b"a.jpg", kind=b"M") + END, None, "multi-volume")
    yield "unknown type", Case(member(b"a.jpg", kind=b"Z") + END, None, "type")
    yield "sparse by pax", Case(pax(record(b"GNU.sparse.major", b"1")) + member(b"a.jpg") + END, None, "sparse")

    # Sizes.
    yield "size beyond the end", Case(member(b"a.jpg", size=1 << 32) + END, None, "truncated|max_member_bytes")
    yield "size of 2^90", Case(member(b"a.jpg", size_field=base256(1 << 87)) + END, None, "truncated")
    yield "negative size", Case(member(b"a.jpg", size_field=b"\xff" * 12) + END, None, "not a number")
    yield "size of letters", Case(member(b"a.jpg", size_field=b"12345abcde8\0") + END, None, "not a number")
    yield "larger than the limit", Case(member(b"a.jpg", bytes(3 << 20)) + END, None, "max_member_bytes=1048576")
    big = member(b"a.bin", bytes(600 << 10)) + member(b"a.jpg") + member(b"a.raw", bytes(600 << 10))
    yield "sample larger than the limit", Case(big + END, None, "max_member_bytes=1048576")
    for name, value in {"2^62": b"%d" % (1 << 62), "10^5000": b"9" * 5000, "-1": b"-1", "hex": b"0x10"}.items():
        words = "truncated|max_member_bytes" if name == "2^62" else "not a number"
        yield f"pax size {name}", Case(pax(record(b"size", value)) + member(b"a.jpg") + END, None, words)
    yield "pax path", Case(pax(record(b"path", b"deep/" * 50 + b"x.jpg")) + member(b"y") + END, ["deep/" * 50 + "x"])
    yield "pax path that is not utf-8", Case(pax(record(b"path", b"\xff.jpg")) + member(b"y") + END, None, "not UTF-8")
    yield "pax path for all", Case(pax(record(b"path", b"x.jpg"), kind=b"g") + sample(b"a") + END, None, "global pax")
    for name, body in {
        "of length 0": b"0 a=b\n",
        "of a leading space": b" a=b\n",
        "of 5000 digits": b"9" * 5000 + b" a=b\n",
        "without equals": b"6 abc\n",
        "without newline": b"6 a=bc",
        "longer than it is": b"99 a=b\n",
        "of length 1": b"1 a=b\n",
    }.items():
        yield f"pax record {name}", Case(pax(body) + member(b"a.jpg") + END, None, "malformed")
    yield "100000 pax records", Case(pax(b"5 a=\n" * 100_000) + sample(b"a") + END, ["a"])
    yield "pax of 2 MiB", Case(pax(bytes(2 << 20)) + sample(b"a") + END, None, "a header extension of 2097152 bytes")
    yield (
        "pax of 2^40",
        Case(
            member(b"pax", b"", kind=b"x", size_field=base256(1 << 40)) + sample(b"a") + END,
            None,
            "truncated|extension",
        ),
    )
    yield "pax without member", Case(sample(b"a") + pax(record(b"comment", b"x")) + END, None, "zeros where")
    yield (
        "1000 long names for one member",
        Case(
            member(b"L", b"first.jpg\0", kind=b"L") * 1000
            + member(b"L", b"last.jpg\0", kind=b"L")
            + member(b"y")
            + END,
            ["last"],
        ),
    )
    yield "long link name", Case(member(b"K", b"/etc/passwd\0", kind=b"K") + sample(b"a") + END, ["a"])
    for form, kind in ((tarfile.GNU_FORMAT, "gnu"), (tarfile.PAX_FORMAT, "pax"), (tarfile.USTAR_FORMAT, "ustar")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            name = "/".join(["d" * 40] * 4) + "/long.jpg"
            info = tarfile.TarInfo(name)
            info.size = len(JPEG)
            archive.addfile(info, io.BytesIO(JPEG))
        yield f"long name of {kind}", Case(buffer.getvalue(), [name.removesuffix(".jpg")])
    yield "10000 folders", Case(member(b"d/", b"", kind=b"5") * 10_000 + sample(b"a") + END, ["a"])
    old = bytearray(member(b"a.jpg"))
    old[257:265] = bytes(8)
    old[148:156] = b" " * 8
    struct.pack_into("8s", old, 148, b"%06o\0 " % sum(old[:512]))
    yield "without magic", Case(bytes(old) + END, ["a"])
