"""What a model asks of its images' size: stride, minimum, receptive field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from resflow.errors import ConfigError
from resflow.models.probe import Probe

_TRIED = (256, 512, 1024)
# Of networks that take one size only; tried where neither an attribute nor a fully connected layer tells it.
_PUBLISHED = (224, 32, 28, 299, 384, 64, 96, 128, 192, 448, 518, 50, 100, 48, 36, 40, 160, 320, 331, 380, 456, 528, 600)
_ATTRIBUTES = ("image_size", "img_size", "input_size")


@dataclass(frozen=True, slots=True)
class SpatialSpec:
    """What a model asks of its images' size.

    Args:
        stride: total stride, pixels: heights and widths that are multiples of it, from the minimum up, are taken.
        minimum: least height and width that are taken, pixels.
        receptive_field: height and width, in pixels of the image, of the largest window that a feature sees through
            convolutions and pooling. Exact for these; with interpolation or transposed convolutions an upper bound
            that is a few pixels of the coarse map too wide. Statistics of normalisation are left out.
        whole_image: whether features also depend on the whole image, by squeeze and excitation, pooling of the image
            inside the network or attention.
        fixed_size: height and width, where the model takes no other (sizes that floor to the same features aside).
        layer: the module that refuses images below the minimum, or of another size than the fixed one, as
            `model.get_submodule` takes it; None where one pixel is enough.
        reason: what PyTorch says there.
    """

    stride: int
    minimum: tuple[int, int]
    receptive_field: tuple[int, int]
    whole_image: bool
    fixed_size: tuple[int, int] | None = None
    layer: str | None = None
    reason: str | None = None

    def check(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Refuse shapes that the model does not take: `spatial_spec(model).check(loader.shapes())`.

        Args:
            shapes: (height, width) in pixels.

        Raises:
            ConfigError: names the first shape at fault, and the layer that refuses it.
        """
        for height, width in shapes:
            if self.fixed_size is not None and (height, width) != self.fixed_size:
                raise ConfigError(
                    f"the model takes images of {_text(self.fixed_size)} only, because of {self.where}; got "
                    f"{_text((height, width))}. Use that resolution with one bucket, or make the model take others: "
                    "resflow.models.adapt_classifier, resize_linear or resize_position_embedding."
                )
            if height < self.minimum[0] or width < self.minimum[1]:
                raise ConfigError(
                    f"images of {_text((height, width))} are below the model's minimum of {_text(self.minimum)}: "
                    f"nothing would be left at {self.where}. Raise the resolution, or use fewer buckets where only "
                    "long shapes are too small."
                )

    @property
    def where(self) -> str:
        """The layer and what PyTorch says there, as text."""
        name = f"layer {self.layer}" if self.layer else "the model's own forward"
        return f"{name} ({self.reason})" if self.reason else name


def spatial_spec(model: nn.Module, *, size: int | None = None, channels: int | None = None) -> SpatialSpec:
    """Find a model's total stride, minimum input and receptive field, by following pixels through it and running it.

    The model runs on PyTorch's meta device: no weights are copied and nothing is computed or changed. The minimum is of
    the mode the model is in: an Inception that trains needs more than one that does not, for its auxiliary head. Stride
    and receptive field leave out branches that only train.

    Args:
        model: takes one tensor [B, C, H, W] and returns tensors [B, ...], or tuples, lists or dicts of them.
        size: side of a square image that the model is known to take, pixels; needed only where none is found.
        channels: of the images; None takes what the first Conv2d wants.

    Returns:
        What the model asks of its images.

    Raises:
        ConfigError: no size was found at which the model runs; it resizes its images itself (torchvision's detectors:
            pass the backbone); or multiples of its stride are refused.
    """
    probe = Probe(model, channels)
    taken = next((n for n in ((size,) if size else _TRIED) if probe.accepts(n, n)), None)
    if taken is None or not (probe.accepts(2 * taken, 2 * taken) and probe.accepts(taken, 2 * taken)):
        return _fixed(probe, size if taken is None else taken)
    walk = probe.walk((taken, taken))
    stride = math.lcm(*(math.ceil(along) for along in walk.stride))
    minimum = _minimum(probe, stride, taken)
    below = _below(probe, minimum, taken)
    refusal = probe.refusal(*below) if below else None
    return SpatialSpec(
        stride=_working_stride(probe, stride, minimum),
        minimum=minimum,
        receptive_field=(walk.field[0], walk.field[1]),
        whole_image=walk.whole_image,
        layer=refusal.layer if refusal else None,
        reason=refusal.reason if refusal else None,
    )


