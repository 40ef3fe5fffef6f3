"""Random views of an image, drawn before it is decoded and composed to one matrix.

A view is a frozen value with one method. It is given the placement so far, the images' sizes, the batch's shape and its
own uniform random numbers, and returns the new placement; so a view draws nothing itself and can be tested as a plain
function. Numbers come from (seed, epoch, sample id, view), so adding one view leaves the draws of the others
as they are. Where a number stands among a view's fields, a `Ramp` may stand: it follows the schedule's resolution.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from resflow.checks import check_range, is_number
from resflow.errors import ConfigError
from resflow.geometry.affine import Matrices, identity, linear_about, scale_translate
from resflow.geometry.draw import uniforms
from resflow.geometry.ramp import Magnitude, Ramp, at, check_probability, fixed, has_ramp

Sizes = npt.NDArray[np.int32]
Uniforms = npt.NDArray[np.float64]


@runtime_checkable
class View(Protocol):
    """A random change of placement. `draws` says how many uniform numbers a sample it takes."""

    @property
    def draws(self) -> int:
        """Uniform random numbers per sample."""
        ...

    def __call__(self, matrix: Matrices, size: Sizes, shape: tuple[int, int], uniform: Uniforms) -> Matrices:
        """The new placement.

        Args:
            matrix: float64 [B, 3, 3], the placement so far, source pixels to output pixels.
            size: int32 [B, 2], height and width of the source images.
            shape: height and width of the batch.
            uniform: float64 [B, draws] in [0, 1).

        Returns:
            float64 [B, 3, 3].
        """
        ...


def apply_views(
    views: Sequence[View],
    matrix: Matrices,
    size: Sizes,
    shape: tuple[int, int],
    *,
    seed: int,
    epoch: int,
    sample_ids: npt.NDArray[np.int64],
    progress: float | None = None,
) -> Matrices:
    """Apply views one after the other, each with random numbers of its own for each sample.

    Args:
        views: applied in this order.
        matrix: float64 [B, 3, 3], the placement before any view.
        size: int32 [B, 2], height and width of the source images.
        shape: height and width of the batch.
        seed: the loader's seed.
        epoch: the epoch.
        sample_ids: int64 [B].
        progress: of the resolution in its schedule, in [0, 1]; needed, and looked at, only where a view has a Ramp.

    Returns:
        float64 [B, 3, 3], source pixels to output pixels.

    Raises:
        ConfigError: a view has a Ramp and no progress is given.
    """
    seen: dict[str, int] = {}
    for view in views:
        if progress is not None:
            view = at(view, progress)
        kind = type(view).__name__
        seen[kind] = seen.get(kind, 0) + 1
        purpose = zlib.crc32(f"{kind}/{seen[kind]}".encode())
        matrix = view(matrix, size, shape, uniforms(seed, epoch, sample_ids, purpose, view.draws))
    return matrix


@dataclass(frozen=True, slots=True)
class RandomResizedCrop:
    """Fill the shape with a random window of the image: its area and its aspect ratio are drawn, then its place.

    Replaces the placement by `Fit`, so it stands first among the views. The window's aspect ratio is drawn around the
    batch's own, so in a bucket of wide images windows are wide and nothing is distorted by more than `ratio`. On a
    square shape the distribution is that of torchvision.transforms.v2.RandomResizedCrop, with windows at fractions of
    a pixel.

    Args:
        scale: least and largest area of the window, as shares of the image, in (0, 1].
        ratio: least and largest distortion (window's aspect ratio over the shape's), above 0.

    Raises:
        ConfigError: a range out of order or out of bounds.

    Source: Szegedy et al., "Going deeper with convolutions" (2014), section 6; torchvision for the ten attempts.
    """

    scale: tuple[Magnitude, Magnitude] = (0.08, 1.0)
    ratio: tuple[Magnitude, Magnitude] = (3 / 4, 4 / 3)

    _ATTEMPTS = 10

    def __post_init__(self) -> None:
        scale = _range("RandomResizedCrop.scale", self.scale, 0.0, 1.0, open_low=True)
        ratio = _range("RandomResizedCrop.ratio", self.ratio, 0.0, math.inf, open_low=True)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "ratio", ratio)

    @property
    def draws(self) -> int:
        """Two for each attempt at a window, two for its place."""
        return 2 * self._ATTEMPTS + 2

    def __call__(self, matrix: Matrices, size: Sizes, shape: tuple[int, int], uniform: Uniforms) -> Matrices:
        """See `View`."""
        height, width = size[:, 0].astype(np.float64), size[:, 1].astype(np.float64)
        target_ratio = shape[1] / shape[0]
        area_draw, ratio_draw = uniform[:, 0:-2:2], uniform[:, 1:-2:2]  # [B, attempts] each
        area = (width * height)[:, None] * _between(_fixed("RandomResizedCrop.scale", self.scale), area_draw)
        least, most = _fixed("RandomResizedCrop.ratio", self.ratio)
        log_ratio = _between((math.log(least), math.log(most)), ratio_draw)
        ratio = target_ratio * np.exp(log_ratio)
        window_w, window_h = np.sqrt(area * ratio), np.sqrt(area / ratio)  # [B, attempts]
        fits: npt.NDArray[np.bool_] = (window_w <= width[:, None]) & (window_h <= height[:, None])
        rows = np.arange(len(size))
        first = fits.argmax(axis=1)
        # Where no attempt fits: the largest window whose ratio is within bounds.
        nearest = np.clip(width / height, target_ratio * least, target_ratio * most)
        whole_w, whole_h = np.minimum(width, height * nearest), np.minimum(height, width / nearest)
        found = np.asarray(fits.any(axis=1))
        window_w = np.maximum(np.where(found, window_w[rows, first], whole_w), 1.0)
        window_h = np.maximum(np.where(found, window_h[rows, first], whole_h), 1.0)
        place = np.where(found[:, None], uniform[:, -2:], 0.5)
        left, top = place[:, 0] * (width - window_w), place[:, 1] * (height - window_h)
        scale = np.stack([shape[1] / window_w, shape[0] / window_h], axis=1)
        return scale_translate(scale, -scale * np.stack([left, top], axis=1))


@dataclass(frozen=True, slots=True)
class HorizontalFlip:
    """Mirror left and right with probability `p`.

    Raises:
        ConfigError: `p` is not in [0, 1].
    """

    p: Magnitude = 0.5

    def __post_init__(self) -> None:
        check_probability("HorizontalFlip", self.p)

    @property
    def draws(self) -> int:
        """One."""
        return 1

    def __call__(self, matrix: Matrices, size: Sizes, shape: tuple[int, int], uniform: Uniforms) -> Matrices:
        """See `View`."""
        return _mirror(shape[1], axis=0, chosen=uniform[:, 0] < fixed("HorizontalFlip.p", self.p)) @ matrix


@dataclass(frozen=True, slots=True)
class VerticalFlip:
    """Mirror top and bottom with probability `p`.

    Raises:
        ConfigError: `p` is not in [0, 1].
    """

    p: Magnitude = 0.5

    def __post_init__(self) -> None:
        check_probability("VerticalFlip", self.p)

    @property
    def draws(self) -> int:
        """One."""
        return 1

    def __call__(self, matrix: Matrices, size: Sizes, shape: tuple[int, int], uniform: Uniforms) -> Matrices:
        """See `View`."""
        return _mirror(shape[0], axis=1, chosen=uniform[:, 0] < fixed("VerticalFlip.p", self.p)) @ matrix


@dataclass(frozen=True, slots=True)
class Affine:
    """Rotate, shear, scale and move the placed image about the centre of the shape.

    Args:
        degrees: rotation is drawn from [-degrees, degrees], or from the range given; counter-clockwise on the screen.
        translate: largest move along x and y, as shares of the shape's width and height, in [0, 1].
        scale: least and largest factor, above 0.
        shear: shear along x is drawn from [-shear, shear] degrees, or from the range given; below 90.

    Raises:
        ConfigError: a value out of its range.
    """

    degrees: Magnitude | tuple[Magnitude, Magnitude] = 0.0
    translate: tuple[Magnitude, Magnitude] = (0.0, 0.0)
    scale: tuple[Magnitude, Magnitude] = (1.0, 1.0)
    shear: Magnitude | tuple[Magnitude, Magnitude] = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", _symmetric("Affine.degrees", self.degrees, math.inf))
        object.__setattr__(self, "shear", _symmetric("Affine.shear", self.shear, 90.0))
        scale = _range("Affine.scale", self.scale, 0.0, math.inf, open_low=True)
        object.__setattr__(self, "scale", scale)
        translate = tuple(self.translate) if isinstance(self.translate, Sequence) else ()
        shares = (*at(translate, 0.0), *at(translate, 1.0))
        if len(translate) != 2 or not all(is_number(share) and 0 <= fixed("share", share) <= 1 for share in shares):
            raise ConfigError(f"Affine.translate must be two shares in [0, 1] (x, y); got {self.translate!r}")
        object.__setattr__(self, "translate", translate)

    @property
    def draws(self) -> int:
        """Five: angle, move along x and y, scale, shear."""
        return 5

    def __call__(self, matrix: Matrices, size: Sizes, shape: tuple[int, int], uniform: Uniforms) -> Matrices:
        """See `View`."""
        degrees, slant = (_symmetric("Affine", value, math.inf) for value in (self.degrees, self.shear))
        angle = np.deg2rad(_between(_fixed("Affine.degrees", degrees), uniform[:, 0]))
        shear = np.deg2rad(_between(_fixed("Affine.shear", slant), uniform[:, 4]))
        factor = _between(_fixed("Affine.scale", self.scale), uniform[:, 3])
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], axis=1)  # [B, 2, 2], y points down
        shearing = np.tile(np.eye(2), (len(matrix), 1, 1))
        shearing[:, 0, 1] = np.tan(shear)
        turn = linear_about(factor[:, None, None] * (rotation @ shearing), (shape[1] / 2, shape[0] / 2))
        reach = np.asarray(_fixed("Affine.translate", self.translate)) * (shape[1], shape[0])
        turn[:, :2, 2] += (2 * uniform[:, 1:3] - 1) * reach
        return np.asarray(turn @ matrix)


@dataclass(frozen=True, slots=True)
class Rotate:
    """Rotate the placed image about the centre of the shape.

    Args:
        degrees: the angle is drawn from [-degrees, degrees], or from the range given; counter-clockwise on the screen.

    Raises:
        ConfigError: `degrees` is neither a number nor a range in order.
    """

    degrees: Magnitude | tuple[Magnitude, Magnitude]

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", _symmetric("Rotate.degrees", self.degrees, math.inf))

    @property
    def draws(self) -> int:
        """One."""
        return 1

    def __call__(self, matrix: Matrices, size: Sizes, shape: tuple[int, int], uniform: Uniforms) -> Matrices:
        """See `View`."""
        centred = np.full((len(matrix), 5), 0.5)
        centred[:, 0] = uniform[:, 0]
        return Affine(degrees=self.degrees)(matrix, size, shape, centred)


def _between(bounds: tuple[float, float], uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(bounds[0] + (bounds[1] - bounds[0]) * uniform)


def _mirror(length: int, axis: int, chosen: npt.NDArray[np.bool_]) -> Matrices:
    """[B, 3, 3]: coordinate -> length - coordinate along one axis where chosen, the identity elsewhere."""
    matrix = identity(len(chosen))
    matrix[chosen, axis, axis] = -1.0
    matrix[chosen, axis, 2] = length
    return matrix


def _range(
    name: str, value: object, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> tuple[Magnitude, Magnitude]:
    """Two magnitudes in order within bounds, at both ends of their ramps."""
    if not has_ramp(value):
        return check_range(name, value, low, high, open_low=open_low, open_high=open_high)
    for progress, end in ((0.0, "lowest"), (1.0, "highest")):
        label = f"{name} at the {end} resolution"
        check_range(label, at(value, progress), low, high, open_low=open_low, open_high=open_high)
    first, second = cast(Sequence[Magnitude], value)  # of two, as check_range found
    return (first, second)


def _fixed(name: str, pair: tuple[Magnitude, Magnitude]) -> tuple[float, float]:
    return (fixed(name, pair[0]), fixed(name, pair[1]))


def _symmetric(name: str, value: Magnitude | Sequence[Magnitude], limit: float) -> tuple[Magnitude, Magnitude]:
    pair = (-value, value) if isinstance(value, int | float | Ramp) else value
    low, high = _range(name, pair, -limit, limit, open_low=True, open_high=True)
    return (float(low) if not isinstance(low, Ramp) else low, float(high) if not isinstance(high, Ramp) else high)
