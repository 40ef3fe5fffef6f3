"""FFCV in JPEG mode: the files' own bytes in a .beton, decoded by threads that run compiled code.

FFCV's writer would encode the images anew; `_Stored` keeps the bytes that all others read. Its resize is OpenCV's
INTER_AREA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.fields.rgb_image import IMAGE_MODES, ResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from PIL import Image

from contestants.job import Batches, Job


class _Stored(RGBImageField):
    """An image that is encoded already."""

    def encode(self, destination: Any, image: str, malloc: Callable[[int], tuple[int, Any]]) -> None:
        encoded = np.fromfile(image, dtype=np.uint8)
        with Image.open(image) as opened:
            destination["width"], destination["height"] = opened.size
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["data_ptr"], storage = malloc(encoded.nbytes)
        storage[:] = encoded


class _Whole(ResizedCropRGBImageDecoder):
    """The whole image, resized."""

    scale, ratio = None, None

    @property
    def get_crop_generator(self) -> Any:
        def whole(height: Any, width: Any, _scale: Any, _ratio: Any) -> Any:
            return 0, 0, height, width

        return whole


def prepare(job: Job, folder: Path) -> None:
    """Write the .beton."""
    folder.mkdir()
    largest = max(Path(path).stat().st_size for path, _ in job.files())
    page = max(1 << 23, 1 << (2 * largest).bit_length())
    fields = {"image": _Stored(), "label": IntField()}
    DatasetWriter(str(folder / "set.beton"), fields, page_size=page, num_workers=1).from_indexed_dataset(
        job.files(), shuffle_indices=False
    )


def passes(job: Job) -> Iterator[Batches]:
    """The batches of each pass; the size changes in place, as in FFCV's own recipe for ImageNet."""
    decoder: Any
    if job.train:
        decoder = RandomResizedCropRGBImageDecoder((job.sizes[0],) * 2, scale=job.SCALE, ratio=job.RATIO)
        images = [decoder, RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    else:
        decoder = _Whole((job.sizes[0],) * 2)
        images = [decoder, ToTensor(), ToTorchImage()]
    loader = Loader(
        str(job.own("ffcv") / "set.beton"),
        batch_size=job.batch_size,
        num_workers=job.workers,
        os_cache=True,
        order=OrderOption.RANDOM if job.train else OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines={"image": images, "label": [IntDecoder(), ToTensor(), Squeeze()]},
        custom_fields={"image": _Stored},
    )
    for size in job.sizes:
        decoder.output_size = (size, size)
        yield loader
