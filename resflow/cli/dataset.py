"""How commands are told of a dataset on disk: one `Dataset`, made of the options they share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from resflow.errors import ConfigError

if TYPE_CHECKING:
    from resflow.sources import LabelledImages, Source


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
    clip = "clip"


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
Shards = Annotated[
    list[str],
    typer.Argument(metavar="SHARDS", help="Shards: a folder, files, or a pattern such as shards/train-*.tar."),
]
IndexFile = Annotated[
    Path | None,
    typer.Option("--index", metavar="FILE", help="The shards' index, where it does not lie beside them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document, and nothing else.")]

DATA_HELP = (
    "Indexed shards (a folder, files, or a pattern), a folder of images or of class folders, image files, YOLO's "
    "data.yaml, or what --format says: IMAGES ANNOTATIONS.json..., ROOT SPLIT, IMAGES LABELS, IMAGES MASKS."
)
_PLACES = {
    Format.coco: "IMAGES ANNOTATIONS.json..., or IMAGES PANOPTIC.json MASKS for panoptic label maps",
    Format.voc: "ROOT SPLIT",
    Format.yolo: "IMAGES LABELS, or data.yaml",
    Format.folder: "a folder of images, or of one sub-folder a class",
    Format.masks: "IMAGES MASKS",
}
_MEANT = {
    "classes": (Format.voc, Format.yolo, Format.masks, None),
    "zero_based": (Format.voc,),
    "upright": (Format.coco, Format.voc, Format.yolo, Format.masks),
    "upright_file": (Format.coco, Format.voc, Format.yolo, Format.masks),
    "label_pattern": (Format.folder,),
    "index": (None,),
}
"""Formats in which an option means something; None is shards."""


class Opened(NamedTuple):
    """What `DataLoader` takes, and the names of its classes as far as they are known."""

    source: Source
    classes: Sequence[str] | Mapping[int, str] | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset on disk as a command line names it; each field but the first is an option."""

    places: Annotated[list[str], typer.Argument(metavar="DATA", help=DATA_HELP)]
    form: Annotated[
        Format | None, typer.Option("--format", help="How the dataset lies on disk; told from its folders if left out.")
    ] = None
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Part of a dataset that has several, such as train or val.")
    ] = None
    classes: Annotated[
        Path | None, typer.Option(help="File with the name of a class a line, in the order of their numbers.")
    ] = None
    label_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Of images: its first group, found in a file's name, is the class."),
    ] = None
    first_label: Annotated[int, typer.Option(min=0, help="Number of the first class (voc, yolo).")] = 1
    zero_based: Annotated[
        bool, typer.Option("--zero-based", help="VOC boxes are edges from 0, not pixels counted from 1.")
    ] = False
    upright: Annotated[
        bool | None,
        typer.Option(
            "--upright/--stored",
            help="Annotations follow the EXIF orientation, or the pixels as stored (as if left out, but in yolo).",
        ),
    ] = None
    upright_file: Annotated[
        bool,
        typer.Option(
            "--upright-file",
            help="Annotations follow the EXIF orientation whatever sizes are stated (Label Studio).",
        ),
    ] = False
    on_error: Annotated[
        OnError,
        typer.Option(help="Refuse a dataset with problems, leave out what is wrong, or cut boxes at the border."),
    ] = OnError.raise_
    index: IndexFile = None

    def located(self, then: str = "") -> Dataset:
        """The same dataset with its format told and its places checked; nothing is opened yet.

        Args:
            then: what the command takes after the places, for messages.

        Raises:
            ConfigError: there is nothing at a place, or an option does not go with the format.
        """
        from resflow.sources.layout import guess_layout

        form, places = self.form, self.places
        if form is None:
            if not places:
                raise ConfigError(f"no dataset is named before {then}; expected one or more places of it first.")
            named, places = guess_layout(places, self.split)
            form = {"shards": None, "images": Format.folder}.get(named) or (Format(named) if named in _FORMS else None)
        self._check_options(form)
        _check_places(form, places, then)
        return dataclasses.replace(self, form=form, places=places)

    def open(self, then: str = "") -> Opened:
        """Open the dataset.

        Args:
            then: what the command takes after the places, for messages.

        Raises:
            ConfigError: places or options that do not go with the format, or that cannot be opened.
            TargetError: the dataset has problems, and they are refused.
            ShardError: shards are missing or have no index.
        """
        here = self.located(then)
        if here.form is None:
            from resflow.sources import ShardSource

            folder = Path(here.places[0]) if Path(here.places[0]).is_dir() else Path(here.places[0]).parent
            return Opened(ShardSource(here.places, index=here.index), here.class_names() or _names_beside(folder))
        source = here._annotated()
        return Opened(source, here.class_names() or source.categories)

    def images(self) -> LabelledImages:
        """The image files of a folder or list, with their classes as far as they are told."""
        from resflow.sources.images import labelled_images

        return labelled_images(self.places, self.label_pattern)

    def class_names(self) -> list[str] | None:
        """Names of classes from the file that was given, one a line."""
        from resflow.sources.annotations.text_files import file_text

        if self.classes is None:
            return None
        try:
            lines = file_text(self.classes).splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"the class names in {self.classes} cannot be read: {error}. Give one a line.") from error
        return [line.strip() for line in lines if line.strip()]

    def _annotated(self) -> Any:
        from resflow.sources import Coco, CocoPanoptic, Images, MaskFolder, Voc, Yolo

        places, options = self.places, dict[str, Any](on_error=self.on_error.value)
        if self.form is Format.folder:
            return Images(places, self.label_pattern, **options)
        if self.upright is not None:
            options["upright"] = self.upright
        if self.upright_file:
            if self.upright is not None:
                raise ConfigError("--upright-file and --upright or --stored exclude each other. Give one of them.")
            options["upright"] = "file"
        if self.form is Format.coco:
            panoptic = len(places) == 3 and Path(places[2]).is_dir()
            return CocoPanoptic(*places, **options) if panoptic else Coco(places[0], places[1:], **options)
        names = self.class_names()
        if self.form is Format.masks:
            return MaskFolder(*places, classes=names, **options)
        options |= {"first_label": self.first_label} | ({} if names is None else {"classes": names})
        if self.form is Format.voc:
            return Voc(*places, one_based=not self.zero_based, **options)
        if len(places) == 1:
            return Yolo.from_yaml(places[0], self.split or "train", **options)
        return Yolo(*places, **options)

    def _check_options(self, form: Format | None) -> None:
        for name, forms in _MEANT.items():
            if getattr(self, name) not in (None, False) and form not in forms:
                option = "--" + name.replace("_", "-")
                plain = {None: "for shards", Format.folder: "for images"}
                raise ConfigError(f"{option} means nothing {plain.get(form, f'with --format {form}')}. Leave it out.")


