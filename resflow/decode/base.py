"""What every decode engine shares: the protocol, checks before decoding, the output tensor, errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from resflow.decode.placement import Interpolation
from resflow.errors import ConfigError, DecodeError, HeaderError
from resflow.geometry.affine import Geometry
from resflow.images import MAX_SCANS, ImageHeader, count_scans, whole_header

Encoded: TypeAlias = bytes | memoryview
Pixels: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB: an image that is decoded already; for engine "wide" [H, W, C] of any dtype."""
Interpolations: TypeAlias = Interpolation | Sequence[Interpolation]
"""A filter for all images of a batch, or one for each."""
Fill: TypeAlias = tuple[int, int, int]
"""Red, green and blue of padding pixels, 0 to 255 each."""

OVERSAMPLE = 1.5
"""A JPEG is decoded at a reduced size if that leaves at least so many pixels for an output pixel, on each axis."""


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
            f"geometry expects {expected[0]}x{expected[1]}. The image was replaced since its size was read: "
            "index its shard again (resflow index), or make the loader (and a file of sizes) anew.",
            position=position,
        )


def output_tensor(
    encoded: Sequence[Encoded | Pixels],
    geometry: Geometry,
    out: torch.Tensor | None,
    device: str,
    channels: int = 3,
    dtype: torch.dtype = torch.uint8,
) -> torch.Tensor:
    """Make or check the tensor that a batch is written to.

    Args:
        encoded: the batch's images.
        geometry: how they are placed.
        out: the caller's tensor or None.
        device: torch device of the batch.
        channels: of its images.
        dtype: of its images.

    Returns:
        `dtype` [B, channels, H, W] in channels_last.

    Raises:
        ConfigError: lengths disagree, or `out` has another shape, dtype, device or memory format.
    """
    if len(encoded) != len(geometry):
        raise ConfigError(f"decode got {len(encoded)} images but a geometry for {len(geometry)}; they must agree")
    shape = (len(geometry), channels, *geometry.output_size)
    if out is None:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)
    # Strides are compared by the permuted view, since torch calls degenerate shapes channels_last either way.
    if (
        out.dtype != dtype
        or tuple(out.shape) != shape
        or out.device.type != torch.device(device).type
        or not out.permute(0, 2, 3, 1).is_contiguous()
    ):
        raise ConfigError(
            f"out must be {str(dtype)[6:]} {list(shape)} in channels_last on {device}; got {out.dtype} "
            f"{list(out.shape)} with strides {list(out.stride())} on {out.device}"
        )
    return out
