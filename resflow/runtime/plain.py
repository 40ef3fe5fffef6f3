"""Resuming PyTorch's own loading: the place of a pass over a loader without a pipeline."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from resflow.errors import StateError

VERSION = 1
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "batches": int,
    "length": (int, type(None)),
    "batch_size": (int, type(None)),
    "random": str,
}
_REMEDY = "Make the loader with the saved dataset and arguments, or start without the state."


class PlainPlace:
    """Where a loader without a pipeline is: batches handed out in the pass under way, and its random numbers' start."""

    def __init__(self) -> None:
        self.skip = 0
        """Batches of a resumed pass that were handed out before this process took over."""
        self.random: torch.Tensor | None = None
        """The generator's state when the pass began; None before the first."""
        self.resumes = False
        """Whether the next pass goes on from `skip` and `random`."""
        self._counted: Callable[[], int] = int

    def __reduce__(self) -> tuple[type[PlainPlace], tuple[()]]:
        return PlainPlace, ()  # a copy of a loader begins anew

    def follow(self, iterator: Any) -> None:
        """Count the batches of PyTorch's iterator, which is not kept alive by it."""
        alive, counts = weakref.ref(iterator), vars(iterator)
        final: list[int] = []
        # The iterator's own fields are read once more when it dies, before they are let go.
        weakref.finalize(iterator, lambda: final.append(counts["_num_yielded"])).atexit = False

        def counted() -> int:
            living = alive()
            return int(living._num_yielded) if living is not None else final[0]

        self._counted = counted

    def state(self, loader: Any) -> dict[str, object]:
        """Plain JSON values that say where the pass is."""
        random = _generator_state(loader) if self.random is None else self.random
        return {
            "version": VERSION,
            "batches": self.skip + self._counted(),
            "length": _length(loader),
            "batch_size": loader.batch_size,
            "random": random.numpy().tobytes().hex(),
        }

    def load(self, loader: Any, state: Mapping[str, Any]) -> None:
        """Take the place of a state that `state` gave.

        Raises:
            StateError: the state is damaged or belongs to another dataset or batch size; names the field.
        """
        if not isinstance(state, Mapping):
            raise StateError(f"saved state must be a mapping; got {type(state).__name__}. Pass what state_dict() gave.")
        for name, kind in _FIELDS.items():
            if name not in state or isinstance(state[name], bool) or not isinstance(state[name], kind):
                raise StateError(
                    f"saved state: {name} is missing or of a wrong type; got {state.get(name)!r}. "
                    "Pass what state_dict() gave to a loader without a pipeline."
                )
        current = {"version": VERSION, "length": _length(loader), "batch_size": loader.batch_size}
        for name, value in current.items():
            if state[name] != value:
                raise StateError(f"saved state: {name} differs: saved {state[name]}, current {value}. {_REMEDY}")
        try:
            random = torch.frombuffer(bytearray.fromhex(state["random"]), dtype=torch.uint8)
            torch.Generator().set_state(random)
        except (ValueError, RuntimeError) as error:
            raise StateError(
                f"saved state: random is no state of a generator ({error}). Use an earlier state."
            ) from error
        self.skip, self.random, self.resumes, self._counted = state["batches"], random, True, int


def plain_pass(loader: Any, place: PlainPlace, begin: Callable[[Skipping | None], Iterator[Any]]) -> Iterator[Any]:
    """PyTorch's iterator of a pass, the rest of a pass where a state was loaded.

    The random numbers that order the pass are those of the saved pass; the generator itself is left as it was found.

    Args:
        loader: the loader.
        place: its place.
        begin: called with the sampler to use (None: the loader's own), returns PyTorch's iterator.

    Returns:
        PyTorch's iterator itself, so that nothing stands between it and the loop.
    """
    resumes, place.resumes = place.resumes, False
    length = _length(loader) if resumes else None
    if not resumes or (length is not None and place.skip >= length):
        place.skip, place.random = 0, _generator_state(loader)
        iterator = begin(None)
        place.follow(iterator)
        return iterator
    found = _generator_state(loader)
    _set_generator_state(loader, place.random)
    mapped = loader._dataset_kind == 0
    skipping = Skipping(loader._index_sampler, place.skip) if mapped else None
    iterator = begin(skipping)
    place.follow(iterator)
    if skipping is not None:
        skipping.draw()
    else:
        skip, place.skip = place.skip, 0
        for _ in range(skip):
            next(iterator)
    _set_generator_state(loader, found)
    return iterator


class Skipping:
    """A sampler whose first pass leaves out its first elements; they are drawn, but nothing is loaded for them.

    Args:
        sampler: the sampler.
        count: elements to leave out.
    """

    def __init__(self, sampler: Iterable[Any], count: int) -> None:
        self._sampler, self._count = sampler, count
        self._first: Iterator[Any] | None = None
        self._drawn: list[Any] = []
        self._begun = False

    def __iter__(self) -> Iterator[Any]:
        # PyTorch may ask for an iterator that it never advances; the first that is advanced is the first pass.
        if self._begun:
            yield from self._sampler
            return
        self._begun = True
        self.draw()
        yield from self._drawn
        if self._first is not None:
            yield from self._first

    def draw(self) -> None:
        """Draw up to the first element that is not left out, so that all random numbers of the order are drawn."""
        if self._first is None:
            self._first = iter(self._sampler)
            for _ in range(self._count):
                next(self._first, None)
            self._drawn.extend(itertools.islice(self._first, 1))


def _generator_state(loader: Any) -> torch.Tensor:
    return torch.get_rng_state() if loader.generator is None else loader.generator.get_state()


def _set_generator_state(loader: Any, state: torch.Tensor | None) -> None:
    if state is None:
        return
    if loader.generator is None:
        torch.set_rng_state(state)
    else:
        loader.generator.set_state(state)


def _length(loader: Any) -> int | None:
    if loader._dataset_kind != 0:  # PyTorch warns of an iterable dataset's length once somebody has asked for it
        return None
    try:
        return len(loader)
    except TypeError:
        return None
