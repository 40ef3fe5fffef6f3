"""Image files in folders, and a key for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from resflow.errors import ConfigError
from resflow.sources.groups import IMAGE_EXTENSIONS


def existing_folder(folder: str | Path) -> Path:
    """The folder as a path.

    Raises:
        ConfigError: it is missing, or not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder; expected one with images. Check the path.")
    return root


def image_files(root: Path) -> list[Path]:
    """Image files below `root`, sorted by folder, then name; hidden ones left out."""
    found: list[Path] = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(files):
            path = Path(folder, name)
            if name[0] != "." and path.suffix[1:].lower() in IMAGE_EXTENSIONS:
                found.append(path)
    return found


def unique_keys(root: PurePath, paths: Sequence[PurePath]) -> tuple[str, ...]:
    """A key each: the path without its suffix, dots in the name replaced; numbered where two would be the same."""
    taken: set[str] = set()
    keys: list[str] = []
    for path in paths:
        relative = path.relative_to(root).with_suffix("")
        plain = relative.with_name(relative.name.replace(".", "_")).as_posix()
        key, number = plain, 2
        while key in taken:
            key, number = f"{plain}_{number}", number + 1
        taken.add(key)
        keys.append(key)
    return tuple(keys)
