"""The reference engine: Pillow decodes, at full size, one image after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import ImageOps

from resflow.decode.base import (
    Encoded,
    Fill,
    Interpolations,
    Notice,
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
from resflow.errors import DecodeError
from resflow.geometry.affine import Geometry
from resflow.images import Format, whole_header
from resflow.images.pillow import DAMAGE, cut_off, open_image, rgb_pixels
from resflow.images.registry import known_format
from resflow.images.values import file_values
from resflow.pixels import PLAIN, fit_values


def decode_rgb(encoded: Encoded, kind: Format | None = None) -> npt.NDArray[np.uint8]:
    """Decode one image of any format that `resflow.images` knows: the reference decode.

    The first frame, upright by its orientation, then as PIL's `convert("RGB")`: alpha dropped, greyscale repeated and
    cut off at 255 where it has more than 8 bits.

    Args:
        encoded: the encoded image.
        kind: its format, if it is known.

    Returns:
        uint8 [H, W, 3], contiguous.

    Raises:
        HeaderError: no known format.
        OSError: or any other of Pillow's errors, where the image is damaged.
    """
    return _decode(encoded, kind or whole_header(encoded).format)[0]


def _decode(encoded: Encoded, kind: Format) -> tuple[npt.NDArray[np.uint8], str]:
    """Upright pixels, and what was lost of them."""
    if known_format(kind).pixels is not None:
        return fit_values(file_values(encoded), PLAIN)
    with open_image(encoded, kind) as opened:
        image = ImageOps.exif_transpose(opened)
        return rgb_pixels(image), cut_off(image)


def decode_checked(
    engine: str,
    position: int,
    encoded: Encoded,
    size: tuple[int, int],
    kind: Format,
    notices: list[Notice],
    *,
    damage: str = "",
    strict: bool = False,
) -> npt.NDArray[np.uint8]:
    """`decode_rgb` with Pillow's errors mapped to DecodeError and the size checked.

    Args:
        engine: name of the engine, for errors.
        position: place of the image in its batch, for errors.
        encoded: the encoded image.
        size: expected upright height and width.
        kind: the image's format, for errors.
        notices: gains what is to be said of the image.
        damage: why a strict decoder refused it; "" where none did.
        strict: whether what there would be a notice of is an error.

    Returns:
        uint8 [H, W, 3], contiguous.

    Raises:
        DecodeError: the image is damaged beyond what Pillow reads, or of another size; in a strict engine, also damaged
            or cut off at all.
    """
    if damage and strict:
        raise decode_error(engine, position, encoded, damage, kind)
    try:
        pixels, lost = _decode(encoded, kind)
    except DAMAGE as error:
        reason = damage or f"{type(error).__name__}: {error}"
        raise decode_error(engine, position, encoded, reason, kind) from error
    check_size(engine, position, (pixels.shape[0], pixels.shape[1]), size)
    if lost and strict:
        raise DecodeError(
            f"{engine} does not decode image {position} of the batch, since it is strict: {lost}. Scale the image to 8 "
            "bits, or pass strict=False.",
            position=position,
        )
    if damage:
        notices.append(Notice(position, "damaged", damage))
    if lost:
        notices.append(Notice(position, "cut off", lost))
    return pixels


class PillowDecoder:
    """Decodes with Pillow, at full size: the reference that other engines are held against.

    Args:
        fill: colour of padding pixels, RGB, 0 to 255.
    """

    def __init__(self, fill: Fill = (0, 0, 0)) -> None:
        self._fill = np.array(fill, dtype=np.uint8)
        self.notices: list[Notice] = []
        """Of the last batch."""

    def decode(
        self,
        encoded: Sequence[Encoded | Pixels],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: Interpolations = "bilinear",
        warp: Interpolations = "bilinear",
    ) -> torch.Tensor:
        """See `Decoder.decode`."""
        result = output_tensor(encoded, geometry, out, "cpu")
        frames = result.permute(0, 2, 3, 1).numpy()
        where = placement(geometry, interpolation, warp)
        self.notices = []
        for position, data in enumerate(encoded):
            height, width = geometry.source_size[position].tolist()
            if isinstance(data, np.ndarray):
                pixels = check_pixels("pillow", position, data, (height, width))
            else:
                header = checked_header("pillow", position, data, (height, width))
                check_scans("pillow", position, data, header)
                pixels = decode_checked("pillow", position, data, (height, width), header.format, self.notices)
            place(pixels, frames[position], where, position, (width, height), self._fill)
        return result

    def close(self) -> None:
        """See `Decoder.close`."""
