"""Checks of arguments that a user gave, once for all packages."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from resflow.errors import ConfigError


def is_number(value: object) -> bool:
    """Whether a value is a finite real number within float64's range (and not a truth value)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def whole(value: object, least: int | None = 1, most: int | None = None) -> int | None:
    """A whole number as Python's int.

    Args:
        value: anything; NumPy's and PyTorch's numbers count where their dtype is of integers.
        least: the least that is taken; None: any.
        most: the most that is taken; None: any.

    Returns:
        The number; None for what is none (truth values among them) or out of range.
    """
    taken: Any = value
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        number = operator.index(taken)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
        return None
    low, high = number if least is None else least, number if most is None else most
    return number if low <= number <= high else None


def is_whole(value: object, least: int = 1) -> bool:
    """Whether a value is a whole number of at least `least` (see `whole`)."""
    return whole(value, least) is not None


def check_whole(name: str, value: object, least: int = 1) -> int:
    """Refuse what is not a whole number of at least `least`.

    Args:
        name: of the argument, for the message.
        value: Python's, NumPy's or PyTorch's number.
        least: the smallest that is taken.

    Returns:
        Python's number.

    Raises:
        ConfigError: names the argument and its value.
    """
    if (number := whole(value, least)) is None:
        raise ConfigError(f"{name} must be a whole number of at least {least}; got {value!r}")
    return number


def check_fields(owner: object, fields: Iterable[tuple[str, bool, str]]) -> None:
    """Refuse an object with a field that is not as expected.

    Args:
        owner: the object; its class is named in the message.
        fields: a field's name, whether its value is valid, and what is expected of it.

    Raises:
        ConfigError: names the first field that is not valid, what it must be, and what it is.
    """
    for name, valid, expected in fields:
        if not valid:
            raise ConfigError(f"{type(owner).__name__}.{name} must be {expected}; got {getattr(owner, name)!r}")


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
