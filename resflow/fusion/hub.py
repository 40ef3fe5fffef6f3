"""Hugging Face's datasets, whose images open lazily for the transform that the dataset was given."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from resflow.fusion.buffers import BatchBuffer
from resflow.fusion.rehost import Openings, copied
from resflow.fusion.runner import Runner
from resflow.fusion.split import Split, Step, marks, split

_ORIENTATION = 0x0112


class HubLeaf:
    """A `datasets.Dataset` with columns of images, fused.

    Args:
        dataset: the user's; what `set_transform` was given runs on images that wait.
        transform: of the images of its one column of images.
        exact: decode at full size.
    """

    def __init__(self, dataset: Any, transform: Step | None, exact: bool) -> None:
        from datasets import Image as Feature

        self.dataset, self.transform, self._exact = dataset, transform, exact
        self._open = Openings(exact).open
        self._features: dict[str, Any] = {name: dataset.features[name] for name in image_columns(dataset)}
        encoded = dataset.with_format(None)
        for name in self._features:
            encoded = encoded.cast_column(name, Feature(decode=False))
        self._encoded = encoded
        self._function: Any = (dataset.format["format_kwargs"] or {}).get("transform")
        self._runners: list[Runner] = []
        self._made: dict[int, tuple[list[Any], Runner]] = {}  # by transform: what it was made of, and what runs it

    @property
    def split(self) -> Split:
        """The steps of its transform."""
        found = [self.transform] if self._function is None else []
        if self._function is not None:
            copied(self._function, lambda value: found.append(value) if _is_transform(value) else None)
        return split(found[0] if found else self._function)

    def begin(self, buffer: BatchBuffer | None) -> bool:
        """Begin to read: items of a batch into its buffer, or one item; True, as what is gained is not known."""
        self._runners = []

        def run(value: Step | None, waits: bool) -> Runner:
            made = self._made.get(id(value))
            seen = marks(value, [])
            if made is None or len(made[0]) != len(seen) or not all(map(operator.is_, made[0], seen)):
                made = self._made[id(value)] = seen, Runner(value, waits)
            made[1].begin(buffer)
            self._runners.append(made[1])
            return made[1]

        self._batched: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch
        if self._function is not None:
            self._batched = copied(self._function, lambda value: run(value, False) if _is_transform(value) else value)
        elif self.transform is not None:
            column, runner = next(iter(self._features)), run(self.transform, True)
            self._batched = lambda batch: {**batch, column: [runner(image) for image in batch[column]]}
        return True

    def items(self, numbers: Sequence[Any], positions: Sequence[int] = ()) -> list[Any]:
        """Items, read at once.

        Args:
            numbers: of the items in the dataset.
            positions: of them in the batch.
        """
        batch = self._encoded[[int(number) for number in numbers]]
        for name, feature in self._features.items():
            batch[name] = [self._opened(value, feature) for value in batch[name]]
        for runner in self._runners:
            runner.at(positions)
        batch = self._batched(batch)
        return [{name: column[row] for name, column in batch.items()} for row in range(len(numbers))]

    def finish(self) -> list[Callable[[], None]]:
        """End a batch; what is still to be done for it."""
        return [job for runner in self._runners for job in runner.finish()]

    def _opened(self, value: Any, feature: Any) -> Any:
        """An image as `datasets.Image` decodes it, without decoding it."""
        if value is None:
            return None
        encoded, path = value["bytes"], value["path"]
        if encoded is None and not (path and Path(path).is_file()):  # at a URL, or in an archive
            return feature.decode_example(value)
        image: Image.Image = self._open(path if encoded is None else io.BytesIO(encoded))
        if image.getexif().get(_ORIENTATION) is not None:
            image = ImageOps.exif_transpose(image)
        return image.convert(feature.mode) if feature.mode and feature.mode != image.mode else image

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "transform": self.transform, "exact": self._exact}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def is_hub(dataset: Any) -> bool:
    """Whether this is a `datasets.Dataset`."""
    return any(
        base.__module__ == "datasets.arrow_dataset" and base.__name__ == "Dataset" for base in type(dataset).__mro__
    )


def image_columns(dataset: Any) -> list[str]:
    """The columns of a `datasets.Dataset` that hold images."""
    return [
        name
        for name, feature in dataset.features.items()
        if type(feature).__name__ == "Image" and type(feature).__module__.startswith("datasets.") and feature.decode
    ]


def why_not_hub(dataset: Any, transform: Step | None) -> str:
    """Why a `datasets.Dataset` cannot be fused, and what to do; "" if it can."""
    kind, columns = dataset.format["type"], image_columns(dataset)
    if not columns:
        return f"none of its columns {dataset.column_names} holds images; cast_column(..., datasets.Image()) makes one"
    if kind not in (None, "custom"):
        return f"its format is {kind!r}, which decodes whole images. Use with_format(None) or with_transform"
    if dataset.format["columns"] != dataset.column_names:
        return "its format shows some of its columns only. Use select_columns"
    if transform is not None and (kind == "custom" or len(columns) != 1):
        return f"it has a transform of its own, or several columns of images: {columns}. Use with_transform"
    if transform is None and kind is None:
        return "it has no transform. Use with_transform, or pass fuse(dataset, transform=...)"
    return ""


def _is_transform(value: Any) -> bool:
    if not callable(value) or isinstance(value, type):
        return False
    parts = split(value)
    return bool(parts.geometric or parts.convert)
