"""What an item of a map-style dataset holds: its image, in any of the usual forms, and its target."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from resflow.errors import ConfigError, HeaderError
from resflow.images import whole_header
from resflow.images.pillow import pil_values, rgb_pixels
from resflow.sources.base import NO_TARGET, Pixels
from resflow.sources.image_files import file_header, read_file

IMAGE_KEYS = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp")
"""Where a dataset's items are dicts, the names under which their image may lie."""

_ACCEPTED = (
    "expected (image, target), (image, *targets), an image, or a dict with one of "
    f"{', '.join(IMAGE_KEYS)}; an image is a path, encoded bytes, a PIL image, a uint8 array [H,W] or [H,W,1|3|4], or "
    "a uint8 tensor [1|3|4,H,W]"
)
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def split_item(item: object, where: str) -> tuple[Any, object]:
    """Part an item into image and target.

    Args:
        item: (image, target); (image, *targets), whose target is a tuple; a bare image; or a dict with one of
            IMAGE_KEYS, whose target is the other value, or the dict of the others where there are several.
        where: the item's name, for errors.

    Returns:
        Image and target; NO_TARGET where there is none.

    Raises:
        ConfigError: an empty sequence, or a dict without an image or with several.
    """
    if isinstance(item, Mapping) and not _undecoded(item):
        found = [key for key in IMAGE_KEYS if key in item]
        if len(found) != 1:
            raise ConfigError(f"{where} is a dict with the keys {list(item)}; {_ACCEPTED}")
        rest = {key: value for key, value in item.items() if key != found[0]}
        return item[found[0]], (next(iter(rest.values())) if len(rest) == 1 else rest or NO_TARGET)
    if not isinstance(item, tuple | list):
        return item, NO_TARGET
    if not item:
        raise ConfigError(f"{where} is an empty {type(item).__name__}; {_ACCEPTED}")
    targets = tuple(item[1:])
    return item[0], (targets[0] if len(targets) == 1 else targets or NO_TARGET)


def item_names(item: object) -> tuple[str, ...]:
    """Keys of an item that is a dict, that of its image first; () of any other."""
    if not isinstance(item, Mapping) or _undecoded(item):
        return ()
    return tuple(sorted(map(str, item), key=lambda name: name not in IMAGE_KEYS))


