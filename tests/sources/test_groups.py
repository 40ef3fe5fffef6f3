"""Grouping against webdataset itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from resflow.errors import ShardError
from resflow.sources.groups import Group, group_members, split_name
from resflow.sources.tar import Member, read_members

Samples = list[tuple[str, dict[str, bytes]]]


def ours(path: Path) -> Samples:
    data = path.read_bytes()
    read = lambda offset, count: data[offset : offset + count]  # noqa: E731
    groups = group_members(read_members(read, str(path), end=len(data)), str(path))
    return [(g.key, {e: data[m.offset : m.offset + m.size] for e, m in g.members.items()}) for g in groups]


def by_webdataset(path: Path) -> Samples:
    with path.open("rb") as stream:
        files = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        samples = list(webdataset.tariterators.group_by_keys(files))
    return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in samples]


def test_random_shards_group_as_webdataset_groups_them(make_tar: Callable[..., Path]) -> None:
    generator = random.Random(0)
    for number in range(20):
        members: list[tuple[str, bytes]] = []
        for sample in range(20):
            folder = generator.choice(["", "a/", "a.b/c/", "./", "__a/", "b__/", "a/__m__/"])
            extensions = generator.sample(["jpg", "JPG2", "cls", "seg.png", "Json", "a.b.c", ""], 3)
            members += [(f"{folder}{sample:03d}.{e}", f"{sample}{e}".encode()) for e in extensions]
            members += generator.choice([[], [("README", b"")], [("__meta__/x.jpg", b"")], [("__x__", b"")]])
            members += generator.choice([[], [(".hidden.jpg", b"")], [("folder/name", b"")]])
        path = make_tar(f"{number}.tar", members)
        assert ours(path) == by_webdataset(path)
        assert len(ours(path)) == 20


def test_hidden_files_in_folders_are_skipped() -> None:
    assert split_name("a/.hidden.jpg") is None
    assert webdataset.tariterators.base_plus_ext("a/.hidden.jpg") == ("a/", "hidden.jpg")


def group(*names: str) -> list[Group]:
    return list(group_members([Member(n, 512 + 1024 * i, 5, 1024 * i) for i, n in enumerate(names)], "s.tar"))


def test_key_that_comes_back() -> None:
    message = r"s.tar at byte 2048: two samples have the key 'a', the first at byte 0. Rename one"
    with pytest.raises(ShardError, match=message):
        group("a.jpg", "b.jpg", "a.cls")


def test_member_twice() -> None:
    message = r"s.tar at byte 1024: sample 'a' has two members 'jpg', the first at byte 0"
    with pytest.raises(ShardError, match=message):
        group("a.jpg", "a.JPG")


def test_the_image_is_the_first_plain_image_extension() -> None:
    (sample,) = group("a.seg.png", "a.webp", "a.png", "a.cls")
    assert sample.image is not None
    assert sample.image.name == "a.png"
    assert sample.extent == (0, 512 + 3 * 1024 + 5)
    assert group("a.seg.png", "a.cls")[0].image is None
