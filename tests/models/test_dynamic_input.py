"""DynamicInput: one batch of a ragged list, at the ratio half-way between its extremes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from resflow.errors import ConfigError
from resflow.geometry import Fit, Geometry
from resflow.models import DynamicInput
from tests.decode.reference import axis_weights, reference_place
from tests.decode.samples import picture

BATCHES = (
    ((60, 80), (80, 60), (70, 70)),
    ((50, 200), (90, 100)),
    ((20, 90), (90, 20), (7, 5)),
    ((33, 47),),
    ((300, 100), (150, 100), (100, 90), (40, 30)),
)


def expected(
    sizes: tuple[tuple[int, int], ...], base: int, min_side: int, stride: int
) -> tuple[tuple[int, int], list[npt.NDArray[np.float64]]]:
    """The shape and the matrices, step by step: pad, crop a window of the shape's ratio about the middle, scale."""
    padded = [(max(h, min_side), max(w, min_side)) for h, w in sizes]
    ratios = [w / h for h, w in padded]
    ratio = math.sqrt(min(ratios) * max(ratios))
    height = max(stride, stride * math.floor(base / math.sqrt(ratio) / stride + 0.5))
    width = max(stride, stride * math.floor(base * math.sqrt(ratio) / stride + 0.5))
    matrices = []
    for (h, w), (high, wide) in zip(sizes, padded, strict=True):
        left, top = (wide - w) // 2, (high - h) // 2
        window_h = min(high, wide * height / width)
        window_w = window_h * width / height
        x, y, scale = (wide - window_w) / 2, (high - window_h) / 2, height / window_h
        matrices.append(np.array([[scale, 0, (left - x) * scale], [0, scale, (top - y) * scale], [0, 0, 1.0]]))
    return (height, width), matrices


def ragged(sizes: tuple[tuple[int, int], ...]) -> list[torch.Tensor]:
    """uint8 [3, H, W] each."""
    return [torch.from_numpy(picture(*size, seed).transpose(2, 0, 1).copy()) for seed, size in enumerate(sizes)]


def check(
    images: torch.Tensor, geometry: Geometry, sizes: tuple[tuple[int, int], ...], base: int, min_side: int, stride: int
) -> None:
    shape, matrices = expected(sizes, base, min_side, stride)
    assert geometry.output_size == shape, "another shape"
    assert tuple(images.shape) == (len(sizes), 3, *shape)
    assert geometry.source_size.tolist() == [list(size) for size in sizes]
    for number, (matrix, size) in enumerate(zip(matrices, sizes, strict=True)):
        assert np.allclose(geometry.matrix[number], matrix, atol=1e-9), f"matrix {number}"
        placed, inside = reference_place(picture(*size, number), matrix, shape)
        got = images[number].permute(1, 2, 0).double().numpy()
        assert (got[~inside] == Fit().fill).all(), f"padding {number}"
        assert np.abs(got[inside] - placed[inside]).max(initial=0) <= 1.01, f"pixels {number}"


@pytest.mark.parametrize("sizes", BATCHES, ids=str)
@pytest.mark.parametrize(("base", "min_side", "stride"), [(64, 32, 32), (96, 80, 16), (50, 1, 1)])
def test_images_and_matrices(sizes: tuple[tuple[int, int], ...], base: int, min_side: int, stride: int) -> None:
    images, geometry = DynamicInput(base, min_side=min_side, stride=stride)(ragged(sizes))
    check(images, geometry, sizes, base, min_side, stride)


class ArithmeticMean(DynamicInput):
    """A planted fault: the mean of the ratios in place of the mean of their logs."""

    def place(self, size: npt.NDArray[np.int32]) -> Geometry:
        ratio = size[:, 1] / size[:, 0]
        middle = float(ratio.min() + ratio.max()) / 2
        side = self.base / math.sqrt(middle), self.base * math.sqrt(middle)
        shape = (round(side[0]), round(side[1]))
        return Geometry(self.fit.place(size, shape), size, shape)


