"""Streams over two ranks that form their group after the loaders were made."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ranks.streams import COUNT
from tests.shards import make_shards
from tests.trainers.ranks import in_ranks

DIVIDED = ("planned", "stream", "held", "chain", "workers", "no child", "torch")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    data = tmp_path_factory.mktemp("streams")
    make_shards(data, COUNT, per_shard=10)
    return in_ranks("tests.ranks.streams", [("read", 2)], data)["read/2"]


@pytest.mark.parametrize("name", DIVIDED)
def test_each_rank_reads_its_own_shards(ranks: list[dict[str, Any]], name: str) -> None:
    one, other = (rank["seen"][name] for rank in ranks)
    assert len(one) == len(other) == COUNT // 2
    assert len({*one, *other}) == COUNT
    assert not ranks[0]["warned"][name] + ranks[1]["warned"][name]


def test_the_loaders_world_reaches_its_stream(ranks: list[dict[str, Any]]) -> None:
    assert [len(rank["seen"]["argument"]) for rank in ranks] == [COUNT // 4] * 2


@pytest.mark.parametrize("name", ["undivided", "undivided, shuffled"])
def test_a_stream_that_ignores_the_ranks_is_warned_of(ranks: list[dict[str, Any]], name: str) -> None:
    assert [len(rank["seen"][name]) for rank in ranks] == [COUNT] * 2
    (message, *_) = ranks[0]["warned"][name] + ranks[1]["warned"][name]
    for fact in ("ranks 0 and 1", "Own", "2 times", "get_rank()", "world=World()"):
        assert fact in message


@pytest.mark.parametrize("name", ["divided", "divided, shuffled"])
def test_a_stream_that_divides_itself_is_not_warned_of(ranks: list[dict[str, Any]], name: str) -> None:
    assert not ranks[0]["warned"][name] + ranks[1]["warned"][name]
