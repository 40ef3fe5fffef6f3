"""Spatial arithmetic of convolutions, beside what torch's own layers give and refuse."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resflow.errors import ConfigError
from resflow.geometry.conv import (
    conv_input_size,
    conv_output_size,
    pool_input_size,
    pool_output_size,
    transposed_input_size,
    transposed_output_size,
)

SIZES = np.array([1, 2, 3, 4, 5, 6, 7, 8, 11, 16])
STRIDES, PADDINGS, DILATIONS = (1, 2, 3), (0, 1, 2, 3), (1, 2, 3)


def settings(kernels: tuple[int, ...]) -> Iterator[dict[str, int]]:
    for kernel, stride, padding, dilation in itertools.product(kernels, STRIDES, PADDINGS, DILATIONS):
        yield {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}


def torch_size(layer: nn.Module, size: int) -> int:
    """What the layer gives of [1, 1, size, size] on the meta device; 0 where it refuses."""
    try:
        return int(layer(torch.empty(1, 1, size, size, device="meta")).shape[-1])
    except RuntimeError:
        return 0


def compare(function: Callable[..., Any], layer: Callable[..., nn.Module], options: dict[str, int]) -> int:
    """How many sizes disagree."""
    torch_options = {"kernel_size" if name == "kernel" else name: value for name, value in options.items()}
    built = layer(**torch_options)
    got = function(SIZES, **options)
    return sum(int(g) != torch_size(built, int(size)) for g, size in zip(got, SIZES, strict=True))


def conv(**options: Any) -> nn.Module:
    return nn.Conv2d(1, 1, device="meta", **options)


def test_convolutions() -> None:
    for options in settings((1, 2, 3, 5)):
        assert compare(conv_output_size, conv, options) == 0, options


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pooling(ceil_mode: bool) -> None:
    for options in settings((1, 2, 3, 5)):
        layer = nn.MaxPool2d(
            options["kernel"], options["stride"], options["padding"], options["dilation"], ceil_mode=ceil_mode
        )
        if options["padding"] > options["kernel"] // 2:
            with pytest.raises(
                ConfigError, match="padding must be at most half the kernel, as in PyTorch; got padding"
            ):
                pool_output_size(SIZES, ceil_mode=ceil_mode, **options)
            with pytest.raises(RuntimeError, match=r"half of (effective )?kernel size"):
                layer(torch.zeros(1, 1, 16, 16))
            continue
        got = pool_output_size(SIZES, ceil_mode=ceil_mode, **options)
        assert got.tolist() == [torch_size(layer, int(size)) for size in SIZES], options


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_average_pooling_on_the_cpu(ceil_mode: bool) -> None:
    for kernel, stride, padding in itertools.product((1, 2, 3, 5), (1, 2, 3, None), (0, 1, 2)):
        if padding > kernel // 2:
            continue
        layer = nn.AvgPool1d(kernel, stride, padding, ceil_mode=ceil_mode)
        for size in SIZES.tolist():
            try:
                expected = layer(torch.zeros(1, 1, size)).shape[-1]
            except RuntimeError:
                expected = 0
            got = pool_output_size(size, kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)
            assert got == expected, (size, kernel, stride, padding)


def test_transposed_convolutions() -> None:
    for options in settings((1, 2, 3, 5)):
        for output_padding in range(3):
            every = {**options, "output_padding": output_padding}
            if output_padding >= max(options["stride"], options["dilation"]):
                with pytest.raises(ConfigError, match="output_padding must be less than the stride or the dilation"):
                    transposed_output_size(SIZES, **every)
                continue
            got = transposed_output_size(SIZES, **every)
            layer = nn.ConvTranspose2d(
                1,
                1,
                options["kernel"],
                options["stride"],
                options["padding"],
                output_padding,
                dilation=options["dilation"],
                device="meta",
            )
            assert got.tolist() == [torch_size(layer, int(size)) for size in SIZES], every


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 3)])
def test_padding_by_name(kernel: int, dilation: int) -> None:
    for name in ("same", "valid"):
        layer = nn.Conv1d(1, 1, kernel, padding=name, dilation=dilation)
        for size in SIZES.tolist():
            try:
                expected = layer(torch.zeros(1, 1, size)).shape[-1]
            except RuntimeError:
                expected = 0
            assert conv_output_size(size, kernel, padding=name, dilation=dilation) == expected
    with pytest.raises(ConfigError, match='padding="same" needs stride 1, as in PyTorch; got stride 2'):
        conv_output_size(8, 3, padding="same", stride=2)


def test_the_smallest_input_of_an_output() -> None:
    outputs = np.array([1, 2, 3, 6])
    every = np.arange(1, 120)
    for options in settings((1, 2, 3, 5)):
        for ceil_mode in (None, False, True):
            if ceil_mode is None:
                sizes, got = conv_output_size(every, **options), conv_input_size(outputs, **options)
            elif options["padding"] > options["kernel"] // 2:
                continue
            else:
                sizes = pool_output_size(every, ceil_mode=ceil_mode, **options)
                got = pool_input_size(outputs, ceil_mode=ceil_mode, **options)
            expected = [int(every[sizes >= output][0]) for output in outputs]
            assert got.tolist() == expected, (options, ceil_mode)
        sizes, got = transposed_output_size(every, **options), transposed_input_size(outputs, **options)
        assert got.tolist() == [int(every[sizes >= output][0]) for output in outputs], options


def test_a_planted_fault_is_caught() -> None:
    def rounded_up(size: Any, kernel: int, *, stride: int, padding: int, dilation: int) -> Any:
        return -((-size - 2 * padding + dilation * (kernel - 1) + 1) // stride) + 1

    def forgets_dilation(size: Any, kernel: int, *, stride: int, padding: int, dilation: int) -> Any:
        return conv_output_size(size, kernel, stride=stride, padding=padding)

    for planted in (rounded_up, forgets_dilation):
        assert any(compare(planted, conv, options) for options in settings((3,)))


def test_numbers_give_numbers_and_arrays_broadcast() -> None:
    size = conv_output_size(224, 7, stride=2, padding=3)
    assert type(size) is int
    assert size == 112
    both = conv_output_size(np.array([[224, 320], [1, 2]]), (7, 3), stride=(2, 1), padding=(3, 0))
    assert both.dtype == np.int64
    assert both.tolist() == [[112, 318], [1, 0]]
    assert pool_output_size(0, 3, padding=1) == 0, "nothing stays nothing"


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match=r"conv_output_size: kernel must be whole and at least 1; got 0"):
        conv_output_size(8, 0)
    with pytest.raises(ConfigError, match=r"pool_output_size: stride must be whole and at least 1; got 1\.5"):
        pool_output_size(8, 2, stride=1.5)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match='padding must be pixels, "same" or "valid"; got \'full\''):
        conv_output_size(8, 3, padding="full")  # type: ignore[call-overload]
