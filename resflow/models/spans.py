"""What positions of a tensor see of an image, and how operations of PyTorch's core change that.

Positions along an axis are followed as an interval: feature j sees source pixels [j stride + low, j stride + high].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Span:
    """What position j along an axis sees of the image: pixels [j stride + low, j stride + high] of one of its axes."""

    axis: int
    stride: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    def after(self, stride: Fraction | int, low: Fraction | int, high: Fraction | int) -> Span:
        """The same after an operation whose output j takes inputs [j stride + low, j stride + high]."""
        return Span(self.axis, self.stride * stride, self.low + self.stride * low, self.high + self.stride * high)

    def joined(self, other: Span) -> Span:
        """What sees all that either sees."""
        return replace(
            self,
            stride=max(self.stride, other.stride),
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )


Dim: TypeAlias = tuple[tuple[int, Span | None], ...]
"""An axis of a tensor as the axes that were flattened into it: their sizes, and spans where positions are known."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a tensor that came of the image: its axes, and whether pooled features had a part in it."""

    dims: tuple[Dim, ...]
    pooled: bool = False


def blank(shape: Sequence[int]) -> tuple[Dim, ...]:
    """Axes of which no position is known."""
    return tuple(((int(size), None),) for size in shape)


def spans_of(dims: Sequence[Dim]) -> list[Span]:
    """Every span among axes."""
    return [span for dim in dims for _, span in dim if span]


def has_span(dims: Sequence[Dim]) -> bool:
    """Whether positions along any of the axes are known."""
    return any(span for dim in dims for _, span in dim)


def total(dim: Dim) -> int:
    """How many elements an axis has."""
    return math.prod(size for size, _ in dim)


def single(dim: Dim) -> Span | None:
    """The span of an axis that is one axis of the image: also split into blocks and positions inside them."""
    (_, span), *inner = dim or ((1, None),)
    if span is None or any(other for _, other in inner):
        return None
    steps = math.prod(size for size, _ in inner)
    return span.after(Fraction(1, steps), Fraction(1 - steps, steps), 0)


Shape: TypeAlias = tuple[int, ...]
Rule: TypeAlias = Callable[[tuple[Dim, ...], dict[str, Any], Shape, Shape], tuple[Dim, ...] | None]


def _mapped(
    dims: tuple[Dim, ...], out: Shape, steps: Sequence[tuple[Fraction | int, Fraction | int, Fraction | int]]
) -> tuple[Dim, ...] | None:
    """Dims after an operation on the last axes, which takes inputs [j stride + low, j stride + high] along each."""
    changed: list[Dim] = []
    for dim, size, step in zip(dims[-len(steps) :], out[-len(steps) :], steps, strict=True):
        span = single(dim)
        if span is None and has_span((dim,)):
            return None
        changed.append(((size, span.after(*step) if span else None),))
    kept = dims[: -len(steps)]
    return (*(dim if total(dim) == size else ((size, None),) for dim, size in zip(kept, out, strict=False)), *changed)


def _pair(value: Any, length: int = 2) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * length if len(values) == 1 else values


def _convolution(dims: tuple[Dim, ...], given: dict[str, Any], _: Shape, out: Shape) -> tuple[Dim, ...] | None:
    kernel = given["weight"].shape[2:]
    steps: list[tuple[Fraction | int, Fraction | int, Fraction | int]] = []
    for k, s, p, d in zip(
        kernel, *(_pair(given[name], len(kernel)) for name in ("stride", "padding", "dilation")), strict=True
    ):
        reach = d * (k - 1)
        step = (Fraction(1, s), Fraction(p - reach, s), Fraction(p, s)) if given["transposed"] else (s, -p, reach - p)
        steps.append(step)
    return _mapped(dims, out, steps)


def _pooling(dims: tuple[Dim, ...], given: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
    kernel = _pair(given["kernel_size"])
    if kernel == list(size[-2:]) and out[-2:] == (1, 1):  # the whole map at once: not a stride
        return blank(out)
    stride = _pair(given["stride"] or kernel)
    padding, dilation = _pair(given["padding"]), _pair(given.get("dilation", 1))
    steps = [(s, -p, d * (k - 1) - p) for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)]
    return _mapped(dims, out, steps)


