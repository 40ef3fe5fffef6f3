"""Tiers as they are made, indexed and read: what is in them, what a killed run leaves, what is refused."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import webdataset
from PIL import Image

from resflow.decode.pillow import decode_rgb
from resflow.errors import ConfigError, IndexFileError, SampleError, ShardError
from resflow.images import read_header
from resflow.plan.tiers import ORIGINAL, choose_tiers, on_tier, tier_size
from resflow.sources import (
    ClassFolderShards,
    ShardSource,
    build_index,
    index_path,
    open_index,
    write_index,
    write_shards,
)
from resflow.sources.base import TieredSource
from resflow.sources.index_file import write_arrow
from resflow.sources.shards import open_shards
from resflow.sources.tier_images import shrink
from resflow.sources.tier_writer import make_tiers
from resflow.sources.tiers import ABSENT, tier_shard, tiers_path
from tests.decode import samples as pictures
from tests.hostile import images as images_of_harm

SIDES = (24, 40)


def sizes(count: int) -> list[tuple[int, int]]:
    """Sizes of images, some smaller than a tier, some as large."""
    rng = np.random.default_rng(5)
    drawn = [(int(h), int(w)) for h, w in rng.integers(20, 140, (count, 2))]
    return [(24, 90), (40, 40), (25, 300), *drawn][:count]


def images(count: int) -> Iterator[Mapping[str, object]]:
    for number, (height, width) in enumerate(sizes(count)):
        kind = "png" if number % 5 == 4 else "jpg"
        encoded = getattr(pictures, {"png": "png", "jpg": "jpeg"}[kind])(height, width, number)
        key = f"deep/{'x' * 120 if number == 7 else 'k'}{number:03d}"
        yield {"__key__": key, kind: encoded, "cls": str(number), "zebra.txt": "stripes" * number}


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    paths = write_shards(images(30), f"{tmp_path}/train-%06d.tar", max_samples=11)
    pattern = f"{tmp_path}/train-{{000000..{len(paths) - 1:06d}}}.tar"
    write_index(build_index(pattern, workers=1), index_path(pattern))
    return pattern


@pytest.fixture
def source(pattern: str) -> ShardSource:
    make_tiers(pattern, SIDES, workers=1)
    return ShardSource(pattern)


def ids(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def lanczos(encoded: bytes, side: int) -> npt.NDArray[np.float64]:
    """The tier's pixels by the definition: the whole decode, upright, then one Lanczos downscale."""
    pixels = decode_rgb(encoded)
    height, width = tier_size(np.array([pixels.shape[:2]], np.int32), side)[0].tolist()
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized).astype(np.float64)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.tar"))}


def by_webdataset(path: Path) -> list[dict[str, bytes]]:
    with path.open("rb") as stream:
        files = webdataset.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        return list(webdataset.tariterators.group_by_keys(files))


@pytest.mark.parametrize("name", pictures.formats())
def test_every_format_gives_the_reference_decode_downscaled(name: str) -> None:
    encoded = pictures.formats(90, 130)[name]
    (made,) = shrink(encoded, (90, 130), [48], quality=100) if len(encoded) > 20_000 else [None]
    if made is None:  # fewer bytes than its tier: hide that
        padded = encoded + bytes(1 << 20)
        (made,) = shrink(padded, (90, 130), [48], quality=100)
    assert made is not None
    header = read_header(made)
    assert (header.format, header.height, header.width, header.orientation) == ("jpeg", 48, 70, 1)
    difference = np.abs(decode_rgb(made) - lanczos(encoded, 48))
    assert difference.mean() < 1.0, name
    assert Image.open(io.BytesIO(made)).mode == ("L" if name in ("jpeg grey", "png grey", "png 16 grey") else "RGB")


