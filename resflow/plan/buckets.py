"""Buckets: intervals of aspect ratio, each with one shape per resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

from resflow.checks import is_whole
from resflow.errors import ConfigError, PlanError

Sizes = npt.NDArray[np.int32]
"""int32 [N, 2]: height and width in pixels."""

Scalar = TypeVar("Scalar", bound=np.generic)

_CHUNK = 1 << 20  # samples handled at a time, so that temporaries stay small


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """K intervals of aspect ratio W/H and the shape of each at every resolution in use.

    Args:
        edges: float64 [K-1], aspect ratios between neighbouring intervals, ascending; a ratio equal to an edge
            belongs to the interval above.
        resolutions: int32 [R], pixels, ascending.
        shapes: int32 [R, K, 2], height and width of each bucket at each resolution, multiples of `stride`.
        stride: pixels.
        max_crop: share of an image that may be cropped away, in [0, 1], which the shapes were chosen for.

    Raises:
        ConfigError: a wrong dtype or shape, edges or resolutions out of order, a shape off the stride.
    """

    edges: npt.NDArray[np.float64]
    resolutions: npt.NDArray[np.int32]
    shapes: npt.NDArray[np.int32]
    stride: int
    max_crop: float = 0.0

    def __post_init__(self) -> None:
        kinds = {"edges": (np.float64, 1), "resolutions": (np.int32, 1), "shapes": (np.int32, 3)}
        for name, (dtype, ndim) in kinds.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != ndim:
                raise ConfigError(
                    f"Buckets.{name} must be {np.dtype(dtype)} with {ndim} axes; got {array.dtype} {list(array.shape)}"
                )
        expected = (len(self.resolutions), len(self.edges) + 1, 2)
        if self.shapes.shape != expected or not len(self.resolutions):
            raise ConfigError(
                f"Buckets.shapes must be int32 [R,K,2] with R = len(resolutions) >= 1 and K = len(edges) + 1, here "
                f"{list(expected)}; got {list(self.shapes.shape)}"
            )
        if not (np.isfinite(self.edges).all() and (np.diff(self.edges, prepend=0.0) > 0).all()):
            raise ConfigError(f"Buckets.edges must be positive and ascending; got {self.edges.tolist()}")
        if not (np.diff(self.resolutions, prepend=0) > 0).all():
            raise ConfigError(f"Buckets.resolutions must be positive and ascending; got {self.resolutions.tolist()}")
        if self.stride < 1 or (self.shapes < 1).any() or (self.shapes % self.stride).any():
            raise ConfigError(
                f"Buckets.shapes must be positive multiples of stride {self.stride}; got {self.shapes.tolist()}"
            )
        if not 0.0 <= self.max_crop <= 1.0:
            raise ConfigError(f"Buckets.max_crop must be in [0, 1]; got {self.max_crop!r}")
        for name in kinds:
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def square(cls, *sides: int, stride: int = 1) -> Buckets:
        """One bucket of squares, whatever the images' ratios are: the side is the resolution.

        Args:
            sides: pixels; each resolution that a schedule may take.
            stride: divides all of them.

        Raises:
            ConfigError: no side, or one that is no positive multiple of `stride`.
        """
        if not sides or any(not is_whole(side) for side in sides):
            raise ConfigError(
                "Buckets.square takes the sides of the squares in pixels, whole numbers above 0; got "
                f"({', '.join(map(repr, sides))}). Write Buckets.square(224), with each resolution of the schedule."
            )
        resolutions = np.unique(np.array(sides, dtype=np.int32))
        return cls(np.zeros(0), resolutions, np.stack([resolutions, resolutions], axis=-1)[:, None], stride)

    def resized(self, resolution: int) -> Buckets:
        """The same intervals with shapes of about the same ratios at another resolution; squares stay squares.

        Args:
            resolution: pixels.

        Raises:
            ConfigError: squares of that side are no multiple of the stride.
        """
        largest = self.shapes[-1:]  # [1, K, 2]
        square = largest[..., :1] == largest[..., 1:]
        cells = np.maximum(np.rint(largest * (resolution / self.resolutions[-1]) / self.stride), 1)
        shapes = np.where(square, resolution, cells * self.stride).astype(np.int32)
        return Buckets(self.edges, np.array([resolution], dtype=np.int32), shapes, self.stride, self.max_crop)

    def __len__(self) -> int:
        return len(self.edges) + 1

    def assign(self, size: Sizes) -> npt.NDArray[np.int16]:
        """Bucket of each image.

        Args:
            size: int32 [N, 2], height and width in pixels, at least 1.

        Returns:
            int16 [N], in [0, K). Ratios are compared at float32 precision.
        """
        bucket = np.empty(len(size), dtype=np.int16)
        for start in range(0, len(size), _CHUNK):
            part = slice(start, start + _CHUNK)
            bucket[part] = np.searchsorted(self.edges, aspect_ratio(size[part]), side="right")
        return bucket

    @overload
    def shape(self, bucket: int, resolution: int) -> tuple[int, int]: ...
    @overload
    def shape(
        self, bucket: npt.NDArray[np.integer], resolution: int | npt.NDArray[np.integer]
    ) -> npt.NDArray[np.int32]: ...
    def shape(
        self, bucket: int | npt.NDArray[np.integer], resolution: int | npt.NDArray[np.integer]
    ) -> tuple[int, int] | npt.NDArray[np.int32]:
        """Height and width of a bucket at a resolution.

        Args:
            bucket: in [0, K), a number or an integer array [T].
            resolution: pixels, a number or an integer array [T]; one of `resolutions`.

        Returns:
            (height, width) for two numbers; int32 [T, 2] for arrays.

        Raises:
            PlanError: the buckets have no shapes at that resolution.
        """
        wanted = np.asarray(resolution)
        row = np.minimum(np.searchsorted(self.resolutions, wanted), len(self.resolutions) - 1)
        unknown = self.resolutions[row] != wanted
        if unknown.any():
            raise PlanError(
                f"the buckets have no shapes at resolution {int(wanted[unknown].flat[0])}; they have "
                f"{self.resolutions.tolist()}. Learn them with that resolution named in `resolutions`."
            )
        found = self.shapes[row, np.asarray(bucket)]
        return found if found.ndim > 1 else (int(found[0]), int(found[1]))


def read_only(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """A view of an array that cannot be written to."""
    view = array.view()
    view.setflags(write=False)
    return view


def aspect_ratio(size: Sizes) -> npt.NDArray[np.float32]:
    """float32 [N]: width over height of int32 [N, 2] sizes."""
    return np.divide(size[:, 1], size[:, 0], dtype=np.float64).astype(np.float32)


def fit_loss(
    image: npt.NDArray[np.float64], shape: npt.NDArray[np.float64], max_crop: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What is lost when images are placed into shapes of another aspect ratio.

    The image is scaled to be contained in the shape, where it covers the share e = exp(-|image - shape|), then by
    f = min(1/e, 1/(1 - max_crop)) more.

    Args:
        image: float64, log of the images' aspect ratios.
        shape: float64, log of the shapes' aspect ratios; broadcasts against `image`.
        max_crop: share of the image that may be cropped away, in [0, 1].

    Returns:
        (padded, cropped): share 1 - f e of the shape that is padding, share 1 - 1/f of the image that is cut off.
    """
    gap = np.abs(image - shape)
    beyond = gap if max_crop >= 1.0 else np.minimum(gap, -np.log1p(-max_crop))  # log f
    return -np.expm1(beyond - gap), -np.expm1(-beyond)
