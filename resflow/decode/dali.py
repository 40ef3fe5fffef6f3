"""The NVIDIA DALI engine: decode, resize, place and warp in one pipeline, on the CPU or the GPU from one code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import Pipeline, fn, types
from nvidia.dali.plugin.pytorch import feed_ndarray

from resflow.decode.base import Encoded, Fill, Pixels, check_pixels, checked_header, output_tensor
from resflow.decode.pillow import decode_checked
from resflow.decode.place import place
from resflow.decode.placement import Placement, placement
from resflow.errors import ConfigError, WorkerError
from resflow.geometry.affine import Geometry
from resflow.headers import ImageHeader, read_header

Inputs: TypeAlias = dict[str, npt.NDArray[Any]]

_TAIL = 1024  # bytes at the end of a JPEG among which its end marker must be


class DaliDecoder:
    """Decodes with NVIDIA DALI; what DALI does not read as Pillow does goes through Pillow, image by image.

    A pipeline is built once and takes another batch length and another output size at each run.

    Args:
        fill: colour of padding pixels, RGB, 0 to 255.
        device: "cpu", "cuda" or "cuda:N".
        threads: decoding threads, at least 1.
        max_batch: largest number of images that one run takes; longer batches are split.

    Raises:
        ConfigError: a CUDA device is asked for and there is none.
    """

    def __init__(self, fill: Fill = (0, 0, 0), device: str = "cpu", threads: int = 1, max_batch: int = 256) -> None:
        self._fill, self._threads, self._max_batch = fill, threads, max_batch
        self._device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            if not torch.cuda.is_available():
                raise ConfigError(f"device {device!r} asked for, but torch finds no CUDA device. Use device 'cpu'.")
            index = torch.cuda.current_device() if self._device.index is None else self._device.index
            self._device = torch.device("cuda", index)
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pipelines: dict[bool, Pipeline] = {}  # by whether it warps

    def decode(
        self, encoded: Sequence[Encoded | Pixels], geometry: Geometry, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Decoder.decode`."""
        result = output_tensor(encoded, geometry, out, str(self._device))
        frames = result.permute(0, 2, 3, 1)  # [B, H, W, 3], contiguous
        where = placement(geometry)
        sizes = geometry.source_size.tolist()
        ours: dict[int, Encoded] = {}
        kinds: dict[int, str] = {}
        for position, (data, (height, width)) in enumerate(zip(encoded, sizes, strict=True)):
            if isinstance(data, np.ndarray):
                continue
            header = checked_header("dali", position, data, (height, width))
            kinds[position] = header.format
            if _is_native(header, data, self._device.type):
                ours[position] = data
        native = np.isin(np.arange(len(encoded)), list(ours))
        for warps in (False, True):
            positions = np.flatnonzero(native & (where.turned if warps else ~where.turned))
            for first in range(0, len(positions), self._max_batch):
                part = positions[first : first + self._max_batch]
                self._run(part, [ours[position] for position in part.tolist()], geometry, where, frames)
        for position in np.flatnonzero(~native).tolist():
            self._place_on_host(position, encoded[position], kinds.get(position, ""), geometry, where, frames[position])
        return result

    def close(self) -> None:
        """See `Decoder.close`."""
        self._pipelines.clear()

    def _run(
        self,
        positions: npt.NDArray[np.int64],
        encoded: list[Encoded],
        geometry: Geometry,
        where: Placement,
        frames: torch.Tensor,
    ) -> None:
        """Decode some of a batch's images into their frames."""
        warps = bool(where.turned[positions[0]])
        inputs = _inputs(positions, geometry, where)
        whole = len(positions) == positions[-1] - positions[0] + 1  # neighbours: DALI writes into the batch itself
        target = (
            frames[int(positions[0]) : int(positions[-1]) + 1]
            if whole
            else torch.empty((len(positions), *frames.shape[1:]), dtype=torch.uint8, device=self._device)
        )
        try:
            self._run_pipeline(warps, encoded, inputs, target)
        except RuntimeError:
            self._pipelines.pop(warps, None)  # a failed pipeline cannot run again
            self._run_singly(positions, encoded, inputs, geometry, where, target)
        if warps:
            outside = ~_on_image(where.inverse[positions], geometry.source_size[positions], target)
            target[outside] = torch.tensor(self._fill, dtype=torch.uint8, device=self._device)
        if not whole:
            index = torch.from_numpy(positions).to(self._device)
            frames[index] = target

    def _run_pipeline(
        self,
        warps: bool,
        encoded: list[Encoded],
        inputs: Inputs,
        target: torch.Tensor,
    ) -> None:
        pipeline = self._pipelines.get(warps)
        if pipeline is None:
            pipeline = self._pipelines[warps] = self._build(warps)
        pipeline.feed_input("encoded", [np.frombuffer(data, dtype=np.uint8) for data in encoded])
        for name, value in inputs.items():
            pipeline.feed_input(name, value)
        (placed,) = pipeline.run()
        if self._stream is None:
            feed_ndarray(placed.as_tensor(), target)
            return
        # The copy waits for whoever last used the target, and the caller's stream waits for the copy. DALI reuses its
        # buffers at the next run, so the copy must have ended by then.
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        feed_ndarray(placed.as_tensor(), target, cuda_stream=self._stream)
        target.record_stream(self._stream)
        current.wait_stream(self._stream)
        self._stream.synchronize()

    def _run_singly(
        self,
        positions: npt.NDArray[np.int64],
        encoded: list[Encoded],
        inputs: Inputs,
        geometry: Geometry,
        where: Placement,
        target: torch.Tensor,
    ) -> None:
        """Decode the images of a failed batch one by one; those that DALI refuses are for Pillow to judge."""
        warps = bool(where.turned[positions[0]])
        for number, position in enumerate(positions.tolist()):
            one = slice(number, number + 1)
            try:
                alone = {name: value[one] for name, value in inputs.items()}
                self._run_pipeline(warps, encoded[one], alone, target[one])
            except RuntimeError as error:
                self._pipelines.pop(warps, None)
                if "decoders.image_slice" not in str(error):
                    raise WorkerError(
                        f"DALI failed on {self._device} at image {position} of the batch, not for the image's sake: "
                        f"{error}. Lower max_batch if memory is short, or use engine 'turbo'."
                    ) from error
                kind = read_header(encoded[number]).format
                self._place_on_host(position, encoded[number], kind, geometry, where, target[number])

    def _place_on_host(
        self,
        position: int,
        encoded: Encoded | Pixels,
        kind: str,
        geometry: Geometry,
        where: Placement,
        frame: torch.Tensor,
    ) -> None:
        height, width = geometry.source_size[position].tolist()
        if isinstance(encoded, np.ndarray):
            pixels = check_pixels("dali", position, encoded, (height, width))
        else:
            pixels = decode_checked("dali", position, encoded, (height, width), kind)
        placed = np.empty((*geometry.output_size, 3), dtype=np.uint8)
        place(pixels, placed, where, position, (width, height), np.array(self._fill, dtype=np.uint8))
        frame.copy_(torch.from_numpy(placed))

    def _build(self, warps: bool) -> Pipeline:
        on_gpu = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=self._max_batch,
            num_threads=self._threads,
            device_id=self._device.index if on_gpu else None,
            prefetch_queue_depth=1,
            exec_pipelined=False,
            exec_async=False,
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            window = [fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in ("anchor", "shape")]
            roi = [fn.external_source(name=name, dtype=types.FLOAT, ndim=1) for name in ("roi_start", "roi_end")]
            size = fn.external_source(name="size", dtype=types.FLOAT, ndim=1)
            images = fn.decoders.image_slice(
                encoded,
                device="mixed" if on_gpu else "cpu",
                start=window[0],
                shape=window[1],
                axes=[0, 1],
                output_type=types.RGB,
            )
            images = fn.resize(
                images,
                roi_start=roi[0],
                roi_end=roi[1],
                roi_relative=False,
                size=size,
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            )
            if warps:
                images = fn.warp_affine(
                    images,
                    matrix=fn.external_source(name="matrix", dtype=types.FLOAT, ndim=2),
                    size=fn.external_source(name="output", dtype=types.FLOAT, ndim=1),
                    interp_type=types.INTERP_LINEAR,
                )
            else:
                images = fn.slice(
                    images,
                    start=fn.external_source(name="corner", dtype=types.INT32, ndim=1),
                    shape=fn.external_source(name="output", dtype=types.INT32, ndim=1),
                    axes=[0, 1],
                    out_of_bounds_policy="pad",
                    fill_values=[float(value) for value in self._fill],
                )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


