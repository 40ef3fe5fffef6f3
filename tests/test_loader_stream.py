"""A loader over what comes as a stream: iterable datasets, webdataset's pipelines, shards at a URL."""

from __future__ import annotations

import functools
import gc
import http.server
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.utils.data
import webdataset as wds

import resflow as rf
from resflow.errors import ConfigError, ShardError, StateError, TargetError
from tests.shards import jpeg, make_shards

COUNT = 53
PIPELINE = rf.Pipeline(
    resolution=rf.schedules.Steps({0: 32, 1: 48}), buckets=3, stride=8, views=[rf.views.HorizontalFlip()]
)


class Pictures(torch.utils.data.IterableDataset):
    """Encoded pictures with their number as the target, dealt to the workers in turn."""

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, COUNT, step):
            yield jpeg(40 + number % 7 * 9, 90 - number % 5 * 11, number), number


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("stream"), COUNT, per_shard=14)


@pytest.fixture(scope="module")
def url(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Served without the index."""
    folder, name = tmp_path_factory.mktemp("served"), Path(shards).name
    for shard in Path(shards).parent.glob("*.tar"):
        (folder / shard.name).symlink_to(shard)
    yield from served(folder, name)


@pytest.fixture(scope="module")
def indexed_url(shards: str) -> Iterator[str]:
    yield from served(Path(shards).parent, Path(shards).name)


def served(folder: Path, name: str) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{name}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that serves ranges, or, where `ignore_ranges` says so, whole files with status 200."""

    ignore_ranges = False

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked is None or self.ignore_ranges or not path.is_file():
            super().do_GET()
            return
        first, last = map(int, asked.groups())
        content = path.read_bytes()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(content[first : last + 1])


def loader(dataset: object, workers: int = 0, **arguments) -> rf.DataLoader:
    return rf.DataLoader(dataset, batch_size=6, num_workers=workers, pipeline=PIPELINE, **arguments)


def check_pass(batches: list[rf.Batch], resolution: int, streams: int) -> None:
    assert Counter(target for batch in batches for target in batch.targets.tolist()) == Counter(range(COUNT))
    assert sum(len(batch) < 6 for batch in batches) <= streams
    for batch in batches:
        assert batch.resolution == resolution
        assert batch.images.dtype == torch.uint8
        assert len({*batch.images.shape[2:]} | {8}) <= 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_comes_in_batches_of_one_shape(workers: int) -> None:
    under_test = loader(Pictures(), workers)
    check_pass(list(under_test), 32, max(1, workers))
    check_pass(list(under_test), 48, max(1, workers))
    with pytest.raises(TypeError, match="number of batches is not known before its end"):
        len(under_test)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_every_batch_gives_the_rest_bit_by_bit(workers: int) -> None:
    reference = loader(Pictures(), workers)
    whole, states = [], []
    for _ in range(2):
        for batch in reference:
            whole.append(batch)
            states.append(json.loads(json.dumps(reference.state_dict())))
    for position, state in enumerate(states[:-1], 1):
        resumed = loader(Pictures(), workers)
        resumed.load_state_dict(state)
        rest = whole[position : position + 9]
        passes = itertools.chain.from_iterable(itertools.repeat(resumed))
        for one, other in zip(rest, itertools.islice(passes, len(rest)), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.targets, other.targets)
            assert torch.equal(one.transform, other.transform)


# webdataset leaves the closing of its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_webdataset_pipeline_is_taken_as_it_is(shards: str, workers: int) -> None:
    dataset = wds.WebDataset(shards, shardshuffle=False)
    batches = list(loader(dataset, workers))
    assert Counter(key for batch in batches for key in batch.keys) == Counter(f"{i:05d}" for i in range(COUNT))
    decoded = wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
    assert sum(len(batch) for batch in loader(decoded, workers)) == COUNT
    gc.collect()


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_at_a_url_stream_without_an_index(shards: str, url: str, workers: int) -> None:
    batches = list(loader(url, workers, shuffle=True))
    assert Counter(key for batch in batches for key in batch.keys) == Counter(f"{i:05d}" for i in range(COUNT))
    for batch in batches:
        assert batch.targets.tolist() == [int(key) % 7 for key in batch.keys]


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_at_a_url_with_an_index_follow_the_plan(shards: str, indexed_url: str, workers: int) -> None:
    local, remote = loader(shards, shuffle=True), loader(indexed_url, workers, shuffle=True)
    assert len(remote) == len(local)
    assert remote.state_dict() == local.state_dict()
    for one, other in itertools.zip_longest(local, remote):
        assert one.keys == other.keys
        assert torch.equal(one.images, other.images)


def test_a_server_that_ignores_ranges_is_named(indexed_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    under_test = loader(indexed_url)
    monkeypatch.setattr(_Quiet, "ignore_ranges", True)
    with pytest.raises(ShardError, match=r"bytes were asked for, \d+ came: .* does not serve ranges"):
        list(under_test)


def test_a_shard_that_vanished_from_an_index_is_named(indexed_url: str, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, 20, per_shard=10)
    for url in served(tmp_path, Path(shards).name):
        (tmp_path / "train-000001.tar").unlink()
        with pytest.raises(ShardError, match=r"http://127\.0\.0\.1:\d+/train-000001\.tar at byte \d+: cannot be read"):
            list(loader(url))


def test_a_missing_shard_at_a_url_is_named(url: str) -> None:
    with pytest.raises(ShardError, match=r"http://127\.0\.0\.1:\d+/train-000004\.tar at byte 0"):
        list(loader(url.replace("{000000..000003}", "{000000..000009}")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"shuffle": True}, "shuffle has no meaning for a stream"), ({"even": True}, "even has no meaning for a stream")],
)
def test_arguments_without_meaning_for_a_stream_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(Pictures(), **arguments)


def test_a_state_of_a_plan_is_refused(shards: str) -> None:
    state = rf.DataLoader(shards, batch_size=6, pipeline=PIPELINE).state_dict()
    with pytest.raises(StateError, match="'streams' is missing"):
        loader(Pictures()).load_state_dict(state)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("spec", ["txt", "cls"])
def test_texts_of_a_stream_are_decoded_by_webdataset(spec: str, tmp_path: Path) -> None:
    with wds.TarWriter(str(tmp_path / "captions.tar")) as writer:
        for number in range(4):
            writer.write({"__key__": str(number), "jpg": jpeg(40, 60), "txt": f"caption {number}"})
    shards = wds.WebDataset(str(tmp_path / "captions.tar"), shardshuffle=False)
    pipeline = rf.Pipeline(resolution=32, stride=8, buckets=1, targets=spec)
    with pytest.raises(TargetError, match=r"bytes b'caption 0', no class .*\.decode\(\)\.to_tuple\(\"jpg\", \"txt\"\)"):
        list(rf.DataLoader(shards.to_tuple("jpg", "txt"), 4, pipeline=pipeline))
    shards = wds.WebDataset(str(tmp_path / "captions.tar"), shardshuffle=False)
    (batch,) = rf.DataLoader(shards.decode().to_tuple("jpg", "txt"), 4, pipeline=pipeline)
    assert batch.targets == [f"caption {number}" for number in range(4)]