_FORMS = {form.value for form in Format}

Data = Annotated[list[str], typer.Option("--data", metavar="DATA", help=DATA_HELP)]
More = Annotated[list[str] | None, typer.Argument(metavar="MORE", help="Further places of --data.")]


def takes_dataset(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `dataset` is made of the options that `Dataset` has.

    Where the command has a pipeline for its argument the places come by --data; the shell may expand a pattern there:
    what follows the first of its files then stands among the arguments. A command's own parameter of a field's name
    replaces the field's option.
    """
    hints, own = get_type_hints(command, include_extras=True), inspect.signature(command).parameters
    by_option = "pipeline" in own and own["pipeline"].default is inspect.Parameter.empty
    fields = get_type_hints(Dataset, include_extras=True)
    params: dict[str, tuple[Any, Any]] = {}
    for name, parameter in own.items():
        if name != "dataset":
            params[name] = (hints[name], parameter.default)
            continue
        shared = {field.name: (fields[field.name], field.default) for field in dataclasses.fields(Dataset)}
        if by_option:
            del shared["places"]
            shared = {"data": (Data, inspect.Parameter.empty), "more": (More, None)} | shared
        else:
            shared["places"] = (fields["places"], inspect.Parameter.empty)
        params |= {field: shared[field] for field in shared if field not in own}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        if by_option:
            places, more = given.pop("data"), given.pop("more") or []
            given["pipeline"], rest = _pipeline_among(given["pipeline"], more)
            given["places"] = [*places, *rest]
        dataset = Dataset(**{name: given.pop(name) for name in fields})
        given |= {"places": dataset.places} if "places" in own else {}
        if given.get("pipeline") is not None:  # before PyTorch is loaded, which takes seconds
            from resflow.config import Node, pipeline_file

            Node.load(pipeline_file(given["pipeline"]))
        command(dataset=dataset, **given)

    kind = inspect.Parameter.KEYWORD_ONLY
    signature = [
        inspect.Parameter(name, kind, default=value, annotation=hint) for name, (hint, value) in params.items()
    ]
    run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    run.__annotations__ = {name: hint for name, (hint, _) in params.items()}
    del run.__wrapped__
    return run


def _pipeline_among(pipeline: str, more: list[str]) -> tuple[str, list[str]]:
    """The pipeline among what a shell gave as arguments: `--data shards/*.tar PIPELINE` brings it last."""
    if not _is_pipeline(pipeline) and more and _is_pipeline(more[-1]):
        return more[-1], [pipeline, *more[:-1]]
    return pipeline, more


def _is_pipeline(text: str) -> bool:
    from resflow.config import ready_pipelines

    return text.endswith((".yaml", ".yml")) or text in ready_pipelines()


def plural(count: int, one: str) -> str:
    """A number of things, in words: "1 shard", "2,000 shards"."""
    return f"{count:,} {one}{'es' if one.endswith('ch') and count != 1 else 's' * (count != 1)}"


def check_shards(places: list[str]) -> None:
    """Refuse what is not shards but a dataset that `resflow shard` takes."""
    from resflow.sources.layout import guess_layout
    from resflow.sources.paths import shell_words

    if (form := guess_layout(places).form) != "shards":
        what = "images" if form == "images" else f"a dataset with annotations ({form})"
        raise ConfigError(
            f"{places[0]}: {what}, not shards. Write it into shards, which brings their index: resflow shard "
            f"{shell_words(places if len(places) < 4 else os.path.dirname(places[0]) or '.')} shards"  # noqa: PTH120
        )


def check_folder_of(path: Path | None) -> None:
    """Refuse a file that cannot be written since its folder is missing, before any work is done."""
    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: No such file or directory. Choose another path.")


def check_engine(engine: Engine, address: str | None, *, workers: int | None = None) -> None:
    """Refuse options that mean nothing with this engine."""
    if engine is Engine.local and address is not None:
        raise ConfigError("--address means nothing without --engine ray. Leave it out.")
    if engine is Engine.ray and workers is not None:
        raise ConfigError("--workers means nothing with --engine ray: the cluster decides. Leave it out.")


def _check_places(form: Format | None, places: list[str], then: str) -> None:
    """Refuse places that are not there, and another number of them than a format has."""
    from resflow.sources.paths import is_pattern

    counts = {Format.voc: (2,), Format.masks: (2,), Format.yolo: (1, 2)}.get(form) if form is not None else None
    wrong = (counts is not None and len(places) not in counts) or (form is Format.coco and len(places) < 2)
    if form is Format.yolo and len(places) == 1 and not places[0].endswith((".yaml", ".yml")):
        wrong = True
    if wrong and form is not None:
        expected = f"{_PLACES[form]}, then {then}" if then else _PLACES[form]
        got = " ".join(places) or (f"{then} alone" if then else "nothing")
        raise ConfigError(f"--format {form.value} takes {expected}; got {got}")
    for place in places[:1] if form is Format.voc else places:
        if not (os.path.exists(place) or is_pattern(place) or place.endswith(".tar")):  # noqa: PTH110
            raise ConfigError(f"there is nothing at {place}. Check the path.")


def _names_beside(folder: Path) -> Sequence[str] | Mapping[int, str] | None:
    """The classes that `resflow shard` wrote beside its shards."""
    if (path := folder / "classes.txt").is_file():
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
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
