"""`resflow lint`: every sample read and decoded as in training, and those that are bad listed."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from resflow.cli.dataset import AsJson, Dataset, OnError, plural, takes_dataset
from resflow.cli.pipelines import TargetsOption, lacking_targets, likely_targets, read_pipeline, targets_of
from resflow.progress import progress

BAD = 3
"""Exit code where samples are bad."""
_SHOWN = 100  # bad samples that are printed
_SIDE = 64  # pixels of the square that images are decoded to


@takes_dataset
def lint(
    dataset: Dataset,
    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", metavar="PIPELINE", help="Read targets and decode as this pipeline does."),
    ] = None,
    targets: TargetsOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Count as bad what a lenient decoder reads, and greyscale over 8 bits.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; one a CPU if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read and decode every sample, with its targets, and list those that are bad; exit code 3 if there are any."""
    from resflow.loader import DataLoader
    from resflow.session.stats import cpus
    from resflow.session.target_report import report_targets
    from resflow.sources.groups import remark_lines

    start = time.perf_counter()
    source, _ = replace(dataset, on_error=OnError.drop).open()
    chosen = _pipeline(pipeline, targets, source, strict)
    lacking = None if pipeline is None and targets is None else lacking_targets(source, chosen.targets)
    if lacking is not None and lacking.every:  # said once, and the images are read all the same
        chosen = replace(chosen, targets=None)
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_size=32,
        num_workers=cpus() if workers is None else workers,
        pipeline=chosen,
    )
    seen, tolerated = 0, []
    with warnings.catch_warnings(), progress("decoding", len(source.index)) as show:
        warnings.filterwarnings("ignore", message="label maps")  # said below, of all of them
        for batch in loader:
            seen += len(batch)
            tolerated += batch.tolerated
            show(seen)
    problems = getattr(getattr(source, "problems", None), "problems", ())
    bad = [{"shard": one.shard, "key": one.key, "offset": one.offset, "reason": one.reason} for one in loader.skipped]
    bad += [
        {"shard": one.where, "key": one.key, "offset": None, "reason": f"{one.kind}: {one.what}"} for one in problems
    ]
    findings = report_targets(source, chosen.targets)
    bad += [{"shard": "", "key": "", "offset": None, "reason": found.text} for found in findings if found.wrong]
    remarks = getattr(getattr(source, "shard_index", None), "remarks", {})
    seconds = time.perf_counter() - start
    if as_json:
        lenient = [asdict(one) for one in tolerated]
        told = {"samples": seen, "bad": bad, "tolerated": lenient, "seconds": round(seconds, 3)}
        told["notes"] = [one.text for one in findings if not one.wrong]
        told |= {"lacking": None if lacking is None else lacking.text}
        print(json.dumps(told | {"remarks": {kind: asdict(remark) for kind, remark in remarks.items()}}))
    else:
        for one in bad[:_SHOWN]:
            at = "" if one["offset"] is None else f" at byte {one['offset']:,}"
            print(f"{one['shard']}/{one['key']}{at}: {one['reason']}" if one["shard"] else one["reason"])
        if len(bad) > _SHOWN:
            print(f"and {len(bad) - _SHOWN:,} more; --json lists all")
        for one in tolerated[:_SHOWN]:
            print(f"{one.shard}/{one.key}: {one.kind}, decoded all the same: {one.reason}")
        if len(tolerated) > _SHOWN:
            print(f"and {len(tolerated) - _SHOWN:,} more; --json lists all")
        for found in findings:
            if not found.wrong:
                print(f"note: {found.text}")
        for line in remark_lines(remarks):
            print(line)
        if lacking is not None:
            print(lacking.text)
        more = f", {len(tolerated):,} only read leniently (--strict refuses these)" if tolerated else ""
        print(f"{len(bad):,} bad of {plural(seen, 'sample')}{more}, {seconds:.1f} s")
    if bad or lacking:
        raise typer.Exit(BAD)


def _pipeline(name: str | None, targets: str | None, source: Any, strict: bool) -> Any:
    """What reads and decodes all of each image, whatever is wrong with others."""
    from resflow.pipeline import Pipeline
    from resflow.skip import Skip

    options: dict[str, Any] = {"resolution": _SIDE, "buckets": 8, "views": (), "augment": (), "tier_quality": None}
    options |= {"stride": 8, "on_error": Skip(budget=1.0)}
    options |= {"strict": True} if strict else {}
    if name is not None:
        return replace(read_pipeline(name, targets), **options, device="cpu", engine="turbo", normalize=None)
    return Pipeline(**options, targets=likely_targets(source) if targets is None else targets_of(targets))
