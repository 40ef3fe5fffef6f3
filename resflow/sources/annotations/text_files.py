"""Text files that people and tools write: their encodings, and lists of names in them."""

from __future__ import annotations

import codecs
from collections.abc import Container
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


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
    return decoded_text(path.read_bytes()).splitlines()


def _name(line: str, known: Container[str]) -> str:
    part = line
    while part:
        if part in known:
            return part
        part = part[: max(part.rfind(" "), part.rfind("\t"), 0)].rstrip()
    words = line.rsplit(maxsplit=1)
    return words[0] if len(words) == 2 and words[1] in ("-1", "0", "1") else line
