"""Tars of class folders."""

from __future__ import annotations

import pickle
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resflow.errors import ConfigError, IndexFileError
from resflow.sources import ClassFolderShards, Source, build_index, index_path, write_index
from tests.data import real

NAMES = ["train/dog/1.jpg", "train/dog/2.jpg", "train/cat/1.jpg", "train/ant/x-y.jpg", "ant/3.jpg"]
Jpeg = Callable[[int, int], bytes]


def make(make_tar: Callable[..., Path], jpeg: Jpeg, names: list[str]) -> Path:
    path = make_tar("images.tar", [(name, jpeg(20 + number, 30)) for number, name in enumerate(names)])
    write_index(build_index(path, workers=1), index_path(path))
    return path


def test_the_folder_is_the_class(make_tar: Callable[..., Path], jpeg: Jpeg) -> None:
    source = ClassFolderShards(make(make_tar, jpeg, NAMES))
    assert isinstance(source, Source)
    assert source.classes == ("ant", "cat", "dog")
    numbers = np.array([4, 0, 2, 2, 3, 1])
    read = source.read(numbers)
    assert [sample.target for sample in read] == [0, 2, 1, 1, 0, 2]
    assert all(type(sample.target) is int for sample in read)
    assert [sample.key for sample in read] == [source.name(number)[1] for number in numbers]
    assert [bytes(sample.image) for sample in read] == [jpeg(20 + number, 30) for number in numbers]
    assert source.index.size[:, 1].tolist() == [20, 21, 22, 23, 24]
    source.read_ahead(numbers)
    source.close()
    copy = pickle.loads(pickle.dumps(source))
    assert [sample.target for sample in copy.read(numbers)] == [0, 2, 1, 1, 0, 2]


def test_classes_may_be_given(make_tar: Callable[..., Path], jpeg: Jpeg) -> None:
    path = make(make_tar, jpeg, NAMES)
    source = ClassFolderShards(path, ["dog", "bird", "cat", "ant"])
    assert source.targets.tolist() == [0, 0, 2, 3, 3]
    with pytest.raises(ConfigError, match=r"classes must name each folder once; got \['dog'\].* out \['ant', 'cat'\]"):
        ClassFolderShards(path, ["dog"])
    with pytest.raises(ConfigError, match="classes must name each folder once"):
        ClassFolderShards(path, ["dog", "cat", "ant", "dog"])


def test_a_sample_in_no_folder_is_named(make_tar: Callable[..., Path], jpeg: Jpeg) -> None:
    path = make(make_tar, jpeg, ["dog/1.jpg", "2.jpg"])
    with pytest.raises(ConfigError, match=r"sample '2' lies in no folder; expected class/name, as in train/cat"):
        ClassFolderShards(path)


def test_tars_without_an_index_name_the_way_out(make_tar: Callable[..., Path], jpeg: Jpeg) -> None:
    with pytest.raises(IndexFileError, match="Run: resflow index"):
        ClassFolderShards(make_tar("images.tar", [("dog/1.jpg", jpeg(3, 4))]))


def test_real_cifar(tmp_path: Path) -> None:
    original = real("cifar10-test.tar")
    path = tmp_path / original.name
    shutil.copy(original, path)
    write_index(build_index(path, workers=1), index_path(path))
    source = ClassFolderShards(path)
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        expected = [(member.name.split("/")[1], archive.extractfile(member).read()) for member in members]  # type: ignore[union-attr]
    found = source.read(np.arange(len(source)))
    assert [(source.classes[sample.target], bytes(sample.image)) for sample in found] == expected  # type: ignore[index]
    assert Counter(source.targets.tolist()) == Counter(dict.fromkeys(range(10), 100))


def test_a_leading_dot_is_no_class(make_tar: Callable[..., Path], jpeg: Jpeg) -> None:
    assert ClassFolderShards(make(make_tar, jpeg, [f"./{name}" for name in NAMES])).classes == ("ant", "cat", "dog")
    with pytest.raises(ConfigError, match="'1' lies in no folder"):
        ClassFolderShards(make(make_tar, jpeg, ["./1.jpg"]))
