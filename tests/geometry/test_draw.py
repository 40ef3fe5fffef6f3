from __future__ import annotations

import numpy as np
import pytest

from resflow.errors import ConfigError
from resflow.geometry.draw import uniforms

SAMPLE_IDS = np.array([0, 1, 5, 2**31, 2**32 - 1, 2**32, 2**40 + 3])


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**33 + 5])
@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("count", [1, 2, 5, 22])
def test_draws_are_those_of_numpys_seed_sequence(seed: int, epoch: int, count: int) -> None:
    drawn = uniforms(seed, epoch, SAMPLE_IDS, 99, count)
    for row, sample_id in zip(drawn, SAMPLE_IDS, strict=True):
        words = np.random.SeedSequence((seed, epoch, int(sample_id), 99)).generate_state(count, np.uint64)
        np.testing.assert_array_equal(row, (words >> np.uint64(11)) * 2.0**-53)


def test_draws_of_a_sample_do_not_depend_on_its_batch() -> None:
    together = uniforms(1, 2, np.arange(100), 3, 4)
    np.testing.assert_array_equal(uniforms(1, 2, np.array([17]), 3, 4), together[17:18])


@pytest.mark.parametrize("changed", [(2, 0, 0), (1, 1, 0), (1, 0, 1)])
def test_seed_epoch_and_purpose_each_change_the_draws(changed: tuple[int, int, int]) -> None:
    seed, epoch, purpose = changed
    one, other = uniforms(1, 0, np.arange(1000), 0, 1), uniforms(seed, epoch, np.arange(1000), purpose, 1)
    assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.15


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be at least 0; got -1, 0, 0"):
        uniforms(-1, 0, np.arange(3), 0, 1)
    with pytest.raises(ConfigError, match="sample ids must be at least 0"):
        uniforms(0, 0, np.array([3, -1]), 0, 1)
