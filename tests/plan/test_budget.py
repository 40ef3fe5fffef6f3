import numpy as np
import pytest

from resflow.errors import ConfigError, PlanError
from resflow.plan import PixelBudget
from resflow.plan.budget import cut_level


def test_limit() -> None:
    assert PixelBudget(1_000_000).limit((100, 100)) == 100
    assert PixelBudget(999_999).limit((100, 100)) == 99
    assert PixelBudget(1_000_000, max_batch=64).limit((100, 100)) == 64
    assert PixelBudget(1_000_000, multiple_of=8).limit((100, 100)) == 96
    assert PixelBudget(1_000_000, max_batch=70, multiple_of=8).limit((100, 100)) == 64


def test_a_budget_too_small_for_an_image_is_refused() -> None:
    with pytest.raises(
        PlanError,
        match=r"a budget of 9999 pixels does not hold 1 image\(s\) of shape 100x100, 10000 pixels. "
        r"Raise PixelBudget.pixels or lower the resolution",
    ):
        PixelBudget(9999).limit((100, 100))
    with pytest.raises(PlanError, match=r"does not hold 8 image\(s\) of shape 100x50, 40000 pixels"):
        PixelBudget(39_999, multiple_of=8).limit((100, 50))


@pytest.mark.parametrize("unit", [1, 2, 6])
@pytest.mark.parametrize("odd", [0, 1])
def test_cuts_are_few_nearly_equal_and_within_the_limit(unit: int, odd: int) -> None:
    rng = np.random.default_rng(unit)
    for _ in range(200):
        counts = rng.integers(0, 50, 4) * unit
        if odd and unit > 1:
            counts[rng.integers(4)] += rng.integers(1, unit)
        limits = rng.integers(1, 9, 4) * unit
        bucket, sizes = cut_level(counts, limits, unit)
        assert np.bincount(bucket, weights=sizes, minlength=4).tolist() == counts.tolist()
        assert (sizes > 0).all()
        assert (sizes <= limits[bucket]).all()
        for k in range(4):
            own = sizes[bucket == k]
            assert len(own) == -(-counts[k] // limits[k])
            assert not len(own) or own.max() - own.min() <= unit
            assert not (own[:-1] % unit).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pixels": 0}, "PixelBudget.pixels must be a whole number of at least 1; got 0"),
        ({"pixels": 1e6}, "PixelBudget.pixels must be a whole number of at least 1; got 1000000.0"),
        ({"pixels": 9, "max_batch": 0}, "PixelBudget.max_batch must be"),
        ({"pixels": 9, "multiple_of": 0}, "PixelBudget.multiple_of must be"),
        ({"pixels": 9, "max_batch": 4, "multiple_of": 8}, "max_batch must be at least multiple_of; got 4 and 8"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PixelBudget(**fields)
