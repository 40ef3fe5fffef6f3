"""A PIL image that waits: crops, one resize and flips are noted, and the window that is left is decoded when asked for.

Whatever works on PIL images works on it. Code that draws a crop, crops and resizes never sees a pixel, so the part of
a JPEG that is shown can be decoded straight to its size. Anything else (a colour operation, a second resize, NumPy)
asks for pixels, and gets them.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from resflow.decode import native
from resflow.decode.placement import INTERPOLATIONS

Pixels: TypeAlias = npt.NDArray[np.uint8]

OVERSAMPLE = 1.5
"""Decoded pixels for a shown pixel, at least, on each axis; `math.inf` decodes at full size."""

_WHOLE = 0.6  # share of an image shown at its own size, from which on Pillow makes a PIL image as fast, and exactly
_FILTERS: dict[int, int] = {Image.Resampling[name.upper()]: code for code, name in enumerate(INTERPOLATIONS)}
_FLIPS = {Image.Transpose.FLIP_LEFT_RIGHT: 0, Image.Transpose.FLIP_TOP_BOTTOM: 1}
_JPEG = ("JPEG", "MPO")
_NO_FILL = np.zeros(3, np.uint8)
_OWN_REFERENCES = 3  # of an image's own attribute, a local variable, and the count itself


class LazyImage(Image.Image):
    """An opened image whose window is decoded when its pixels are asked for.

    Args:
        file: the image as PIL opened it; only its header has been read.
        data: the encoded image.
        oversample: see `OVERSAMPLE`.
    """

    def __init__(self, file: Image.Image, data: bytes, oversample: float = OVERSAMPLE) -> None:
        super().__init__()
        self._file, self._data, self._oversample = file, data, oversample
        self._mode, self._size = file.mode, file.size
        self.info, self.format = dict(file.info), file.format
        self._start, self._step = (0.0, 0.0), (1.0, 1.0)
        self._ops: tuple[tuple[str, tuple[Any, ...]], ...] = ()
        self._filter: int | None = None
        self._cut = (0, 0, *file.size)  # left, top, right, bottom of what was resized

    # What is noted.

    def convert(self, mode: str | None = None, *args: Any, **options: Any) -> Image.Image:
        """See `PIL.Image.Image.convert`."""
        if self._im is not None or args or options or mode not in ("RGB", self._mode):
            return super().convert(mode, *args, **options)
        clone = self._clone()
        clone._mode = mode
        clone.format = None
        return clone

    def copy(self) -> Image.Image:
        """See `PIL.Image.Image.copy`."""
        return super().copy() if self._im is not None else self._clone()

    __copy__ = copy

    def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        """See `PIL.Image.Image.crop`."""
        width, height = self._size
        if box is None or not self.waits:
            return super().crop(box)
        left, top, right, bottom = (round(edge) for edge in box)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            return super().crop(box)
        clone = self._clone(("crop", ((left, top, right, bottom),)))
        clone._start = (self._start[0] + left * self._step[0], self._start[1] + top * self._step[1])
        clone._size = (right - left, bottom - top)
        return clone

    def resize(
        self, size: Any, resample: int | None = None, box: Any = None, reducing_gap: float | None = None
    ) -> Image.Image:
        """See `PIL.Image.Image.resize`."""
        width, height = size
        known = box is None and reducing_gap is None and self._filter is None
        if resample not in _FILTERS or not known or not self.waits or min(width, height) < 1:
            return super().resize(size, resample, box, reducing_gap)
        if (width, height) == self._size:
            return self._clone()
        clone = self._clone(("resize", ((width, height), resample)))
        (x, y), (over, down) = self._start, (self._size[0] * self._step[0], self._size[1] * self._step[1])
        clone._cut = (int(min(x, x + over)), int(min(y, y + down)), int(max(x, x + over)), int(max(y, y + down)))
        clone._step = (self._step[0] * self._size[0] / width, self._step[1] * self._size[1] / height)
        clone._size = (width, height)
        clone._filter = _FILTERS[resample]
        return clone

    def transpose(self, method: Image.Transpose) -> Image.Image:
        """See `PIL.Image.Image.transpose`."""
        if not self.waits or method not in _FLIPS:
            return super().transpose(method)
        clone, axis = self._clone(("transpose", (method,))), _FLIPS[method]
        start, step = list(self._start), list(self._step)
        start[axis] += self._size[axis] * step[axis]
        step[axis] = -step[axis]
        clone._start, clone._step = (start[0], start[1]), (step[0], step[1])
        return clone

    @property
    def waits(self) -> bool:
        """Whether no pixel has been decoded, and what is done next can be noted."""
        return self._im is None and self._mode == "RGB"

    # How pixels are had.

    def pixels(self, out: Pixels | None = None) -> Pixels:
        """The pixels, without making a PIL image of them where the engine decodes them.

        Args:
            out: uint8 [H, W, 3], contiguous; may be used for them.

        Returns:
            uint8 [H, W] or [H, W, C], contiguous; may be `out`.
        """
        if self._im is None:
            found = self._decoded(out, share=_WHOLE if math.isinf(self._oversample) else 1.0)
            if found is not None:
                return found
            _ = self.im
        return np.asarray(self)

    @property
    def im(self) -> Any:
        """The pixels as Pillow holds them."""
        if self._im is None and "_file" in self.__dict__:
            found = self._decoded(None)
            self._im = (Image.fromarray(found) if found is not None else self._replayed()).im
        return super().im

    @im.setter
    def im(self, im: Any) -> None:
        self._im = im

    def load(self) -> Any:
        """See `PIL.Image.Image.load`."""
        _ = self.im
        return super().load()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if self._im is None:
            found = self._decoded(None)
            if found is not None:
                height, width, channels = found.shape
                return {"version": 3, "data": found.tobytes(), "shape": (height, width, channels), "typestr": "|u1"}
        return super().__array_interface__

    def _decoded(self, out: Pixels | None, share: float = _WHOLE) -> Pixels | None:
        """The window as the engine decodes it; None where it does not take the file, or Pillow is as fast."""
        (width, height), (whole_width, whole_height) = self._size, self._file.size
        if self._mode != "RGB" or not self._ops or native.missing():
            return None
        if self._filter is None and width * height > share * whole_width * whole_height:
            return None
        if out is None or out.shape != (height, width, 3):
            out = np.empty((height, width, 3), np.uint8)
        data, box = np.frombuffer(self._data, np.uint8), np.array([0, 0, width, height], np.int64)
        chosen = self._filter or 0
        if min(map(abs, self._step)) < 1 and self._cut != (0, 0, whole_width, whole_height):
            return self._enlarged(data, out, box, chosen)
        placed = (*self._start, *self._step, whole_width, whole_height)
        # A pixel that is picked is no average of its neighbours.
        oversample = math.inf if INTERPOLATIONS[chosen] == "nearest" else self._oversample
        return out if native.decode_window(data, out, box, *placed, 1, oversample, chosen) else None

    def _enlarged(self, data: Pixels, out: Pixels, box: npt.NDArray[np.int64], chosen: int) -> Pixels | None:
        """What was cut out, enlarged without the pixels around it: there, they would show."""
        left, top, right, bottom = self._cut
        cut = np.empty((bottom - top, right - left, 3), np.uint8)
        whole = np.array([0, 0, right - left, bottom - top], np.int64)
        if not native.decode_window(data, cut, whole, left, top, 1, 1, *self._file.size, 1, math.inf):
            return None
        native.resize(cut, out, box, self._start[0] - left, self._start[1] - top, *self._step, _NO_FILL, chosen)
        return out

    def _replayed(self) -> Image.Image:
        """What was noted, done by Pillow."""
        image = self._file
        if self._mode == image.mode and not self._ops:
            image.load()
            # Nobody else sees the file's pixels, but for clones of this image: then they are copied.
            return image if sys.getrefcount(image) <= _OWN_REFERENCES else image.copy()
        image = image if self._mode == image.mode else image.convert(self._mode)
        for name, arguments in self._ops:
            image = getattr(image, name)(*arguments)
        return image

    def _clone(self, *ops: tuple[str, tuple[Any, ...]]) -> LazyImage:
        clone = LazyImage.__new__(LazyImage)
        clone.__dict__.update(self.__dict__)
        clone.info = dict(self.info)
        clone._ops = self._ops + ops
        if ops:
            clone.format = None
        return clone

    # What else an opened file tells.

    def getexif(self) -> Any:
        """See `PIL.Image.Image.getexif`."""
        return self._file.getexif() if not self._ops else super().getexif()

    def __getattr__(self, name: str) -> Any:
        file = self.__dict__.get("_file")
        if file is None or self.__dict__.get("_ops"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(file, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return real(self).__reduce_ex__(protocol)


def real(image: Image.Image) -> Image.Image:
    """An image of Pillow's own class with the pixels of `image`.

    Args:
        image: any PIL image.
    """
    if not isinstance(image, LazyImage):
        return image
    image.load()
    plain = Image.Image()
    plain.im = image.im
    plain._mode, plain._size, plain.info = image.mode, image.size, dict(image.info)
    return plain


def open_lazily(file: str | bytes | os.PathLike[str] | IO[bytes], oversample: float = OVERSAMPLE) -> Image.Image:
    """`PIL.Image.open`, whose JPEGs wait for what is done to them.

    Args:
        file: path or file object.
        oversample: see `OVERSAMPLE`.

    Returns:
        A `LazyImage` for a JPEG of three components or one, else what PIL opens.

    Raises:
        OSError: as `PIL.Image.open` raises.
    """
    if hasattr(file, "read"):
        data, name = file.read(), getattr(file, "name", "")
    else:
        name = os.fspath(file)
        data = Path(os.fsdecode(name)).read_bytes()
    image = Image.open(io.BytesIO(data))
    image.filename = name
    return LazyImage(image, data, oversample) if image.format in _JPEG and image.mode in ("RGB", "L") else image


def opener(exact: bool) -> Callable[..., Image.Image]:
    """What stands in for `PIL.Image.open`.

    Args:
        exact: decode at full size.
    """

    def open_image(fp: Any, mode: Any = "r", formats: Any = None) -> Image.Image:
        if mode != "r" or formats is not None:
            return Image.open(fp, mode, formats)
        return open_lazily(fp, math.inf if exact else OVERSAMPLE)

    return open_image
