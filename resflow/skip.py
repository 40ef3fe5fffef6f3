"""What may be done about bad samples: passed over within a budget, and told of; and those that pass for good."""

from __future__ import annotations

import math
from dataclasses import dataclass

from resflow.checks import is_number, whole
from resflow.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Skip:
    """Leave a blank place in the batch for a sample that is bad, until too many are.

    Each rank counts its own in each epoch. It may skip the share `budget` of the epoch's samples divided by the number
    of ranks (of a stream: of the samples that the rank has handed out or skipped so far), rounded down, but always
    `grace`.

    Args:
        budget: share of an epoch's samples, in [0, 1].
        grace: bad samples that are skipped whatever the budget, at least 0.

    Raises:
        ConfigError: a value out of its range.
    """

    budget: float = 0.01
    grace: int = 10

    def __post_init__(self) -> None:
        if not is_number(self.budget) or not 0 <= self.budget <= 1:
            raise ConfigError(f"Skip.budget must be a share of an epoch's samples in [0, 1]; got {self.budget!r}")
        if (grace := whole(self.grace, 0)) is None:
            raise ConfigError(f"Skip.grace must be a whole number of at least 0; got {self.grace!r}")
        object.__setattr__(self, "grace", grace)

    def allowed(self, samples: int) -> int:
        """How many of so many samples may be skipped."""
        return max(self.grace, math.floor(self.budget * samples + 1e-9))  # 0.07 * 100 is 7, and a little


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that was skipped, and why.

    Args:
        key: of the sample.
        shard: path of its shard; of a dataset, its folder or class.
        reason: type and text of the error.
        epoch: in which it was skipped.
        step: of the batch in its epoch; of a stream, of the batch among those of its worker.
        sample_id: its number in the index; of a stream, as in `Batch.sample_ids`.
        offset: byte in the shard at which the fault, or else the sample, lies; None where it is not known.
    """

    key: str
    shard: str
    reason: str
    epoch: int
    step: int
    sample_id: int
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Tolerated:
    """An image that was decoded, though not all of it is as it was meant; `Pipeline(strict=True)` refuses such.

    Args:
        key: of the sample.
        shard: path of its shard; of a dataset, its folder or class.
        kind: "damaged": a strict decoder refuses it, and Pillow reads over the damage, as torchvision does; "cut off":
            greyscale of more than 8 bits, cut to 0..255 as PIL's `convert("RGB")` does.
        reason: what the strict decoder says, or which values there are.
    """

    key: str
    shard: str
    kind: str
    reason: str
