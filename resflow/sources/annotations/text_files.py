"""Text files that people and tools write: their encodings, and lists of names in them."""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
from collections.abc import Container
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


_OPEN = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for a writer
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
# Names that files bear whose text is of the larger set: browsers and editors read them so.
_LARGER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
    "ascii": "utf-8",
    "us-ascii": "utf-8",
}


def file_bytes(path: Path) -> bytes:
    """All bytes of a regular file.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read, or is a folder, a device or a pipe, which might never end.
    """
    descriptor = os.open(path, _OPEN)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def file_text(path: Path) -> str:
    """The text of a regular file; errors of `file_bytes` and `decoded_text`."""
    return decoded_text(file_bytes(path))


def decoded_xml(data: bytes) -> str:
    """The text of an XML file, in the encoding that its byte order mark or its declaration tells; else UTF-8.

    Args:
        data: all bytes of a file.

    Raises:
        ValueError: an encoding that is not known, or bytes that are not of it.
    """
    marked = any(data.startswith(mark) for mark, _ in _MARKS)
    if marked or (found := _DECLARED.match(data[:200])) is None:
        return decoded_text(data)
    name = found[1].decode().lower()
    if name.startswith(("utf-16", "utf16", "utf-32", "ucs-")):  # which single bytes, as of this declaration, are not
        return decoded_text(data)
    try:
        return data.decode(_LARGER.get(name, name))
    except LookupError as error:
        raise ValueError(f"it declares the encoding {name!r}, which is not known: save it as UTF-8") from error
    except UnicodeDecodeError as error:
        odd = data[error.start : error.start + 1].hex()
        raise ValueError(
            f"it declares the encoding {name!r}, of which it is not (byte {error.start:,} is {odd}): save it as UTF-8"
        ) from error


def decoded_text(data: bytes) -> str:
    """Text in UTF-8, or in the encoding that its byte order mark tells.

    Args:
        data: all bytes of a file.

    Raises:
        ValueError: another encoding, such as Latin-1, or UTF-16 without a mark.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        odd = data[error.start : error.start + 1].hex()
        raise ValueError(f"it is not text in UTF-8 (byte {error.start:,} is {odd}): save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("it holds NUL, as UTF-16 without a byte order mark does: save it as UTF-8")
    return text


def listed_names(path: Path, known: Container[str]) -> list[str]:
    """Names in a list, one a line, each once.

    What is listed is the longest beginning of a line, cut at spaces, that is known: names may hold spaces, and a second
    column, such as VOC's flag of a class, may follow. Of a line that begins with no known name, a last column of -1, 0
    or 1 is cut off.

    Args:
        path: of the list.
        known: the names that there are.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, as `decoded_text` has it.
    """
    return list(dict.fromkeys(_name(line.strip(), known) for line in _lines(path) if line.strip()))


def _lines(path: Path) -> list[str]:
    return file_text(path).splitlines()


def _name(line: str, known: Container[str]) -> str:
    part = line
    while part:
        if part in known:
            return part
        part = part[: max(part.rfind(" "), part.rfind("\t"), 0)].rstrip()
    words = line.rsplit(maxsplit=1)
    return words[0] if len(words) == 2 and words[1] in ("-1", "0", "1") else line
