"""A small fully convolutional classifier: any height and width that are multiples of its stride."""

from __future__ import annotations

import torch
from torch import nn

STRIDE = 16
"""Pixels of input for one column or row of the last feature map."""


def small_classifier(classes: int, *, width: int = 16) -> nn.Sequential:
    """Four strided stages of convolutions, global average pooling, one linear layer.

    Args:
        classes: outputs, at least 1.
        width: channels of the first stage; the last has six times as many.

    Returns:
        A module from float [B, 3, H, W] to float [B, classes], for any H and W from `STRIDE` up.
    """
    return nn.Sequential(
        _convolution(3, width, stride=2, kernel=5),
        _convolution(width, 2 * width, stride=2),
        _Residual(2 * width),
        _convolution(2 * width, 4 * width, stride=2),
        _Residual(4 * width),
        _convolution(4 * width, 6 * width, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6 * width, classes),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = _convolution(channels, channels, stride=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.change(images)
        return images + change


def _convolution(channels_in: int, channels_out: int, *, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
