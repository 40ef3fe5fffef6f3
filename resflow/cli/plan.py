"""`resflow plan`: how a pipeline will batch a dataset, before a byte of an image is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.cli.dataset import (
    AsJson,
    Classes,
    Data,
    FirstLabel,
    FormatOption,
    More,
    OnError,
    OnErrorOption,
    Upright,
    ZeroBased,
    open_data,
)
from resflow.cli.tier_plan import as_text as tiers_as_text

if TYPE_CHECKING:
    from resflow.geometry import Fit
    from resflow.plan import Buckets, EpochPlan
    from resflow.plan.buckets import Sizes


def plan(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="What is done to the samples.")],
    data: Data,
    more: More = None,
    form: FormatOption = None,
    classes: Classes = None,
    first_label: FirstLabel = 1,
    zero_based: ZeroBased = False,
    upright: Upright = None,
    on_error: OnErrorOption = OnError.raise_,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a rank's batch.")] = 64,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks that train together.")] = 1,
    drop_last: Annotated[bool, typer.Option("--drop-last", help="Leave out samples rather than be short.")] = False,
    epoch: Annotated[int, typer.Option(min=0, help="First epoch to tell of.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to tell of.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    tiers: Annotated[
        str | None, typer.Option(metavar="auto|SIDES", help="Propose tiers, or predict what these bring.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Most bytes of proposed tiers, as a share of the originals'.")] = 0.3,
    out: Annotated[Path | None, typer.Option(help="Picture of ratios and buckets to write: .png, .pdf, .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell how a dataset will be batched: its buckets, shapes, batches, and what is padded and cropped."""
    if out is not None:
        from resflow.pictures import require_matplotlib

        require_matplotlib()
    from resflow.loader import DataLoader
    from resflow.pipeline import Pipeline
    from resflow.plan import World

    read = Pipeline.from_yaml(pipeline)
    dataset, _ = open_data(
        form, [data, *(more or ())], classes=classes, first_label=first_label, zero_based=zero_based, upright=upright,
        on_error=on_error,
    )  # fmt: skip
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=batch_size, shuffle=True, drop_last=drop_last, seed=seed, world=World(0, ranks),
        pipeline=read,
    )  # fmt: skip
    index = loader.dataset.source.index  # type: ignore[attr-defined]
    told: dict[str, Any] = {
        "images": len(index),
        "global_batch_size": batch_size * ranks,
        "epochs": [_epoch(loader.plan(number), read.fit, index.size) for number in range(epoch, epoch + epochs)],
        "buckets": _buckets(loader.plan(epoch), loader.buckets, read.fit, index.size),
        "shapes": [list(shape[2:]) for shape in loader.shapes()],
        "picture": None,
        "tiers": None,
    }
    if tiers is not None:
        from resflow.cli.tier_plan import planned_tiers

        source = loader.dataset.source  # type: ignore[attr-defined]
        told["tiers"] = planned_tiers(tiers, budget, read, loader.buckets, source, epochs=epochs, seed=seed)
    if out is not None:
        from resflow.pictures import ratio_histogram

        told["picture"] = str(ratio_histogram(index.aspect_ratio, loader.buckets, out))
    print(json.dumps(told) if as_json else _as_text(told))


def planned_shares(plan: EpochPlan, fit: Fit, size: Sizes) -> tuple[float, float]:
    """What the placement of an epoch costs, views left aside: what `DataLoader.stats` tells of a pass without views.

    Args:
        plan: of the epoch.
        fit: how images are placed.
        size: int32 [N, 2], height and width of all images.

    Returns:
        Share of all pixels that show no image, and share of an image's area that is cut off, averaged over images.
    """
    import numpy as np

    from resflow.geometry import Geometry

    shape = np.repeat(plan.shapes, np.diff(plan.offsets), axis=0)  # [S, 2]
    shown = pixels = 0
    cropped = 0.0
    for height, width in np.unique(plan.shapes, axis=0).tolist():
        ours = size[plan.sample_ids[(shape == (height, width)).all(axis=1)]]
        geometry = Geometry(fit.place(ours, (height, width)), ours, (height, width))
        inside = geometry.valid_pixels()
        area = ours.prod(axis=1) * np.abs(np.linalg.det(geometry.matrix[:, :2, :2]))
        shown, pixels = shown + int(inside.sum()), pixels + height * width * len(ours)
        cropped += float(np.clip(1 - inside / area, 0, 1).sum())
    return (1 - shown / pixels, cropped / len(plan.sample_ids)) if pixels else (0.0, 0.0)


