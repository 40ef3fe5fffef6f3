"""Pascal VOC: an XML file an image, and lists of names for each split."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resflow.errors import ConfigError
from resflow.sources.annotations.annotated import AnnotatedSource, Files, measured_sizes, numbered_classes
from resflow.sources.annotations.lint import Problem, check_on_error
from resflow.sources.annotations.objects import Found
from resflow.sources.annotations.orientation import Orientations, Upright, is_upright, size_problem
from resflow.sources.annotations.selection import open_objects
from resflow.sources.annotations.text_files import decoded_xml, file_bytes, listed_names
from resflow.sources.folders import existing_folder, files_by_stem, image_files
from resflow.targets.flags import read_flag

_DIFFICULT = ("crowd", "keep", "drop")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class Voc(AnnotatedSource):
    """Images of a folder in Pascal VOC's form: JPEGImages, Annotations and ImageSets/Main.

    VOC counts pixels from 1 and its boxes hold their last row and column, so the edges of a box are xmin - 1, ymin - 1,
    xmax, ymax; many tools write edges, from 0, into the same form: `one_based=False` takes these as they stand.
    A sample's image_id is the place of its name in the split's list, from 0.

    Args:
        root: holds the three folders.
        split: name of a list in ImageSets/Main, such as "train"; None takes every file in Annotations, by name.
        classes: names in the order of their numbers; None: all names in Annotations, of whatever split, sorted, for
            which all its files are read.
        first_label: number of the first class; 0 is the background in torchvision's detectors.
        difficult: what becomes of objects that are so marked: "crowd" sets their `iscrowd`, since evaluation passes
            over them; "keep" takes them like any other; "drop" leaves them out.
        one_based: whether boxes are pixels counted from 1, as VOC's own are.
        upright: as in `Coco`.
        on_error: "raise" refuses a dataset with problems and names them; "drop" leaves out the objects (and the
            images that cannot be read, or have another size than stated), logs how many, and keeps the report. "clip"
            does the same, but cuts what hangs over the border there.

    Attributes:
        categories: names by number.
        problems: the `LintReport`.

    Raises:
        ConfigError: a folder or list is missing, an argument has a wrong value, or no image is left.
        TargetError: there are problems, and `on_error` is "raise".
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None,
        *,
        classes: Sequence[str] | None = None,
        first_label: int = 1,
        difficult: str = "crowd",
        one_based: bool = True,
        upright: Upright = None,
        on_error: str = "raise",
    ) -> None:
        check_on_error(on_error)
        if difficult not in _DIFFICULT:
            raise ConfigError(f"difficult must be one of {', '.join(_DIFFICULT)}; got {difficult!r}")
        images, folder = existing_folder(Path(root, "JPEGImages")), existing_folder(Path(root, "Annotations"))
        pages = files_by_stem(folder, ".xml")
        every = sorted(pages)
        stems = {path.relative_to(images).with_suffix("").as_posix(): path for path in image_files(images)}
        known_names = {*every, *stems}
        names = every if split is None else _listed(Path(root, "ImageSets", "Main", f"{split}.txt"), known_names)
        read = {
            name: read_voc(pages.get(name, folder / f"{name}.xml")) for name in (names if classes else {*names, *every})
        }
        if classes is None:
            classes = sorted(
                {item.name for page in read.values() if isinstance(page, VocFile) for item in page.objects}
            )
        categories = numbered_classes(classes, first_label)
        known = {name: number for number, name in categories.items()}
        paths = [str(stems[name].relative_to(images)) if name in stems else f"{name}.jpg" for name in names]
        files = Files(os.fspath(images), paths, is_upright(upright))
        sizes, orientation, problems = measured_sizes(files, f"{split or 'Annotations'}")
        found: list[Found] = []
        stated: list[tuple[int, int] | None] = [None] * len(names)
        turned = Orientations(orientation, upright, stated, sizes.copy())
        for place, name in enumerate(names):
            page, key, where = read[name], paths[place], f"Annotations/{name}.xml"
            if isinstance(page, Problem):
                problems.append(page)
                sizes[place] = 0
                continue
            size = (int(sizes[place, 0]), int(sizes[place, 1]))
            wrong = None if page.size == (0, 0) else size_problem(page.size, size, int(orientation[place]), upright)
            stated[place] = None if page.size == (0, 0) else page.size
            if wrong is not None and size != (0, 0):
                problems.append(Problem("size mismatch", key, where, wrong))
                sizes[place] = 0
            for line, item in enumerate(page.objects, 1):
                if item.name not in known:
                    what = f"class {item.name!r} is not among {', '.join(map(repr, classes))}"
                    problems.append(Problem("unknown category", key, f"{where} object {line}", what))
                elif not (item.difficult and difficult == "drop"):
                    left, top, right, bottom = item.box
                    box = (left - one_based, top - one_based, right, bottom)
                    crowd = item.difficult and difficult == "crowd"
                    found.append(Found(place, line, known[item.name], box, iscrowd=crowd))
            problems += [Problem("unreadable annotation", key, where, what) for what in page.unreadable]
        kept = open_objects(
            found,
            files,
            sizes,
            np.arange(len(names)),
            name=f"{root} {split or ''}".strip(),
            problems=problems,
            categories=None,
            keypoints=0,
            where=lambda item: f"Annotations/{names[item.image]}.xml object {item.line}",
            on_error=on_error,
            turned=turned,
        )
        super().__init__(
            kept.files,
            kept.sizes,
            kept.objects,
            categories=categories,
            problems=kept.report,
            described=kept.objects.described(),
        )