def _inputs(positions: npt.NDArray[np.int64], geometry: Geometry, where: Placement) -> Inputs:
    """What the pipeline is fed besides encoded images, one row an image, rows and columns in the order y, x."""
    box, start, step = where.box[positions], where.start[positions], where.step[positions]
    size = geometry.source_size[positions].astype(np.int64)
    empty = (box[:, 2:] <= box[:, :2]).any(axis=1, keepdims=True)
    # An image outside its output is decoded all the same, so that damage is found, and placed beyond the edge.
    box = np.where(empty, [0, 0, 1, 1], box)
    near = (start + box[:, :2] * step)[:, ::-1]  # [n, 2] y, x
    far = (start + box[:, 2:] * step)[:, ::-1]
    near, far = np.where(empty, 0.0, near), np.where(empty, 1.0, far)
    # Decoded: the part that the box reads, with the filter's support.
    support = np.maximum(np.abs(step[:, ::-1]), 1.0) + 1
    anchor = np.clip(np.floor(np.minimum(near, far) - support), 0, size - 1).astype(np.int32)
    end = np.clip(np.ceil(np.maximum(near, far) + support), anchor + 1, size).astype(np.int32)
    inputs: Inputs = {
        "anchor": anchor,
        "shape": end - anchor,
        "roi_start": (near - anchor).astype(np.float32),
        "roi_end": (far - anchor).astype(np.float32),
        "size": (box[:, 3:1:-1] - box[:, 1::-1]).astype(np.float32),
    }
    output = np.tile(geometry.output_size, (len(positions), 1))
    if where.turned[positions[0]]:
        # Output to intermediate pixels: scale * (inverse @ (x, y, 1)) - origin.
        matrix = where.scale[positions, :, None] * where.inverse[positions, :2]
        matrix[:, :, 2] -= where.origin[positions]
        return inputs | {"matrix": matrix.astype(np.float32), "output": output.astype(np.float32)}
    corner = np.where(empty, 1, -box[:, 1::-1])
    return inputs | {"corner": corner.astype(np.int32), "output": output.astype(np.int32)}


