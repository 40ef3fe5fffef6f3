"""Which index belongs to shards: found by what the shards hold, however they are named."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from resflow.errors import IndexFileError
from resflow.sources.index_build import digest_of
from resflow.sources.index_file import ShardIndex, from_columns, listed_shards, open_index_file
from resflow.sources.paths import Shards, quoted, shard_paths, shard_sizes, shell_words

_LOG = logging.getLogger("resflow")
SUFFIX = ".index.arrow"
_ROWS = ("offset", "length", "size", "image_offset", "image_length")  # columns of an index file, beside shard and key


def index_path(shards: Shards) -> Path:
    """Where the index of these shards is written: where it lies already, else in the deepest folder that holds them.

    Args:
        shards: what `shard_paths` takes; shards named in braces need not exist.

    Returns:
        A path that depends on the shards' names and their order, not on how these are spelled.

    Raises:
        ConfigError: no shards were named, or none match.
    """
    paths = shard_paths(shards)
    names = _absolute(paths)
    for path in _index_files([_common_folder(paths)]):
        listing = _listing(path)
        if listing is not None and listing.shards == names:
            return path
    folder = _common_folder(paths)
    return folder / index_name([os.path.relpath(path, folder) for path in paths])


def index_name(names: Sequence[str]) -> str:
    """Name of the index file of shards: the first and the last of them, and a hash of all.

    Args:
        names: of the shards, within one folder, in order.
    """
    first, last = (re.sub(r"\.tar$", "", Path(name).as_posix()) for name in (names[0], names[-1]))
    label = first if len(names) == 1 else f"{first}..{last.removeprefix(re.sub(r'[0-9]+$', '', first))}"
    label = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.")[:80] or "shards"
    digest = hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{label}.{digest}{SUFFIX}"


def old_index_name(patterns: Sequence[str]) -> str:
    """Name that an index file had in Resflow 0.1: by the text of the shards' pattern.

    Args:
        patterns: of the shards, within one folder.
    """
    label = re.sub(r"[^A-Za-z0-9.]+", "-", re.sub(r"\.tar$", "", patterns[0])).strip("-.")[:80] or "shards"
    digest = hashlib.sha256("\0".join(patterns).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{label}.{digest}{SUFFIX}"


def cache_folder() -> Path:
    """Where the indexes of shards lie whose own folder cannot be written."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "resflow" / "index"  # noqa: PTH111


def writable_index_path(shards: Shards) -> Path:
    """`index_path`, or a file in the cache folder, which is made, where the shards' folder cannot be written.

    Args:
        shards: what `shard_paths` takes.

    Raises:
        ConfigError: no shards were named, or none match.
        IndexFileError: the cache folder cannot be made either.
    """
    path = index_path(shards)
    effective = os.access in os.supports_effective_ids
    if os.access(path.parent, os.W_OK, effective_ids=effective) or not path.parent.is_dir():
        return path
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IndexFileError(
            f"{path.parent} cannot be written, nor can the cache folder: {error.strerror}. Name another file: "
            f"resflow index {shell_words(shards)} --index FILE",
            shard=str(folder),
        ) from error
    return folder / index_name(_absolute(shard_paths(shards)))


def open_index(shards: Shards, *, index: str | Path | None = None) -> ShardIndex:
    """Open the index of these shards: the file that lists them, or what several files list of them, put together.

    Shards are known by their names and sizes; where they were renamed or lie elsewhere, by what they hold.

    Args:
        shards: pattern, path, folder or sequence: all that was indexed, a part of it, or several that were indexed
            apart.
        index: the file to take; None looks beside the shards, one folder up, and in the cache folder.

    Returns:
        The index; mapped into memory if one file lists just these shards.

    Raises:
        IndexFileError: there is none, or it is stale, damaged or of another version.
        ShardError: shards are missing.
        ConfigError: no shards match.
    """
    paths = shard_paths(shards)
    sizes, names = shard_sizes(paths), _absolute(paths)
    command = f"resflow index {shell_words(shards)}" + ("" if index is None else f" --index {quoted(index)}")
    files = [Path(index)] if index is not None else _index_files(_folders(paths))
    listings = [listing for path in files if (listing := _listing(path)) is not None]
    digest = functools.cache(lambda number: digest_of(paths[number]))
    for listing in listings:
        if listing.shards == names and listing.sizes == sizes:
            return open_index_file(listing.path, command=command)
    for listing in listings:
        if listing.sizes == sizes and listing.digests == [digest(number) for number in range(len(paths))]:
            return open_index_file(listing.path, command=command, shards=tuple(map(Path, names)))
    places = _places(listings, names, sizes, digest)
    found = [place for place in places if place is not None]
    if len(found) == len(places):
        _warn_of_missing({place.listing.path: place.listing for place in found}, names)
        return _put_together(found, paths, sizes, command)
    _refuse_stale(listings, dict(zip(names, sizes, strict=True)), command)
    damaged = [path for path in files if path not in {listing.path for listing in listings}]
    if damaged:
        open_index_file(damaged[0], command=command)  # says what is wrong with it
    if found:
        lacking = [path.name for path, place in zip(paths, places, strict=True) if place is None]
        more = f" and {len(lacking) - 1:,} more" if lacking[1:] else ""
        raise IndexFileError(
            f"the index lists {len(found):,} of these {len(paths):,} shards; it lacks {lacking[0]}{more}. "
            f"Run: {command}",
            shard=str(found[0].listing.path),
        )
    raise IndexFileError(f"there is no index of these shards. Run: {command}", shard=str(index or index_path(shards)))


