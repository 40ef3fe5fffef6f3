"""Place images that are pixels already into a batch's shape, on their own device: what decode engines do, in torch.

The contract is the engines': an output pixel whose centre maps into the image shows it and every other pixel is the
fill; axis-aligned matrices are one separable antialiased resize (a triangle of radius max(1, shrink) source pixels, cut
off at the image's edges and renormalised); turned ones are first scaled by the lengths of the matrix's columns, then
sampled bilinearly once, edges repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from resflow.errors import ConfigError
from resflow.geometry.affine import Geometry, factor, is_axis_aligned, transform_points

RESAMPLE = ("linear", "nearest")
_BLOCK = 64  # output pixels that one matrix of weights makes on a CPU
_MARGIN = 2  # intermediate pixels kept around the part that a warp reads: its bilinear footprint, and rounding


class _Axis(NamedTuple):
    """Which source pixels the output pixels `low` to `high` of one axis show: pixel j is at start + (j + 0.5) step."""

    start: float
    step: float
    low: int
    high: int


def place_pixels(
    images: Sequence[torch.Tensor] | torch.Tensor,
    geometry: Geometry,
    *,
    fill: float | Sequence[float],
    resample: str = "linear",
) -> torch.Tensor:
    """Place images into their batch's shape, on the device that they are on.

    Args:
        images: B tensors [C, Hi, Wi], or one tensor [B, C, H, W]; uint8 or floating, all of one dtype and device.
        geometry: how they are placed; `geometry.source_size` must be their sizes.
        fill: value of padding pixels, one for all channels or one for each, in the images' own range.
        resample: "linear" (antialiased), or "nearest" (the source pixel that an output pixel's centre lies on; for
            masks and label maps).

    Returns:
        [B, C, H, W] in channels_last, of the images' dtype, on their device. Floating images are differentiable.

    Raises:
        ConfigError: images, geometry and fill do not fit together.
    """
    first = _check(images, geometry, resample)
    colour = _fill(fill, first)
    height, width = geometry.output_size
    batch, channels = len(geometry), first.shape[0]
    out = torch.empty(
        (batch, channels, height, width),
        dtype=first.dtype,
        device=first.device,
        memory_format=torch.channels_last,
    )
    out[:] = colour[:, None, None]
    if isinstance(images, torch.Tensor) and (geometry.matrix == geometry.matrix[0]).all():
        parts = [slice(0, batch)]  # alike: one operation for all
    else:
        parts = [slice(position, position + 1) for position in range(batch)]
    turned = ~is_axis_aligned(geometry.matrix)
    valid = geometry.valid.tolist()
    for part in parts:
        position = part.start
        source = images[part] if isinstance(images, torch.Tensor) else _alone(images[position])
        left, top, right, bottom = valid[position]
        if turned[position]:
            out[part] = _warped(source, geometry, position, colour, resample)
        elif left < right and top < bottom:
            (sx, _, tx), (_, sy, ty) = geometry.matrix[position, :2].tolist()
            rows, columns = _Axis(-ty / sy, 1 / sy, top, bottom), _Axis(-tx / sx, 1 / sx, left, right)
            shown = _resized(source, rows, columns, resample)
            out[part, :, top:bottom, left:right] = _as(shown, out.dtype)
    return out


def _check(images: Sequence[torch.Tensor] | torch.Tensor, geometry: Geometry, resample: str) -> torch.Tensor:
    """Refuse what does not fit together; the first image otherwise."""
    if resample not in RESAMPLE:
        raise ConfigError(f"resample must be one of {', '.join(RESAMPLE)}; got {resample!r}")
    if not len(images) or len(images) != len(geometry):
        raise ConfigError(
            f"place_pixels got {len(images)} images but a geometry for {len(geometry)}; they must agree and be at "
            "least one"
        )
    first = images[0]
    for position, (image, size) in enumerate(zip(images, geometry.source_size.tolist(), strict=True)):
        if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise ConfigError(
                f"image {position} must be uint8 or floating [C,H,W]; got {image.dtype} {list(image.shape)}"
            )
        if (image.dtype, image.device, image.shape[0]) != (first.dtype, first.device, first.shape[0]):
            raise ConfigError(
                f"images must be of one dtype, device and number of channels; image 0 is {first.dtype} on "
                f"{first.device} with {first.shape[0]}, image {position} is {image.dtype} on {image.device} with "
                f"{image.shape[0]}. Convert them before."
            )
        if list(image.shape[1:]) != size:
            raise ConfigError(
                f"image {position} is {image.shape[1]}x{image.shape[2]} (HxW), but its geometry expects "
                f"{size[0]}x{size[1]}"
            )
    return first


def _fill(fill: float | Sequence[float], image: torch.Tensor) -> torch.Tensor:
    """The fill as a tensor [C] of an image's dtype, on its device."""
    values = [fill] * image.shape[0] if isinstance(fill, int | float) else list(fill)
    if len(values) != image.shape[0]:
        raise ConfigError(
            f"fill must be one value or one for each of the {image.shape[0]} channels; got {len(values)} values"
        )
    if image.dtype == torch.uint8 and not all(0 <= value <= 255 and value == int(value) for value in values):
        raise ConfigError(f"fill of uint8 images must be whole numbers from 0 to 255; got {values}")
    return torch.tensor(values, dtype=image.dtype, device=image.device)


