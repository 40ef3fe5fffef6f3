from __future__ import annotations

import gc
import io
import itertools
import json
import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.utils.data
from PIL import Image

import resflow as rf
from resflow.errors import ConfigError, DecodeError, HeaderError, PlanError, StateError, TargetError, WorkerError
from resflow.plan import World
from resflow.session import streamed
from resflow.session.stream_dataset import BucketedStream
from resflow.session.streamed import StreamSession
from resflow.sources.stream import ShardStream
from tests.shards import jpeg, make_shards

COUNT = 61
PIPELINE = rf.Pipeline(
    resolution=rf.schedules.Steps({0: 32, 1: 64}),
    buckets=3,
    stride=8,
    views=[rf.views.RandomResizedCrop(scale=(0.3, 1.0)), rf.views.HorizontalFlip()],
)


class Items(torch.utils.data.IterableDataset):
    """Items of a list, or what a function makes."""

    def __init__(self, items: list[Any] | Callable[[], Iterator[Any]]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return self._items() if callable(self._items) else iter(self._items)


class Loader(rf.DataLoader[rf.Batch]):
    """The loader with the settings of these tests, and its session to look at."""

    def __init__(
        self, stream: Any, pipeline: rf.Pipeline = PIPELINE, *, batch_size: Any = 4, workers: int = 0, **options: Any
    ) -> None:
        stream = Items(stream) if isinstance(stream, list) else stream
        super().__init__(stream, batch_size, num_workers=workers, pipeline=pipeline, **options)

    @property
    def run(self) -> StreamSession:
        assert isinstance(self._resflow_session, StreamSession)
        return self._resflow_session


@pytest.fixture(autouse=True)
def _few_samples_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "default_learn", lambda batch_size: 12)


class Numbers(torch.utils.data.IterableDataset):
    """(JPEG, number) of many aspect ratios, dealt to workers in uneven parts, in an order of the epoch's own."""

    def __init__(self, count: int = COUNT, *, repeats_itself: bool = True) -> None:
        rng = np.random.default_rng(3)
        sides = np.maximum(4, np.exp(rng.normal(3.4, 0.4, (count, 2)))).astype(int)
        self.items = [(jpeg(int(h), int(w), number), number) for number, (h, w) in enumerate(sides)]
        self.epoch = 0
        self._repeats_itself = repeats_itself

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        items = list(self.items)
        (random.Random(self.epoch) if self._repeats_itself else random.SystemRandom()).shuffle(items)
        info = torch.utils.data.get_worker_info()
        if info is None:
            return iter(items)
        cut = len(items) // 4
        return iter([items[:cut], items[cut:]][info.id] if info.num_workers == 2 else items)


