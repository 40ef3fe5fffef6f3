"""Which keypoints swap places when their image is mirrored: given as pairs or as a permutation, or found by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

KeypointPairs: TypeAlias = tuple[tuple[int, int], ...]
"""Places of keypoints that change names in a mirror: left and right eye, left and right ear, ..."""

_SIDES: tuple[tuple[str, str], ...] = (
    ("left", "right"), ("near", "off"), ("links", "rechts"), ("linke", "rechte"), ("gauche", "droite"),
    ("gauche", "droit"), ("izquierd", "derech"), ("esquerd", "direit"), ("sinistr", "destr"), ("左", "右"),
)  # fmt: skip
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")
_EXPECTED = "expected pairs of places ((1, 2), (3, 4)), or a permutation as YOLO's flip_idx [0, 2, 1, 4, 3]"


def mirrored_pairs(names: Sequence[str]) -> KeypointPairs:
    """Places of keypoints that a mirror swaps, by their names.

    A name is split into words where its spelling shows them: left_eye, LeftEye, "Right Ear", wrist-right. The sides are
    the words left and right (in some other languages, too), or l and r: as a word (L_Eye, eye.L, rAnkle), or before or
    after one (Leye, LASI, wheelFL). Two names make a pair where they differ by nothing but the side.

    Args:
        names: of K keypoints.

    Returns:
        Pairs of places in [0, K), in the order of the first of each.
    """
    words = [_WORDS.findall(str(name)) for name in names]
    keys = ["".join(parts).lower() for parts in words]
    place = {key: number for number, key in enumerate(keys) if keys.count(key) == 1}
    partner: dict[int, int] = {}
    for mirrored in _SPELLINGS:  # the surest spelling first
        for number, parts in enumerate(words):
            if number in partner or keys[number] not in place:
                continue
            found = {place[key] for key in mirrored([part.lower() for part in parts]) if key in place}
            free = found - partner.keys() - {number}
            if len(free) == 1:
                other = free.pop()
                partner[number], partner[other] = other, number
    return as_pairs(partner.items())


def as_pairs(value: Any, count: int | None = None) -> KeypointPairs:
    """Pairs as they are kept: each once, the smaller place first, in order; places that stay are left out.

    Args:
        value: pairs of places, in any order, each given once or both ways; or a permutation of all K places that is its
            own inverse, such as `flip_idx` of ultralytics.
        count: K, where it is known.

    Returns:
        The pairs.

    Raises:
        ValueError: neither of these, a place outside [0, K), or one that stands in two pairs.
    """
    try:
        items = tuple(_frozen(item) for item in (value.tolist() if hasattr(value, "tolist") else value))
        return _checked(items, count)
    except TypeError as error:
        raise ValueError(f"got {value!r}; {_EXPECTED}") from error


@lru_cache(maxsize=256)
def _checked(items: tuple[Any, ...], count: int | None) -> KeypointPairs:
    if items and all(isinstance(item, int) for item in items):
        if count is not None and len(items) != count:
            raise ValueError(f"got a permutation of {len(items)} places; expected one of all {count} keypoints")
        items = tuple(enumerate(items))
        count = len(items)
        if sorted(place for _, place in items) != list(range(count)):
            raise ValueError(f"got {[place for _, place in items]}, which is no permutation; {_EXPECTED}")
    partner: dict[int, int] = {}
    for item in items:
        if not (isinstance(item, tuple) and len(item) == 2 and all(isinstance(place, int) for place in item)):
            raise ValueError(f"got {item!r}; {_EXPECTED}")
        for one, other in (item, item[::-1]):
            if one < 0 or (count is not None and one >= count):
                limit = "" if count is None else f" to {count - 1}, of {count} keypoints"
                raise ValueError(f"got place {one}; expected places from 0{limit}")
            if partner.setdefault(one, other) != other:
                raise ValueError(f"place {one} is paired with {partner[one]} and with {other}; expected one partner")
    return tuple(sorted((one, other) for one, other in partner.items() if one < other))


def _frozen(item: Any) -> Any:
    if hasattr(item, "tolist"):
        item = item.tolist()
    if isinstance(item, list | tuple):
        return tuple(_frozen(part) for part in item)
    return int(item) if isinstance(item, float) and item.is_integer() else item


def _by_words(parts: list[str]) -> Iterable[str]:
    """left -> right, wherever it stands."""
    key = "".join(parts)
    for left, right in _SIDES:
        for found in re.finditer(left, key):
            yield key[: found.start()] + right + key[found.end() :]


def _by_letters(change: Callable[[str], str | None]) -> Callable[[list[str]], Iterable[str]]:
    """One word at a time changed, where `change` gives another."""

    def mirrored(parts: list[str]) -> Iterable[str]:
        for place, part in enumerate(parts):
            other = change(part)
            if other is not None:
                yield "".join([*parts[:place], other, *parts[place + 1 :]])

    return mirrored


_SPELLINGS = (
    _by_words,
    _by_letters(lambda part: {"l": "r", "lt": "rt", "lft": "rgt"}.get(part)),
    _by_letters(lambda part: "r" + part[1:] if part[0] == "l" else None),
    _by_letters(lambda part: part[:-1] + "r" if part[-1] == "l" else None),
)
