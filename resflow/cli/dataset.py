"""How commands are told of a dataset on disk: the options they share, and from them its source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.errors import ConfigError

if TYPE_CHECKING:
    from resflow.sources import AnnotatedSource, Sample, Source

_PATTERN = re.compile(r"[*?\[{]|://|^pipe:")  # shards by another name than a path


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


class Engine(StrEnum):
    """What does the work."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[
    Engine, typer.Option("--engine", help="Where it is done: on this machine, or on Ray (pip install 'resflow[ray]').")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Ray cluster; RAY_ADDRESS or this machine if left out."),
]
Classes = Annotated[
    Path | None, typer.Option(help="File with the name of a class a line, in the order of their numbers.")
]
FirstLabel = Annotated[int, typer.Option(min=0, help="Number of the first class (voc, yolo).")]
ZeroBased = Annotated[bool, typer.Option("--zero-based", help="VOC boxes are edges from 0, not pixels counted from 1.")]
Upright = Annotated[
    bool | None,
    typer.Option(
        "--upright/--stored",
        help="Annotations follow the EXIF orientation, or the pixels as stored (as if left out, but in yolo).",
    ),
]
OnErrorOption = Annotated[OnError, typer.Option(help="Refuse a dataset with problems, or leave out what is wrong.")]

Shards = Annotated[
    list[str],
    typer.Argument(metavar="SHARDS...", help="Shards: a folder, files, or a pattern such as shards/train-*.tar."),
]
IndexFile = Annotated[
    Path | None,
    typer.Option("--index", metavar="FILE", help="The shards' index, where it does not lie beside them."),
]

DATA_HELP = (
    'Indexed shards, e.g. "shards/train-{0000..0003}.tar", a folder of them, or class folders; with --format what '
    "`resflow shard` takes: IMAGES ANNOTATIONS.json..., ROOT SPLIT, IMAGES LABELS, IMAGES MASKS."
)
Places = Annotated[list[str], typer.Argument(metavar="DATA...", help=DATA_HELP)]
Data = Annotated[str, typer.Option(metavar="SHARDS|FOLDER", help=DATA_HELP)]
More = Annotated[list[str] | None, typer.Argument(metavar="MORE", help="Further places of --data.")]
FormatOption = Annotated[
    Format | None, typer.Option("--format", help="How the dataset lies on disk; shards if left out.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document, and nothing else.")]

_PLACES = {
    Format.coco: "IMAGES ANNOTATIONS.json..., or IMAGES PANOPTIC.json MASKS for panoptic label maps",
    Format.voc: "ROOT SPLIT",
    Format.yolo: "IMAGES LABELS",
    Format.folder: "ROOT, with one sub-folder a class",
    Format.masks: "IMAGES MASKS",
}


def open_annotated(
    form: Format,
    places: list[str],
    *,
    classes: Path | None,
    first_label: int,
    zero_based: bool,
    upright: bool | None,
    on_error: OnError,
    then: str = "",
) -> AnnotatedSource:
    """The source of a dataset in any format but class folders.

    Args:
        form: how the dataset lies on disk.
        places: its files and folders.
        classes: file of class names.
        first_label: number of the first class.
        zero_based: whether VOC boxes are edges from 0.
        upright: whether annotations follow the EXIF orientation; None: as is usual in the format.
        on_error: what becomes of what is wrong.
        then: what the command takes after the places, for messages.

    Raises:
        ConfigError: places or options that do not go with the format, or that cannot be opened.
        TargetError: the dataset has problems, and they are refused.
    """
    from resflow.sources import Coco, CocoPanoptic, MaskFolder, Voc, Yolo

    check_options(form, classes=classes, zero_based=zero_based, upright=upright)
    options: dict[str, Any] = {} if upright is None else {"upright": upright}
    options["on_error"] = on_error.value
    names = None if classes is None else class_lines(classes)
    if form is Format.coco:
        if len(places) == 3 and Path(places[2]).is_dir():
            return CocoPanoptic(*places, **options)
        if len(places) < 2:
            check_places(form, places, 2, then)
        return Coco(places[0], places[1:], **options)
    check_places(form, places, 2, then)
    if form is Format.masks:
        return MaskFolder(*places, classes=names, **options)
    options |= {"classes": names, "first_label": first_label}
    return Yolo(*places, **options) if form is Format.yolo else Voc(*places, one_based=not zero_based, **options)


