"""The strict tar reader against Python's tarfile, and where tarfile is silent."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from resflow.errors import ShardError
from resflow.sources import tar
from resflow.sources.tar import Member, read_members

MakeTar = Callable[..., Path]

NAMES = [
    "a.jpg",
    "folder/b.cls",
    "folder/" + "n" * 90 + ".jpg",  # ustar prefix
    "folder/deeper/größe.json",
    "x" * 99 + "y",  # fills the name field, no NUL
]
LONG = ["p/" * 70 + "z" * 150 + ".jpg"]
CONTENTS = [b"", b"1", b"2" * 511, b"3" * 512, b"4" * 513, b"5" * 20_000]


def members_of(data: bytes, shard: str = "s.tar", **options: int) -> list[Member]:
    view = memoryview(data)
    return list(read_members(lambda offset, count: view[offset : offset + count], shard, end=len(data), **options))


def tarfile_members(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(m.name, archive.extractfile(m).read()) for m in archive if m.isreg()]  # type: ignore[union-attr]


def ours(data: bytes) -> list[tuple[str, bytes]]:
    return [(m.name, data[m.offset : m.offset + m.size]) for m in members_of(data)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_data_agree_with_tarfile(make_tar: MakeTar, form: int) -> None:
    names = NAMES if form == tarfile.USTAR_FORMAT else NAMES + LONG
    wanted = [
        (f"{i}{name}" if len(name) != 100 else name[1:] + str(i), content)
        for i, content in enumerate(CONTENTS)
        for name in names
    ]
    data = make_tar("s.tar", wanted, form).read_bytes()
    assert ours(data) == tarfile_members(data) == wanted


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_headers_say_what_a_closer_look_at_them_says(
    make_tar: MakeTar, monkeypatch: pytest.MonkeyPatch, form: int
) -> None:
    """Law: the way that most headers are read gives what the way of all headers gives, damaged bytes and all."""
    names = NAMES if form == tarfile.USTAR_FORMAT else NAMES + LONG
    data = make_tar("s.tar", [(name, b"7" * 700) for name in names], form).read_bytes()

    def found(data: bytes) -> object:
        try:
            return members_of(data)
        except ShardError as error:
            return str(error)

    def all_found() -> list[object]:
        damaged = [data[:byte] + bytes([data[byte] ^ 0x10]) + data[byte + 1 :] for byte in range(0, 2048, 3)]
        return [found(data), *(found(one) for one in damaged)]

    quick = all_found()
    plain = tar._plain
    monkeypatch.setattr(tar, "_plain", lambda block: None)
    assert all_found() == quick

    def careless(block: bytes) -> tuple[str, int] | None:
        """The fault that this would be: a header whose checksum nobody looks at."""
        return plain(seal(bytearray(block)))

    monkeypatch.setattr(tar, "_plain", careless)
    assert all_found() != quick


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command here")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_archives_of_the_tar_command(tmp_path: Path, form: str) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for i, content in enumerate(CONTENTS):
        (tmp_path / "in" / "sub" / f"{i}.jpg").write_bytes(content)
    subprocess.run(["tar", f"--format={form}", "-cf", "s.tar", "in"], cwd=tmp_path, check=True)
    data = (tmp_path / "s.tar").read_bytes()
    assert ours(data) == tarfile_members(data)
    assert len(ours(data)) == len(CONTENTS)


def test_extents_hold_whole_members(make_tar: MakeTar) -> None:
    names = NAMES + LONG
    data = make_tar("s.tar", [(name, b"abc" * 300) for name in names], tarfile.PAX_FORMAT).read_bytes()
    for member in members_of(data):
        end = member.offset + member.size
        view = memoryview(data)[member.header : end]
        read = lambda offset, count, view=view, first=member.header: view[offset - first : offset - first + count]  # noqa: E731
        assert list(read_members(read, "s", start=member.header, end=end, archive=False)) == [member]


def test_sizes_in_base_256() -> None:
    block = bytearray(tarfile.TarInfo("big.jpg").tobuf())
    block[124:136] = b"\x80" + (600).to_bytes(11, "big")
    data = seal(block) + bytes(1024) + bytes(1024)
    assert members_of(data) == [Member("big.jpg", 512, 600, 0)]


def seal(block: bytearray) -> bytes:
    """The header with its checksum set right."""
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def test_every_flipped_header_byte_is_told_with_shard_and_offset(make_tar: MakeTar) -> None:
    data = make_tar("s.tar", [(f"{i}.jpg", b"7" * 700) for i in range(5)]).read_bytes()
    second = members_of(data)[1].header
    silent = 0
    for byte in range(512):
        damaged = bytearray(data)
        damaged[second + byte] ^= 0x10
        if byte == 155 or (148 <= byte < 154 and damaged[second + byte] == 0x20):
            continue  # the checksum's own padding: it still says the same number
        with pytest.raises(ShardError, match=f"s.tar at byte {second}: ") as caught:
            members_of(bytes(damaged))
        assert caught.value.offset == second
        with contextlib.suppress(tarfile.TarError):
            silent += len(tarfile_members(bytes(damaged))) < 5
    assert silent > 400, "tarfile no longer ends silently at a damaged header"


def test_tarfile_and_webdataset_stop_silently_where_ours_raises(make_tar: MakeTar) -> None:
    import webdataset

    path = make_tar("s.tar", [(f"{i}.jpg", b"7" * 700) for i in range(5)])
    data = bytearray(path.read_bytes())
    third = members_of(bytes(data))[2].header
    data[third + 3] ^= 1
    path.write_bytes(data)
    assert len(tarfile_members(bytes(data))) == 2
    with path.open("rb") as stream:
        files = list(webdataset.tariterators.tar_file_iterator(stream))
    assert len(files) == 2
    with pytest.raises(ShardError, match=f"s.tar at byte {third}: damaged header: .*checksum does not match"):
        members_of(bytes(data))


def test_every_cut_is_told(make_tar: MakeTar) -> None:
    data = make_tar("s.tar", [(f"{i}.jpg", b"7" * 700) for i in range(2)], tarfile.PAX_FORMAT).read_bytes()
    last = members_of(data)[-1]
    whole = (last.offset + last.size + 511) // 512 * 512 + 1024
    for count in [*range(0, whole, 100), whole - 1024, whole - 512, whole - 1]:
        with pytest.raises(ShardError, match=r"s.tar at byte \d+: truncated: .*Copy or write the shard again"):
            members_of(data[:count])
    assert len(members_of(data[:whole])) == 2


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (b"1", "a hard link"),
        (b"2", "a symbolic link"),
        (b"3", "a character device"),
        (b"6", "a FIFO"),
        (b"S", "a sparse file"),
        (b"M", "multi-volume"),
        (b"V", "a member of type b'V'"),
    ],
)
def test_links_devices_and_sparse_files_are_refused(kind: bytes, words: str) -> None:
    info = tarfile.TarInfo("x.jpg")
    info.type, info.linkname = kind, "y.jpg"
    with pytest.raises(ShardError, match=rf"s.tar at byte 0: 'x.jpg' is .*{words}.*; only regular files"):
        members_of(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = kind, len(records)
    return info.tobuf() + records.ljust((len(records) + 511) // 512 * 512, b"\0")


def test_pax_path_and_size() -> None:
    member = tarfile.TarInfo("short").tobuf()
    data = pax(b"17 path=long.jpg\n" + b"12 size=700\n") + member + b"8" * 700 + bytes(324) + bytes(1024)
    assert members_of(data) == [Member("long.jpg", 1536, 700, 0)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pax(b"99 path=x\n"), "a pax record is malformed"),
        (pax(b"nonsense"), "a pax record is malformed"),
        (pax(b"10 size=-\n"), "pax size b'-' is not a number"),
        (pax(b"10 path=x\n", b"g"), "a global pax header sets path for all members"),
        (pax(b"22 GNU.sparse.major=1\n"), "a sparse file"),
        (pax(b"10 path=x\n") + bytes(1024), "zeros where a member's header was expected"),
        (b"\x1f\x8b" + bytes(1022), "compressed with gzip"),
        (b"PK\x03\x04" + bytes(1020), "so this is not a tar archive"),
    ],
)
def test_other_damage(data: bytes, words: str) -> None:
    with pytest.raises(ShardError, match=words):
        members_of(data)


def test_bytes_after_the_end_are_told(make_tar: MakeTar) -> None:
    one, two = (make_tar(f"{n}.tar", [(f"{n}.jpg", b"7" * 700)]).read_bytes() for n in "ab")
    assert len(tarfile_members(one + two)) == 1  # half of it is lost in silence
    with pytest.raises(ShardError, match=f"s.tar at byte {len(one)}: bytes follow the end-of-archive at 1536: "):
        members_of(one + two)


def test_names_that_are_not_utf8() -> None:
    block = bytearray(tarfile.TarInfo("x.jpg").tobuf())
    block[0] = 0xE4
    with pytest.raises(ShardError, match="is not UTF-8"):
        members_of(seal(block) + bytes(1024))