def _epoch(plan: EpochPlan, fit: Fit, size: Sizes) -> dict[str, Any]:
    import numpy as np

    padded, cropped = planned_shares(plan, fit, size)
    sizes, pixels = np.diff(plan.offsets), plan.shapes.prod(axis=1)
    return {
        "epoch": plan.epoch,
        "batches": len(plan),
        "samples": len(plan.sample_ids),
        "short": int((sizes < sizes.max(initial=0)).sum()),
        "resolutions": np.unique(plan.resolutions).tolist(),
        "padded": padded,
        "cropped": cropped,
        "most_pixels": int((sizes * pixels).max(initial=0)),
    }


def _buckets(plan: EpochPlan, buckets: Buckets, fit: Fit, size: Sizes) -> list[dict[str, Any]]:
    """Each bucket at the highest resolution: its shape, the ratios it takes, and how many of the images."""
    import numpy as np

    from resflow.geometry import Geometry
    from resflow.geometry.fit import coverage

    bucket, edges = buckets.assign(size), [0.0, *buckets.edges.tolist(), float("inf")]
    level = np.searchsorted(buckets.resolutions, plan.resolutions)
    used = (buckets.shapes[level] == plan.shapes[:, None]).all(axis=2).argmax(axis=1)  # [T]
    told = []
    for number, (height, width) in enumerate(buckets.shapes[-1].tolist()):
        ours = size[bucket == number]
        padded, cropped = coverage(Geometry(fit.place(ours, (height, width)), ours, (height, width)))
        told.append(
            {
                "shape": [height, width],
                "ratios": [edges[number], edges[number + 1] if number + 1 < len(edges) - 1 else None],
                "images": len(ours),
                "batches": int((used == number).sum()),
                "padded": float(padded.mean()) if len(ours) else 0.0,
                "cropped": float(cropped.mean()) if len(ours) else 0.0,
            }
        )
    return told


def _as_text(told: Mapping[str, Any]) -> str:
    lines = [f"{told['images']:,} images, {len(told['buckets'])} buckets, {len(told['shapes'])} shapes in all"]
    lines.append(f"{'shape':>11}  {'ratio W/H':<14}{'images':>10}{'batches':>9}{'padded':>9}{'cropped':>9}")
    for one in told["buckets"]:
        low, high = one["ratios"]
        ratios = f"{low:.2f} to " + ("inf" if high is None else f"{high:.2f}")
        shape = f"{one['shape'][0]}\u00d7{one['shape'][1]}"
        lines.append(
            f"{shape:>11}  {ratios:<14}{one['images']:>10,}{one['batches']:>9,}{one['padded']:>9.1%}"
            f"{one['cropped']:>9.1%}"
        )
    for one in told["epochs"]:
        levels = one["resolutions"]
        resolution = f"{levels[0]}" if len(levels) == 1 else f"{levels[0]} to {levels[-1]}"
        lines.append(
            f"epoch {one['epoch']}: {one['batches']:,} batches of {told['global_batch_size']:,} "
            f"({one['short']} short), {one['samples']:,} images, resolution {resolution}, {one['padded']:.1%} padded, "
            f"{one['cropped']:.1%} cropped, at most {one['most_pixels'] / 1e6:.1f} MP a batch"
        )
    if told["tiers"] is not None:
        lines.append(tiers_as_text(told["tiers"]))
    return "\n".join([*lines, *([told["picture"]] if told["picture"] else [])])