def open_data(
    form: Format | None,
    places: list[str],
    *,
    classes: Path | None,
    first_label: int,
    zero_based: bool,
    upright: bool | None,
    on_error: OnError,
) -> tuple[Any, Sequence[str] | Mapping[int, str] | None]:
    """What `DataLoader` takes, and the names of its classes as far as they are known; arguments as `open_annotated`.

    Raises:
        ConfigError: places or options that do not go with the format, or that cannot be opened.
        TargetError: the dataset has problems, and they are refused.
    """
    if form in (None, Format.folder):
        return _plain(form, places, classes, zero_based=zero_based, upright=upright)
    dataset = open_annotated(
        form, places, classes=classes, first_label=first_label, zero_based=zero_based, upright=upright,
        on_error=on_error,
    )  # fmt: skip
    return dataset, dataset.categories


def as_source(dataset: Any) -> Source:
    """The source of what `open_data` gave."""
    from resflow.sources import ShardSource, Source, dataset_source

    if isinstance(dataset, Source):
        return dataset
    return ShardSource(dataset) if isinstance(dataset, str | list) else dataset_source(dataset)


def likely_targets(sample: Sample) -> Any:
    """What `Pipeline.targets` would be for samples like this one."""
    from resflow.sources import NO_TARGET
    from resflow.targets import Annotation, LabelMap, Targets

    if sample.target is not NO_TARGET:
        return Targets() if isinstance(sample.target, Annotation | LabelMap) else "cls"
    if "cls" in sample.members:
        return "cls"
    return Targets() if any(name == "json" or name.endswith(".png") for name in sample.members) else None


def plural(count: int, one: str) -> str:
    """A number of things, in words: "1 shard", "2,000 shards"."""
    return f"{count:,} {one}{'s' * (count != 1)}"


def check_engine(engine: Engine, address: str | None, *, workers: int | None = None) -> None:
    """Refuse options that mean nothing with this engine."""
    if engine is Engine.local and address is not None:
        raise ConfigError("--address means nothing without --engine ray. Leave it out.")
    if engine is Engine.ray and workers is not None:
        raise ConfigError("--workers means nothing with --engine ray: the cluster decides. Leave it out.")


def check_places(form: Format, places: list[str], count: int, then: str = "") -> None:
    """Refuse another number of files and folders than a format has."""
    if len(places) != count:
        expected = f"{_PLACES[form]}, then {then}" if then else _PLACES[form]
        got = " ".join(places) or (f"{then} alone" if then else "nothing")
        raise ConfigError(f"--format {form.value} takes {expected}; got {got}")


def check_options(form: Format, **given: object) -> None:
    """Refuse options that mean nothing in this format."""
    meant = {
        "classes": (Format.voc, Format.yolo, Format.masks),
        "zero_based": (Format.voc,),
        "upright": (Format.coco, Format.voc, Format.yolo, Format.masks),
    }
    for name, value in given.items():
        if value not in (None, False) and form not in meant[name]:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} means nothing with --format {form.value}. Leave it out.")


def class_lines(path: Path) -> list[str]:
    """Names of classes from a file, one a line."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the class names in {path} cannot be read: {error}. Give one a line.") from error


def _plain(
    form: Format | None, places: list[str], classes: Path | None, **given: object
) -> tuple[Any, Sequence[str] | Mapping[int, str] | None]:
    """Shards or class folders, and the names of their classes as far as they are known."""
    for name, value in given.items():
        if value:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} means nothing for {'class folders' if form else 'shards'}. Leave it out.")
    if form is not None:
        check_places(form, places, 1)
    names = None if classes is None else class_lines(classes)
    root = Path(places[0])
    if not (root.exists() or _PATTERN.search(places[0])):
        raise ConfigError(f"there is nothing at {root}. Check --data, and give --format for other than shards.")
    if form is None and not root.is_dir():
        return places[0] if len(places) == 1 else places, names or _names_beside(root.parent)
    if form is None and any(root.glob("*.tar")):
        return [str(root)], names or _names_beside(root)

    from torchvision.datasets import ImageFolder

    from resflow.sources import class_folder_samples

    check_places(Format.folder, places, 1)
    class_folder_samples(root)  # says readably what is wrong
    folders = ImageFolder(root)
    return folders, names or folders.classes


def _names_beside(folder: Path) -> Sequence[str] | Mapping[int, str] | None:
    """The classes that `resflow shard` wrote beside its shards."""
    if (path := folder / "classes.txt").is_file():
        return class_lines(path)
    path = folder / "categories.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["categories"]
        return {int(record["id"]): str(record["name"]) for record in records}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path} must hold categories with id and name, as `resflow shard` writes them: {error!r}. Give --classes."
        ) from error
