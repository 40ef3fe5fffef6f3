"""The index of tiers: where each image lies at smaller sizes, in one file beside the index of the originals.

Tier T of `shards/train-000000.tar` is `shards/tier-T/train-000000.tar`: a plain WebDataset shard that holds, under the
same keys and in the same order, the images whose short side is longer than T, at that short side, upright, as JPEG.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from resflow.checks import whole
from resflow.errors import ConfigError, IndexFileError
from resflow.sources.arrow_file import write_arrow
from resflow.sources.index_file import ShardIndex
from resflow.sources.paths import shell_words

VERSION = 1
MAX_SIDE = 4096
ABSENT = -1
"""Offset of a sample that a tier has no entry for."""
_META = b"resflow-tiers"


@dataclass(frozen=True, slots=True, eq=False)
class Tiers:
    """Where K tiers hold N samples.

    Args:
        sides: short side of each tier's images in pixels, ascending.
        offset: int64 [N] each, first byte of a sample's entry in the tier's shard; ABSENT where there is none.
        length: int32 [N] each, bytes of the entry, its header included.
        shards: paths of each tier's shards, one for each shard of the originals, in their order.
        shard_sizes: bytes of these.
        fingerprint: hash of all this.
        path: the file this was opened from; None where it was put together from several.
    """

    sides: tuple[int, ...]
    offset: tuple[npt.NDArray[np.int64], ...]
    length: tuple[npt.NDArray[np.int32], ...]
    shards: tuple[tuple[Path, ...], ...]
    shard_sizes: tuple[tuple[int, ...], ...]
    fingerprint: str
    path: Path | None

    def present(self, sample_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """bool [K, B]: whether each tier has an entry for each of these samples."""
        return np.stack([offset[sample_ids] != ABSENT for offset in self.offset])

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return Tiers, tuple(getattr(self, name) for name in self.__slots__)
        return _reopen, (self.path, self.fingerprint)


def tiers_path(index: Path) -> Path:
    """Where the tiers' index lies, beside that of the originals."""
    return index.with_name(f"{index.name.removesuffix('.index.arrow')}.tiers.arrow")


def tier_shard(shard: Path, side: int) -> Path:
    """Where a tier of a shard lies."""
    return shard.parent / f"tier-{side}" / shard.name


def check_sides(sides: Sequence[int]) -> tuple[int, ...]:
    """Short sides of tiers, ascending.

    Args:
        sides: in pixels.

    Raises:
        ConfigError: none, one named twice, or one that is not a whole number in 8..4096.
    """
    numbers = [number for side in sides if (number := whole(side, 8, MAX_SIDE)) is not None]
    if not len(sides) or len(set(numbers)) != len(sides):
        raise ConfigError(
            f"tiers must be different whole numbers of pixels from 8 to {MAX_SIDE}, the short side of their images; "
            f"got {sides!r}, expected e.g. 96,160,256"
        )
    return tuple(sorted(numbers))


def write_tiers(
    index: ShardIndex,
    sides: tuple[int, ...],
    offset: Sequence[npt.NDArray[np.int64]],
    length: Sequence[npt.NDArray[np.int32]],
) -> Tiers:
    """Write the tiers' index beside that of the originals; whoever opens it meanwhile sees the old or the new one.

    Args:
        index: of the originals, opened from a file.
        sides: of the K tiers.
        offset: int64 [N] each, ABSENT where a tier has no entry.
        length: int32 [N] each.

    Returns:
        The tiers, mapped from the file.

    Raises:
        IndexFileError: the index has no file, or the tiers' cannot be written.
    """
    if index.path is None:
        raise IndexFileError("tiers need an index in a file. Write it first (resflow index).", shard="index in memory")
    path = tiers_path(index.path)
    shards = [[tier_shard(shard, side) for shard in index.shards] for side in sides]
    digest = hashlib.sha256(json.dumps([VERSION, index.fingerprint, sides]).encode())
    for column in (*offset, *length):
        digest.update(np.ascontiguousarray(column).data)
    meta = {
        "version": VERSION,
        "index": index.fingerprint,
        "fingerprint": digest.hexdigest(),
        "sides": list(sides),
        "shards": [[Path(os.path.relpath(shard, path.parent)).as_posix() for shard in tier] for tier in shards],
        "shard_sizes": [[shard.stat().st_size for shard in tier] for tier in shards],
    }
    names = [f"{name}_{side}" for side in sides for name in ("offset", "length")]
    columns = [pa.array(column) for pair in zip(offset, length, strict=True) for column in pair]
    batch = pa.record_batch(columns, names=names)
    write_arrow(batch.replace_schema_metadata({_META: json.dumps(meta).encode()}), path)
    return _open(path, index, _command(index), check=True)


def _command(index: ShardIndex | None) -> str:
    return f"resflow tiers {shell_words(index.shards) if index is not None else 'SHARDS'}"


def open_tiers(index: ShardIndex, *, command: str = "", check: bool = True) -> Tiers | None:
    """Open the tiers of an index, if it has any, and check that they are its own.

    Args:
        index: of the originals.
        command: what to run to make them again, without its `--tiers`, for error messages; default: of the index.
        check: whether to look at each tier's shards (one stat a shard).

    Returns:
        The tiers, mapped into memory; None where none were made.

    Raises:
        IndexFileError: a tier is missing or stale, or the tiers' index is damaged or of another version.
    """
    if index.parts:
        return _put_together([(open_tiers(part, check=check), part, first, last) for part, first, last in index.parts])
    if index.path is None or not tiers_path(index.path).exists():
        return None
    return _open(tiers_path(index.path), index, command or _command(index), check=check)


