"""Which part of each global batch this process takes."""

from __future__ import annotations

from dataclasses import dataclass

from resflow.errors import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """One rank among `size` ranks.

    Raises:
        ConfigError: `rank` is not in [0, size).
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        whole = type(self.rank) is int and type(self.size) is int
        if not whole or self.size < 1 or not 0 <= self.rank < self.size:
            raise ConfigError(
                f"World needs whole numbers with 0 <= rank < size; got rank {self.rank!r}, size {self.size!r}"
            )
