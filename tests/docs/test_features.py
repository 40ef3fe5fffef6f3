"""README's table of features beside the peers: every cell is what a small run of the thing itself shows here.

A cell is "no" where the peer raises, loses or lacks what is asked, "by hand" where a few lines around its public parts
do it (they are below), or a word for what it does instead. Peers are run in the way that favours them.
"""

from __future__ import annotations

import multiprocessing
import tarfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
import webdataset as wds
from nvidia.dali import fn, pipeline_def
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

import resflow as rf
from resflow.errors import ResflowError
from resflow.sources import build_index, index_path, write_index
from tests.shards import jpeg, make_shards

# webdataset leaves the closing of its files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
COUNT, BATCH = 13, 2
COLUMNS = ("Resflow", "torch", "WebDataset", "DALI")
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- features: each cell is shown by tests/docs/test_features.py -->", "<!-- end of features -->"
PIPELINE = rf.Pipeline(resolution=rf.schedules.Steps({0: 32, 1: 48}), buckets=3, stride=8)
Check = Callable[["Data"], str]


class Data:
    """Shards, whole, with a bad sample, and cut; the environment that tells webdataset its rank."""

    environment: pytest.MonkeyPatch

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pattern = make_shards(folder / "whole", COUNT, per_shard=5)
        self.paths = sorted(map(str, folder.glob("whole/*.tar")))
        self.keys = [f"{number:05d}" for number in range(COUNT)]
        self.bad = str(folder / "bad-000000.tar")
        with wds.TarWriter(self.bad) as writer:
            for number in range(4):
                whole = jpeg(40, 40 + number, number)
                image = whole if number != 2 else whole[: len(whole) * 2 // 3]
                writer.write({"__key__": f"{number:05d}", "jpg": image, "cls": str(number).encode()})

    def cuts(self) -> Iterator[str]:
        """The first shard, indexed whole for all that use an index, then cut at, in and behind each of its headers."""
        with tarfile.open(self.paths[0]) as archive:
            members = archive.getmembers()
        folder = self.folder / f"cut{len(list(self.folder.glob('cut*')))}"
        pattern = make_shards(folder, 5, per_shard=5)
        path = Path(pattern.replace("{000000..000000}", "000000"))
        whole = path.read_bytes()
        assert whole == Path(self.paths[0]).read_bytes()
        parts: dict[str, list[str]] = {}
        for member in members:
            key, extension = member.name.split(".")
            parts.setdefault(key, []).append(f"{extension} {member.offset_data} {member.size} {member.name}")
        lines = [" ".join(entries) for entries in parts.values()]
        (folder / "dali.idx").write_text("\n".join([f"v1.2 {len(lines)}", *lines]) + "\n")
        yield str(path)
        for member in members[1:]:
            for cut in (member.offset, member.offset + 100, member.offset_data, member.offset_data + member.size // 2):
                path.unlink()  # what was opened before keeps the whole file
                path.write_bytes(whole[:cut])
                yield str(path)


def planned(data: str, batch_size: int = BATCH, **arguments: Any) -> rf.DataLoader:
    return rf.DataLoader(data, batch_size=batch_size, shuffle=True, pipeline=PIPELINE, **arguments)


def streamed(shards: Any, **arguments: Any) -> Any:
    return wds.WebDataset(shards, shardshuffle=False, empty_check=False, **arguments)


@pipeline_def  # type: ignore[untyped-decorator]
def _dali(paths: list[str], rank: int, world: int) -> Any:
    outputs: Any = fn.readers.webdataset(
        paths=paths, ext=["jpg", "cls"], shard_id=rank, num_shards=world, random_shuffle=True, seed=3, name="reader"
    )
    return fn.resize(fn.decoders.image(outputs[0], device="cpu"), size=[16, 16]), outputs[1]


def dali(paths: list[str], batch_size: int = BATCH, *, rank: int = 0, world: int = 1, **options: Any) -> Any:
    pipe = _dali(paths, rank, world, batch_size=batch_size, num_threads=1, device_id=None, **options)
    policy = LastBatchPolicy.PARTIAL
    return DALIGenericIterator(pipe, ["images", "labels"], reader_name="reader", last_batch_policy=policy)


def prints(batch: Any) -> list[int]:
    """A number for each image of DALI's batch, by which it is known again: all are different."""
    return [int(total) for total in batch[0]["images"].to(torch.int64).sum((1, 2, 3))]


def raises(errors: type[Exception] | tuple[type[Exception], ...], call: Callable[[], object]) -> bool:
    try:
        call()
    except errors:
        return True
    return False


def yes(shown: bool) -> str:
    return "yes" if shown else "no"


# Batches of one shape each, images undistorted.


class Decoded(Dataset[torch.Tensor]):
    """Images of many sizes, decoded; and what a training loop sets for the next epoch."""

    side = 32

    def __init__(self, shared: torch.Tensor | None = None) -> None:
        self.shared = shared

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.zeros(3, 30 + number, 40)


def shapes_resflow(data: Data) -> str:
    batches = list(planned(data.pattern))
    scales = torch.cat([batch.transform[:, (0, 1), (0, 1)] for batch in batches])
    undistorted = bool(((scales[:, 0] / scales[:, 1] - 1).abs() < 0.05).all())  # the edges are rounded to pixels
    return yes(undistorted and len({batch.images.shape[2:] for batch in batches}) > 1)


def shapes_torch(data: Data) -> str:
    return yes(not raises(RuntimeError, lambda: next(iter(DataLoader(Decoded(), batch_size=4)))))


def shapes_webdataset(data: Data) -> str:
    batches = streamed(data.pattern).decode("torchrgb").to_tuple("jpg", "cls").batched(4)
    return yes(not raises(AssertionError, lambda: next(iter(batches))))


def shapes_dali(data: Data) -> str:
    @pipeline_def  # type: ignore[untyped-decorator]
    def images() -> Any:
        return fn.decoders.image(fn.readers.webdataset(paths=data.paths, ext=["jpg"]), device="cpu")

    [batch] = images(batch_size=4, num_threads=1, device_id=None).run()
    return yes(batch.is_dense_tensor())


# Each sample once, and as many steps on each rank.


def once_resflow(data: Data) -> str:
    ranks = [list(planned(data.pattern, world=rf.World(rank, 4))) for rank in range(4)]
    keys = sorted(key for batches in ranks for batch in batches for key in batch.keys)
    return yes(keys == data.keys and len({len(batches) for batches in ranks}) == 1)


def once_torch(data: Data) -> str:
    def drawn(drop_last: bool) -> list[int]:
        ranks: list[Any] = [DistributedSampler(Decoded(), 4, rank, drop_last=drop_last) for rank in range(4)]
        return [number for rank in ranks for number in rank]

    repeats, drops = len(drawn(False)) > COUNT, len(drawn(True)) < COUNT
    return "repeats or drops" if repeats and drops else yes(not repeats)


def once_webdataset(data: Data) -> str:
    counts = []
    for rank in range(2):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 2), ("WORKER", 0), ("NUM_WORKERS", 1)):
            data.environment.setenv(name, str(value))
        counts.append(len(list(streamed(data.pattern, nodesplitter=wds.split_by_node))))
    assert sum(counts) == COUNT
    return "unequal steps" if counts[0] != counts[1] else "yes"


