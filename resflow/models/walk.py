"""Follow the pixels of an image through a model, operation by operation.

The model runs on tensors without contents (PyTorch's meta device) while every operation that reaches PyTorch's core is
looked at, so branches, skips, functional calls and control flow need no special care.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from resflow.models.spans import RULES, Dim, Seen, Span, blank, guessed, has_span, single, spans_of, total

# Elementwise, though PyTorch does not tag it so; normalisation, whose statistics are left out; softmax, which mixes
# positions only as part of attention, where the product is noted.
_SAME = {
    "_log_softmax", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_prelu_kernel",
    "_safe_softmax", "_softmax", "_to_copy", "alias", "clone", "copy_", "cudnn_batch_norm", "detach",
    "hardswish", "hardswish_", "lift_fresh", "log_sigmoid_forward", "mish_", "native_batch_norm", "native_dropout",
    "native_group_norm", "native_layer_norm", "rrelu_with_noise", "rrelu_with_noise_",
}  # fmt: skip
_FRESH = {
    "bernoulli", "empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "rand_like",
    "randn_like", "zeros_like",
}  # fmt: skip
_STRIDED = {"avg_pool2d", "convolution", "max_pool2d_with_indices", "pixel_unshuffle", "slice"}


class Walk(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks on while a model runs on one image tensor.

    Args:
        image: [B, C, H, W], what the model is called with.

    After the run `stride` and `field` (height, width, pixels) hold what was found along the way, and `whole_image`
    whether features that are still a map took part in something that sees the whole image.
    """

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stride = [Fraction(1), Fraction(1)]
        self.field = [1, 1]
        self.whole_image = False
        batch, channels, height, width = image.shape
        dims: tuple[Dim, ...] = (
            ((batch, None),),
            ((channels, None),),
            ((height, Span(0)),),
            ((width, Span(1)),),
        )
        # Tensors are kept alive so that no identity is given out twice; on the meta device they cost nothing.
        self._seen: dict[int, tuple[torch.Tensor, Seen]] = {id(image): (image, Seen(dims))}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        out = func(*args, **kwargs)
        given = _named(func, args, kwargs)
        inputs = [tensor for tensor in _tensors(list(given.values())) if id(tensor) in self._seen]
        if inputs and name not in _FRESH:
            for tensor, seen in self._follow(name, torch.Tag.pointwise in func.tags, given, inputs, _tensors([out])):
                self._note(tensor, seen)
        return out

    def _follow(
        self, name: str, pointwise: bool, given: dict[str, Any], inputs: list[torch.Tensor], outputs: list[torch.Tensor]
    ) -> list[tuple[torch.Tensor, Seen]]:
        first = self._seen[id(inputs[0])][1]
        pooled = any(self._seen[id(tensor)][1].pooled for tensor in inputs)
        if pointwise or name in _SAME:
            return [(tensor, self._broadcast(inputs, tensor.shape, pooled)) for tensor in outputs[:1]]
        if name == "cat":
            return [(outputs[0], self._concatenated(given, inputs, outputs[0], pooled))]
        if name in ("bmm", "mm", "addmm"):
            return [(outputs[0], self._product(name, given, pooled))]
        rule = RULES.get(name)
        followed = []
        for tensor in outputs:
            dims = None if rule is None else rule(first.dims, given, tuple(inputs[0].shape), tuple(tensor.shape))
            if dims is None:  # not known, or no longer a map of the image
                self.whole_image |= any(has_span(self._seen[id(source)][1].dims) for source in inputs)
                dims, pooled = guessed(first.dims, tuple(inputs[0].shape), tuple(tensor.shape)), True
            lost = has_span(first.dims) and not has_span(dims)
            if name in _STRIDED or rule is None:
                for span in filter(None, map(single, dims)):
                    self.stride[span.axis] = max(self.stride[span.axis], span.stride)
            followed.append((tensor, Seen(dims, pooled or lost)))
        return followed

    def _note(self, tensor: torch.Tensor, seen: Seen) -> None:
        self._seen[id(tensor)] = (tensor, seen)
        spans = spans_of(seen.dims)
        self.whole_image |= bool(spans) and seen.pooled
        for span in spans:
            self.field[span.axis] = max(self.field[span.axis], math.floor(span.high - span.low) + 1)

    def _broadcast(self, inputs: list[torch.Tensor], shape: Sequence[int], pooled: bool) -> Seen:
        """Dims of an output of which each element takes the inputs' elements at its own place."""
        dims = list(blank(shape))
        for tensor in inputs:
            known = self._seen[id(tensor)][1].dims
            for back in range(1, min(len(known), len(dims)) + 1):
                if tensor.shape[-back] == shape[-back]:
                    dims[-back] = self._joined(dims[-back], known[-back])
        return Seen(tuple(dims), pooled)

    def _joined(self, one: Dim, other: Dim) -> Dim:
        if not has_span((one,)) or not has_span((other,)):
            return one if has_span((one,)) else other
        if [size for size, _ in one] == [size for size, _ in other]:
            pairs = zip(one, other, strict=True)
            return tuple((size, s.joined(t) if s and t else s or t) for (size, s), (_, t) in pairs)
        left, right = single(one), single(other)
        if left is None or right is None or left.axis != right.axis:
            self.whole_image = True
            return ((total(one), None),)
        return ((total(one), left.joined(right)),)

    def _concatenated(
        self, given: dict[str, Any], inputs: list[torch.Tensor], output: torch.Tensor, pooled: bool
    ) -> Seen:
        along = given["dim"] % output.ndim
        dims = list(blank(output.shape))
        for tensor in inputs:
            for place, dim in enumerate(self._seen[id(tensor)][1].dims):
                if place != along:
                    dims[place] = self._joined(dims[place], dim)
                elif has_span((dim,)):  # such as a class token put before the patches
                    self.whole_image = True
        return Seen(tuple(dims), pooled)

    def _product(self, name: str, given: dict[str, Any], pooled: bool) -> Seen:
        """A product of matrices; where it sums over positions it is attention, or a fully connected layer's end."""
        left, right = (given["mat1"], given["mat2"]) if name == "addmm" else (given["self"], given["mat2"])
        a, b = (self._seen[id(t)][1].dims if id(t) in self._seen else blank(t.shape) for t in (left, right))
        summed = has_span((a[-1], b[-2]))
        batch = (self._joined(a[0], b[0]),) if name == "bmm" else ()
        dims = (*batch, a[-2], b[-1])
        if summed and name == "bmm":
            self.whole_image = True
        return Seen(dims, pooled or summed)


def _named(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Every argument of an operation by its name, defaults filled in."""
    given = {}
    for place, argument in enumerate(func._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        given[argument.name] = args[place] if place < len(args) else kwargs.get(argument.name, default)
    return given


def _tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, list | tuple) else []
