"""Which part of each global batch this process takes."""

from __future__ import annotations

from dataclasses import dataclass

from resflow.checks import whole
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
        size = whole(self.size, 1)
        rank = None if size is None else whole(self.rank, 0, size - 1)
        if rank is None:
            raise ConfigError(
                f"World needs whole numbers with 0 <= rank < size; got rank {self.rank!r}, size {self.size!r}"
            )
        object.__setattr__(self, "rank", rank)
        object.__setattr__(self, "size", size)
