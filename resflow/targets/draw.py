"""Planes of pixels sampled through a matrix: whole on any device, or object by object on the CPU.

Every output pixel takes the source pixel in which its centre lies: the nearest one. torchvision calls this
"nearest-exact"; PyTorch's plain "nearest" is another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from resflow.errors import TargetError
from resflow.geometry import Geometry, Matrices
from resflow.geometry.affine import is_axis_aligned, transform_points
from resflow.targets.masks import Block, Mask, cut, decode_block
from resflow.targets.types import Annotation

_NOISE = 5e-7  # of a pixel: rounding where a centre falls between two pixels; Geometry.valid rounds to 6 decimals


class Lookup:
    """Which source pixel each output pixel shows, under one matrix.

    Under an axis-aligned matrix, whole rows and columns are looked up; only under another each pixel by itself.

    Args:
        matrix: float64 [3, 3], source pixels to output pixels.
        source_size: height and width of the source.
        output_size: height and width of the output.
    """

    def __init__(self, matrix: Matrices, source_size: tuple[int, int], output_size: tuple[int, int]) -> None:
        self.matrix, self.inverse = matrix, np.linalg.inv(matrix)
        self.source_size, self.output_size = source_size, output_size
        self.aligned = bool(is_axis_aligned(matrix))
        if self.aligned:  # int64 [W] and [H]: source column and row, which may lie outside of the source
            height, width = output_size
            self.columns = _pixel(self.inverse[0, 0] * (np.arange(width) + 0.5) + self.inverse[0, 2])
            self.rows = _pixel(self.inverse[1, 1] * (np.arange(height) + 0.5) + self.inverse[1, 2])

    def sample(self, planes: torch.Tensor, fill: int = 0) -> torch.Tensor:
        """Planes [N, h, w] of the source as planes [N, H, W] of the output, of the same dtype on the same device.

        Args:
            planes: on any device.
            fill: value of output pixels that show no source.
        """
        if not self.aligned:
            places = self._places(planes.device)
            flat = planes.flatten(1).index_select(1, places.clamp(min=0).flatten())
            return flat.reshape(-1, *self.output_size).masked_fill_(places < 0, fill)
        left, right = _span(self.columns, 0, self.source_size[1])
        top, bottom = _span(self.rows, 0, self.source_size[0])
        columns = torch.from_numpy(self.columns[left:right]).to(planes.device)
        rows = torch.from_numpy(self.rows[top:bottom]).to(planes.device)
        shown = planes.index_select(1, rows).index_select(2, columns)
        if shown.shape[1:] == self.output_size:
            return shown
        output = planes.new_full((len(planes), *self.output_size), fill)
        output[:, top:bottom, left:right] = shown
        return output

    def draw(self, block: Block, output: Mask) -> tuple[int, int, int, int]:
        """Draw one mask into an output of zeros, and touch only the part that it reaches.

        Args:
            block: of the source.
            output: uint8 [H, W], zeros; changed.

        Returns:
            Left, top, right, bottom of what is not 0 now; all 0 if nothing is.
        """
        if not block.pixels.size:
            return 0, 0, 0, 0
        start_x, start_y, stop_x, stop_y = block.edges
        if self.aligned:
            left, right = _span(self.columns, start_x, stop_x)
            top, bottom = _span(self.rows, start_y, stop_y)
            # Columns first: what COCO's run lengths decode to has its columns in one piece.
            columns = block.pixels.T.take(self.columns[left:right] - start_x, axis=0)
            shown = columns.take(self.rows[top:bottom] - start_y, axis=1).T
        else:
            corners = np.array([(x, y) for x in (start_x, stop_x) for y in (start_y, stop_y)], np.float64)
            moved = transform_points(self.matrix, corners)
            frame = self.output_size[::-1]
            left, top = np.clip(np.floor(moved.min(axis=0)), 0, frame).astype(int).tolist()
            right, bottom = np.clip(np.ceil(moved.max(axis=0)), 0, frame).astype(int).tolist()
            (a, b, c), (d, e, f) = self.inverse[:2].tolist()
            x, y = np.arange(left, right) + 0.5, np.arange(top, bottom)[:, None] + 0.5
            height, width = block.pixels.shape
            column = np.floor(a * x + (b * y + (c + _NOISE - start_x))).astype(np.int64)
            row = np.floor(d * x + (e * y + (f + _NOISE - start_y))).astype(np.int64)
            inside = column.view(np.uint64) < width  # a number below 0 is a large one without its sign
            inside &= row.view(np.uint64) < height
            row *= width
            row += column
            shown = np.ascontiguousarray(block.pixels).reshape(-1).take(row, mode="clip")
            shown *= inside
        output[top:bottom, left:right] = shown
        if not shown.size:
            return 0, 0, 0, 0
        drawn = cut(shown)
        x0, y0, x1, y1 = drawn.edges
        return (left + x0, top + y0, left + x1, top + y1) if drawn.pixels.size else (0, 0, 0, 0)

    def _places(self, device: torch.device) -> torch.Tensor:
        """int64 [H, W]: row * w + column of the source, or -1 where outside of it."""
        height, width = self.source_size
        y, x = (torch.arange(side, dtype=torch.float64, device=device) + 0.5 for side in self.output_size)
        (a, b, c), (d, e, f) = self.inverse[:2].tolist()
        column = (a * x + (b * y + (c + _NOISE))[:, None]).floor_()
        row = (d * x + (e * y + (f + _NOISE))[:, None]).floor_()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return torch.where(inside, row * width + column, -1).to(torch.int64)


def draw_masks(
    annotations: Sequence[Annotation], places: npt.NDArray[np.int64], geometry: Geometry, *, box_as_mask: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw masks of chosen objects where their images lie.

    Args:
        annotations: of the B images.
        places: int64 [N], ascending places among the objects of all images, one image after the other.
        geometry: how the B images are placed.
        box_as_mask: whether the box of an object without a mask is drawn.

    Returns:
        masks: uint8 [N, H, W], 0 or 1.
        edges: float64 [N, 4], left, top, right, bottom of what is not 0; all 0 if nothing is.

    Raises:
        TargetError: an object has no mask, or a broken one; names the object, and the image's `position`.
    """
    starts = np.cumsum([0, *map(len, annotations)])
    image = np.searchsorted(starts, places, side="right") - 1
    sizes = [(height, width) for height, width in geometry.source_size.tolist()]
    lookups = {
        position: Lookup(geometry.matrix[position], sizes[position], geometry.output_size)
        for position in set(image.tolist())
    }
    masks = np.zeros((len(places), *geometry.output_size), np.uint8)  # NumPy's zeros cost nothing where untouched
    edges = np.zeros((len(places), 4))
    for row, (place, position) in enumerate(zip((places - starts[image]).tolist(), image.tolist(), strict=True)):
        block = _decoded(annotations[position], place, sizes[position], position, box_as_mask)
        edges[row] = lookups[position].draw(block, masks[row])
    return torch.from_numpy(masks), torch.from_numpy(edges)