class _Listing(NamedTuple):
    """The shards that an index file lists."""

    path: Path
    shards: list[str]
    sizes: list[int]
    digests: list[str]


class _Place(NamedTuple):
    """A shard in an index file."""

    listing: _Listing
    number: int


def _listing(path: Path) -> _Listing | None:
    """The shards of an index file; None where it cannot be read."""
    try:
        return _Listing(path, *listed_shards(path))
    except IndexFileError:
        return None


def _index_files(folders: Sequence[Path]) -> list[Path]:
    """Index files in these folders, the newest first."""
    found: dict[Path, float] = {}
    for folder in folders:
        with suppress(OSError):
            found |= {path: path.stat().st_mtime for path in folder.glob(f"[!.]*{SUFFIX}")}
    return sorted(found, key=lambda path: -found[path])


def _folders(paths: Sequence[Path]) -> list[Path]:
    """Where an index may lie that lists these shards or some of them."""
    beside = [_common_folder(paths), *(path.parent for path in paths)]
    above = (Path(os.path.normpath(folder / "..")) for folder in dict.fromkeys(beside))
    return list(dict.fromkeys([*beside, *above, cache_folder()]))


def _common_folder(paths: Sequence[Path]) -> Path:
    folders = [os.path.normpath(path.parent) for path in paths]
    if any(map(os.path.isabs, folders)):
        folders = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100
    return Path(os.path.commonpath(folders))


def _absolute(paths: Sequence[Path]) -> list[str]:
    return [os.path.abspath(path) for path in paths]  # noqa: PTH100 (links stay as they are)


def _places(
    listings: Sequence[_Listing], names: Sequence[str], sizes: Sequence[int], digest: Callable[[int], str]
) -> list[_Place | None]:
    """Where each shard is listed: under its name and size, else under its size and digest."""
    named: dict[tuple[str, int], _Place] = {}
    held: dict[int, dict[str, _Place]] = {}
    for listing in listings:
        for number, (name, size) in enumerate(zip(listing.shards, listing.sizes, strict=True)):
            place = _Place(listing, number)
            named.setdefault((name, size), place)
            if listing.digests:
                held.setdefault(size, {}).setdefault(listing.digests[number], place)
    return [
        named.get((name, size)) or (held[size].get(digest(number)) if size in held else None)
        for number, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]


def _warn_of_missing(listings: Mapping[Path, _Listing], names: Sequence[str]) -> None:
    """Say that a wildcard or a folder gives less than what was indexed because shards are gone."""
    for path, listing in listings.items():
        gone = [shard for shard in listing.shards if shard not in set(names) and not os.path.exists(shard)]  # noqa: PTH110
        if gone:
            more = f" and {len(gone) - 1:,} more" if gone[1:] else ""
            _LOG.warning(
                "%s lists %d shards, of which %s%s %s missing: going on without. Index the rest to hear no more of it.",
                path, len(listing.shards), gone[0], more, "are" if more else "is",
            )  # fmt: skip


def _refuse_stale(listings: Sequence[_Listing], sizes: Mapping[str, int], command: str) -> None:
    for listing in listings:
        for name, size in zip(listing.shards, listing.sizes, strict=True):
            if sizes.get(name, size) != size:
                raise IndexFileError(
                    f"the index is stale: shard {name} has {sizes[name]} bytes, {size} when it was indexed. "
                    f"Run: {command}",
                    shard=str(listing.path),
                )


def _put_together(places: Sequence[_Place], paths: Sequence[Path], sizes: Sequence[int], command: str) -> ShardIndex:
    """One index of what several files list, in the order of the shards."""
    runs: list[tuple[Path, int, int]] = []  # shards that follow each other in a file
    for (path, *_), number in places:
        if runs and runs[-1][0] == path and runs[-1][2] == number:
            runs[-1] = (path, runs[-1][1], number + 1)
        else:
            runs.append((path, number, number + 1))
    opened = {path: open_index_file(path, command=command, check=False) for path, _, _ in runs}
    parts = tuple((opened[path], first, last) for path, first, last in runs)
    columns: dict[str, list[Any]] = {name: [] for name in ("shard", *_ROWS)}
    noticed: dict[int, Mapping[str, Any]] = {}
    keys, before = [], 0
    for whole, first, last in parts:
        rows = whole.rows(first, last)
        columns["shard"].append(whole.index.shard[rows] + np.int32(before - first))
        for name in _ROWS:
            columns[name].append(getattr(whole if name.startswith("image") else whole.index, name)[rows])
        keys.append(whole.keys[rows])
        noticed |= {at - first + before: told for at, told in whole.noticed.items() if first <= at < last}
        before += last - first
    arrays = {name: np.concatenate(found) for name, found in columns.items()}
    return from_columns(arrays, pa.concat_arrays(keys), paths, sizes, parts=parts, noticed=noticed)
