"""The index of a dataset: where each sample's bytes lie and how large its image is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError

_CHECKED = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Where each of N samples lies and how large its image is.

    Args:
        shard: int32 [N], number of the shard that holds the sample.
        offset: int64 [N], byte offset of the sample's first byte in its shard.
        length: int64 [N], bytes from there to the end of the sample's last member.
        size: int32 [N, 2], height and width in pixels, after EXIF orientation.
        fingerprint: hash of all of the above and of the shards' names and sizes; equal data, equal fingerprint.

    Raises:
        ConfigError: arrays disagree in length, have another dtype or shape, or a size is not positive (of the first
            4 Mi samples; those beyond are looked at when they are planned, so that mapping a large index reads none).
    """

    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    fingerprint: str

    def __post_init__(self) -> None:
        n = len(self.shard)
        expected = {
            "shard": (np.int32, (n,)),
            "offset": (np.int64, (n,)),
            "length": (np.int64, (n,)),
            "size": (np.int32, (n, 2)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ConfigError(
                    f"Index.{name} must be {np.dtype(dtype)} {list(shape)}; got {array.dtype} {list(array.shape)}"
                )
        seen = self.size[:_CHECKED]
        if n and int(seen.min()) < 1:
            first = int(np.argmin(seen.min(axis=1)))
            raise ConfigError(
                f"Index.size must be positive; sample {first} has height, width {self.size[first].tolist()}"
            )

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def aspect_ratio(self) -> npt.NDArray[np.float64]:
        """float64 [N], width over height."""
        return self.size[:, 1] / self.size[:, 0]
