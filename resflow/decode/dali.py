"""The NVIDIA DALI engine: decode, resize, place and warp in one pipeline, on the CPU or the GPU from one code."""

from __future__ import annotations

import gc
import os
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import nvidia.dali
import torch
import torch.utils.dlpack
from nvidia.dali import Pipeline

from resflow.decode.base import (
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
from resflow.decode.dali_graph import DECODER, Inputs, build_pipeline, pipeline_inputs
from resflow.decode.hardware import kept_size, measured_load, probe_hardware
from resflow.decode.lease import Leases
from resflow.decode.pillow import decode_checked
from resflow.decode.place import place
from resflow.decode.placement import Placement, placement
from resflow.decode.routes import is_native
from resflow.decode.turbo import strict_jpeg
from resflow.errors import ConfigError, WorkerError
from resflow.geometry.affine import Geometry
from resflow.images import Format, whole_header

Positions: TypeAlias = npt.NDArray[np.int64]

_SAMPLE = 64  # images of the batch by which the JPEG engines' share is measured


_OPEN: weakref.WeakSet[DaliDecoder] = weakref.WeakSet()
_INHERITED: list[object] = []


def _keep_inherited() -> None:
    """In a forked process: keep the parent's pipelines for good.

    Their threads stayed in the parent, so that to destroy one here, be it by the garbage collector, hangs or faults.
    """
    gc.freeze()  # so that nothing inherited is collected here, whoever holds it
    _INHERITED.extend(decoder._pipelines.copy() for decoder in _OPEN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)


class DaliDecoder:
    """Decodes with NVIDIA DALI; what DALI does not read as Pillow does goes through Pillow, in threads.

    A pipeline is built once and takes another batch length and another output size at each run. On a GPU all work is
    in the order of the caller's current stream, nothing waits for the device, and a batch that DALI decodes whole is
    DALI's own memory, shared and not copied.

    Args:
        fill: colour of padding pixels, RGB, 0 to 255.
        device: "cpu", "cuda" or "cuda:N".
        threads: decoding threads, at least 1.
        max_batch: largest number of images that one run takes; longer batches are split.
        hardware_load: share of a batch for a GPU's JPEG engines, in [0, 1]; None measures the best with the first
            batch, or remembers it.
        strict: whether images are refused that would be among the notices.

    Raises:
        ConfigError: a CUDA device is asked for and there is none; a share outside [0, 1].
    """

    def __init__(
        self,
        fill: Fill = (0, 0, 0),
        device: str = "cpu",
        threads: int = 1,
        max_batch: int = 256,
        hardware_load: float | None = None,
        strict: bool = False,
    ) -> None:
        if hardware_load is not None and not 0 <= hardware_load <= 1:
            raise ConfigError(f"hardware_load must be a share in [0, 1], or None; got {hardware_load!r}")
        self._fill, self._threads, self._max_batch, self._load = fill, threads, max_batch, hardware_load
        self._device, self._strict = torch.device(device), strict
        self.notices: list[Notice] = []
        """Of the last batch."""
        self._leases: Leases | None = None
        if self._device.type == "cuda":
            if not torch.cuda.is_available():
                raise ConfigError(f"device {device!r} asked for, but torch finds no CUDA device. Use device 'cpu'.")
            index = torch.cuda.current_device() if self._device.index is None else self._device.index
            self._device = torch.device("cuda", index)
            self._leases = Leases(self._device)
        self._pipelines: dict[bool, Pipeline] = {}  # by whether it warps
        self._fed: dict[bool, object] = {}  # what a pipeline may still read: its last run's inputs
        self._pool: ThreadPoolExecutor | None = None
        self._colour = self._uploaded(np.array(fill, dtype=np.uint8))
        _OPEN.add(self)

    def decode(
        self,
        encoded: Sequence[Encoded | Pixels],
        geometry: Geometry,
        out: torch.Tensor | None = None,
        interpolation: Interpolations = "bilinear",
        warp: Interpolations = "bilinear",
    ) -> torch.Tensor:
        """See `Decoder.decode`; on a GPU the result is ready in the order of the caller's current stream."""
        if self._leases is not None:
            self._leases.collect()
        self.notices = []
        result = None
        if out is not None or not len(encoded) or len(encoded) != len(geometry):
            result = output_tensor(encoded, geometry, out, str(self._device))
        where = placement(geometry, interpolation, warp)
        native, kinds = self._routed(encoded, geometry)
        native &= (where.filter == 0) & (~where.turned | (where.warp == 0))  # the rest is for this process's threads
        on_host = np.flatnonzero(~native)
        staged, jobs = self._start_on_host(on_host, encoded, kinds, geometry, where)
        parts: list[tuple[Positions, torch.Tensor]] = []
        try:
            for turned in (False, True):
                positions = np.flatnonzero(native & (where.turned == turned))
                for first in range(0, len(positions), self._max_batch):
                    part = positions[first : first + self._max_batch]
                    parts.append((part, self._decoded(part, encoded, geometry, where)))
        finally:
            wait(jobs)
        for job in jobs:
            job.result()
        if len(on_host):
            parts.append((on_host, staged.to(self._device, non_blocking=True)))
        if result is None and len(parts) == 1:
            return parts[0][1].permute(0, 3, 1, 2)
        if result is None:
            result = output_tensor(encoded, geometry, None, str(self._device))
        frames = result.permute(0, 2, 3, 1)  # [B, H, W, 3], contiguous
        for positions, part_frames in parts:
            frames.index_copy_(0, self._uploaded(positions), part_frames)
        return result

    def close(self) -> None:
        """See `Decoder.close`."""
        self._pipelines.clear()
        self._fed.clear()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _routed(
        self, encoded: Sequence[Encoded | Pixels], geometry: Geometry
    ) -> tuple[npt.NDArray[np.bool_], dict[int, Format]]:
        """bool [B], which images DALI decodes; and the formats of those that come encoded."""
        native = np.zeros(len(encoded), dtype=np.bool_)
        kinds: dict[int, Format] = {}
        for position, (data, (height, width)) in enumerate(zip(encoded, geometry.source_size.tolist(), strict=True)):
            if not isinstance(data, np.ndarray):
                header = checked_header("dali", position, data, (height, width))
                check_scans("dali", position, data, header)
                kinds[position] = header.format
                native[position] = is_native(header, data, self._device.type)
        return native, kinds

    # In threads of this process

    def _start_on_host(
        self,
        positions: Positions,
        encoded: Sequence[Encoded | Pixels],
        kinds: dict[int, Format],
        geometry: Geometry,
        where: Placement,
    ) -> tuple[torch.Tensor, list[Future[None]]]:
        """Frames [n, H, W, 3] in memory that the device can fetch from, and the threads' work on them."""
        shape = (len(positions), *geometry.output_size, 3)
        staged = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda" and len(positions) > 0)
        if len(positions) and self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "resflow-dali")
        jobs = [
            self._pool.submit(self._place, position, encoded[position], kinds.get(position), geometry, where, frame)
            for position, frame in zip(positions.tolist(), staged.numpy(), strict=True)
            if self._pool is not None
        ]
        return staged, jobs

    def _place(
        self,
        position: int,
        encoded: Encoded | Pixels,
        kind: Format | None,
        geometry: Geometry,
        where: Placement,
        frame: npt.NDArray[np.uint8],
    ) -> None:
        height, width = geometry.source_size[position].tolist()
        if isinstance(encoded, np.ndarray) or kind is None:
            pixels = check_pixels("dali", position, np.asarray(encoded), (height, width))
        else:
            damage = strict_jpeg(encoded, 1, 1)[1] if kind == "jpeg" else ""
            pixels = decode_checked(
                "dali", position, encoded, (height, width), kind, self.notices, damage=damage, strict=self._strict
            )
        place(pixels, frame, where, position, (width, height), np.array(self._fill, dtype=np.uint8))

    # In DALI

    def _decoded(
        self, positions: Positions, encoded: Sequence[Encoded | Pixels], geometry: Geometry, where: Placement
    ) -> torch.Tensor:
        """Frames [n, H, W, 3] of images that DALI decodes, all turned or none."""
        turned = bool(where.turned[positions[0]])
        data = [np.frombuffer(encoded[position], dtype=np.uint8) for position in positions.tolist()]
        inputs = pipeline_inputs(positions, geometry, where)
        try:
            frames = self._run(turned, data, inputs)
        except RuntimeError:
            frames = self._singly(turned, positions, data, inputs, geometry, where)
        if turned:
            outside = ~self._on_image(where.inverse[positions], geometry.source_size[positions], frames)
            frames = torch.where(outside[..., None], self._colour, frames)
        return frames

    def _run(self, turned: bool, data: list[npt.NDArray[np.uint8]], inputs: Inputs) -> torch.Tensor:
        pipeline = self._pipelines.get(turned) or self._opened(turned, data, inputs)
        try:
            return self._output(self._fed_and_run(pipeline, turned, data, inputs))
        except Exception:
            # DALI says that a pipeline which failed is no longer valid; and some inputs may wait for the others.
            self._pipelines.pop(turned, None)
            raise

    def _fed_and_run(
        self, pipeline: Pipeline, turned: bool, data: list[npt.NDArray[np.uint8]], inputs: Inputs
    ) -> object:
        before = self._fed.get(turned)
        self._fed[turned] = (data, inputs)
        pipeline.feed_input("encoded", data)
        for name, value in inputs.items():
            pipeline.feed_input(name, value)
        stream = torch.cuda.current_stream(self._device) if self._leases is not None else None
        (frames,) = pipeline.run(stream)
        del before  # alive until here: a run may read the inputs of the one before
        return frames.as_tensor()

    def _output(self, frames: object) -> torch.Tensor:
        return torch.utils.dlpack.from_dlpack(frames) if self._leases is None else self._leases.share(frames)

    def _singly(
        self,
        turned: bool,
        positions: Positions,
        data: list[npt.NDArray[np.uint8]],
        inputs: Inputs,
        geometry: Geometry,
        where: Placement,
    ) -> torch.Tensor:
        """Decode the images of a failed batch one by one; those that DALI refuses are for Pillow to judge."""
        frames = torch.empty((len(data), *geometry.output_size, 3), dtype=torch.uint8, device=self._device)
        for number, position in enumerate(positions.tolist()):
            one = slice(number, number + 1)
            try:
                frames[one] = self._run(turned, data[one], {name: value[one] for name, value in inputs.items()})
            except RuntimeError as error:
                if DECODER not in str(error):
                    raise WorkerError(
                        f"DALI failed on {self._device} at image {position} of the batch, not for the image's sake: "
                        f"{error}. Lower max_batch if memory is short, or use engine 'turbo'."
                    ) from error
                placed = np.empty((*geometry.output_size, 3), dtype=np.uint8)
                view = data[number].data
                self._place(position, view, whole_header(view).format, geometry, where, placed)
                frames[number] = self._uploaded(placed)
        return frames

    def _opened(self, turned: bool, data: list[npt.NDArray[np.uint8]], inputs: Inputs) -> Pipeline:
        if self._load is None:
            self._load = self._measured(turned, data, inputs)
        pipeline = self._pipelines[turned] = self._build(turned, self._load, inputs)
        return pipeline

    def _build(self, turned: bool, load: float, inputs: Inputs) -> Pipeline:
        largest = (0, 0)
        if load and self._leases is not None:
            free, _ = torch.cuda.mem_get_info(self._device)
            ends = (inputs["anchor"] + inputs["shape"]).tolist()
            largest = kept_size([(height, width) for height, width in ends], self._max_batch, free)
        return build_pipeline(
            turned=turned,
            fill=self._fill,
            device_index=self._device.index if self._leases is not None else None,
            threads=self._threads,
            max_batch=self._max_batch,
            hardware_load=load,
            largest=largest,
        )

    def _measured(self, turned: bool, data: list[npt.NDArray[np.uint8]], inputs: Inputs) -> float:
        """The JPEG engines' share of a batch; 0 where there are none."""
        if self._leases is None:
            return 0.0
        hardware = probe_hardware(self._device.index)
        if not hardware.engines:
            return 0.0
        chosen = np.arange(min(_SAMPLE, self._max_batch)) % len(data)
        many = [data[number] for number in chosen.tolist()]
        fed = {name: value[chosen] for name, value in inputs.items()}

        def seconds(load: float) -> float:
            pipeline, taken = self._build(turned, load, inputs), []
            for _ in range(4):  # the first warms up
                start = time.perf_counter()
                self._fed_and_run(pipeline, turned, many, fed)
                torch.cuda.current_stream(self._device).synchronize()
                taken.append(time.perf_counter() - start)
            return min(taken[1:])

        versions = f"dali {nvidia.dali.__version__}"
        name = torch.cuda.get_device_name(self._device)
        return measured_load(
            f"{name}, {hardware.engines} x {hardware.cores} JPEG engines, {versions}, {self._threads} threads", seconds
        )

    # On the device

    def _uploaded(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        """An array on the device, without waiting for it."""
        tensor = torch.from_numpy(array)
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)

    def _on_image(
        self, inverse: npt.NDArray[np.float64], source_size: npt.NDArray[np.int32], frames: torch.Tensor
    ) -> torch.Tensor:
        """bool [n, H, W]: `Geometry.valid_mask` of turned images."""
        device = self._device
        rows = torch.arange(frames.shape[1], dtype=torch.float64, device=device)[None, :, None] + 0.5
        columns = torch.arange(frames.shape[2], dtype=torch.float64, device=device)[None, None, :] + 0.5
        map_ = self._uploaded(inverse)[..., None, None]  # [n, 3, 3, 1, 1]
        limit = self._uploaded(source_size)[..., None, None]  # [n, 2, 1, 1]
        inside = torch.ones(frames.shape[:3], dtype=torch.bool, device=device)
        for axis in (0, 1):
            source = (map_[:, axis, 0] * columns + map_[:, axis, 1] * rows + map_[:, axis, 2]).round(decimals=6)
            inside &= (source >= 0) & (source < limit[:, 1 - axis])
        return inside
