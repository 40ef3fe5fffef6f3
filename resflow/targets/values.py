"""The numbers in label maps: renumbered where asked, and looked at, since a wrong one is silent as it trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError

VOID = 255
"""What masks write where there is no class: VOC's borders, and by default what losses ignore."""

_SHOWN = 8


def checked_values(values: Any, name: str) -> dict[int, int]:
    """A table of numbers in masks and the classes that they mean.

    Args:
        values: a mapping of whole numbers.
        name: of the argument, for errors.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(values, Mapping):
        pairs = list(values.items())
        if all(type(one) is int and type(other) is int and 0 <= one <= 65535 for one, other in pairs):
            return dict(sorted(pairs))
    raise ConfigError(f"{name} must be the class of each number in the masks, such as {{255: 1}}; got {values!r}")


def renumbered(classes: npt.NDArray[Any], table: Mapping[int, int] | None) -> npt.NDArray[Any]:
    """Classes of pixels with some numbers replaced, all at once; the others stay.

    Args:
        classes: uint8 or int32 [h, w].
        table: the number for each that is replaced.

    Returns:
        Of the same shape; uint8 where it was and all new numbers fit, else int32.
    """
    if not table:
        return classes
    narrow = classes.dtype == np.uint8 and all(0 <= number <= 255 for number in table.values())
    if narrow:
        lookup = np.arange(256, dtype=np.uint8)
        for one, other in table.items():
            lookup[one : one + 1] = other  # nothing beyond 255
        return np.take(lookup, classes)
    output = classes.astype(np.int32)
    for one, other in table.items():
        output[classes == one] = other
    return output


def found_values(classes: npt.NDArray[Any]) -> dict[int, int]:
    """How many pixels have each number that occurs.

    Args:
        classes: uint8 or int32 [h, w].
    """
    if classes.dtype == np.uint8:
        counts = np.bincount(classes.reshape(-1), minlength=256)
        return {number: int(counts[number]) for number in np.flatnonzero(counts).tolist()}
    numbers, counts = np.unique(classes, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def strange_values(found: Collection[int], known: Collection[int] | None, ignore_index: int) -> str | None:
    """What is wrong with the numbers that occur in label maps.

    Args:
        found: the numbers.
        known: the classes' numbers, None where they are not known.
        ignore_index: the number that is no class.

    Returns:
        What is wrong and the way out; None if nothing is.
    """
    if known is not None:
        strange = sorted(set(found) - set(known) - {ignore_index, VOID})
        if strange:
            more = ", ..." if len(strange) > _SHOWN else ""
            return (
                f"label maps hold {', '.join(map(str, strange[:_SHOWN]))}{more}, which are none of the {len(known)} "
                f"classes ({min(known)} to {max(known)}). Say which class each is: values={{{strange[0]}: CLASS, ...}} "
                "of rf.sources.MaskFolder or rf.Targets; or correct the list of classes."
            )
    if VOID in found and set(found) <= {0, VOID}:
        means = "is ignored as no class" if ignore_index == VOID else "is taken for class 255"
        return (
            f"label maps hold nothing but 0 and {VOID}, and {VOID} {means}. If it is the foreground, pass "
            f"values={{{VOID}: 1}} to rf.sources.MaskFolder or rf.Targets."
        )
    return None
