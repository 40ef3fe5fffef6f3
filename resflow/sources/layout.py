"""How a dataset lies on disk, told from its folders and files, and the source that reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resflow.errors import ConfigError
from resflow.sources.base import Source
from resflow.sources.groups import IMAGE_EXTENSIONS
from resflow.sources.shards import ShardSource

ANNOTATED = ("coco", "voc", "yolo", "masks")
"""Layouts with annotations, each of which has a source of its own."""
_LOOKED_AT = 1000  # files of a folder, by which it is told


class Layout(NamedTuple):
    """How a dataset lies on disk.

    Args:
        form: "shards", "images", "coco", "voc", "yolo" or "masks".
        places: what the source of that form takes.
    """

    form: str
    places: list[str]


def guess_layout(places: Sequence[str], split: str | None = None) -> Layout:
    """Tell how a dataset lies on disk.

    Args:
        places: paths as one names them: a folder, several, files, or patterns.
        split: the part of the dataset to take, where it has several.

    Returns:
        The layout. What tells nothing is taken for shards.

    Raises:
        ConfigError: a dataset of several splits, and `split` names none of them.
    """
    first, rest = Path(places[0]), [Path(place) for place in places[1:]]
    if len(places) == 1 and first.suffix.lower() in (".yaml", ".yml"):
        return Layout("yolo", list(places))
    if len(places) == 1 and os.path.isdir(places[0]):  # noqa: PTH112 (a pattern may be too long for a path)
        return _of_folder(first, split)
    if all(_ends(place, IMAGE_EXTENSIONS) for place in places):
        return Layout("images", list(places))
    if rest and _ends(places[1], ("json",)):
        return Layout("coco", list(places))
    if len(rest) == 1 and first.is_dir():
        if rest[0].is_dir():
            form = "yolo" if _holds(rest[0], ("txt",)) else "masks" if _holds(rest[0], ("png",)) else ""
            return Layout(form, list(places)) if form else Layout("shards", list(places))
        if _is_voc(first):
            return Layout("voc", list(places))
    return Layout("shards", list(places))


def _of_folder(folder: Path, split: str | None) -> Layout:
    if any(folder.glob("[!.]*.tar")):
        return Layout("shards", [str(folder)])
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return Layout("yolo", [str(folder / name)])
    if _is_voc(folder):
        lists = {path.stem: path.stem for path in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}
        return Layout("voc", [str(folder), _chosen(folder, "VOC", lists, split)])
    coco = dict(_coco_splits(folder))
    if coco:
        images, annotations = _chosen(folder, "COCO", coco, split)
        return Layout("coco", [str(images), str(annotations)])
    for beside, form, extension in (("labels", "yolo", "txt"), ("masks", "masks", "png")):
        if (folder / "images").is_dir() and _holds(folder / beside, (extension,)):
            below = "" if split is None or not (folder / "images" / split).is_dir() else split
            return Layout(form, [str(folder / name / below) for name in ("images", beside)])
    return Layout("images", [str(folder)])


def _chosen(folder: Path, what: str, splits: dict[str, Any], split: str | None) -> Any:
    if split in splits:
        return splits[split]
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    asked = "" if split is None else f", none called {split!r}"
    raise ConfigError(
        f"{folder} holds {what} annotations of the splits {', '.join(splits)}{asked}. Name one: "
        f"split={next(iter(splits))!r}"
    )


def _coco_splits(folder: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """Splits of COCO's own layout, annotations/instances_SPLIT.json beside SPLIT/, and of its exports."""
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        split = path.stem.removeprefix("instances_")
        images = next((one for one in (folder / split, folder / "images" / split) if one.is_dir()), None)
        if images is not None:
            yield split, (images, path)
    for path in sorted([*folder.glob("_annotations.coco.json"), *folder.glob("*/_annotations.coco.json")]):
        yield path.parent.name, (path.parent, path)


def _is_voc(folder: Path) -> bool:
    return (folder / "ImageSets" / "Main").is_dir() and _holds(folder / "Annotations", ("xml",))


def _holds(folder: Path, extensions: Sequence[str]) -> bool:
    """Whether a file with one of these extensions is among the first below a folder."""
    seen = 0
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if any(_ends(name, extensions) and name[0] != "." for name in files):
            return True
        seen += len(files) + len(folders)
        if seen > _LOOKED_AT:
            return False
    return False


def _ends(name: str, extensions: Sequence[str]) -> bool:
    return name.rpartition(".")[2].lower() in extensions


_SOURCES = {"coco": "Coco", "voc": "Voc", "yolo": "Yolo", "masks": "MaskFolder"}


def open_named(names: str | Path | Sequence[str | Path], *, on_error: str = "raise") -> Source:
    """Shards, or image files, by the paths they are named by.

    Args:
        names: of indexed shards, as `ShardSource` takes them; or a folder of images or paths of them, as `Images` does.
        on_error: of `Images`.

    Returns:
        The source.

    Raises:
        ConfigError: nothing is there, or a dataset with annotations, which has a source of its own.
        ShardError: shards are missing; IndexFileError where they have no index.
    """
    parts = [str(name) for name in ([names] if isinstance(names, str | Path) else names)]
    layout = guess_layout(parts)
    if layout.form in ANNOTATED:
        source = _SOURCES[layout.form]
        call = f"{source}.from_yaml" if layout.places[0].endswith((".yaml", ".yml")) else source
        raise ConfigError(
            f"{parts[0]} has annotations ({layout.form}), which a path alone does not read. Pass their source as the "
            f"dataset: rf.sources.{call}({', '.join(map(repr, layout.places))})"
        )
    if layout.form == "images":
        from resflow.sources.images import Images  # with webdataset, which shards do not need

        return Images(names, on_error=on_error)
    return ShardSource(names)
