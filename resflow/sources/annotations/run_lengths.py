"""COCO's compressed run lengths as numbers: read before they reach C code that believes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


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


def run_lengths_box(mask: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The box around a mask of run lengths, as pycocotools' `toBbox` has it.

    Args:
        mask: "size", height and width, and "counts", compressed (text or bytes) or a list of numbers.

    Returns:
        Left, top, width and height in pixels; all 0 of an empty mask.

    Raises:
        ValueError: no such mask, or runs that do not fill its size.
    """
    height, width = (int(side) for side in mask["size"])
    counts = mask["counts"]
    if isinstance(counts, str | bytes):
        counts = compressed_counts(counts if isinstance(counts, str) else counts.decode("ascii"))
    ends = np.cumsum(np.asarray(counts, np.int64))
    if len(ends) == 0 or ends[-1] != height * width or np.asarray(counts).min() < 0:
        raise ValueError(f"its run lengths do not fill {height}x{width} (HxW)")
    first, last = ends[0:-1:2], ends[1::2] - 1  # of each run of ones
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        return 0.0, 0.0, 0.0, 0.0
    left, right = int(first.min()) // height, int(last.max()) // height
    if (first // height != last // height).any():  # a run that goes on into the next column has its top and its bottom
        top, bottom = 0, height - 1
    else:
        top, bottom = int((first % height).min()), int((last % height).max())
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)
