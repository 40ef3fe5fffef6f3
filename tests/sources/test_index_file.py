"""The index file: what it holds, that nothing stale or damaged opens, and that workers change nothing."""

from __future__ import annotations

import io
import pickle
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from resflow.errors import ConfigError, HeaderError, IndexFileError, ShardError
from resflow.plan.index import Index
from resflow.sources import ShardIndex, ShardSource, build_index, index_path, open_index, write_index
from resflow.sources.index_file import open_index_file
from resflow.sources.paths import shard_paths

MakeShards = Callable[..., list[Path]]
MakeTar = Callable[..., Path]


def pattern(folder: Path) -> str:
    return f"{folder}/train-{{0000..0002}}.tar"


def same(a: ShardIndex, b: ShardIndex) -> bool:
    arrays = ["shard", "offset", "length", "size"]
    return (
        all(np.array_equal(getattr(a.index, name), getattr(b.index, name)) for name in arrays)
        and np.array_equal(a.image_offset, b.image_offset)
        and np.array_equal(a.image_length, b.image_length)
        and a.keys.to_pylist() == b.keys.to_pylist()
        and [s.resolve() for s in a.shards] == [s.resolve() for s in b.shards]
        and a.shard_sizes == b.shard_sizes
        and a.fingerprint == b.fingerprint
    )


