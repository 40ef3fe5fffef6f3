"""Decode only what a dataset's own transforms show: `fuse` and what it is made of."""

from resflow.fusion.buffers import collate_views
from resflow.fusion.dataset import FusedDataset, fuse, holds_fused

__all__ = ["FusedDataset", "collate_views", "fuse", "holds_fused"]
