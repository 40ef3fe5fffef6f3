"""What `resflow plan --tiers` tells: tiers proposed for a pipeline and a budget, or given ones, and their speed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resflow.cli.tiers import parsed
from resflow.errors import ConfigError

if TYPE_CHECKING:
    from resflow.pipeline import Pipeline
    from resflow.plan import Buckets, Schedule
    from resflow.sources.base import Source

AUTO = "auto"


def schedule_epochs(schedule: Schedule) -> int:
    """Epochs after which a schedule has given all its resolutions."""
    own: float | None = getattr(schedule, "epochs", None) or getattr(schedule, "period", None)
    stages: Mapping[int, int] = getattr(schedule, "at", {0: 0})
    return max(stages) + 1 if own is None else math.ceil(own)


def planned_tiers(
    asked: str, budget: float, pipeline: Pipeline, buckets: Buckets, source: Source, *, epochs: int, seed: int
) -> dict[str, Any]:
    """Propose tiers, or tell of those that are asked for.

    Args:
        asked: "auto", or short sides separated by commas.
        budget: most bytes of all tiers as a share of the originals'; for "auto".
        pipeline: what is done to samples.
        buckets: as its loader learned them.
        source: of the samples: indexed shards.
        epochs: of the training, if it is longer than the schedule.
        seed: the loader's.

    Returns:
        Values of JSON.

    Raises:
        ConfigError: not shards, sides or a budget out of range, or a pipeline that reads no tiers.
    """
    import numpy as np

    from resflow.plan.propose import predict_tiers, propose_tiers
    from resflow.session.sampled_windows import draw_windows
    from resflow.sources.paths import shell_words
    from resflow.sources.tiers import check_sides

    shards = getattr(source, "shard_index", None)
    if shards is None:
        raise ConfigError(
            f"--tiers is for shards, beside which tiers lie; got a {type(source).__name__}. Write it into shards first "
            "(`resflow shard`)."
        )
    quality = pipeline.tier_quality
    if quality is None:
        raise ConfigError(
            "the pipeline reads originals alone (tier_quality: null). Set tier_quality to 1.0 or leave it out."
        )
    size, lengths = np.asarray(shards.index.size), np.asarray(shards.image_length)
    epochs = max(epochs, schedule_epochs(pipeline.schedule))
    draws = draw_windows(pipeline, buckets, size, epochs=epochs, seed=seed)
    # Rows that are drawn, spread evenly over the dataset, stand for all.
    rows, at = np.unique(draws.row, return_inverse=True)
    draws = type(draws)(at.astype(np.int64), draws.matrix, draws.shape)
    size, lengths = size[rows], lengths[rows]
    if asked == AUTO:
        found = propose_tiers(size, lengths, draws, budget=budget, quality=quality)
    else:
        found = predict_tiers(size, lengths, draws, check_sides(parsed(asked)), quality=quality)
    return {
        "shards": shell_words(shards.shards),
        "sides": list(found.sides),
        "budget": budget if asked == AUTO else None,
        "epochs": epochs,
        "bytes": round(found.bytes_share * float(np.sum(shards.image_length))),
        "bytes_share": found.bytes_share,
        "used": list(found.used),
        "read_share": found.read_share,
        "milliseconds": found.milliseconds,
        "milliseconds_without": found.without,
        "speedup": found.speedup,
    }


def as_text(told: dict[str, Any]) -> str:
    """The same in words."""
    if not told["sides"]:
        return f"tiers: none pays within {told['budget']:.0%} of the originals' bytes"
    sides = ",".join(map(str, told["sides"]))
    used = ", ".join(f"{share:.0%} from {side}" for side, share in zip(told["sides"], told["used"], strict=True))
    return (
        f"tiers {sides}: {told['bytes'] / 1e6:,.1f} MB ({told['bytes_share']:.1%} of the originals); "
        f"{told['epochs']} epoch{'s' * (told['epochs'] != 1)} read {used}\n"
        f"predicted: {told['read_share']:.0%} of the bytes read, {told['milliseconds']:.2f} ms of processor time an "
        f"image instead of {told['milliseconds_without']:.2f}: {told['speedup']:.1f} times as fast\n"
        f"make them: resflow tiers {told['shards']} --tiers {sides}"
    )