def _minimum(probe: Probe, stride: int, taken: int) -> tuple[int, int]:
    """Least height and width, each beside an ample other side."""
    if probe.accepts(1, 1):
        return 1, 1
    ample = math.ceil(taken / stride)
    least = stride * _first(lambda n: probe.accepts(n * stride, n * stride), 0, ample)
    least = _first(lambda n: probe.accepts(n, n), least - stride, least)
    high = max(taken, least)

    def along(accepts: Callable[[int], bool]) -> int:
        return least if least == 1 or not accepts(least - 1) else _first(accepts, 0, least)

    return along(lambda n: probe.accepts(n, high)), along(lambda n: probe.accepts(high, n))


def _below(probe: Probe, minimum: tuple[int, int], taken: int) -> tuple[int, int] | None:
    """A size just below the minimum."""
    if minimum[0] > 1:
        return minimum[0] - 1, taken
    return (taken, minimum[1] - 1) if minimum[1] > 1 else None


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Least n in (low, high] that holds, where all above it do, and `high` does."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _working_stride(probe: Probe, stride: int, minimum: tuple[int, int]) -> int:
    """The total stride, or the multiple of it that the model really takes the multiples of."""
    for wanted in (stride, 2 * stride, 4 * stride, 8 * stride):
        height, width = (max(wanted, math.ceil(side / wanted) * wanted) for side in minimum)
        sizes = [(height, width + wanted), (height + 3 * wanted, width)]
        if all(probe.accepts(*one) for one in sizes):
            return wanted
    refusal = next(filter(None, (probe.refusal(*one) for one in sizes)))
    raise ConfigError(
        f"{type(probe.model).__name__} has a total stride of {stride} pixels, but multiples of it up to {8 * stride} "
        f"are refused at layer {refusal.layer!r}: {refusal.reason}. Pass size=, of a square it takes."
    )


def _fixed(probe: Probe, known: int | None) -> SpatialSpec:
    side = known if known is not None and probe.accepts(known, known) else _only_size(probe)
    walk = probe.walk((side, side))
    stride = math.lcm(*(math.ceil(along) for along in walk.stride))
    refusal = probe.refusal(side + stride, side + stride) or probe.refusal(2 * side, 2 * side)
    return SpatialSpec(
        stride=stride,
        minimum=(side, side),
        receptive_field=(walk.field[0], walk.field[1]),
        whole_image=walk.whole_image,
        fixed_size=(side, side),
        layer=refusal.layer if refusal else None,
        reason=refusal.reason if refusal else None,
    )


def _only_size(probe: Probe) -> int:
    """The square that a model takes: an attribute tells it, or a fully connected layer, or else the usual are tried."""
    for module in probe.model.modules():
        for name in _ATTRIBUTES:
            value = getattr(module, name, None)
            side = value[-1] if isinstance(value, list | tuple) and value else value
            if isinstance(side, int) and side > 0 and probe.accepts(side, side):
                return side

    def enough(n: int) -> bool:
        refusal = probe.refusal(n, n)
        return refusal is None or (refusal.mismatch is not None and refusal.mismatch[0] >= refusal.mismatch[1])

    if enough(2048):
        side = _first(enough, 0, 2048)
        if probe.accepts(side, side):
            return side
    side = next((n for n in _PUBLISHED if probe.accepts(n, n)), 0)
    if side:
        return side
    refusal = probe.refusal(_TRIED[0], _TRIED[0])
    raise ConfigError(
        f"no size was found at which {type(probe.model).__name__} runs on the meta device; at {_TRIED[0]}x{_TRIED[0]} "
        f"layer {refusal.layer if refusal else ''!r} says: {refusal.reason if refusal else ''}. Pass size=, of a "
        "square it takes, and channels= of its images."
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
