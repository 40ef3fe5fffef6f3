"""`resflow info`: what a dataset holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.cli.dataset import AsJson, Dataset, takes_dataset
from resflow.cli.pipelines import likely_targets
from resflow.progress import followed

if TYPE_CHECKING:
    from resflow.sources import Sample, Source

_AT_ONCE = 64  # samples that are read together
_BAR = 40  # characters of the longest bar
_EDGES = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.05, 1.25, 1.4, 1.6, 2.0, 2.5, 4.0)  # of ratios W/H
_SHOWN = 20  # classes that are printed


@takes_dataset
def info(
    dataset: Dataset,
    samples: Annotated[
        int, typer.Option(min=0, help="Samples that are read for formats and classes, evenly spread; 0 reads none.")
    ] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Tell what a dataset holds: how many images, their sizes, aspect ratios and formats, its classes and tiers."""
    source, names = dataset.open()
    told = _sizes(source) | _contents(source, samples, names)
    print(json.dumps(told) if as_json else _as_text(told))


def _sizes(source: Source) -> dict[str, Any]:
    """What the index knows."""
    import numpy as np

    index = source.index
    size, ratio = index.size, index.aspect_ratio
    pixels = size.prod(axis=1, dtype=np.int64)
    shards = getattr(source, "shard_index", None)
    tiers = getattr(source, "open_tiers", lambda: None)()
    bins = np.searchsorted(_EDGES, ratio, side="right")
    quantiles = [0.0, 0.05, 0.5, 0.95, 1.0]
    return {
        "images": len(index),
        "shards": None if shards is None else len(shards.shards),
        "bytes": None if shards is None else int(sum(shards.shard_sizes)),
        "fingerprint": index.fingerprint,
        "remarks": {} if shards is None else {kind: asdict(remark) for kind, remark in shards.remarks.items()},
        "height": np.quantile(size[:, 0], quantiles, method="nearest").tolist(),
        "width": np.quantile(size[:, 1], quantiles, method="nearest").tolist(),
        "megapixels": {"mean": round(float(pixels.mean()) / 1e6, 4), "most": round(int(pixels.max()) / 1e6, 4)},
        "aspect_ratio": [round(float(value), 4) for value in np.quantile(ratio, quantiles)],
        "aspect_ratios": {"edges": list(_EDGES), "images": np.bincount(bins, minlength=len(_EDGES) + 1).tolist()},
        "tiers": {} if tiers is None else {side: int((offset >= 0).sum()) for side, offset in _tiers(tiers)},
    }


def _tiers(tiers: Any) -> list[tuple[int, Any]]:
    return list(zip(tiers.sides, tiers.offset, strict=True))


def _contents(source: Source, limit: int, names: Any) -> dict[str, Any]:
    """What only the samples themselves know."""
    import numpy as np

    from resflow.errors import TargetError
    from resflow.session.target_report import TargetReport

    count = min(limit, len(source.index))
    ids = np.arange(count, dtype=np.int64) * len(source.index) // max(count, 1)
    formats: Counter[str] = Counter()
    pixels: Counter[str] = Counter()
    classes: Counter[int] = Counter()
    spec = likely_targets(source) if count else None
    unreadable = 0
    findings = TargetReport(source)
    for sample in followed(_read(source, ids), "reading", count):
        formats[_format(sample)] += 1
        pixels[_pixels(sample)] += 1
        try:
            target = _target(sample, spec)
            findings.look(sample.key, target)
            classes.update(_classes(target))
        except (TypeError, ValueError, TargetError):
            unreadable += 1
    named = names if isinstance(names, Mapping) else dict(enumerate(names or ()))
    return {
        "read": count,
        "formats": dict(formats.most_common()),
        "pixels": dict(pixels.most_common()),
        "targets": None if spec is None else spec if isinstance(spec, str) else "objects or label maps",
        "classes": [
            {"class": number, "name": named.get(number), "count": found} for number, found in sorted(classes.items())
        ],
        "unreadable_targets": unreadable,
        "left_out": getattr(getattr(source, "problems", None), "counts", {}),
        "notes": [one.text for one in findings.all()] + _wide(pixels),
    }


def _read(source: Source, ids: Any) -> Any:
    for first in range(0, len(ids), _AT_ONCE):
        yield from source.read(ids[first : first + _AT_ONCE])


def _format(sample: Sample) -> str:
    from resflow.errors import HeaderError
    from resflow.images import whole_header

    if not isinstance(sample.image, memoryview | bytes):
        return "pixels"
    try:
        return whole_header(sample.image).format
    except HeaderError:
        return "unknown"


