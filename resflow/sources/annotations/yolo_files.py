"""Which files of images and labels make a YOLO dataset: folders, lists of files, and what has no counterpart."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from resflow.errors import ConfigError
from resflow.sources.annotations.lint import Problem
from resflow.sources.annotations.text_files import file_text
from resflow.sources.folders import existing_folder, files_by_stem, image_files

_LOG = logging.getLogger("resflow")
_SHOWN = 3  # names that a note gives
_LEAST = 5  # numbers of a line


class YoloFiles(NamedTuple):
    """The files of a dataset.

    Args:
        root: folder that holds all images.
        names: of the images, relative to it.
        pages: the file of labels of each image, there or not.
        labels: where the labels lie, for messages.
        problems: files of labels whose image is missing.
        notes: what lacks its counterpart on either side.
    """

    root: Path
    names: list[str]
    pages: list[Path]
    labels: str
    problems: list[Problem]
    notes: list[str]


def find_yolo_files(
    images: str | Path | Sequence[str | Path], labels: str | Path | Sequence[str | Path] | None
) -> YoloFiles:
    """Find images and their files of labels; arguments are those of `Yolo`.

    Raises:
        ConfigError: a folder or list is missing, or no image has labels.
    """
    places = [Path(images)] if isinstance(images, str | Path) else list(map(Path, images))
    texts: list[Path | None] = [None] * len(places)
    if labels is not None:
        texts = [Path(labels)] if isinstance(labels, str | Path) else list(map(Path, labels))
    if len(texts) != len(places) or not places:
        raise ConfigError(
            f"labels must be as many folders as images, or None; got {len(texts)} for {len(places)}. Leave labels out "
            "where they lie in labels/ beside images/."
        )
    pages: dict[Path, Path] = {}
    there: dict[str, Path] = {}
    for place, folder in zip(places, texts, strict=True):
        if place.suffix.lower() == ".txt":
            pages |= {path: _page(path) for path in _listed(place)}
            continue
        root, home = existing_folder(place), existing_folder(folder or labels_beside(place))
        known = files_by_stem(home, ".txt")
        for path in image_files(root):
            stem = path.relative_to(root).with_suffix("").as_posix()
            pages[path] = known.get(stem, home / f"{stem}.txt")
        there |= {str(page): page for page in known.values()}
    where = ", ".join(str(folder or labels_beside(place)) for place, folder in zip(places, texts, strict=True))
    if pages and not any(page.exists() for page in pages.values()):
        got = f"; it has {len(there):,} others, such as {next(iter(there.values())).name}" if there else ""
        raise ConfigError(
            f"{where} has a text file for none of the {len(pages)} images in {places[0]}; expected "
            f"{next(iter(pages.values())).name} and the like{got}. Check the folder of labels; an image without "
            "objects alone needs no file."
        )
    wanted = {str(page) for page in pages.values()}
    lost = [page for name, page in there.items() if name not in wanted and _are_labels(page)]
    root = places[0] if len(places) == 1 and places[0].is_dir() else Path(os.path.commonpath([p.parent for p in pages]))
    names = [path.relative_to(root) for path in pages]
    bare = [n.with_suffix("").as_posix() for n, page in zip(names, pages.values(), strict=True) if not page.exists()]
    problems, notes = _orphans(lost, bare, where)
    return YoloFiles(root, list(map(str, names)), list(pages.values()), where, problems, notes)


def labels_beside(images: Path) -> Path:
    """The folder of labels of a folder of images: the last part called images is called labels; else the same."""
    parts = list(images.parts)
    places = [place for place, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
        return Path(*parts)
    return images


def _page(image: Path) -> Path:
    return labels_beside(image.parent) / f"{image.stem}.txt"


def _listed(path: Path) -> list[Path]:
    """The images in a list, each once."""
    try:
        lines = [line.strip() for line in file_text(path).splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"the list of images {path} cannot be read: {error}. Correct the path.") from error
    found: dict[Path, None] = {}
    for line in filter(None, lines):
        tried = (path.parent / line, Path(line))
        found[next((one for one in tried if one.exists()), tried[0])] = None
    if not found:
        raise ConfigError(f"the list of images {path} is empty. Name one image per line.")
    return list(found)


def _orphans(lost: Sequence[Path], bare: Sequence[str], folder: str) -> tuple[list[Problem], list[str]]:
    """Label files whose image is missing, where images without labels could be theirs; and a note on both sides.

    An image without a file of labels has no objects, so a file by another name (of another encoding, in another folder)
    would make its image a negative in silence. Files for images that lie elsewhere, as beside one split of several, are
    nobody's loss: there no image lacks its file.
    """
    notes = [f"{len(bare):,} images have no file of labels, so no objects: {_named(bare)}"] if bare else []
    if not lost:
        return [], notes
    said = f"{len(lost):,} files of labels in {folder} have no image: {_named([page.name for page in lost])}"
    notes.append(said)
    if not bare:
        _LOG.warning("%s", said)
        return [], notes
    what = (
        f"no image of this name, and {len(bare):,} images have no labels: {_named(bare)}. Rename the one or the other"
    )
    return [Problem("unknown image", "", str(page), what) for page in lost], notes


def _are_labels(page: Path) -> bool:
    """Whether a file of text holds labels, rather than a list of classes or notes."""
    lines = label_lines(page)
    if isinstance(lines, Problem):
        return True
    try:
        return len([float(number) for number in next(iter(lines.values()), "").split()]) >= _LEAST
    except ValueError:
        return False


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def label_lines(page: Path) -> Mapping[int, str] | Problem:
    """The lines of a file by number, blank ones left out; none if there is no file."""
    try:
        text = file_text(page)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        return Problem("unreadable annotation", page.stem, str(page), f"{error}; expected lines of text")
    return {number: line for number, line in enumerate(text.splitlines(), 1) if line.strip()}
