"""What is compared: each gives batches of normalised float16 images [B, 3, S, S] on the device, for ever.

All do RandomResizedCrop (35% to 100% of the area, ratios 3/4 to 4/3), antialiased, and a random horizontal flip.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torchvision.io
from torch.utils.data import Dataset
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional

import resflow as rf
from on_gpu.data import Data

SCALE, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Job:
    """One measurement: what, at which side; 0 is the whole Linear(128, 224) set of epochs."""

    what: str
    side: int
    batch: int
    device: str
    threads: int
    epochs: int = 4


Feed = Callable[[Data, Job], Iterator[torch.Tensor]]


def dali_alone(data: Data, job: Job) -> Iterator[torch.Tensor]:
    """DALI from tar to tensor, as NVIDIA's own ResNet-50 example does it; images lie H, W, C."""
    from nvidia.dali import Pipeline, fn, types

    on_gpu = job.device == "cuda"
    pipeline = Pipeline(
        batch_size=job.batch, num_threads=job.threads, device_id=0 if on_gpu else None, seed=0, prefetch_queue_depth=2
    )
    with pipeline:
        encoded, _ = fn.readers.webdataset(
            paths=data.paths(),
            ext=["jpg", "cls"],
            random_shuffle=True,
            initial_fill=min(4096, data.count),
            name="reader",
        )
        images = fn.decoders.image_random_crop(
            encoded,
            device="mixed" if on_gpu else "cpu",
            output_type=types.RGB,
            random_area=SCALE,
            random_aspect_ratio=RATIO,
        )
        images = fn.resize(images, size=(job.side, job.side), interp_type=types.INTERP_LINEAR, antialias=True)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT16,
            output_layout="HWC",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            mirror=fn.random.coin_flip(),
        )
        pipeline.set_outputs(images)
    pipeline.build()
    while True:
        (images,) = pipeline.run(torch.cuda.current_stream() if on_gpu else None)
        yield torch.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)


def torchvision_cuda(data: Data, job: Job) -> Iterator[torch.Tensor]:
    """torchvision's decode_jpeg on the device, of bytes that lie in memory already; then its transforms, one by one."""
    encoded = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in data.images()]
    mean, std = (torch.tensor(value, device=job.device)[:, None, None] * 255 for value in (MEAN, STD))
    while True:
        chosen = random.choices(encoded, k=job.batch)
        mode = torchvision.io.ImageReadMode.RGB
        images = torchvision.io.decode_jpeg(chosen, mode=mode, device=job.device)
        placed = []
        for image in images:
            top, left, height, width = _window(*image.shape[1:])
            size = [job.side, job.side]
            image = functional.resized_crop(image, top, left, height, width, size, antialias=True)
            placed.append(image.flip(2) if random.random() < 0.5 else image)
        yield ((torch.stack(placed) - mean) / std).half()


def _window(height: int, width: int) -> tuple[int, int, int, int]:
    image = torch.empty(3, height, width, device="meta")
    return RandomResizedCrop.get_params(image, list(SCALE), list(RATIO))  # type: ignore[no-any-return]


class Files(Dataset[torch.Tensor]):
    def __init__(self, data: Data, side: int) -> None:
        self.paths = data.images()
        self.change = v2.Compose(
            [v2.RandomResizedCrop(side, SCALE, RATIO), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        from PIL import Image

        with Image.open(self.paths[number]) as image:
            return self.change(image.convert("RGB"))  # type: ignore[no-any-return]


def pytorch(data: Data, job: Job) -> Iterator[torch.Tensor]:
    """PyTorch's DataLoader over files: Pillow and torchvision in as many processes as there are cores."""
    loader = torch.utils.data.DataLoader(
        Files(data, job.side),
        job.batch,
        shuffle=True,
        num_workers=job.threads,
        pin_memory=job.device == "cuda",
        drop_last=True,
        persistent_workers=job.threads > 0,
    )
    mean, std = (torch.tensor(value, device=job.device)[:, None, None] * 255 for value in (MEAN, STD))
    while True:
        for images in loader:
            yield ((images.to(job.device, non_blocking=True) - mean) / std).half()


def resflow_loader(data: Data, job: Job, *, tiers: bool = False) -> rf.DataLoader[Any]:
    """Resflow over the shards: one square shape for equal work, 8 buckets for the whole set of epochs."""
    resolution = job.side or rf.schedules.Linear(128, 224, epochs=job.epochs)
    pipeline = rf.Pipeline(
        resolution=resolution,
        buckets=1 if job.side else 8,
        stride=job.side or 32,
        area_tolerance=0.15,
        views=[rf.views.RandomResizedCrop(scale=SCALE, ratio=RATIO), rf.views.HorizontalFlip()],
        normalize=rf.IMAGENET,
        dtype=torch.float16,
        memory_format=torch.channels_last,
        tier_quality=1.0 if tiers else None,
        device=job.device,
    )
    return rf.DataLoader(
        data.shards, batch_size=job.batch, shuffle=True, drop_last=True, num_workers=job.threads, pipeline=pipeline
    )


def resflow(data: Data, job: Job) -> Iterator[torch.Tensor]:
    """Resflow, reading the originals."""
    loader = resflow_loader(data, job)
    while True:
        yield from (batch.images for batch in loader)


def resflow_tiers(data: Data, job: Job) -> Iterator[torch.Tensor]:
    """Resflow, reading the smallest stored size that suffices."""
    loader = resflow_loader(data, job, tiers=True)
    while True:
        yield from (batch.images for batch in loader)


FEEDS: dict[str, Feed] = {
    "dali alone": dali_alone,
    "torchvision decode_jpeg": torchvision_cuda,
    "pytorch": pytorch,
    "resflow": resflow,
    "resflow, tiers": resflow_tiers,
}
EPOCH_SETS = ("resflow", "resflow, tiers")
