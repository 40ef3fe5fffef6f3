"""The reference that every engine is held against, written from the definition in float64."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from resflow.geometry.affine import Geometry, is_axis_aligned

FILL = (7, 100, 200)
Pixels = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tolerance:
    """Largest errors in grey levels: of the mean over an image's pixels, and of any one of them.

    Border pixels are those whose filter reaches beyond the source's edge, where engines differ in kind: the definition
    cuts the filter off and weighs the rest up, DALI repeats the edge.
    """

    mean: float
    largest: float
    border_mean: float
    border_largest: float


@functools.lru_cache(64)
def reference_decode(encoded: bytes) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]: what Pillow decodes, upright, RGB."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    if image.mode == "I;16":
        return np.stack([np.minimum(np.asarray(image), 255)] * 3, axis=-1).astype(np.uint8)
    if image.mode in ("RGBA", "LA", "P", "PA"):
        return np.asarray(image.convert("RGBA"))[..., :3]
    return np.asarray(image.convert("RGB"))


def cubic(x: Pixels, a: float) -> Pixels:
    """Keys' kernel at distances x."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def axis_weights(scale: float, shift: float, size: int, out: int, antialias: bool, how: str = "bilinear") -> Pixels:
    """float64 [out, size]: each output pixel's weights on source pixels along one axis."""
    centres = (np.arange(out) + 0.5 - shift) / scale
    if how == "nearest":
        return np.eye(size)[np.clip(np.floor(np.round(centres, 6)), 0, size - 1).astype(int)]
    radius = max(1.0, 1.0 / abs(scale)) if antialias else 1.0
    if how == "bicubic":
        centres = np.clip(centres, 0, size)
    distance = np.abs(np.arange(size)[None] + 0.5 - centres[:, None]) / radius
    weights = cubic(distance, -0.5) if how == "bicubic" else np.clip(1.0 - distance, 0.0, None)
    total = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def scaled(
    pixels: npt.NDArray[np.uint8], matrix: Pixels, size: tuple[int, int], antialias: bool, how: str = "bilinear"
) -> Pixels:
    rows = axis_weights(matrix[1, 1], matrix[1, 2], pixels.shape[0], size[0], antialias, how)
    columns = axis_weights(matrix[0, 0], matrix[0, 2], pixels.shape[1], size[1], antialias, how)
    used_rows, used_columns = rows.any(axis=0), columns.any(axis=0)
    part = pixels[used_rows][:, used_columns].astype(np.float64)
    rows, columns = rows[:, used_rows], columns[:, used_columns]
    half = (rows @ part.reshape(len(part), -1)).reshape(size[0], part.shape[1], 3)
    # [out W, W] @ [W, out H * 3] -> [out W, out H, 3]
    full = columns @ half.transpose(1, 0, 2).reshape(part.shape[1], size[0] * 3)
    return np.clip(full.reshape(size[1], size[0], 3).transpose(1, 0, 2).copy(), 0, 255)


def sampled(pixels: Pixels, u: Pixels, v: Pixels, how: str) -> Pixels:
    """Pixels around positions (u, v), float64 [H, W] each, edges repeated: as Pillow's transform samples them."""
    if how == "nearest":
        u, v = np.floor(np.round(u, 6)) + 0.5, np.floor(np.round(v, 6)) + 0.5
    reach, kernel = (2, lambda x: cubic(x, -1.0)) if how == "bicubic" else (1, lambda x: np.clip(1 - x, 0, None))
    if how == "bilinear":
        u, v = np.clip(u, 0.5, pixels.shape[1] - 0.5), np.clip(v, 0.5, pixels.shape[0] - 0.5)
    left, top = np.floor(u - 0.5), np.floor(v - 0.5)
    placed = np.zeros((*u.shape, 3))
    for row in range(1 - reach, reach + 1):
        for column in range(1 - reach, reach + 1):
            weight = kernel(np.abs(v - 0.5 - top - row)) * kernel(np.abs(u - 0.5 - left - column))
            rows = np.clip(top + row, 0, pixels.shape[0] - 1).astype(int)
            columns = np.clip(left + column, 0, pixels.shape[1] - 1).astype(int)
            placed += weight[..., None] * pixels[rows, columns]
    return np.clip(placed, 0, 255)


