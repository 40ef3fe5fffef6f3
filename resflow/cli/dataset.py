"""How commands are told of a dataset on disk: the options they share, and from them its source."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resflow.errors import ConfigError

if TYPE_CHECKING:
    from resflow.sources import AnnotatedSource


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
