"""The reference engine: Pillow decodes, at full size, one image after the other."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from resflow.decode.base import (
    Encoded,
    Fill,
    Pixels,
    check_pixels,
    check_scans,
    check_size,
    checked_header,
    decode_error,
    output_tensor,
)
from resflow.decode.place import place
from resflow.decode.placement import placement
from resflow.geometry.affine import Geometry
from resflow.headers import read_header

# Image.open would try all its readers by turns, and has one limit of pixels for the whole process.
_READERS: dict[str, Callable[[BinaryIO, str], Image.Image]] = {
    "jpeg": JpegImagePlugin.jpeg_factory,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}
# What Pillow's readers raise on damaged files, besides OSError.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode_rgb(encoded: Encoded, kind: str | None = None) -> npt.NDArray[np.uint8]:
    """Decode one image of any format that `resflow.headers` knows: the reference decode.

    The first frame, upright by its orientation, alpha dropped, greyscale repeated, CMYK converted by Pillow, 16-bit
    values shifted right by 8.

    Args:
        encoded: the encoded image.
        kind: its format, if it is known.

    Returns:
        uint8 [H, W, 3], contiguous.

    Raises:
        HeaderError: no known format.
        OSError: or any other of Pillow's errors, where the image is damaged.
    """
    with _READERS[kind or read_header(encoded).format](io.BytesIO(encoded), "") as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        image.info.pop("transparency", None)  # alpha is dropped, and Pillow warns about palettes with alpha
        return np.array(image.convert("RGB"))


def decode_checked(
    engine: str, position: int, encoded: Encoded, size: tuple[int, int], kind: str
) -> npt.NDArray[np.uint8]:
    """`decode_rgb` with Pillow's errors mapped to DecodeError and the size checked.

    Args:
        engine: name of the engine, for errors.
        position: place of the image in its batch, for errors.
        encoded: the encoded image.
        size: expected upright height and width.
        kind: the image's format, for errors.

    Returns:
        uint8 [H, W, 3], contiguous.

    Raises:
        DecodeError: the image is damaged, or of another size.
    """
    try:
        pixels = decode_rgb(encoded, kind)
    except _DAMAGE as error:
        raise decode_error(engine, position, encoded, f"{type(error).__name__}: {error}", kind) from error
    check_size(engine, position, (pixels.shape[0], pixels.shape[1]), size)
    return pixels


class PillowDecoder:
    """Decodes with Pillow, at full size: the reference that other engines are held against.

    Args:
        fill: colour of padding pixels, RGB, 0 to 255.
    """

    def __init__(self, fill: Fill = (0, 0, 0)) -> None:
        self._fill = np.array(fill, dtype=np.uint8)

    def decode(
        self, encoded: Sequence[Encoded | Pixels], geometry: Geometry, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Decoder.decode`."""
        result = output_tensor(encoded, geometry, out, "cpu")
        frames = result.permute(0, 2, 3, 1).numpy()
        where = placement(geometry)
        for position, data in enumerate(encoded):
            height, width = geometry.source_size[position].tolist()
            if isinstance(data, np.ndarray):
                pixels = check_pixels("pillow", position, data, (height, width))
            else:
                header = checked_header("pillow", position, data, (height, width))
                check_scans("pillow", position, data, header)
                pixels = decode_checked("pillow", position, data, (height, width), header.format)
            place(pixels, frames[position], where, position, (width, height), self._fill)
        return result

    def close(self) -> None:
        """See `Decoder.close`."""
