"""One dataset finds its index, however its shards are named and wherever they lie."""

from __future__ import annotations

import logging
import os
import pickle
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from resflow.errors import ConfigError, IndexFileError, ShardError
from resflow.sources import ShardIndex, ShardSource, build_index, index_path, open_index, write_index
from resflow.sources.index_file import open_index_file
from resflow.sources.index_lookup import cache_folder, old_index_name, writable_index_path
from resflow.sources.paths import shard_paths, shell_words, split_outside_braces
from resflow.sources.tier_writer import make_tiers
from tests.sources.conftest import jpeg

MakeShards = Callable[..., list[Path]]


def check_equal(found: ShardIndex, built: ShardIndex) -> None:
    """Law: an index that is found equals the one that a scan of the same shards gives."""
    for name in ("shard", "offset", "length", "size"):
        assert np.array_equal(getattr(found.index, name), getattr(built.index, name)), name
    assert np.array_equal(found.image_offset, built.image_offset)
    assert np.array_equal(found.image_length, built.image_length)
    assert found.keys.to_pylist() == built.keys.to_pylist()
    assert list(map(os.path.abspath, found.shards)) == list(map(os.path.abspath, built.shards))
    assert found.fingerprint == built.fingerprint
    assert found.remarks == built.remarks
    numbers = np.arange(len(built))
    assert [key for _, key in found.names(numbers)] == [key for _, key in built.names(numbers)]


@pytest.fixture
def shards(make_shards: MakeShards, tmp_path: Path) -> list[Path]:
    found = make_shards(4, 5)
    write_index(build_index(found), index_path(found))
    return found


