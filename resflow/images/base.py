"""What the parsers of all formats share: their result, their two errors, their bounds."""

from __future__ import annotations

import struct
from typing import TypeAlias

from resflow.errors import HeaderError

Format: TypeAlias = str
"""A file format's name: one of `registry.format_names`."""
Bytes: TypeAlias = bytes | memoryview
Stored: TypeAlias = tuple[int, int, int]
"""Height and width as stored, orientation."""

MAX_STEPS = 1 << 17
"""Segments, chunks or boxes that are gone through in one header; a file of nothing else would take minutes."""
MAX_METADATA = 16 << 20
"""Bytes of EXIF that are joined out of the segments of one JPEG."""

U16 = struct.Struct(">H").unpack_from
U32 = struct.Struct(">I").unpack_from


class HeaderTruncatedError(HeaderError):
    """The bytes end before the header does; `needed` says how many bytes from the start are wanted at least."""

    needed: int = 0


class HeaderExcessError(HeaderError):
    """The header has more parts than are gone through: no reader is asked to."""


def truncated(kind: str, needed: int, got: int) -> HeaderTruncatedError:
    """The error that says how many bytes a header wants."""
    error = HeaderTruncatedError(
        f"{kind} header is cut short: {got} bytes given, at least {needed} needed. "
        "Replace the image if this is all of it."
    )
    error.needed = needed
    return error


def broken(kind: str, what: str) -> HeaderError:
    """The error that says what is wrong with a header."""
    return HeaderError(f"{kind} header is damaged: {what}. Replace the image, or leave it out.")


def endless(kind: str) -> HeaderError:
    """The error for a header of more than MAX_STEPS parts."""
    return excessive(kind, f"more than {MAX_STEPS} segments, chunks or boxes")


def excessive(kind: str, what: str) -> HeaderError:
    """The error for a header of more than is accepted."""
    return HeaderExcessError(f"{kind} header is damaged: it has {what}. Replace the image, or leave it out.")
