"""Which shards are named: by a pattern, a list, commas or their folder; and how a message names them."""

from __future__ import annotations

import glob
import os
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import braceexpand

from resflow.errors import ConfigError, ShardError

Shards: TypeAlias = str | Path | Sequence[str | Path]
"""A pattern ("shards/train-{0000..0146}.tar", "shards/*.tar"), a path, their folder, or a sequence of them."""

_URL = re.compile(r"^([a-z][a-z0-9+.-]+://|pipe:)", re.IGNORECASE)
_MAGIC = re.compile(r"[*?\[\]{},]")
_EXAMPLE = "expected a pattern such as 'shards/train-{0000..0003}.tar', or their folder"
_BESIDE = re.compile(r"(\.arrow|^classes\.txt|^categories\.json|^tier-\d+)$")  # what Resflow itself puts beside shards


def shard_paths(shards: Shards) -> list[Path]:
    """Expand folders, commas, braces and globs into the paths of the shards.

    Args:
        shards: a str is a path that exists, else a pattern; a Path is taken as it is. A folder stands for the tars in
            it, in the order of their names.

    Returns:
        Paths, in the order of the braces and of the sequence; those of one glob or folder are sorted. Indexes, tiers
        and lists of classes that lie beside shards are left out.

    Raises:
        ConfigError: nothing matches, a shard is named twice, braces do not close, a name is a URL, or a folder has no
            tars.
    """
    named = [path for part in _parts(shards) for path in expanded(part)]
    kept = [path for path in named if not _BESIDE.search(path.name)] or named
    paths = [path for part in kept for path in (_in_folder(part) if part.is_dir() else [part])]
    if not paths:
        raise ConfigError(f"no shards were named; {_EXAMPLE}.")
    first: set[str] = set()
    for path in paths:
        absolute = os.path.abspath(path)  # noqa: PTH100 (links stay as they are)
        if absolute in first:
            raise ConfigError(f"shard {path} is named twice, so its samples would be. Name it once.")
        first.add(absolute)
    return paths


def shard_sizes(paths: Sequence[Path]) -> list[int]:
    """Bytes of each shard.

    Raises:
        ShardError: shards are missing or cannot be looked at; the first of them is named, and how many there are.
    """
    sizes, missing = list[int](), list[Path]()
    for path in paths:
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            missing.append(path)
        except OSError as error:
            raise ShardError(f"the shard cannot be read: {error.strerror}. Check the path.", shard=str(path)) from error
        else:
            if not stat.S_ISREG(found.st_mode):  # a pipe would wait for a writer
                raise ShardError("this is no regular file. Name a tar, or read it with ShardStream.", shard=str(path))
            sizes.append(found.st_size)
    if missing:
        others = "" if len(missing) == 1 else f", and {len(missing) - 1:,} more"
        raise ShardError(
            f"the shard is missing{others}: {len(missing):,} of {len(paths):,}. Put back what is missing, or name the "
            "shards that are there.",
            shard=str(missing[0]),
        )
    return sizes


def shell_words(shards: Shards) -> str:
    """The shards as a command line takes them: what a message proposes with it runs as printed.

    Args:
        shards: as they were named; several names are drawn together to a folder or to braces.
    """
    names = [str(part) for part in _parts(shards)]
    if len(names) > 1:
        names = _together(names)
    return " ".join(quoted(f"./{name}" if name.startswith("-") else name) for name in names)


def quoted(text: object) -> str:
    """A text as one word of a shell's line; in double quotes, unless these are not enough."""
    return shlex.quote(str(text)) if re.search(r'[$`"\\!]', str(text)) else f'"{text}"'


def is_pattern(text: str) -> bool:
    """Whether a text names files by a pattern, a list or a URL rather than as one path."""
    return bool(_MAGIC.search(text) or _URL.match(text) or "::" in text)


def split_outside_braces(text: str) -> list[str]:
    """The parts of a text between commas, or WebDataset's "::", that stand outside braces."""
    parts, depth = [""], 0
    for token in re.split(r"([{},]|::)", text):
        depth += (token == "{") - (token == "}")
        if token in (",", "::") and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part for part in parts if part] if len(parts) > 1 else [text]


def _parts(shards: Shards) -> list[str | Path]:
    parts = [shards] if isinstance(shards, str | Path) else list(shards)
    if any(part == "" for part in parts):
        raise ConfigError(f"a shard pattern is empty; {_EXAMPLE}.")
    return parts


def expanded(part: str | Path) -> Iterator[Path]:
    """The paths that a name stands for: itself where it exists, else its commas, braces and globs expanded.

    Raises:
        ConfigError: nothing matches, braces do not close, or a name is a URL.
    """
    if isinstance(part, Path) or os.path.exists(part):  # noqa: PTH110 (a name may be too long to be a path)
        yield Path(part)
        return
    for pattern in split_outside_braces(part):
        if _URL.match(pattern):
            raise ConfigError(f"shards must be local files; got {pattern!r}. Copy them to a local disk first.")
        try:
            names = list(braceexpand.braceexpand(pattern, escape=False))
        except ValueError as error:
            raise ConfigError(f"braces do not close in the shard pattern {pattern!r}: {error}. Close them.") from error
        for name in names:
            if not glob.has_magic(name) or os.path.exists(name):  # noqa: PTH110
                yield Path(name)
                continue
            found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (a pattern may be absolute)
            if not found:
                raise ConfigError(f"no file matches the pattern {name!r}. Check the folder and the pattern.")
            yield from map(Path, found)


def _in_folder(folder: Path) -> list[Path]:
    """The tars in a folder, by name."""
    tars = sorted(folder.glob("[!.]*.tar"))
    if not tars:
        below = sorted({f"{path.parent.name}/" for path in folder.glob("[!.]*/[!.]*.tar")})
        way_out = f"Name one of its folders that have some: {', '.join(below[:5])}" if below else "Check the path"
        raise ConfigError(f"folder {folder} holds no shards; expected files named *.tar. {way_out}.")
    return tars


def _together(names: list[str]) -> list[str]:
    """Many names as their folder, if they are all it holds, or as one pattern; as they are where that cannot be."""
    paths = [Path(name) for name in names]
    folder = paths[0].parent
    if any(map(_MAGIC.search, names)) or any((path.parent, path.suffix) != (folder, ".tar") for path in paths):
        return names
    if sorted(folder.glob("[!.]*.tar")) == paths:
        return [str(folder)]
    parts = [re.fullmatch(r"(.*?)([0-9]*)", path.stem) for path in paths]
    (start, first), (_, last) = (part.groups() if part else ("", "") for part in (parts[0], parts[-1]))
    if first and [path.stem for path in paths] == [
        f"{start}{number:0{len(first)}}" for number in range(int(first), int(first) + len(paths))
    ]:
        return [str(folder / f"{start}{{{first}..{last}}}.tar")]
    return [str(folder / f"{{{','.join(path.stem for path in paths)}}}.tar")]