def same(one: rf.Batch, other: rf.Batch) -> None:
    assert one.keys == other.keys
    assert one.resolution == other.resolution
    for name in ("images", "targets", "transform", "valid", "source_size", "sample_ids"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def labels(batches: list[rf.Batch]) -> list[int]:
    return [label for batch in batches for label in batch.targets.tolist()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards"), COUNT, per_shard=10)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_sample_once_in_batches_of_one_shape(workers: int) -> None:
    under_test = Loader(Numbers(), workers=workers)
    for epoch, resolution in enumerate((32, 64)):
        batches = list(under_test)
        assert Counter(labels(batches)) == Counter(range(COUNT))
        assert {batch.resolution for batch in batches} == {resolution}
        assert sum(len(batch) < 4 for batch in batches) <= max(1, workers)
        shapes = {tuple(map(int, shape)) for shape in under_test.run.buckets.shapes.reshape(-1, 2)}
        assert {tuple(batch.images.shape[2:]) for batch in batches} <= shapes
        ids = [number for batch in batches for number in batch.sample_ids.tolist()]
        assert len(set(ids)) == COUNT
        assert under_test.run.epoch == epoch + 1


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_can_be_resumed_from_and_the_rest_is_identical(workers: int) -> None:
    reference = Loader(Numbers(), workers=workers)
    states, whole = [reference.state_dict()], []
    for _epoch in range(2):
        for batch in reference:
            whole.append(batch)
            states.append(json.loads(json.dumps(reference.state_dict())))
    resumed = Loader(Numbers(), workers=workers, persistent_workers=workers > 0)
    for position in range(len(whole)):
        resumed.load_state_dict(states[position])
        assert resumed.state_dict() == states[position]
        rest = whole[position:]
        passes = itertools.chain.from_iterable(itertools.repeat(resumed))
        for one, other in itertools.zip_longest(rest, itertools.islice(passes, len(rest))):
            same(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_resumes_again(workers: int) -> None:
    whole = list(Loader(Numbers(), workers=workers))
    state, position = Loader(Numbers(), workers=workers).state_dict(), 0
    for take in (2, 1, 5, 1):
        resumed = Loader(Numbers(), workers=workers)
        resumed.load_state_dict(state)
        for batch in itertools.islice(resumed, take):
            same(batch, whole[position])
            position += 1
        state = resumed.state_dict()
    assert position == 9


def test_a_set_epoch_keeps_a_restored_place_in_that_epoch_only() -> None:
    reference = Loader(Numbers())
    batches = iter(reference)
    first = [next(batches) for _ in range(3)]
    state = reference.state_dict()
    resumed = Loader(Numbers())
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    same(next(iter(resumed)), next(batches))
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    resumed.set_epoch(0)
    same(next(iter(resumed)), first[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_by_the_wrong_place_would_be_noticed(workers: int) -> None:
    """The law's own check: a place that is one batch off gives another rest."""
    under_test = Loader(Numbers(), workers=workers)
    batches = list(under_test)
    iterator = iter(again := Loader(Numbers(), workers=workers))
    next(iterator), next(iterator)
    again.load_state_dict(again.state_dict())
    with pytest.raises(AssertionError):
        same(next(iter(again)), batches[1])


def test_a_stream_that_does_not_repeat_itself_is_refused_rather_than_resumed_wrongly() -> None:
    under_test = Loader(Numbers(repeats_itself=False))
    list(itertools.islice(under_test, 5))
    resumed = Loader(Numbers(repeats_itself=False))
    resumed.load_state_dict(under_test.state_dict())
    with pytest.raises(StateError, match=r"Numbers did not repeat itself.*its first 5 batch\(es\) hold other samples"):
        next(iter(resumed))
    shorter = Loader(Numbers(8))
    state = under_test.state_dict()
    shorter.load_state_dict(state | {"streams": state["streams"]})
    with pytest.raises(StateError, match=r"did not repeat itself"):
        next(iter(shorter))


def _bmp(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number, number, number)).save(buffer, "BMP")
    return buffer.getvalue()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "image",
    [
        lambda number: torch.full((3, 16, 16), number, dtype=torch.uint8),
        lambda number: np.pad(np.array([[number]], np.uint8), 9),
        lambda number: Image.new("L", (16, 16), number),
        _bmp,
    ],
    ids=["tensor", "one pixel", "pil", "bmp"],
)
def test_the_digest_sees_images_of_one_size_without_keys(image: Any, workers: int) -> None:
    items = [(image(number), 0) for number in range(30)]
    stopped = Loader(Items(items), workers=workers)
    list(itertools.islice(stopped, 3))
    resumed = Loader(Items(items), workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    assert len(list(resumed)) == 8 - 3
    other = Loader(Items(items[::-1]), workers=workers)
    other.load_state_dict(stopped.state_dict())
    with pytest.raises(StateError, match=r"did not repeat itself.*its first 3 batch\(es\) hold other samples"):
        next(iter(other))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed differs: saved 0, current 1"),
        ({"batch_size": 8}, "global_batch_size differs: saved 4, current 8"),
        ({"drop_last": True}, "config.drop_last differs: saved 'False', current 'True'"),
        ({"workers": 2}, "config.num_workers differs: saved '0', current '2'"),
        ({"world": World(1, 2), "batch_size": 2}, "config.rank differs: saved '0', current '1'"),
        ({"pipeline": rf.Pipeline(resolution=32, stride=8)}, r"config\.\w+ differs"),
        ({"stream": [(jpeg(9, 9), 1)]}, r"fingerprint differs: saved '.*Numbers', current '.*Items'"),
    ],
)
def test_a_state_of_another_loader_is_refused_naming_the_field(change: dict, field: str) -> None:
    state = Loader(Numbers()).state_dict()
    if change.get("batch_size") == 2:
        state = Loader(Numbers(), batch_size=2, world=World(0, 2)).state_dict()
    other = Loader(change.pop("stream", Numbers()), **change)
    with pytest.raises(StateError, match=field):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        (None, "'streams' is missing, so it was not saved by a loader over a stream"),
        ({"handed": [0]}, "streams cannot be read"),
        ({"handed": [1], "digests": [0], "turn": 0, "buckets": None}, "streams do not fit together"),
        ({"handed": [0, 0], "digests": [0, 0], "turn": 0, "buckets": None}, "streams do not fit together"),
        ({"handed": [0], "digests": [0], "turn": 0, "buckets": {"edges": "x"}}, "streams cannot be read"),
    ],
)
def test_a_damaged_state_is_refused(streams: Any, message: str) -> None:
    under_test = Loader(Numbers())
    state = under_test.state_dict()
    with pytest.raises(StateError, match=message):
        under_test.load_state_dict(state | {"streams": streams} if streams else {"epoch": 0})


