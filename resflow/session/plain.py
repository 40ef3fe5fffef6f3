"""Resuming PyTorch's own loading: the places of passes over a loader without a pipeline."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resflow.errors import ConfigError, StateError
from resflow.session.digest import checksum
from resflow.session.passes import Passes
from resflow.session.random_state import SamplerState, TorchState
from resflow.session.torch_compat import CHECKED, can_make_iterators, is_iterable

VERSION = 2
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "batches": int,
    "length": (int, type(None)),
    "batch_size": (int, type(None)),
    "random": str,
    "samplers": list,
    "digest": int,
    "ordered": bool,
    "in_order": bool,
}
_REMEDY = "Make the loader with the saved dataset and arguments, or start without the state."
_LOOKED_AT = 4096  # numbers of a tensor that a stream's digest sees


@dataclass(slots=True)
class PlainPosition:
    """How far a pass has come.

    Args:
        start: the state of the random numbers when the pass began.
        samplers: that of the samplers' own.
        batches: batches handed out.
        digest: of their order, or with an iterable dataset of what they hold.
        ordered: whether the order follows from these random numbers at once, and not after others that PyTorch draws.
    """

    start: TorchState
    samplers: SamplerState
    batches: int = 0
    digest: int = 0
    ordered: bool = False


class PlainPass:
    """One pass over a loader without a pipeline; PyTorch's iterator holds it, and nobody else.

    Args:
        place: the loader's, which is told of each batch.
        mapped: whether the dataset is map-style, so that the order of its samples is known.
        loaded: the state that it goes on from; None where it begins.
    """

    number: int
    before: int
    handed: int
    ended: bool

    def __init__(self, place: PlainSession, *, mapped: bool, loaded: Mapping[str, Any] | None) -> None:
        self._place, self.mapped, self._loaded = place, mapped, loaded
        self._skip: int | None = None if loaded is None else loaded["batches"]
        self._digests: deque[int] = deque()  # of what is drawn and not handed out
        self._drawn, self._last = deque[Any](), 0
        self.position: PlainPosition | None = None
        """How far it has come; None until the order is about to be drawn."""
        place.passes.begin(self)

    @property
    def needs_new_workers(self) -> bool:
        """Whether workers that persist cannot go on with it, since they drew random numbers of their own."""
        return self._loaded is not None and not (self.mapped and self._loaded["ordered"])

    def open(self, loader: Any, *, ordered: bool = False) -> None:
        """Note where the random numbers stand, or restore them.

        This is done when the iterator is made, and once more right before the order is drawn. What PyTorch draws in
        between, the seed of workers, then has no part in it: a pass may be resumed by another number of workers, and
        by workers that persist.

        Args:
            loader: the loader.
            ordered: whether the order is drawn next.
        """
        samplers = SamplerState.of(loader)
        loaded = self._loaded
        if loaded is not None and (self.position is None or loaded["ordered"]):
            start, saved = TorchState.from_text(loaded["random"]), samplers.loaded(loaded["samplers"])
            start.restore(loader.generator)
            saved.restore()
            self.position = PlainPosition(start, saved, ordered=ordered)
        else:
            self.position = PlainPosition(TorchState.of(loader.generator), samplers, ordered=ordered)
        self._place.position = self.position

    def drawn(self, draw: Callable[[], Any]) -> Any:
        """The next element of the order.

        Raises:
            StateError: what comes before the place of a resumed pass differs from what was handed out.
            StopIteration: the order ends.
        """
        self.catch_up(draw)
        return self._drawn.popleft() if self._drawn else self._draw(draw)

    def catch_up(self, draw: Callable[[], Any], *, ahead: int = 0) -> None:
        """Draw what was handed out before, and `ahead` elements more, so that all random numbers are drawn."""
        if self._skip is None or not self.mapped:
            return
        count, self._skip = self._skip, None
        for position in range(count):
            try:
                self._draw(draw)
            except StopIteration:
                raise self.changed(f"it gave {position} batches, {count} were handed out before") from None
        self._digests.clear()
        at = self._at()
        at.batches, at.digest = count, self._last
        self._check(at)
        for _ in range(ahead):
            try:
                self._drawn.append(self._draw(draw))
            except StopIteration:
                break

    def moved(self, batch: Any) -> None:
        """A batch is handed out."""
        at = self._at()
        at.batches += 1
        at.digest = self._digests.popleft() if self.mapped else checksum(batch, at.digest, most=_LOOKED_AT)
        if self._skip:  # a stream, whose first batches are made again
            if at.batches == self._skip:
                self._skip = None
                self._check(at)
            return
        self._place.passes.moved(self)
        self._place.position = at

    def __del__(self) -> None:
        before = self._place.passes.dropped(self)
        if before is not None and before.position is not None:
            self._place.position = before.position

    def _draw(self, draw: Callable[[], Any]) -> Any:
        element = draw()
        if self.mapped:
            self._last = checksum(element, self._last)
            self._digests.append(self._last)
        return element

    def _at(self) -> PlainPosition:
        assert self.position is not None  # the order was drawn
        return self.position

    def _check(self, at: PlainPosition) -> None:
        if self._loaded is not None and at.digest != self._loaded["digest"]:
            raise self.changed(f"its first {at.batches} batches are others")

    def changed(self, how: str) -> StateError:
        """The error of an order that did not repeat itself."""
        if not self.mapped:
            return StateError(
                f"the iterable dataset did not repeat itself, so it cannot be resumed: {how}. Draw its order from the "
                "epoch alone, or start without the state."
            )
        return StateError(
            f"the sampler did not repeat itself, so it cannot be resumed: {how}. Give it its random numbers as a "
            "torch.Generator, numpy.random.Generator or random.Random in one of its attributes, or state_dict and "
            "load_state_dict, or set_epoch (and call it before load_state_dict); or start without the state."
        )


class PlainSession:
    """Where a loader without a pipeline is."""

    def __init__(self) -> None:
        self.passes: Passes[PlainPass] = Passes()
        self.position: PlainPosition | None = None
        """Of the pass that the place is that of; None before the first."""
        self.loaded: Mapping[str, Any] | None = None
        """The state that the next pass goes on from."""

    def __reduce__(self) -> tuple[type[PlainSession], tuple[()]]:
        return PlainSession, ()  # a copy of a loader begins anew

    def state(self, loader: Any) -> dict[str, object]:
        """Plain JSON values that say where the pass is, as far as a sampler's own `state_dict` gives such."""
        _check_resumable(loader)
        if self.loaded is not None:
            return dict(self.loaded)
        at = self.position or PlainPosition(TorchState.of(loader.generator), SamplerState.of(loader))
        return {
            "version": VERSION,
            "batches": at.batches,
            "length": _length(loader),
            "batch_size": loader.batch_size,
            "random": at.start.to_text(),
            "samplers": at.samplers.to_json(),
            "digest": at.digest,
            "ordered": at.ordered,
            "in_order": bool(loader.in_order or loader.num_workers < 2),
        }

    def load(self, loader: Any, state: Mapping[str, Any]) -> None:
        """Take the place of a state that `state` gave.

        Raises:
            StateError: the state is damaged or belongs to another dataset or batch size; names the field.
        """
        _check_resumable(loader)
        if not isinstance(state, Mapping):
            raise StateError(f"saved state must be a mapping; got {type(state).__name__}. Pass what state_dict() gave.")
        current = {"version": VERSION, "length": _length(loader), "batch_size": loader.batch_size}
        for name, kind in _FIELDS.items():
            value = state.get(name)
            if name not in state or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise StateError(
                    f"saved state: {name} is missing or of a wrong type; got {value!r}. "
                    "Pass what state_dict() gave to a loader without a pipeline."
                )
            if name in current and value != current[name]:
                raise StateError(f"saved state: {name} differs: saved {value}, current {current[name]}. {_REMEDY}")
        if state["batches"] and not state["in_order"]:
            raise StateError(
                "saved state: it was saved within a pass of a loader with in_order=False, where it is not known which "
                "batches were handed out. Pass in_order=True, or save at the end of an epoch."
            )
        TorchState.from_text(state["random"])
        SamplerState.of(loader).check(state["samplers"])
        self.loaded, self.position = dict(state), None
        self.passes.settle()


