import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from resflow.errors import ConfigError
from resflow.plan import Mixture


@pytest.mark.parametrize("weights", [(1.0,), (3, 1), (0.1, 0.2, 0.7), (5, 3, 2), (3e-3, 1, 1), (1, 1, 1, 1, 1, 1, 1)])
@pytest.mark.parametrize("size", [1000, 1001, 4099])
def test_shares_are_the_weights_to_within_one_sample(weights: tuple[float, ...], size: int) -> None:
    shares = Mixture((10,) * len(weights), weights, size).shares
    total = sum(map(Fraction, weights))
    assert sum(shares) == size
    assert all(abs(share - Fraction(w) * size / total) < 1 for share, w in zip(shares, weights, strict=True))


@pytest.mark.parametrize("weights", [(1.0,), (3, 1), (0.1, 0.2, 0.7), (1, 1, 1), (100, 1, 1, 7)])
def test_any_first_samples_hold_their_part_of_each_source(weights: tuple[float, ...]) -> None:
    mixture = Mixture((10,) * len(weights), weights, 331)
    places = sorted((Fraction(2 * j + 1, 2 * n), source) for source, n in enumerate(mixture.shares) for j in range(n))
    counts = Counter[int]()
    for first in range(332):
        got = mixture.among(first)
        assert got == tuple(counts[source] for source in range(len(weights)))
        for count, share in zip(got, mixture.shares, strict=True):
            assert abs(count - Fraction(share * first, 331)) <= Fraction(max(len(weights), 2), 2)
        if first < 331:
            counts[places[first][1]] += 1


@pytest.mark.parametrize("count", [1, 7, 50, 400])
def test_draws_go_through_round_after_round(count: int) -> None:
    mixture = Mixture((count, 30), (2, 1), 90)
    share = mixture.shares[0]
    got: list[tuple[int, int]] = []  # round and place of each draw
    cuts = [0, 1, 2, 20, share]
    for epoch, (first, end) in itertools.product(range(5), itertools.pairwise(cuts)):
        draws = mixture.draws(0, epoch, first, end)
        assert all(turn >= mixture.first_round(0, epoch) for turn, *_ in draws)
        assert all(turns == 1 or (a, b) == (0, count) for _, turns, a, b in draws)
        got += [(turn + k, place) for turn, turns, a, b in draws for k in range(turns) for place in range(a, b)]
    assert got == [divmod(number, count) for number in range(5 * share)]
    assert mixture.draws(0, 3, 5, 5) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((), (), 5), r"a weight for each source; got 0 source\(s\), 0 weight\(s\)"),
        (((1, 2), (1.0,), 5), r"a weight for each source; got 2 source\(s\), 1 weight\(s\)"),
        (((1, 0), (1.0, 1.0), 5), "a mixture's source must have at least 1 sample; got 0"),
        (((1, 2), (1.0, 1.0), 0), "a mixture's epoch_size must have at least 1 sample; got 0"),
        (((1, 2), (1.0, 0.0), 5), "a mixture's weights must be numbers above 0; got 0.0"),
        (((1, 2), (1.0, float("nan")), 5), "weights must be numbers above 0; got nan"),
        (((1, 2), (1.0, "1"), 5), "weights must be numbers above 0; got '1'"),
        (((9, 9), (1.0, 1e-6), 100), "source 1 of weight 1e-06 has no sample in an epoch of 100. Raise its weight or"),
    ],
)
def test_bad_fields_are_refused(fields: tuple[object, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture(*fields)  # type: ignore[arg-type]


def test_a_law_of_shares_can_fail() -> None:
    """Drawing each sample's source at random, as peers do, breaks what is promised here."""
    mixture = Mixture((10, 10), (3, 1), 1000)
    drawn = np.random.default_rng(0).random(1000) < 0.25
    assert abs(int(drawn.sum()) - mixture.shares[1]) > 1
