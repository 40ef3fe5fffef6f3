"""Yes and no, and ids, as files write them."""

from __future__ import annotations

from typing import Any

_YES = frozenset({"1", "true", "yes", "y", "t", "on"})
_NO = frozenset({"0", "false", "no", "n", "f", "off", "", "unspecified", "none", "null"})  # VOC's tools: not stated


def read_flag(value: object) -> bool:
    """A yes or no: 0 and 1 as any kind of number, True and False, and as text 0, 1, 0.0, true, false, yes, no, on, off.

    Args:
        value: from a file; None, "" and VOC's "Unspecified" are no.

    Raises:
        ValueError: anything else, since every text and every other number would be true to Python.
    """
    if value is None:
        return False
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _YES or word in _NO:
            return word in _YES
    try:
        number = float(value)  # type: ignore[arg-type]
        if number in (0.0, 1.0):
            return number == 1.0
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise ValueError(f"got {value!r}; expected 0 or 1, true or false, yes or no")


def as_whole(value: Any) -> Any:
    """An id as a whole number: 7 of any library, 7.0, "7" and "0007"; any other value as it is.

    Args:
        value: from a file or a dataset.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip()
        digits = word[1:] if word[:1] == "-" else word
        return int(word) if digits.isascii() and digits.isdigit() and len(digits) < 20 else value
    try:
        number = int(value)
        return number if number == value else value
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return value
