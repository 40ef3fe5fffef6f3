"""A per-image transform as text, the same in every process: what a saved state is checked against."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch

_PLAIN = (bool, int, float, complex, str, bytes, type(None), Enum, torch.dtype)
_DEEPEST = 8  # of values within values


def transform_text(transform: object) -> str:
    """A transform's class or function, and the values that it was made with.

    Args:
        transform: any callable.

    Returns:
        The same text for what does the same, as far as can be told: of a function its name, its defaults and the plain
        values that it closes over; of an object its class and its public attributes.
    """
    return _text(transform, 0)


def _text(value: Any, depth: int) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if depth > _DEEPEST:
        return type(value).__name__
    below = depth + 1
    if isinstance(value, functools.partial):
        return f"partial({_text(value.func, below)}, {_text(value.args, below)}, {_text(value.keywords, below)})"
    if isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        return f"{array.dtype}{list(array.shape)}#{hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(key, below)}: {_text(part, below)}' for key, part in value.items())}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(_text(part, below) for part in value)}]"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if inspect.ismethod(value):
        return f"{_text(value.__self__, below)}.{value.__name__}"
    if inspect.isroutine(value):
        held = [*(getattr(value, "__defaults__", None) or ())]
        for cell in getattr(value, "__closure__", None) or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                held.append(None)
        return f"{value.__module__}.{value.__qualname__}" + (_text(held, below) if held else "")
    return _object(value, below)


def _object(value: Any, depth: int) -> str:
    parts = [
        f"{name}={_text(part, depth)}"
        for name, part in sorted(getattr(value, "__dict__", {}).items())
        if _told(name, part)
    ]
    if isinstance(value, torch.nn.Module):
        parts += [f"{name}={_text(part, depth)}" for name, part in value.named_children()]
        parts += [f"{name}={_text(part, depth)}" for name, part in value.named_buffers(recurse=False)]
    elif not parts and "__repr__" in vars(type(value)):
        parts = [re.sub(r" at 0x[0-9a-f]+", "", repr(value))]
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(parts)})"


def _told(name: str, part: Any) -> bool:
    """Whether an attribute is among what a transform was made with, rather than the state that it is in."""
    return (
        name[0] != "_"
        and name not in ("training", "call_super_init", "params", "seed")
        and not isinstance(part, np.random.Generator | np.random.RandomState | torch.Generator)
        and type(part).__module__ != "random"
    )