def once_dali(data: Data) -> str:
    ranks = [list(dali(data.paths, rank=rank, world=4)) for rank in range(4)]
    found = [image for batches in ranks for batch in batches for image in prints(batch)]
    return yes(len(found) == len(set(found)) == COUNT and len({len(batches) for batches in ranks}) == 1)


# A state saved in mid-epoch, gone on with by as many ranks, and by others.


def resumed_resflow(data: Data, before: int, after: int) -> bool:
    seen: list[str] = []
    rest: list[str] = []
    for rank in range(before):
        loader = planned(data.pattern, 8 // before, world=rf.World(rank, before))
        seen += next(iter(loader)).keys
        state = loader.state_dict()
    for rank in range(after):
        loader = planned(data.pattern, 8 // after, world=rf.World(rank, after))
        loader.load_state_dict(state)
        rest += [key for batch in loader for key in batch.keys]
    return len(seen) == 8 and sorted(seen + rest) == data.keys


def resumed_dali(data: Data, before: int, after: int) -> bool:
    seen: list[int] = []
    rest: list[int] = []
    for rank in range(before):
        loader = dali(data.paths, 4 // before, rank=rank, world=before, enable_checkpointing=True)
        seen += prints(next(loader))
        [state] = loader.checkpoints()
    for rank in range(after):
        options = {"rank": rank, "world": after, "enable_checkpointing": True, "checkpoint": state}
        rest += [image for batch in dali(data.paths, 4 // after, **options) for image in prints(batch)]
    everything = [image for batch in dali(data.paths) for image in prints(batch)]
    return len(seen) == 4 and sorted(seen + rest) == sorted(everything)


def has_state(*loaders: object) -> str:
    return yes(any(hasattr(loader, "state_dict") for loader in loaders))


def state_torch(data: Data) -> str:
    return has_state(DataLoader(Decoded()))


def state_webdataset(data: Data) -> str:
    return has_state(dataset := streamed(data.pattern), wds.WebLoader(dataset, batch_size=None))


# Truncated shards, the length of an epoch, bad samples.


def loses_nothing(data: Data, keys: Callable[[str], int]) -> str:
    """Whether every cut is an error or leaves the samples whole."""
    cuts = data.cuts()
    assert keys(next(cuts)) == 5
    errors = (ResflowError, tarfile.ReadError, RuntimeError)
    return yes(all(raises(errors, lambda path=path: keys(path)) for path in cuts))  # type: ignore[misc]


def cut_dali(path: str) -> int:
    """With its index and plain reads: without an index it takes a shard that ends between two members for whole."""

    @pipeline_def  # type: ignore[untyped-decorator]
    def images() -> Any:
        options: dict[str, Any] = {"missing_component_behavior": "error", "dont_use_mmap": True, "name": "reader"}
        index = str(Path(path).parent / "dali.idx")
        outputs: Any = fn.readers.webdataset(paths=[path], index_paths=[index], ext=["jpg", "cls"], **options)
        return outputs[0]

    pipe = images(batch_size=1, num_threads=1, device_id=None)
    pipe.build()
    return sum(pipe.run()[0].shape()[0][0] > 0 for _ in range(pipe.reader_meta("reader")["epoch_size"]))


def cut_resflow(path: str) -> int:
    return sum(len(batch) for batch in planned(path.replace("000000.tar", "{000000..000000}.tar")))


def tar_torch(data: Data) -> str:
    return "reads none" if not any("tar" in name.lower() for name in dir(torch.utils.data)) else "yes"


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(COUNT))


def length_resflow(data: Data) -> str:
    return yes(len(loader := planned(data.pattern)) == len(list(loader)))


def length_torch(data: Data) -> str:
    return yes(not raises(TypeError, lambda: len(DataLoader(Stream(), batch_size=BATCH))))


def length_webdataset(data: Data) -> str:
    return yes(
        not raises(TypeError, lambda: len(wds.WebLoader(streamed(data.pattern).batched(BATCH), batch_size=None)))
    )


def length_dali(data: Data) -> str:
    return yes(len(loader := dali(data.paths)) == len(list(loader)))


class OneBad(Decoded):
    def __getitem__(self, number: int) -> torch.Tensor:
        if number == 2:
            raise ValueError("bad")
        return torch.zeros(3, 8, 8)


def bad_resflow(data: Data) -> str:
    write_index(build_index(data.bad, workers=1), index_path(data.bad))
    pipeline = rf.Pipeline(resolution=32, buckets=1, stride=8, on_error=rf.Skip())
    loader = rf.DataLoader(data.bad, batch_size=2, pipeline=pipeline)
    batches = list(loader)
    return yes(len(batches) == 2 and [bool(s.reason) and s.key for s in loader.skipped] == ["00002"])


def bad_torch(data: Data) -> str:
    return yes(not raises(ValueError, lambda: list(DataLoader(OneBad(), batch_size=2))))


def bad_webdataset(data: Data) -> str:
    told: list[tuple[str, str]] = []

    def account(error: Any) -> bool:
        told.append((error.key, repr(error)))
        return True

    kept = [sample["__key__"] for sample in streamed(data.bad).decode("torchrgb", handler=account)]
    return yes(kept == ["00000", "00001", "00003"] and [key for key, _ in told] == ["00002"])


def bad_dali(data: Data) -> str:
    return yes(not raises(RuntimeError, lambda: list(dali([data.bad]))))


# Another resolution in the next epoch, from the same loader and its living workers.


class Sized(Decoded):
    def __getitem__(self, number: int) -> torch.Tensor:
        side = self.side if self.shared is None else int(self.shared)
        return torch.zeros(3, side, side)


def workers(others: Collection[int | None] = ()) -> set[int | None]:
    """The processes at work, but for others that were there before."""
    return {process.pid for process in multiprocessing.active_children()} - set(others)


def changed_torch(shared: torch.Tensor | None, make: Callable[[Sized], Any]) -> bool:
    """Whether the workers see what is set on the dataset, or in memory that is shared with them."""
    dataset, others = Sized(shared), workers()
    loader = make(dataset)
    before, at_work = {batch.shape[-1] for batch in loader}, workers(others)
    dataset.side = 48
    if shared is not None:
        shared.fill_(48)
    after = {batch.shape[-1] for batch in loader}
    assert before == {32}
    assert at_work == workers(others) != set()
    return after == {48}


def by_hand(make: Callable[[Sized], Any]) -> str:
    if changed_torch(None, make):
        return "yes"
    shared = torch.tensor(32)
    shared.share_memory_()  # type: ignore[no-untyped-call]
    return "by hand" if changed_torch(shared, make) else "no"


def changes_torch(data: Data) -> str:
    return by_hand(lambda dataset: DataLoader(dataset, batch_size=2, num_workers=1, persistent_workers=True))


def changes_webdataset(data: Data) -> str:
    def make(dataset: Sized) -> Any:
        images = streamed(data.pattern).map(lambda sample: (dataset[0],)).batched(2).map(lambda batch: batch[0])
        return wds.WebLoader(images, batch_size=None, num_workers=1, persistent_workers=True)

    return by_hand(make)


def changes_resflow(data: Data) -> str:
    others = workers()
    loader = planned(data.pattern, num_workers=1, persistent_workers=True)
    sides: list[set[int]] = []
    pids: list[set[int | None]] = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        sides.append({batch.resolution for batch in loader})
        pids.append(workers(others))
    return yes(sides == [{32}, {48}] and pids[0] == pids[1] != set())


def changes_dali(data: Data) -> str:
    @pipeline_def  # type: ignore[untyped-decorator]
    def images() -> Any:
        encoded = fn.readers.webdataset(paths=data.paths, ext=["jpg"])
        return fn.resize(fn.decoders.image(encoded, device="cpu"), size=fn.external_source(name="size"))

    pipe, sides = images(batch_size=2, num_threads=1, device_id=None, prefetch_queue_depth=1), []
    pipe.build()
    for side in (32, 48):
        pipe.feed_input("size", [np.full(2, side, np.float32)] * 2)
        sides.append(pipe.run()[0].shape()[0][0])
    return yes(sides == [32, 48])


ROWS: dict[str, tuple[Check, Check, Check, Check]] = {
    "Images of many sizes come in batches of one shape each, undistorted": (
        shapes_resflow,
        shapes_torch,
        shapes_webdataset,
        shapes_dali,
    ),
    "Each sample once an epoch, equally many steps on each rank, whatever their number": (
        once_resflow,
        once_torch,
        once_webdataset,
        once_dali,
    ),
    "Resumes in mid-epoch at the next sample": (
        lambda data: yes(resumed_resflow(data, 1, 1)),
        state_torch,
        state_webdataset,
        lambda data: yes(resumed_dali(data, 1, 1)),
    ),
    "The same on another number of ranks, the global batch being as large": (
        lambda data: yes(resumed_resflow(data, 1, 2) and resumed_resflow(data, 2, 1)),
        state_torch,
        state_webdataset,
        lambda data: yes(resumed_dali(data, 1, 2)),
    ),
    "Another resolution in the next epoch, with the same loader and living workers": (
        changes_resflow,
        changes_torch,
        changes_webdataset,
        changes_dali,
    ),
    "`len(loader)` is exact for shuffled shards": (length_resflow, length_torch, length_webdataset, length_dali),
    "A tar shard cut short anywhere is an error, never a shorter epoch": (
        lambda data: loses_nothing(data, cut_resflow),
        tar_torch,
        lambda data: loses_nothing(data, lambda path: len(list(streamed(path)))),
        lambda data: loses_nothing(data, cut_dali),
    ),
    "Images that do not decode can be skipped, with an account of keys and reasons": (
        bad_resflow,
        bad_torch,
        bad_webdataset,
        bad_dali,
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("features"))


def table() -> dict[str, list[str]]:
    """README's table: the cells of each row."""
    text = README.read_text()
    lines = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip().splitlines()
    rows = [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in lines]
    assert [head.split(" ")[0] for head in rows[0][1:]] == list(COLUMNS)
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_table_has_the_rows_that_are_checked() -> None:
    assert list(table()) == list(ROWS)


@pytest.mark.parametrize("column", range(4), ids=COLUMNS)
@pytest.mark.parametrize("feature", ROWS)
def test_each_cell_is_what_a_run_shows(data: Data, feature: str, column: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data.environment = monkeypatch
    shown = ROWS[feature][column](data)
    assert shown == table()[feature][column], f"{COLUMNS[column]}: {feature}"
