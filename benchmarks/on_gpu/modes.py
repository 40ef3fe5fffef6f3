"""DALI's two ways: a pipeline built once, and operators called one by one (dynamic mode), on equal work."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from on_gpu.data import Data
from on_gpu.feeds import RATIO, SCALE
from resflow.decode.dali_graph import build_pipeline, pipeline_inputs
from resflow.decode.placement import placement
from resflow.geometry import Geometry, RandomResizedCrop, apply_views
from resflow.images import read_header


def compare(data: Data, *, side: int, batch: int, device: str, threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds an image of both, in turn, the best and the median of the rounds; and whether pixels agree."""
    import nvidia.dali.experimental.dynamic as ndd
    from nvidia.dali import types

    encoded = [np.frombuffer(path.read_bytes(), np.uint8) for path in data.images()[:batch]]
    headers = [read_header(one.data) for one in encoded]
    size = np.array([(header.height, header.width) for header in headers], np.int32)
    ids, views = np.arange(len(encoded)), (RandomResizedCrop(SCALE, RATIO),)
    matrix = np.tile(np.eye(3), (len(encoded), 1, 1))
    matrix = apply_views(views, matrix, size, (side, side), seed=0, epoch=0, sample_ids=ids, progress=1.0)
    geometry = Geometry(matrix, size, (side, side))
    inputs = pipeline_inputs(ids, geometry, placement(geometry))
    on_gpu = device == "cuda"
    pipeline = build_pipeline(
        turned=False, fill=(0, 0, 0), device_index=0 if on_gpu else None, threads=threads, max_batch=len(encoded)
    )
    context = ndd.EvalContext(num_threads=threads, device_id=0 if on_gpu else None)

    def by_pipeline() -> torch.Tensor:
        pipeline.feed_input("encoded", encoded)
        for name, value in inputs.items():
            pipeline.feed_input(name, value)
        (images,) = pipeline.run(torch.cuda.current_stream() if on_gpu else None)
        return torch.from_dlpack(images.as_tensor())

    def by_operators() -> torch.Tensor:
        with context:
            given = {name: ndd.as_batch(list(value)) for name, value in inputs.items()}
            images = ndd.decoders.image_slice(
                ndd.as_batch(encoded),
                device="gpu" if on_gpu else "cpu",
                start=given["anchor"],
                shape=given["shape"],
                axes=[0, 1],
                output_type=types.RGB,
            )
            images = ndd.resize(
                images,
                roi_start=given["roi_start"],
                roi_end=given["roi_end"],
                roi_relative=False,
                size=given["size"],
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            )
            images = ndd.slice(
                images,
                start=given["corner"],
                shape=given["output"],
                axes=[0, 1],
                out_of_bounds_policy="pad",
                fill_values=[0.0, 0.0, 0.0],
            )
            return torch.from_dlpack(ndd.as_tensor(images))

    ways = {"pipeline": by_pipeline, "dynamic": by_operators}
    equal = torch.equal(by_pipeline().cpu(), by_operators().cpu())
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if on_gpu:
                torch.cuda.synchronize()
            taken[name].append(1000 * (time.perf_counter() - start) / len(encoded))
    return {
        "equal": equal,
        **{f"{name}_ms": min(values) for name, values in taken.items()},
        **{f"{name}_median_ms": float(np.median(values)) for name, values in taken.items()},
    }
