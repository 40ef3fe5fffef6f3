"""Pixels that are decoded already are placed on their device as the engines place them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from resflow.augment.place import place_pixels
from resflow.decode import open_engine
from resflow.errors import ConfigError
from resflow.geometry import Geometry
from tests.data import real
from tests.decode import samples
from tests.decode.reference import FILL, check_batch, geometry, reference_decode, reference_place
from tests.laws.test_decode_laws import PHOTOGRAPHS, SHAPES, SIZES, TIGHT, placements

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def pixels(encoded: bytes, device: str = "cpu") -> torch.Tensor:
    """uint8 [3, H, W] of the reference decode."""
    return torch.from_numpy(reference_decode(encoded).transpose(2, 0, 1).copy()).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SHAPES)
def test_placements_match_the_reference(size: tuple[int, int], device: str) -> None:
    for number, (height, width) in enumerate(SIZES):
        cases = placements(height, width, size)
        encoded = [samples.png(height, width, number)] * len(cases)
        where = geometry(encoded, list(cases.values()), size)
        names = [f"{height}x{width} {case}" for case in cases]
        images = place_pixels([pixels(data, device) for data in encoded], where, fill=FILL)
        assert images.device.type == device
        check_batch(images, encoded, where, TIGHT, names)


@pytest.mark.parametrize("device", DEVICES)
def test_float_images_match_the_reference_closely(device: str) -> None:
    for number, (height, width) in enumerate(SIZES[1:6:2]):
        cases = placements(height, width, (70, 130))
        data = samples.png(height, width, number)
        where = geometry([data] * len(cases), list(cases.values()), (70, 130))
        for dtype, tolerance in ((torch.float32, 2e-2), (torch.float64, 1e-3)):
            images = pixels(data, device).to(dtype)[None].expand(len(cases), -1, -1, -1)
            placed = place_pixels(images, where, fill=FILL)
            assert placed.dtype == dtype
            assert placed.is_contiguous(memory_format=torch.channels_last)
            for name, got, matrix in zip(cases, placed, where.matrix, strict=True):
                expected, _ = reference_place(reference_decode(data), matrix, (70, 130))
                error = np.abs(got.cpu().permute(1, 2, 0).numpy() - expected).max()
                assert error <= tolerance, f"{height}x{width} {name} {dtype}: {error}"


@pytest.mark.parametrize("engine", ["pillow", "turbo"])
def test_engines_and_place_pixels_agree(engine: str) -> None:
    files = sorted(real("coco-mini").rglob("*.jpg"))[::60]
    encoded = [file.read_bytes() for file in files]
    decoder = open_engine(engine, fill=FILL)
    for case in ("letterbox", "crop, mirrored", "rotated 17"):
        matrices = [placements(*reference_decode(data).shape[:2], (96, 128))[case] for data in encoded]
        where = geometry(encoded, matrices, (96, 128))
        ours = place_pixels([pixels(data) for data in encoded], where, fill=FILL)
        check_batch(ours, encoded, where, TIGHT, [f"{file.name} {case}" for file in files])
        theirs = decoder.decode(encoded, where)
        outside = torch.from_numpy(~where.valid_mask())[:, None].expand_as(ours)
        assert torch.equal(ours[outside], theirs[outside])
        gap = (ours.int() - theirs.int()).abs()
        allowed = PHOTOGRAPHS[engine]
        assert float(gap.float().mean()) <= allowed.mean
        assert int(gap.max()) <= 1 + allowed.largest
    decoder.close()


def half_a_pixel(matrix: np.ndarray) -> np.ndarray:
    return np.array([[1, 0, 0.5], [0, 1, 0], [0, 0, 1]]) @ matrix


def centres_taken_for_edges(matrix: np.ndarray) -> np.ndarray:
    by_half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.linalg.inv(by_half) @ matrix @ by_half


@pytest.mark.parametrize("fault", [half_a_pixel, centres_taken_for_edges])
@pytest.mark.parametrize("case", ["stretch", "crop", "rotated -140, small"])
def test_a_planted_shift_is_caught(case: str, fault: Callable[[np.ndarray], np.ndarray]) -> None:
    data, size = samples.png(240, 250), (48, 64)
    sound = geometry([data], [placements(240, 250, size)[case]], size)
    check_batch(place_pixels([pixels(data)], sound, fill=FILL), [data], sound, TIGHT)
    shifted = geometry([data], [fault(sound.matrix[0])], size)
    with pytest.raises(AssertionError, match=r"error|padding"):
        check_batch(place_pixels([pixels(data)], shifted, fill=FILL), [data], sound, TIGHT)


def test_nearest_takes_the_pixel_that_each_centre_lies_on() -> None:
    for height, width in SIZES:
        cases = placements(height, width, (48, 64))
        count = len(cases)
        where = Geometry(np.stack(list(cases.values())), np.full((count, 2), (height, width), dtype=np.int32), (48, 64))
        label = torch.arange(height * width, dtype=torch.float64).view(1, height, width)
        placed = place_pixels([label] * count, where, fill=-1, resample="nearest")[:, 0].numpy()
        y, x = np.mgrid[0:48, 0:64] + 0.5
        for got, (name, matrix) in zip(placed, cases.items(), strict=True):
            source = np.round(np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(matrix).T, 6)
            column, row = np.floor(source[..., 0]), np.floor(source[..., 1])
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            assert np.array_equal(got, np.where(inside, row * width + column, -1)), f"{height}x{width} {name}"


def test_a_batch_of_one_size_and_matrix_is_placed_as_its_images() -> None:
    images = torch.randint(0, 256, (4, 3, 40, 50), dtype=torch.uint8)
    sizes = np.full((4, 2), (40, 50), dtype=np.int32)
    for matrix in placements(40, 50, (48, 64)).values():
        where = Geometry(np.tile(matrix, (4, 1, 1)), sizes, (48, 64))
        assert torch.equal(place_pixels(images, where, fill=0), place_pixels(list(images), where, fill=0))


def test_gradients_flow_to_floating_images() -> None:
    image = torch.rand(1, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    for case in ("letterbox", "crop, mirrored", "rotated 17"):
        where = Geometry(placements(4, 3, (3, 4))[case][None], np.array([[4, 3]], dtype=np.int32), (3, 4))
        assert torch.autograd.gradcheck(
            lambda x, where=where: place_pixels(x, where, fill=0.5), (image,), fast_mode=True
        )


def where_for(count: int) -> Geometry:
    return Geometry(np.tile(np.eye(3), (count, 1, 1)), np.full((count, 2), (4, 6), dtype=np.int32), (4, 6))


@pytest.mark.parametrize(
    ("images", "fill", "message"),
    [
        ([torch.zeros(3, 4, 6)], 0, "got 1 images but a geometry for 2"),
        ([torch.zeros(3, 4, 6), torch.zeros(3, 4, 5)], 0, r"image 1 is 4x5 \(HxW\), but its geometry expects 4x6"),
        ([torch.zeros(3, 4, 6), torch.zeros(1, 4, 6)], 0, "image 1 is torch.float32 on cpu with 1. Convert"),
        ([torch.zeros(3, 4, 6, dtype=torch.int32)] * 2, 0, r"image 0 must be uint8 or floating \[C,H,W\]; got"),
        (torch.zeros(2, 3, 4, 6), (0, 1), "one for each of the 3 channels; got 2 values"),
        (torch.zeros(2, 3, 4, 6, dtype=torch.uint8), 0.5, "whole numbers from 0 to 255; got"),
    ],
)
def test_what_does_not_fit_together_is_refused(images: object, fill: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place_pixels(images, where_for(2), fill=fill)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="resample must be one of linear, nearest; got 'cubic'"):
        place_pixels(torch.zeros(2, 3, 4, 6), where_for(2), fill=0, resample="cubic")
