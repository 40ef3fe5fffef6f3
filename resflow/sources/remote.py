"""Samples out of indexed tar shards in a remote store, by range requests.

The index lies beside the shards under the name that `resflow index` gave it, and is downloaded once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, IndexFileError, ShardError
from resflow.sources.index_file import open_index_file
from resflow.sources.paths import Shards, index_path
from resflow.sources.pieces import Run
from resflow.sources.shards import ShardSource
from resflow.sources.stream import remote_failure, remote_files, stream_names
from resflow.sources.tiers import Tiers, open_tiers, tiers_path


def find_index(shards: Shards) -> RemoteShardSource | None:
    """The source of shards at a URL, if their index lies beside them.

    Args:
        shards: a URL with braces, or a sequence of URLs.

    Returns:
        The source, or None where there is no index.

    Raises:
        ConfigError: the shards lie in several folders, or a package for the store is missing.
        ShardError: the store cannot be reached.
        IndexFileError: the index is damaged, of another version, or lists other shards.
    """
    patterns = [str(shards)] if isinstance(shards, str | Path) else [str(part) for part in shards]
    folders = {pattern.rpartition("/")[0] for pattern in patterns}
    if len(folders) > 1 or any(character in folder for folder in folders for character in "{*?["):
        raise ConfigError(
            f"shards at URLs must lie in one folder; got {sorted(folders)[:3]}. Make one loader for each."
        )
    [folder] = folders
    local = index_path([pattern.rpartition("/")[2] for pattern in patterns])
    url = f"{folder}/{local.name}"
    files = remote_files(url)
    try:
        content = files.cat_file(url)
    except FileNotFoundError:
        return None
    except remote_failure() as error:
        raise ShardError(
            f"the index cannot be read: {error or type(error).__name__}. Check the address and the connection.",
            shard=url,
        ) from error
    return RemoteShardSource(stream_names(shards), content, url)


class RemoteShardSource(ShardSource):
    """Reads samples of tar shards at URLs by ranges of bytes, those of a batch side by side.

    Args:
        shards: the shards' URLs.
        content: the index file's bytes.
        url: where they come from, for messages.

    Raises:
        IndexFileError: the index is damaged, of another version, or lists other shards.
    """

    def __init__(self, shards: Sequence[str], content: bytes, url: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix="resflow-index-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        path = folder / url.rpartition("/")[2]
        path.write_bytes(content)
        command = "resflow index where the shards lie, and copy the index beside them"
        index = open_index_file(path, command=command, check=False)
        recorded, named = [shard.name for shard in index.shards], [shard.rpartition("/")[2] for shard in shards]
        if recorded != named:
            raise IndexFileError(
                f"the index is stale: it lists {len(recorded)} shards, the pattern names {len(named)}, and the lists "
                f"differ. Run: {command}",
                shard=url,
            )
        self._urls, self._url = tuple(shards), url
        super().__init__(index)

    def name(self, sample_id: int) -> tuple[str, str]:
        """URL of the shard and key of a sample, for messages."""
        return self._urls[int(self.index.shard[sample_id])], super().name(sample_id)[1]

    def read_ahead(self, sample_ids: npt.NDArray[np.int64]) -> None:
        """Nothing: worker processes are what reads ahead."""

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_urls": self._urls, "_url": self._url}

    def _ask_ahead(self, runs: Sequence[Run]) -> None:
        """Nothing, as above."""

    def _find_tiers(self) -> Tiers | None:
        path = self.shard_index.path
        if path is None:
            return None
        folder = self._url.rpartition("/")[0]
        url = f"{folder}/{tiers_path(path).name}"
        try:
            tiers_path(path).write_bytes(remote_files(url).cat_file(url))
        except FileNotFoundError:
            return None
        except remote_failure() as error:
            raise ShardError(
                f"the tiers' index cannot be read: {error or type(error).__name__}. Check the address and the "
                "connection.",
                shard=url,
            ) from error
        try:
            tiers = open_tiers(self.shard_index, command=self._command, check=False)
        except IndexFileError as error:
            raise IndexFileError(error.message, shard=url) from error
        if tiers is not None:
            names = [shard.relative_to(path.parent).as_posix() for tier in tiers.shards for shard in tier]
            self._urls += tuple(f"{folder}/{name}" for name in names)
        return tiers

    def _reset(self) -> None:
        super()._reset()
        self._files: Any = None

    def _fetch(self, runs: Sequence[Run]) -> Iterator[bytes]:
        if self._process != os.getpid():
            self._reset()
        if self._files is None:
            self._files = remote_files(self._urls[0])
        wanted = [self._urls[run.shard] for run in runs]
        found = self._files.cat_ranges(
            wanted, [run.start for run in runs], [run.end for run in runs], on_error="return"
        )
        for run, url, data in zip(runs, wanted, found, strict=True):
            if isinstance(data, Exception):
                if not isinstance(data, remote_failure()):
                    raise data
                raise ShardError(
                    f"cannot be read: {data or type(data).__name__}. Check the address and the connection.",
                    shard=url,
                    offset=run.start,
                ) from data
            if len(data) != run.end - run.start:
                raise ShardError(
                    f"{run.end - run.start} bytes were asked for, {len(data)} came: the shard changed after it was "
                    "indexed, or the server does not serve ranges. Index it again, or stream it without its index.",
                    shard=url,
                    offset=run.start,
                )
            yield data


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