def warp_masks(
    masks: torch.Tensor, places: torch.Tensor, counts: Sequence[int], matrix: Matrices, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move masks within a batch.

    Args:
        masks: uint8 [M, H, W], on any device.
        places: int64 [N], ascending places of those that are wanted.
        counts: how many of the wanted each of the B images has.
        matrix: float64 [B, 3, 3], pixels before to pixels after.
        size: height and width of the batch, before and after.

    Returns:
        masks, edges: as `draw_masks`, on the same device.
    """
    still = (matrix == np.eye(3)).all(axis=(1, 2))
    if masks.device.type == "cpu":
        moved, edges = np.zeros((len(places), *size), np.uint8), np.zeros((len(places), 4))
        lookups = [Lookup(one, size, size) for one in matrix]
        image = np.repeat(np.arange(len(counts)), counts).tolist()
        for row, (place, position) in enumerate(zip(places.tolist(), image, strict=True)):
            mask = masks[place].numpy()
            block = cut(mask)
            if still[position]:
                moved[row], edges[row] = mask, block.edges if block.pixels.size else 0
            else:
                edges[row] = lookups[position].draw(block, moved[row])
        return torch.from_numpy(moved), torch.from_numpy(edges)
    wanted = masks[places]
    for planes, one, stays in zip(torch.split(wanted, list(counts)), matrix, still, strict=True):
        if len(planes) and not stays:
            planes.copy_(Lookup(one, size, size).sample(planes))
    return wanted, bounds(wanted)


def bounds(planes: torch.Tensor) -> torch.Tensor:
    """float64 [N, 4], left, top, right, bottom: the edges of what is not 0 in planes [N, H, W]; all 0 if nothing is."""
    if planes.shape[0] == 0:
        return planes.new_zeros((0, 4), dtype=torch.float64)
    columns, rows = planes.amax(1) != 0, planes.amax(2) != 0  # [N, W], [N, H]
    sides = []
    for filled in (columns, rows):
        length = filled.shape[1]
        place = torch.arange(length, device=planes.device)
        stop = torch.where(filled, place + 1, 0).amax(1)
        sides.append((torch.minimum(torch.where(filled, place, length).amin(1), stop), stop))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], 1).to(torch.float64)


def _decoded(annotation: Annotation, place: int, size: tuple[int, int], position: int, box_as_mask: bool) -> Block:
    mask = None if annotation.masks is None else annotation.masks[place]
    if mask is None and box_as_mask:
        edges = np.ceil(annotation.boxes[place] - 0.5)  # pixels whose centres lie in the box
        left, top, right, bottom = np.clip(edges, 0, [size[1], size[0]] * 2).astype(int).tolist()
        return Block(np.ones((max(bottom - top, 0), max(right - left, 0)), np.uint8), left, top)
    try:
        return decode_block(mask, size)
    except TargetError as error:
        where = f"object {place} of image {annotation.image_id}"
        raise TargetError(f"{where}: {error.message}", position=position) from error


def _span(pixels: npt.NDArray[np.int64], first: int, stop: int) -> tuple[int, int]:
    """The places [begin, end) of a lookup's rows or columns that show source pixels [first, stop); (0, 0) if none."""
    places = np.flatnonzero((pixels >= first) & (pixels < stop))
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _pixel(coordinate: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.floor(coordinate + _NOISE).astype(np.int64)
