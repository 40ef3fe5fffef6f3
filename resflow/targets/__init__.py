"""Boxes, masks, keypoints and label maps: moved by a batch's transform, clipped, filtered, and taken back."""

from resflow.targets.options import Targets
from resflow.targets.types import Annotation, Instances, LabelMap, Segmentation

__all__ = ["Annotation", "Instances", "LabelMap", "Segmentation", "Targets"]
