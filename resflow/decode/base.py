"""What every decode engine shares: the protocol, checks before decoding, the output tensor, errors."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from resflow.decode import native
from resflow.decode.placement import Interpolation
from resflow.errors import ConfigError, DecodeError, HeaderError
from resflow.geometry.affine import Geometry
from resflow.images import MAX_SCANS, ImageHeader, count_scans, whole_header

Encoded: TypeAlias = bytes | memoryview
Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB: an image that is decoded already."""
Interpolations: TypeAlias = Interpolation | Sequence[Interpolation]
"""A filter for all images of a batch, or one for each."""
Fill: TypeAlias = tuple[int, int, int]
"""Red, green and blue of padding pixels, 0 to 255 each."""

ENGINES = ("auto", "turbo", "dali", "pillow")
MAX_PIXELS = 178_956_970
"""Images with more pixels are refused before decoding, unless an engine is opened with another limit."""
OVERSAMPLE = 1.5
"""A JPEG is decoded at a reduced size if that leaves at least so many pixels for an output pixel, on each axis."""
_log = logging.getLogger("resflow")


class Notice(NamedTuple):
    """An image that was decoded, though not all of it is as it was meant; `open_engine(strict=True)` refuses it.

    Args:
        position: place of the image in its batch.
        kind: "damaged": a strict decoder refuses it, and Pillow reads over the damage, as torchvision does; "cut off":
            greyscale of more than 8 bits, cut to 0..255 as PIL's `convert("RGB")` does.
        reason: what the strict decoder says, or which values there are.
    """

    position: int
    kind: Literal["damaged", "cut off"]
    reason: str


class Decoder(Protocol):
    """Decodes a batch of encoded images and places each into the batch's common shape."""

    def decode(
        self,
        encoded: Sequence[Encoded | Pixels],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: Interpolations = "bilinear",
        warp: Interpolations = "bilinear",
    ) -> torch.Tensor:
        """Decode and place B images.

        Args:
            encoded: B encoded images; where one is pixels already (uint8 [H, W, 3], RGB), it is only placed.
            geometry: how they are placed; `geometry.source_size` must be their upright sizes.
            out: uint8 [B, 3, H, W] in channels_last on the engine's device, to be filled; None makes one.
            interpolation: the resize's filter, as Pillow has it: "bilinear" and "bicubic" are antialiased, "nearest" is
                not; one for all images, or a sequence of B.
            warp: the filter by which turned images (rotation, shear) are read after their resize; one, or B.

        Returns:
            uint8 [B, 3, H, W] in channels_last on the engine's device; `out` where it was given.

        Raises:
            DecodeError: an image is corrupt, cut short, too large or of another size; carries its `position`.
            ConfigError: `encoded`, `geometry`, `out` and filters do not fit together.
        """
        ...

    def close(self) -> None:
        """Let threads and memory go; the engine cannot be used afterwards."""
        ...


def open_engine(
    name: str,
    device: str = "cpu",
    fill: Fill = (0, 0, 0),
    threads: int = 1,
    max_batch: int = 256,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    oversample: float = OVERSAMPLE,
) -> LimitedDecoder:
    """Open a decode engine.

    Args:
        name: "turbo" (libjpeg-turbo on the CPU), "dali" (NVIDIA DALI, CPU or GPU), "pillow" (the reference), or
            "auto": dali on a CUDA device, turbo on the CPU. Where the compiled decoder is missing, pillow takes turbo's
            place, and a warning says so.
        device: torch device of the batches: "cpu", "cuda" or "cuda:N"; turbo and pillow give CPU batches only.
        fill: colour of padding pixels, RGB, 0 to 255.
        threads: decoding threads, at least 1.
        max_batch: largest number of images that one run takes; dali splits longer batches.
        max_pixels: height times width of the largest image that is decoded; of a larger one no byte is.
        strict: whether what Pillow reads, but with damage or loss (`Notice`), is refused; not of "pillow". Of "dali"
            only what DALI itself refuses counts as damage.
        oversample: least pixels that turbo decodes for an output pixel on each axis before it decodes a JPEG at a
            reduced size; math.inf never does. The others decode all pixels.

    Returns:
        The engine.

    Raises:
        ConfigError: an unknown engine, a device it cannot serve, DALI is not installed, a bad option.
    """
    kind = device.partition(":")[0]
    if name not in ENGINES:
        raise ConfigError(f"engine must be one of {', '.join(ENGINES)}; got {name!r}")
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device must be 'cpu', 'cuda' or 'cuda:N'; got {device!r}")
    if threads < 1 or max_batch < 1 or max_pixels < 1:
        raise ConfigError(
            f"threads, max_batch and max_pixels must be at least 1; got {threads}, {max_batch} and {max_pixels}"
        )
    if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
        raise ConfigError(f"fill must be three values in 0..255 (RGB); got {fill}")
    return LimitedDecoder(_opened(name, device, fill, threads, max_batch, strict, oversample), max_pixels)


