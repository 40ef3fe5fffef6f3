"""Shapes are known ahead: compilers see each once, and memory stays where it is while they change."""

from __future__ import annotations

import gc
import itertools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import resflow as rf
from resflow.decode import open_engine
from resflow.errors import ConfigError
from resflow.geometry import Fit, Geometry
from tests.decode import samples
from tests.shards import make_shards

SCHEDULE = rf.schedules.Steps({0: 48, 1: 64, 2: 80})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("shards"), 160, per_shard=80)


def loader(shards: str, **arguments: Any) -> rf.DataLoader[Any]:
    pipeline = rf.Pipeline(resolution=SCHEDULE, buckets=8, stride=8, normalize=rf.IMAGENET)
    arguments = {"batch_size": 4, "shuffle": True, "drop_last": True, "pipeline": pipeline} | arguments
    return rf.DataLoader(shards, **arguments)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.classes = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(8, 7)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(images).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_every_batch_has_a_shape_that_was_listed(shards: str) -> None:
    under_test = loader(shards)
    listed = under_test.shapes()
    seen = Counter(tuple(batch.images.shape) for _ in range(3) for batch in under_test)
    assert set(seen) <= set(listed)
    assert len(set(listed)) == len(listed) <= 3 * 8
    areas = [height * width for *_, height, width in listed]
    assert [round(area**0.5 / 16) for area in areas] == sorted(round(area**0.5 / 16) for area in areas)
    assert under_test.shapes() == tuple((4, 3, *shape) for shape in loader_pipeline(under_test).shapes())


def loader_pipeline(under_test: rf.DataLoader[Any]) -> rf.Pipeline:
    return rf.Pipeline(resolution=SCHEDULE, buckets=under_test.buckets, stride=8)


def test_a_budget_tells_the_batch_of_each_shape(shards: str) -> None:
    budget = rf.PixelBudget(4 * 64 * 64)
    under_test = loader(shards, batch_size=budget)
    for batch, _, height, width in under_test.shapes():
        assert batch == budget.limit((height, width))
    limits = {shape[2:]: shape[0] for shape in under_test.shapes()}
    for batch in itertools.islice(under_test, 5):
        assert len(batch) <= limits[tuple(batch.images.shape[2:])]


def test_shapes_that_are_not_learned_yet_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Pipeline.buckets is 8: .* learned from the data. Ask the loader"):
        rf.Pipeline(resolution=64).shapes()
    with pytest.raises(ConfigError, match=r"DataLoader\.shapes needs a pipeline"):
        rf.DataLoader([1, 2]).shapes()


def compiled(graphs: Counter[tuple[int, ...]]) -> Callable[..., Any]:
    """A compiler that only counts graphs, by the shape of the images."""

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.update(tuple(one.shape) for one in inputs if one.shape[:2] == (4, 3))
        return graph.forward

    return backend


def test_torch_compile_compiles_once_a_shape(shards: str) -> None:
    """Three resolutions and 8 buckets: warming up compiles all, three epochs compile nothing more."""
    under_test, graphs = loader(shards), Counter[tuple[int, ...]]()
    torch._dynamo.reset()
    limits = {"recompile_limit": len(under_test.shapes()), "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(limits):  # monkeypatch would leave them deleted
        model = torch.compile(Net(), dynamic=False, backend=compiled(graphs))
        for shape in under_test.shapes():
            model(torch.zeros(shape))
        assert graphs == Counter(under_test.shapes())
        resolutions = set()
        for batch in itertools.chain.from_iterable(itertools.repeat(under_test, 3)):
            model(batch.images)
            resolutions.add(batch.resolution)
        assert resolutions == set(SCHEDULE.resolutions)
        assert graphs == Counter(under_test.shapes())
    torch._dynamo.reset()


def resident() -> int:
    gc.collect()
    return psutil.Process(os.getpid()).memory_info().rss


@pytest.mark.parametrize("name", ["dali", "turbo"])
def test_memory_of_an_engine_stays_where_it_is_while_shapes_change(name: str) -> None:
    """Eight shapes at three resolutions, over and over; the first round may grow, the ones after must not."""
    encoded = [samples.jpeg(120, 160, seed) for seed in range(8)] * 4
    engine = open_engine(name, max_batch=len(encoded))
    sizes = np.tile(np.array([[120, 160]], dtype=np.int32), (len(encoded), 1))
    shapes = [
        (round(side / ratio**0.5), round(side * ratio**0.5))
        for side in (96, 128, 160)
        for ratio in np.geomspace(0.5, 2, 8)
    ]
    used = []
    for _ in range(5):
        for shape in shapes:
            matrix = Fit().place(sizes, shape)
            assert engine.decode(encoded[: 8 + shape[0] % 25], _first(matrix, sizes, shape)).shape[2:] == shape
        used.append(resident())
    engine.close()
    batch = len(encoded) * 3 * 160 * 160
    assert max(used[2:]) - max(used[:2]) < 2 * batch, [f"{value / 1e6:.0f} MB" for value in used]


def _first(matrix: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], shape: tuple[int, int]) -> Geometry:
    count = 8 + shape[0] % 25
    return Geometry(matrix[:count], sizes[:count], shape)


def test_memory_of_a_loader_stays_where_it_is(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, 120, per_shard=60)
    pipeline = rf.Pipeline(resolution=SCHEDULE, buckets=8, stride=8, normalize=rf.IMAGENET, engine="dali")
    under_test = rf.DataLoader(shards, batch_size=8, shuffle=True, pipeline=pipeline)
    used = []
    for _ in range(6):
        assert sum(len(batch) for batch in under_test) == 120
        used.append(resident())
    assert max(used[3:]) - max(used[:3]) < 8e6, [f"{value / 1e6:.0f} MB" for value in used]
