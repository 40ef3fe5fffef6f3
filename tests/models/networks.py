"""Small networks of the shapes that are met in the wild, and torchvision's without downloads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812  (the usual name)


class Tutorial(nn.Module):
    """PyTorch's tutorial network: one pooling layer used twice, and a view that may fold pixels into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 24), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        out: torch.Tensor = self.fc2(F.relu(self.fc1(x)))
        return out


class Block(nn.Module):
    """A residual block with a stride; the addition is a function, after the last module."""

    def __init__(self, channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, stride, padding=dilation, dilation=dilation)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.short = nn.Conv2d(channels, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.short(x) + self.second(F.relu(self.norm(self.first(x)))))


class Dense(nn.Module):
    """Branches of several kernels, concatenated with what came in, as in DenseNet and Inception."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, 2, k, padding=k // 2) for k in (1, 3, 7))
        self.pool = nn.AvgPool2d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, *(branch(x) for branch in self.branches), self.pool(x)], dim=1)


class UNet(nn.Module):
    """A U-Net of some depth: pooling as a function, transposed convolutions, skips that are concatenated."""

    def __init__(self, depth: int = 4, width: int = 4) -> None:
        super().__init__()
        channels = [3, *(width * 2**level for level in range(depth + 1))]
        pairs = list(pairwise(channels[1:]))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairs)
        self.mix = nn.ModuleList(nn.Conv2d(2 * a, a, 3, padding=1) for a, _ in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for level, down in enumerate(self.down):
            x = F.relu(down(F.avg_pool2d(x, 2) if level else x))
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = F.relu(self.mix[level](torch.cat([self.up[level](x), kept[level]], dim=1)))
        return x


class SpaceToDepth(nn.Module):
    """Blocks of pixels folded into channels, and out again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.conv(F.pixel_unshuffle(x, 2)), 2)


def flattening(side: int = 48, *, pool: type[nn.Module] = nn.MaxPool2d) -> nn.Sequential:
    """A network whose fully connected layer ties it to images of one side, a multiple of 4."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        pool(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        pool(2),
        nn.Flatten(),
        nn.Linear(8 * (side // 4) ** 2, 10),
    )


def torchvision_model(name: str, *, device: str = "meta") -> nn.Module:
    """One of torchvision's models without weights."""
    options: dict[str, Any] = {}
    if name.startswith(("fcn", "deeplab", "lraspp")):
        options["weights_backbone"] = None
    if name in ("inception_v3", "googlenet"):
        options["init_weights"] = False
    if name.startswith("regnet"):
        device = "cpu"  # it computes its widths with tensors that must hold values
    with torch.device(device):
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model
