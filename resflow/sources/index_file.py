"""The index of a dataset of tar shards as a file: written once, mapped into memory to be read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from resflow.errors import IndexFileError
from resflow.plan.index import Index
from resflow.sources.arrow_file import write_arrow
from resflow.sources.groups import Remark, Remarks
from resflow.sources.paths import quoted, shell_words

VERSION = 1
_META = b"resflow"
SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("size", pa.list_(pa.int32(), 2)),
        ("image_offset", pa.int64()),
        ("image_length", pa.int64()),
        ("key", pa.large_string()),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """The index of N samples in tar shards, with what reading them needs.

    Args:
        index: shard, extent and image size of each sample.
        keys: Arrow large_string [N]; mapped, so a key is read from disk when it is asked for.
        image_offset: int64 [N], first byte of the image, from the start of the sample's extent.
        image_length: int64 [N], bytes of the image.
        shards: path of each shard.
        shard_sizes: bytes of each shard.
        path: the file this was opened from, if any.
        digests: of each shard (`index_build.digest_of`), by which it is known again when renamed; none in old files.
        parts: the indexes this was put together from, each with its first shard and the one after its last.
        noticed: what was noticed about each shard's members (`groups.Remarks.plain`), by the shard's number.
    """

    index: Index
    keys: Any
    image_offset: npt.NDArray[np.int64]
    image_length: npt.NDArray[np.int64]
    shards: tuple[Path, ...]
    shard_sizes: tuple[int, ...]
    path: Path | None = None
    digests: tuple[str, ...] = ()
    parts: tuple[tuple[ShardIndex, int, int], ...] = ()
    noticed: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def fingerprint(self) -> str:
        """Hash of the columns, the keys, and the shards' sizes; their names and places do not matter."""
        return self.index.fingerprint

    @property
    def remarks(self) -> dict[str, Remark]:
        """What was noticed about the members of all shards, by kind."""
        told = Remarks.of_plain({}, len(self))
        for noticed in self.noticed.values():
            told.add(Remarks.of_plain(noticed, 0))
        return told.found()

    def rows(self, first: int, last: int) -> slice:
        """The samples of the shards from number `first` to before number `last`."""
        return slice(*np.searchsorted(self.index.shard, [first, last]).tolist())

    def name(self, sample_id: int) -> tuple[str, str]:
        """Shard and key of one sample; IndexFileError where the file's bytes are damaged."""
        return self.names(np.array([sample_id]))[0]

    def names(self, sample_ids: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
        """Shard and key of each sample; IndexFileError where the file's bytes are damaged."""
        # Arrow trusts its offsets and ends the process where they are damaged, so they are checked here.
        _, offset_bytes, text = self.keys.buffers()
        offsets, view = np.frombuffer(offset_bytes, np.int64)[self.keys.offset :], memoryview(text)
        columns = self.index.shard[sample_ids], offsets[sample_ids], offsets[sample_ids + 1]
        found = []
        for place, (shard, start, end) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            try:
                if not 0 <= shard < len(self.shards) or not 0 <= start <= end <= len(view):
                    raise self.damaged(int(sample_ids[place]))
                found.append((str(self.shards[shard]), str(view[start:end], "utf-8")))
            except UnicodeDecodeError as error:
                raise self.damaged(int(sample_ids[place])) from error
        return found

    def damaged(self, sample_id: int) -> IndexFileError:
        """The error that says that a sample's row cannot be true."""
        return IndexFileError(
            f"the index is damaged: the row of sample {sample_id} points outside its shard, or has no readable key. "
            f"Run: resflow index {shell_words(self.shards)}",
            shard=str(self.path or "index in memory"),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is not None:
            return _reopen, (self.path, self.fingerprint, self.shards)
        return ShardIndex, tuple(getattr(self, name) for name in self.__slots__)


def from_columns(
    arrays: dict[str, npt.NDArray[Any]], keys: Any, paths: Sequence[Path], sizes: Sequence[int], **others: Any
) -> ShardIndex:
    """An index in memory, with the fingerprint of its columns.

    Args:
        arrays: a column by each name but the keys', in the order of the file.
        keys: Arrow large_string [N].
        paths: of the shards.
        sizes: bytes of the shards.
        others: further fields.
    """
    digest = _fingerprint(list(arrays.values()), keys, sizes)
    plain = dict(arrays)
    image_offset, image_length = plain.pop("image_offset"), plain.pop("image_length")
    index = Index(**plain, fingerprint=digest)
    return ShardIndex(index, keys, image_offset, image_length, tuple(paths), tuple(sizes), **others)


def write_index(index: ShardIndex, path: Path) -> ShardIndex:
    """Write an index file; whoever opens `path` meanwhile sees the old file or the new one, whole.

    Args:
        index: what to write.
        path: where; shards are named relative to its folder.

    Returns:
        The same index, mapped from the file.

    Raises:
        IndexFileError: the file cannot be written.
    """
    folder = path.parent
    meta = {
        "version": VERSION,
        "fingerprint": index.fingerprint,
        "shards": [Path(os.path.relpath(shard, folder)).as_posix() for shard in index.shards],
        "shard_sizes": list(index.shard_sizes),
        "shard_digests": list(index.digests),
        "noticed": index.noticed,
    }
    plain = index.index
    size = pa.FixedSizeListArray.from_arrays(pa.array(plain.size.reshape(-1)), 2)
    columns = [
        plain.shard,
        plain.offset,
        plain.length,
        size,
        index.image_offset,
        index.image_length,
        index.keys,
    ]
    schema = SCHEMA.with_metadata({_META: json.dumps(meta).encode()})
    write_arrow(pa.record_batch([c if isinstance(c, pa.Array) else pa.array(c) for c in columns], schema=schema), path)
    return open_index_file(path)


def listed_shards(path: Path) -> tuple[list[str], list[int], list[str]]:
    """The shards of an index file: absolute paths, bytes, and digests if it has them; IndexFileError where damaged."""
    try:
        meta = _meta(pa.ipc.open_file(pa.memory_map(str(path))))
        names = _absolute(path, meta)
        sizes, digests = [int(size) for size in meta["shard_sizes"]], list(map(str, meta.get("shard_digests", ())))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise IndexFileError(f"the index is damaged ({error})", shard=str(path)) from error
    if meta["version"] != VERSION or len(sizes) != len(names):
        raise IndexFileError("the index is damaged, or of another version", shard=str(path))
    return names, sizes, digests


def open_index_file(
    path: Path, *, command: str = "", check: bool = True, shards: tuple[Path, ...] | None = None
) -> ShardIndex:
    """Map an index file into memory.

    Args:
        path: the file.
        command: what to run to write it again, for error messages; default: index all shards of its folder.
        check: whether to look at each shard's size (one stat a shard).
        shards: where the shards lie now, if they were renamed.

    Returns:
        The index.

    Raises:
        IndexFileError: the file is missing, stale, damaged or of another version.
    """
    where = str(path)
    command = command or f"resflow index {quoted(path.parent)}"
    try:
        reader = pa.ipc.open_file(pa.memory_map(where))
        meta = _meta(reader)
        version = meta["version"]
        if version != VERSION:
            raise IndexFileError(f"the index is of version {version}; expected {VERSION}. Run: {command}", shard=where)
        if not reader.schema.equals(SCHEMA) or reader.num_record_batches != 1:
            raise IndexFileError(f"the index has other columns than expected. Run: {command}", shard=where)
        batch = reader.get_batch(0)
        batch.validate()
        # Absolute, so that a process may change its folder; links stay as they are.
        named = shards or tuple(map(Path, _absolute(path, meta)))
        digests = tuple(map(str, meta.get("shard_digests", ())))
        sizes = tuple(int(size) for size in meta["shard_sizes"])
        noticed = {int(number): told for number, told in dict(meta.get("noticed", {})).items()}
        for told in noticed.values():
            Remarks.of_plain(told, 0)  # refuses what it cannot read
        column = dict(zip(SCHEMA.names, batch.columns, strict=True))
        array = {
            name: column[name].to_numpy(zero_copy_only=True)
            for name in ("shard", "offset", "length", "image_offset", "image_length")
        }
        image_offset, image_length = array.pop("image_offset"), array.pop("image_length")
        # By `values`, since `flatten` loads Arrow's functions, which takes longer than all else here.
        size = column["size"].values.to_numpy(zero_copy_only=True).reshape(batch.num_rows, 2)
        index = Index(**array, size=size, fingerprint=str(meta["fingerprint"]))
    except FileNotFoundError as error:
        raise IndexFileError(f"there is no index here. Run: {command}", shard=where) from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise IndexFileError(f"the index is damaged ({error}). Run: {command}", shard=where) from error
    if check:
        _check_shards(named, sizes, where, command)
    others: dict[str, Any] = {"path": path.absolute(), "digests": digests, "noticed": noticed}
    return ShardIndex(index, column["key"], image_offset, image_length, named, sizes, **others)


def _meta(reader: Any) -> dict[str, Any]:
    return dict(json.loads((reader.schema.metadata or {})[_META]))


def _absolute(path: Path, meta: dict[str, Any]) -> list[str]:
    """The shards of an index file, which names them from its folder."""
    names = [str(name) for name in meta["shards"]]
    if any(b"\0" in os.fsencode(name) for name in names):
        raise ValueError("a shard's name has a NUL in it")
    return [os.path.abspath(path.parent / name) for name in names]  # noqa: PTH100


def _check_shards(shards: tuple[Path, ...], sizes: tuple[int, ...], where: str, command: str) -> None:
    if len(shards) != len(sizes):
        raise IndexFileError(
            f"the index is damaged ({len(shards)} shards, {len(sizes)} sizes). Run: {command}", shard=where
        )
    for shard, size in zip(shards, sizes, strict=True):
        try:
            found = shard.stat().st_size
        except OSError as error:
            raise IndexFileError(
                f"the index is stale: shard {shard} is missing. Put it back, or run: {command}", shard=where
            ) from error
        if found != size:
            raise IndexFileError(
                f"the index is stale: shard {shard} has {found} bytes, {size} when it was indexed. Run: {command}",
                shard=where,
            )


def _reopen(path: Path, fingerprint: str, shards: tuple[Path, ...]) -> ShardIndex:
    index = open_index_file(path, check=False, shards=shards)
    if index.fingerprint != fingerprint:
        raise IndexFileError("the index was written anew while in use. Start again.", shard=str(path))
    return index


def _fingerprint(arrays: list[npt.NDArray[Any]], keys: Any, sizes: Sequence[int]) -> str:
    """sha256 over the columns, the keys, and the shards' sizes."""
    digest = hashlib.sha256(json.dumps([VERSION, list(sizes)]).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    _, offsets, text = keys.buffers()
    digest.update(np.frombuffer(offsets, np.int64)[: len(keys) + 1].data)
    digest.update(text or b"")
    return digest.hexdigest()
