"""Label maps, a class for each pixel: decoded, placed into a batch, and moved within it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from resflow.errors import TargetError
from resflow.geometry import Geometry, Matrices
from resflow.targets.draw import Lookup
from resflow.targets.options import Targets
from resflow.targets.types import LabelMap
from resflow.targets.values import found_values, renumbered

_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")
# Pillow stretches greys of 2 and 4 bits to 0..255; the classes are what was stored.
_STEPS = {1: 1, 2: 85, 4: 17}


def place_label_maps(
    maps: Sequence[LabelMap | None], geometry: Geometry, options: Targets, found: set[int] | None = None
) -> torch.Tensor:
    """Place the label maps of a batch's images where the images lie, each pixel by the nearest.

    Args:
        maps: of the B images, in their own pixels; None for a place without a sample, which shows no image.
        geometry: how the B images are placed.
        options: `ignore_index` is the class of pixels that show no image; `values` renumbers the others.
        found: takes the numbers that occur in the maps, where it is wanted to know.

    Returns:
        [B, H, W] on the CPU, of the smallest dtype that holds the classes and `ignore_index`: uint8, int16 or int32.

    Raises:
        TargetError: not a palette or greyscale PNG, or of another size than its image; its `position` tells the image.
    """
    if len(maps) != len(geometry):
        raise TargetError(f"label maps must be one for each image; got {len(maps)} for {len(geometry)} images")
    sizes = [(height, width) for height, width in geometry.source_size.tolist()]
    decoded = [None if one is None else _decoded(one, sizes[place], place) for place, one in enumerate(maps)]
    decoded = [None if one is None else renumbered(one, options.values) for one in decoded]
    if found is not None:
        found.update(*(found_values(one) for one in decoded if one is not None))
    dtype = _smallest([one for one in decoded if one is not None], options.ignore_index)
    output = torch.full((len(maps), *geometry.output_size), options.ignore_index, dtype=dtype)
    for place, classes in enumerate(decoded):
        if classes is not None:
            # PIL and memory maps give arrays that cannot be written to, and views may be turned around.
            plane = torch.from_numpy(np.require(classes, requirements=("C", "W"))).to(dtype)[None]
            lookup = Lookup(geometry.matrix[place], sizes[place], geometry.output_size)
            output[place] = lookup.sample(plane, options.ignore_index)[0]
    return output


def move_label_maps(
    maps: torch.Tensor, matrix: torch.Tensor | Matrices, output_size: tuple[int, int], options: Targets
) -> torch.Tensor:
    """Move label maps along with the pixels of their batch, each pixel by the nearest.

    Args:
        maps: [B, h, w] of any integer dtype, on any device.
        matrix: [B, 3, 3], pixels before to pixels after, continuous edges; best float64.
        output_size: height and width after.
        options: `ignore_index` is the class of pixels that show none of the map; it must fit the dtype.

    Returns:
        [B, H, W] of the same dtype on the same device.
    """
    moves = matrix.detach().cpu().double().numpy() if isinstance(matrix, torch.Tensor) else matrix
    size = (maps.shape[1], maps.shape[2])
    output = maps.new_empty((len(maps), *output_size))
    for plane, moved, one in zip(maps, output, moves, strict=True):
        if size == output_size and np.array_equal(one, np.eye(3)):
            moved.copy_(plane)
        else:
            moved.copy_(Lookup(one, size, output_size).sample(plane[None], options.ignore_index)[0])
    return output


def decode_label_map(encoded: bytes | memoryview, size: tuple[int, int] | None = None) -> npt.NDArray[Any]:
    """Decode a PNG whose palette places or greys are classes.

    Args:
        encoded: the file's bytes.
        size: height and width that it must have; where it has others, it is not decoded.

    Returns:
        uint8 [h, w], or int32 [h, w] for 16 bits.

    Raises:
        TargetError: it cannot be decoded, has colours, or is of another size.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG",)) as picture:
            if picture.mode not in _MODES:
                raise TargetError(
                    f"a label map must be a PNG of palette places or greys; got {picture.mode}, "
                    f"{picture.width}x{picture.height} pixels. Turn its colours into class numbers first."
                )
            if size is not None:
                _check_size((picture.height, picture.width), size)
            depth = bytes(encoded[24:25])[0]  # of PNG's first chunk, IHDR: bits of a sample
            if picture.mode == "P" or depth == 8:
                return np.array(picture, np.uint8)
            values = np.array(picture)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        start = bytes(encoded[:8])
        raise TargetError(f"a label map must be a PNG; got {len(encoded)} bytes from {start!r} ({error})") from error
    if depth == 16:
        return values.astype(np.int32)
    return values.astype(np.uint8) // np.uint8(_STEPS[depth])


def label_map_classes(one: LabelMap) -> npt.NDArray[Any]:
    """The classes of a label map as it is: uint8 or int32 [h, w]; TargetError where its PNG cannot be decoded."""
    return one.encoded if isinstance(one.encoded, np.ndarray) else decode_label_map(one.encoded)


def _decoded(one: LabelMap, size: tuple[int, int], position: int) -> npt.NDArray[Any]:
    try:
        classes = one.encoded if isinstance(one.encoded, np.ndarray) else decode_label_map(one.encoded, size)
        _check_size((classes.shape[0], classes.shape[1]), size)
    except TargetError as error:
        raise TargetError(error.message, position=position) from error
    return classes


def _check_size(found: tuple[int, int], size: tuple[int, int]) -> None:
    if found != size:
        raise TargetError(
            f"a label map must have its image's size; got {found[1]}x{found[0]} for an image of "
            f"{size[1]}x{size[0]} pixels (after EXIF orientation)"
        )


def _smallest(maps: Sequence[npt.NDArray[Any]], ignore_index: int) -> torch.dtype:
    """uint8, int16 or int32; by the maps' dtypes rather than their values, so that batches seldom differ."""
    if any(one.dtype != np.uint8 for one in maps) or ignore_index > 32767:
        return torch.int32
    return torch.uint8 if 0 <= ignore_index <= 255 else torch.int16
