"""Which images DALI decodes as Pillow does, and which go to threads of this process."""

from __future__ import annotations

from resflow.decode.base import Encoded
from resflow.images import ImageHeader
from resflow.images.exif import has_small_samples
from resflow.images.jpeg import read_frame

_PNG_DEPTH = 24  # the byte that tells it; that of the colour type follows
_TAIL = 1024  # bytes at the end of a JPEG among which its end marker must be
_HUFFMAN = frozenset([0xC0, 0xC1, 0xC2])  # baseline, extended and progressive; the rest is arithmetic or lossless


def is_native(header: ImageHeader, encoded: Encoded, device: str) -> bool:
    """Whether DALI decodes an image, and as Pillow does.

    Args:
        header: what the image's header says.
        encoded: the image.
        device: "cpu" or "cuda".

    Returns:
        False for all formats but JPEG, PNG, WebP, TIFF and BMP; for PNGs and TIFFs of grey with more than 8 bits, and
        TIFFs of fractions, which DALI scales; for JPEGs that nvJPEG refuses (four components, 12 bits, arithmetic
        coding, lossless), whose orientation stands in XMP, or, on a GPU, that have no end.
    """
    if header.format not in ("jpeg", "png", "webp", "tiff", "bmp"):
        return False
    if header.format == "tiff":
        return has_small_samples(encoded)
    if header.format == "png":
        return not (encoded[_PNG_DEPTH] == 16 and encoded[_PNG_DEPTH + 1] == 0)  # colour type 0 is grey
    if header.format != "jpeg":
        return True
    if not _plain_frame(encoded):
        return False
    # DALI reads orientation from EXIF only; XMP may hold it, too.
    if header.orientation != 1 and b"tiff:Orientation" in bytes(encoded):
        return False
    # GPU decoders may fill the missing rows of a truncated JPEG silently; Pillow names the fault.
    return device == "cpu" or b"\xff\xd9" in bytes(encoded[-_TAIL:])


def _plain_frame(encoded: Encoded) -> bool:
    """Whether a JPEG's frame is Huffman-coded, of 8 bits and one or three components."""
    frame = read_frame(encoded)
    return frame is not None and frame.marker in _HUFFMAN and frame.depth == 8 and frame.components in (1, 3)
