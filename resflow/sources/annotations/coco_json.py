"""COCO's annotation files: read, joined, and their records checked one by one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.sources.annotations.annotated import Files, measured_sizes
from resflow.sources.annotations.lint import Problem
from resflow.sources.annotations.orientation import Orientations, Upright, is_upright, size_problem
from resflow.sources.annotations.text_files import file_bytes
from resflow.targets.flags import as_whole

_PARTS = ("images", "annotations", "categories")


class CocoFile(NamedTuple):
    """One annotation file, or several of the same images joined.

    Args:
        where: name of the file, or of the files, for messages.
        images: image records by number, in the order of their numbers, as torchvision's CocoDetection has them.
        annotations: annotation records in the order of the file.
        categories: category records by number.
        problems: records that could not be taken.
        alone: why the annotations cannot be joined with another file's, "" where they can.
    """

    where: str
    images: dict[int, dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, dict[str, Any]]
    problems: list[Problem]
    alone: str = ""

    @property
    def sizes(self) -> list[tuple[int, int] | None]:
        """Stated height and width of each image, None where there is none."""
        return [_stated(record.get("height"), record.get("width")) for record in self.images.values()]

    @property
    def names(self) -> dict[int, str]:
        """Names of the categories by number."""
        return {number: str(record.get("name", number)) for number, record in self.categories.items()}


def read_coco(paths: str | Path | Sequence[str | Path]) -> CocoFile:
    """Read annotation files; those of several are joined record by record, by their numbers.

    Args:
        paths: a file, or several that speak of the same images, such as instances and person_keypoints.

    Returns:
        What they hold; a record without what it needs, and one whose number came before, is a problem.

    Raises:
        ConfigError: a file cannot be read, or is not a COCO annotation file.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    if not files:
        raise ConfigError("no annotation file was named; expected the path of a COCO JSON file")
    parts = [_read_one(Path(path)) for path in files]
    if len(parts) == 1:
        return parts[0]
    if any(is_panoptic(part) for part in parts):
        raise ConfigError("panoptic annotation files cannot be joined with others. Open each as a CocoPanoptic.")
    images: dict[int, dict[str, Any]] = {}
    categories: dict[int, dict[str, Any]] = {}
    annotations: dict[int, dict[str, Any]] = {}
    for part in parts:
        if part.alone:
            raise ConfigError(
                f"{part.where} cannot be joined with other files: annotations are joined by their ids, but "
                f"{part.alone}. Open it alone, or number its annotations as the other files do."
            )
        for number, record in part.images.items():
            images[number] = {**images.get(number, {}), **record}
        for number, record in part.categories.items():
            categories[number] = {**categories.get(number, {}), **record}
        for record in part.annotations:
            annotations[record["id"]] = {**annotations.get(record["id"], {}), **record}
    return CocoFile(
        where=" + ".join(part.where for part in parts),
        images=dict(sorted(images.items())),
        annotations=list(annotations.values()),
        categories=categories,
        problems=[problem for part in parts for problem in part.problems],
    )


def is_panoptic(coco: CocoFile) -> bool:
    """Whether an annotation file is in COCO's panoptic form."""
    return any("segments_info" in record for record in coco.annotations[:1])


def coco_images(
    coco: CocoFile, folder: str | Path, upright: Upright
) -> tuple[Files, npt.NDArray[np.int32], Orientations, npt.NDArray[np.int64], list[Problem]]:
    """The images of an annotation file, and whether their files are what it says.

    Args:
        coco: what the annotation file holds.
        folder: holds the images by their file_name.
        upright: how images are read.

    Returns:
        N files; int32 [N, 2], height and width, (0, 0) of one to be left out; what EXIF says of them; int64 [N],
        numbers; problems.
    """
    files = Files(os.fspath(folder), [record["file_name"] for record in coco.images.values()], is_upright(upright))
    sizes, orientation, problems = measured_sizes(files, coco.where)
    turned = Orientations(orientation, upright, coco.sizes, sizes.copy())
    for place, (record, stated) in enumerate(zip(coco.images.values(), turned.stated, strict=True)):
        found = (int(sizes[place, 0]), int(sizes[place, 1]))
        wrong = None if stated is None else size_problem(stated, found, int(orientation[place]), upright)
        if found == (0, 0) or wrong is None:
            continue
        problems.append(Problem("size mismatch", files.names[place], f"{coco.where} image {record['id']}", wrong))
        sizes[place] = 0
    return files, sizes, turned, np.array(list(coco.images), np.int64), problems


def _stated(height: Any, width: Any) -> tuple[int, int] | None:
    try:  # text and 640.0 are sizes, too
        return None if height is None or width is None else (round(float(height)), round(float(width)))
    except (TypeError, ValueError, OverflowError):
        return None


