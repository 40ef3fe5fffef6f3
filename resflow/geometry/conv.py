"""Spatial arithmetic of convolutions and pooling: the size that comes out, and the smallest that must go in.

Sizes are pixels along one axis, a whole number or an integer array; the other arguments broadcast against it, so that
sizes [N, 2] of (H, W) go with a kernel (kh, kw). A whole number gives a whole number, an array an int64 array. Where
PyTorch refuses a size because nothing would come out, the result is 0; nothing stays nothing.

Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html, .MaxPool2d.html, .ConvTranspose2d.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError

Size = TypeVar("Size", int, npt.NDArray[np.int64])
Whole: TypeAlias = int | Sequence[int] | npt.NDArray[np.integer[Any]]
"""A whole number, or one for each axis."""


def conv_output_size(
    size: Size, kernel: Whole, *, stride: Whole = 1, padding: Whole | Literal["same", "valid"] = 0, dilation: Whole = 1
) -> Size:
    """Size that a convolution gives: floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1.

    Args:
        size: of the input, pixels, at least 0.
        kernel: pixels, at least 1.
        stride: pixels, at least 1.
        padding: pixels on each side, at least 0; "valid" is 0, "same" keeps the size (stride 1 only, as in PyTorch).
        dilation: pixels between taps, at least 1.

    Returns:
        Pixels; 0 where PyTorch refuses the size.

    Raises:
        ConfigError: an argument is no whole number or out of range, or padding is "same" with a stride.
    """
    n, k, s, d = _whole(
        "conv_output_size", size=(size, 0), kernel=(kernel, 1), stride=(stride, 1), dilation=(dilation, 1)
    )
    if isinstance(padding, str):
        if padding == "same":
            if (s != 1).any():
                raise ConfigError(
                    f'conv_output_size: padding="same" needs stride 1, as in PyTorch; got stride {stride}. '
                    "Pass padding in pixels."
                )
            return _like(size, n + 0 * k * d)
        if padding != "valid":
            raise ConfigError(f'conv_output_size: padding must be pixels, "same" or "valid"; got {padding!r}')
        padding = 0
    (p,) = _whole("conv_output_size", padding=(padding, 0))
    return _like(size, _something(n, (n + 2 * p - d * (k - 1) - 1) // s + 1))


def pool_output_size(
    size: Size,
    kernel: Whole,
    *,
    stride: Whole | None = None,
    padding: Whole = 0,
    dilation: Whole = 1,
    ceil_mode: bool = False,
) -> Size:
    """Size that max or average pooling gives.

    With `ceil_mode` windows may reach beyond the right padding, but the last one must start inside the image or its
    left padding.

    Args:
        size: of the input, pixels, at least 0.
        kernel: pixels, at least 1.
        stride: pixels, at least 1; None takes the kernel.
        padding: pixels on each side, at most half the kernel, as PyTorch demands.
        dilation: pixels between taps, at least 1 (average pooling has none).
        ceil_mode: round up.

    Returns:
        Pixels; 0 where PyTorch refuses the size.

    Raises:
        ConfigError: an argument is no whole number or out of range.
    """
    stride = kernel if stride is None else stride
    n, k, s, p, d = _whole(
        "pool_output_size",
        size=(size, 0),
        kernel=(kernel, 1),
        stride=(stride, 1),
        padding=(padding, 0),
        dilation=(dilation, 1),
    )
    _check_pool_padding("pool_output_size", k, p)
    out = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil_mode else 0)) // s + 1
    if ceil_mode:
        out = out - ((out - 1) * s >= n + p)
    return _like(size, _something(n, out))


def transposed_output_size(
    size: Size,
    kernel: Whole,
    *,
    stride: Whole = 1,
    padding: Whole = 0,
    output_padding: Whole = 0,
    dilation: Whole = 1,
) -> Size:
    """Size that a transposed convolution gives.

    It is (size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1.

    Args:
        size: of the input, pixels, at least 0.
        kernel: pixels, at least 1.
        stride: pixels, at least 1.
        padding: pixels cut off on each side, at least 0.
        output_padding: pixels added on the right, less than the stride or the dilation.
        dilation: pixels between taps, at least 1.

    Returns:
        Pixels; 0 where PyTorch refuses the size.

    Raises:
        ConfigError: an argument is no whole number or out of range.
    """
    n, k, s, p, o, d = _whole(
        "transposed_output_size",
        size=(size, 0),
        kernel=(kernel, 1),
        stride=(stride, 1),
        padding=(padding, 0),
        output_padding=(output_padding, 0),
        dilation=(dilation, 1),
    )
    if (o >= np.maximum(s, d)).any():
        raise ConfigError(
            "transposed_output_size: output_padding must be less than the stride or the dilation, as in PyTorch; got "
            f"output_padding {output_padding}, stride {stride}, dilation {dilation}"
        )
    return _like(size, _something(n, (n - 1) * s - 2 * p + d * (k - 1) + o + 1))


def conv_input_size(output: Size, kernel: Whole, *, stride: Whole = 1, padding: Whole = 0, dilation: Whole = 1) -> Size:
    """Smallest input of which a convolution, or pooling without `ceil_mode`, gives at least an output.

    Args:
        output: pixels, at least 1.
        kernel: pixels, at least 1.
        stride: pixels, at least 1.
        padding: pixels on each side, at least 0.
        dilation: pixels between taps, at least 1.

    Returns:
        Pixels, at least 1.

    Raises:
        ConfigError: an argument is no whole number or out of range.
    """
    n, k, s, p, d = _whole(
        "conv_input_size",
        output=(output, 1),
        kernel=(kernel, 1),
        stride=(stride, 1),
        padding=(padding, 0),
        dilation=(dilation, 1),
    )
    return _like(output, np.maximum(1, (n - 1) * s + d * (k - 1) + 1 - 2 * p))


def pool_input_size(
    output: Size,
    kernel: Whole,
    *,
    stride: Whole | None = None,
    padding: Whole = 0,
    dilation: Whole = 1,
    ceil_mode: bool = False,
) -> Size:
    """Smallest input of which max or average pooling gives at least an output.

    Args:
        output: pixels, at least 1.
        kernel: pixels, at least 1.
        stride: pixels, at least 1; None takes the kernel.
        padding: pixels on each side, at most half the kernel.
        dilation: pixels between taps, at least 1.
        ceil_mode: round up.

    Returns:
        Pixels, at least 1.

    Raises:
        ConfigError: an argument is no whole number or out of range.
    """
    stride = kernel if stride is None else stride
    n, k, s, p, d = _whole(
        "pool_input_size",
        output=(output, 1),
        kernel=(kernel, 1),
        stride=(stride, 1),
        padding=(padding, 0),
        dilation=(dilation, 1),
    )
    _check_pool_padding("pool_input_size", k, p)
    span = d * (k - 1) + 1
    if not ceil_mode:
        return _like(output, np.maximum(1, (n - 1) * s + span - 2 * p))
    # Rounded up, n windows need one pixel in the last; and the last must start inside.
    return _like(output, np.maximum(1, np.maximum((n - 2) * s + span - 2 * p + 1, (n - 1) * s - p + 1)))


def transposed_input_size(
    output: Size,
    kernel: Whole,
    *,
    stride: Whole = 1,
    padding: Whole = 0,
    output_padding: Whole = 0,
    dilation: Whole = 1,
) -> Size:
    """Smallest input of which a transposed convolution gives at least an output.

    Args:
        output: pixels, at least 1.
        kernel: pixels, at least 1.
        stride: pixels, at least 1.
        padding: pixels cut off on each side, at least 0.
        output_padding: pixels added on the right.
        dilation: pixels between taps, at least 1.

    Returns:
        Pixels, at least 1.

    Raises:
        ConfigError: an argument is no whole number or out of range.
    """
    n, k, s, p, o, d = _whole(
        "transposed_input_size",
        output=(output, 1),
        kernel=(kernel, 1),
        stride=(stride, 1),
        padding=(padding, 0),
        output_padding=(output_padding, 0),
        dilation=(dilation, 1),
    )
    return _like(output, np.maximum(1, -((d * (k - 1) + o + 1 - 2 * p - n) // s) + 1))


def _whole(where: str, **given: tuple[object, int]) -> list[npt.NDArray[np.int64]]:
    """Each argument as int64, whole and not under its least value."""
    arrays = []
    for name, (value, least) in given.items():
        array = np.asarray(value)
        if array.dtype.kind not in "iu" or (array < least).any():
            raise ConfigError(f"{where}: {name} must be whole and at least {least}; got {value!r}")
        arrays.append(array.astype(np.int64))
    return arrays


def _check_pool_padding(where: str, kernel: npt.NDArray[np.int64], padding: npt.NDArray[np.int64]) -> None:
    if (padding > kernel // 2).any():
        raise ConfigError(
            f"{where}: padding must be at most half the kernel, as in PyTorch; got padding {padding.tolist()}, kernel "
            f"{kernel.tolist()}"
        )


def _something(size: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.where(size > 0, np.maximum(out, 0), 0)


def _like(given: Size, array: npt.NDArray[np.int64]) -> Size:
    """A plain number where one was given, and nothing else was an array."""
    return cast(Size, array if np.ndim(array) else int(array))
