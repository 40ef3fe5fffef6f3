from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.utils.data

import resflow as rf
from resflow.errors import (
    ConfigError,
    DecodeError,
    IndexFileError,
    PlanError,
    ShardError,
    StateError,
    TargetError,
    WorkerError,
)
from resflow.plan import World
from tests.shards import make_shards

COUNT = 61
SCHEDULE = rf.schedules.Steps({0: 32, 1: 64})
PIPELINE = rf.Pipeline(
    resolution=SCHEDULE,
    buckets=4,
    stride=8,
    views=[rf.views.RandomResizedCrop(scale=(0.3, 1.0)), rf.views.HorizontalFlip()],
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards"), COUNT)


def loader(
    shards: str, *, pipeline: rf.Pipeline = PIPELINE, batch_size: int = 8, shuffle: bool = True, **arguments
) -> rf.DataLoader:
    return rf.DataLoader(shards, batch_size=batch_size, shuffle=shuffle, pipeline=pipeline, **arguments)


def same(one: rf.Batch, other: rf.Batch) -> None:
    assert one.keys == other.keys
    assert one.resolution == other.resolution
    for name in ("images", "targets", "transform", "valid", "source_size", "sample_ids"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_sample_once_in_batches_of_one_shape(shards: str, workers: int) -> None:
    under_test = loader(shards, num_workers=workers)
    batches = list(under_test)
    assert len(batches) == len(under_test) == 8
    assert Counter(key for batch in batches for key in batch.keys) == Counter(f"{i:05d}" for i in range(COUNT))
    assert sorted(len(batch) for batch in batches) == [5, *[8] * 7]
    for batch in batches:
        images, targets = batch
        height, width = images.shape[2:]
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert height % 8 == width % 8 == 0
        assert abs(height * width / 32**2 - 1) <= 0.15
        assert targets.tolist() == [int(key) % 7 for key in batch.keys]
        assert batch.resolution == 32
    assert len({tuple(batch.images.shape[2:]) for batch in batches}) > 1


def test_workers_and_this_process_give_the_same_batches(shards: str) -> None:
    alone, workers = loader(shards), loader(shards, num_workers=2, persistent_workers=True)
    for _ in range(2):
        for one, other in itertools.zip_longest(alone, workers):
            same(one, other)


@pytest.mark.parametrize("engine", ["turbo", "pillow", "dali"])
def test_every_engine_fills_the_same_plan(shards: str, engine: str) -> None:
    reference = loader(shards, pipeline=PIPELINE)
    under_test = loader(shards, pipeline=rf.Pipeline(**{**_fields(PIPELINE), "engine": engine}))
    for one, other in itertools.zip_longest(reference, under_test):
        assert one.keys == other.keys
        assert torch.equal(one.transform, other.transform)
        assert (one.images.float() - other.images.float()).abs().mean() < 3


def _fields(pipeline: rf.Pipeline) -> dict:
    return {name: getattr(pipeline, name) for name in pipeline.__dataclass_fields__}


def test_pixels_show_the_image_where_valid_says_and_fill_elsewhere(shards: str) -> None:
    fill = (1, 2, 250)
    pipeline = rf.Pipeline(resolution=64, buckets=1, stride=8, fit=rf.Fit(fill=fill))
    padded = 0
    for batch in loader(shards, pipeline=pipeline):
        mask = torch.from_numpy(batch.geometry.valid_mask())
        for image, (left, top, right, bottom), inside in zip(batch.images, batch.valid.tolist(), mask, strict=True):
            rectangle = torch.zeros_like(inside)
            rectangle[top:bottom, left:right] = True
            assert torch.equal(inside, rectangle)
            outside = image.permute(1, 2, 0)[~inside]
            assert torch.equal(outside, torch.tensor(fill, dtype=torch.uint8).expand_as(outside))
            padded += len(outside)
    assert padded > 0


def test_normalised_batches_have_the_dtype_asked_for(shards: str) -> None:
    pipeline = rf.Pipeline(resolution=32, stride=8, normalize=rf.IMAGENET, dtype=torch.bfloat16)
    plain = next(iter(loader(shards, pipeline=rf.Pipeline(resolution=32, stride=8))))
    batch = next(iter(loader(shards, pipeline=pipeline)))
    assert batch.images.dtype == torch.bfloat16
    assert batch.images.is_contiguous()
    torch.testing.assert_close(batch.images, rf.IMAGENET(plain.images, torch.bfloat16))


def test_epochs_differ_repeat_and_follow_the_schedule(shards: str) -> None:
    under_test = loader(shards)
    first = list(under_test)
    second = list(under_test)
    assert [batch.resolution for batch in first] == [32] * 8
    assert [batch.resolution for batch in second] == [64] * 8
    assert [batch.keys for batch in first] != [batch.keys for batch in second]
    under_test.set_epoch(0)
    for one, other in itertools.zip_longest(first, under_test):
        same(one, other)


def test_a_pass_that_is_broken_off_does_not_repeat(shards: str) -> None:
    under_test = loader(shards)
    first = next(iter(under_test)).keys
    assert under_test.epoch == 0
    assert next(iter(under_test)).keys != first
    assert under_test.epoch == 1
    under_test.set_epoch(0)
    assert next(iter(under_test)).keys == first


def test_another_seed_gives_another_order_and_no_shuffle_dataset_order(shards: str) -> None:
    assert [b.keys for b in loader(shards, seed=1)] != [b.keys for b in loader(shards, seed=2)]
    firsts = []
    for batch in loader(shards, shuffle=False):
        assert batch.sample_ids.tolist() == sorted(batch.sample_ids.tolist())
        firsts.append(int(batch.sample_ids[0]))
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_every_batch_gives_the_rest_bit_by_bit(shards: str, workers: int) -> None:
    """Across the end of an epoch and a change of resolution; the state goes through JSON."""
    arguments = {"num_workers": workers, "persistent_workers": workers > 0}
    reference = loader(shards, **arguments)
    whole, states = [], [reference.state_dict()]
    for _ in range(3):
        for batch in reference:
            whole.append(batch)
            states.append(json.loads(json.dumps(reference.state_dict())))
    resumed = loader(shards, **arguments)
    for position, state in enumerate(states):
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        rest = whole[position:]
        passes = itertools.chain.from_iterable(itertools.repeat(resumed))
        for one, other in itertools.zip_longest(rest, itertools.islice(passes, len(rest))):
            same(one, other)


def test_set_epoch_keeps_a_restored_place_in_that_epoch_only(shards: str) -> None:
    reference = loader(shards)
    batches = iter(reference)
    first = [next(batches) for _ in range(3)]
    state = reference.state_dict()
    resumed = loader(shards)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    same(next(iter(resumed)), next(batches))
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    resumed.set_epoch(0)
    same(next(iter(resumed)), first[0])


def test_a_resumed_loader_resumes_again(shards: str) -> None:
    whole = list(loader(shards))
    state, position = loader(shards).state_dict(), 0
    for take in (2, 1, 3):
        resumed = loader(shards)
        resumed.load_state_dict(state)
        for batch in itertools.islice(resumed, take):
            same(batch, whole[position])
            position += 1
        state = resumed.state_dict()
    assert position == 6


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed differs: saved 0, current 1"),
        ({"batch_size": 4}, "global_batch_size differs: saved 8, current 4"),
        ({"shuffle": False}, "config.shuffle differs: saved 'True', current 'False'"),
        ({"pipeline": rf.Pipeline(resolution=32, stride=8)}, r"config.\w+ differs"),
    ],
)
def test_a_state_of_another_loader_is_refused_naming_the_field(shards: str, change: dict, field: str) -> None:
    state = loader(shards).state_dict()
    with pytest.raises(StateError, match=field):
        loader(shards, **change).load_state_dict(state)


