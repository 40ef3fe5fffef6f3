"""WebDataset shards from samples, and samples of annotated sources as members of them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import webdataset
from PIL import Image

from resflow.errors import ConfigError, SampleError
from resflow.images import whole_header
from resflow.sources.annotations.annotated import AnnotatedSource
from resflow.sources.base import Pixels
from resflow.sources.folders import check_keys, unique_keys
from resflow.sources.groups import IMAGE_EXTENSIONS, is_key
from resflow.targets.read import annotation_json
from resflow.targets.types import Annotation, LabelMap


def write_shards(
    samples: Iterable[Mapping[str, object]],
    pattern: str | Path,
    *,
    max_samples: int = 10_000,
    max_bytes: int = 1 << 30,
    overwrite: bool = False,
) -> list[Path]:
    """Write samples into WebDataset tar shards; none appears under its name before all are complete.

    Args:
        samples: mappings with "__key__" and one value an extension: bytes, str, int, or what webdataset encodes by
            that extension. Other names in double underscores are left out.
        pattern: path with one number in it, such as "out/train-%06d.tar"; missing folders are made.
        max_samples: samples a shard, at least 1.
        max_bytes: a shard is closed once its members exceed this many bytes; at least 1.
        overwrite: whether existing shards of these names may be replaced.

    Returns:
        The shards, in order.

    Raises:
        ConfigError: no samples, a pattern without a number, limits below 1, a shard that exists, or one that cannot be
            written (a full disk); then none is put in place.
        SampleError: a sample without a key, with one that WebDataset would split or that came before, or with a
            value that cannot be encoded.
    """
    pattern = checked_pattern(pattern, max_samples, max_bytes)
    iterator = iter(samples)
    first = next(iterator, None)
    if first is None:
        raise ConfigError("no samples to write; expected at least one.")
    staged: list[StagedFile] = []
    seen: set[str] = set()

    def opened(name: str) -> StagedFile:
        refuse_existing([Path(name)], overwrite)
        staged.append(
            StagedFile(Path(name), f"shard {name}", "Make room, or choose another folder; no shard was put in place.")
        )
        return staged[-1]

    try:
        with webdataset.ShardWriter(
            pattern,
            maxcount=max_samples,
            maxsize=max_bytes,
            verbose=0,
            opener=opened,
            post=lambda _: staged[-1].close(),
            mtime=0,  # equal samples, equal shards
        ) as writer:
            for position, sample in enumerate(chain([first], iterator)):
                key = _checked_key(sample, position, seen)
                _encoded(writer, sample, key, position)
        return [file.publish() for file in staged]
    finally:
        for file in staged:
            file.discard()


class StagedFile:
    """A file under a temporary name until it is complete; its errors name it.

    Args:
        path: its name in the end; missing folders are made.
        name: what it is called in errors.
        way_out: what they say can be done.

    Raises:
        ConfigError: it cannot be made, as of each method, where it cannot be written.
    """

    def __init__(self, path: Path, name: str, way_out: str) -> None:
        self.path, self._name, self._way_out = path, name, way_out
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        with self._named():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")

    def write(self, data: bytes) -> int:
        """Append bytes."""
        with self._named():
            return self._file.write(data)

    def tell(self) -> int:
        """The bytes that were written."""
        return self._file.tell()

    def close(self) -> None:
        """Write what is buffered."""
        with self._named():
            self._file.close()

    def publish(self) -> Path:
        """Bring the file under its name, which is returned."""
        self.close()
        with self._named():
            return self._temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what was not published."""
        with suppress(OSError):  # a full disk
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"{self._name} cannot be written: {error.strerror or error}. {self._way_out}") from error


def checked_pattern(pattern: str | Path, max_samples: int, max_bytes: int) -> str:
    """The pattern, once it and the limits are found to be as `write_shards` wants them; else ConfigError."""
    if max_samples < 1 or max_bytes < 1:
        raise ConfigError(f"max_samples and max_bytes must be at least 1; got {max_samples} and {max_bytes}")
    text = str(pattern)
    try:
        distinct = text % 0 != text % 1
    except (TypeError, ValueError):
        distinct = False
    if not distinct:
        raise ConfigError(f"shard pattern must hold one number; got {text!r}, expected e.g. 'out/train-%06d.tar'")
    return text


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """ConfigError where one of the shards exists and is not to be replaced."""
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"shard {path} exists. Remove it, choose another name, or pass overwrite=True.")


def sample_sizes(samples: Iterable[Mapping[str, object]]) -> list[tuple[str, int]]:
    """Key and bytes of the members of each sample, as they count against `max_bytes` of `write_shards`."""
    seen: set[str] = set()
    sizes = []
    with webdataset.TarWriter(io.BytesIO(), mtime=0) as writer:
        for position, sample in enumerate(samples):
            key = _checked_key(sample, position, seen)
            sizes.append((key, _encoded(writer, sample, key, position)))
            writer.stream.seek(0)
    return sizes


def _encoded(writer: Any, sample: Mapping[str, object], key: str, position: int) -> Any:
    """Write a sample; what the writer returns."""
    try:
        return writer.write(dict(sample))
    except (ValueError, TypeError, AttributeError, AssertionError) as error:
        raise SampleError(f"cannot be encoded: {error}. Give bytes", key=key, position=position) from error


def _checked_key(sample: Mapping[str, Any], position: int, seen: set[str]) -> str:
    key = sample.get("__key__")
    if not isinstance(key, str) or not key:
        raise SampleError(f"sample {position} has no '__key__'; got {key!r}. Give each a unique str", position=position)
    for extension in sample:
        if extension.startswith("__") and extension.endswith("__"):
            continue
        if extension != extension.lower() or extension[:1] in ("", "_", ".") or "/" in extension:
            raise SampleError(
                f"extension {extension!r} would not be read back; expected lower case without a slash or a leading "
                "dot or underscore. Rename it",
                key=key,
                position=position,
            )
        if not is_key(key):
            raise SampleError(
                f"key {key!r} would be read back as another; expected UTF-8, no dot in its last part, no '.', '..' or "
                "empty part, no NUL, and no first part in double underscores. Rename it",
                key=key,
                position=position,
            )
    if all(extension.startswith("__") for extension in sample):
        raise SampleError("sample holds nothing but its key. Add its image", key=key, position=position)
    if key in seen:
        raise SampleError(f"key {key!r} came before. Give each sample its own", key=key, position=position)
    seen.add(key)
    return key


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
