"""Where images come from: tar shards, read by offset through an index, or any dataset; and how shards are written."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resflow.sources.annotations.annotated import AnnotatedSource
    from resflow.sources.annotations.coco import Coco
    from resflow.sources.annotations.lint import LintReport, Problem
    from resflow.sources.annotations.mask_folder import MaskFolder
    from resflow.sources.annotations.panoptic import CocoPanoptic
    from resflow.sources.annotations.voc import Voc
    from resflow.sources.annotations.yolo import Yolo
    from resflow.sources.base import NO_TARGET, Pixels, Sample, Source
    from resflow.sources.class_folders import ClassFolderShards
    from resflow.sources.collate import collate_targets, emptied
    from resflow.sources.datasets import DatasetSource
    from resflow.sources.folders import LabelledImages, class_folder_samples, labelled_files
    from resflow.sources.images import Images
    from resflow.sources.index_build import build_index
    from resflow.sources.index_file import ShardIndex, write_index
    from resflow.sources.index_lookup import index_path, open_index
    from resflow.sources.mix import Mix
    from resflow.sources.shards import ShardSource
    from resflow.sources.stream import ShardStream
    from resflow.sources.torchvision_datasets import RecognisedSource, dataset_source, recognise
    from resflow.sources.writer import source_samples, write_shards
    from resflow.storage.store import Store

__all__ = [
    "NO_TARGET",
    "AnnotatedSource",
    "ClassFolderShards",
    "Coco",
    "CocoPanoptic",
    "DatasetSource",
    "Images",
    "LabelledImages",
    "LintReport",
    "MaskFolder",
    "Mix",
    "Pixels",
    "Problem",
    "RecognisedSource",
    "Sample",
    "ShardIndex",
    "ShardSource",
    "ShardStream",
    "Source",
    "Store",
    "Voc",
    "Yolo",
    "build_index",
    "class_folder_samples",
    "collate_targets",
    "dataset_source",
    "emptied",
    "index_path",
    "labelled_files",
    "open_index",
    "recognise",
    "source_samples",
    "write_index",
    "write_shards",
]

_HOME = {
    "AnnotatedSource": "annotations.annotated",
    "ClassFolderShards": "class_folders",
    "Coco": "annotations.coco",
    "CocoPanoptic": "annotations.panoptic",
    "DatasetSource": "datasets",
    "Images": "images",
    "LabelledImages": "folders",
    "LintReport": "annotations.lint",
    "MaskFolder": "annotations.mask_folder",
    "Mix": "mix",
    "NO_TARGET": "base",
    "Pixels": "base",
    "Problem": "annotations.lint",
    "RecognisedSource": "torchvision_datasets",
    "Sample": "base",
    "ShardIndex": "index_file",
    "ShardSource": "shards",
    "ShardStream": "stream",
    "Source": "base",
    "Voc": "annotations.voc",
    "Yolo": "annotations.yolo",
    "build_index": "index_build",
    "class_folder_samples": "folders",
    "collate_targets": "collate",
    "dataset_source": "torchvision_datasets",
    "emptied": "collate",
    "index_path": "index_lookup",
    "labelled_files": "folders",
    "open_index": "index_lookup",
    "recognise": "torchvision_datasets",
    "source_samples": "writer",
    "write_index": "index_file",
    "write_shards": "writer",
}


def __getattr__(name: str) -> object:
    if name == "Store":
        return importlib.import_module("resflow.storage").Store
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