def test_every_spelling_finds_the_index(shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    here = tmp_path.name
    whole = build_index(shards)
    spelled: list[str | Path | list[str] | list[Path]] = [
        f"{tmp_path}/train-{{0000..0003}}.tar", f"{here}/train-{{0000..0003}}.tar", f"{here}/*.tar", f"{here}/t*.tar",
        f"{here}/train-000[0-3].tar", f"{here}/train-{{0000,0001,0002,0003}}.tar", here, f"{here}/", tmp_path,
        [f"{here}/train-{number:04d}.tar" for number in range(4)], shards, [f"{here}/*"],
        ",".join(f"{here}/train-{number:04d}.tar" for number in range(4)),
        f"{here}/train-{{0000,0001}}.tar,{here}/train-{{0002,0003}}.tar",
        "::".join(f"{here}/train-{number:04d}.tar" for number in range(4)), f"./{here}/../{here}",
    ]  # fmt: skip
    for one in spelled:
        found = open_index(one)
        assert found.path is not None, one  # mapped, not put together
        check_equal(found, whole)


@pytest.mark.parametrize("numbers", [[0], [2], [0, 1], [1, 3], [3, 2, 1, 0], [2, 0], [0, 1, 3]])
def test_a_part_in_any_order_is_read_through_the_index_of_the_whole(shards: list[Path], numbers: list[int]) -> None:
    some = [shards[number] for number in numbers]
    found = open_index(some)
    check_equal(found, build_index(some))
    check_equal(pickle.loads(pickle.dumps(found)), build_index(some))
    source = ShardSource(some)
    assert [sample.key for sample in source.read(np.arange(len(source)))] == found.keys.to_pylist()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("numbers", [[0], [1], [2], [0, 1], [2, 1], [2, 0, 1], [0, 1, 2]])
def test_what_was_noticed_follows_its_shards(make_tar: Callable[..., Path], numbers: list[int], apart: bool) -> None:
    """Stray files in shard 0; further images that few samples have in shard 1; that all of its samples have in 2."""
    stray = {"README.md": b"x"} | {f"{key}.jpg": jpeg(9, 7) for key in "abc"}
    few = {f"{key}.jpg": jpeg(9, 7) for key in ("d", "d.1", "e", "f", "g")}
    usual = {f"{key}{end}": jpeg(9, 7) for key in "hij" for end in (".jpg", ".mask.png")}
    paths = [make_tar(f"s{place}.tar", list(one.items())) for place, one in enumerate((stray, few, usual))]
    for indexed in [[path] for path in paths] if apart else [paths]:
        write_index(build_index(indexed), index_path(indexed))
    some = [paths[number] for number in numbers]
    found = open_index(some)
    check_equal(found, build_index(some))
    kinds = {(0,): {"ignored"}, (1,): {"doubled"}, (2,): set(), (0, 1): {"ignored", "doubled"}, (1, 2): {"doubled"}}
    assert set(found.remarks) == kinds.get(tuple(sorted(numbers)), {"ignored", "doubled"})


def test_train_and_val_in_one_folder(make_shards: MakeShards, tmp_path: Path) -> None:
    train = make_shards(2, 3)
    val = [path.rename(path.with_name(path.name.replace("train", "val"))) for path in make_shards(3, 4)[:2]]
    make_shards(2, 3)
    (tmp_path / "train-0002.tar").unlink()
    for part in (train, val):
        write_index(build_index(part), index_path(part))
    check_equal(open_index(f"{tmp_path}/train-*.tar"), build_index(train))
    check_equal(open_index(f"{tmp_path}/val-{{0000,0001}}.tar"), build_index(val))
    check_equal(open_index(tmp_path), build_index([*train, *val]))
    check_equal(open_index([val[1], train[0]]), build_index([val[1], train[0]]))


def test_moved_and_renamed_together(shards: list[Path], tmp_path: Path) -> None:
    before = open_index(shards)
    folder = tmp_path / "moved" / "there"
    shutil.copytree(tmp_path, folder, ignore=lambda *_: ["moved"])
    check_equal(open_index(folder), build_index(folder))
    for path in folder.glob("*.tar"):
        path.rename(path.with_name(path.name.replace("train", "renamed")))
    for spelled in (folder, f"{folder}/renamed-*.tar", f"{folder}/renamed-{{0003,0001}}.tar"):
        check_equal(open_index(spelled), build_index(spelled))
    renamed = open_index(folder)
    assert renamed.fingerprint == before.fingerprint
    check_equal(pickle.loads(pickle.dumps(renamed)), build_index(folder))
    swapped = {"renamed-0000.tar": "x", "renamed-0001.tar": "renamed-0000.tar", "x": "renamed-0001.tar"}
    for old, new in swapped.items():
        (folder / old).rename(folder / new)
    check_equal(open_index(folder), build_index(folder))


def test_files_of_an_older_resflow_are_found(shards: list[Path], tmp_path: Path) -> None:
    path = index_path(shards)
    index = open_index_file(path)
    older = tmp_path / old_index_name(["train-{0000..0003}.tar"])
    write_index(ShardIndex(*(getattr(index, name) for name in list(index.__slots__)[:6])), older)
    path.unlink()
    for spelled in (f"{tmp_path}/train-{{0000..0003}}.tar", tmp_path, shards):
        assert open_index(spelled).path == older
        assert index_path(spelled) == older  # a new scan replaces it
    check_equal(open_index(shards[1:3]), build_index(shards[1:3]))
    shards[0].rename(tmp_path / "other.tar")  # it has no digests by which this could be known again
    with pytest.raises(IndexFileError, match=r"lists 3 of these 4 shards; it lacks other.tar. Run: resflow index"):
        open_index(tmp_path)


def test_missing_shards_are_named_as_missing(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in shards[1:3]:
        path.unlink()
    with pytest.raises(
        ShardError, match=r"train-0001.tar: the shard is missing, and 1 more: 2 of 4\. Put back"
    ) as caught:
        open_index(f"{tmp_path}/train-{{0000..0003}}.tar")
    assert not isinstance(caught.value, IndexFileError)
    with caplog.at_level(logging.WARNING, "resflow"):
        assert len(open_index(tmp_path)) == 10
    assert "lists 4 shards, of which" in caplog.text
    assert "train-0001.tar and 1 more are missing: going on without" in caplog.text
    with pytest.raises(ConfigError, match=r"folder .* holds no shards; expected files named \*.tar. Name one of its"):
        shard_paths(tmp_path.parent)


def test_tiers_follow_their_shards(shards: list[Path], tmp_path: Path) -> None:
    make_tiers(shards, [16, 24], workers=1)
    whole = ShardSource(tmp_path)
    tiers = whole.open_tiers()
    assert tiers is not None
    some = ShardSource([shards[3], shards[1]])
    part = some.open_tiers()
    assert part is not None
    assert part.sides == tiers.sides
    rows = np.array([15, 16, 17, 18, 19, 5, 6, 7, 8, 9])
    for tier in range(2):
        assert part.offset[tier].tolist() == tiers.offset[tier][rows].tolist()
    numbers = np.arange(10)
    for one in (some, pickle.loads(pickle.dumps(some))):
        read = one.read_tiers(numbers, np.zeros(10, np.int64), members=True)
        told = whole.read_tiers(rows, np.zeros(10, np.int64), members=True)
        assert [bytes(sample.image) for sample in read] == [bytes(sample.image) for sample in told]
    report = make_tiers(shards[1:3], [20], workers=1)  # of a part: with an index of its own
    assert report.path.is_file()
    assert ShardSource(shards[1:3]).open_tiers().sides == (20,)  # type: ignore[union-attr]
    assert ShardSource(tmp_path).open_tiers().sides == (16, 24)  # type: ignore[union-attr]


def test_a_file_or_the_cache_folder_holds_the_index_of_shards_that_cannot_be_written(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index_path(shards).rename(elsewhere := tmp_path / "elsewhere.arrow")
    with pytest.raises(IndexFileError, match="there is no index of these shards"):
        open_index(shards)
    moved = write_index(build_index(shards), elsewhere)
    check_equal(open_index(shards, index=elsewhere), moved)
    check_equal(ShardSource(shards[:2], index=elsewhere).shard_index, build_index(shards[:2]))
    cache_folder().mkdir(parents=True)
    write_index(build_index(shards), cache_folder() / "x.index.arrow")
    check_equal(open_index(tmp_path), moved)
    missing = tmp_path / "no.arrow"
    with pytest.raises(
        IndexFileError, match=r"no.arrow: there is no index here. Run: resflow index .* --index .*no.arrow"
    ):
        open_index(shards, index=missing)


def test_read_only_shards_are_indexed_in_the_cache_folder(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_path(shards).unlink()
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert writable_index_path(tmp_path).parent == tmp_path
    above = [folder for folder in tmp_path.parents if Path(tempfile.gettempdir()) in folder.parents]
    modes = {folder: folder.stat().st_mode for folder in (tmp_path, *above)}
    owner = os.geteuid()
    for folder in modes:
        folder.chmod(0o555)
    if owner == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        path = writable_index_path(tmp_path)
        write_index(build_index(tmp_path), path)
    finally:
        os.seteuid(owner)
        for folder, mode in modes.items():
            folder.chmod(mode)
    assert path.parent == cache / "resflow" / "index"
    check_equal(open_index(tmp_path), build_index(tmp_path))


def test_a_command_in_a_message_names_the_same_shards(shards: list[Path], tmp_path: Path) -> None:
    odd = [tmp_path / name for name in ("a b.tar", "$HOME.tar", "it's.tar", "x{1,2}.tar", "s[1].tar", "-n.tar")]
    for path in odd:
        shutil.copy(shards[0], path)
    cases = [
        str(tmp_path), f"{tmp_path}/train-*.tar", shards, shards[:2], [shards[3], *shards[:3]], shards[1:], odd,
        [*shards, *odd], [*odd, *shards],
    ]  # fmt: skip
    for one in cases:
        words = shlex.split(shell_words(one))
        assert list(map(os.path.abspath, shard_paths(words))) == list(map(os.path.abspath, shard_paths(one))), words
        assert "..." not in shell_words(one)
    for path in odd:
        path.unlink()
    assert shell_words(shards) == f'"{tmp_path}"'
    assert shell_words([f"s/{number:03d}.tar" for number in range(200)]) == '"s/{000..199}.tar"'
    assert shell_words([f"s/{name}.tar" for name in "abde"]) == '"s/{a,b,d,e}.tar"'
    assert shell_words("-n.tar") == '"./-n.tar"'


def test_commas_split_outside_braces_alone() -> None:
    assert split_outside_braces("a-{0,1}.tar") == ["a-{0,1}.tar"]
    assert split_outside_braces("a-{0,1}.tar,b.tar::c.tar,") == ["a-{0,1}.tar", "b.tar", "c.tar"]


def test_a_damaged_file_beside_a_sound_one_is_passed_over(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "older.index.arrow").write_bytes(b"not an index")
    table = pa.table({"x": [1]})
    with pa.OSFile(str(tmp_path / "foreign.index.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    check_equal(open_index(shards), build_index(shards))
    index_path(shards).unlink()
    with pytest.raises(IndexFileError, match=r"the index is damaged .*Run: resflow index"):
        open_index(shards)
