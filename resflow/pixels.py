"""Which channels and numbers the images of a batch have: 8-bit RGB, or grey, alpha, many bands, 16 bits, fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from resflow.checks import check_fields, is_number, is_whole
from resflow.errors import ConfigError

Array: TypeAlias = npt.NDArray[Any]
DTYPES = ("uint8", "uint16", "int16", "float32")
FULL = {"uint8": 255.0, "uint16": 65_535.0}
"""What counts as 1, by the dtype of pixels; of the others, 1 itself."""
_MAX_CHANNELS = 4096


@dataclass(frozen=True, slots=True)
class Window:
    """A DICOM window: values from `center - width / 2` to `center + width / 2` become 0 to 1, the rest is cut.

    Args:
        center: the window's level, in the file's units (Hounsfield units of a CT).
        width: the window's width in the same units, above 0.
    """

    center: float
    width: float

    def __post_init__(self) -> None:
        check_fields(
            self,
            (
                ("center", is_number(self.center), "a number"),
                ("width", is_number(self.width) and self.width > 0, "a number above 0"),
            ),
        )

    def __call__(self, values: Array) -> Array:
        """Values of one image, float32 [H, W, C], to [0, 1]."""
        return (values - np.float32(self.center - self.width / 2)) / np.float32(self.width)


@dataclass(frozen=True, slots=True)
class ValueRange:
    """Values from `low` to `high` become 0 to 1, the rest is cut: `ValueRange(0, 4095)` of a 12-bit camera.

    Args:
        low: in the file's units.
        high: in the same units, above `low`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        sound = is_number(self.low) and is_number(self.high)
        check_fields(self, (("low", sound, "a number"), ("high", sound and self.high > self.low, "a number above low")))

    def __call__(self, values: Array) -> Array:
        """Values of one image, float32 [H, W, C], to [0, 1]."""
        return (values - np.float32(self.low)) / np.float32(self.high - self.low)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """The values of each image from one percentile to another become 0 to 1, channel by channel; the rest is cut.

    Args:
        low: in [0, 100).
        high: in (low, 100].
    """

    low: float = 1.0
    high: float = 99.0

    def __post_init__(self) -> None:
        sound = is_number(self.low) and is_number(self.high) and 0 <= self.low < self.high <= 100
        check_fields(self, (("low", sound, "below high, both in [0, 100]"),))

    def __call__(self, values: Array) -> Array:
        """Values of one image, float32 [H, W, C], to [0, 1]."""
        low, high = np.nanpercentile(values, (self.low, self.high), axis=(0, 1)).astype(np.float32)
        shares: Array = (values - low) / np.where(high > low, high - low, np.float32(1))
        return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Channels and numbers of a pipeline's images. The default is 8-bit RGB, as PIL's `convert("RGB")` gives it.

    Numbers are the file's own: a 16-bit 1,000 is 1,000 in uint16, int16 and float32. What a dtype cannot hold is
    rounded and cut to its range, and counted (`DataLoader.stats()`); `values` says what to do instead.

    Args:
        channels: 1: grey, colour by its luma (ITU-R 601); 3: RGB, alpha dropped, grey repeated; 4: RGBA, opaque where a
            file has no alpha; another number: files must have as many; "file": as many as the files have, which must
            agree within a batch.
        dtype: "uint8", "uint16", "int16" or "float32".
        values: from an image's values, float32 [H, W, C] in the file's units, to [0, 1]: `Window`, `ValueRange`,
            `Percentiles` of `resflow.pixels`, or a function of your own. What lies outside [0, 1] is cut. Images are
            then 0 to 255 of uint8, 0 to 65,535 of uint16, 0 to 1 of float32.

    Raises:
        ConfigError: a field has a wrong type or value.
    """

    channels: int | Literal["file"] = 3
    dtype: str = "uint8"
    values: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            (
                (
                    "channels",
                    self.channels == "file" or (is_whole(self.channels) and self.channels <= _MAX_CHANNELS),
                    f'a whole number from 1 to {_MAX_CHANNELS}, or "file"',
                ),
                ("dtype", self.dtype in DTYPES, f"one of {', '.join(DTYPES)}"),
                ("values", self.values is None or callable(self.values), "a function of an array, or None"),
            ),
        )
        if self.values is not None and self.dtype == "int16":
            raise ConfigError(
                "Pixels.values gives shares from 0 to 1, which int16 cannot hold. Use dtype 'float32', 'uint8' or "
                "'uint16'."
            )

    @property
    def plain(self) -> bool:
        """Whether these are the 8-bit RGB that all engines decode."""
        return self == Pixels()

    def describe(self) -> str:
        """These pixels as text that another process gives, too; a function of your own by its name."""
        values: Any = self.values
        named = f"{values.__module__}.{values.__qualname__}" if hasattr(values, "__qualname__") else repr(values)
        return f"Pixels(channels={self.channels!r}, dtype={self.dtype!r}, values={named})"

    def known_channels(self) -> int:
        """How many channels images have; ConfigError where only the files tell."""
        if isinstance(self.channels, int):
            return self.channels
        raise ConfigError('how many channels images have is known from the files alone with Pixels(channels="file")')

    @property
    def full(self) -> float:
        """The number that counts as full intensity: 255, 65,535, or 1."""
        return FULL.get(self.dtype, 1.0)


PLAIN = Pixels()


def check_pixels(
    pixels: Pixels,
    normalize: Any,
    fill: tuple[int, ...],
    engine: str,
    *,
    transforms: Sequence[Any],
    augment: Sequence[Any],
) -> None:
    """Refuse pixels that the other fields of a pipeline cannot follow; arguments are its fields.

    Raises:
        ConfigError: names the two fields and the way out.
    """
    channels = pixels.channels
    if normalize is not None and isinstance(channels, int) and len(normalize.mean) != channels:
        raise ConfigError(
            f"Pipeline.normalize has {len(normalize.mean)} means, and Pipeline.pixels {channels} channels: give "
            "Normalize one mean and one std for each channel."
        )
    if pixels.plain:
        return
    if engine in ("turbo", "dali", "pillow"):
        raise ConfigError(f"Pipeline.engine {engine!r} decodes 8-bit RGB; got {pixels}. Leave engine at 'auto'.")
    if channels != 3 and len(set(fill)) > 1:
        raise ConfigError(
            f"Fit.fill is {fill}, a colour, and images have {channels} channels: give the same number three times."
        )
    if transforms and (channels, pixels.dtype) != (3, "uint8"):
        raise ConfigError(
            f"Pipeline.transforms take 8-bit RGB; got {pixels}. Use Kornia's modules in Pipeline.augment, or transform "
            "batches in the loop."
        )
    if augment and pixels.dtype == "int16":
        raise ConfigError(
            "Pipeline.augment takes intensities in [0, 1], which int16 has no scale for. Use Pixels(dtype='float32', "
            "values=...), such as Window or ValueRange."
        )


def fit_values(values: Array, pixels: Pixels) -> tuple[Array, str]:
    """Bring an image's values to a pipeline's channels and dtype.

    Args:
        values: [H, W, C] as the file has them, of any real dtype.
        pixels: what they shall be.

    Returns:
        [H, W, channels] of the dtype, contiguous, and what was lost, as a phrase; "" where nothing was.

    Raises:
        ValueError: the file has channels that cannot become these; or `values` gives another shape.
    """
    if pixels.values is not None:
        shares = np.asarray(pixels.values(values.astype(np.float32)))
        if shares.shape != values.shape:
            raise ValueError(
                f"Pixels.values gave shape {list(shares.shape)}; expected that of the image, {list(values.shape)}"
            )
        if np.isnan(shares).any():
            shares = np.nan_to_num(shares, nan=0.0)
        values = np.clip(shares, 0, 1).astype(np.float32) * np.float32(pixels.full)
        full: float = pixels.full
    else:
        full = float(np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else 1.0
        if values.dtype == np.uint16 and pixels.dtype == "uint8" and values.shape[2] in (2, 3, 4):
            values, full = (values >> 8).astype(np.uint8), 255.0  # of colour, as every 8-bit reader does
    values = _channels(values, pixels.channels, full)
    values, lost = _cast(values, np.dtype(pixels.dtype), told=pixels.values is None)
    return np.ascontiguousarray(values), lost


def _channels(values: Array, wanted: int | str, full: float) -> Array:
    found = values.shape[2]
    if wanted in ("file", found):
        return values
    opaque = np.full((*values.shape[:2], 1), full, values.dtype)
    if wanted == 1 and found in (3, 4):
        return _luma(values)
    if wanted == 1 and found == 2:
        return values[..., :1]
    if wanted == 3 and found in (1, 2):
        return np.repeat(values[..., :1], 3, axis=2)
    if wanted == 3 and found == 4:
        return values[..., :3]
    if wanted == 4 and found in (1, 2):
        return np.concatenate(
            [np.repeat(values[..., :1], 3, axis=2), values[..., 1:] if found == 2 else opaque], axis=2
        )
    if wanted == 4 and found == 3:
        return np.concatenate([values, opaque], axis=2)
    raise ValueError(
        f"it has {found} channels, and Pixels(channels={wanted!r}) says {wanted}. Leave the image out, or use "
        f'channels={found} or channels="file"'
    )


def _luma(values: Array) -> Array:
    """[H, W, 1] of RGB or RGBA, as Pillow's `convert("L")` of bytes."""
    if values.dtype == np.uint8:
        red, green, blue = (values[..., channel].astype(np.uint32) for channel in range(3))
        return ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16).astype(np.uint8)[..., None]
    shares = np.array([0.299, 0.587, 0.114])
    grey: Array = (values[..., :3] @ shares)[..., None]
    return np.rint(grey).astype(values.dtype) if values.dtype.kind in "iu" else grey.astype(values.dtype)


def _cast(values: Array, dtype: np.dtype[Any], *, told: bool) -> tuple[Array, str]:
    """Values of another dtype; what is lost, where nobody asked for it."""
    if values.dtype == dtype:
        return values, ""
    if dtype.kind == "f":
        cast = values.astype(dtype)
        exact = (
            values.dtype.kind == "f" or values.dtype.itemsize <= 2 or bool((cast.astype(np.float64) == values).all())
        )
        return cast, "" if exact else f"whole numbers beyond 2**24 of {values.dtype} are rounded to float32"
    limits = np.iinfo(dtype)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        values = np.nan_to_num(values, nan=0.0, posinf=limits.max, neginf=limits.min)
    whole = values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    cast = np.clip(np.rint(values) if values.dtype.kind == "f" else values, limits.min, limits.max).astype(dtype)
    if not told or (whole and low >= limits.min and high <= limits.max):
        return cast, ""
    return (
        cast,
        f"its values of {low:g} to {high:g} ({values.dtype}) are cut to whole numbers of {limits.min} to {limits.max}",
    )
