"""Whether a dataset of the user's own, fused, still gives its items."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils._pytree import tree_flatten

_NEAR = 0.25  # of an image's own spread


def difference(own: Callable[[], Any], fused: Callable[[], Any]) -> str:
    """What differs between an item as its dataset gives it and as it is fused, from the same random numbers.

    Args:
        own: gives the dataset's item.
        fused: gives the fused one.

    Returns:
        The first difference, as "got ..., expected ..."; "" if there is none, or the dataset has no items of its own.
    """
    with _random_numbers_kept():
        try:
            expected = own()
        except NotImplementedError:
            return ""
    with _random_numbers_kept():
        got = fused()
    (values, spec), (others, other_spec) = tree_flatten(expected), tree_flatten(got)
    if spec != other_spec:
        return f"got {_shown(got)}, expected {_shown(expected)}"
    for one, other in zip(values, others, strict=True):
        if not _same(one, other):
            return f"got {_shown(other)}, expected {_shown(one)}"
    return ""


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    state, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor | np.ndarray | Image.Image):
        a, b = np.asarray(one), np.asarray(other)
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.ndim < 2 or a.dtype.kind not in "uif":
            return bool((a == b).all())
        spread = np.abs(a.astype(np.float64) - a.mean()).mean() + 1e-3
        return bool(np.abs(a.astype(np.float64) - b).mean() <= _NEAR * spread)
    return bool(one == other)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type(value).__name__} {value.dtype} {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(map(_shown, value))})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={_shown(one)}' for key, one in value.items())})"
    return repr(value)[:80]
