"""Per-image transforms: callables of one image, run where images are decoded, on bytes.

What is drawn for an image follows from (seed, epoch, sample) alone: the global generators of torch, of `random` and of
NumPy are set for the call and restored, so neither ranks, workers, resuming nor prefetching change a pixel.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from resflow.augment import per_image_kinds as kinds
from resflow.errors import ResflowError, TransformError
from resflow.geometry.draw import uniforms

Frame = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]: one image of a batch."""
_PURPOSE = zlib.crc32(b"transforms")
_WORD = 0xFFFFFFFF
_PROBES = 64
_lock = threading.RLock()  # the global generators belong to all threads


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()  # a thread that held it was not forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def sample_seeds(seed: int, epoch: int, sample_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The seeds that the transforms of samples are given.

    Args:
        seed: the loader's.
        epoch: at least 0.
        sample_ids: int64 [B], the samples' numbers (`Batch.sample_ids`).

    Returns:
        int64 [B], in [0, 2**53).
    """
    return np.asarray(uniforms(seed, epoch, sample_ids, _PURPOSE, 1)[:, 0] * 2.0**53, dtype=np.int64)


@contextlib.contextmanager
def seeded_generators() -> Iterator[Callable[[int], None]]:
    """Restore the global generators of torch (on the CPU), `random` and NumPy at the end, whatever happens inside.

    Yields:
        A function that seeds all three; NumPy with the lower 32 bits of the seed. One thread is inside at a time.
    """
    with _lock:
        states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
        try:
            yield _seed
        finally:
            torch.default_generator.set_state(states[0])
            random.setstate(states[1])
            np.random.set_state(states[2])


def transform_images(transforms: Sequence[kinds.Transform], images: torch.Tensor, seeds: Sequence[int]) -> None:
    """Run transforms on each image of a batch, in place.

    Args:
        transforms: run in this order; each is handed what `per_image_kinds.form` says or, once a conversion such as
            ToTensor has run, the image as it is.
        images: uint8 [B, 3, H, W] in channels_last, on the CPU.
        seeds: B seeds, as `sample_seeds` gives them.

    Raises:
        TransformError: a transform raised an error, or returned no image; carries the position.
        ConfigError: a transform changed the shape or mirrored the image.
    """
    frames: npt.NDArray[np.uint8] = images.permute(0, 2, 3, 1).numpy()
    steps = [
        _Step(transform, f"transforms[{place}] ({kinds.named(transform)})")
        for place, transform in enumerate(transforms)
    ]
    with seeded_generators() as seed, torch.no_grad():
        for position, number in enumerate(seeds):
            seed(number)
            try:
                frames[position] = _transformed(steps, frames[position], number)
            except TransformError as error:
                error.position = position
                raise


class _Step:
    """A transform, and what it is handed."""

    def __init__(self, transform: kinds.Transform, name: str) -> None:
        self.transform, self.name = transform, name
        self.form, self.converts = kinds.form(transform), kinds.converts(transform)
        self.unknown = any(map(kinds.is_function, kinds.leaves(transform)))
        self.own = kinds.library(transform) == "resflow"
        self._albumentations = kinds.library(transform) == "albumentations"

    def __call__(self, image: Any, seed: int) -> Any:
        try:
            if self._albumentations:
                _seed_albumentations(self.transform, seed)
                return self.transform(image=image)["image"]
            return self.transform(image)
        except (MemoryError, ResflowError):
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise TransformError(
                f"{self.name} failed on {_described(image)}: {type(error).__name__}: {error} "
                f"({Path(last.filename).name}:{last.lineno}). Put torchvision's ToPILImage(), ToImage() "
                "or ToTensor() before it where it takes something else."
            ) from error


def _transformed(steps: Sequence[_Step], frame: Frame, seed: int) -> Frame:
    """One image after all transforms."""
    image: Any = frame
    converted = False
    for step in steps:
        if step.own and not isinstance(image, torch.Tensor):
            image = torch.from_numpy(np.require(_pixels(image, step.name, frame), requirements="W")).permute(2, 0, 1)
        elif not step.own and (step.form == "array" or not converted):
            image = _handed(image, step.form, step.name, frame)
        given, before = image, _pixels(image, step.name, frame) if step.unknown else frame
        image = step(given, seed)
        size = _size(image)
        if size not in (None, frame.shape[:2]):
            raise kinds.shape_error(step.name, f" from {_by(frame.shape[:2])} to {_by(size)}")
        if step.unknown and _is_mirrored(before, _pixels(image, step.name, frame)) and _mirrors(step, given, frame):
            raise kinds.move_error(step.name)
        converted = converted or step.converts
    return _pixels(image, steps[-1].name, frame)


def _handed(image: Any, form: kinds.Form, name: str, frame: Frame) -> Any:
    """The image in the form that a transform takes."""
    if form == "pil":
        return image if isinstance(image, Image.Image) else Image.fromarray(_pixels(image, name, frame))
    if form == "array":
        return np.array(_pixels(image, name, frame))
    plain = torch.from_numpy(np.ascontiguousarray(_pixels(image, name, frame).transpose(2, 0, 1)))
    if form == "tensor":
        return plain
    from torchvision import tv_tensors

    return tv_tensors.Image(plain)


def _pixels(image: Any, name: str, frame: Frame) -> Frame:
    """uint8 [H, W, 3] of whatever a transform returned.

    Raises:
        ConfigError: it has another shape.
        TransformError: it is no image, or its values are no intensities.
    """
    if isinstance(image, Image.Image):
        found = np.asarray(image)
        described = f"a PIL image of mode {image.mode}"
    elif isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        found = tensor.permute(1, 2, 0).numpy() if tensor.ndim == 3 else tensor.numpy()
        described = _described(image)
    elif isinstance(image, np.ndarray):
        found, described = image, _described(image)
    else:
        raise TransformError(
            f"{name} returned {type(image).__name__}; expected an image: a tensor [3,H,W], a PIL image or an array "
            "[H,W,3]. Return what it was given, changed."
        )
    if found.shape != frame.shape:
        way_out = " Grayscale(num_output_channels=3) keeps three channels." if found.size * 3 == frame.size else ""
        raise kinds.shape_error(
            name, f": it returned {described}, expected {_by(frame.shape[:2])} in 3 channels.{way_out} That"
        )
    if found.dtype == np.uint8:
        return found
    if not np.issubdtype(found.dtype, np.floating):
        raise TransformError(f"{name} returned {described}; expected uint8, or floating in [0, 1]. Convert it.")
    low, high = float(found.min(initial=0)), float(found.max(initial=0))
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise TransformError(
            f"{name} returned {described} with values from {low:.4g} to {high:.4g}; expected uint8, or floating in "
            "[0, 1]. Clamp it; ToDtype(torch.float32, scale=True) gives such values, and Pipeline(normalize=...) "
            "normalises afterwards."
        )
    return np.rint(found * np.float32(255)).clip(0, 255).astype(np.uint8)


def _size(image: Any) -> tuple[int, ...] | None:
    """Height and width, where what was returned has any."""
    if isinstance(image, Image.Image):
        return image.size[::-1]
    if isinstance(image, torch.Tensor) and image.ndim >= 2:
        return tuple(image.shape[-2:])
    return image.shape[:2] if isinstance(image, np.ndarray) else None


def _is_mirrored(before: Frame, after: Frame) -> bool:
    """Whether an image is another one, flipped or turned by right angles."""
    ways = [after[:, ::-1], after[::-1], after[::-1, ::-1]]
    if after.shape[0] == after.shape[1]:
        turned = after.transpose(1, 0, 2)
        ways += [turned, turned[:, ::-1], turned[::-1], turned[::-1, ::-1]]
    same = [way for way in ways if np.array_equal(way[0], before[0]) and np.array_equal(way, before)]
    return bool(same) and not np.array_equal(before, after)


def _mirrors(step: _Step, given: Any, frame: Frame) -> bool:
    """Whether it was the transform that mirrored an image, rather than an image that looks so (an inverted ramp)."""
    probe = np.random.default_rng(0).integers(0, 256, frame.shape, dtype=np.uint8)
    if isinstance(given, Image.Image):
        image: Any = Image.fromarray(probe)
    elif isinstance(given, torch.Tensor):
        image = torch.from_numpy(probe).permute(2, 0, 1).contiguous()
        image = image / 255 if given.is_floating_point() else image
    else:
        image = probe
    with seeded_generators() as seed:
        for number in range(_PROBES):  # it may do so at random
            seed(number)
            if _is_mirrored(probe, _pixels(step(image, number), step.name, frame)):
                return True
    return False


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & _WORD)


def _seed_albumentations(transform: Any, seed: int) -> None:
    """Seed generators of its own, which all its parts share; older versions draw from the global ones."""
    if hasattr(transform, "set_random_state"):
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    elif hasattr(transform, "set_random_seed"):
        transform.set_random_seed(seed & _WORD)


def _described(image: Any) -> str:
    if isinstance(image, Image.Image):
        return f"a PIL image {_by(image.size[::-1])}, {image.mode}"
    kind = "an array" if isinstance(image, np.ndarray) else "a tensor"
    return f"{kind} {str(image.dtype).removeprefix('torch.')} {list(image.shape)}"


def _by(size: Sequence[int] | None) -> str:
    return "x".join(map(str, size or ()))
