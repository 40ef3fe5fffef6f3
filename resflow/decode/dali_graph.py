"""The DALI graph that decodes, resizes and places one batch, and what it is fed at each run."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from nvidia.dali import Pipeline, fn, types

from resflow.decode.base import Fill
from resflow.decode.placement import Placement
from resflow.geometry.affine import Geometry

Inputs: TypeAlias = dict[str, npt.NDArray[Any]]

DECODER = "decoders.image_slice"
"""How DALI's messages name the operator that decodes."""


def build_pipeline(
    *,
    turned: bool,
    fill: Fill,
    device_index: int | None,
    threads: int,
    max_batch: int,
    hardware_load: float = 0.0,
    largest: tuple[int, int] = (0, 0),
) -> Pipeline:
    """Build a pipeline that takes another batch length, other windows and another output size at each run.

    DALI's default executor, with one batch in flight: it gives each run's output memory of its own, which torch may
    share. Inputs are not copied: they must stay as they are until the run after theirs has ended.

    Args:
        turned: whether images are warped, after they were scaled.
        fill: colour of padding pixels, RGB, 0 to 255.
        device_index: of a CUDA device; None builds for the CPU.
        threads: decoding threads.
        max_batch: largest number of images that one run takes.
        hardware_load: share of a batch's baseline JPEGs for the GPU's JPEG engines, in [0, 1].
        largest: height and width in pixels of what the JPEG engines keep memory for; (0, 0) keeps none.

    Returns:
        The pipeline, whose only output is uint8 [B, H, W, 3].
    """
    pipeline = Pipeline(
        batch_size=max_batch,
        num_threads=threads,
        device_id=device_index,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    on_gpu: dict[str, Any] = {
        "hw_decoder_load": hardware_load,
        "preallocate_height_hint": largest[0],
        "preallocate_width_hint": largest[1],
    }
    with pipeline:
        encoded = _input("encoded", types.UINT8)
        images = fn.decoders.image_slice(
            encoded,
            device="cpu" if device_index is None else "mixed",
            start=_input("anchor", types.INT32),
            shape=_input("shape", types.INT32),
            axes=[0, 1],
            output_type=types.RGB,
            **({} if device_index is None else on_gpu),
        )
        images = fn.resize(
            images,
            roi_start=_input("roi_start", types.FLOAT),
            roi_end=_input("roi_end", types.FLOAT),
            roi_relative=False,
            size=_input("size", types.FLOAT),
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        if turned:
            images = fn.warp_affine(
                images,
                matrix=_input("matrix", types.FLOAT, 2),
                size=_input("output", types.FLOAT),
                interp_type=types.INTERP_LINEAR,
            )
        else:
            images = fn.slice(
                images,
                start=_input("corner", types.INT32),
                shape=_input("output", types.INT32),
                axes=[0, 1],
                out_of_bounds_policy="pad",
                fill_values=[float(value) for value in fill],
            )
        pipeline.set_outputs(images)
    pipeline.build()
    return pipeline


def pipeline_inputs(positions: npt.NDArray[np.int64], geometry: Geometry, where: Placement) -> Inputs:
    """What the pipeline is fed besides encoded images, one row an image, rows and columns in the order y, x.

    Args:
        positions: int64 [n], places in the batch, all turned or none.
        geometry: the batch's.
        where: the batch's.

    Returns:
        Arrays by the names of the pipeline's inputs.
    """
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


def _input(name: str, dtype: Any, ndim: int = 1) -> Any:
    return fn.external_source(name=name, dtype=dtype, ndim=ndim, no_copy=True)