def plain_pass(loader: Any, place: PlainSession, begin: Callable[[PlainPass], Iterator[Any]]) -> Iterator[Any]:
    """PyTorch's iterator of a pass, of the rest of a pass where a state was loaded.

    The random numbers that order the pass are those of the saved pass. Generators that belong to the loader or its
    samplers go on from there; the global ones are left as they were found.

    Args:
        loader: the loader.
        place: its place.
        begin: called with the pass, returns PyTorch's iterator.

    Returns:
        PyTorch's iterator itself, so that nothing stands between it and the loop.
    """
    loaded, place.loaded = place.loaded, None
    mapped, length = not is_iterable(loader), _length(loader)
    if loaded is None or (length is not None and loaded["batches"] >= length > 0):
        return begin(PlainPass(place, mapped=mapped, loaded=None))
    torch_found, found = TorchState.of(None), SamplerState.of(loader)
    try:
        one = PlainPass(place, mapped=mapped, loaded=loaded)
        iterator: Any = begin(one)
        if mapped:
            one.catch_up(iterator.draw, ahead=1)
            return iterator  # type: ignore[no-any-return]
        for made in range(loaded["batches"]):
            if next(iterator, iterator) is iterator:
                raise one.changed(f"it gave {made} batches, {loaded['batches']} were handed out before")
    finally:
        torch_found.restore(None)
        found.restore_global()
    return iterator  # type: ignore[no-any-return]


def _length(loader: Any) -> int | None:
    if is_iterable(loader):  # PyTorch warns of an iterable dataset's length once somebody has asked for it
        return None
    try:
        return len(loader)
    except TypeError:
        return None


def _check_resumable(loader: Any) -> None:
    if not can_make_iterators(loader):
        raise ConfigError(
            "with this version of PyTorch a loader without a pipeline cannot tell where it is. Install "
            f"torch=={CHECKED}.*, or pass pipeline=Pipeline(...)."
        )
