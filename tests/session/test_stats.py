"""`DataLoader.stats`: what is told of a pass adds up, agrees with plan and data, and comes with the right advice."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import time
from typing import Any

import numpy as np
import pytest

import resflow as rf
from resflow.batch import Cost
from resflow.errors import ConfigError
from resflow.geometry import Geometry
from resflow.session.meter import Meter, Stopwatch, batch_cost
from resflow.session.stats import LOOP, MADE, Stats, advice, cpus
from resflow.sources import ShardSource
from resflow.testing import MemorySource
from tests.shards import jpeg, make_shards

PIPELINE = rf.Pipeline(resolution=64, buckets=3, stride=16, fit=rf.Fit(max_crop=0.2))
COUNT = 50


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("stats"), COUNT)


def walked(shards: Any, pipeline: rf.Pipeline = PIPELINE, step: float = 0.0, **options: Any) -> Stats:
    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(shards, batch_size=8, shuffle=True, pipeline=pipeline, **options)
    for _ in loader:
        time.sleep(step)
    return loader.stats()


def check_adds_up(stats: Stats) -> None:
    """The loop's stages make up the wall time; those of its workers fit beside it."""
    own = [stats.seconds[stage] for stage in (LOOP if stats.workers or stats.threads else (*MADE, *LOOP))]
    assert min(own) >= 0
    assert abs(sum(own) - stats.wall) < 1e-6 + 1e-3 * stats.wall
    assert sum(stats.seconds[stage] for stage in MADE) <= max(1, stats.workers) * stats.wall


def slow(seconds: float) -> MemorySource:
    """A source that takes its time for each batch."""
    return MemorySource([jpeg(60 + n, 110 - n, n) for n in range(COUNT)], [n % 7 for n in range(COUNT)], delay=seconds)


@pytest.mark.parametrize("workers", [0, 2])
def test_seconds_add_up_to_the_wall_time(shards: str, workers: int) -> None:
    started = time.perf_counter()
    stats = walked(slow(0.02), step=0.01, num_workers=workers)
    took = time.perf_counter() - started
    assert (stats.epoch, stats.batches, stats.images, stats.workers) == (0, 7, COUNT, workers)
    check_adds_up(stats)
    assert stats.wall <= took
    assert stats.seconds["read"] >= 7 * 0.02
    assert stats.seconds["step"] >= 7 * 0.01
    assert stats.seconds["decode"] > 0 < stats.seconds["place"]
    assert stats.first <= stats.wall
    # Faults planted: a stage that is counted twice, or not at all.
    for stage in ("read", "step"):
        if stage == "read" and workers:
            continue
        for value in (0.0, 2 * stats.seconds[stage]):
            wrong = dataclasses.replace(stats, seconds=stats.seconds | {stage: value})
            with pytest.raises(AssertionError):
                check_adds_up(wrong)


