"""Shards that are written read back as they were; folders become samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from resflow.errors import ConfigError, SampleError
from resflow.sources import ShardSource, build_index, class_folder_samples, labelled_files, write_shards

Jpeg = Callable[[int, int], bytes]


def read_all(shards: list[Path]) -> list[tuple[str, bytes, bytes]]:
    source = ShardSource(build_index(shards))
    samples = source.read(np.arange(len(source), dtype=np.int64))
    return [(s.key, bytes(s.image), bytes(s.members["cls"])) for s in samples]


@pytest.mark.parametrize(("max_samples", "max_bytes", "count"), [(4, 1 << 30, 3), (100, 1 << 30, 1), (100, 1, 10)])
def test_samples_come_back(jpeg: Jpeg, tmp_path: Path, max_samples: int, max_bytes: int, count: int) -> None:
    long = "deep/" * 40
    samples = [{"__key__": f"{long}s{i}", "jpg": jpeg(9 + i, 7), "cls": i, "__url__": "x"} for i in range(10)]
    pattern = tmp_path / "out" / "train-%06d.tar"
    shards = write_shards(samples, pattern, max_samples=max_samples, max_bytes=max_bytes)
    assert shards == [tmp_path / "out" / f"train-{i:06d}.tar" for i in range(count)]
    assert read_all(shards) == [(s["__key__"], s["jpg"], str(s["cls"]).encode()) for s in samples]
    assert sorted((tmp_path / "out").iterdir()) == shards
    first = [path.read_bytes() for path in shards]
    with pytest.raises(ConfigError, match=r"train-000000.tar exists. Remove it, .* overwrite=True"):
        write_shards(samples, pattern)
    again = write_shards(samples, pattern, max_samples=max_samples, max_bytes=max_bytes, overwrite=True)
    assert [path.read_bytes() for path in again] == first


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"jpg": b""}, "sample 2 has no '__key__'; got None"),
        ({"__key__": "s1", "jpg": b""}, r"key 's1' came before. .*\(sample s1\)"),
        ({"__key__": "a.b", "jpg": b""}, "key 'a.b' would be read back as another"),
        ({"__key__": "a/", "jpg": b""}, "key 'a/' would be read back as another"),
        ({"__key__": "/a", "jpg": b""}, "key '/a' would be read back as another"),
        ({"__key__": "../a", "jpg": b""}, "key '../a' would be read back as another"),
        ({"__key__": "__m__/a", "jpg": b""}, "key '__m__/a' would be read back as another"),
        ({"__key__": "a", "JPG": b""}, "extension 'JPG' would not be read back"),
        ({"__key__": "a", "_jpg": b""}, "extension '_jpg' would not be read back"),
        ({"__key__": "a", "x/jpg": b""}, "extension 'x/jpg' would not be read back"),
        ({"__key__": "a", "__url__": "x"}, "sample holds nothing but its key"),
        ({"__key__": "a", "jpg": object()}, "cannot be encoded: "),
        ({"__key__": "a", "unknown": object()}, "cannot be encoded: "),
    ],
)
def test_bad_samples_leave_nothing_behind(jpeg: Jpeg, tmp_path: Path, sample: dict[str, object], words: str) -> None:
    def samples() -> Iterator[dict[str, object]]:
        yield from ({"__key__": f"s{i}", "jpg": jpeg(9, 7)} for i in range(2))
        yield sample

    with pytest.raises(SampleError, match=words):
        write_shards(samples(), tmp_path / "s-%d.tar", max_samples=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pattern", "options", "words"),
    [
        ("s.tar", {}, "shard pattern must hold one number; got '.*s.tar'"),
        ("%d-%d.tar", {}, "shard pattern must hold one number"),
        ("%s.%y", {}, "shard pattern must hold one number"),
        ("%d.tar", {"max_samples": 0}, "max_samples and max_bytes must be at least 1; got 0"),
    ],
)
def test_wrong_arguments(tmp_path: Path, pattern: str, options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        write_shards([{"__key__": "a", "jpg": b""}], tmp_path / pattern, **options)


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no samples to write"):
        write_shards([], tmp_path / "%d.tar")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_class_folders_as_torchvision_lists_them(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    touch(tmp_path, "b/2.jpg", "b/10.PNG", "a/x/deep.jpeg", "a/z.webp", "C/v1.2.jpg", "C/notes.txt")
    found = class_folder_samples(tmp_path)
    expected = ImageFolder(str(tmp_path))
    assert list(found.classes) == expected.classes == ["C", "a", "b"]
    assert [(str(p), label) for p, label in zip(found.paths, found.labels, strict=True)] == expected.samples
    assert len(found) == 5
    samples = list(found)
    assert samples[0] == {"__key__": "C/v1_2", "jpg": b"C/v1.2.jpg", "cls": 0}
    assert samples[3] == {"__key__": "b/10", "png": b"b/10.PNG", "cls": 2}


def test_files_with_one_stem_get_keys_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/1.png", "a/1.x.jpg", "a/1_x.jpg")
    assert class_folder_samples(tmp_path).keys == ("a/1", "a/1_2", "a/1_x", "a/1_x_2")


def test_classes_in_file_names(tmp_path: Path) -> None:
    touch(tmp_path, "n02_cat_1.jpg", "n01_dog_2.JPEG", "sub/n02_cat_3.jpg", "readme.txt", ".n03_hidden.jpg")
    found = labelled_files(tmp_path, r"^(n\d+)_")
    assert found.classes == ("n01", "n02")
    assert found.labels == (0, 1, 1)
    assert found.keys == ("n01_dog_2", "n02_cat_1", "sub/n02_cat_3")
    assert [sample["cls"] for sample in found] == [0, 1, 1]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: class_folder_samples(tmp_path / "no"), "no is not a folder"),
        (lambda: class_folder_samples(tmp_path), "has no sub-folders; expected one a class"),
        (lambda: labelled_files(tmp_path, "(x)"), "has no images; expected files ending in jpg"),
        (lambda: labelled_files(tmp_path, "(x"), r"regular expression '\(x' is malformed: missing \)"),
        (lambda: labelled_files(tmp_path, "x"), "regular expression 'x' has no group"),
    ]
    for call, words in cases:
        with pytest.raises(ConfigError, match=words):
            call()
    touch(tmp_path, "x1.jpg", "y.jpg")
    with pytest.raises(ConfigError, match=r"finds no class in the file name 'y.jpg'"):
        labelled_files(tmp_path, r"x(\d)")
    touch(tmp_path, "full/1.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"class folder .*empty has no images"):
        class_folder_samples(tmp_path)