def as_image(image: Any, where: str, *, wide: bool = False) -> memoryview | npt.NDArray[Any]:
    """Bring an image to one of the two forms that engines take: encoded bytes, or pixels.

    Args:
        image: path (its bytes are read); bytes; PIL image (its pixels as they are, EXIF orientation is not applied);
            uint8 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; or uint8 tensor [C, H, W]. Alpha is dropped.
        where: the image's name, for errors.
        wide: for other pixels than 8-bit RGB: arrays [H, W] and [H, W, C], tensors [H, W] and [C, H, W] of any real
            dtype, and PIL images of any mode keep their channels and numbers.

    Returns:
        Encoded bytes; or uint8 [H, W, 3], RGB, contiguous; with `wide`, [H, W, C] of any real dtype.

    Raises:
        ConfigError: another type, dtype or shape.
        ShardError: the file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return memoryview(read_file(os.fspath(image)))
    if isinstance(image, bytes | bytearray | memoryview):
        return memoryview(image)
    if isinstance(image, Mapping) and _undecoded(image):
        return as_image(image["path"] if image["bytes"] is None else image["bytes"], where, wide=wide)
    if wide:
        return _wide_values(image, where)
    if isinstance(image, Image.Image):
        return pil_pixels(image, where)
    if isinstance(image, torch.Tensor):
        _check_dtype(image.dtype == torch.uint8, image.dtype, image.shape, where)
        array = image.detach().cpu().as_subclass(torch.Tensor).numpy()
        if array.ndim == 3:
            _check_shape(array.shape[0] in (1, 3, 4), image.shape, where)
            array = array.transpose(1, 2, 0)  # [C, H, W] -> [H, W, C]
    elif isinstance(image, np.ndarray):
        array = image
        _check_dtype(array.dtype == np.uint8, array.dtype, array.shape, where)
    else:
        raise ConfigError(f"the image of {where} is of type {type(image).__name__}; {_ACCEPTED}")
    if array.ndim == 2:
        array = array[..., None]
    _check_shape(array.ndim == 3 and array.shape[2] in (1, 3, 4) and 0 not in array.shape, image.shape, where)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[..., :3])


def _wide_values(image: Any, where: str) -> npt.NDArray[Any]:
    if isinstance(image, Image.Image):
        values = pil_values(image)
    elif isinstance(image, torch.Tensor):
        tensor = image.detach().cpu().as_subclass(torch.Tensor)
        values = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
        values = values.transpose(1, 2, 0) if values.ndim == 3 else values
    elif isinstance(image, np.ndarray):
        values = image
    else:
        raise ConfigError(f"the image of {where} is of type {type(image).__name__}; {_ACCEPTED}")
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "biuf":
        raise ConfigError(
            f"the image of {where} is {values.dtype} {list(getattr(image, 'shape', values.shape))}; expected real "
            "numbers, [H,W] or [H,W,C] of an array, [H,W] or [C,H,W] of a tensor"
        )
    return np.ascontiguousarray(values)


def image_size(image: Any, where: str, *, wide: bool = False) -> tuple[int, int]:
    """Height and width of an image without decoding it: upright for paths and bytes, else those of its pixels.

    Args:
        image: what `as_image` takes.
        where: the image's name, for errors.
        wide: as `as_image` has it.

    Returns:
        Height and width in pixels.

    Raises:
        HeaderError: no size can be read from a file or from bytes.
        ConfigError: another type, dtype or shape.
        ShardError: the file cannot be read.
    """
    if isinstance(image, Image.Image):
        return image.height, image.width
    if isinstance(image, Mapping) and _undecoded(image):
        return image_size(image["path"] if image["bytes"] is None else image["bytes"], where, wide=wide)
    try:
        if isinstance(image, str | os.PathLike):
            header = file_header(os.fspath(image))
        else:
            found = as_image(image, where, wide=wide)
            if isinstance(found, np.ndarray):
                return found.shape[0], found.shape[1]
            header = whole_header(found)
    except HeaderError as error:
        raise error.located(key=where, shard="") from error
    return header.height, header.width


def pil_image(image: memoryview | Pixels) -> Image.Image:
    """A sample's image as PIL opens it, RGB.

    Args:
        image: encoded bytes, or pixels uint8 [H, W, 3].
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    with Image.open(io.BytesIO(image)) as opened:
        return opened.convert("RGB")


def pil_pixels(image: Image.Image, where: str) -> Pixels:
    """A PIL image's pixels as its `convert("RGB")` gives them.

    Args:
        image: of any mode with 8 bits per channel.
        where: the image's name, for errors.

    Returns:
        uint8 [H, W, 3], contiguous.

    Raises:
        ConfigError: a mode with more than 8 bits, which `convert` would clip.
    """
    if image.mode in _WIDE_MODES:
        raise ConfigError(
            f"the image of {where} is a PIL image of mode {image.mode!r}; expected 8 bits per channel. Keep all "
            "of them with Pipeline(pixels=rf.Pixels(channels=1, dtype='uint16')), or scale it to 0..255 in the dataset."
        )
    return rgb_pixels(image)


def _undecoded(value: Mapping[Any, Any]) -> bool:
    """Whether this is how Hugging Face datasets give an image with `Image(decode=False)`."""
    return value.keys() == {"bytes", "path"}


def _check_dtype(sound: bool, dtype: object, shape: Any, where: str) -> None:
    if not sound:
        raise ConfigError(
            f"the image of {where} is {dtype} {list(shape)}; expected uint8 pixels. Drop ToTensor, ConvertImageDtype "
            "and Normalize from the dataset: Pipeline(normalize=...) does it on the device. Other numbers than "
            "8 bits need Pipeline(pixels=rf.Pixels(dtype=...))."
        )


def _check_shape(sound: bool, shape: Any, where: str) -> None:
    if not sound:
        raise ConfigError(
            f"the image of {where} has shape {list(shape)}; expected [H,W] or [H,W,1|3|4] of an array, [H,W] or "
            "[1|3|4,H,W] of a tensor, none of them 0"
        )