def test_threads_add_up_and_their_queue_is_counted(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from resflow.session.planned import PlannedSession

    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(shards, batch_size=8, pipeline=PIPELINE)
    run: Any = loader._resflow_session
    assert isinstance(run, PlannedSession)
    run.in_this_process = True
    for _ in loader:
        time.sleep(0.03)
    stats = loader.stats()
    check_adds_up(stats)
    assert (stats.workers, stats.threads, stats.queue_size) == (0, 2, 2)
    assert stats.queue_depth is not None
    assert 1 <= stats.queue_depth <= 2  # the step takes longer than the batches


def test_the_queue_is_full_while_the_step_is_slow(shards: str) -> None:
    slow_step = walked(shards, step=0.05, num_workers=2)
    slow_read = walked(slow(0.1), num_workers=2)
    assert slow_step.queue_depth is not None
    assert slow_read.queue_depth is not None
    assert slow_step.queue_size == slow_read.queue_size == 4
    assert slow_read.queue_depth < slow_step.queue_depth <= 4
    assert slow_read.busy > 0.5 > slow_step.busy


@pytest.mark.parametrize("workers", [0, 1])
def test_padding_and_cropping_are_the_plans(shards: str, workers: int) -> None:
    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(
        shards, batch_size=8, shuffle=True, pipeline=PIPELINE, num_workers=workers
    )
    for _ in loader:
        pass
    stats, plan, size = loader.stats(), loader.plan(0), ShardSource(shards).index.size

    def planned(lost: int = 0) -> tuple[float, float]:
        shown = pixels = 0
        cropped = 0.0
        for step, shape in enumerate(plan.shapes.tolist()):
            ids = plan.sample_ids[plan.offsets[step] : plan.offsets[step + 1]][lost if step == 0 else 0 :]
            geometry = Geometry(PIPELINE.fit.place(size[ids], tuple(shape)), size[ids], tuple(shape))
            inside = geometry.valid_pixels()
            area = size[ids].prod(axis=1) * np.linalg.det(geometry.matrix[:, :2, :2])
            shown, pixels = shown + int(inside.sum()), pixels + shape[0] * shape[1] * len(ids)
            cropped += float(np.clip(1 - inside / area, 0, 1).sum())
        return 1 - shown / pixels, cropped / COUNT

    assert stats.padded == planned()[0]  # whole numbers of pixels: no tolerance
    assert stats.cropped == pytest.approx(planned()[1], abs=1e-12)
    assert stats.padded > 0.01 < stats.cropped
    assert stats.padded != planned(lost=1)[0]


def test_orientation_images_are_told_as_they_are_shown(shards: str) -> None:
    source = ShardSource(shards)
    pipeline = dataclasses.replace(PIPELINE, views=[rf.views.Rotate(40)])
    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(source, batch_size=8, pipeline=pipeline)
    shown = pixels = 0
    for batch in loader:
        inside = batch.geometry.valid_mask()
        shown, pixels = shown + int(inside.sum()), pixels + inside.size
    assert loader.stats().padded == pytest.approx(1 - shown / pixels, abs=0.005)


def test_bytes_are_those_of_the_members(shards: str) -> None:
    source = ShardSource(shards)
    samples = source.read(np.arange(COUNT))
    expected = sum(len(view) for sample in samples for view in sample.members.values())
    assert walked(shards, num_workers=1).bytes_read == expected
    stream = rf.sources.ShardStream(shards)
    streamed = walked_stream(stream)
    assert (streamed.images, streamed.bytes_read) == (COUNT, sum(len(sample.image) for sample in samples))
    without = [
        dataclasses.replace(samples[0], members={}),
        dataclasses.replace(samples[1], image=np.zeros((4, 4, 3), np.uint8), members={}),
    ]
    size = source.index.size[:2]
    geometry = Geometry(PIPELINE.fit.place(size, (64, 64)), size, (64, 64))
    assert batch_cost(Stopwatch(), without, geometry).bytes_read == len(samples[0].image)


def walked_stream(stream: Any) -> Stats:
    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(stream, batch_size=8, pipeline=PIPELINE)
    for _ in loader:
        pass
    stats = loader.stats()
    check_adds_up(stats)
    assert stats.seconds["read"] > 0 < stats.seconds["decode"]
    return stats


def test_a_pass_under_way_and_one_that_was_left(shards: str) -> None:
    loader: rf.DataLoader[rf.Batch] = rf.DataLoader(shards, batch_size=8, pipeline=PIPELINE)
    with pytest.raises(ConfigError, match=r"this one has begun no pass. Iterate over a DataLoader"):
        loader.stats()
    iterator = iter(loader)
    assert loader.stats().advice == "No batch was handed out yet."
    next(iterator)
    next(iterator)
    stats = loader.stats()
    check_adds_up(stats)
    assert (stats.batches, stats.images) == (2, 16)
    time.sleep(0.01)
    assert loader.stats().wall > stats.wall
    del iterator
    ended = loader.stats()
    time.sleep(0.01)
    assert loader.stats() == ended
    assert copy.deepcopy(loader).stats() == pickle.loads(pickle.dumps(loader._meter)).stats() == ended


def test_a_loader_without_a_pipeline_says_so() -> None:
    with pytest.raises(ConfigError, match=r"stats tells of a pass over a loader with a pipeline; this one has no pipe"):
        rf.DataLoader([1, 2]).stats()


class Writer:
    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int]] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name] = (value, step)


def test_it_is_written_told_and_plain(shards: str) -> None:
    stats, writer = walked(shards), Writer()
    stats.write(writer, 7, prefix="train")
    assert writer.scalars["train/images_per_second"] == (stats.rate, 7)
    assert writer.scalars["train/padded"] == (stats.padded, 7)
    assert {f"train/seconds/{stage}" for stage in (*MADE, *LOOP)} < writer.scalars.keys()
    assert "train/queue_depth" not in writer.scalars  # nothing waits where nothing is made ahead
    told = json.loads(json.dumps(stats.to_json()))
    assert told["images"] == COUNT
    assert told["images_per_second"]["decode"] == pytest.approx(COUNT / stats.seconds["decode"])
    text = str(stats)
    assert f"epoch 0: {COUNT} images in 7 batches" in text
    assert text.endswith(stats.advice)


