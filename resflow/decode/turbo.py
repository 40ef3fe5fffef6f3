"""The CPU engine: the part of a JPEG that is shown, decoded straight into the batch; all else through libjpeg-turbo."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from resflow.decode import native
from resflow.decode.base import (
    OVERSAMPLE,
    Encoded,
    Fill,
    Interpolations,
    Notice,
    Pixels,
    check_pixels,
    check_scans,
    checked_header,
    output_tensor,
)
from resflow.decode.pillow import decode_checked
from resflow.decode.place import FULL_SIZE, Grid, canvas, finish, place
from resflow.decode.placement import INTERPOLATIONS, Placement, placement
from resflow.geometry.affine import Geometry
from resflow.images import ImageHeader
from resflow.images.values import MIRROR_X, MIRROR_Y, oriented

# The reduced sizes with fast inverse transforms; 3, 5, 6 and 7 eighths take longer than 8.
_EIGHTHS = (1, 2, 4)


class TurboDecoder:
    """Decodes JPEG with libjpeg-turbo, other formats with Pillow, and resamples straight into the batch.

    Args:
        fill: colour of padding pixels, RGB, 0 to 255.
        threads: decoding threads, at least 1.
        oversample: least pixels decoded for an output pixel on each axis before a JPEG is decoded at a reduced size;
            larger is nearer to the reference, smaller is faster; math.inf never reduces.
        strict: whether images are refused that would be among the notices.

    Raises:
        ConfigError: the compiled decoder is missing.
    """

    def __init__(
        self, fill: Fill = (0, 0, 0), threads: int = 1, oversample: float = OVERSAMPLE, strict: bool = False
    ) -> None:
        native.load()
        self._fill = np.array(fill, dtype=np.uint8)
        self._oversample, self._strict = oversample, strict
        self.notices: list[Notice] = []
        """Of the last batch."""
        self._pool = ThreadPoolExecutor(threads, "resflow-turbo") if threads > 1 else None

    def decode(
        self,
        encoded: Sequence[Encoded | Pixels],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: Interpolations = "bilinear",
        warp: Interpolations = "bilinear",
    ) -> torch.Tensor:
        """See `Decoder.decode`."""
        result = output_tensor(encoded, geometry, out, "cpu")
        frames = result.permute(0, 2, 3, 1).numpy()
        where = placement(geometry, interpolation, warp)
        sizes = geometry.source_size.tolist()
        self.notices = []

        def decode_one(position: int) -> None:
            self._decode(position, encoded[position], sizes[position], where, frames[position])

        if self._pool is None:
            for position in range(len(encoded)):
                decode_one(position)
        else:
            jobs = [self._pool.submit(decode_one, position) for position in range(len(encoded))]
            wait(jobs)  # all, also after an error: nothing may write to `out` after this returns
            for job in jobs:
                job.result()
        return result

    def close(self) -> None:
        """See `Decoder.close`."""
        if self._pool is not None:
            self._pool.shutdown()

    def _decode(
        self, position: int, encoded: Encoded | Pixels, size: list[int], where: Placement, out: npt.NDArray[np.uint8]
    ) -> None:
        """Decode and place one image."""
        height, width = size
        if isinstance(encoded, np.ndarray):
            pixels, grid = check_pixels("turbo", position, encoded, (height, width)), FULL_SIZE
        else:
            if self._decode_window(position, encoded, size, 0, where, out):  # without a look at the header in Python
                return
            header = checked_header("turbo", position, encoded, (height, width))
            if header.format == "jpeg" and self._decode_window(position, encoded, size, header.orientation, where, out):
                return
            check_scans("turbo", position, encoded, header)  # those that are taken above have one
            pixels, grid = self._read(position, encoded, height, width, header, where)
        place(pixels, out, where, position, (width, height), self._fill, grid)

    def _decode_window(
        self,
        position: int,
        encoded: Encoded,
        size: list[int],
        orientation: int,
        where: Placement,
        out: npt.NDArray[np.uint8],
    ) -> bool:
        """Decode no more of a JPEG than is shown, where it is of the kind that most are; whether that was done.

        An `orientation` of 0 is for files that are not known to be JPEGs, and done only where it cannot matter.
        """
        box = where.box[position]
        if box[0] >= box[2] or box[1] >= box[3]:
            return False
        data, code = np.frombuffer(encoded, np.uint8), int(where.filter[position])
        (start_x, start_y), (step_x, step_y) = where.start[position].tolist(), where.step[position].tolist()
        height, width = size
        target = canvas(out, where, position)
        if not native.decode_window(
            data, target, box, start_x, start_y, step_x, step_y, width, height, orientation, self._oversample, code
        ):
            return False
        if box.tolist() != [0, 0, target.shape[1], target.shape[0]]:
            native.fill_outside(target, box, self._fill)
        finish(target, out, where, position, (width, height), self._fill)
        return True

    def _read(
        self, position: int, encoded: Encoded, height: int, width: int, header: ImageHeader, where: Placement
    ) -> tuple[npt.NDArray[np.uint8], Grid]:
        """Upright pixels of one image, and how they lie on its source."""
        nearest = INTERPOLATIONS[where.filter[position]] == "nearest"  # shows single pixels, which must be there
        eighths = 8 if nearest else self._eighths(where.step[position])
        stored = (height, width) if header.orientation < 5 else (width, height)
        pixels, damage = None, ""
        if header.format == "jpeg":
            pixels, damage = strict_jpeg(encoded, -(-stored[0] * eighths // 8), -(-stored[1] * eighths // 8))
        if pixels is None:
            size, notices = (height, width), self.notices
            pixels = decode_checked(
                "turbo", position, encoded, size, header.format, notices, damage=damage, strict=self._strict
            )
            return pixels, FULL_SIZE
        factor = eighths / 8
        if header.orientation == 1:
            return pixels, Grid(factor)
        pixels = oriented(pixels, header.orientation)
        # A reduced decode's last row and column may be partial; mirroring brings them to the front.
        return pixels, Grid(
            factor,
            pixels.shape[1] - width * factor if header.orientation in MIRROR_X else 0.0,
            pixels.shape[0] - height * factor if header.orientation in MIRROR_Y else 0.0,
        )

    def _eighths(self, step: npt.NDArray[np.float64]) -> int:
        shrink = float(np.abs(step).min())
        for eighths in _EIGHTHS:
            if shrink * eighths / 8 >= self._oversample:
                return eighths
        return 8


# What libjpeg-turbo says of files that are sound, but not of a kind that it takes here, or that have stray bytes
# between segments, which harm no pixel.
_HARMLESS = ("extraneous bytes", "subsampling level", "Unsupported")


def strict_jpeg(encoded: Encoded, min_height: int, min_width: int) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """Decode a JPEG with libjpeg-turbo, which refuses damage that it could read over.

    Args:
        encoded: the file.
        min_height: rows that are needed at least; the smallest reduced size that has them is decoded.
        min_width: columns that are needed.

    Returns:
        uint8 [h, w, 3], as stored, or None where it is refused; and what is damaged, "" where nothing is.
    """
    try:
        if simplejpeg.decode_jpeg_header(encoded)[2] in ("CMYK", "YCCK"):
            return None, ""
        return simplejpeg.decode_jpeg(encoded, min_height=min_height, min_width=min_width), ""
    except KeyError:  # of a sampling that its table of names leaves out
        return None, ""
    except ValueError as error:
        return None, "" if any(part in str(error) for part in _HARMLESS) else str(error)