def _adaptive(dims: tuple[Dim, ...], _: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
    return dims if size == out else blank(out)


def _upsampled(reach: int) -> Rule:
    """Interpolation that takes so many pixels on each side of the point (nearest: none)."""

    def rule(dims: tuple[Dim, ...], _: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
        steps = []
        for old, new in zip(size[-2:], out[-2:], strict=True):
            scale = Fraction(old, new)
            middle = scale / 2 - Fraction(1, 2)
            low, high = (middle - reach, middle + reach) if reach else (scale - 1, Fraction(0))
            steps.append((scale, low, high))
        return _mapped(dims, out, steps)

    return rule


def _padded(dims: tuple[Dim, ...], given: dict[str, Any], _: Shape, out: Shape) -> tuple[Dim, ...] | None:
    pads = given["pad"] if "pad" in given else given["padding"]
    before = [*pads[::2][::-1]]  # from the last axis to the first, (before, after) each
    return _mapped(dims, out, [(1, -int(left), -int(left)) for left in before])


def _folded(dims: tuple[Dim, ...], _: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
    """Blocks of pixels that become channels."""
    blocks = [n // m for n, m in zip(size[-2:], out[-2:], strict=True)]
    return _mapped(dims, out, [(block, 0, block - 1) for block in blocks])


def guessed(dims: tuple[Dim, ...], size: Shape, out: Shape) -> tuple[Dim, ...]:
    """Dims after an operation that is not known: of maps, how much coarser or finer the positions lie."""
    if len(out) == len(dims) >= 3 and all(single(dim) for dim in dims[-2:]) and min(out[-2:]) > 1:
        steps = [
            (Fraction(max(1, round(n / m))) if n >= m else Fraction(n, m), 0, 0) for n, m in zip(size, out, strict=True)
        ]
        return _mapped(dims, out, steps[-2:]) or blank(out)
    return blank(out)


def _sliced(dims: tuple[Dim, ...], given: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
    along = given["dim"] % len(dims)
    start = given["start"] or 0
    start = max(0, min(start + (size[along] if start < 0 else 0), size[along]))
    if size == out:
        return dims
    moved = _mapped(dims[: along + 1], out[: along + 1], [(given["step"], start, start)])
    return None if moved is None else (*moved, *dims[along + 1 :])


def _rolled(dims: tuple[Dim, ...], given: dict[str, Any], _: Shape, out: Shape) -> tuple[Dim, ...] | None:
    changed = dims
    for shift, along in zip(given["shifts"], given["dims"], strict=True):
        moved = _mapped(changed[: along % len(dims) + 1], out[: along % len(dims) + 1], [(1, -shift, -shift)])
        if moved is None:
            return None
        changed = (*moved, *changed[along % len(dims) + 1 :])
    return changed


def _regrouped(dims: tuple[Dim, ...], _: dict[str, Any], __: Shape, out: Shape) -> tuple[Dim, ...] | None:
    """Dims after a view. Windows that were put together may be split anew at other places."""
    whole = tuple(((total(dim), span),) if (span := single(dim)) else dim for dim in dims)
    return _grouped(dims, out) or _grouped(whole, out)


def _grouped(dims: tuple[Dim, ...], out: Shape) -> tuple[Dim, ...] | None:
    """Dims after axes merge, and split from the outer end."""
    left = [part for dim in dims for part in dim if part[0] != 1]
    grouped: list[Dim] = []
    for size in out:
        group: list[tuple[int, Span | None]] = []
        while size > 1:
            n, span = left.pop(0)
            if size % n == 0:
                group.append((n, span))
                size //= n
            elif n % size == 0:  # blocks of `inner` pixels, and the places inside a block
                inner = n // size
                group.append((size, span.after(inner, 0, inner - 1) if span else None))
                left.insert(0, (inner, None))
                size = 1
            else:
                return None
        grouped.append(tuple(group) or ((1, None),))
    return tuple(grouped)


def _reduced(dims: tuple[Dim, ...], given: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
    along = given.get("dim")
    places = range(len(dims)) if along is None or along == [] else [p % len(dims) for p in _pair(along, 1)]
    if len(out) == len(dims):
        return tuple(((1, None),) if place in places else dim for place, dim in enumerate(dims))
    return tuple(dim for place, dim in enumerate(dims) if place not in places)


def _dropped(dims: tuple[Dim, ...], given: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
    """Axes of one element that go, or one of which an element is taken."""
    along = given.get("dim")
    places = range(len(dims)) if along is None else [p % len(dims) for p in _pair(along, 1)]
    gone = [place for place in places if "index" in given or size[place] == 1]
    return tuple(dim for place, dim in enumerate(dims) if place not in gone)


def _added(dims: tuple[Dim, ...], given: dict[str, Any], _: Shape, out: Shape) -> tuple[Dim, ...] | None:
    place = given["dim"] % len(out)
    return (*dims[:place], ((1, None),), *dims[place:])


def _permuted(dims: tuple[Dim, ...], given: dict[str, Any], _: Shape, __: Shape) -> tuple[Dim, ...] | None:
    order = list(range(len(dims)))
    if "dims" in given:
        order = [place % len(dims) for place in given["dims"]]
    else:
        one, other = given.get("dim0", 0) % len(dims), given.get("dim1", 1) % len(dims)
        order[one], order[other] = order[other], order[one]
    return tuple(dims[place] for place in order)


def _expanded(dims: tuple[Dim, ...], _: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
    new = len(out) - len(dims)
    kept = (dim if n == m else ((m, None),) for dim, n, m in zip(dims, size, out[new:], strict=True))
    return (*blank(out[:new]), *kept)


def _cut(dims: tuple[Dim, ...], given: dict[str, Any], size: Shape, out: Shape) -> tuple[Dim, ...] | None:
    along = given["dim"] % len(dims)
    if has_span((dims[along],)):
        return None
    return (*dims[:along], ((out[along], None),), *dims[along + 1 :])


RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _regrouped),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "linalg_vector_norm", "var"), _reduced),
    **dict.fromkeys(("squeeze", "select"), _dropped),
    **dict.fromkeys(("permute", "transpose", "t"), _permuted),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _cut),
    **dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _padded),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive),
    **dict.fromkeys(("avg_pool2d", "max_pool2d_with_indices"), _pooling),
    **dict.fromkeys(("upsample_bilinear2d", "_upsample_bilinear2d_aa"), _upsampled(1)),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bicubic2d_aa"), _upsampled(2)),
    "pixel_shuffle": _upsampled(0),
    "pixel_unshuffle": _folded,
    "upsample_nearest2d": _upsampled(0),
    "convolution": _convolution,
    "expand": _expanded,
    "roll": _rolled,
    "slice": _sliced,
    "unsqueeze": _added,
}
"""By the name of the operation: its output's axes, or None where they are no longer a map of the image."""
