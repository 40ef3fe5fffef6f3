"""What a pipeline will draw of its samples over the whole of its schedule, without reading any of them."""

from __future__ import annotations

import numpy as np

from resflow.geometry import apply_views
from resflow.pipeline import Pipeline
from resflow.plan import Buckets
from resflow.plan.buckets import Sizes
from resflow.plan.tier_cost import Draws

_DRAWS = 1 << 15


def draw_windows(pipeline: Pipeline, buckets: Buckets, size: Sizes, *, epochs: int, seed: int = 0) -> Draws:
    """Windows of samples spread evenly over a dataset, in every epoch of a schedule.

    Args:
        pipeline: what is done to samples.
        buckets: as its loader learned them.
        size: int32 [N, 2], height and width of all images in pixels.
        epochs: of the training.
        seed: the loader's.

    Returns:
        Some 32,768 windows, or all N in each epoch if that is fewer; placed as a loader with this seed places them but
        for the few samples that move to a neighbouring bucket.
    """
    count = min(len(size), max(1, _DRAWS // epochs))
    rows = np.arange(count, dtype=np.int64) * len(size) // count
    bucket, order = buckets.assign(size[rows]), np.random.default_rng(seed).permutation(count)
    parts: list[Draws] = []
    for epoch in range(epochs):
        used = epoch * len(size) + order * len(size) // count  # where in the epoch each sample comes
        resolution = pipeline.schedule(used.astype(np.int64), len(size), seed)
        for group in np.unique(np.stack([resolution, bucket], axis=1), axis=0).tolist():
            at = np.flatnonzero((resolution == group[0]) & (bucket == group[1]))
            shape, progress = buckets.shape(group[1], group[0]), pipeline.progress(group[0])
            matrix = apply_views(
                pipeline.views,
                pipeline.fit.place(size[rows[at]], shape),
                size[rows[at]],
                shape,
                seed=seed,
                epoch=epoch,
                sample_ids=rows[at],
                progress=progress,
            )
            parts.append(Draws(rows[at], matrix, np.tile(np.array(shape, np.int32), (len(at), 1))))
    columns = zip(*((part.row, part.matrix, part.shape) for part in parts), strict=True)
    return Draws(*map(np.concatenate, columns))