def _put_together(parts: Sequence[tuple[Tiers | None, ShardIndex, int, int]]) -> Tiers | None:
    """The tiers that all parts of an index have."""
    whole = [part for part, *_ in parts if part is not None]
    sides = tuple(sorted(set.intersection(*(set(part.sides) for part in whole)))) if len(whole) == len(parts) else ()
    if not sides:
        return None
    offset, length, shards, sizes = [], [], [], []
    for side in sides:
        chosen = [(part, part.sides.index(side), index.rows(a, b), slice(a, b)) for part, index, a, b in parts if part]
        offset.append(np.concatenate([part.offset[tier][rows] for part, tier, rows, _ in chosen]))
        length.append(np.concatenate([part.length[tier][rows] for part, tier, rows, _ in chosen]))
        shards.append(tuple(shard for part, tier, _, run in chosen for shard in part.shards[tier][run]))
        sizes.append(tuple(size for part, tier, _, run in chosen for size in part.shard_sizes[tier][run]))
    known = [(part.fingerprint, first, last) for part, _, first, last in parts if part]
    digest = hashlib.sha256(json.dumps([VERSION, sides, known]).encode()).hexdigest()
    return Tiers(sides, tuple(offset), tuple(length), tuple(shards), tuple(sizes), digest, None)


def _reopen(path: Path, fingerprint: str) -> Tiers:
    tiers = _open(path, None, "", check=False)
    if tiers.fingerprint != fingerprint:
        raise IndexFileError("the tiers were made anew while in use. Start again.", shard=str(path))
    return tiers


def _open(path: Path, index: ShardIndex | None, command: str, *, check: bool) -> Tiers:
    beside = sorted(int(folder.name[5:]) for folder in path.parent.glob("tier-*") if folder.name[5:].isdecimal())
    where, way_out = str(path), f"Run: {command} --tiers {','.join(map(str, beside)) or '96,160,256'}"
    way_out += "; or delete this file to do without tiers"
    try:
        reader = pa.ipc.open_file(pa.memory_map(where))
        meta = json.loads((reader.schema.metadata or {})[_META])
        if meta["version"] != VERSION:
            raise IndexFileError(
                f"the tiers' index is of version {meta['version']}; expected {VERSION}. {way_out}", shard=where
            )
        sides = tuple(int(side) for side in meta["sides"])
        way_out = f"Run: {command} --tiers {','.join(map(str, sides))}; or set Pipeline(tier_quality=None)"
        batch = reader.get_batch(0)
        batch.validate()
        offset = tuple(batch.column(f"offset_{side}").to_numpy(zero_copy_only=True) for side in sides)
        length = tuple(batch.column(f"length_{side}").to_numpy(zero_copy_only=True) for side in sides)
        if any(column.dtype != np.int64 for column in offset) or any(column.dtype != np.int32 for column in length):
            raise ValueError("columns of other types")
        names = [[str(name) for name in tier] for tier in meta["shards"]]
        sizes = tuple(tuple(int(size) for size in tier) for tier in meta["shard_sizes"])
        fingerprint, of = str(meta["fingerprint"]), str(meta["index"])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise IndexFileError(f"the tiers' index is damaged ({error}). {way_out}", shard=where) from error
    shown = ", ".join(map(str, sides))
    if index is not None and of != index.fingerprint:
        raise IndexFileError(
            f"tiers {shown} are stale: they were made of shards with another index than {index.path}. {way_out}",
            shard=where,
        )
    count = len(index) if index is not None else batch.num_rows
    shards = tuple(tuple(Path(os.path.abspath(path.parent / name)) for name in tier) for tier in names)  # noqa: PTH100
    expected = len(shards[0]) if index is None else len(index.shards)
    whole = len(shards) == len(sizes) == len(sides) and all(
        len(tier) == len(size) == expected for tier, size in zip(shards, sizes, strict=True)
    )
    if batch.num_rows != count or not whole:
        raise IndexFileError(f"the tiers' index is damaged (columns of wrong lengths). {way_out}", shard=where)
    if check:
        _check_shards(sides, shards, sizes, where, way_out)
    return Tiers(sides, offset, length, shards, sizes, fingerprint, path.absolute())


def _check_shards(
    sides: tuple[int, ...],
    shards: tuple[tuple[Path, ...], ...],
    sizes: tuple[tuple[int, ...], ...],
    where: str,
    way_out: str,
) -> None:
    for side, tier, expected in zip(sides, shards, sizes, strict=True):
        for shard, size in zip(tier, expected, strict=True):
            try:
                found = shard.stat().st_size
            except OSError as error:
                raise IndexFileError(f"tier {side} is missing: no shard {shard}. {way_out}", shard=where) from error
            if found != size:
                raise IndexFileError(
                    f"tier {side} is stale: shard {shard} has {found} bytes, {size} when it was made. {way_out}",
                    shard=where,
                )
