"""Which of the passes over a loader its place is that of, since passes may overlap."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Generic, Protocol, TypeVar


class Pass(Protocol):
    """One pass: what `Passes` keeps of it."""

    number: int
    before: int
    handed: int
    ended: bool


One = TypeVar("One", bound=Pass)


class Passes(Generic[One]):
    """The passes over one loader. Its place is that of the pass that handed out a batch last.

    A pass that is dropped after no more batches than the one it interrupted, such as a look at one batch
    (`next(iter(loader))`) within a loop, leaves the place to that one again.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._current = 0
        self._living: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def __reduce__(self) -> tuple[type[Passes[One]], tuple[()]]:
        return Passes, ()  # a copy of a loader has no passes

    def begin(self, one: One) -> None:
        """A pass begins."""
        one.number, one.before, one.handed, one.ended = next(self._numbers), self._current, 0, False
        self._living[one.number] = one
        self._current = one.number

    def moved(self, one: One) -> None:
        """A pass hands out a batch."""
        one.handed += 1
        self._current = one.number

    def settle(self) -> None:
        """The place is what the caller says, whatever passes are under way."""
        self._current = 0

    def dropped(self, one: One) -> One | None:
        """A pass is let go of.

        Returns:
            The pass that the place is to be taken from again, if there is one.
        """
        number = getattr(one, "number", 0)  # 0: it never began
        if not number or one.ended or self._current != number:
            return None
        before: One | None = self._living.get(one.before)
        if before is None or before.ended or before.handed < one.handed:
            return None
        self._current = before.number
        return before
