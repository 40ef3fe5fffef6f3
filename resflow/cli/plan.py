"""`resflow plan`: how a pipeline will batch a dataset, before a byte of an image is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.cli.dataset import AsJson, Dataset, check_folder_of, plural, takes_dataset
from resflow.cli.pipelines import PipelineName, TargetsOption, lacking_targets, read_pipeline
from resflow.cli.tier_plan import as_text as tiers_as_text

_DRAWN = 1 << 16  # images of an epoch whose views are drawn

if TYPE_CHECKING:
    from resflow.geometry import Fit
    from resflow.pipeline import Pipeline
    from resflow.plan import Buckets, EpochPlan
    from resflow.plan.buckets import Sizes


@takes_dataset
def plan(
    pipeline: PipelineName,
    dataset: Dataset,
    targets: TargetsOption = None,
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
    check_folder_of(out)
    if out is not None:
        from resflow.viz import require_matplotlib

        require_matplotlib()
    from resflow.loader import DataLoader
    from resflow.plan import World

    read = read_pipeline(pipeline, targets)
    source, _ = dataset.open()
    loader: DataLoader[Any] = DataLoader(
        source, batch_size=batch_size, shuffle=True, drop_last=drop_last, seed=seed, world=World(0, ranks),
        pipeline=read,
    )  # fmt: skip
    index, lacking = source.index, lacking_targets(source, read.targets)
    told: dict[str, Any] = {
        "images": len(index),
        "global_batch_size": batch_size * ranks,
        "epochs": [_epoch(loader.plan(number), read, index.size, seed) for number in range(epoch, epoch + epochs)],
        "buckets": _buckets(loader.plan(epoch), loader.buckets, read.fit, index.size),
        "shapes": [list(shape[2:]) for shape in loader.shapes()],
        "picture": None,
        "tiers": None,
        "lacking": None if lacking is None else lacking.text,
    }
    if tiers is not None:
        from resflow.cli.tier_plan import planned_tiers

        told["tiers"] = planned_tiers(tiers, budget, read, loader.buckets, source, epochs=epochs, seed=seed)
    if out is not None:
        from resflow.viz import ratio_histogram

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


def viewed_shares(plan: EpochPlan, pipeline: Pipeline, size: Sizes, seed: int) -> tuple[float, float]:
    """What an epoch pads and crops with its views, over at most 65,536 of its images.

    Args:
        plan: of the epoch.
        pipeline: whose views are drawn as in training.
        size: int32 [N, 2], height and width of all images.
        seed: the loader's.

    Returns:
        Share of all pixels that show no image, and share of an image's area that is cut off, averaged over images.
    """
    import numpy as np

    from resflow.geometry import Geometry, apply_views

    batch = np.repeat(np.arange(len(plan)), np.diff(plan.offsets))  # [S]
    chosen = np.linspace(0, len(batch) - 1, min(len(batch), _DRAWN)).astype(np.int64)
    groups = np.column_stack([plan.shapes[batch[chosen]], plan.resolutions[batch[chosen]]])
    shown = pixels = 0
    cropped = 0.0
    for height, width, resolution in np.unique(groups, axis=0).tolist():
        ids = plan.sample_ids[chosen[(groups == (height, width, resolution)).all(axis=1)]].astype(np.int64)
        ours, shape = size[ids], (height, width)
        matrix = apply_views(
            pipeline.views, pipeline.fit.place(ours, shape), ours, shape, seed=seed, epoch=plan.epoch, sample_ids=ids,
            progress=pipeline.progress(resolution),
        )  # fmt: skip
        geometry = Geometry(matrix, ours, shape)
        inside = geometry.valid_pixels()
        area = ours.prod(axis=1) * np.abs(np.linalg.det(matrix[:, :2, :2]))
        shown, pixels = shown + int(inside.sum()), pixels + height * width * len(ours)
        cropped += float(np.clip(1 - inside / area, 0, 1).sum())
    return (1 - shown / pixels, cropped / len(chosen)) if pixels else (0.0, 0.0)


def _epoch(plan: EpochPlan, pipeline: Pipeline, size: Sizes, seed: int) -> dict[str, Any]:
    import numpy as np

    padded, cropped = planned_shares(plan, pipeline.fit, size)
    viewed = viewed_shares(plan, pipeline, size, seed) if pipeline.views else (padded, cropped)
    sizes, pixels = np.diff(plan.offsets), plan.shapes.prod(axis=1)
    return {
        "epoch": plan.epoch,
        "batches": len(plan),
        "samples": len(plan.sample_ids),
        "short": int((sizes < sizes.max(initial=0)).sum()),
        "resolutions": np.unique(plan.resolutions).tolist(),
        "padded": padded,
        "cropped": cropped,
        "viewed": {"padded": viewed[0], "cropped": viewed[1]},
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
    counts = [(told["images"], "image"), (len(told["buckets"]), "bucket"), (len(told["shapes"]), "shape")]
    lines = [", ".join(plural(*one) for one in counts) + " in all"]
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
        viewed = one["viewed"]
        cut = f"{one['padded']:.1%} padded, {one['cropped']:.1%} cropped"
        if (viewed["padded"], viewed["cropped"]) != (one["padded"], one["cropped"]):
            cut += f" (with the views {viewed['padded']:.1%} and {viewed['cropped']:.1%})"
        lines.append(
            f"epoch {one['epoch']}: {plural(one['batches'], 'batch')} of {told['global_batch_size']:,} "
            f"({one['short']} short), {plural(one['samples'], 'image')}, resolution {resolution}, {cut}, at most "
            f"{one['most_pixels'] / 1e6:.1f} MP per batch"
        )
    if told["lacking"] is not None:
        lines.append(told["lacking"])
    if told["tiers"] is not None:
        lines.append(tiers_as_text(told["tiers"]))
    return "\n".join([*lines, *([told["picture"]] if told["picture"] else [])])
