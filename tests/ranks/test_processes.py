"""Real processes that meet through gloo, each with its own loader and worker."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import resflow as rf
from resflow.sources import build_index, index_path, labelled_files, write_index, write_shards
from tests.data import DATA
from tests.ranks.checks import check_in_step, check_order
from tests.ranks.processes import TIMEOUT, Job, make_loader, run_jobs
from tests.shards import make_shards

COUNT = 41


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of real photographs, or of made-up pictures where there are none."""
    folder = tmp_path_factory.mktemp("ranks")
    if not (DATA / "imagenet500").is_dir():
        return make_shards(folder, COUNT)
    images = list(labelled_files(DATA / "imagenet500", r"^(n\d+)"))[: COUNT * 10 : 10]
    pattern = str(write_shards(images, folder / "s-%d.tar", max_samples=15)[0].parent / "*.tar")
    write_index(build_index(pattern, workers=1), index_path(pattern))
    return pattern


@pytest.fixture(scope="module")
def order(data: str) -> list[list[int]]:
    return order_of(Job(data, 1, "argument"))


def order_of(job: Job) -> list[list[int]]:
    """The global batches of a job, as one rank plans them."""
    plan = make_loader(job, 0).plan(0)
    assert sorted(plan.sample_ids.tolist()) == list(range(COUNT))
    return [part.tolist() for part in np.split(plan.sample_ids, plan.offsets[1:-1])]


Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def jobs(data: str) -> dict[str, Ranks]:
    """All that need no time to run out, by one process that imports torch once."""
    wanted = {
        "4 distributed": Job(data, 4),
        "3 distributed": Job(data, 3),
        "2 environment": Job(data, 2, "environment"),
        "2 argument": Job(data, 2, "argument"),
        "1 distributed": Job(data, 1),
        "first leg": Job(data, 4, steps=1),
        "second leg": Job(data, 2, steps=2, goes_on=True),
        "last leg": Job(data, 1, goes_on=True),
        "killed": Job(data, 2, fault="killed"),
    }
    return dict(zip(wanted, run_jobs(list(wanted.values())), strict=True))


@pytest.mark.parametrize("name", ["4 distributed", "3 distributed", "2 environment", "2 argument", "1 distributed"])
def test_any_number_of_ranks_goes_one_way_whoever_tells_them(
    jobs: dict[str, Ranks], order: list[list[int]], name: str
) -> None:
    ranks = jobs[name]
    leg = [rank["steps"] for rank in ranks]
    assert len(ranks) == int(name[0])
    assert {rank["length"] for rank in ranks} == {len(order)}
    assert all(rank["agree"] for rank in ranks)
    check_in_step(leg)
    check_order([leg], order)
    assert len({rank["state"] for rank in ranks}) == 1


def test_4_2_and_1_processes_share_an_epoch(jobs: dict[str, Ranks], order: list[list[int]]) -> None:
    legs = [[rank["steps"] for rank in jobs[name]] for name in ("first leg", "second leg", "last leg")]
    assert [len(leg[0]) for leg in legs] == [1, 2, len(order) - 3]
    for leg in legs:
        check_in_step(leg)
    check_order(legs, order)


@pytest.mark.slow
def test_4_2_8_and_1_processes_share_an_epoch(data: str) -> None:
    worlds = {4: 1, 2: 2, 8: 1, 1: None}
    jobs = [Job(data, world, batch=8, steps=steps, goes_on=world != 4) for world, steps in worlds.items()]
    legs = [[rank["steps"] for rank in ranks] for ranks in run_jobs(jobs)]
    assert [len(leg) for leg in legs] == [4, 2, 8, 1]
    assert [len(leg[0]) for leg in legs] == [1, 2, 1, 2]
    for leg in legs:
        check_in_step(leg)
    check_order(legs, order_of(Job(data, 1, "argument", batch=8)))


def check_fault(ranks: Ranks) -> None:
    peer, dead = ranks
    assert peer["steps"] == 3
    assert "gloo" in peer["error"], peer["error"]
    assert peer["seconds"] < TIMEOUT + 2
    for rank in (peer, dead):
        assert rank["workers"] == 2
        assert rank["living"] == []
        assert rank["shared"] == []


def test_a_rank_that_is_killed_is_noticed_and_leaves_nothing(jobs: dict[str, Ranks]) -> None:
    check_fault(jobs["killed"])


@pytest.mark.slow
def test_a_rank_that_stands_still_is_noticed_and_leaves_nothing(data: str) -> None:
    [ranks] = run_jobs([Job(data, 2, fault="stopped")])
    check_fault(ranks)
    assert ranks[0]["seconds"] > TIMEOUT - 1


def test_without_anyone_to_tell_it_a_loader_is_alone(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert make_loader(Job(data, 1, "environment"), 0).plan(0).world_size == 1
    for rank, world in product(range(2), (2,)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        assert len(make_loader(Job(data, 2, "environment"), rank)) == -(-COUNT // 12)
    monkeypatch.delenv("RANK")
    with pytest.raises(rf.errors.ConfigError, match="RANK and WORLD_SIZE must both be whole numbers, or both unset"):
        make_loader(Job(data, 1, "environment"), 0)