# What waits


@pytest.mark.parametrize("order", ["shuffled", "by ratio", "wide and tall in turn"])
def test_samples_that_wait_never_pass_the_bound(order: str) -> None:
    stream = Numbers(300)
    ratio = [width / height for height, width in (image_size(data) for data, _ in stream.items)]
    if order != "shuffled":
        sort = np.argsort(ratio).tolist()
        if order == "wide and tall in turn":
            sort = [place for pair in zip(sort[:150], sort[:149:-1], strict=True) for place in pair]
        stream.items = [stream.items[place] for place in sort]
    handed = most = alive = 0

    class Counted(bytes):
        """Image bytes that say when the last to hold them lets go."""

        def __new__(cls, data: bytes) -> Counted:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, data)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def items() -> Iterator[tuple[bytes, int]]:
        for data, number in stream.items:
            yield Counted(data), number

    run = Loader(Items(items), batch_size=8).run
    run.begin()
    bound = run.dataset.bucketer().bound
    for request in run.dataset.requests():
        handed += len(request.rows) if hasattr(request, "rows") else 0
        del request
    assert handed == 300
    assert bound == max(12, 3 * 7 + 1)
    assert most <= bound + 8 + 1  # a batch on its way to the decoder, and the stream's own variable


def image_size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.height, image.width


# What comes


PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
GREY = PICTURE[..., 0]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (PICTURE, PICTURE),
        (GREY, np.repeat(GREY[..., None], 3, 2)),
        (torch.from_numpy(PICTURE).permute(2, 0, 1), PICTURE),
        (Image.fromarray(PICTURE), PICTURE),
        (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, 2)),
    ],
    ids=["array", "grey array", "tensor", "PIL", "grey PIL"],
)
@pytest.mark.parametrize("form", ["tuple", "bare", "webdataset"])
def test_pixels_come_through_untouched_where_the_shape_is_their_own(image: Any, expected: Any, form: str) -> None:
    item = {"tuple": (image, 3), "bare": image, "webdataset": {"__key__": "k", "png": image, "cls": 3}}[form]
    buckets = rf.Buckets(np.array([]), np.array([47], np.int32), np.array([[[40, 56]]], np.int32), 8)
    pipeline = rf.Pipeline(resolution=47, buckets=buckets, stride=8, targets=None if form == "bare" else "cls")
    [batch] = Loader([item], pipeline)
    assert np.array_equal(batch.images[0].permute(1, 2, 0).numpy(), expected)
    assert form == "bare" or batch.targets.tolist() == [3]