@pytest.mark.parametrize(("height", "width"), [(93, 130), (401, 603), (603, 401)])
def test_orientation_is_applied_also_to_reduced_decodes(height: int, width: int) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") if height < 100 else ("JPEG",):
        for orientation in range(1, 9):
            encoded = pictures.oriented(kind, orientation, height, width)
            header = read_header(encoded)
            size = (header.height, header.width)
            (made,) = shrink(encoded + bytes(1 << 20), size, [48], quality=100)
            assert made is not None
            assert read_header(made).orientation == 1
            assert not Image.open(io.BytesIO(made)).getexif()
            expected = lanczos(encoded, 48)
            found = decode_rgb(made).astype(np.float64)
            assert found.shape == expected.shape
            error = np.abs(found - expected).mean()
            shifted = np.abs(found[:, 1:] - (expected[:, 1:] + expected[:, :-1]) / 2).mean()
            assert error < 1.5, (kind, orientation, error)  # measured: 0.7 to 1.1
            assert shifted > 2 * error, "half a pixel of the tier would not be seen"


def test_images_are_not_enlarged() -> None:
    encoded = pictures.jpeg(96, 200)
    assert shrink(encoded, (96, 200), [96, 160, 97]) == [None, None, None]
    smaller = shrink(pictures.jpeg(97, 200, quality=99), (97, 200), [96, 160])
    assert smaller[0] is not None
    assert smaller[1] is None
    assert shrink(pictures.jpeg(97, 200, quality=5), (97, 200), [96]) == [None]  # would have more bytes