class VocObject(NamedTuple):
    """An object as its XML has it: class, xmin, ymin, xmax, ymax, whether it is marked as difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class VocFile(NamedTuple):
    """An XML file: stated height and width, (0, 0) if none; objects; and what is wrong with those it could not give."""

    size: tuple[int, int]
    objects: list[VocObject]
    unreadable: list[str]


def read_voc(path: Path) -> VocFile | Problem:
    """Read one XML file; no document type is taken, since its entities may be made to fill the memory.

    Args:
        path: of the file.

    Returns:
        What it holds, or why it cannot be read.
    """
    key, where = path.stem, f"Annotations/{path.name}"
    try:
        text = decoded_xml(file_bytes(path))  # decoded here, so that no other encoding hides a DOCTYPE
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            return Problem("unreadable annotation", key, where, "has a document type (<!DOCTYPE>), which is refused")
        parser = ET.XMLParser(encoding="utf-8")
        parser.feed(text.encode())
        page = parser.close()
        for element in page.iter():
            element.tag = element.tag.rpartition("}")[2]  # without a namespace
        if page.tag != "annotation" and page.find("object") is None:
            raise ValueError(f"its root is <{page.tag[:40]}>, not <annotation>")
        size = (round(float(page.findtext("size/height") or 0)), round(float(page.findtext("size/width") or 0)))
    except FileNotFoundError:
        return Problem("missing file", key, where, "no such file; expected the XML of an image that is listed")
    except OSError as error:
        return Problem("unreadable annotation", key, where, str(error.strerror))
    except (ET.ParseError, ValueError, OverflowError) as error:
        return Problem("unreadable annotation", key, where, f"{error}; expected XML, as VOC has it")
    objects, unreadable = [], []
    for number, item in enumerate(page.findall("object"), 1):
        name, corners = item.findtext("name"), [item.findtext(f"bndbox/{side}") for side in _SIDES]
        try:
            left, top, right, bottom = (float(corner or "none") for corner in corners)
        except ValueError:
            unreadable.append(f"object {number} has bndbox {corners}; expected numbers {', '.join(_SIDES)}")
            continue
        try:
            difficult = read_flag(item.findtext("difficult"))
        except ValueError as error:
            unreadable.append(f"object {number}: difficult: {error}")
            continue
        objects.append(VocObject((name or "").strip(), (left, top, right, bottom), difficult))
    return VocFile(size, objects, unreadable)


def _listed(path: Path, known: Container[str]) -> list[str]:
    try:
        return listed_names(path, known)
    except ValueError as error:
        raise ConfigError(f"the list of split {path.stem!r} cannot be read: {path}: {error}.") from error
    except OSError as error:
        there = sorted(file.stem for file in path.parent.glob("*.txt"))
        raise ConfigError(f"no list of split {path.stem!r}: {path}: {error.strerror}. There are {there}.") from error