def _read_one(path: Path) -> CocoFile:
    try:
        data = json.loads(file_bytes(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}. Fetch or write it again.") from error
    if isinstance(data, dict) and "categories" not in data and _are_objects(data.get("annotations")):
        data["categories"] = _unnamed_categories(data["annotations"])
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in _PARTS):
        got = f"keys {sorted(data)}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise ConfigError(
            f"{path} is not a COCO annotation file: expected lists {', '.join(_PARTS)}; got {got}. Name the file of "
            "instances, person_keypoints or panoptic."
        )
    where, problems = path.name, list[Problem]()
    images = _numbered(data["images"], "image", where, problems)
    categories = _numbered(_with_numbers(data["categories"]), "category", where, problems)
    by_name = _numbers_by_name(categories)
    alone = ""
    annotations = [record for record in data["annotations"] if isinstance(record, dict)]
    problems += [
        Problem("unreadable annotation", "", where, f"an annotation that is a {type(record).__name__}")
        for record in data["annotations"]
        if not isinstance(record, dict)
    ]
    for record in annotations:
        for name in ("image_id", "category_id"):
            if name in record:
                record[name] = as_whole(record[name])
        label = record.get("category_id")
        if isinstance(label, str):
            record["category_id"] = by_name.get(label, label)
    if annotations and "segments_info" not in annotations[0]:
        annotations, alone = _told_apart(annotations, where, problems)
    return CocoFile(where, images, annotations, categories, problems, alone)


def is_path(name: object) -> bool:
    """Whether a name read from a file can be one of a file: text without NUL that the file system can encode."""
    try:
        return isinstance(name, str) and "\0" not in name and bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


def _told_apart(records: list[dict[str, Any]], where: str, problems: list[Problem]) -> tuple[list[dict[str, Any]], str]:
    """Annotations, each with a whole number as `id`, and what keeps them from being joined with another file's.

    Nothing but joining asks for an annotation's own id, so it may be missing, text, or the same for many; its place in
    the list then stands for it in messages. Of annotations of one id that are the same word for word, one is kept.
    """
    ids = [as_whole(record.get("id")) for record in records]
    counts = Counter(number for number in ids if _is_number(number))
    clash = next((f"{count} of them have id {number}" for number, count in counts.items() if count > 1), "")
    alone = "some have no whole number as id" if counts.total() < len(ids) else clash
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    for place, (number, record) in enumerate(zip(ids, records, strict=True)):
        own = _is_number(number)
        if type(number) is int and not own:
            said = (
                f"record {place} of the list of annotation records has id {number}; expected a whole number of 64 bits"
            )
            problems.append(Problem("unreadable annotation", "", where, said))
            continue
        if not own or counts[number] > 1:
            text = json.dumps(record, sort_keys=True)
            if own and text in seen:
                problems.append(Problem("duplicate", "", where, f"annotation {number} came before, word for word"))
                continue
            seen.add(text)
        found.append({**record, "id": number if own else place})
    return found, alone


def _are_objects(records: Any) -> bool:
    """Whether annotations are boxes or masks with a category: a file that only lacks its list of categories."""
    return isinstance(records, list) and any(isinstance(record, dict) and "category_id" in record for record in records)


def _unnamed_categories(records: list[Any]) -> list[dict[str, Any]]:
    """Categories of a file that lists none: its annotations' ids, which are their names."""
    ids = {as_whole(record.get("category_id")) for record in records if isinstance(record, dict) and _is_id(record)}
    words = sorted(str(one) for one in ids if not isinstance(one, int))
    numbers = sorted(one for one in ids if isinstance(one, int))
    return [{"id": one, "name": str(one)} for one in (*numbers, *words)]


def _is_id(record: dict[str, Any]) -> bool:
    return isinstance(record.get("category_id"), str | int | float) and not isinstance(record["category_id"], bool)


def _with_numbers(records: list[Any]) -> list[Any]:
    """Categories whose ids are words, numbered from 1 in their order; any others as they are."""
    ids = [as_whole(record.get("id")) if isinstance(record, dict) else None for record in records]
    if not ids or not all(isinstance(one, str) and one for one in ids) or len(set(ids)) < len(ids):
        return records
    return [
        {**record, "id": number, "name": record.get("name", record["id"]), "word": record["id"]}
        for number, record in enumerate(records, 1)
    ]


def _numbers_by_name(categories: dict[int, dict[str, Any]]) -> dict[str, int]:
    """Numbers of categories by their ids that are words, else by names that only one has."""
    words = {record["word"]: number for number, record in categories.items() if "word" in record}
    counts = Counter(str(record.get("name")) for record in categories.values())
    named = {
        str(record["name"]): number
        for number, record in categories.items()
        if "name" in record and counts[str(record["name"])] == 1
    }
    return named | words


def _is_number(number: Any) -> bool:
    return type(number) is int and -(1 << 63) <= number < 1 << 63


def _numbered(records: list[Any], what: str, where: str, problems: list[Problem]) -> dict[int, dict[str, Any]]:
    """Records in the order of their `id`; the rest become problems."""
    found: dict[int, dict[str, Any]] = {}
    for place, record in enumerate(records):
        number: Any = as_whole(record.get("id")) if isinstance(record, dict) else None
        named = what != "image" or (isinstance(record, dict) and is_path(record.get("file_name")))
        if not _is_number(number) or not named:
            said = f"record {place} of the list of {what} records has id {number!r}"
            problems.append(
                Problem("unreadable annotation", "", where, f"{said}; expected a whole number (and a file_name)")
            )
        elif number in found:
            key = record.get("file_name", "") if what == "image" else ""
            problems.append(Problem("duplicate", key, where, f"{what} {number} came before"))
        else:
            found[number] = record
            record["id"] = number
    return dict(sorted(found.items()))