def sources(matrix: Pixels, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Source x and y of each output pixel's centre, float64 [H, W] each."""
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    back = np.linalg.inv(matrix)
    return back[0, 0] * x + back[0, 1] * y + back[0, 2], back[1, 0] * x + back[1, 1] * y + back[1, 2]


def reference_place(
    pixels: npt.NDArray[np.uint8],
    matrix: Pixels,
    size: tuple[int, int],
    antialias: bool = True,
    interpolation: str = "bilinear",
    warp: str = "bilinear",
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """The placed image, float64 [H, W, 3], and which of its pixels are image rather than fill."""
    height, width, _ = pixels.shape
    x, y = (np.round(value, 6) for value in sources(matrix, size))
    image = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if is_axis_aligned(matrix):
        placed = scaled(pixels, matrix, size, antialias, interpolation)
    else:
        by_x, by_y = np.hypot(*matrix[:2, 0]), np.hypot(*matrix[:2, 1])
        wide = max(1, int(np.ceil(round(width * by_x - 0.5, 6))))
        high = max(1, int(np.ceil(round(height * by_y - 0.5, 6))))
        small = scaled(pixels, np.diag([by_x, by_y, 1.0]), (high, wide), antialias, interpolation)
        placed = sampled(small, x * by_x, y * by_y, warp)
    placed[~image] = FILL
    return placed, image


def interior(
    pixels: npt.NDArray[np.uint8], matrix: Pixels, size: tuple[int, int], reach: float = 1.0
) -> npt.NDArray[np.bool_]:
    """bool [H, W]: output pixels whose filter stays inside the source."""
    height, width, _ = pixels.shape
    x, y = sources(matrix, size)
    by_x, by_y = np.hypot(*matrix[:2, 0]), np.hypot(*matrix[:2, 1])
    warp = (
        0.0 if is_axis_aligned(matrix) else 1.5
    )  # intermediate pixels that a bilinear sample reaches beyond its centre
    near_x, near_y = (reach * max(1.0, 1 / by) + reach * warp / by for by in (by_x, by_y))
    return np.asarray((x >= near_x) & (x <= width - near_x) & (y >= near_y) & (y <= height - near_y))


@functools.lru_cache(4096)
def expected(
    encoded: bytes, matrix: tuple[float, ...], size: tuple[int, int], interpolation: str, warp: str
) -> tuple[Pixels, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The reference's placed image, which of its pixels are image, and which of those are interior."""
    pixels, square = reference_decode(encoded), np.array(matrix).reshape(3, 3)
    placed, image = reference_place(pixels, square, size, True, interpolation, warp)
    reach = 2.0 if "bicubic" in (interpolation, warp) else 1.0
    return placed, image, image & interior(pixels, square, size, reach)


def geometry(encoded: Sequence[bytes], matrices: Sequence[Pixels], size: tuple[int, int]) -> Geometry:
    """The geometry that places images by the given matrices; sizes come from the reference decode."""
    sizes = np.array([reference_decode(data).shape[:2] for data in encoded], dtype=np.int32).reshape(-1, 2)
    return Geometry(np.array(matrices, dtype=np.float64).reshape(-1, 3, 3), sizes, size)


def check_batch(
    images: torch.Tensor,
    encoded: Sequence[bytes],
    where: Geometry,
    tolerance: Tolerance,
    names: Sequence[str] | None = None,
    interpolation: str = "bilinear",
    warp: str = "bilinear",
) -> list[float]:
    """Hold a decoded batch against the reference; the mean error of each image.

    Raises:
        AssertionError: a wrong shape or layout, a fill pixel that is not the fill, an error above the tolerance.
    """
    assert images.dtype == torch.uint8
    assert tuple(images.shape) == (len(encoded), 3, *where.output_size)
    frames = images.cpu().permute(0, 2, 3, 1)
    assert frames.is_contiguous(), "not channels_last"
    valid = where.valid_mask()
    means = []
    for number, data in enumerate(encoded):
        name = names[number] if names else f"image {number}"
        matrix = tuple(where.matrix[number].ravel().tolist())
        placed, image, inner = expected(data, matrix, where.output_size, interpolation, warp)
        assert np.array_equal(image, valid[number]), f"{name}: the reference's outline is not valid_mask's"
        got = frames[number].numpy().astype(np.float64)
        wrong = (got[~image] != FILL).any(axis=-1).sum()
        assert wrong == 0, f"{name}: {wrong} padding pixels are not the fill"
        error = np.abs(got - placed)
        means.append(float(error[image].mean()) if image.any() else 0.0)
        for part, pixels, mean, largest in (
            ("interior", inner, tolerance.mean, tolerance.largest),
            ("border", image & ~inner, tolerance.border_mean, tolerance.border_largest),
        ):
            if not pixels.any():
                continue
            found = float(error[pixels].mean())
            assert found <= mean, f"{name}: mean {part} error {found:.3f} > {mean}"
            found = float(error[pixels].max())
            assert found <= largest, f"{name}: largest {part} error {found:.2f} > {largest}"
    return means