class CornerCrop(DynamicInput):
    """A planted fault: crops are not about the middle."""

    def place(self, size: npt.NDArray[np.int32]) -> Geometry:
        sound = super().place(size)
        matrix = sound.matrix.copy()
        matrix[:, :2, 2] = np.maximum(matrix[:, :2, 2], 0)
        return Geometry(matrix, size, sound.output_size)


@pytest.mark.parametrize(("fault", "caught"), [(ArithmeticMean, "another shape"), (CornerCrop, "matrix")])
def test_planted_faults_are_caught(fault: type[DynamicInput], caught: str) -> None:
    sizes = BATCHES[1]
    with pytest.raises(AssertionError, match=caught):
        check(*fault(50, min_side=1, stride=1)(ragged(sizes)), sizes, 50, 1, 1)


def test_half_way_is_symmetrical() -> None:
    """A batch of portraits is treated as the batch of the same images lying down."""
    for sizes in BATCHES:
        upright = DynamicInput(96, stride=16).place(np.array(sizes, dtype=np.int32))
        lying = DynamicInput(96, stride=16).place(np.array(sizes, dtype=np.int32)[:, ::-1].copy())
        assert lying.output_size == upright.output_size[::-1]
        assert np.allclose(lying.matrix[:, 0, 0], upright.matrix[:, 1, 1])


def test_boxes_go_there_and_back() -> None:
    sizes = BATCHES[4]
    _, geometry = DynamicInput(64)(ragged(sizes))
    points = np.array([[3.0, 4.0], [17.5, 29.25]])
    for matrix in geometry.matrix:
        there = points @ matrix[:2, :2].T + matrix[:2, 2]
        back = np.linalg.inv(matrix)
        assert np.allclose(there @ back[:2, :2].T + back[:2, 2], points)
        assert matrix[0, 0] == pytest.approx(matrix[1, 1])  # undistorted


def test_a_smaller_crop_pads() -> None:
    sizes = np.array(BATCHES[2], dtype=np.int32)
    letterboxed = DynamicInput(64, min_side=1, fit=Fit()).place(sizes)
    high, wide = letterboxed.output_size
    for matrix, (h, w) in zip(letterboxed.matrix, sizes.tolist(), strict=True):
        corner = matrix @ np.array([w, h, 1.0])
        assert matrix[0, 2] >= 0
        assert matrix[1, 2] >= 0
        assert corner[0] <= wide + 1e-9
        assert corner[1] <= high + 1e-9


def test_tensors_dtypes_and_channels() -> None:
    images = torch.rand(2, 1, 40, 50, requires_grad=True)
    batch, geometry = DynamicInput(32, stride=8, fill=0.0)(images)
    assert tuple(batch.shape) == (2, 1, 32, 32)
    batch.sum().backward()
    assert images.grad is not None
    matrix = geometry.matrix[0]
    rows = axis_weights(matrix[1, 1], matrix[1, 2], 40, 32, True)
    columns = axis_weights(matrix[0, 0], matrix[0, 2], 50, 32, True)
    placed = rows @ images[0, 0].detach().double().numpy() @ columns.T
    assert np.allclose(batch[0, 0].detach().numpy(), placed, atol=1e-5)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1))
    whole, _ = DynamicInput(64)([torch.rand(3, 30, 40), torch.rand(3, 90, 20)])
    assert model(whole).shape == (2, 2, 1, 1)
    assert "base=64, min_side=32, stride=32" in repr(DynamicInput(64))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="DynamicInput needs at least one image; got none"):
        DynamicInput()([])
    with pytest.raises(ConfigError, match=r"DynamicInput.base must be a whole number of at least 1; got 0"):
        DynamicInput(0)
    with pytest.raises(ConfigError, match=r"DynamicInput.min_side must be a whole number of at least 1; got -1"):
        DynamicInput(min_side=-1)
    with pytest.raises(
        ConfigError, match=r"DynamicInput pads with Fit.fill, .*; got images with 1 channels. Pass fill="
    ):
        DynamicInput()([torch.rand(1, 30, 40)])