def _alone(image: torch.Tensor) -> torch.Tensor:
    """An image [C, H, W] as a batch [1, C, H, W]; where channels lie innermost, strided so that torch takes note."""
    return image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)


def _as(pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Pixels in another dtype, rounded where it has no fractions."""
    if dtype == torch.uint8 and pixels.dtype != dtype:
        return pixels.add(0.5).clamp_(0, 255).to(dtype)
    return pixels.to(dtype)


def _working(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _resized(source: torch.Tensor, rows: _Axis, columns: _Axis, resample: str) -> torch.Tensor:
    """A window of images [N, C, h, w] resized to [N, C, rows, columns], in any dtype."""
    if resample == "nearest":
        y = _nearest(_centres(rows, source.device), source.shape[2])
        x = _nearest(_centres(columns, source.device), source.shape[3])
        return source[:, :, y[:, None], x]
    mirrored = [dim for dim, axis in ((2, rows), (3, columns)) if axis.step < 0]
    if mirrored:
        source = source.flip(mirrored)
        rows, columns = (
            axis._replace(start=size - axis.start, step=-axis.step) if axis.step < 0 else axis
            for axis, size in ((rows, source.shape[2]), (columns, source.shape[3]))
        )
    if _whole(rows, source.shape[2]) and _whole(columns, source.shape[3]):
        # torch's own kernels are many times faster, but know no windows; in uint8 on the CPU only.
        if source.dtype == torch.uint8 and source.device.type == "cpu":
            source = source.contiguous(memory_format=torch.channels_last)  # many times faster than in planes
        else:
            source = source.to(_working(source.dtype))
        size = (rows.high - rows.low, columns.high - columns.low)
        return F.interpolate(source, size, mode="bilinear", align_corners=False, antialias=True)
    # Only what the window reads is converted.
    (top, bottom), (left, right) = _reach(rows, source.shape[2]), _reach(columns, source.shape[3])
    part = source[:, :, top:bottom, left:right].to(_working(source.dtype), memory_format=torch.contiguous_format)
    return _blended(
        _blended(part, rows._replace(start=rows.start - top), 2), columns._replace(start=columns.start - left), 3
    )


def _blended(source: torch.Tensor, axis: _Axis, dim: int) -> torch.Tensor:
    """Floating images [N, C, h, w] resized along one axis by matrices of weights."""
    # The weights lie along a diagonal: on a CPU, blocks of it spare most of the products.
    block = _BLOCK if source.device.type == "cpu" else axis.high - axis.low
    parts = []
    for low in range(axis.low, axis.high, block):
        piece = axis._replace(low=low, high=min(low + block, axis.high))
        first, last = _reach(piece, source.shape[dim])
        weights = _weights(piece, first, last, source)
        window = source.narrow(dim, first, last - first)
        parts.append(weights @ window if dim == 2 else window @ weights.T)
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _whole(axis: _Axis, size: int) -> bool:
    """Whether the output pixels of an axis show all of the source and nothing else."""
    begin, end = axis.start + axis.low * axis.step, axis.start + axis.high * axis.step
    return abs(begin) < 1e-6 * axis.step and abs(end - size) < 1e-6 * axis.step


def _centres(axis: _Axis, device: torch.device) -> torch.Tensor:
    """float64 [high - low]: source coordinates of the output pixels' centres."""
    pixels = torch.arange(axis.low, axis.high, dtype=torch.float64, device=device)
    return pixels.add_(0.5).mul_(axis.step).add_(axis.start)


def _nearest(coordinate: torch.Tensor, size: int) -> torch.Tensor:
    """int64: the source pixels that float64 coordinates lie on; edges are decided at six decimals."""
    return coordinate.round(decimals=6).floor_().clamp_(0, size - 1).long()


def _reach(axis: _Axis, size: int) -> tuple[int, int]:
    """First source pixel that an axis reads, and the one after the last."""
    radius = max(1.0, axis.step)
    first = math.floor(axis.start + (axis.low + 0.5) * axis.step - radius)
    last = math.ceil(axis.start + (axis.high - 0.5) * axis.step + radius)
    first = min(max(first, 0), size - 1)
    return first, max(min(last, size), first + 1)


def _weights(axis: _Axis, first: int, last: int, like: torch.Tensor) -> torch.Tensor:
    """Antialiased linear weights [high - low, last - first] of source pixels, in the dtype of `like`."""
    # The centres of shown pixels lie on the source but for rounding, so a pixel of it is always within the radius.
    centres = _centres(axis, like.device).clamp_(first, last)
    pixels = torch.arange(first, last, dtype=torch.float64, device=like.device).add_(0.5)
    weights = (pixels - centres[:, None]).abs_().mul_(-1 / max(1.0, axis.step)).add_(1).clamp_(min=0)
    return weights.div_(weights.sum(dim=1, keepdim=True)).to(like.dtype)


def _warped(
    source: torch.Tensor, geometry: Geometry, position: int, colour: torch.Tensor, resample: str
) -> torch.Tensor:
    """Images [N, C, h, w] under a turned matrix, [N, C, H, W]."""
    height, width = geometry.output_size
    high, wide = source.shape[2:]
    matrix = geometry.matrix[position : position + 1]
    inverse = np.linalg.inv(matrix).astype(np.float64)
    (a, b, c), (d, e, f) = inverse[0, :2].tolist()
    y = torch.arange(height, dtype=torch.float64, device=source.device).add_(0.5)[:, None]
    x = torch.arange(width, dtype=torch.float64, device=source.device).add_(0.5)
    u, v = (a * x + b * y + c).round(decimals=6), (d * x + e * y + f).round(decimals=6)  # [H, W], source pixels
    inside = (u >= 0) & (u < wide) & (v >= 0) & (v < high)
    if resample == "nearest":
        shown = source[:, :, _nearest(v, high), _nearest(u, wide)]
    else:
        scale = np.diagonal(factor(matrix)[0][0])[:2]  # x, y
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
        reached = transform_points(inverse, corners[None])[0] * scale  # [4, 2], pixels of the scaled source
        # Pixels of the scaled source whose centres lie on it; at least one, so that edges can be repeated.
        extent = np.maximum(np.ceil(np.round(np.array([wide, high]) * scale - 0.5, 6)), 1)
        begin = np.clip(np.floor(reached.min(axis=0)) - _MARGIN, 0, extent).astype(int).tolist()
        end = np.clip(np.ceil(reached.max(axis=0)) + _MARGIN, 0, extent).astype(int).tolist()
        if begin[0] >= end[0] or begin[1] >= end[1]:
            return colour[:, None, None].expand(*source.shape[:2], height, width)
        columns, rows = (_Axis(0.0, 1 / scale[i], begin[i], end[i]) for i in (0, 1))
        small = _resized(source, rows, columns, resample)
        small = small.to(_working(source.dtype))
        grid = torch.stack(
            [
                (u * scale[0] - begin[0]) * (2 / (end[0] - begin[0])) - 1,
                (v * scale[1] - begin[1]) * (2 / (end[1] - begin[1])) - 1,
            ],
            dim=-1,
        ).to(small.dtype)
        grid = grid.expand(len(small), height, width, 2)
        shown = F.grid_sample(small, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(inside, _as(shown, source.dtype), colour[:, None, None])
