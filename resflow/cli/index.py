"""`resflow index`: scan shards and write their index."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.cli.dataset import (
    Address,
    Engine,
    EngineOption,
    IndexFile,
    Shards,
    check_engine,
    check_folder_of,
    check_shards,
    plural,
)

if TYPE_CHECKING:
    from resflow.errors import SampleError
    from resflow.sources.index_file import ShardIndex


def index(
    shards: Shards,
    index_file: IndexFile = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that scan; chosen by size if left out.")] = None,
    max_member_bytes: Annotated[int, typer.Option(min=1, help="Bytes of the largest member that is taken.")] = 1 << 30,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out, and list, samples without an image whose size can be read.")
    ] = False,
    engine: EngineOption = Engine.local,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")] = False,
) -> None:
    """Index the images in tar shards: scan their headers, write a file beside the shards."""
    from resflow.sources.index_file import write_index
    from resflow.sources.index_lookup import writable_index_path

    start = time.perf_counter()
    check_shards(shards)
    check_folder_of(index_file)
    path = index_file or writable_index_path(shards)
    check_engine(engine, address, workers=workers)
    missed: list[SampleError] = []
    options: dict[str, Any] = {"max_member_bytes": max_member_bytes, "left_out": missed.append if leave_out else None}
    on_ray = engine is Engine.ray
    found = build_on_ray(shards, address, **options) if on_ray else _build(shards, workers, **options)
    write_index(found, path)
    seconds = time.perf_counter() - start
    print(_as_json(found, path, seconds, missed) if as_json else _as_text(found, path, seconds, missed))


def build_on_ray(shards: str | list[str], address: str | None, **options: Any) -> ShardIndex:
    """The index of shards that are scanned on Ray.

    Args:
        shards: as they are named.
        address: of the cluster.
        options: further arguments of `build_index`.
    """
    from resflow.sources.index_build import build_index
    from resflow.sources.ray_tasks import ray_cluster, ray_map

    with ray_cluster(address):
        return build_index(
            shards,
            workers=1,
            **options,
            scans=lambda scan, paths: ray_map(scan, [path.absolute() for path in paths]),
        )


def _build(shards: list[str], workers: int | None, **options: Any) -> ShardIndex:
    from resflow.sources.index_build import build_index

    if not sys.stderr.isatty():
        return build_index(shards, workers=workers, **options)

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("scanning"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scan", total=None)
        return build_index(
            shards,
            workers=workers,
            **options,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _as_json(found: ShardIndex, path: Path, seconds: float, missed: list[SampleError]) -> str:
    return json.dumps(
        {
            "index": str(path),
            "shards": len(found.shards),
            "samples": len(found),
            "bytes": sum(found.shard_sizes),
            "fingerprint": found.fingerprint,
            "seconds": round(seconds, 3),
            "left_out": [str(error) for error in missed],
            "remarks": {kind: asdict(remark) for kind, remark in found.remarks.items()},
        }
    )


def _as_text(found: ShardIndex, path: Path, seconds: float, missed: list[SampleError]) -> str:
    from resflow.sources.groups import remark_lines

    ratio = found.index.aspect_ratio
    listed = "".join(f"{error}\n" for error in missed) + (
        f"{plural(len(missed), 'sample')} left out\n" if missed else ""
    )
    shards = f"{plural(len(found.shards), 'shard')} ({sum(found.shard_sizes) / 1e6:,.1f} MB)"
    return (
        f"{''.join(f'{line}{chr(10)}' for line in remark_lines(found.remarks))}"
        f"{listed}{plural(len(found), 'image')} in {shards}, "
        f"aspect ratio {ratio.min():.2f} to {ratio.max():.2f}, {seconds:.1f} s\n{path}"
    )
