"""Checks of arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest

import resflow as rf
from resflow.checks import check_whole, is_number, is_whole
from resflow.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (1, True, True),
        (np.int32(7), True, False),
        (0, False, True),
        (True, False, False),
        (1.0, False, True),
        (math.nan, False, False),
        (math.inf, False, False),
        (10**400, True, False),
        ("1", False, False),
        (None, False, False),
    ],
    ids=str,
)
def test_what_counts_as_whole_and_as_a_number(value: object, whole: bool, number: bool) -> None:
    assert (is_whole(value), is_number(value)) == (whole, number)


def test_a_whole_number_becomes_pythons_or_is_refused_by_name() -> None:
    assert type(check_whole("stride", np.int64(4))) is int
    assert check_whole("epoch", 0, least=0) == 0
    with pytest.raises(ConfigError, match=r"stride must be a whole number of at least 2; got 1"):
        check_whole("stride", 1, least=2)


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: rf.Pipeline(resolution=32, stride=0), r"Pipeline\.stride .*got 0"),
        (lambda: rf.Targets(min_visible=2.0), r"Targets\.min_visible .*got 2\.0"),
        (lambda: rf.sources.Store(retries=-1), r"Store\.retries .*0.*got -1"),
    ],
    ids=["pipeline", "targets", "store"],
)
def test_a_field_that_is_not_as_expected_is_named_with_its_class(make: object, facts: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=facts):
        make()
