"""Edits of values rather than of bytes: what is decoded fine, and then is of the wrong type, size or sign."""

from __future__ import annotations

import copy
import json
from typing import Any

MARK = b"#"
"""An input that begins so is a script of edits: two bytes that choose a place, one that chooses what is put there."""

_DEEP: Any = []
for _ in range(200):
    _DEEP = [_DEEP]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**30, 10**400,
    "", "x", "1", "1e400", "\ud800", "\0", "../../a", "/dev/zero", [], {}, [[]], [0], [1, 2, 3, 4], [None] * 4,
    ["1"] * 4,
    [1e9] * 6, [1e300] * 6, [[1e9] * 6], [[0, 0, 1, 1]], [[1, 2, 3]] * 3, [float("nan")] * 4, [2**63] * 4, [-1] * 4,
    {"size": [40, 50], "counts": ""}, {"size": [40, 50], "counts": [2000]}, {"size": [40, 50], "counts": [-5, 2005]},
    {"size": [2**31, 2**31], "counts": [0]}, {"size": [40, 50], "counts": "zzzzzzz"}, {"size": "ab", "counts": 3},
    {"size": [40, 50], "counts": [2**63, 1]}, {"size": [0, 0], "counts": []}, _DEEP, {"id": 1}, [{"id": 1}] * 2,
]  # fmt: skip


def edited(value: Any, script: bytes) -> Any:
    """A copy of JSON's values with some of them replaced, left out or repeated.

    Args:
        value: what is edited.
        script: the edits, three bytes each.
    """
    made = [copy.deepcopy(value)]
    for at in range(0, min(len(script), 30) - 2, 3):
        places = list(_places(made))
        holder, key = places[(script[at] << 8 | script[at + 1]) % len(places)]
        choice = script[at + 2] % (len(VALUES) + 2)
        if choice < len(VALUES):
            holder[key] = copy.deepcopy(VALUES[choice])
        elif holder is made:
            continue
        elif choice == len(VALUES):
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[f"{key}2"] = copy.deepcopy(holder[key])
    return made[0]


def as_json(data: bytes, seeds: list[Any]) -> bytes:
    """An input as it is, or the JSON that its script makes of a seed, which its second byte chooses."""
    if data[:1] != MARK or len(data) < 2:
        return data
    return json.dumps(edited(seeds[data[1] % len(seeds)], data[2:])).encode()


def _places(value: Any, depth: int = 0) -> Any:
    """Every list or dict within, with each of its keys."""
    if depth < 12:
        for key in list(range(len(value)) if isinstance(value, list) else value):
            yield value, key
            if isinstance(value[key], list | dict):
                yield from _places(value[key], depth + 1)
