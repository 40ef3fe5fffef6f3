"""Grouping against webdataset itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from resflow.errors import ShardError
from resflow.sources.groups import Group, Remark, Remarks, group_members, remark_lines, split_name
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
        group("a.jpg", "b.jpg", "a.jpg")
    message = r"s.tar at byte 2048: the members of sample 'a' lie apart: jpg at byte 0, cls here.*tar --sort=name"
    with pytest.raises(ShardError, match=message):
        group("a.jpg", "b.jpg", "a.cls")
    message = r"s.tar at byte 2048: 'cat.2.jpg' and what lies at byte 0 have the same key 'cat'.*dots"
    with pytest.raises(ShardError, match=message):
        group("cat.1.jpg", "dog.1.jpg", "cat.2.jpg")


def test_files_that_are_no_samples_are_left_out_and_counted() -> None:
    strays = ["README.md", "README", "LICENSE", "LICENSE.txt", "Thumbs.db", ".DS_Store", "._a.jpg", "d/._b.jpg"]
    strays += ["__MACOSX/d/c.jpg", "d/desktop.ini", "classes.txt", "notes.md"]
    names = [*strays[:5], "a.jpg", "a.cls", *strays[5:9], "d/b.jpg", "d/b.cls", *strays[9:]]
    remarks = Remarks()
    groups = list(group_members([Member(n, 512 + 1024 * i, 5, 1024 * i) for i, n in enumerate(names)], "s", remarks))
    assert [group.key for group in groups] == ["a", "d/b"]
    assert remarks.found() == {"ignored": Remark(len(strays), ("README", "LICENSE", "README.md"))}
    (line,) = remark_lines(remarks.found())
    assert line == "12 files that are no samples are ignored: README, LICENSE, README.md, ..."


def test_samples_that_may_be_several() -> None:
    def found(*names: str) -> dict[str, Remark]:
        remarks = Remarks()
        list(group_members([Member(n, 512 + 1024 * i, 5, 1024 * i) for i, n in enumerate(names)], "s", remarks))
        return remarks.found()

    one = ("cat.jpg", "cat.1.jpg", "dog.jpg", "eel.jpg", "fox.jpg")
    assert found(*one) == {"doubled": Remark(1, ("cat.jpg and cat.1.jpg",))}
    assert "cat.jpg and cat.1.jpg" in remark_lines(found(*one))[0]
    assert found(*one, "gnu.jpg", "gnu.2.jpg", "owl.jpg", "owl.jpeg")["doubled"].count == 3
    # Members that most samples have are meant: label maps, second views.
    assert not found(*(f"{n}.{e}" for n in range(5) for e in ("jpg", "seg.png", "left.jpg")))
    first, second = Remarks(), Remarks()
    for remarks, key in ((first, "a"), (second, "b")):
        members = {e: Member(f"{key}.{e}", 0, 5, 0) for e in ("jpg", "2.jpg")}
        for _ in range(2):
            remarks.see(Group("x", {"jpg": Member("x.jpg", 0, 5, 0)}))
        remarks.see(Group(key, members))
    first.add(second)
    assert first.found() == {"doubled": Remark(2, ("a.jpg and a.2.jpg",))}


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
