"""Samples of annotated sources as members of WebDataset shards, so that reading them back gives what went in."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from resflow.images import whole_header
from resflow.sources.annotations.annotated import AnnotatedSource
from resflow.sources.base import Pixels
from resflow.sources.folders import check_keys, unique_keys
from resflow.sources.groups import IMAGE_EXTENSIONS
from resflow.targets.read import annotation_json
from resflow.targets.types import Annotation, LabelMap


def source_samples(source: AnnotatedSource, start: int = 0, end: int | None = None) -> Iterator[dict[str, object]]:
    """What `write_shards` takes, from an annotated source.

    Image bytes are those the source gives its engines: the file's own, but for a JPEG with an EXIF orientation that the
    annotations do not follow, whose metadata is hidden; what no engine takes as it is becomes PNG.

    Args:
        source: images with objects or label maps.
        start: number of the first sample.
        end: number after the last; None: all that follow.

    Yields:
        A key (the file's name without its extension), the image under its extension, and "json" for objects or
        "seg.png" for a label map. The same source gives the same bytes.

    Raises:
        ShardError: a file cannot be read.
        SampleError: an image or a mask is damaged.
    """
    keys = unique_keys(PurePath(), [PurePath(name) for name in source.files.names])
    check_keys(keys)
    for number in range(len(keys))[start:end]:
        key = keys[number]
        (sample,) = source.read(np.array([number], np.int64))
        name, image = _image(source.files.names[number], sample.image)
        target: Any = sample.target
        if isinstance(target, Annotation):
            yield {"__key__": key, name: image, "json": _compact(annotation_json(target))}
        else:
            yield {"__key__": key, name: image, "seg.png": label_map_bytes(target)}


def label_map_bytes(target: LabelMap) -> bytes:
    """A label map as a PNG file: its own bytes, or its classes encoded.

    Args:
        target: encoded, or uint8 or int32 [H, W] with classes from 0 to 65535.
    """
    if not isinstance(target.encoded, np.ndarray):
        return bytes(target.encoded)
    narrow = target.encoded.dtype == np.uint8
    return _png(Image.fromarray(target.encoded if narrow else target.encoded.astype(np.uint16)))


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _image(name: str, image: memoryview | Pixels) -> tuple[str, bytes]:
    if isinstance(image, np.ndarray):
        return "png", _png(Image.fromarray(image))
    extension = PurePath(name).suffix[1:].lower()
    return extension if extension in IMAGE_EXTENSIONS else whole_header(image).format, bytes(image)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
