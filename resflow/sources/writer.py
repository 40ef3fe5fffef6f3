"""WebDataset shards from samples, and samples from folders of images."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import IO, Any

import webdataset

from resflow.errors import ConfigError, SampleError
from resflow.sources.folders import check_files, check_keys, existing_folder, image_files, unique_keys, utf8
from resflow.sources.groups import IMAGE_EXTENSIONS, is_key
from resflow.sources.image_files import read_file


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
    staged = _Staged(overwrite)
    seen: set[str] = set()
    try:
        with webdataset.ShardWriter(
            pattern,
            maxcount=max_samples,
            maxsize=max_bytes,
            verbose=0,
            opener=staged.open,
            post=staged.finish,
            mtime=0,  # equal samples, equal shards
        ) as writer:
            for position, sample in enumerate(chain([first], iterator)):
                key = _checked_key(sample, position, seen)
                _encoded(writer, sample, key, position)
        return staged.publish()
    finally:
        staged.discard()


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Image files with a class each; iterating gives samples for `write_shards`.

    Args:
        paths: the files.
        keys: a key each, unique.
        labels: a class number each, in [0, len(classes)); () where there are no classes.
        classes: class names, sorted.
    """

    paths: tuple[Path, ...]
    keys: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[dict[str, object]]:
        check_files(self.paths)
        check_keys(self.keys)
        return self.part(0, len(self))

    def part(self, start: int, end: int) -> Iterator[dict[str, object]]:
        """The samples from number `start` to before number `end`."""
        rows = slice(start, end)
        labels: Iterable[int | None] = self.labels[rows] or repeat(None)
        for path, key, label in zip(self.paths[rows], self.keys[rows], labels, strict=False):
            target = {} if label is None else {"cls": label}
            yield {"__key__": key, path.suffix[1:].lower(): read_file(str(path)), **target}


def class_folder_samples(folder: str | Path) -> LabelledImages:
    """Images in one sub-folder a class, numbered by name, as torchvision's ImageFolder does.

    Args:
        folder: holds the class folders; images may lie deeper in these.

    Returns:
        The images, class by class.

    Raises:
        ConfigError: the folder is missing, has no class folders, or a class has no images.
    """
    root = existing_folder(folder)
    classes = [path.name for path in sorted(root.iterdir()) if path.name[0] != "." and _is_class(path, root)]
    if not classes:
        raise ConfigError(
            f"{root} has no sub-folders; expected one a class. For classes in file names, take "
            "labelled_files(folder, label_pattern), or --label-pattern on the command line."
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = image_files(root / name, above=root)
        if not found:
            raise ConfigError(
                f"class folder {root / name} has no images ({', '.join(IMAGE_EXTENSIONS)}). Add some, or remove it."
            )
        paths.extend(found)
        labels.extend([label] * len(found))
    return LabelledImages(tuple(paths), unique_keys(root, paths), tuple(labels), tuple(map(utf8, classes)))


def _is_class(path: Path, root: Path) -> bool:
    """Whether this is a class folder: no file, and no link back to where it lies."""
    if not path.is_dir():
        return False
    if "\n" in path.name or "\r" in path.name:
        raise ConfigError(f"{str(path)!r} has a line break in its name, which names a class. Rename the folder.")
    return not path.samefile(root)


def labelled_files(folder: str | Path, pattern: str) -> LabelledImages:
    """Images whose class is in their file names.

    Args:
        folder: holds the images, also in sub-folders.
        pattern: regular expression with a group, searched in each file's name; its first group is the class.

    Returns:
        The images, by path; classes are numbered in sorted order.

    Raises:
        ConfigError: the folder is missing or has no images, the expression is malformed or has no group, or a file's
            name does not match.
    """
    root = existing_folder(folder)
    _expression(pattern)
    paths = image_files(root)
    if not paths:
        raise ConfigError(f"{root} has no images; expected files ending in {', '.join(IMAGE_EXTENSIONS)}.")
    return labelled_by_name(paths, root, pattern)


def labelled_by_name(paths: Sequence[Path], root: Path, pattern: str) -> LabelledImages:
    """As `labelled_files`, of these files below `root`."""
    expression = _expression(pattern)
    names: list[str] = []
    for path in paths:
        match = expression.search(path.name)
        if match is None or not match[1]:
            raise ConfigError(
                f"regular expression {pattern!r} finds no class in the file name {path.name!r} (in {path.parent}). "
                "Change the expression, or move the file."
            )
        names.append(match[1])
    classes = sorted(set(names))
    number = {name: label for label, name in enumerate(classes)}
    return LabelledImages(tuple(paths), unique_keys(root, paths), tuple(number[n] for n in names), tuple(classes))


def _expression(pattern: str) -> re.Pattern[str]:
    """A regular expression with a group; ConfigError for another."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"regular expression {pattern!r} is malformed: {error}. Correct it.") from error
    if not expression.groups:
        raise ConfigError(f"regular expression {pattern!r} has no group; expected the class in parentheses.")
    return expression


class _Staged:
    """Shards under temporary names, until all are complete."""

    def __init__(self, overwrite: bool) -> None:
        self.overwrite = overwrite
        self.file: _ShardFile | None = None
        self.shards: list[tuple[Path, Path]] = []

    def open(self, name: str) -> _ShardFile:
        path = Path(name)
        refuse_existing([path], self.overwrite)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = _ShardFile(temporary.open("wb"), path)
        except OSError as error:
            raise _unwritable(path, error) from error
        self.shards.append((temporary, path))
        return self.file

    def finish(self, _name: str) -> None:
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def publish(self) -> list[Path]:
        for temporary, path in self.shards:
            temporary.replace(path)
        return [path for _, path in self.shards]

    def discard(self) -> None:
        with suppress(ConfigError):  # said already
            self.finish("")
        for temporary, _ in self.shards:
            temporary.unlink(missing_ok=True)


class _ShardFile:
    """The file of a shard, whose errors name the shard."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise _unwritable(self._path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"shard {path} cannot be written: {error.strerror or error}. Make room, or choose another folder; no shard was "
        "put in place."
    )


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
