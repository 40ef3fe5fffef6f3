"""`resflow shard`: write annotated images into tar shards."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from resflow.cli.dataset import (
    Address,
    AsJson,
    Dataset,
    Engine,
    EngineOption,
    Format,
    check_engine,
    plural,
    takes_dataset,
)
from resflow.cli.index import build_on_ray
from resflow.cli.tiers import as_text, make, parsed
from resflow.errors import ConfigError
from resflow.progress import followed

if TYPE_CHECKING:
    from resflow.sources import AnnotatedSource

_T = TypeVar("_T")
_SHOWN = 100  # problems that are printed


@takes_dataset
def shard(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... OUT",
            help="A folder of images or of class folders, image files, YOLO's data.yaml, or what --format says: IMAGES "
            "ANNOTATIONS.json... (panoptic: IMAGES JSON MASKS), ROOT SPLIT, IMAGES LABELS, IMAGES MASKS. OUT is a "
            "folder, or shards such as out/train-%06d.tar.",
        ),
    ],
    dataset: Dataset,
    max_samples: Annotated[int, typer.Option(min=1, help="Samples a shard.")] = 10_000,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes after which a shard is closed.")] = 1 << 30,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards of the same names.")] = False,
    no_index: Annotated[bool, typer.Option("--no-index", help="Write no index beside the shards.")] = False,
    tiers: Annotated[
        str | None,
        typer.Option(metavar="SIDES", help="Store images again at these short sides in pixels, e.g. 96,160,256."),
    ] = None,
    engine: EngineOption = Engine.local,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Write a dataset into tar shards with their index: COCO, VOC, YOLO, class folders, or images with masks."""
    from resflow.sources import build_index, index_path, source_samples, write_index, write_shards
    from resflow.sources.folders import check_place
    from resflow.sources.paths import shell_words

    check_engine(engine, address)
    if tiers is not None:
        parsed(tiers)
        if no_index:
            raise ConfigError("--tiers needs the index of the shards. Drop --no-index.")
    *sources, out = places
    dataset = replace(dataset, places=sources).located("OUT")
    pattern = out if "%" in out else f"{out.rstrip('/')}/%06d.tar"
    if any(Path(place).is_dir() and Path(place).samefile(out) for place in sources if Path(out).exists()):
        raise ConfigError(f"OUT is {out}, which is the dataset itself. Name another folder for the shards.")
    check_place(Path(pattern), makes=True)
    start = time.perf_counter()
    samples: Iterable[Mapping[str, object]]
    part: Callable[[int, int], Iterable[Mapping[str, object]]]
    if dataset.form is None:
        raise ConfigError(f"{' '.join(sources)} are shards already. Index them: resflow index {shell_words(sources)}")
    if dataset.form is Format.folder:
        images = dataset.images()
        part = images.part
        beside = {"classes.txt": "".join(f"{name}\n" for name in images.classes)} if images.classes else {}
        samples, total = images, len(images)
    else:
        source: Any = dataset.open("OUT").source
        part = functools.partial(source_samples, source)
        samples, total, beside = source_samples(source), len(source), _categories(source)
        for problem in source.problems.problems[:_SHOWN]:
            print(f"left out: {problem}", file=sys.stderr)
    _check_beside(Path(pattern).parent, beside, overwrite)
    limits: dict[str, Any] = {"max_samples": max_samples, "max_bytes": max_bytes, "overwrite": overwrite}
    with ExitStack() as cluster:
        if engine is Engine.ray:
            from resflow.sources.ray_tasks import ray_cluster, ray_write_shards

            cluster.enter_context(ray_cluster(address))
            paths = ray_write_shards(part, total, pattern, **limits)
            index = None if no_index else build_on_ray(_braces(pattern, len(paths)), address)
        else:
            paths = write_shards(followed(samples, "writing", total), pattern, **limits)
            index = None if no_index else build_index(_braces(pattern, len(paths)))
    for name, text in beside.items():
        _write(paths[0].parent / name, text)
    written = _braces(pattern, len(paths))
    told: dict[str, Any] = {"shards": written, "samples": total, "files": [str(path) for path in paths]}
    told |= {"bytes": sum(path.stat().st_size for path in paths), "index": None, "tiers": None}
    lines = [f"{plural(total, 'image')} in {plural(len(paths), 'shard')} ({told['bytes'] / 1e6:,.1f} MB)"]
    if index is not None:
        write_index(index, index_path(written))
        told["index"] = str(index_path(written))
        lines.append(told["index"])
        if tiers is not None:
            report = make(written, tiers)
            told["tiers"] = list(report.sides)
            lines += [as_text(report), str(report.path)]
    told["seconds"] = round(time.perf_counter() - start, 3)
    lines[0] += f", {told['seconds']:.1f} s"
    if as_json:
        print(json.dumps(told))
        return
    print("\n".join([*lines, *(str(paths[0].parent / name) for name in beside), f'shards: "{written}"']))


def _categories(source: AnnotatedSource) -> dict[str, str]:
    """The classes as COCO lists them, in a file beside the shards; none where no names are known."""
    if not source.categories:
        return {}
    records: list[dict[str, Any]] = [{"id": number, "name": name} for number, name in source.categories.items()]
    value: dict[str, Any] = {"categories": records}
    if source.keypoint_names:
        value["keypoints"] = list(source.keypoint_names)
        value["skeleton"] = [[one + 1, other + 1] for one, other in source.skeleton]  # COCO counts these from 1
    return {"categories.json": json.dumps(value, indent=1, ensure_ascii=False) + "\n"}


def _check_beside(folder: Path, beside: Mapping[str, str], overwrite: bool) -> None:
    for name, text in beside.items():
        path = folder / name
        if path.exists() and not overwrite and path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path} is there and names other classes. Choose another folder, give --classes, or pass --overwrite."
            )


def _write(path: Path, text: str) -> None:
    """Write a file; whoever opens it meanwhile sees the old or the new one, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}. Make room, or choose another folder; the shards are "
            "complete."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _braces(pattern: str, count: int) -> str:
    """The shards as a pattern to open them by: the number between braces."""
    name = re.compile(r"%(0?)(\d*)d").sub(lambda m: f"{{{m[0] % 0}..{m[0] % (count - 1)}}}", pattern, count=1)
    return (pattern % 0 if count == 1 else name).replace("%%", "%")