_PLAIN = ("1 x uint8", "3 x uint8", "unknown")


def _pixels(sample: Sample) -> str:
    """Channels and dtype of an image as its file has them, such as "1 x uint16"."""
    from resflow.errors import ConfigError, HeaderError
    from resflow.images.pillow import DAMAGE
    from resflow.images.values import values_kind

    if not isinstance(sample.image, memoryview | bytes):
        return f"{sample.image.shape[2]} x {sample.image.dtype}"
    try:
        channels, dtype = values_kind(sample.image)
    except (*DAMAGE, HeaderError, ConfigError):
        return "unknown"
    return f"{channels} x {dtype}"


def _wide(pixels: Counter[str]) -> list[str]:
    """What 8-bit RGB loses of these, as a note."""
    wide = {kind: count for kind, count in pixels.items() if kind not in _PLAIN}
    if not wide:
        return []
    shown = ", ".join(f"{count:,} of {kind}" for kind, count in wide.items())
    return [f"8-bit RGB, as pipelines have it, loses part of {shown}; Pipeline(pixels=rf.Pixels(...)) keeps it"]


def _target(sample: Sample, spec: Any) -> object:
    """The target of a sample; TargetError where it cannot be read."""
    from resflow.session.labels import sample_target

    return sample_target(sample.members, sample.target, spec, sample.keypoint_pairs)


def _classes(target: object) -> list[int]:
    """The class that a target is, or those of its objects."""
    import numpy as np

    from resflow.targets import Annotation

    if isinstance(target, Annotation):
        return [int(label) for label in target.labels]
    return [int(target)] if isinstance(target, int | np.integer) and not isinstance(target, bool) else []


def _as_text(told: Mapping[str, Any]) -> str:
    from resflow.sources.groups import read_remarks, remark_lines

    lines = [f"{told['images']:,} images"]
    if told["shards"] is not None:
        lines[0] += f" in {told['shards']:,} shard{'s' * (told['shards'] != 1)} ({told['bytes'] / 1e6:,.1f} MB)"
    lines += remark_lines(read_remarks(told["remarks"]))
    heads = "".join(f"{name:>9}" for name in ("least", "5%", "median", "95%", "most"))
    lines.append(f"{'':<13}{heads}")
    lines += [f"{name:<13}" + "".join(f"{value:>9,}" for value in told[name]) for name in ("height", "width")]
    lines.append(f"{'ratio W/H':<13}" + "".join(f"{value:>9.2f}" for value in told["aspect_ratio"]))
    lines.append(
        f"{'megapixels':<13}{told['megapixels']['mean']:.2f} on average, {told['megapixels']['most']:.2f} most"
    )
    counts, edges = told["aspect_ratios"]["images"], ["0", *map(str, told["aspect_ratios"]["edges"]), "inf"]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            lines.append(f"  {low:>5} to {high:<5}{count:>9,}  {'#' * max(1, round(_BAR * count / max(counts)))}")
    for side, count in told["tiers"].items():
        lines.append(f"tier {side}: {count:,} images")
    if told["read"]:
        part = "" if told["read"] == told["images"] else f", of {told['read']:,} images read"
        lines.append("formats: " + ", ".join(f"{count:,} {name}" for name, count in told["formats"].items()) + part)
        if told["pixels"].keys() - {"3 x uint8"}:
            lines.append("pixels: " + ", ".join(f"{count:,} {name}" for name, count in told["pixels"].items()) + part)
        lines += _class_lines(told, part)
    return "\n".join(lines)


def _class_lines(told: Mapping[str, Any], part: str) -> list[str]:
    found = told["classes"]
    lines = []
    if found:
        total = sum(one["count"] for one in found)
        lines.append(f"classes: {len(found):,}, {total:,} targets{part}")
        common = sorted(found, key=lambda one: -one["count"])
        for one in common[:_SHOWN]:
            name = f"{one['class']}" + (f" {one['name']}" if one["name"] else "")
            lines.append(f"  {name:<24}{one['count']:>9,}  {one['count'] / total:6.1%}")
        if len(common) > _SHOWN:
            lines.append(f"  and {len(common) - _SHOWN:,} more, the rarest with {common[-1]['count']:,}")
    else:
        lines.append(f"classes: none found (targets: {told['targets'] or 'none'})")
    lines += told["notes"]
    if told["left_out"]:
        lines.append("left out: " + ", ".join(f"{count:,} {kind}" for kind, count in told["left_out"].items()))
    if told["unreadable_targets"]:
        lines.append(f"targets of {told['unreadable_targets']:,} samples cannot be read; `resflow lint` names them")
    return lines
