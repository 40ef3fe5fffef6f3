"""Images as Pillow opens them: what decodes the formats that engines leave to it, and whose word counts in doubt."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from resflow.images.base import Bytes, Format, Stored

# Image.open would try all its readers by turns, and has one limit of pixels for the whole process.
_READERS: dict[Format, Callable[[BinaryIO, str], Image.Image]] = {
    "jpeg": JpegImagePlugin.jpeg_factory,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
    "jp2": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "tga": TgaImagePlugin.TgaImageFile,
}
DAMAGE = (
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
    Warning,
)
"""What Pillow's readers raise on damaged files; warnings where the user has made errors of them."""
_ORIENTATION = 274
_PLAIN_MODES = {
    **dict.fromkeys(("P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"), "RGB"),
    **{"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"},
}
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def open_image(encoded: Bytes, kind: Format) -> Image.Image:
    """Open an image with the one reader of its format; nothing is decoded yet.

    Args:
        encoded: the whole file.
        kind: its format.

    Raises:
        OSError: or another of `DAMAGE`, where its header is damaged.
    """
    return _READERS[kind](io.BytesIO(encoded), "")


def stored_by_pillow(encoded: Bytes, kind: Format) -> Stored:
    """Height, width and orientation as Pillow reads them; one of `DAMAGE` where it does not either."""
    with open_image(encoded, kind) as image:
        # Not the PNG reader's own way, which decodes all pixels to get at an EXIF chunk behind them.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
        return image.height, image.width, orientation if orientation in range(1, 9) else 1


def rgb_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels of an image as its `convert("RGB")` gives them, which is what torchvision's datasets do.

    Alpha is dropped, greyscale repeated. Greyscale of more than 8 bits is cut off at 0 and 255, not scaled: `cut_off`
    tells where that loses something.

    Returns:
        uint8 [H, W, 3], contiguous.
    """
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of palettes with alpha that go straight to RGB
    return np.array(image.convert("RGB"))


def pil_values(image: Image.Image) -> npt.NDArray[Any]:
    """All values of an image, [H, W] or [H, W, C]: palettes as RGB or RGBA, single bits as 0 and 255, CMYK as RGB."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    mode = _PLAIN_MODES.get(image.mode)
    return np.array(image.convert(mode) if mode else image)


def cut_off(image: Image.Image) -> str:
    """What `rgb_pixels` loses of greyscale of more than 8 bits, as a phrase; "" where it loses nothing."""
    if image.mode not in _DEEP:
        return ""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if low >= 0 and high <= 255 and (image.mode != "F" or (values == np.floor(values)).all()):
        return ""
    return (
        f"its greyscale values (mode {image.mode}) of {low:g} to {high:g} are cut to whole numbers of 0 to 255, as "
        "PIL's convert('RGB') does"
    )
