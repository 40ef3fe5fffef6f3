"""The engine of pixels other than 8-bit RGB: images are decoded in their files' own numbers, and placed in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from resflow.decode import native, resample
from resflow.decode.base import (
    OVERSAMPLE,
    Encoded,
    Fill,
    Interpolations,
    Notice,
    check_scans,
    check_size,
    checked_header,
    decode_error,
    output_tensor,
)
from resflow.decode.place import FULL_SIZE, Grid
from resflow.decode.placement import INTERPOLATIONS, Placement, placement
from resflow.errors import DecodeError, HeaderError
from resflow.geometry.affine import Geometry
from resflow.images import ImageHeader
from resflow.images.pillow import DAMAGE
from resflow.images.values import file_values
from resflow.pixels import Pixels, fit_values

Array = npt.NDArray[Any]


class WideDecoder:
    """Decodes to other channels and dtypes than 8-bit RGB; one for all of them, so that engines agree.

    Args:
        pixels: what images shall be.
        fill: padding pixels: of three channels the three, else one number for all channels, in the pixels' own units.
        threads: decoding threads, at least 1.
        strict: whether images are refused that would be among the notices.
    """

    def __init__(
        self,
        pixels: Pixels,
        fill: Fill = (0, 0, 0),
        threads: int = 1,
        oversample: float = OVERSAMPLE,
        strict: bool = False,
    ) -> None:
        self._pixels, self._fill, self._oversample, self._strict = pixels, fill, oversample, strict
        self._dtype: torch.dtype = getattr(torch, pixels.dtype)
        self.notices: list[Notice] = []
        """Of the last batch."""
        self._pool = ThreadPoolExecutor(threads, "resflow-wide") if threads > 1 else None

    def decode(
        self,
        encoded: Sequence[Encoded | Array],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: Interpolations = "bilinear",
        warp: Interpolations = "bilinear",
    ) -> torch.Tensor:
        """See `Decoder.decode`; the result is of the pixels' dtype and channels."""
        where = placement(geometry, interpolation, warp)
        sizes = geometry.source_size.tolist()
        self.notices = []
        ready: dict[int, Array] = {}
        channels = self._pixels.channels
        if not isinstance(channels, int):
            ready = {0: self._read(0, encoded[0], sizes[0], where)[0]} if len(encoded) else {}
            channels = ready[0].shape[2] if ready else 1
            self.notices = []
        result = output_tensor(encoded, geometry, out, "cpu", channels, self._dtype)
        frames = result.permute(0, 2, 3, 1).numpy()

        def decode_one(position: int) -> None:
            values, grid = self._read(position, encoded[position], sizes[position], where)
            if values.shape[2] != frames.shape[3]:
                raise DecodeError(
                    f"image {position} of the batch has {values.shape[2]} channels, and the first has "
                    f'{frames.shape[3]}: Pixels(channels="file") needs files that agree. Say how many: '
                    f"Pixels(channels={frames.shape[3]}).",
                    position=position,
                )
            _place(values, frames[position], where, position, sizes[position], self._fill, grid)

        self._for_each(decode_one, len(encoded))
        self.notices.sort()
        return result

    def close(self) -> None:
        """See `Decoder.close`."""
        if self._pool is not None:
            self._pool.shutdown()

    def _for_each(self, decode_one: Callable[[int], None], count: int) -> None:
        if self._pool is None:
            for position in range(count):
                decode_one(position)
            return
        jobs = [self._pool.submit(decode_one, position) for position in range(count)]
        wait(jobs)  # all, also after an error: nothing may write to `out` after this returns
        for job in jobs:
            job.result()

    def _read(self, position: int, encoded: Encoded | Array, size: list[int], where: Placement) -> tuple[Array, Grid]:
        """One image, upright, in the pixels' channels and dtype, and how it lies on its source."""
        expected = (size[0], size[1])
        kind = ""
        try:
            if isinstance(encoded, np.ndarray):
                values = encoded[..., None] if encoded.ndim == 2 else encoded
            else:
                header = checked_header("Resflow", position, encoded, expected)
                check_scans("Resflow", position, encoded, header)
                kind = header.format
                if (grey := self._grey_jpeg(encoded, header, where, position)) is not None:
                    return grey
                values = file_values(encoded)
            check_size("Resflow", position, (values.shape[0], values.shape[1]), expected)
            values, lost = fit_values(values, self._pixels)
        except (*DAMAGE, HeaderError) as error:
            if isinstance(error, DecodeError):
                raise
            if isinstance(encoded, np.ndarray):
                raise DecodeError(
                    f"image {position} of the batch cannot be used: {error}.", position=position
                ) from error
            raise decode_error("Resflow", position, encoded, str(error), kind) from error
        if lost and self._strict:
            raise DecodeError(
                f"image {position} of the batch is not decoded, since the pipeline is strict: {lost}. Say what becomes "
                "of its values (Pixels(values=...)), choose a wider dtype, or pass strict=False.",
                position=position,
            )
        if lost:
            self.notices.append(Notice(position, "cut off", lost))
        return values, FULL_SIZE

    def _grey_jpeg(
        self, encoded: Encoded, header: ImageHeader, where: Placement, position: int
    ) -> tuple[Array, Grid] | None:
        """The brightness of a JPEG, which is stored as such: no colour is decoded; None of what this does not take."""
        pixels = self._pixels
        if header.format != "jpeg" or header.orientation != 1 or pixels.channels != 1 or pixels.values is not None:
            return None
        if pixels.dtype != "uint8" or INTERPOLATIONS[where.filter[position]] == "nearest":
            return None
        shrink = float(np.abs(where.step[position]).min())
        eighths = next((part for part in (1, 2, 4) if shrink * part / 8 >= self._oversample), 8)
        rows, columns = -(-header.height * eighths // 8), -(-header.width * eighths // 8)
        try:
            if simplejpeg.decode_jpeg_header(encoded)[2] not in ("GRAY", "Gray", "YCbCr"):
                return None
            found = simplejpeg.decode_jpeg(encoded, "GRAY", min_height=rows, min_width=columns)
        except (ValueError, KeyError):  # Pillow may read it, and says what is wrong if not
            return None
        return found, Grid(eighths / 8)


def _place(values: Array, out: Array, where: Placement, position: int, size: list[int], fill: Fill, grid: Grid) -> None:
    """Resize, and warp where it is turned, one upright image into its output."""
    colour = np.array(fill if out.shape[2] == 3 else fill[:1]).astype(out.dtype)
    (step_x, step_y), (start_x, start_y) = where.step[position] * grid.factor, where.start[position] * grid.factor
    box, code = where.box[position], int(where.filter[position])
    turned = bool(where.turned[position])
    target = np.empty((int(box[3]), int(box[2]), out.shape[2]), out.dtype) if turned else out
    compiled = out.dtype == np.uint8 and out.shape[2] == 3 and not native.missing()
    kernels = native if compiled else resample
    kernels.resize(values, target, box, start_x, start_y, step_x, step_y, colour, code)
    if turned:
        inverse, scale, origin = where.inverse[position], where.scale[position], where.origin[position]
        warp = int(where.warp[position])
        kernels.warp(target, out, inverse, size[1], size[0], scale, origin, colour, warp)
