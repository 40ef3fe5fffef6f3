"""Shards or pieces of them on a local disk, shared by one user's processes on a host; of no more bytes than allowed.

A shard's name there is a hash of its address, size and ETag, and a piece's of its place, too: one that changed is
another file, and neither addresses nor what signs them is on the disk. Files appear by an atomic rename, whole. Locks
(flock, which end with their process) say what is being downloaded and what is in use.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from resflow.errors import ConfigError, ShardError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]
from resflow.storage.addresses import identity, shown
from resflow.storage.transport import Stamp

_PART = ".part"

Piece: TypeAlias = tuple[int, int]
"""First byte of a piece of a shard, and the byte after its last."""


class ShardCache:
    """A folder of whole shards, or of pieces.

    Args:
        folder: on a local disk; the shards lie in `resflow-<user number>` below it, which its user alone may enter.
        max_bytes: most bytes there.

    Raises:
        ConfigError: the folder cannot be made, or others may enter it; the system has no file locks.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if not hasattr(fcntl, "flock"):
            raise ConfigError(
                "a cache of shards needs POSIX file locks (fcntl), which this system does not have. Read without one: "
                "Store(cache=None)."
            )
        self.folder, self.max_bytes = folder / f"resflow-{os.getuid()}", max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
            found = self.folder.lstat()
        except OSError as error:
            raise ConfigError(
                f"the cache folder {self.folder} cannot be made: {error.strerror}. Name one that can be "
                "written, or none: Store(cache=None)."
            ) from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ConfigError(
                f"the cache folder {self.folder} must be a folder of user {os.getuid()} with mode 0700; got user "
                f"{found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}. Others could change its shards: remove it, "
                "or name another folder."
            )

    def open(self, url: str, stamp: Stamp, piece: Piece | None = None) -> int | None:
        """A descriptor of a shard, None where it is not here; it is not evicted until the descriptor is closed.

        Args:
            url: of the shard.
            stamp: its size and ETag.
            piece: of it; None: all.
        """
        size = stamp.size if piece is None else piece[1] - piece[0]
        try:
            descriptor = os.open(self._path(url, stamp, piece), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        kept = False
        try:
            if _lock(descriptor, fcntl.LOCK_SH):
                found = os.fstat(descriptor)
                kept = found.st_nlink > 0 and found.st_size == size  # not evicted since it was opened, and whole
                if kept:
                    os.utime(descriptor)  # when it was last used
        finally:
            if not kept:
                os.close(descriptor)
        return descriptor if kept else None

    def fill(self, url: str, stamp: Stamp, content: Iterable[bytes], piece: Piece | None = None) -> bool:
        """Put a shard here, unless it is here, on its way by another process, or finds no room.

        Args:
            url: of the shard.
            stamp: its size and ETag.
            content: the bytes, one after another; nothing is asked of it where they are not wanted.
            piece: of the shard; None: all.

        Returns:
            Whether the shard is here now.

        Raises:
            ShardError: other than `size` bytes came, or the disk is full or fails.
        """
        path = self._path(url, stamp, piece)
        size = stamp.size if piece is None else piece[1] - piece[0]
        if size is None:
            return False
        try:
            descriptor = self._reserve(path, size)
        except OSError as error:
            raise _disk_failure(error, self.folder, url) from error
        if descriptor is None:
            return path.exists()
        part = path.with_name(path.name + _PART)
        try:
            count = 0
            for data in content:
                count += len(data)
                if count > size:
                    break
                _write(descriptor, data, self.folder, url)
            if count != size:
                raise ShardError(
                    f"{'more than ' if count > size else ''}{min(count, size)} bytes came, {size} "
                    "were announced: the shard changed, or the server is at fault. Try again.",
                    shard=shown(url),
                    offset=(0 if piece is None else piece[0]) + min(count, size),
                )
            try:
                os.fsync(descriptor)  # else a rename may outlive a power cut that the bytes do not
                with self._alone():  # else one that just missed the shard takes its file for a part to begin anew
                    part.replace(path)
            except OSError as error:
                raise _disk_failure(error, self.folder, url) from error
            return True
        finally:
            with self._alone():
                if not _same(descriptor, path):
                    part.unlink(missing_ok=True)
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # for a process that was forked meanwhile and holds a copy, too
                os.close(descriptor)

    def _path(self, url: str, stamp: Stamp, piece: Piece | None = None) -> Path:
        text = "\0".join([identity(url), str(stamp.size), stamp.etag or "", *map(str, piece or ())])
        return self.folder / hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def _reserve(self, path: Path, size: int) -> int | None:
        """A locked, empty file of the size, room for which was made; None where there is none or it is not needed."""
        with self._alone():
            if path.exists():
                return None
            part = path.with_name(path.name + _PART)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if not _lock(descriptor, fcntl.LOCK_EX):
                os.close(descriptor)
                return None
            os.truncate(descriptor, 0)
            if not self._make_room(size):
                part.unlink(missing_ok=True)
                os.close(descriptor)
                return None
            os.truncate(descriptor, size)  # so that others count it
            return descriptor

    def _make_room(self, size: int) -> bool:
        """Evict until `size` bytes more are allowed: what a dead process left first, then the least recently used."""
        if size > self.max_bytes:
            return False
        found = []
        for entry in self.folder.iterdir():
            with suppress(FileNotFoundError):  # a download that failed or got its name just now
                state = entry.stat()
                found.append((not entry.name.endswith(_PART), state.st_mtime_ns, entry, state.st_size))
        found.sort()
        total = sum(entry_size for *_, entry_size in found)
        for whole, _, entry, entry_size in found:
            if whole and total + size <= self.max_bytes:
                break
            if entry.name != "lock" and _evict(entry):
                total -= entry_size
        return total + size <= self.max_bytes

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Among all processes, for the moments in which a file appears, vanishes or gets its name."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _evict(entry: Path) -> bool:
    """Remove a file that no process reads or writes."""
    try:
        descriptor = os.open(entry, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        free = _lock(descriptor, fcntl.LOCK_EX)
        if free:
            entry.unlink()
        return free
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Lock a file if that is possible at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _write(descriptor: int, data: bytes, folder: Path, url: str) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:
            raise _disk_failure(error, folder, url) from error


def _disk_failure(error: OSError, folder: Path, url: str) -> ShardError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    way = "Free some, or lower Store(cache_bytes=...)" if full else "Check the disk, or name another folder"
    return ShardError(
        f"cannot be kept in the cache folder {folder}: {error.strerror}. {way}; Store(cache=None) does without.",
        shard=shown(url),
    )
