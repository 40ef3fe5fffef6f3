"""ultralytics' data.yaml: where the images of each split lie, and the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from resflow.errors import ConfigError
from resflow.sources.annotations.text_files import file_text

_SPLITS = ("train", "val", "test")


class YoloData(NamedTuple):
    """One split of a data.yaml.

    Args:
        images: folders and lists of the images; labels lie where `Yolo` looks for them.
        classes: names in the order of their numbers.
        keypoints: (K, 2) or (K, 3), `kpt_shape`; None without.
        flip_idx: the keypoint that each becomes in a mirror; None without.
    """

    images: list[Path]
    classes: list[str]
    keypoints: tuple[int, int] | None
    flip_idx: tuple[int, ...] | None


def read_yolo_yaml(path: str | Path, split: str = "train") -> YoloData:
    """Read one split of a data.yaml.

    Args:
        path: the file.
        split: "train", "val" or "test".

    Returns:
        What `Yolo` takes. Folders are those of `path:`, relative to the file's folder; the labels of images/X lie in
        labels/X, as ultralytics has it.

    Raises:
        ConfigError: the file cannot be read, lacks the split, or names no folder that is there.
    """
    path = Path(path)
    record = _mapping(path)
    if split not in record or not record[split]:
        there = [name for name in _SPLITS if record.get(name)] or ["train"]
        raise ConfigError(
            f"{path} has no split {split!r}; expected one of {', '.join(there)}. Name one: split={there[0]!r}"
        )
    named = record[split] if isinstance(record[split], list) else [record[split]]
    images = [_place(path, record, split, name) for name in named]
    names = record.get("names")
    if isinstance(names, Mapping):
        names = [names[number] for number in sorted(names)] if set(names) == set(range(len(names))) else None
    if not isinstance(names, list) or not names:
        raise ConfigError(f"{path} must have `names`, a list of classes or their names by number from 0; got {names!r}")
    shape = record.get("kpt_shape")
    keypoints = (int(shape[0]), int(shape[1])) if isinstance(shape, list) and len(shape) == 2 else None
    flip = record.get("flip_idx")
    return YoloData(images, [str(name) for name in names], keypoints, tuple(flip) if flip else None)


def _mapping(path: Path) -> Mapping[str, Any]:
    try:
        record = yaml.safe_load(file_text(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}. Check the path.") from error
    if not isinstance(record, Mapping):
        raise ConfigError(f"{path} must be YOLO's data.yaml, with `train`, `val` and `names`; got {str(record)[:60]!r}")
    return record


def _place(path: Path, record: Mapping[str, Any], split: str, named: object) -> Path:
    """A folder or a list of a split's images."""
    if not isinstance(named, str):
        raise ConfigError(
            f"{path}: `{split}` must be a folder of images, a .txt list of them, or several; got {named!r}. Correct it."
        )
    root = str(record.get("path") or "")
    tried = [path.parent / root / named, Path(root) / named, path.parent / named]
    tried.append(path.parent / named.removeprefix("../"))  # as Roboflow writes it, beside the folders
    found = next((folder for folder in tried if folder.exists()), None)
    if found is None:
        raise ConfigError(
            f"{path}: there is no folder {named!r} of `{split}`; looked for "
            f"{', '.join(map(str, dict.fromkeys(tried)))}. Correct `path` in the file."
        )
    return found / "images" if (found / "images").is_dir() else found
