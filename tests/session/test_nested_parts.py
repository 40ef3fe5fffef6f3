"""What streams and what they hold are told before a pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch.utils.data
import webdataset as wds

from resflow.errors import ConfigError
from resflow.plan import World
from resflow.session.nested_parts import given_world, tell_epoch, tell_world
from resflow.sources import ShardStream


class Empty(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(())


class Stream(Empty):
    def __init__(self) -> None:
        self.told: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.told.append(epoch)


class Counted(Empty):
    epoch = 0


class Computed(Empty):
    """Its epoch can be read only."""

    set_epoch = None

    @property
    def epoch(self) -> int:
        return 7


class Holder(Empty):
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


class Own(Holder):
    """Has the last word on what it holds."""

    def set_epoch(self, epoch: int) -> None:
        self.inner.set_epoch(10 * epoch)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: Holder(inner=inner),
        lambda inner: Holder(dataset=inner),
        lambda inner: Holder(parts=[inner]),
        lambda inner: Holder(parts={"first": inner}),
        lambda inner: torch.utils.data.ChainDataset([inner]),
        lambda inner: Holder(source=Holder(_inner=(inner,))),
        lambda inner: Holder(loader=torch.utils.data.DataLoader(inner)),
    ],
)
def test_what_is_held_under_any_name_is_told_once(wrap: Any) -> None:
    inner = Stream()
    tell_epoch(wrap(inner), 3)
    assert inner.told == [3]


def test_a_wrapper_has_the_last_word_and_circles_end() -> None:
    inner = Stream()
    tell_epoch(Own(inner=inner), 3)
    assert inner.told[-1] == 30
    circle = Holder(inner=inner)
    circle.itself = circle
    tell_epoch(circle, 4)
    assert inner.told[-1] == 4


def test_attributes_are_set_and_properties_left_alone() -> None:
    counted, computed = Counted(), Computed()
    tell_epoch(torch.utils.data.ChainDataset([counted, computed]), 5)
    assert (counted.epoch, computed.epoch) == (5, 7)


def test_webdatasets_stages_count_as_they_start() -> None:
    stage = wds.detshuffle(3)
    tell_epoch(Holder(inner=wds.DataPipeline(wds.SimpleShardList(["a.tar"]), stage)), 5)
    assert stage.epoch == 4


def test_shards_are_told_their_rank_unless_they_were_made_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    free, made = ShardStream(["a.tar", "b.tar"]), ShardStream(["a.tar", "b.tar"], world=World(1, 2))
    both = torch.utils.data.ChainDataset([free, made])
    tell_world(both, World(0, 3))
    assert (free.world, made.world) == (World(0, 3), World(1, 2))
    tell_world(both, None)
    assert free.world == World()
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert free.world == World(4, 5)
    assert given_world(both, None) == given_world(both, World(1, 2)) == World(1, 2)
    assert given_world(free, None) is None
    with pytest.raises(ConfigError, match=r"rank=0, size=2.*rank=1, size=2"):
        given_world(both, World(0, 2))
