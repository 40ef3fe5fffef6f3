"""`resflow tiers`: store the images of indexed shards again at smaller sizes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.cli.dataset import IndexFile, Shards, check_shards, plural
from resflow.errors import ConfigError
from resflow.progress import progress

if TYPE_CHECKING:
    from resflow.sources.tier_writer import TierReport

_SHOWN = 100  # unreadable images that are printed

Sides = Annotated[
    str,
    typer.Option("--tiers", metavar="SIDES", help="Short sides of the tiers in pixels, e.g. 96,160,256."),
]


def tiers(
    shards: Shards,
    sides: Sides,
    index_file: IndexFile = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEGs.")] = 85,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a CPU if left out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make all anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")] = False,
) -> None:
    """Store images again at smaller sizes, beside their shards; goes on where a run was killed."""
    start = time.perf_counter()
    check_shards(shards)
    report = make(shards, sides, quality=quality, workers=workers, overwrite=overwrite, index_file=index_file)
    seconds = time.perf_counter() - start
    print(_as_json(report, seconds) if as_json else f"{as_text(report)}\n{seconds:.1f} s\n{report.path}")


def parsed(sides: str) -> list[int]:
    """Sides from their text.

    Args:
        sides: whole numbers, separated by commas.

    Raises:
        ConfigError: anything else.
    """
    try:
        return [int(side) for side in sides.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--tiers must be whole numbers separated by commas, e.g. 96,160,256; got {sides!r}"
        ) from error


def make(shards: str | list[str], sides: str, **options: Any) -> TierReport:
    """Make tiers, with a progress bar on a terminal once that takes its time; says which images could not be read."""
    from resflow.sources.tier_writer import make_tiers

    wanted = parsed(sides)
    with progress("making tiers") as show:
        report = make_tiers(shards, wanted, progress=show, **options)
    for shard, key, message in report.unreadable[:_SHOWN]:
        print(f"no tier of {shard}/{key}: {message}", file=sys.stderr)
    return report


def as_text(report: TierReport) -> str:
    """A line a tier."""
    lines = []
    for side, entries, size, made in zip(report.sides, report.entries, report.image_bytes, report.made, strict=True):
        share = size / max(report.original_bytes, 1)
        lines.append(
            f"tier {side}: {entries:,} of {plural(report.samples, 'image')}, {size / 1e6:,.1f} MB "
            f"({share:.1%} of the originals), {plural(made, 'shard')} made"
        )
    return "\n".join(lines)


def _as_json(report: TierReport, seconds: float) -> str:
    tiers = [
        {"side": side, "images": entries, "bytes": size, "shards_made": made}
        for side, entries, size, made in zip(report.sides, report.entries, report.image_bytes, report.made, strict=True)
    ]
    return json.dumps(
        {
            "index": str(Path(report.path)),
            "samples": report.samples,
            "original_bytes": report.original_bytes,
            "tiers": tiers,
            "unreadable": len(report.unreadable),
            "seconds": round(seconds, 3),
        }
    )
