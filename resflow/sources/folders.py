"""Image files in folders, a key for each, and the classes that folders or names tell."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePath

from resflow.errors import ConfigError, ShardError
from resflow.sources.groups import IMAGE_EXTENSIONS, is_key
from resflow.sources.image_files import read_file

_LOG = logging.getLogger("resflow")
_SHOWN = 3  # files that a message names


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


def existing_folder(folder: str | Path) -> Path:
    """The folder as a path.

    Raises:
        ConfigError: it is missing, or not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder; expected one with images. Check the path.")
    return root


def check_place(path: Path, *, makes: bool = False) -> None:
    """Refuse a file that cannot be written where it is to lie, before the work whose result it holds.

    Args:
        path: the file.
        makes: whether missing folders will be made.

    Raises:
        ConfigError: its folder is missing, is none, or may not be written to.
    """
    folder = path.parent
    while makes and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is missing"
    elif not os.access(folder, os.W_OK | os.X_OK):
        what = "may not be written to"
    else:
        return
    raise ConfigError(f"{path} cannot be written: the folder {folder} {what}. Make it, or choose another.")


def image_files(root: Path, above: Path | None = None) -> list[Path]:
    """Image files below `root`, by their endings, sorted by folder, then name; hidden ones left out.

    Links are followed, but for those that lead back to a folder above them; a warning names these.

    Args:
        root: the folder.
        above: a folder above it that counts as one that links may lead back to.

    Raises:
        ShardError: a folder cannot be listed.
    """
    found: list[Path] = []
    loops: list[str] = []
    start = frozenset(_identity(str(folder)) for folder in (root, above) if folder is not None)
    chains = {str(root): start}  # of folders that are not walked yet: what lies above them, and they themselves
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_unlistable):
        chain = chains.pop(folder)
        below = []
        for name in sorted(name for name in folders if name[0] != "."):
            path = os.path.join(folder, name)  # noqa: PTH118 (as os.walk names it)
            identity = _identity(path)
            if identity in chain:
                loops.append(path)
            else:
                chains[path] = chain | {identity}
                below.append(name)
        folders[:] = below
        found += [
            Path(folder, name)
            for name in sorted(files)
            if name[0] != "." and PurePath(name).suffix[1:].lower() in IMAGE_EXTENSIONS
        ]
    if loops:
        _LOG.warning(
            "%s back to a folder above and not followed, below %s: %s",
            "1 link that leads" if len(loops) == 1 else f"{len(loops):,} links that lead",
            root,
            ", ".join(loops[:_SHOWN]) + ", ..." * (len(loops) > _SHOWN),
        )
    return found


def check_files(paths: Sequence[Path]) -> None:
    """Refuse files that cannot be read, before any work is done: broken links, pipes, devices.

    Raises:
        ConfigError: there are some; the first are named.
    """
    wrong = [f"{path} ({why})" for path in paths if (why := _why_unreadable(path))]
    if wrong:
        count = "1 file is" if len(wrong) == 1 else f"{len(wrong):,} files are"
        raise ConfigError(
            f"{count} no image that can be read: {', '.join(wrong[:_SHOWN])}{', ...' * (len(wrong) > _SHOWN)}. "
            "Put them right, or remove them."
        )


def files_by_stem(root: Path, suffix: str) -> dict[str, Path]:
    """Files with a suffix below `root`, in upper or lower case, by their path in it without the suffix.

    Args:
        root: a folder.
        suffix: in lower case, such as ".txt".
    """
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(files, key=lambda name: (not name.endswith(suffix), name)):  # a.txt before a.TXT
            path = Path(folder, name)
            if name[0] != "." and path.suffix.lower() == suffix:
                found.setdefault(path.relative_to(root).with_suffix("").as_posix(), path)
    return found


def unique_keys(root: PurePath, paths: Sequence[PurePath]) -> tuple[str, ...]:
    """A key each: the path without its suffix, dots in the name replaced; numbered where two would be the same.

    Bytes of a name that are not UTF-8 are taken for Latin-1, since a shard's names are UTF-8.
    """
    taken: set[str] = set()
    keys: list[str] = []
    for path in paths:
        relative = path.relative_to(root).with_suffix("")
        plain = utf8(relative.with_name(relative.name.replace(".", "_")).as_posix())
        key, number = plain, 2
        while key in taken:
            key, number = f"{plain}_{number}", number + 1
        taken.add(key)
        keys.append(key)
    return tuple(keys)


def check_keys(keys: Iterable[str]) -> None:
    """Refuse keys that would be read back from a shard as others, before any is written.

    Raises:
        ConfigError: there is one.
    """
    wrong = next((key for key in keys if not is_key(key)), None)
    if wrong is not None:
        raise ConfigError(
            f"{wrong!r} cannot be a key of a shard: it has '..' in it, or its first folder is in double underscores, "
            "which marks metadata. Rename the file or folder."
        )


def utf8(name: str) -> str:
    """A file's name with bytes that are not UTF-8 taken for Latin-1."""
    return name.translate(_LATIN_1)


_LATIN_1 = {0xDC00 + byte: byte for byte in range(0x80, 0x100)}  # from how Python holds such bytes


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = os.stat(folder)  # noqa: PTH116
    except OSError as error:
        _unlistable(error)
        raise
    return found.st_dev, found.st_ino


def _unlistable(error: OSError) -> None:
    raise ShardError(
        f"the folder cannot be listed: {error.strerror or error}. Make it readable, or leave it out.",
        shard=str(error.filename),
    ) from error


def _why_unreadable(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"a link to nothing, {path.readlink()}" if path.is_symlink() else str(error.strerror or error)
    if stat.S_ISREG(mode):
        return "" if os.access(path, os.R_OK) else "it may not be read"
    return "a FIFO" if stat.S_ISFIFO(mode) else "no regular file"