def test_paths_bytes_and_shards_give_the_same_pixels(tmp_path: Path) -> None:
    data = jpeg(40, 56)
    path = tmp_path / "one.jpg"
    path.write_bytes(data)
    images = [next(iter(Loader([(form, 1)]))).images for form in (data, memoryview(data), path, str(path))]
    images.append(next(iter(Loader([{"__key__": "a", "jpg": data, "cls": b"1"}]))).images)
    assert all(image.shape == images[0].shape for image in images)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (
            {"__key__": "a/b", "__url__": "x.tar", "cls": b"1"},
            ConfigError,
            r"sample x\.tar/a/b has no image: .* got cls",
        ),
        (
            {"__key__": "ab", "jpg": jpeg(9, 9), "txt": b"1"},
            TargetError,
            r"expected a member \.cls; got \.jpg, \.txt.*/ab",
        ),
        ({"__key__": "ab", "jpg": jpeg(9, 9), "cls": b"dog"}, TargetError, r"decimal number.*b'dog'.*Items/ab"),
        ({"__key__": "ab", "jpg": b"no picture at all", "cls": b"1"}, HeaderError, r"no image header.*Items/ab"),
        (
            (torch.zeros(3, 8, 8), 1),
            ConfigError,
            r"sample 1 of the stream Items is torch\.float32 \[3, 8, 8\]; expected uint8",
        ),
        ((object(), 1), ConfigError, "sample 1 of the stream Items is of type object"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_item_is_named(item: Any, error: type[Exception], message: str, workers: int) -> None:
    good = {"__key__": "good", "jpg": jpeg(20, 20), "cls": b"1"} if isinstance(item, dict) else (jpeg(20, 20), 1)
    with pytest.raises(error, match=message):
        list(Loader([good, item, good], workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_ends_the_pass_naming_it_and_is_raised_again(workers: int) -> None:
    stream = Numbers()
    data = jpeg(90, 90)
    stream.items[-1] = (data[: data.index(b"\xff\xda")] + bytes(40), 60)
    batches = iter(Loader(stream, workers=workers))
    with pytest.raises(DecodeError, match=r"turbo cannot decode image .*\(sample Numbers/\d+\)"):
        list(batches)
    with pytest.raises(DecodeError):
        next(batches)


def test_two_passes_at_once_over_persistent_workers_are_not_mixed_up() -> None:
    under_test = Loader(Numbers(), workers=2, persistent_workers=True)
    first = list(under_test)
    assert [batch.keys for batch in itertools.islice(under_test, 3)] != [batch.keys for batch in first[:3]]
    under_test.set_epoch(0)
    for one, other in itertools.zip_longest(under_test, first):
        same(one, other)


def test_other_buckets_in_a_state_replace_living_workers() -> None:
    under_test = Loader(Numbers(), workers=2, persistent_workers=True)
    whole = list(under_test)
    state = under_test.state_dict()
    state["streams"]["buckets"] = None
    under_test.load_state_dict(state | {"epoch": 0})
    assert under_test.run.begin() is False
    state["streams"]["buckets"] = {
        "edges": [], "resolutions": [32, 64], "shapes": [[[32, 32]], [[64, 64]]], "stride": 8, "max_crop": 0.0
    }  # fmt: skip
    under_test.load_state_dict(state | {"epoch": 0})
    shapes = {tuple(batch.images.shape[2:]) for batch in under_test}
    assert shapes == {(32, 32)}
    assert len({tuple(batch.images.shape[2:]) for batch in whole}) > 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_streams_own_code_comes_as_it_is_and_is_not_passed_over(workers: int) -> None:
    batches = iter(Loader(Items(_breaks), workers=workers))
    found = ""
    try:  # not pytest.raises, which would hold PyTorch's iterator
        list(batches)
    except LookupError as error:
        found = str(error)
    assert "out of cheese" in found
    with pytest.raises(WorkerError, match=r"this pass ended with a LookupError, raised before\. Start another"):
        list(batches)


@pytest.mark.parametrize("ends", ["by itself", "early", "by an error"])
@pytest.mark.parametrize("persistent", [False, True])
def test_nothing_but_the_loop_holds_a_pass_so_that_its_workers_end_with_it(ends: str, persistent: bool) -> None:
    stream = Numbers()
    if ends == "by an error":
        stream.items[30] = (b"no picture at all", 30)
    under_test = Loader(stream, workers=2, persistent_workers=persistent)
    before = psutil.Process().children()
    batches = iter(under_test)
    held = weakref.ref(batches)
    workers = [child for child in psutil.Process().children() if child not in before]
    taken, failed = 0, False
    gc.disable()
    try:
        for _ in range(2 if ends == "early" else 10**6):
            next(batches)
            taken += 1
    except StopIteration:
        pass
    except HeaderError:
        failed = True
    finally:
        del batches, under_test
        alive = held()
        gc.enable()
    assert failed == (ends == "by an error")
    assert taken >= 2 or failed
    assert alive is None
    assert psutil.wait_procs(workers, timeout=2)[1] == []


def _breaks() -> Iterator[tuple[bytes, int]]:
    info = torch.utils.data.get_worker_info()
    if info is None or not isinstance(info.dataset, BucketedStream):
        yield from ((jpeg(20, 20), number) for number in range(30))
    else:
        yield jpeg(20, 20), 0
    raise LookupError("out of cheese")


def test_an_ended_pass_stays_ended_and_the_next_epoch_comes_once() -> None:
    under_test = Loader(Numbers())
    batches = iter(under_test)
    assert len(list(batches)) > 1
    assert list(batches) == []
    assert under_test.run.epoch == 1


def test_no_samples_are_no_batches() -> None:
    for workers in (0, 2):
        under_test = Loader(Items(_nothing), workers=workers)
        assert list(under_test) == []
        assert under_test.run.buckets is None


def _nothing() -> Iterator[Any]:
    return iter(())


def test_workers_that_are_started_anew_resume_too(shards: str) -> None:
    reference = Loader(ShardStream(shards, shuffle=True), workers=1)
    batches = iter(reference)
    next(batches), next(batches)
    state = reference.state_dict()
    resumed = Loader(ShardStream(shards, shuffle=True), workers=1, multiprocessing_context="spawn")
    resumed.load_state_dict(state)
    for one, other in itertools.zip_longest(resumed, batches):
        same(one, other)


def test_uneven_workers_are_taken_in_turn_and_little_waits() -> None:
    """Worker 1 has three times as many samples as worker 0; the order does not depend on who is fast."""
    under_test = Loader(Numbers(200), workers=2, prefetch_factor=2)
    one_pass: Any = iter(under_test)
    queues = one_pass._batches._queues
    order, most = [], 0
    for batch in one_pass:
        order.append(int(batch.sample_ids[0]) % 2)
        most = max(most, sum(map(len, queues)))
    turns = order.count(0)
    assert order == [0, 1] * turns + [1] * (len(order) - 2 * turns)
    assert len(order) > 3 * turns
    assert most <= 2 * 2


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_without_an_index_come_once_over_all_ranks_and_workers(shards: str, ranks: int, workers: int) -> None:
    batches = []
    for rank in range(ranks):
        world = World(rank, ranks)
        batches += list(Loader(ShardStream(shards, shuffle=True, world=world), workers=workers, world=world))
    assert Counter(key for batch in batches for key in batch.keys) == Counter(f"{i:05d}" for i in range(COUNT))
    assert all((batch.targets == torch.tensor([int(key) % 7 for key in batch.keys])).all() for batch in batches)
    numbers = [number for batch in batches for number in batch.sample_ids.tolist()]
    assert max(Counter(numbers).values()) == 1


def test_fewer_shards_than_streams_are_refused_when_the_loader_is_made(shards: str) -> None:
    with pytest.raises(ConfigError, match=r"7 shard\(s\) cannot be dealt out to 8 streams .*Use fewer workers"):
        Loader(ShardStream(shards, world=World(0, 4)), workers=2, world=World(0, 4))


def test_a_resolution_below_the_stride_is_refused_when_the_loader_is_made() -> None:
    with pytest.raises(PlanError, match=r"resolution 16.*stride 32"):
        Loader(Numbers(), rf.Pipeline(resolution=16, stride=32))


@pytest.fixture
def wds() -> Iterator[Any]:
    """webdataset, which leaves its files to the garbage collector."""
    yield pytest.importorskip("webdataset")
    gc.collect()


LEAVES_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@LEAVES_FILES_OPEN
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decode", [None, "pil", "rgb8", "torchrgb8"])
def test_webdataset_pipelines_are_streams(wds: Any, shards: str, decode: str | None, workers: int) -> None:
    def make() -> Loader:
        dataset = wds.WebDataset(shards, shardshuffle=7, detshuffle=True, seed=5)
        return Loader(dataset.decode(decode) if decode else dataset, workers=workers)

    reference = make()
    reference.set_epoch(1)
    whole, states = [], []
    for batch in reference:
        whole.append(batch)
        states.append(reference.state_dict())
    assert Counter(key for batch in whole for key in batch.keys) == Counter(f"{i:05d}" for i in range(COUNT))
    assert all(int(k) % 7 == label for b in whole for k, label in zip(b.keys, b.targets.tolist(), strict=True))
    resumed = make()
    resumed.load_state_dict(states[3])
    for one, other in itertools.zip_longest(resumed, whole[4:]):
        same(one, other)


@LEAVES_FILES_OPEN
def test_webdataset_tuples_and_other_epochs_come_in_another_order(wds: Any, shards: str) -> None:
    under_test = Loader(wds.WebDataset(shards, shardshuffle=7, detshuffle=True, seed=5).to_tuple("jpg", "cls"))
    first, second = list(under_test), list(under_test)
    assert Counter(labels(first)) == Counter(labels(second)) == Counter(i % 7 for i in range(COUNT))
    assert labels(first) != labels(second)