BASE = Stats(
    epoch=0, batches=100, images=800, wall=10.0, first=0.0, seconds=dict.fromkeys((*MADE, *LOOP), 0.0), workers=2,
    threads=0, queue_depth=1.0, queue_size=4, padded=0.1, cropped=0.0, bytes_read=10**7,
)  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "changes", "expected"),
    [
        ({"decode": 1.4, "step": 10.0}, {}, "Your training step is the bottleneck: the loader waits 93% of the time."),
        ({"decode": 19.6, "wait": 8.0, "step": 2.0}, {"workers": 2}, "Decoding is the bottleneck: 2 workers at 98%"),
        (
            {"read": 19.0, "wait": 8.0, "step": 2.0},
            {},
            "Reading is the bottleneck: 2 workers at 95%, and the loop waits",
        ),
        (
            {"place": 9.0, "wait": 8.0, "step": 2.0},
            {"workers": 1},
            "Placing (views and targets) is the bottleneck: 1 worker ",
        ),
        ({"decode": 1.0, "augment": 6.0, "step": 4.0}, {}, "Augmentation, with normalisation, is the bottleneck"),
        ({"decode": 1.0, "copy": 6.0, "step": 4.0}, {}, "Copying to the device is the bottleneck: it takes 60%"),
        (
            {"decode": 2.0, "wait": 8.0, "step": 2.0},
            {},
            "The loop waits 80% of the time though 2 workers work only 10%",
        ),
        ({"decode": 6.0, "step": 4.0}, {"workers": 0}, "Nothing is made ahead: the loop makes its batches itself, 60%"),
        ({"decode": 0.1, "step": 9.9}, {"workers": 0}, "Your training step is the bottleneck: making batches takes 1%"),
        (
            {"read": 1.0, "decode": 9.5, "wait": 9.0, "step": 1.0},
            {"workers": 0, "threads": 2},
            "Decoding is the bottleneck: the threads at 95%",
        ),
        ({"decode": 1.4, "wait": 5.0, "step": 5.0}, {"first": 5.0}, "Your training step is the bottleneck"),
    ],
)
def test_the_advice_follows_from_the_figures(seconds: dict[str, float], changes: dict[str, Any], expected: str) -> None:
    stats = dataclasses.replace(BASE, seconds=BASE.seconds | seconds, **changes)
    assert advice(stats).startswith(expected)


def test_the_way_out_of_slow_decoding_depends_on_the_cpus() -> None:
    slow = dataclasses.replace(BASE, seconds=BASE.seconds | {"decode": 9.8 * cpus(), "wait": 8.0, "step": 2.0})
    assert "add tiers (resflow tiers), lower" in advice(dataclasses.replace(slow, workers=cpus()))
    assert "add workers or tiers" in advice(dataclasses.replace(slow, workers=cpus() - 1)) or cpus() == 1


def test_timing_costs_next_to_nothing(shards: str) -> None:
    """All that is done for a batch of 64, against what such a batch takes: under 1 %."""
    source = ShardSource(shards)
    ids = np.arange(64) % COUNT
    samples, size = source.read(ids), source.index.size[ids]
    geometry = Geometry(PIPELINE.fit.place(size, (224, 224)), size, (224, 224))

    class Made:
        images = np.zeros((1, 3, 224, 224), np.uint8)
        cost = Cost(0.0, 0.0, 0.0, 0, 0, 0.0)
        tolerated = ()

        def __len__(self) -> int:
            return 64

    taken = []
    meter, made = Meter(0, workers=1, threads=0, queue_size=2), Made()
    for _ in range(50):
        start = time.perf_counter()
        spent = Stopwatch()
        for stage in ("read", "place", "place", "decode", "place", "copy"):
            with spent.on(stage):
                pass
        made.cost = pickle.loads(pickle.dumps(batch_cost(spent, samples, geometry)))
        meter.asked()
        meter.got(made)
        meter.finished(None)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.01 * 64 / 1000  # a worker decodes about 1,000 images of 224 pixels a second at best
