"""Magnitudes that follow the resolution: weak augmentation of small images, strong augmentation of large ones.

A `Ramp` may stand wherever a frozen dataclass takes a number. Everything is linear between the ramp's two ends, and all
bounds of magnitudes are intervals, so a value whose two ends are sound is sound throughout.

Source: Tan and Le, "EfficientNetV2: Smaller Models and Faster Training" (2021), section 4, progressive learning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from resflow.checks import is_number
from resflow.errors import ConfigError

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ramp:
    """A magnitude that is `lo` at the schedule's lowest resolution, `hi` at its highest, and linear in between.

    Args:
        lo: magnitude at the lowest resolution.
        hi: magnitude at the highest resolution; may be below `lo`.

    Raises:
        ConfigError: an end is not a finite number.
    """

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not (is_number(self.lo) and is_number(self.hi)):
            raise ConfigError(
                f"Ramp must be two finite numbers, the magnitudes at the schedule's lowest and highest resolution; "
                f"got {self.lo!r} and {self.hi!r}"
            )

    def __call__(self, progress: float) -> float:
        """The magnitude at a progress.

        Args:
            progress: in [0, 1], see `resolution_progress`.

        Raises:
            ConfigError: the progress is out of bounds.
        """
        if not (is_number(progress) and 0 <= progress <= 1):
            raise ConfigError(f"the progress of a Ramp must be in [0, 1]; got {progress!r}")
        return self.lo if progress == 0 else self.hi if progress == 1 else self.lo + (self.hi - self.lo) * progress

    def __neg__(self) -> Ramp:
        return Ramp(-self.lo, -self.hi)


Magnitude: TypeAlias = float | Ramp
"""A number, or a number that follows the resolution."""


def resolution_progress(resolution: int, resolutions: Sequence[int]) -> float:
    """Where a resolution stands among those of its schedule.

    Args:
        resolution: of a batch, pixels.
        resolutions: all that the schedule can give, pixels.

    Returns:
        0 at the lowest, 1 at the highest, linear in between.

    Raises:
        ConfigError: the schedule has one resolution only, so that a ramp would never leave its low end.
    """
    lowest, highest = min(resolutions), max(resolutions)
    if lowest == highest:
        raise ConfigError(
            f"a Ramp follows the resolution, but the schedule stays at {lowest} pixels. "
            "Give a schedule such as rf.schedules.Linear(128, 224, epochs=16), or a number in place of the Ramp."
        )
    return min(max((resolution - lowest) / (highest - lowest), 0.0), 1.0)


def has_ramp(value: object) -> bool:
    """Whether a Ramp stands anywhere in a value: itself, in a sequence, or in the fields of a dataclass."""
    if isinstance(value, Ramp):
        return True
    if isinstance(value, tuple | list):
        return any(map(has_ramp, value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    return any(has_ramp(getattr(value, field.name)) for field in dataclasses.fields(value))


def at(value: Value, progress: float) -> Value:
    """The same value with numbers for its ramps.

    Args:
        value: a Ramp, a tuple or list, or a dataclass; anything else is returned as it is.
        progress: in [0, 1].

    Returns:
        `value` itself where it has no ramp; else a copy, checked as any new value of its class.

    Raises:
        ConfigError: the progress is out of bounds.
    """
    if not has_ramp(value):
        return value
    resolved: Any
    if isinstance(value, Ramp):
        resolved = value(progress)
    elif isinstance(value, tuple | list):
        resolved = type(value)(at(part, progress) for part in value)
    else:
        fields: Any = value  # a dataclass, as has_ramp found
        named = {field.name: getattr(fields, field.name) for field in dataclasses.fields(fields) if field.init}
        resolved = dataclasses.replace(fields, **{name: at(part, progress) for name, part in named.items()})
    return resolved  # type: ignore[no-any-return]


def fixed(name: str, value: Magnitude) -> float:
    """A magnitude as a number.

    Raises:
        ConfigError: it is a Ramp, which has no number before the resolution is known.
    """
    if isinstance(value, Ramp):
        raise ConfigError(f"{name} is {value!r}: resolve it first, with resflow.geometry.at(value, progress)")
    return value


def read_ramps(value: object) -> object:
    """Plain values, as YAML gives them, with a Ramp for each mapping `{ramp: [lo, hi]}`.

    Raises:
        ConfigError: the ramp is not two numbers.
    """
    if isinstance(value, Mapping):
        if set(value) == {"ramp"}:
            ends = value["ramp"]
            if not isinstance(ends, tuple | list) or len(ends) != 2:
                raise ConfigError(f"ramp must be two numbers, [lo, hi]; got {ends!r}")
            return Ramp(*ends)
        return {name: read_ramps(part) for name, part in value.items()}
    return tuple(map(read_ramps, value)) if isinstance(value, tuple | list) else value


def check_probability(owner: str, p: Magnitude) -> None:
    """Refuse what is no probability, at both ends of a ramp.

    Args:
        owner: what takes `p`, for the message.
        p: the probability.

    Raises:
        ConfigError: an end is outside [0, 1].
    """
    if not all(is_number(end) and 0 <= fixed(owner, end) <= 1 for end in (at(p, 0.0), at(p, 1.0))):
        raise ConfigError(f"{owner}.p must be a probability in [0, 1]; got {p!r}")
