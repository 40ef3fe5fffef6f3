"""`resflow shard`: write annotated images into tar shards."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from resflow.errors import ConfigError

if TYPE_CHECKING:
    from resflow.sources import AnnotatedSource

_T = TypeVar("_T")
_PATIENCE = 2.0  # seconds before a progress bar shows
_SHOWN = 100  # problems that are printed


class Format(StrEnum):
    """How a dataset lies on disk."""

    coco = "coco"
    voc = "voc"
    yolo = "yolo"
    folder = "folder"
    masks = "masks"


class OnError(StrEnum):
    """What becomes of what is wrong in a dataset."""

    raise_ = "raise"
    drop = "drop"


_PLACES = {
    Format.coco: "IMAGES ANNOTATIONS.json..., or IMAGES PANOPTIC.json MASKS for panoptic label maps",
    Format.voc: "ROOT SPLIT",
    Format.yolo: "IMAGES LABELS",
    Format.folder: "ROOT, with one sub-folder a class",
    Format.masks: "IMAGES MASKS",
}


def shard(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... OUT",
            help="coco: IMAGES ANNOTATIONS.json... (panoptic: IMAGES JSON MASKS); voc: ROOT SPLIT; yolo: IMAGES "
            "LABELS; folder: ROOT; masks: IMAGES MASKS. OUT is a folder, or shards such as out/train-%06d.tar.",
        ),
    ],
    form: Annotated[Format, typer.Option("--format", help="How the dataset lies on disk.")],
    classes: Annotated[
        Path | None, typer.Option(help="File with the name of a class a line, in the order of their numbers.")
    ] = None,
    first_label: Annotated[int, typer.Option(min=0, help="Number of the first class (voc, yolo).")] = 1,
    zero_based: Annotated[
        bool, typer.Option("--zero-based", help="VOC boxes are edges from 0, not pixels counted from 1.")
    ] = False,
    upright: Annotated[
        bool | None,
        typer.Option(
            "--upright/--stored",
            help="Annotations follow the EXIF orientation, or the pixels as stored (as if left out, but in yolo).",
        ),
    ] = None,
    on_error: Annotated[
        OnError, typer.Option(help="Refuse a dataset with problems, or leave out what is wrong.")
    ] = OnError.raise_,
    max_samples: Annotated[int, typer.Option(min=1, help="Samples a shard.")] = 10_000,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes after which a shard is closed.")] = 1 << 30,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards of the same names.")] = False,
    no_index: Annotated[bool, typer.Option("--no-index", help="Write no index beside the shards.")] = False,
) -> None:
    """Write a dataset into tar shards with their index: COCO, VOC, YOLO, class folders, or images with masks."""
    from resflow.sources import build_index, class_folder_samples, index_path, source_samples, write_index, write_shards

    *sources, out = places
    pattern = out if "%" in out else f"{out.rstrip('/')}/%06d.tar"
    options: dict[str, Any] = {} if upright is None else {"upright": upright}
    options["on_error"] = on_error.value
    names = None if classes is None else _lines(classes)
    if form in (Format.voc, Format.yolo):
        options |= {"classes": names, "first_label": first_label}
    elif form is Format.masks:
        options["classes"] = names
    if form is Format.voc:
        options["one_based"] = not zero_based
    _refuse(form, classes=classes, zero_based=zero_based, upright=upright)
    start = time.perf_counter()
    samples: Iterable[Mapping[str, object]]
    if form is Format.folder:
        _expect(form, sources, 1)
        images = class_folder_samples(sources[0])
        samples, total, beside = images, len(images), {"classes.txt": "".join(f"{name}\n" for name in images.classes)}
    else:
        source = _open(form, sources, options)
        samples, total, beside = source_samples(source), len(source), _categories(source)
        for problem in source.problems.problems[:_SHOWN]:
            print(f"left out: {problem}", file=sys.stderr)
    _check_beside(Path(pattern).parent, beside, overwrite)
    paths = write_shards(
        _shown(samples, total), pattern, max_samples=max_samples, max_bytes=max_bytes, overwrite=overwrite
    )
    for name, text in beside.items():
        (paths[0].parent / name).write_text(text, encoding="utf-8")
    written = _braces(pattern, len(paths))
    lines = [f"{total:,} images in {len(paths):,} shards ({sum(path.stat().st_size for path in paths) / 1e6:,.1f} MB)"]
    if not no_index:
        write_index(build_index(written), index_path(written))
        lines.append(str(index_path(written)))
    lines[0] += f", {time.perf_counter() - start:.1f} s"
    print("\n".join([*lines, *(str(paths[0].parent / name) for name in beside), f'shards: "{written}"']))


def _open(form: Format, sources: list[str], options: dict[str, Any]) -> AnnotatedSource:
    from resflow.sources import Coco, CocoPanoptic, MaskFolder, Voc, Yolo

    if form is Format.coco:
        if len(sources) == 3 and Path(sources[2]).is_dir():
            return CocoPanoptic(*sources, **options)
        if len(sources) < 2:
            _expect(form, sources, 2)
        return Coco(sources[0], sources[1:], **options)
    _expect(form, sources, 2)
    if form is Format.voc:
        return Voc(*sources, **options)
    return Yolo(*sources, **options) if form is Format.yolo else MaskFolder(*sources, **options)


def _expect(form: Format, sources: list[str], count: int) -> None:
    if len(sources) != count:
        raise ConfigError(
            f"--format {form.value} takes {_PLACES[form]}, then OUT; got {' '.join(sources) or 'OUT alone'}"
        )


def _refuse(form: Format, **given: object) -> None:
    """Options that mean nothing in this format."""
    meant = {
        "classes": (Format.voc, Format.yolo, Format.masks),
        "zero_based": (Format.voc,),
        "upright": (Format.coco, Format.voc, Format.yolo, Format.masks),
    }
    for name, value in given.items():
        if value not in (None, False) and form not in meant[name]:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} means nothing with --format {form.value}. Leave it out.")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the class names in {path} cannot be read: {error}. Give one a line.") from error


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


def _braces(pattern: str, count: int) -> str:
    """The shards as a pattern to open them by: the number between braces."""
    name = re.compile(r"%(0?)(\d*)d").sub(lambda m: f"{{{m[0] % 0}..{m[0] % (count - 1)}}}", pattern, count=1)
    return (pattern % 0 if count == 1 else name).replace("%%", "%")


def _shown(samples: Iterable[_T], total: int) -> Iterator[_T]:
    """The samples, with a progress bar on a terminal once they take their time."""
    if not sys.stderr.isatty():
        yield from samples
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("write", total=total)
    start, shown = time.perf_counter(), False
    try:
        for sample in samples:
            yield sample
            bar.advance(task)
            if not shown and time.perf_counter() - start > _PATIENCE:
                bar.start()
                shown = True
    finally:
        bar.stop()