def test_index_says_what_was_written(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards(3, 7)
    index = build_index(pattern(tmp_path))
    assert index.keys.to_pylist() == [f"part{i}/s{j:04d}" for i in range(3) for j in range(7)]
    assert index.index.size.tolist() == [[30 + j, 40 + i] for i in range(3) for j in range(7)]
    assert Counter(index.index.shard.tolist()) == {0: 7, 1: 7, 2: 7}
    for i in range(len(index)):
        data = shards[index.index.shard[i]].read_bytes()
        start, end = int(index.index.offset[i]), int(index.index.offset[i] + index.index.length[i])
        assert data[start + 257 : start + 262] == b"ustar"
        image = data[start + index.image_offset[i] :][: index.image_length[i]]
        assert image[:2] == b"\xff\xd8"
        assert image[-2:] == b"\xff\xd9"
        assert data[start:end].endswith(b"x" * (137 * (i % 7)))


def test_workers_change_nothing_and_files_give_back_what_was_built(make_shards: MakeShards, tmp_path: Path) -> None:
    make_shards(3, 7)
    one = build_index(pattern(tmp_path), workers=1)
    calls: list[tuple[int, int]] = []
    two = build_index(pattern(tmp_path), workers=2, progress=lambda *call: calls.append(call))
    assert same(one, two)
    assert [done for done, _ in calls] == np.cumsum(one.shard_sizes).tolist()
    assert {total for _, total in calls} == {sum(one.shard_sizes)}
    write_index(one, index_path(pattern(tmp_path)))
    opened = open_index(pattern(tmp_path))
    assert same(opened, one)
    assert same(pickle.loads(pickle.dumps(opened)), one)
    assert same(pickle.loads(pickle.dumps(one)), one)
    assert opened.name(8) == (str(tmp_path / "train-0001.tar"), "part1/s0001")
    written = [*(f"train-{i:04d}.tar" for i in range(3)), index_path(pattern(tmp_path)).name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)


def test_same_can_fail(make_shards: MakeShards, tmp_path: Path) -> None:
    make_shards(3, 7)
    index = build_index(pattern(tmp_path))
    order = np.arange(21)
    order[[3, 4]] = [4, 3]
    plain = index.index
    swapped = Index(plain.shard, plain.offset[order], plain.length, plain.size, plain.fingerprint)
    others = (index.keys, index.image_offset, index.image_length, index.shards, index.shard_sizes)
    assert not same(index, ShardIndex(swapped, *others))
    renamed = pa.array(["x", *index.keys.to_pylist()[1:]], pa.large_string())
    assert not same(index, ShardIndex(plain, renamed, *others[1:]))


def test_fingerprint_follows_content_not_place(make_shards: MakeShards, make_tar: MakeTar, tmp_path: Path) -> None:
    make_shards(3, 7)
    before = build_index(pattern(tmp_path)).fingerprint
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for i in range(3):
        (moved / f"train-{i:04d}.tar").write_bytes((tmp_path / f"train-{i:04d}.tar").read_bytes())
    assert build_index(pattern(moved)).fingerprint == before
    (moved / "train-0001.tar").rename(moved / "train-0009.tar")
    assert build_index(f"{moved}/train-{{0000,0009,0002}}.tar").fingerprint == before
    assert build_index(f"{moved}/train-{{0002,0009,0000}}.tar").fingerprint != before
    data = bytearray((tmp_path / "train-0000.tar").read_bytes())
    at = data.index(b"part0/s0000.cls")
    data[at + 6 : at + 11] = b"r0000"
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = f"{sum(data[at : at + 512]):06o}\0 ".encode()
    (tmp_path / "train-0000.tar").write_bytes(data)
    with pytest.raises(HeaderError, match=r"no image among its members \['cls'\].*train-0000.tar/part0/r0000"):
        build_index(pattern(tmp_path))


def test_index_path_follows_the_shards_not_their_spelling(make_shards: MakeShards, tmp_path: Path) -> None:
    braces = index_path("shards/train-{0000..0003}.tar")
    assert braces.parent == Path("shards")
    assert re.fullmatch(r"train-0000\.\.0003\.[0-9a-f]{8}\.index\.arrow", braces.name)
    patterns = ["s/a-{0..3}.tar", "s/a-{0,3}.tar", "s/a-{3,0}.tar", "s/{a,b}/0.tar", "s/a-0.tar"]
    assert max(Counter(map(index_path, patterns)).values()) == 1
    assert [index_path(p).parent for p in patterns] == [Path("s")] * 5
    assert index_path("s/x.tar") == index_path(Path("s/x.tar")) == index_path(["s/x.tar"])
    assert index_path("x-{0..1}.tar").parent == Path()
    assert index_path("/data/../data/x-{0..1}.tar") == index_path("/data/x-{0..1}.tar")
    assert index_path(["a/x.tar", "b/x.tar"]).parent == Path()
    assert index_path("other/x-{0..1}.tar").name == index_path("x-{0..1}.tar").name
    shards = make_shards(3, 1)
    spelled = [pattern(tmp_path), f"{tmp_path}/*.tar", str(tmp_path), shards, ",".join(map(str, shards))]
    assert len({index_path(one) for one in spelled}) == 1


def test_patterns(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards(3, 1)
    assert shard_paths(pattern(tmp_path)) == shards
    assert shard_paths(f"{tmp_path}/train-*.tar") == shards
    assert shard_paths(f"{tmp_path}/train-000{{2,0}}.t?r") == [shards[2], shards[0]]
    assert shard_paths([shards[1], str(shards[0])]) == [shards[1], shards[0]]
    odd = tmp_path / "odd[1]{2}.tar"
    shards[0].rename(odd)
    assert shard_paths(odd) == [odd]


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ("nothing-*.tar", "no file matches the pattern 'nothing-.*tar'. Check the folder"),
        ([], "no shards were named; expected a pattern"),
        ("a{0..3.tar", "braces do not close in the shard pattern 'a{0..3.tar'"),
        ("s3://bucket/x.tar", "shards must be local files; got 's3://bucket/x.tar'. Copy them"),
        ("pipe:cat x.tar", "shards must be local files"),
        (".", r"folder . holds no shards; expected files named \*.tar. Check the path"),
        (["a.tar", "./a.tar"], "shard a.tar is named twice"),
    ],
)
def test_wrong_patterns(shards: str | list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_index(shards)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_shards(make_shards: MakeShards, make_tar: MakeTar, tmp_path: Path, workers: int) -> None:
    shards = make_shards(3, 7)
    whole = shards[1].read_bytes()

    def message(data: bytes | None) -> str:
        shards[1].unlink(missing_ok=True)
        if data is not None:
            shards[1].write_bytes(data)
        with pytest.raises((ShardError, HeaderError)) as caught:
            build_index(pattern(tmp_path), workers=workers)
        return str(caught.value).replace(str(tmp_path), "HERE")

    assert (
        message(None) == "HERE/train-0001.tar: the shard is missing: 1 of 3. Put back what is missing, or name the "
        "shards that are there."
    )
    assert message(whole[:5000]).startswith("HERE/train-0001.tar at byte ")
    assert "truncated" in message(whole[:5000])
    assert "truncated" in message(b"")
    if workers == 2:
        return
    flipped = bytearray(whole)
    flipped[flipped.index(b"part1/s0003.jpg")] ^= 1
    assert "damaged header: the header's checksum does not match" in message(bytes(flipped))
    assert "the shard holds no samples" in message(bytes(10240))
    corrupt = whole.replace(b"\xff\xd8\xff", b"\xff\xd9\xff")
    assert message(corrupt).startswith("no image header: starts with b'\\xff\\xd9")
    assert message(corrupt).endswith("(sample HERE/train-0001.tar/part1/s0000)")
    assert "jpg" in message(make_tar("x.tar", [("a.txt", b"1")]).read_bytes())


def test_headers_that_reach_far_into_the_image(make_tar: MakeTar, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (123, 251, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    options: dict[str, dict[str, Any]] = {
        "jpg": {"icc_profile": bytes(300_000), "exif": exif},
        "png": {"exif": exif},
        "webp": {"lossless": True, "exif": exif},
        "tif": {"tiffinfo": {274: 6}},
        "gif": {"comment": bytes(30_000)},
        "bmp": {},
    }
    members = []
    for extension, chosen in options.items():
        buffer = io.BytesIO()
        noise.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(extension, extension), **chosen)
        members.append((f"{extension}-image.{extension}", buffer.getvalue()))
    assert min(len(data) for _, data in members) > 20_000
    make_tar("s.tar", members)
    index = build_index(f"{tmp_path}/s.tar")
    upright = [[123, 251]] * 2
    assert index.index.size.tolist() == [[251, 123]] * 4 + upright


def test_equal_keys_in_different_shards_are_allowed(
    make_tar: MakeTar, jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    for name in ("a.tar", "b.tar"):
        make_tar(name, [("0.jpg", jpeg(5, 6))])
    assert build_index(f"{tmp_path}/*.tar").keys.to_pylist() == ["0", "0"]


def test_stale_damaged_missing_and_foreign_indexes(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards(3, 7)
    name = pattern(tmp_path)
    path = index_path(name)
    run = f'Run: resflow index "{name}"'

    def message() -> str:
        with pytest.raises(IndexFileError) as caught:
            open_index(name)
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert f'esflow index "{name}"' in text
        return text

    assert message() == f"{path}: there is no index of these shards. {run}"
    write_index(build_index(name), path)
    whole = path.read_bytes()

    content = shards[1].read_bytes()
    shards[1].write_bytes(content + bytes(512))
    assert f"stale: shard {shards[1]} has {len(content) + 512} bytes, {len(content)} when it was indexed" in message()
    shards[1].unlink()
    with pytest.raises(ShardError, match=r"train-0001.tar: the shard is missing: 1 of 3\. Put back what is missing"):
        open_index(name)
    shards[1].write_bytes(content)
    open_index(name)

    for count in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:count])
        assert "the index is damaged (" in message()
    path.write_bytes(whole.replace(b'"version": 1', b'"version": 7'))
    assert "of version 7; expected 1" in message()
    table = pa.table({"x": [1]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert "the index is damaged (" in message()
    path.write_bytes(whole)
    open_index(name)


def test_random_damage_to_the_index_stays_in_the_tree(make_shards: MakeShards, tmp_path: Path) -> None:
    make_shards(3, 7)
    path = index_path(pattern(tmp_path))
    write_index(build_index(pattern(tmp_path)), path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    for _ in range(150):
        damaged = bytearray(whole)
        for at in generator.integers(0, len(whole), 4):
            damaged[at] = generator.integers(0, 256)
        path.unlink()  # an open mapping keeps the old file
        path.write_bytes(damaged)
        try:
            source = ShardSource(open_index_file(path))
            source.read(np.arange(len(source), dtype=np.int64))
            outcomes["fine"] += 1
        except ShardError as error:
            outcomes[type(error).__name__] += 1
    assert outcomes["IndexFileError"] > 50
    assert outcomes["ShardError"] < 60


def test_a_glob_that_matches_more_shards_than_were_indexed(make_shards: MakeShards, tmp_path: Path) -> None:
    shards = make_shards(3, 2)
    name = f"{tmp_path}/*.tar"
    write_index(build_index(name), index_path(name))
    open_index(name)
    (tmp_path / "train-0003.tar").write_bytes(shards[0].read_bytes().replace(b"part0", b"part9"))
    with pytest.raises(IndexFileError, match=r"lists 3 of these 4 shards; it lacks train-0003.tar. Run: resflow index"):
        open_index(name)


def test_index_that_was_replaced_while_in_use(make_shards: MakeShards, tmp_path: Path) -> None:
    make_shards(3, 2)
    path = index_path(pattern(tmp_path))
    first = write_index(build_index(pattern(tmp_path)), path)
    sent = pickle.dumps(first)
    make_shards(3, 4)
    write_index(build_index(pattern(tmp_path)), path)
    assert len(first) == len(first.keys.to_pylist()) == 6  # the old mapping stays whole
    with pytest.raises(IndexFileError, match="the index was written anew while in use"):
        pickle.loads(sent)


def test_folder_that_cannot_be_written(make_shards: MakeShards, tmp_path: Path) -> None:
    make_shards(1, 2)
    index = build_index(f"{tmp_path}/train-0000.tar")
    with pytest.raises(
        IndexFileError, match=r"the index cannot be written: .* Make room on its disk, or its folder writable"
    ):
        write_index(index, tmp_path / "missing" / "x.arrow")


def check_opening(folder: Path, count: int) -> float:
    """Write an index of `count` made-up samples, see that it is mapped and not copied, and time its opening."""
    shard = folder / "s.tar"
    shard.write_bytes(bytes(1024))
    numbers = np.arange(count, dtype=np.int64)
    plain = Index(np.zeros(count, np.int32), numbers, numbers, np.ones((count, 2), np.int32), "f")
    text = np.frombuffer(np.char.mod(b"%08d", numbers[:1000] * 0).tobytes() * (count // 1000), np.uint8)
    offsets = np.arange(count + 1, dtype=np.int64) * 8
    keys = pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))
    path = folder / "x.arrow"
    write_index(ShardIndex(plain, keys, numbers, numbers, (shard,), (1024,)), path)
    before = pa.total_allocated_bytes()
    start = time.perf_counter()
    opened = open_index_file(path)
    seconds = time.perf_counter() - start
    assert len(opened) == count
    assert pa.total_allocated_bytes() - before < 100_000, "the columns were copied"
    assert not opened.index.offset.flags.owndata
    assert not opened.index.size.flags.owndata
    assert opened.keys[count - 1].as_py() == "00000000"
    return seconds


def test_opening_maps_the_file(tmp_path: Path) -> None:
    assert check_opening(tmp_path, 200_000) < 0.2


@pytest.mark.slow
def test_opening_ten_million_samples_costs_milliseconds(tmp_path: Path) -> None:
    seconds = check_opening(tmp_path, 10_000_000)
    print(f"opened 10 million samples in {seconds * 1e3:.1f} ms")
    assert seconds < 0.2
