"""A short soak, and that its oracle sees what is planted. The whole: `python benchmarks/soak.py --minutes 60`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import soak
from resflow.errors import ConfigError
from resflow.sources.ray_tasks import _bounds, ray_cluster


def ledger() -> soak.Ledger:
    return [(epoch, step, [step * 4 + place for place in range(4)]) for epoch in range(2) for step in range(5)]


def test_the_oracle_passes_what_is_as_planned() -> None:
    soak.check(ledger(), ledger())


@pytest.mark.parametrize(
    ("plant", "said"), [("lost", "1 samples are lost"), ("repeated", "1 samples are repeated"), ("reordered", "out of")]
)
def test_the_oracle_sees_what_is_planted(plant: str, said: str) -> None:
    for seed in range(10):
        with pytest.raises(AssertionError, match=said):
            soak.check(soak.planted(ledger(), plant, random.Random(seed)), ledger())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_half_a_minute_of_faults_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    with soak.misbehaving_server(tmp_path) as server:
        one = soak.Soak(tmp_path, seed)
        one.run(30, server)
    assert one.ledger
    soak.check(one.ledger, one.expected())
    assert not +one.tally.left
    for plant in soak.PLANTS:
        with pytest.raises(AssertionError):
            soak.check(soak.planted(one.ledger, plant, one.rng), one.expected())


def test_where_shards_end_on_a_cluster() -> None:
    measured = [(str(number), length) for number, length in enumerate([5, 5, 5, 90, 1, 1, 1])]
    assert _bounds(measured, 3, 1000) == [(0, 3), (3, 6), (6, 7)]
    assert _bounds(measured, 100, 10) == [(0, 2), (2, 4), (4, 7)]
    assert _bounds(measured, 1, 1) == [(number, number + 1) for number in range(7)]


def test_without_ray_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ConfigError, match=r"needs Ray Data, from ray, which is not installed\. Run: pip install 'resflow\[ray\]'"
    ):
        ray_cluster(None).__enter__()
