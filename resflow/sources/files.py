"""Files that hold an image each: their bytes, their headers, their folder."""

from __future__ import annotations

import os

from resflow.errors import ShardError
from resflow.headers import HeaderTruncatedError, ImageHeader, read_header

_FIRST = 4 * 1024  # bytes of a file that are tried first


def read_file(path: str) -> bytes:
    """All bytes of a file; ShardError where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (a path object a file costs time)
            return file.read()
    except OSError as error:
        raise ShardError(f"the image cannot be read: {error.strerror}. Put the file back.", shard=path) from error


def file_header(path: str) -> ImageHeader:
    """The header of a file's image, from its first bytes.

    Args:
        path: a file in a format that `resflow.headers` reads.

    Returns:
        The header.

    Raises:
        HeaderError: it cannot be read.
        ShardError: the file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            return _header(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ShardError(f"the image cannot be read: {error.strerror}. Put the file back.", shard=path) from error


def read_files_ahead(paths: list[str]) -> None:
    """Ask the system to read files into its cache; returns at once, does nothing where that is not offered."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # the read that follows says what is wrong
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def common_folder(paths: list[str]) -> str:
    """The deepest folder that holds all of these, with its final slash; "" if there is none."""
    prefix = os.path.commonprefix([min(paths), max(paths)])  # noqa: RUF071 (cut at a folder in the next line)
    return prefix[: prefix.rfind(os.sep) + 1]


def _header(descriptor: int) -> ImageHeader:
    count = _FIRST
    while True:
        data = os.pread(descriptor, count, 0)
        try:
            return read_header(data)
        except HeaderTruncatedError as error:
            if len(data) < count:
                raise
            count = max(error.needed, 2 * count)
