"""How often samples come: exact to within one, spread, repeatable; against counts made otherwise."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from resflow.errors import ConfigError
from resflow.plan import BlockPlan, Constant, Index, World, lay_out, learn_buckets
from resflow.plan.sampling import Balanced, Draws, RepeatFactor, Replacement, Weighted

RNG = np.random.default_rng(11)
LABELS = RNG.choice(4, 500, p=[0.7, 0.2, 0.08, 0.02])
WEIGHTS = RNG.gamma(0.5, 1, 500)
CATEGORIES = [RNG.choice(30, RNG.integers(0, 4), p=np.arange(1, 31) / 465).tolist() for _ in range(500)]


def none(name: str) -> Any:
    raise AssertionError(name)


def expected_of(sampling: Any) -> np.ndarray[Any, Any]:
    """The times that each sample is to come, by the definitions, sample by sample."""
    n = len(LABELS)
    if isinstance(sampling, Balanced):
        counts = Counter(LABELS.tolist())
        shares = {label: count ** (1 - sampling.power) for label, count in counts.items()}
        each = [shares[label] / sum(shares.values()) / counts[label] for label in LABELS.tolist()]
        return np.array(each) * (sampling.size or n)
    if isinstance(sampling, Weighted):
        return np.array([weight / sum(WEIGHTS.tolist()) for weight in WEIGHTS.tolist()]) * (sampling.size or n)
    images = Counter(category for own in CATEGORIES for category in set(own))
    factors = [
        max([1.0, *((sampling.threshold / (images[category] / n)) ** 0.5 for category in own)]) for own in CATEGORIES
    ]
    return np.array(factors) * round(sum(factors)) / sum(factors)


EXACT = {
    "balanced": Balanced(LABELS),
    "half balanced, small": Balanced(LABELS, power=0.5, size=77),
    "as it is": Balanced(LABELS, power=0.0),
    "weighted": Weighted(WEIGHTS),
    "weighted, large": Weighted(WEIGHTS, size=3001),
    "repeat factor": RepeatFactor(CATEGORIES, threshold=0.2),
}


@pytest.mark.parametrize("name", list(EXACT))
def test_a_sample_comes_as_often_as_it_should_to_within_one(name: str) -> None:
    expected, draws = expected_of(EXACT[name]), EXACT[name].draws(500, none)
    mean = np.zeros(500)
    for epoch in range(200):
        rows, repeats = draws.rows(3, epoch)
        counts = np.bincount(rows, minlength=500)
        assert len(rows) == len(draws) == round(expected.sum())
        assert (np.abs(counts - expected) < 1 + 1e-9).all()
        assert sorted(zip(rows.tolist(), repeats.tolist(), strict=True)) == [
            (row, place) for row in range(500) for place in range(counts[row])
        ]
        mean += counts / 200
    # Of a comb laid at random the mean is the expected number: five standard errors of a coin that is laid 200 times.
    assert (np.abs(mean - expected) < 5 * 0.5 / 200**0.5).all()


@pytest.mark.parametrize("name", [name for name in EXACT if "bal" in name])
def test_classes_have_their_shares_to_within_one(name: str) -> None:
    sampling = EXACT[name]
    expected, draws = expected_of(sampling), sampling.draws(500, none)
    for epoch in range(50):
        rows, _ = draws.rows(3, epoch)
        for label in range(4):
            assert abs((LABELS[rows] == label).sum() - expected[label == LABELS].sum()) < 1 + 1e-9


def test_each_epoch_draws_anew_and_a_seed_the_same() -> None:
    draws = Balanced(LABELS, size=100).draws(500, none)
    first, second, other = (draws.rows(*key)[0].tolist() for key in ((1, 0), (1, 1), (2, 0)))
    assert first != second
    assert first != other
    assert first == Balanced(LABELS, size=100).draws(500, none).rows(1, 0)[0].tolist()


def test_a_class_is_gone_through_rather_than_one_of_its_samples_repeated() -> None:
    draws = Balanced(LABELS, size=100).draws(500, none)  # 25 of the 350 samples of class 0 in each epoch
    seen = {row for epoch in range(60) for row in draws.rows(0, epoch)[0].tolist() if LABELS[row] == 0}
    assert len(seen) > 340
    own = np.flatnonzero(LABELS == 0).tolist()
    together = [set(draws.rows(0, epoch)[0].tolist()) for epoch in range(60)]
    pairs = itertools.pairwise(own)
    assert any({first, second} <= rows for first, second in pairs for rows in together)  # neighbours, too


def test_replacement_is_independent_of_what_came_before() -> None:
    draws = Replacement(50_000).draws(500, none)
    counts = np.bincount(draws.rows(0, 0)[0], minlength=500)
    assert counts.sum() == 50_000
    # Poisson: the variance is the mean, where a comb would have none.
    assert 80 < counts.var() < 120
    assert 0 < (np.bincount(Replacement(500).draws(500, none).rows(0, 0)[0], minlength=500) == 0).mean() < 0.5


def index(n: int) -> Index:
    size = np.random.default_rng(5).integers(40, 120, (n, 2)).astype(np.int32)
    return Index(np.zeros(n, np.int32), np.arange(n), np.ones(n, np.int64), size, "x")


def plan(draws: Draws, *, world: int = 1, epoch: int = 0, block: int = 1 << 22, shuffle: bool = True) -> BlockPlan:
    buckets = learn_buckets(index(500).size, 4, resolutions=(64,), stride=16)
    layout = lay_out(index(500), buckets, draws=draws, block=block)
    return BlockPlan(layout, Constant(64), batch_size=16, seed=3, epoch=epoch, shuffle=shuffle, world_size=world)


def drawn(planned: Any) -> list[tuple[int, int]]:
    batches = [planned.batch(step) for step in range(len(planned))]
    return [pair for batch in batches for pair in zip(batch.sample_ids.tolist(), batch.draw_ids.tolist(), strict=True)]


@pytest.mark.parametrize("block", [1 << 22, 160])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_plan_holds_what_was_drawn_over_all_ranks_and_draws_repeats_anew(block: int, shuffle: bool) -> None:
    draws = Balanced(LABELS).draws(500, none)
    rows, _ = draws.rows(3, 2)
    for world in (1, 2, 4):
        planned = plan(draws, world=world, epoch=2, block=block, shuffle=shuffle)
        pairs = [pair for rank in range(world) for pair in drawn(planned.rank(World(rank, world)))]
        assert Counter(row for row, _ in pairs) == Counter(rows.tolist())
        assert len(set(pairs)) == len(pairs)  # each repeat of a sample has random numbers of its own


def test_repeats_are_spread_over_the_epoch() -> None:
    weights = np.ones(500)
    weights[7] = 25.0
    draws = Weighted(weights).draws(500, none)
    pairs = drawn(plan(draws).rank(World(0, 1)))
    places = [place for place, (row, _) in enumerate(pairs) if row == 7]
    assert len(places) in (23, 24)
    gaps = np.diff(places)
    assert gaps.max() < 5 * len(pairs) / len(places)
    assert len({place // 125 for place in places}) == 4  # in each quarter


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Weighted([1.0] * 499), "500 values, one for each sample"),
        (Weighted([-1.0] + [1.0] * 499), "at least 0; got -1 for sample 0"),
        (Weighted([1.0, float("nan")] + [1.0] * 498), "at least 0; got nan for sample 1"),
        (Weighted([0.0] * 500), "are all 0"),
        (Weighted(["a"] * 500), "one number for each sample"),
        (Weighted([1.0] * 500, size=0), "Weighted.size must be a whole number"),
        (Balanced([[1]] * 499 + [[1, 2]]), "lists of several lengths"),
        (Balanced([0.5] * 500), "whole numbers or text"),
        (Balanced(LABELS, power=2), "Balanced.power must be a number in"),
        (RepeatFactor([[1]] * 3), "500 sequences"),
        (RepeatFactor([[1]] * 500, threshold=0), "RepeatFactor.threshold"),
        (Replacement(-1), "Replacement.size"),
    ],
)
def test_what_makes_no_sense_is_named(sampling: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sampling.draws(500, none)