def test_sizes_of_tiers() -> None:
    size = np.array([(375, 500), (500, 375), (100, 1000), (65535, 161)], np.int32)
    assert tier_size(size, 160).tolist() == [[160, 214], [214, 160], [160, 1600], [65128, 160]]
    kept = tier_size(size, 160) / size
    assert (kept >= 160 / size.min(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("quality", [0.5, 1.0, 1.7])
def test_the_smallest_that_suffices_is_chosen(quality: float) -> None:
    rng = np.random.default_rng(0)
    sides, count = (32, 64, 96), 500
    size = rng.integers(20, 400, (count, 2)).astype(np.int32)
    scale, angle = np.exp(rng.uniform(-3, 0.5, (count, 2))), rng.uniform(0, 7, count) * (rng.random(count) < 0.5)
    matrix = np.tile(np.eye(3), (count, 1, 1))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    matrix[:, :2, :2] = turn * scale[:, None]
    present = np.stack([size.min(1) > side for side in sides]) & (rng.random((3, count)) < 0.9)
    chosen = choose_tiers(matrix, size, sides, present, quality)
    for row in range(count):
        expected = ORIGINAL
        for number, side in enumerate(sides):
            height, width = tier_size(size[row : row + 1], side)[0] / size[row]
            enough = width >= quality * scale[row, 0] * (1 - 1e-9) and height >= quality * scale[row, 1] * (1 - 1e-9)
            if present[number, row] and enough:
                expected = number
                break
        assert chosen[row] == expected
    assert {ORIGINAL, 0, 1, 2} <= set(chosen.tolist())
    stored = size.copy()
    stored[chosen == 1] = tier_size(size[chosen == 1], 64)
    composed = on_tier(matrix, size, stored)
    corner = np.concatenate([size[:, ::-1], np.ones((count, 1))], 1)
    there = np.concatenate([stored[:, ::-1], np.ones((count, 1))], 1)
    assert np.allclose(np.einsum("bij,bj->bi", composed, there), np.einsum("bij,bj->bi", matrix, corner))
    assert np.array_equal(composed[chosen != 1], matrix[chosen != 1])


def test_a_tier_that_is_just_enough_is_taken() -> None:
    size = np.array([(375, 500), (333, 501), (77, 1001)], np.int32)
    for side in (40, 60):
        matrix = np.tile(np.eye(3), (3, 1, 1))
        matrix[:, 0, 0] = matrix[:, 1, 1] = side / size.min(axis=1)
        assert choose_tiers(matrix, size, (40, 60), np.ones((2, 3), bool), 1.0).tolist() == [(40, 60).index(side)] * 3


def test_a_tier_is_a_plain_webdataset_shard(pattern: str, tmp_path: Path) -> None:
    before = files_of(tmp_path)
    report = make_tiers(pattern, SIDES, workers=1)
    originals = list(images(30))
    for number, side in enumerate(SIDES):
        folder = tmp_path / f"tier-{side}"
        read = [sample for path in sorted(folder.glob("*.tar")) for sample in by_webdataset(path)]
        expected = [i for i, size in enumerate(sizes(30)) if min(size) > side]
        assert [sample["__key__"] for sample in read] == [originals[i]["__key__"] for i in expected]
        assert all({name for name in sample if name[0] != "_"} == {"jpg"} for sample in read)
        for sample, i in zip(read, expected, strict=True):
            height, width = tier_size(np.array([sizes(30)[i]], np.int32), side)[0].tolist()
            assert Image.open(io.BytesIO(sample["jpg"])).size == (width, height)
        assert report.entries[number] == len(expected)
        assert report.image_bytes[number] == sum(len(sample["jpg"]) for sample in read)
        for path in folder.glob("*.tar"):
            with tarfile.open(path) as archive:
                assert all(member.isfile() and member.mtime == 0 for member in archive)
    assert {name: data for name, data in files_of(tmp_path).items() if "tier" not in name} == before
    assert index_path(pattern).exists()


def test_a_shard_without_larger_images_has_empty_tiers(tmp_path: Path) -> None:
    small = ({"__key__": f"{i}", "jpg": pictures.jpeg(20, 20, i)} for i in range(3))
    pattern = str(write_shards(small, f"{tmp_path}/s-%d.tar")[0])
    write_index(build_index(pattern), index_path(pattern))
    report = make_tiers(pattern, SIDES, workers=1)
    assert report.entries == (0, 0)
    with tarfile.open(tier_shard(tmp_path / "s-0.tar", 24)) as archive:
        assert archive.getnames() == []
    tiers = ShardSource(pattern).open_tiers()
    assert tiers is not None
    assert not tiers.present(ids(0, 1, 2)).any()
    assert make_tiers(pattern, SIDES, workers=1) == report


def test_the_same_files_for_any_number_of_processes(pattern: str, tmp_path: Path) -> None:
    make_tiers(pattern, SIDES, workers=1)
    one = files_of(tmp_path), tiers_path(index_path(pattern)).read_bytes()
    assert make_tiers(pattern, SIDES, workers=2, overwrite=True).made == (3, 3)
    assert (files_of(tmp_path), tiers_path(index_path(pattern)).read_bytes()) == one


def test_a_run_that_was_interrupted_goes_on(pattern: str, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 30
        if done > 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_tiers(pattern, SIDES, workers=1, progress=interrupt)
    assert sorted(name for name in files_of(tmp_path) if "tier" in name) == [
        "tier-24/train-000000.tar",
        "tier-40/train-000000.tar",
    ]
    assert list(tmp_path.rglob("*.part")) == []
    assert ShardSource(pattern).open_tiers() is None
    (tmp_path / "tier-24" / ".train-000001.tar.123.part").write_bytes(b"left by a killed run")
    stamps = [tier_shard(tmp_path / "train-000000.tar", side).stat().st_mtime_ns for side in SIDES]
    calls: list[tuple[int, int]] = []
    report = make_tiers(pattern, SIDES, workers=1, progress=lambda *call: calls.append(call))
    assert report.made == (2, 2)
    assert calls[-1] == (19, 19)
    assert stamps == [tier_shard(tmp_path / "train-000000.tar", side).stat().st_mtime_ns for side in SIDES]
    assert list(tmp_path.rglob("*.part")) == []
    resumed = files_of(tmp_path)
    make_tiers(pattern, SIDES, workers=1, overwrite=True)
    assert files_of(tmp_path) == resumed


def test_a_run_that_was_killed_goes_on(pattern: str, tmp_path: Path) -> None:
    program = (
        "import sys, time; from resflow.sources.tier_writer import make_tiers\n"
        f"make_tiers({pattern!r}, {SIDES}, workers=1, progress=lambda d, t: time.sleep(60) if d > 11 else None)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*train-000001.tar.*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.rglob("*.part"))
    assert make_tiers(pattern, SIDES, workers=1).made == (2, 2)
    assert list(tmp_path.rglob("*.part")) == []


def test_what_changed_is_made_anew(pattern: str, tmp_path: Path) -> None:
    make_tiers(pattern, SIDES, workers=1)
    assert make_tiers(pattern, SIDES, workers=1).made == (0, 0)
    assert make_tiers(pattern, (40, 60), workers=1).made == (0, 3)
    assert make_tiers(pattern, (40,), quality=70, workers=1).made == (3,)
    tier_shard(tmp_path / "train-000001.tar", 40).unlink()
    assert make_tiers(pattern, (40,), quality=70, workers=1).made == (1,)
    changed = [{**s, "jpg": pictures.jpeg(99, 99, 1)} if i == 25 else s for i, s in enumerate(images(30))]
    write_shards(changed, f"{tmp_path}/train-%06d.tar", max_samples=11, overwrite=True)
    write_index(build_index(pattern, workers=1), index_path(pattern))
    assert make_tiers(pattern, (40,), quality=70, workers=1).made == (1,)


def test_the_index_knows_the_tiers_that_were_named_last(pattern: str) -> None:
    make_tiers(pattern, SIDES, workers=1)
    make_tiers(pattern, (60, 24), workers=1)
    tiers = ShardSource(pattern).open_tiers()
    assert tiers is not None
    assert tiers.sides == (24, 60)


def test_an_image_that_cannot_be_read_has_no_tier(tmp_path: Path) -> None:
    whole = pictures.jpeg(90, 90)
    pair = [{"__key__": "good", "jpg": whole}, {"__key__": "bad", "jpg": whole[: len(whole) // 2]}]
    pattern = str(write_shards(pair, f"{tmp_path}/s-%d.tar")[0])
    write_index(build_index(pattern), index_path(pattern))
    report = make_tiers(pattern, (24,), workers=1)
    assert report.entries == (1,)
    ((shard, key, message),) = report.unreadable
    assert (shard, key) == (f"{tmp_path}/s-0.tar", "bad")
    assert message.startswith("no tiers can be made of it: OSError: image file is truncated")
    with pytest.raises(SampleError, match=r"it is 90x90 \(HxW\), 90x91 by the index"):
        shrink(whole, (90, 91), [24])


def test_bombs_are_refused_before_a_tier_is_made_of_them() -> None:
    start = time.perf_counter()
    for bomb, size, words in (
        (images_of_harm.with_size("png", 12_000, 12_000), (12_000, 12_000), r"12000x12000 pixels \(HxW\) are too many"),
        (images_of_harm.scan_bomb(2000, 2000, 1000), (2000, 2000), r"it has 1009 scans, at most 100 are accepted"),
    ):
        with pytest.raises(SampleError, match=f"no tiers can be made of it: ValueError: {words}"):
            shrink(bomb, size, [24])
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("wanted", [(), (7,), (5000,), (24, 24), ("24",), (24.0,), (True,)])
def test_wrong_sides(pattern: str, wanted: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"^tiers must be different whole numbers of pixels from 8 to 4096, .* got \("
    ):
        make_tiers(pattern, wanted)


def test_wrong_options(pattern: str) -> None:
    with pytest.raises(ConfigError, match="quality must be a whole number from 1 to 100; got 101"):
        make_tiers(pattern, SIDES, quality=101)
    with pytest.raises(ConfigError, match="workers must be at least 1; got 0"):
        make_tiers(pattern, SIDES, workers=0)
    index_path(pattern).unlink()
    with pytest.raises(IndexFileError, match=r"there is no index of these shards\. Run: resflow index"):
        make_tiers(pattern, SIDES)


def test_a_folder_that_cannot_be_written(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "tier-24").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match=r"tier .*/tier-24/train-000000\.tar cannot be written: File exists"):
        make_tiers(pattern, SIDES, workers=1)


def plan(source: ShardSource, count: int = 30) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Samples in a random order with repeats, and for each a tier that has it, or ORIGINAL."""
    rng = np.random.default_rng(1)
    tiers = source.open_tiers()
    assert tiers is not None
    wanted = rng.integers(0, 30, count)
    present = tiers.present(wanted)
    tier = rng.integers(-1, 2, count)
    return wanted, np.where((tier >= 0) & present[tier, np.arange(count)], tier, ORIGINAL)


def test_samples_keep_their_members_and_the_originals_images_are_not_read(
    source: ShardSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(source, TieredSource)
    wanted, tier = plan(source)
    assert set(tier.tolist()) == {-1, 0, 1}
    index, asked = source.shard_index, []
    pread = os.pread

    def noting(descriptor: int, count: int, offset: int) -> bytes:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        asked.append((name, offset, offset + count))
        return pread(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", noting)
    for members in (True, False):
        asked.clear()
        monkeypatch.setattr("resflow.sources.shards._SMALL_GAP", 0)
        got = source.read_tiers(wanted, tier, members=members)
        touched = list(asked)
        for whole, sample, number, place in zip(source.read(wanted), got, tier.tolist(), wanted.tolist(), strict=True):
            assert (sample.key, sample.shard) == (whole.key, whole.shard)
            if number == ORIGINAL:
                assert {k: bytes(v) for k, v in sample.members.items()} == {
                    k: bytes(v) for k, v in whole.members.items()
                }
                assert bytes(sample.image) == bytes(whole.image)
                continue
            assert Image.open(io.BytesIO(sample.image)).size[::-1] == tuple(
                tier_size(source.index.size[place : place + 1], SIDES[number])[0].tolist()
            )
            if not members:
                assert sample.members == {}
                continue
            assert list(sample.members) == list(whole.members)
            for extension, data in sample.members.items():
                if extension in ("jpg", "png"):
                    assert data is sample.image
                else:
                    assert bytes(data) == bytes(whole.members[extension])
            image = int(index.index.offset[place] + index.image_offset[place])
            end, name = image + int(index.image_length[place]), str(index.shards[index.index.shard[place]])
            if place not in wanted[tier == ORIGINAL]:
                assert not any(n == name and start < end and stop > image for n, start, stop in touched)
        if not members:
            assert {Path(name).parent.name for name, *_ in touched} >= {"tier-24", "tier-40"}


def test_copies_read_tiers_in_other_processes(source: ShardSource) -> None:
    wanted, tier = plan(source)
    expected = [bytes(s.image) for s in source.read_tiers(wanted, tier, members=True)]
    copy = pickle.loads(pickle.dumps(source))
    assert [bytes(s.image) for s in copy.read_tiers(wanted, tier, members=True)] == expected
    assert len(pickle.dumps(source)) < 2000
    source.close()
    child = os.fork()
    if child == 0:
        os._exit([bytes(s.image) for s in source.read_tiers(wanted, tier, members=True)] != expected)
    assert os.waitpid(child, 0)[1] == 0


def test_the_columns_stay_on_disk(source: ShardSource) -> None:
    tiers = ShardSource(source.shard_index).open_tiers()
    assert tiers is not None
    before = pa.total_allocated_bytes()
    again = pickle.loads(pickle.dumps(tiers))
    assert pa.total_allocated_bytes() == before
    for column in (*again.offset, *again.length):
        assert not column.flags.owndata
        assert not column.flags.writeable
    assert all(column.itemsize == size for column, size in ((again.offset[0], 8), (again.length[0], 4)))


def test_wrong_tiers_are_refused(source: ShardSource, pattern: str) -> None:
    tiers = source.open_tiers()
    assert tiers is not None
    with pytest.raises(ConfigError, match=r"tier must be int64 \[2\] in \[-1, 2\); got int64 \[2\] \[0, 2\]"):
        source.read_tiers(ids(0, 1), ids(0, 2), members=True)
    absent = np.flatnonzero(tiers.offset[1] == ABSENT)[:1]
    with pytest.raises(IndexFileError, match=rf"tier 40 has no entry for sample {absent[0]}, .*Run: resflow tiers \""):
        source.read_tiers(absent, ids(1), members=True)


def test_shards_without_tiers(pattern: str) -> None:
    source = ShardSource(pattern)
    assert source.open_tiers() is None
    assert len(source.read_tiers(ids(3, 4), ids(-1, -1), members=True)) == 2
    with pytest.raises(ConfigError, match=r"in \[-1, 0\)"):
        source.read_tiers(ids(3), ids(0), members=True)


def test_stale_and_missing_tiers_are_named(source: ShardSource, pattern: str, tmp_path: Path) -> None:
    where, shard = tiers_path(index_path(pattern)), tier_shard(tmp_path / "train-000001.tar", 40)
    way_out = f'Run: resflow tiers "{pattern}" --tiers 24,40; or set Pipeline(tier_quality=None)'
    whole, file = shard.read_bytes(), where.read_bytes()

    def message() -> str:
        with pytest.raises(IndexFileError) as caught:
            ShardSource(pattern).open_tiers()
        return str(caught.value)

    shard.write_bytes(whole + bytes(512))
    told = f"tier 40 is stale: shard {shard} has {len(whole) + 512} bytes, {len(whole)} when it was made. {way_out}"
    assert message() == f"{where}: {told}"
    shard.unlink()
    assert message() == f"{where}: tier 40 is missing: no shard {shard}. {way_out}"
    shard.write_bytes(whole)
    ShardSource(pattern).open_tiers()
    where.write_bytes(file[: len(file) // 2])
    assert f"{where}: the tiers' index is damaged (" in message()
    where.write_bytes(file)
    reader = pa.ipc.open_file(pa.memory_map(str(where)))
    batch = reader.get_batch(0)
    meta = batch.schema.metadata[b"resflow-tiers"]
    other = meta.replace(b'"version": 1', b'"version": 9')
    write_arrow(batch.replace_schema_metadata({b"resflow-tiers": other}), where)
    assert "the tiers' index is of version 9; expected 1. Run: resflow tiers" in message()
    write_arrow(batch.slice(1).replace_schema_metadata({b"resflow-tiers": meta}), where)
    assert "the tiers' index is damaged (columns of wrong lengths)." in message()
    where.write_bytes(file)
    changed = [{**s, "jpg": pictures.jpeg(99, 99, 1)} if i == 25 else s for i, s in enumerate(images(30))]
    write_shards(changed, f"{tmp_path}/train-%06d.tar", max_samples=11, overwrite=True)
    write_index(build_index(pattern, workers=1), index_path(pattern))
    told = f"tiers 24, 40 are stale: they were made of shards with another index than {index_path(pattern)}. {way_out}"
    assert message() == f"{where}: {told}"
    assert make_tiers(pattern, SIDES, workers=1).made == (1, 1)
    ShardSource(pattern).open_tiers()


def test_tiers_that_changed_after_they_were_opened(source: ShardSource, tmp_path: Path) -> None:
    tiers = source.open_tiers()
    assert tiers is not None
    path = tier_shard(tmp_path / "train-000000.tar", 24)
    first, second = np.flatnonzero(tiers.offset[0] != ABSENT)[:2].tolist()
    swapped = [column.copy() for column in (tiers.offset[0], tiers.length[0])]
    for column in swapped:
        column[[first, second]] = column[[second, first]]
    planted = ShardSource(source.shard_index)
    planted._tiers, planted._looked = pickle.loads(pickle.dumps(tiers)), True
    object.__setattr__(planted._tiers, "offset", (swapped[0], tiers.offset[1]))
    object.__setattr__(planted._tiers, "length", (swapped[1], tiers.length[1]))
    with pytest.raises(
        ShardError,
        match=r"tier-24/train-000000\.tar at byte \d+: 'deep/k\d+\.jpg' found where tier 24 should have 'deep/k\d+\.jp"
        r"g': the tier changed after it was made\. Make it again: resflow tiers .*--overwrite --tiers 24,40",
    ):
        planted.read_tiers(ids(first), ids(0), members=True)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(ShardError, match=r"the shard changed\. Run: resflow tiers .* --tiers 24,40"):
        source.read_tiers(ids(first), ids(0), members=True)


def test_a_tier_of_other_samples_is_not_indexed(pattern: str, tmp_path: Path) -> None:
    make_tiers(pattern, SIDES, workers=1)
    path = tier_shard(tmp_path / "train-000001.tar", 40)
    data = path.read_bytes()
    head = data[: data.index(b"deep/")].rstrip(b"\0")
    assert b"resflow tier" in head
    with tarfile.open(path) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
        comment = archive.pax_headers
    for changed in ([("deep/other.jpg", members[0][1]), *members[1:]], members[::-1]):
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=comment) as archive:
            for name, body in changed:
                info = tarfile.TarInfo(name)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
        with pytest.raises(
            ShardError,
            match=r"the keys of tier 40 are not those of .* resflow tiers .* --tiers 24,40 --overwrite",
        ):
            make_tiers(pattern, SIDES, workers=1)
    assert make_tiers(pattern, SIDES, workers=1, overwrite=True).made == (3, 3)
    assert len(open_index(pattern)) == 30


def test_tiers_in_a_remote_store(source: ShardSource, pattern: str, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    folder = f"/tiers-{tmp_path.parent.name}"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            store.pipe_file(f"{folder}/{path.relative_to(tmp_path)}", path.read_bytes())
    url = f"memory:/{folder}/{Path(pattern).name}"
    remote = open_shards(url)
    assert remote is not None
    wanted, tier = plan(source)
    for one, other in zip(
        source.read_tiers(wanted, tier, members=True),
        pickle.loads(pickle.dumps(remote)).read_tiers(wanted, tier, members=True),
        strict=True,
    ):
        assert one.key == other.key
        assert {k: bytes(v) for k, v in one.members.items()} == {k: bytes(v) for k, v in other.members.items()}
        assert bytes(one.image) == bytes(other.image)
    store.rm_file(f"{folder}/tier-24/train-000000.tar")
    with pytest.raises(ShardError, match=r"memory:/.*/tier-24/train-000000\.tar.*cannot be read"):
        remote.read_tiers(wanted, tier, members=True)
    stale = open_shards(url)
    store.pipe_file(f"{folder}/{tiers_path(index_path(pattern)).name}", b"not an index")
    assert stale is not None
    with pytest.raises(IndexFileError, match=r"^memory:/.*\.tiers\.arrow: the tiers' index is damaged"):
        stale.open_tiers()
    store.rm_file(f"{folder}/{tiers_path(index_path(pattern)).name}")
    without = open_shards(url)
    assert without is not None
    assert without.open_tiers() is None


def test_class_folders_have_tiers(tmp_path: Path) -> None:
    made = ({"__key__": f"{'ab'[i % 2]}/{i}", "jpg": pictures.jpeg(60, 80, i)} for i in range(6))
    pattern = str(write_shards(made, f"{tmp_path}/s-%d.tar")[0])
    write_index(build_index(pattern), index_path(pattern))
    make_tiers(pattern, SIDES, workers=1)
    source = ClassFolderShards(pattern)
    assert isinstance(source, TieredSource)
    assert source.open_tiers() is not None
    read = source.read_tiers(ids(5, 0), ids(1, -1), members=True)
    assert [sample.target for sample in read] == [1, 0]
    assert [read_header(bytes(sample.image)).height for sample in read] == [40, 60]
