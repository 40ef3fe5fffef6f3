"""What a source of encoded images is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from resflow.plan.index import Index


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The bytes of one sample.

    Args:
        key: the sample's name in its shard.
        shard: path of the shard.
        image: the encoded image.
        members: all members by lower-case extension, the image included.
    """

    key: str
    shard: str
    image: memoryview
    members: Mapping[str, memoryview]


@runtime_checkable
@runtime_checkable
class Source(Protocol):
    """Gives samples by their number in an index."""

    @property
    def index(self) -> Index:
        """Where each sample lies and how large its image is."""

    def read(self, sample_ids: npt.NDArray[np.int64]) -> list[Sample]:
        """Samples in the order asked for; `sample_ids` int64 [B], in [0, N)."""

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Tell the system that these samples are wanted soon; int64 [B]."""

    def name(self, sample_id: int) -> tuple[str, str]:
        """Shard and key of a sample, for messages."""

    def close(self) -> None:
        """Give back what the source holds open; a later read opens it again."""
