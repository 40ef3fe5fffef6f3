"""Which shards a pattern names, and where their index lies."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import braceexpand

from resflow.errors import ConfigError

Shards: TypeAlias = str | Path | Sequence[str | Path]
"""A pattern ("shards/train-{0000..0146}.tar", "shards/*.tar"), a path, or a sequence of them."""

_MAGIC = re.compile(r"[*?\[{]")
_URL = re.compile(r"^([a-z][a-z0-9+.-]+://|pipe:)", re.IGNORECASE)


def shard_paths(shards: Shards) -> list[Path]:
    """Expand braces, then globs, into the paths of the shards.

    Args:
        shards: a str is a pattern; a Path is taken as it is.

    Returns:
        Paths, in the order of the braces and of the sequence; those of one glob are sorted.

    Raises:
        ConfigError: nothing matches, a shard is named twice, braces do not close, or a name is a URL or a folder.
    """
    paths: list[Path] = []
    for part in _parts(shards):
        if isinstance(part, Path):
            paths.append(part)
            continue
        if _URL.match(part):
            raise ConfigError(f"shards must be local files; got {part!r}. Copy them to a local disk first.")
        try:
            names = list(braceexpand.braceexpand(part, escape=False))
        except ValueError as error:
            raise ConfigError(f"braces do not close in the shard pattern {part!r}: {error}. Close them.") from error
        for name in names:
            if not glob.has_magic(name) or Path(name).exists():
                paths.append(Path(name))
                continue
            found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (a pattern may be absolute)
            if not found:
                raise ConfigError(f"no file matches the shard pattern {name!r}. Check the folder and the pattern.")
            paths.extend(map(Path, found))
    if not paths:
        raise ConfigError("no shards were named; expected a pattern such as 'shards/train-{0000..0003}.tar'.")
    first: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"shard {path} is a folder; expected tar files. Name them, e.g. '{path}/*.tar'.")
        absolute = os.path.abspath(path)  # noqa: PTH100 (links stay as they are)
        if absolute in first:
            raise ConfigError(f"shard {path} is named twice, so its samples would be. Name it once.")
        first[absolute] = path
    return paths


def index_path(shards: Shards) -> Path:
    """Where the index of these shards lies; a function of the pattern alone.

    Args:
        shards: what `shard_paths` takes.

    Returns:
        A path in the deepest folder that holds all shards by their names: the names' letters and digits, a hash of
        the names within the folder, and `.index.arrow`.

    Raises:
        ConfigError: no shards were named.
    """
    names = [str(part) for part in _parts(shards)]
    if not names:
        raise ConfigError("no shards were named; expected a pattern such as 'shards/train-{0000..0003}.tar'.")
    if any(map(os.path.isabs, names)):
        names = [os.path.abspath(name) for name in names]  # noqa: PTH100
    fixed = [Path(_MAGIC.split(os.path.normpath(name))[0] + "_").parent for name in names]
    folder = os.path.commonpath(fixed)
    within = [os.path.relpath(name, folder) for name in names]
    label = re.sub(r"[^A-Za-z0-9.]+", "-", re.sub(r"\.tar$", "", within[0])).strip("-.")[:80] or "shards"
    digest = hashlib.sha256("\0".join(within).encode(errors="surrogateescape")).hexdigest()[:8]
    return Path(folder) / f"{label}.{digest}.index.arrow"


def pattern_text(shards: Shards) -> str:
    """The shards as one would write them on a command line, shortened if they are many."""
    names = [f'"{part}"' for part in _parts(shards)]
    return " ".join(names if len(names) <= 3 else [*names[:2], "..."])


def _parts(shards: Shards) -> list[str | Path]:
    parts = [shards] if isinstance(shards, str | Path) else list(shards)
    if any(part == "" for part in parts):
        raise ConfigError("a shard pattern is empty; expected one such as 'shards/train-{0000..0003}.tar'.")
    return parts
