"""Where encoded images come from: tar shards, read by offset through an index; and how shards are written."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resflow.sources.base import Sample, Source
    from resflow.sources.index_file import ShardIndex, build_index, open_index, write_index
    from resflow.sources.paths import index_path
    from resflow.sources.shards import ShardSource
    from resflow.sources.writer import LabelledImages, class_folder_samples, labelled_files, write_shards

__all__ = [
    "LabelledImages",
    "Sample",
    "ShardIndex",
    "ShardSource",
    "Source",
    "build_index",
    "class_folder_samples",
    "index_path",
    "labelled_files",
    "open_index",
    "write_index",
    "write_shards",
]

_HOME = {
    "LabelledImages": "writer",
    "Sample": "base",
    "ShardIndex": "index_file",
    "ShardSource": "shards",
    "Source": "base",
    "build_index": "index_file",
    "class_folder_samples": "writer",
    "index_path": "paths",
    "labelled_files": "writer",
    "open_index": "index_file",
    "write_index": "index_file",
    "write_shards": "writer",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
