"""What decoding a drawn window costs, out of a tier or the original, before either is read: a model of four numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.plan.buckets import Sizes
from resflow.plan.tiers import tier_size

_HEADERS, _PIXELS, _DETAIL = 600.0, 0.9175, 0.296  # bytes, and powers of pixels and of bytes a pixel
_OVERSAMPLE = 1.5  # decoded pixels for an output pixel, below which no reduced size is decoded (decode.turbo)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What a pipeline draws of samples: M windows.

    Args:
        row: int64 [M], whose: rows of the sizes that they were drawn for.
        matrix: float64 [M, 3, 3], pixels of the original to output pixels.
        shape: int32 [M, 2], height and width of the outputs in pixels.
    """

    row: npt.NDArray[np.int64]
    matrix: Floats
    shape: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Processor time of an image in milliseconds: a sum of what it takes.

    The defaults are what explains best how long the loader took in one process (`python benchmarks/tiers.py
    --calibrate`, docs/tiers.md). Another machine takes another time, but much the same shares of it, on which alone
    proposals and ratios depend.

    Args:
        image: of any image.
        kilobyte: of a thousand encoded bytes that are read, from the first to the last row that is shown.
        decoded: of a million pixels that are transformed and resized, at the size they are decoded at.
        output: of a million pixels of the output.
    """

    image: float = 0.253
    kilobyte: float = 0.00915
    decoded: float = 1.26
    output: float = 2.75

    def __post_init__(self) -> None:
        values = (self.image, self.kilobyte, self.decoded, self.output)
        if not all(np.isfinite(value) and value >= 0 for value in values) or not any(values):
            raise ConfigError(f"DecodeCost must be finite milliseconds of at least 0, and one above it; got {self}")

    def of(self, work: Floats) -> Floats:
        """float64 [M], milliseconds, of what `decode_work` tells."""
        return np.asarray(work @ np.array([self.image, self.kilobyte, self.decoded, self.output]), np.float64)


def tier_bytes(size: Sizes, image_bytes: npt.NDArray[np.int64], side: int) -> Floats:
    """Bytes that images are predicted to have in a tier, as `resflow tiers` makes it (JPEG, quality 85, 4:4:4).

    Fitted to the photographs of imagenet500; sums over the 159 JPEGs of coco-mini, which it was not fitted to, are met
    within 2 %. Lossless originals have more bytes for the same detail: tiers of camvid's PNGs have half of what is
    predicted.

    Args:
        size: int32 [N, 2], height and width of the originals in pixels.
        image_bytes: int64 [N], their bytes.
        side: the tier's short side in pixels.

    Returns:
        float64 [N]; inf where the tier has no entry: the image is not larger, or its bytes are not more.
    """
    pixels = tier_size(size, side).astype(np.float64).prod(axis=1)
    detail = image_bytes / size.astype(np.float64).prod(axis=1)
    found = _HEADERS + pixels**_PIXELS * detail**_DETAIL
    return np.where((size.min(axis=1) > side) & (found < image_bytes), found, np.inf)


def decode_work(draws: Draws, size: Sizes, stored: Sizes, stored_bytes: Floats) -> Floats:
    """What decoding takes of each draw.

    Args:
        draws: M windows.
        size: int32 [M, 2], height and width of their originals.
        stored: int32 [M, 2], height and width of the images that are read.
        stored_bytes: float64 [M], their bytes.

    Returns:
        float64 [M, 4]: images (1), thousands of bytes read, millions of pixels decoded, millions of output pixels.
    """
    output = draws.shape.astype(np.float64)
    inverse = np.linalg.inv(draws.matrix)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)[None] * output[:, None, ::-1]  # [M, 4, 2], (x, y)
    source = np.einsum("mij,mcj->mci", inverse[:, :2, :2], corners) + inverse[:, None, :2, 2]
    source = np.clip(source / size[:, None, ::-1], 0, 1)  # shares of the image
    seen = (source.max(axis=1) - source.min(axis=1)).prod(axis=1)
    density = np.linalg.norm(draws.matrix[:, :2, :2], axis=1)[:, ::-1]  # [M, 2]: output pixels a source pixel, y first
    step = (stored / size / density).min(axis=1)  # stored pixels an output pixel
    reduced = np.select([step >= 8 * _OVERSAMPLE, step >= 4 * _OVERSAMPLE, step >= 2 * _OVERSAMPLE], [8, 4, 2], 1)
    decoded = seen * stored.astype(np.float64).prod(axis=1) / reduced**2
    read = source[..., 1].max(axis=1) * stored_bytes
    return np.stack([np.ones(len(draws)), read / 1e3, decoded / 1e6, output.prod(axis=1) / 1e6], axis=1)