def _on_image(
    inverse: npt.NDArray[np.float64], source_size: npt.NDArray[np.int32], target: torch.Tensor
) -> torch.Tensor:
    """bool [n, H, W] on the target's device: `Geometry.valid_mask` of turned images."""
    device = target.device
    rows = torch.arange(target.shape[1], dtype=torch.float64, device=device)[None, :, None] + 0.5
    columns = torch.arange(target.shape[2], dtype=torch.float64, device=device)[None, None, :] + 0.5
    map_ = torch.from_numpy(inverse).to(device)[..., None, None]  # [n, 3, 3, 1, 1]
    limit = torch.from_numpy(source_size).to(device)[..., None, None]  # [n, 2, 1, 1]
    inside = torch.ones(target.shape[:3], dtype=torch.bool, device=device)
    for axis in (0, 1):
        source = (map_[:, axis, 0] * columns + map_[:, axis, 1] * rows + map_[:, axis, 2]).round(decimals=6)
        inside &= (source >= 0) & (source < limit[:, 1 - axis])
    return inside


def _is_native(header: ImageHeader, encoded: Encoded, device: str) -> bool:
    """Whether DALI decodes this image, and as Pillow does."""
    if header.format in ("gif", "avif"):
        return False
    if header.format == "jpeg":
        # DALI reads orientation from EXIF only; XMP may hold it, too.
        if header.orientation != 1 and b"tiff:Orientation" in bytes(encoded):
            return False
        # GPU decoders may fill the missing rows of a truncated JPEG silently; Pillow names the fault.
        return device == "cpu" or b"\xff\xd9" in bytes(encoded[-_TAIL:])
    return True
