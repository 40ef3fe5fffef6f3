"""Checks of numbers that a user gave."""

from __future__ import annotations

import math
from collections.abc import Sequence

from resflow.errors import ConfigError


def is_number(value: object) -> bool:
    """Whether a value is a finite real number (and not a truth value)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_range(
    name: str, value: object, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> tuple[float, float]:
    """Refuse what is not two finite numbers in order within bounds.

    Args:
        name: of the value, for the message.
        value: the two numbers.
        low: least value of the first.
        high: greatest value of the second.
        open_low: `low` itself is out of bounds.
        open_high: `high` itself is out of bounds.

    Returns:
        The two numbers as a tuple.

    Raises:
        ConfigError: names the value and its bounds.
    """
    pair = tuple(value) if isinstance(value, Sequence) else ()
    inside = len(pair) == 2 and all(map(is_number, pair)) and low <= pair[0] <= pair[1] <= high
    if not inside or (open_low and pair[0] == low) or (open_high and pair[1] == high):
        bounds = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ConfigError(f"{name} must be two finite numbers in order, within {bounds}; got {value!r}")
    return (pair[0], pair[1])
