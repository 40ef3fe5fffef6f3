"""`resflow preview`: a picture of what a pipeline does to a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.cli.dataset import AsJson, Dataset, check_folder_of, plural, takes_dataset
from resflow.cli.pipelines import PipelineName, TargetsOption, read_pipeline

if TYPE_CHECKING:
    from resflow.batch import Batch
    from resflow.loader import DataLoader
    from resflow.plan import Buckets, EpochPlan


@takes_dataset
def preview(
    pipeline: PipelineName,
    dataset: Dataset,
    targets: TargetsOption = None,
    masks: Annotated[bool, typer.Option("--masks", help="Show masks, even if the pipeline leaves them out.")] = False,
    keypoints: Annotated[
        bool, typer.Option("--keypoints", help="Show keypoints, even if the pipeline leaves them out.")
    ] = False,
    batches: Annotated[int, typer.Option(min=1, help="Batches to show, of shapes as different as there are.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 6,
    epoch: Annotated[int, typer.Option(min=0, help="Epoch whose batches are shown.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    html: Annotated[
        bool, typer.Option("--html", help="Write a page instead, with a zoom on each sample beside its source.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .png, .pdf, .svg or .html.", show_default="preview.png")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Picture batches as a model will see them: boxes, masks, keypoints, classes, padding, each image's transform."""
    path = out or Path("preview.html" if html else "preview.png")
    check_folder_of(path)
    as_page = html or path.suffix == ".html"
    if not as_page:
        from resflow.viz import require_matplotlib

        require_matplotlib()
    from resflow.loader import DataLoader
    from resflow.targets import Targets

    read = read_pipeline(pipeline, targets)
    spatial = read.targets if isinstance(read.targets, Targets) else Targets()
    if masks or keypoints:
        spatial = replace(spatial, masks=masks or spatial.masks, keypoints=keypoints or spatial.keypoints)
        read = replace(read, targets=spatial)
    source, names = dataset.open()
    loader = DataLoader(source, batch_size=batch_size, shuffle=True, seed=seed, pipeline=read)
    steps = spread_steps(loader.plan(epoch), loader.buckets, batches)
    shown = [_batch(loader, epoch, step) for step in steps]
    told = [_told(step, batch, loader) for step, batch in zip(steps, shown, strict=True)]
    options: dict[str, Any] = {
        "denormalize": read.normalize,
        "classes": names,
        "ignore_index": spatial.ignore_index,
    }
    if as_page:
        from resflow.cli.page import write_page

        write_page(shown, list(map(_line, told)), source, path, **options)
    else:
        from resflow.viz import contact_sheet

        contact_sheet(shown, path, tiles=batch_size, **options)
    if as_json:
        print(json.dumps({"picture": str(path), "epoch": epoch, "batches": told}))
    else:
        print("\n".join([str(path), *map(_line, told)]))


def spread_steps(plan: EpochPlan, buckets: Buckets, count: int) -> list[int]:
    """Batches of an epoch whose shapes differ as much as they can.

    Args:
        plan: of the epoch.
        buckets: that the plan was made with.
        count: batches wanted, at least 1.

    Returns:
        Steps in ascending order, fewer than `count` if the epoch is shorter. The buckets lie evenly between the tallest
        and the widest; in each of them full batches come first, then resolutions not seen yet, then early steps.
    """
    import numpy as np  # `resflow --help` is quick without it

    level = np.searchsorted(buckets.resolutions, plan.resolutions)
    bucket = (buckets.shapes[level] == plan.shapes[:, None]).all(axis=2).argmax(axis=1)  # [T]
    used = np.unique(bucket)
    turns = used[np.linspace(0, len(used) - 1, min(count, len(used))).round().astype(int)]
    sizes, wanted = np.diff(plan.offsets), min(count, len(plan))
    seen, chosen = np.zeros(len(buckets.resolutions), int), list[int]()
    while len(chosen) < wanted:
        for number in turns.tolist():
            steps = np.setdiff1d(np.flatnonzero(bucket == number), chosen)
            if len(steps) and len(chosen) < wanted:
                best = int(steps[np.lexsort((steps, seen[level[steps]], -sizes[steps]))[0]])
                seen[level[best]] += 1
                chosen.append(best)
        turns = used
    return sorted(chosen)


def _batch(loader: DataLoader[Batch], epoch: int, step: int) -> Batch:
    """One batch of an epoch, made alone: a loader resumes anywhere."""
    loader.load_state_dict(loader.state_dict() | {"epoch": epoch, "step": step})
    batch: Batch = next(iter(loader))
    return batch


def _told(step: int, batch: Batch, loader: DataLoader[Batch]) -> dict[str, Any]:
    """What is printed of a batch."""
    from resflow.geometry.fit import coverage
    from resflow.session.labels import sample_target
    from resflow.targets import Annotation
    from resflow.viz.content import shown

    padded, cropped = coverage(batch.geometry)
    told: dict[str, Any] = {
        "step": step,
        "shape": list(batch.images.shape[2:]),
        "resolution": batch.resolution,
        "images": len(batch),
        "padded": None if batch.mixed else round(float(padded.mean()), 4),
        "cropped": None if batch.mixed else round(float(cropped.mean()), 4),
    }
    objects = [one.objects for one in shown(batch) if one.objects is not None]
    if objects:
        dataset: Any = loader.dataset
        samples = dataset.source.read(batch.sample_ids.cpu().numpy())
        found = [sample_target(one.members, one.target, dataset.pipeline.targets) for one in samples]
        told["objects"] = sum(map(len, objects))
        in_source = sum(len(one) for one in found if isinstance(one, Annotation))
        told["objects_in_source"] = None if batch.mixed else in_source  # mixing brings objects of other images
    return told


def _line(told: Mapping[str, Any]) -> str:
    height, width = told["shape"]
    parts = [f"step {told['step']:>5}", f"{height}\u00d7{width}".rjust(9), f"resolution {told['resolution']:>4}"]
    parts.append(plural(told["images"], "image"))
    if told["padded"] is None:
        parts.append("mixed")
    else:
        parts += [f"{told['padded']:6.1%} padded", f"{told['cropped']:6.1%} cropped"]
    if "objects" in told:
        whole = told["objects_in_source"]
        of = "" if whole is None else f" of {whole:,}"
        parts.append(f"{told['objects']:,}{of} object{'s' * ((told['objects'] if whole is None else whole) != 1)}")
    return "  ".join(parts)
