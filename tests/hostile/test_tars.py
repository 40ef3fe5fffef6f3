"""Hostile archives by index and as a stream: the samples that are in them, or a typed error that says where."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resflow.errors import ConfigError, HeaderError, ResflowError, ShardError
from resflow.sources import ShardSource, ShardStream, build_index
from resflow.sources.tar import read_members
from tests.hostile import tars

CASES = tars.cases()
LIMIT = 1 << 20


def by_index(path: Path) -> list[str]:
    source = ShardSource(build_index(str(path), workers=1, max_member_bytes=LIMIT), max_member_bytes=LIMIT)
    samples = source.read(np.arange(len(source), dtype=np.int64))
    assert [bytes(sample.image) for sample in samples] == [tars.JPEG] * len(samples)
    return [sample.key for sample in samples]


def by_stream(path: Path) -> list[str]:
    return [sample.key for sample in ShardStream(str(path), max_member_bytes=LIMIT)]


@pytest.mark.parametrize("read", [by_index, by_stream])
@pytest.mark.parametrize("name", list(CASES))
def test_an_archive_is_read_or_refused_in_words(name: str, read: object, tmp_path: Path) -> None:
    path, case = tmp_path / "shard.tar", CASES[name]
    path.write_bytes(case.data)
    start = time.perf_counter()
    if case.keys is not None:
        assert read(path) == case.keys  # type: ignore[operator]
    else:
        with pytest.raises(ResflowError, match=case.words) as caught:
            read(path)  # type: ignore[operator]
        assert isinstance(caught.value, ShardError | HeaderError)
        assert caught.value.shard == str(path)
    assert time.perf_counter() - start < 10
    assert [file.name for file in tmp_path.iterdir()] == ["shard.tar"]


@pytest.mark.parametrize(
    "read", [lambda shards: build_index(shards, workers=1), lambda shards: list(ShardStream(shards))]
)
def test_a_sample_that_is_split_over_two_shards_is_named(read: Any, tmp_path: Path) -> None:
    (tmp_path / "s-0.tar").write_bytes(tars.sample(b"a") + tars.member(b"b.jpg") + tars.END)
    (tmp_path / "s-1.tar").write_bytes(tars.member(b"b.cls", b"1") + tars.sample(b"c") + tars.END)
    with pytest.raises(HeaderError, match=r"no image among its members \['cls'\].*s-1.tar/b\)"):
        read(f"{tmp_path}/s-{{0..1}}.tar")


def test_nothing_was_written_by_a_members_name() -> None:
    assert not list(Path("/tmp").glob("resflow-owned*"))


@pytest.mark.parametrize("options", [{"max_member_bytes": 2 * len(tars.JPEG)}, {}])
def test_the_limit_is_settable_and_its_error_says_how(options: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tars.sample(b"a") + tars.END)
    index = build_index(str(path))
    with pytest.raises(ShardError) as caught:
        build_index(str(path), max_member_bytes=100)
    size = len(tars.JPEG)
    assert f"member 'a.jpg' has {size} bytes; at most max_member_bytes=100 are read" in str(caught.value)
    assert f"ShardSource or ShardStream(..., max_member_bytes={size})" in str(caught.value)
    assert f"resflow index --max-member-bytes {size}" in str(caught.value)
    with pytest.raises(ShardError, match=r"sample 'a' has \d+ bytes; at most max_member_bytes=100"):
        ShardSource(index, max_member_bytes=100).read(np.zeros(1, np.int64))
    with pytest.raises(ShardError, match=r"member 'a.jpg' has \d+ bytes; at most max_member_bytes=100"):
        list(ShardStream(str(path), max_member_bytes=100))
    assert len(ShardSource(index, **options).read(np.zeros(1, np.int64))) == 1
    assert len(list(ShardStream(str(path), **options))) == 1


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1"])
def test_a_limit_is_a_whole_number(limit: object) -> None:
    with pytest.raises(ConfigError, match="max_member_bytes must be a whole number of bytes above 0; got"):
        ShardStream("https://host/a.tar", max_member_bytes=limit)  # type: ignore[arg-type]


def test_no_more_is_asked_for_than_the_limit() -> None:
    """A header that claims 2^60 bytes in a stream: refused before a reader could allocate them."""
    data = tars.member(b"a.jpg", b"", size_field=tars.base256(1 << 60)) + tars.END
    asked: list[int] = []

    def read(offset: int, count: int) -> bytes:
        asked.append(count)
        return data[offset : offset + count]

    with pytest.raises(ShardError, match="max_member_bytes=1073741824"):
        next(read_members(read, "s", end=None))
    assert max(asked) <= 1 << 20


def test_every_case_is_needed() -> None:
    """The corpus is what it says: no name stands for what another holds, and half of it is refused."""
    assert len({case.data for case in CASES.values()}) == len(CASES)
    refused = [name for name, case in CASES.items() if case.keys is None]
    assert len(refused) > len(CASES) // 2
    assert all(re.compile(case.words) for case in CASES.values())
