"""One image at smaller sizes: upright JPEGs, made by antialiased (Lanczos) downscaling of the original."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from resflow.errors import HeaderError, SampleError
from resflow.images import MAX_PIXELS, MAX_SCANS, count_scans, whole_header
from resflow.images.pillow import DAMAGE, open_image, rgb_pixels
from resflow.plan.tiers import tier_size

QUALITY = 85
"""JPEG quality of tiers. Chroma is kept at full size (4:4:4): at equal bytes (quality 90 with halved chroma) the error
is a fifth larger (docs/tiers.md)."""

_AMPLE = 3.0  # decoded pixels for a tier's pixel, beyond which a JPEG is decoded at a reduced size
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def shrink(encoded: bytes, size: tuple[int, int], sides: Sequence[int], quality: int = QUALITY) -> list[bytes | None]:
    """Encode an image at the sizes of tiers.

    Pixels are those of the reference decode: the first frame, upright, alpha dropped, CMYK converted by Pillow,
    greyscale of more than 8 bits cut off at 255; greyscale stays greyscale. Metadata
    and colour profile are left out, as engines ignore both.

    Args:
        encoded: the original.
        size: its height and width in pixels, after EXIF orientation.
        sides: short sides of the tiers in pixels.
        quality: of the JPEGs, 1 to 100.

    Returns:
        A JPEG for each side; None where the original's short side is not longer, or its bytes are not more.

    Raises:
        SampleError: the original is damaged, of another size, or has more than 89 million pixels or 100 scans.
    """
    wanted = [side for side in sides if min(size) > side]
    if not wanted:
        return [None] * len(sides)
    try:
        made = _shrunk(encoded, size, wanted, quality)
    except (HeaderError, *DAMAGE) as error:
        raise SampleError(f"no tiers can be made of it: {type(error).__name__}: {error}") from error
    return [made[side] if side in made and len(made[side]) < len(encoded) else None for side in sides]


def _shrunk(encoded: bytes, size: tuple[int, int], sides: Sequence[int], quality: int) -> dict[int, bytes]:
    header = whole_header(encoded)
    if (header.height, header.width) != size:
        raise ValueError(f"it is {header.height}x{header.width} (HxW), {size[0]}x{size[1]} by the index")
    if size[0] * size[1] > MAX_PIXELS // 2:  # where Pillow begins to warn; such an image is read as it is
        raise ValueError(f"{size[0]}x{size[1]} pixels (HxW) are too many")
    if header.format == "jpeg" and (scans := count_scans(encoded)) > MAX_SCANS:
        raise ValueError(f"it has {scans} scans, at most {MAX_SCANS} are accepted: decoding would take very long")
    made: dict[int, bytes] = {}
    with open_image(encoded, header.format) as opened:
        jpeg = header.format == "jpeg"
        turn = _TURNS.get(header.orientation) if jpeg else None
        if jpeg:
            ample = max(sides) * _AMPLE / min(size)
            drafted = opened.draft(opened.mode, (int(opened.width * ample) + 1, int(opened.height * ample) + 1))
            image = _eight_bit(opened)
        else:
            drafted = None
            image = _eight_bit(ImageOps.exif_transpose(opened))
        # The part of the decode that is the original: the last row and column of a reduced one may be partial.
        box = (0, 0, image.width, image.height) if drafted is None else drafted[1]
        for side in sides:
            height, width = tier_size(np.array([size], np.int32), side)[0].tolist()
            target = (height, width) if turn is not None and header.orientation >= 5 else (width, height)
            small = image.resize(target, Image.Resampling.LANCZOS, box=box)
            if turn is not None:
                small = small.transpose(turn)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=quality, subsampling="4:4:4", optimize=True, exif=b"", icc_profile=None)
            made[side] = buffer.getvalue()
    return made


def _eight_bit(image: Image.Image) -> Image.Image:
    """Greyscale or RGB of 8 bits."""
    if image.mode == "L":
        return image
    pixels = rgb_pixels(image)
    return Image.fromarray(pixels[..., 0] if image.mode.startswith("I;16") else pixels)
