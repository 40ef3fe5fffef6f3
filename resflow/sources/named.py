"""What a name on disk stands for, where a dataset is expected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resflow.errors import ConfigError
from resflow.sources.base import Source
from resflow.sources.layout import ANNOTATED, guess_layout
from resflow.sources.shards import ShardSource

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
