"""What streams, samplers and datasets are told before a pass: its epoch, and which rank they are read for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from resflow.errors import ConfigError
from resflow.plan import World
from resflow.sources.stream import ShardStream

_LOOKED_AT = 4096  # members of a list that is looked through for datasets


def tell_epoch(stream: Any, epoch: int) -> None:
    """Tell a stream, and all that it wraps, which epoch comes.

    `set_epoch(epoch)` is called where there is one, else an attribute `epoch` that is a whole number and can be set is
    set. What a wrapper holds is told first, so that the wrapper's own `set_epoch` has the last word. webdataset's own
    stages count epochs as they start, so that theirs is set to one less.

    Args:
        stream: any iterable.
        epoch: at least 0.
    """
    for part in parts_of(stream):
        if callable(getattr(part, "set_epoch", None)):
            part.set_epoch(epoch)
        elif type(getattr(part, "epoch", None)) is int:
            with suppress(AttributeError):  # a property that is computed, or a frozen dataclass
                part.epoch = epoch - type(part).__module__.startswith("webdataset.")


def tell_world(stream: Any, world: World | None) -> None:
    """Tell the shard streams in a stream which rank they are read for; None: they are to find out themselves."""
    for part in parts_of(stream):
        if isinstance(part, ShardStream):
            part.read_for(world)


def given_world(stream: Any, world: World | None) -> World | None:
    """The rank that a loader is for, where it was told.

    Args:
        stream: any iterable.
        world: what the loader was given.

    Returns:
        That, else what the shards in the stream were made for, else None.

    Raises:
        ConfigError: these differ.
    """
    for part in parts_of(stream):
        own = part.given_world if isinstance(part, ShardStream) else None
        if own is not None and own != (world or own):
            raise ConfigError(f"the loader is for {world}, its ShardStream for {own}. Pass world to one of them only.")
        world = world or own
    return world


def parts_of(stream: Any) -> Iterator[Any]:
    """A stream and the datasets, samplers and stages that it holds, under whatever names, innermost first.

    Args:
        stream: any iterable. Held are `Dataset`s, `Sampler`s and `DataLoader`s in its attributes, or in lists, tuples
            and dicts there, whatever has `set_epoch`, its `dataset`, and the stages of a webdataset pipeline.
    """
    return _parts(stream, set())


def _parts(stream: Any, seen: set[int]) -> Iterator[Any]:
    if id(stream) in seen:
        return
    seen.add(id(stream))
    for name, value in getattr(stream, "__dict__", {}).items():
        stages = name == "pipeline" and isinstance(value, list)
        for held in _members(value):
            if stages or (name == "dataset" and isinstance(held, Iterable)) or _is_told(held):
                yield from _parts(held, seen)
    yield stream


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    return value[:_LOOKED_AT] if type(value) in (list, tuple) else (value,)


def _is_told(value: Any) -> bool:
    return not isinstance(value, type) and (
        isinstance(value, Dataset | Sampler | DataLoader) or callable(getattr(value, "set_epoch", None))
    )