class LimitedDecoder:
    """An engine that never sees an image of more than `max_pixels`.

    Engines refuse an image whose header does not tell the size that its geometry was made for. So it is enough to look
    at the geometry.

    Args:
        engine: what decodes.
        max_pixels: height times width of the largest image that it is given.
    """

    def __init__(self, engine: Decoder, max_pixels: int) -> None:
        self.engine, self._max_pixels = engine, max_pixels

    def decode(
        self,
        encoded: Sequence[Encoded | Pixels],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: Interpolations = "bilinear",
        warp: Interpolations = "bilinear",
    ) -> torch.Tensor:
        """See `Decoder.decode`."""
        pixels = geometry.source_size.astype(np.int64).prod(axis=1)
        if len(pixels) and pixels.max() > self._max_pixels:
            for position, image in enumerate(encoded[: len(pixels)]):
                if pixels[position] > self._max_pixels and not isinstance(image, np.ndarray):
                    height, width = geometry.source_size[position].tolist()
                    raise _too_many_pixels(position, height, width, self._max_pixels)
        return self.engine.decode(encoded, geometry, out, interpolation, warp)

    @property
    def notices(self) -> Sequence[Notice]:
        """Of the images of the last batch; none of an engine that knows of none."""
        return getattr(self.engine, "notices", ())

    def close(self) -> None:
        """See `Decoder.close`."""
        self.engine.close()


def _too_many_pixels(position: int, height: int, width: int, limit: int) -> DecodeError:
    return DecodeError(
        f"image {position} of the batch is not decoded: {height}x{width} (HxW) are {height * width} pixels; at most "
        f"max_pixels={limit} are accepted. Leave it out, or raise the limit: Pipeline(max_pixels={height * width}).",
        position=position,
    )


def without_library(name: str) -> str:
    """The engine that does an engine's work here: pillow instead of turbo, where the compiled decoder is missing.

    Args:
        name: of the engine.
    """
    if name != "turbo" or not native.missing():
        return name
    _warn_once(native.missing())
    return "pillow"


@functools.cache
def _warn_once(reason: str) -> None:
    _log.warning("Engine 'pillow' decodes in place of 'turbo', several times as slowly: %s", reason)


def _opened(
    name: str, device: str, fill: Fill, threads: int, max_batch: int, strict: bool, oversample: float
) -> Decoder:
    if name == "auto":
        name = "turbo" if torch.device(device).type == "cpu" else "dali"
    name = without_library(name)
    if strict and name == "pillow":
        raise ConfigError(
            "engine 'pillow' cannot be strict: it is Pillow that reads over damage. Use 'turbo'. " + native.missing()
        )
    if name == "dali":
        try:
            from resflow.decode.dali import DaliDecoder
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("nvidia"):
                raise
            raise ConfigError(
                "engine 'dali' needs NVIDIA DALI, which is not installed. Install it with "
                "`pip install 'resflow[dali]'` (Linux only), or use engine 'turbo' with device 'cpu'."
            ) from error
        return DaliDecoder(fill, device=device, threads=threads, max_batch=max_batch, strict=strict)
    if torch.device(device).type != "cpu":
        raise ConfigError(
            f"engine {name!r} decodes on the CPU; got device {device!r}. Use engine 'dali', or device 'cpu' and "
            "move the batches."
        )
    if name == "turbo":
        from resflow.decode.turbo import TurboDecoder

        return TurboDecoder(fill, threads=threads, oversample=oversample, strict=strict)
    from resflow.decode.pillow import PillowDecoder

    return PillowDecoder(fill)


