"""What a source of images is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from resflow.plan.index import Index
from resflow.targets.mirror import KeypointPairs

if TYPE_CHECKING:
    from resflow.sources.tiers import Tiers

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB, contiguous."""


class Missing(Enum):
    """What stands where a sample has nothing."""

    TARGET = "no target"


NO_TARGET = Missing.TARGET
"""The target of a sample whose source brings none; None is a target like any other."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One sample as it was read.

    Args:
        key: the sample's name in its shard.
        shard: path of the shard; of a dataset, its folder or class.
        image: the encoded image, or its pixels: uint8 [H, W, 3], RGB, contiguous.
        members: all members of a shard's sample by lower-case extension, the image included (that of a tier under the
            original's extension); none where they were not asked for.
        target: what the source gives as the target, NO_TARGET where it gives none.
        keypoint_pairs: which keypoints of a target swap places in a mirror, where the target itself does not say;
            None where it is not known.
        names: where the item is a dict, the keys of its image and of all else in it, in order.
    """

    key: str
    shard: str
    image: memoryview | Pixels
    members: Mapping[str, memoryview]
    target: object = NO_TARGET
    keypoint_pairs: KeypointPairs | None = None
    names: tuple[str, ...] = ()


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


@runtime_checkable
class TieredSource(Source, Protocol):
    """A source that may hold its images at smaller sizes, too."""

    def open_tiers(self) -> Tiers | None:
        """The tiers, None where there are none; IndexFileError where one is missing or stale."""

    def read_tiers(
        self, sample_ids: npt.NDArray[np.int64], tier: npt.NDArray[np.int64], *, members: bool
    ) -> list[Sample]:
        """Samples with their images out of tiers.

        Args:
            sample_ids: int64 [B], in [0, N).
            tier: int64 [B], the number of the tier for each sample, ORIGINAL for the image as it was.
            members: whether the samples' other members are wanted, of which the originals' shards have the only copy.

        Returns:
            B samples, in the order asked for.
        """
