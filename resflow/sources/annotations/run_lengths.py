"""COCO's compressed run lengths as numbers: read before they reach C code that believes them."""

from __future__ import annotations


def compressed_counts(text: str) -> list[int]:
    """The run lengths in a compressed RLE's "counts".

    Args:
        text: characters from "0" to "o", five bits each, as pycocotools writes them.

    Returns:
        Lengths of the runs, in column order, of 0 and 1 in turn.

    Raises:
        ValueError: a character that cannot stand there, or an end within a number.

    Source:
        `rleFrString` in cocoapi's maskApi.c: from the fourth on, each number is the difference to the one before last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("they end within a number")
    return counts