def decode_error(engine: str, position: int, encoded: Encoded, message: str, kind: str = "") -> DecodeError:
    """The error for one image that `engine` cannot decode."""
    found = kind or f"bytes that start with {bytes(encoded[:8])!r}"
    reason = message.strip().rstrip(".") or "no reason given"
    return DecodeError(
        f"{engine} cannot decode image {position} of the batch: {reason}; got {found}, {len(encoded)} bytes, "
        "expected a complete image. Replace the file or leave it out.",
        position=position,
    )


def checked_header(engine: str, position: int, encoded: Encoded, size: tuple[int, int]) -> ImageHeader:
    """Read one image's header and hold it against the size that its geometry was made for.

    Args:
        engine: name of the engine, for the error.
        position: place of the image in its batch, for the error.
        encoded: the encoded image.
        size: expected upright height and width.

    Returns:
        The header.

    Raises:
        DecodeError: no header, another size.
    """
    try:
        header = whole_header(encoded)
    except HeaderError as error:
        raise decode_error(engine, position, encoded, error.message) from error
    check_size(engine, position, (header.height, header.width), size)
    return header


def check_scans(engine: str, position: int, encoded: Encoded, header: ImageHeader) -> None:
    """Refuse a JPEG of endless scans, before a decoder that goes through all pixels in each.

    Args:
        engine: as above.
        position: as above.
        encoded: as above.
        header: of it.

    Raises:
        DecodeError: it has more than `MAX_SCANS` scans.
    """
    if header.format == "jpeg" and (scans := count_scans(encoded)) > MAX_SCANS:
        what = f"it has {scans} scans, at most {MAX_SCANS} are accepted: decoding would take very long"
        raise decode_error(engine, position, encoded, what, header.format)


def check_pixels(engine: str, position: int, pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Pixels that came decoded, contiguous.

    Args:
        engine: name of the engine, for the error.
        position: place of the image in its batch, for the error.
        pixels: the image.
        size: expected height and width.

    Returns:
        uint8 [H, W, 3], contiguous.

    Raises:
        DecodeError: another dtype, number of axes or channels, or another size.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DecodeError(
            f"{engine} cannot place image {position} of the batch: pixels must be uint8 [H,W,3], RGB; "
            f"got {pixels.dtype} {list(pixels.shape)}. Convert them before.",
            position=position,
        )
    check_size(engine, position, (pixels.shape[0], pixels.shape[1]), size)
    return np.require(pixels, requirements=("C", "W"))  # compiled kernels refuse read-only arrays


def check_size(engine: str, position: int, found: tuple[int, int], expected: tuple[int, int]) -> None:
    """Raise DecodeError unless an image's upright size is the one its geometry was made for."""
    if found != expected:
        raise DecodeError(
            f"{engine} cannot place image {position} of the batch: it is {found[0]}x{found[1]} (HxW, upright), but its "
            f"geometry expects {expected[0]}x{expected[1]}. The index is stale: run `resflow index` again.",
            position=position,
        )


def output_tensor(
    encoded: Sequence[Encoded | Pixels], geometry: Geometry, out: torch.Tensor | None, device: str
) -> torch.Tensor:
    """Make or check the tensor that a batch is written to.

    Args:
        encoded: the batch's images.
        geometry: how they are placed.
        out: the caller's tensor or None.
        device: torch device of the batch.

    Returns:
        uint8 [B, 3, H, W] in channels_last.

    Raises:
        ConfigError: lengths disagree, or `out` has another shape, dtype, device or memory format.
    """
    if len(encoded) != len(geometry):
        raise ConfigError(f"decode got {len(encoded)} images but a geometry for {len(geometry)}; they must agree")
    shape = (len(geometry), 3, *geometry.output_size)
    if out is None:
        return torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last)
    # Strides are compared by the permuted view, since torch calls degenerate shapes channels_last either way.
    if (
        out.dtype != torch.uint8
        or tuple(out.shape) != shape
        or out.device.type != torch.device(device).type
        or not out.permute(0, 2, 3, 1).is_contiguous()
    ):
        raise ConfigError(
            f"out must be uint8 {list(shape)} in channels_last on {device}; got {out.dtype} {list(out.shape)} with "
            f"strides {list(out.stride())} on {out.device}"
        )
    return out