def test_a_state_of_other_data_is_refused(shards: str, tmp_path: Path) -> None:
    state = loader(shards).state_dict()
    with pytest.raises(StateError, match="fingerprint differs"):
        loader(make_shards(tmp_path / "other", 60)).load_state_dict(state)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_share_each_step_and_the_global_order_does_not_depend_on_their_number(shards: str, size: int) -> None:
    alone = list(loader(shards, batch_size=8))
    ranks = [list(loader(shards, batch_size=8 // size, world=World(rank, size))) for rank in range(size)]
    assert {len(batches) for batches in ranks} == {len(alone)}
    for together, *parts in zip(alone, *ranks, strict=True):
        assert [key for part in parts for key in part.keys] == list(together.keys)
        assert torch.equal(torch.cat([part.images for part in parts]), together.images)


def test_evaluation_gives_each_sample_once_over_all_ranks(shards: str) -> None:
    evaluation = PIPELINE.evaluation(resolution=96)
    assert evaluation.views == ()
    batches = [
        batch for rank in range(3) for batch in loader(shards, pipeline=evaluation, shuffle=False, world=World(rank, 3))
    ]
    assert Counter(key for batch in batches for key in batch.keys) == Counter(f"{i:05d}" for i in range(COUNT))
    assert {batch.resolution for batch in batches} == {96}


def test_drop_last_leaves_fewer_than_one_batch_out(shards: str) -> None:
    under_test = loader(shards, drop_last=True)
    batches = list(under_test)
    assert [len(batch) for batch in batches] == [8] * 7
    assert len(under_test) == 7


def test_a_pixel_budget_holds_more_images_where_they_are_small(shards: str) -> None:
    under_test = loader(shards, batch_size=rf.PixelBudget(16 * 32 * 32))
    for expected in (32, 64):
        batches = list(under_test)
        assert all(batch.images[:, 0].numel() <= 16 * 32 * 32 for batch in batches)
        assert sum(len(batch) for batch in batches) == COUNT
        assert {batch.resolution for batch in batches} == {expected}
    assert len(under_test) == len(under_test.plan(2))


def test_without_a_pipeline_it_is_pytorchs_loader() -> None:
    dataset = torch.utils.data.TensorDataset(torch.arange(10))
    under_test = rf.DataLoader(dataset, 4, False)
    assert isinstance(under_test, torch.utils.data.DataLoader)
    assert [batch[0].tolist() for batch in under_test] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(ConfigError, match=r"DataLoader\.plan needs a pipeline"):
        under_test.plan(0)


# Shutdown


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]


def _wait_for_no_more_than(before: int) -> None:
    deadline = time.monotonic() + 10
    while len(_children()) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(_children()) <= before


@pytest.mark.parametrize("persistent", [False, True])
def test_break_and_del_end_the_workers(shards: str, persistent: bool) -> None:
    before = len(_children())
    under_test = loader(shards, num_workers=2, persistent_workers=persistent)
    for _batch in under_test:
        break
    del under_test
    gc.collect()
    _wait_for_no_more_than(before)


def test_an_exception_in_the_loop_ends_the_workers(shards: str) -> None:
    before = len(_children())

    def train() -> None:
        for _batch in loader(shards, num_workers=2):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train()
    gc.collect()
    _wait_for_no_more_than(before)


def test_ctrl_c_ends_the_program_and_its_workers(shards: str) -> None:
    program = textwrap.dedent(f"""
        import resflow as rf, signal, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
        loader = rf.DataLoader({shards!r}, batch_size=8, num_workers=2, pipeline=rf.Pipeline(resolution=32, stride=8))
        for batch in loader:
            print("started", flush=True)
            time.sleep(60)
        """)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    os.kill(process.pid, signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


# Bad input


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_jpeg_in_the_middle_of_a_batch_is_named(tmp_path: Path, workers: int) -> None:
    shards = make_shards(tmp_path, 24)
    _damage(Path(shards.replace("{000000..000001}", "000000")), "00010.jpg")
    with pytest.raises(DecodeError, match=r"\(sample .*train-000000.tar/00010\)") as caught:
        list(loader(shards, num_workers=workers))
    assert caught.value.key == "00010"
    assert caught.value.position is not None


def _damage(path: Path, member: str) -> None:
    """Take the start of a JPEG's scan, so that no reader decodes it, and leave the rest of the shard as it is."""
    import tarfile

    with tarfile.open(path) as archive:
        info = archive.getmember(member)
    with path.open("r+b") as file:
        file.seek(info.offset_data)
        scan = file.read(info.size).index(b"\xff\xda")
        file.seek(info.offset_data + scan)
        file.write(bytes(40))


def test_an_error_is_raised_again_rather_than_passed_over(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, 24)
    _damage(Path(shards.replace("{000000..000001}", "000000")), "00010.jpg")
    batches = iter(loader(shards, shuffle=False))
    caught = 0
    for _ in range(10):
        try:
            next(batches)
        except DecodeError:
            caught += 1
        except StopIteration:
            pytest.fail("the pass went on past the error")
    assert caught >= 7


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_or_wrong_class_is_named(shards: str, workers: int) -> None:
    pipeline = rf.Pipeline(resolution=32, stride=8, targets="label")
    with pytest.raises(
        TargetError, match=r"expected a member \.label; got \.cls, \.jpg\. Name the right member in Pipeline"
    ):
        list(loader(shards, pipeline=pipeline, num_workers=workers))
    pipeline = rf.Pipeline(resolution=32, stride=8, targets="jpg")
    with pytest.raises(TargetError, match=r"a class must be a decimal number; member \.jpg holds"):
        list(loader(shards, pipeline=pipeline))


def test_without_a_target_there_are_no_targets(shards: str) -> None:
    _images, targets = next(iter(loader(shards, pipeline=rf.Pipeline(resolution=32, stride=8, targets=None))))
    assert targets is None


def test_a_batch_larger_than_the_dataset_is_refused_or_short(shards: str) -> None:
    with pytest.raises(PlanError, match=r"62.*61 sample\(s\)"):
        loader(shards, batch_size=62, drop_last=True)
    assert [len(batch) for batch in loader(shards, batch_size=62)] == [COUNT]


def test_a_resolution_below_the_stride_is_refused(shards: str) -> None:
    with pytest.raises(PlanError, match=r"resolution 16.*stride 32"):
        loader(shards, pipeline=rf.Pipeline(resolution=16, stride=32))


def test_one_image_is_a_dataset(tmp_path: Path) -> None:
    [batch] = loader(make_shards(tmp_path, 1), batch_size=4)
    assert batch.keys == ("00000",)


def test_missing_shards_and_missing_indexes_name_the_way_out(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, 24)
    last = Path(shards.replace("{000000..000001}", "000001"))
    last.rename(tmp_path / "gone")
    with pytest.raises(ShardError, match=r"train-000001\.tar: the shard is missing"):
        loader(shards)
    next(tmp_path.glob("*.arrow")).unlink()
    with pytest.raises(ShardError, match=r"train-000001\.tar: the shard is missing"):
        loader(shards)
    (tmp_path / "gone").rename(last)
    with pytest.raises(IndexFileError, match=r"there is no index of these shards\. Run: resflow index"):
        loader(shards)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": [1]}, r"list decides which samples follow one another, but with \d+ buckets"),
        ({"batch_sampler": [[1]]}, "batch_sampler decides batch_size"),
        ({"in_order": False}, "in_order has no meaning beside a pipeline"),
        ({"batch_size": 0}, "batch_size must be a whole number above 0, or a PixelBudget; got 0"),
        ({"batch_size": None}, "batch_size must be a whole number above 0"),
        ({"seed": -1}, "seed must be a whole number in"),
    ],
)
def test_arguments_without_meaning_are_refused(shards: str, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(shards, **arguments)


def test_a_pattern_without_a_pipeline_and_a_dataset_with_one_are_refused(shards: str) -> None:
    with pytest.raises(ConfigError, match="needs a pipeline"):
        rf.DataLoader(shards)
    with pytest.raises(ConfigError, match="float64"):
        next(iter(rf.DataLoader(np.zeros((3, 8, 8)), pipeline=PIPELINE)))


@pytest.mark.parametrize("environment", [{"RANK": "1"}, {"RANK": "x", "WORLD_SIZE": "2"}])
def test_half_an_environment_is_refused(shards: str, environment: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="RANK and WORLD_SIZE must both be whole numbers, or both unset"):
        loader(shards)


def test_the_environment_names_the_rank(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [batch.keys for batch in loader(shards)] == [batch.keys for batch in loader(shards, world=World(1, 2))]


def test_a_budgets_state_belongs_to_its_number_of_ranks(shards: str) -> None:
    budget = rf.PixelBudget(16 * 32 * 32)
    state = loader(shards, batch_size=budget).state_dict()
    with pytest.raises(StateError, match=r"config\.world_size differs: saved '1', current '2'"):
        loader(shards, batch_size=budget, world=World(0, 2)).load_state_dict(state)


def test_a_rank_without_a_part_of_the_short_batch_gets_a_sample_of_another(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, 5)
    with pytest.warns(UserWarning, match=r"1 sample\(s\) for 2 ranks: .* repeated.*drop_last=True"):
        ranks = [list(loader(shards, batch_size=2, world=World(rank, 2))) for rank in range(2)]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[2, 1], [2, 1]]
    same(ranks[0][1], ranks[1][1])
    alone = [key for batch in loader(shards, batch_size=4) for key in batch.keys]
    assert [key for one, other in zip(*ranks, strict=True) for key in one.keys + other.keys] == [*alone, alone[-1]]


def test_collate_fn_makes_what_the_loop_is_given(shards: str) -> None:
    pipeline = rf.Pipeline(resolution=32, stride=8, normalize=rf.IMAGENET)
    for workers in (0, 1):
        for given in loader(shards, pipeline=pipeline, num_workers=workers, collate_fn=_for_a_trainer):
            assert set(given) == {"pixel_values", "labels"}
            assert given["pixel_values"].dtype == torch.float32


def _for_a_trainer(batch: rf.Batch) -> dict[str, torch.Tensor]:
    return {"pixel_values": batch.images, "labels": batch.targets}


def test_a_loader_built_anew_from_its_parts_finishes_its_batches(shards: str) -> None:
    pipeline = rf.Pipeline(resolution=32, stride=8, normalize=rf.IMAGENET)
    ours = loader(shards, pipeline=pipeline)
    plain = torch.utils.data.DataLoader(ours.dataset, batch_sampler=ours.batch_sampler, collate_fn=ours.collate_fn)
    again = rf.DataLoader(ours.dataset, batch_sampler=ours.batch_sampler, collate_fn=ours.collate_fn)
    expected = list(loader(shards, pipeline=pipeline))
    for rebuilt in (plain, again):
        for one, other in itertools.zip_longest(expected, rebuilt):
            same(one, other)
        ours.set_epoch(0)


def test_even_ranks_repeat_samples_of_the_short_batch_only(shards: str) -> None:
    alone = list(loader(shards, batch_size=12, shuffle=False))
    ranks = [loader(shards, batch_size=4, shuffle=False, world=World(rank, 3), even=True) for rank in range(3)]
    parts = [list(rank) for rank in ranks]
    for together, *split in zip(alone, *parts, strict=True):
        assert len({len(part) for part in split}) == 1
        assert [key for part in split for key in part.keys][: len(together)] == list(together.keys)
    assert [rank.remainder for rank in ranks] == [COUNT % 12] * 3


def test_a_pass_whose_workers_cannot_start_comes_again(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    under_test = loader(shards, num_workers=1)
    whole = list(loader(shards))
    with monkeypatch.context() as patched:
        patched.setattr("multiprocessing.process.BaseProcess.start", _no_process)
        with pytest.raises(WorkerError, match="the worker processes could not be started: OSError"):
            iter(under_test)
    for one, other in itertools.zip_longest(whole, under_test):
        same(one, other)


def _no_process(_self: object) -> None:
    raise OSError("no more processes")


def test_a_state_beyond_its_epoch_is_refused(shards: str) -> None:
    under_test = loader(shards)
    with pytest.raises(StateError, match="step is 9, but epoch 0 has 8 batches"):
        under_test.load_state_dict(under_test.state_dict() | {"step": 9})


def test_a_relative_pattern_survives_a_change_of_folder(
    shards: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(Path(shards).parent)
    under_test = loader(Path(shards).name)
    monkeypatch.chdir(tmp_path)
    assert len(list(under_test)) == 8


def test_workers_end_with_a_pass_that_failed(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, 24)
    _damage(Path(shards.replace("{000000..000001}", "000000")), "00010.jpg")
    under_test = loader(shards, num_workers=2)
    before = len(_children())
    gc.disable()
    try:
        for _ in range(2):
            batches = iter(under_test)
            with contextlib.suppress(DecodeError):
                list(batches)
            del batches
            _wait_for_no_more_than(before)
    finally:
        gc.enable()


@pytest.mark.parametrize("arguments", [{"world": World(1, 2)}, {"seed": 3}, {"even": True}, {"sizes": [[1, 1]]}])
def test_arguments_of_a_plan_are_refused_without_a_pipeline(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="has no meaning without a pipeline"):
        rf.DataLoader([1, 2, 3], **arguments)


@pytest.mark.parametrize(("rank", "size"), [("0", 2), (0, 1.5), (2, 2), (0, 0)])
def test_a_world_that_cannot_be_is_refused(rank: object, size: object) -> None:
    with pytest.raises(ConfigError, match="World needs whole numbers with 0 <= rank < size"):
        World(rank, size)
