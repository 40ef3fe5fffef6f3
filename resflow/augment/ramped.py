"""Kornia modules whose arguments follow the resolution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from resflow.errors import ConfigError
from resflow.geometry import at


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Ramped:
    """A Kornia augmentation with a `Ramp` in place of numbers: `Ramped(ColorJiggle, brightness=Ramp(0.0, 0.4), p=0.8)`.

    Kornia's constructors want numbers, so this holds the class and its arguments, and builds a module for each
    resolution of the schedule, once.

    Args:
        operation: the class, such as kornia.augmentation.ColorJiggle.
        arguments: what its constructor takes by position.
        named: what its constructor takes by name.

    Raises:
        ConfigError: not a class of modules, or it refuses the arguments at an end of the ramps.
    """

    operation: type[nn.Module]
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    _built: dict[float, nn.Module] = field(compare=False)

    def __init__(self, operation: type[nn.Module], *arguments: Any, **named: Any) -> None:
        if not (isinstance(operation, type) and issubclass(operation, nn.Module)):
            raise ConfigError(
                f"Ramped takes a class and its arguments, as in Ramped(kornia.augmentation.ColorJiggle, "
                f"brightness=Ramp(0.0, 0.4)); got {operation!r}"
            )
        object.__setattr__(self, "operation", operation)
        object.__setattr__(self, "arguments", arguments)
        object.__setattr__(self, "named", tuple(named.items()))
        object.__setattr__(self, "_built", {})
        self.module(0.0)
        self.module(1.0)

    def module(self, progress: float) -> nn.Module:
        """The module at a progress of the schedule.

        Args:
            progress: in [0, 1]; 0 at the lowest resolution, 1 at the highest.

        Raises:
            ConfigError: the class refuses the arguments.
        """
        if progress not in self._built:
            arguments, named = at(self.arguments, progress), {name: at(part, progress) for name, part in self.named}
            try:
                self._built[progress] = self.operation(*arguments, **named)
            except Exception as error:  # Kornia raises what it likes
                end = {0.0: " at the lowest resolution", 1.0: " at the highest resolution"}.get(progress, "")
                raise ConfigError(f"{self!r} cannot be built{end}: {error}") from error
        return self._built[progress]

    def __repr__(self) -> str:
        parts = [*map(repr, self.arguments), *(f"{name}={part!r}" for name, part in self.named)]
        return f"Ramped({', '.join([self.operation.__name__, *parts])})"
