"""Where the random numbers stand that order a pass: PyTorch's, and those that samplers have of their own."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resflow.errors import StateError
from resflow.session.nested_parts import parts_of
from resflow.session.torch_compat import is_iterable


@dataclass(frozen=True, slots=True)
class TorchState:
    """The state of a `torch.Generator`, or of PyTorch's global one.

    Args:
        state: uint8 [n].
    """

    state: torch.Tensor

    @classmethod
    def of(cls, generator: torch.Generator | None) -> TorchState:
        """The state of a generator; None: of the global one."""
        return cls(torch.get_rng_state() if generator is None else generator.get_state())

    @classmethod
    def from_text(cls, text: str) -> TorchState:
        """What `to_text` gave.

        Raises:
            StateError: it is no state of a generator.
        """
        try:
            state = torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
            torch.Generator().set_state(state)
        except (TypeError, ValueError, RuntimeError) as error:
            raise StateError(
                f"saved state: random is no state of a generator ({error}). Use an earlier state."
            ) from error
        return cls(state)

    def to_text(self) -> str:
        """The state in hexadecimal digits."""
        return self.state.cpu().numpy().tobytes().hex()

    def restore(self, generator: torch.Generator | None) -> None:
        """Set a generator to this state; None: the global one."""
        if generator is None:
            torch.set_rng_state(self.state)
        else:
            generator.set_state(self.state)


class SamplerState:
    """The states of what a loader's samplers draw from, beside the loader's generator.

    These are, of each sampler, and of the samplers and datasets it holds: what its `state_dict` gives, else its
    epoch, and its attributes that are a `torch.Generator`, `numpy.random.Generator`, `numpy.random.RandomState` or
    `random.Random`; and the global generators of `random` and NumPy where there is a sampler that is not PyTorch's own.

    Args:
        sources: what has a state, with a name for messages.
        states: plain values, of each source.
    """

    def __init__(self, sources: list[tuple[str, Any]], states: list[Any]) -> None:
        self._sources, self._states = sources, states

    @classmethod
    def of(cls, loader: Any) -> SamplerState:
        """The states now."""
        sources: list[tuple[str, Any]] = []
        foreign = False
        root = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        for part in () if is_iterable(loader) else parts_of(root):
            if part is loader.dataset:
                continue
            name = type(part).__name__
            own = type(part).__module__.startswith("torch.utils.data.") or isinstance(part, list | tuple | range)
            foreign |= not own
            if callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None)):
                sources.append((name, part))
                continue
            if type(getattr(part, "epoch", None)) is int and callable(getattr(part, "set_epoch", None)):
                sources.append((f"{name}.epoch", _Epoch(part)))
            for attribute, value in getattr(part, "__dict__", {}).items():
                if isinstance(value, _GENERATORS) and value is not loader.generator:
                    sources.append((f"{name}.{attribute}", value))
        if foreign or is_iterable(loader):
            sources += [("random", random), ("numpy.random", np.random)]
        return cls(sources, [_get(source) for _, source in sources])

    def to_json(self) -> list[dict[str, Any]]:
        """Name and state of each, as plain values."""
        return [{"of": name, "state": state} for (name, _), state in zip(self._sources, self._states, strict=True)]

    def check(self, saved: Any) -> None:
        """Refuse states that are not of the same sources.

        Raises:
            StateError: names differ.
        """
        names = [part.get("of") if isinstance(part, Mapping) else None for part in saved]
        own = [name for name, _ in self._sources]
        if names != own:
            raise StateError(
                f"saved state: samplers differ: saved {names}, current {own}. Make the loader with the saved samplers, "
                "or start without the state."
            )

    def loaded(self, saved: list[dict[str, Any]]) -> SamplerState:
        """The same sources with saved states, which `check` has passed."""
        return SamplerState(self._sources, [part["state"] for part in saved])

    def restore(self) -> None:
        """Set all sources to their states.

        Raises:
            StateError: a state is none of its source.
        """
        self._restore(range(len(self._sources)))

    def restore_global(self) -> None:
        """Set the global generators alone to their states."""
        both = random, np.random
        self._restore([at for at, (_, source) in enumerate(self._sources) if any(source is one for one in both)])

    def _restore(self, places: Iterable[int]) -> None:
        for place in places:
            name, source = self._sources[place]
            try:
                _set(source, self._states[place])
            except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
                raise StateError(
                    f"saved state: the state of {name} cannot be restored ({error!r}). Use an earlier state."
                ) from error


class _Epoch:
    """The epoch of a sampler, such as a DistributedSampler, as a source."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def state_dict(self) -> int:
        return int(self._sampler.epoch)

    def load_state_dict(self, epoch: int) -> None:
        self._sampler.set_epoch(epoch)


_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def _get(source: Any) -> Any:
    """The state of a source, as plain values."""
    if isinstance(source, torch.Generator):
        return TorchState.of(source).to_text()
    if source is random or isinstance(source, random.Random):
        version, words, gauss = source.getstate()
        return [version, list(words), gauss]
    if source is np.random or isinstance(source, np.random.RandomState):
        return _plain(source.get_state(legacy=False))
    if isinstance(source, np.random.Generator):
        return _plain(source.bit_generator.state)
    return source.state_dict()


def _set(source: Any, state: Any) -> None:
    if isinstance(source, torch.Generator):
        TorchState.from_text(state).restore(source)
    elif source is random or isinstance(source, random.Random):
        version, words, gauss = state
        source.setstate((version, tuple(words), gauss))
    elif source is np.random or isinstance(source, np.random.RandomState):
        source.set_state(_arrays(state))
    elif isinstance(source, np.random.Generator):
        source.bit_generator.state = _arrays(state)
    else:
        source.load_state_dict(state)


def _plain(state: Any) -> Any:
    """Arrays in nested dicts as lists."""
    if isinstance(state, Mapping):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _arrays(state: Any) -> Any:
    """Lists in nested dicts as arrays again."""
    if isinstance(state, Mapping):
        return {name: _arrays(value) for name, value in state.items()}
    return (
        np.array(state, dtype=np.uint64 if max(state) >= 1 << 32 else np.uint32) if isinstance(state, list) else state
    )
