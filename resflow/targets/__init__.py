"""Boxes, masks, keypoints and label maps: moved by a batch's transform, clipped, filtered, and taken back."""

from resflow.targets.formats import hand_out
from resflow.targets.invert import invert_boxes, invert_keypoints, invert_masks, invert_predictions
from resflow.targets.label_maps import move_label_maps, place_label_maps
from resflow.targets.masks import decode_mask
from resflow.targets.mirror import KeypointPairs
from resflow.targets.move import move_instances, place_annotations
from resflow.targets.options import Targets
from resflow.targets.read import annotation_from, annotation_from_json, annotation_json
from resflow.targets.types import Annotation, Instances, LabelMap, Segmentation

__all__ = [
    "Annotation",
    "Instances",
    "KeypointPairs",
    "LabelMap",
    "Segmentation",
    "Targets",
    "annotation_from",
    "annotation_from_json",
    "annotation_json",
    "decode_mask",
    "hand_out",
    "invert_boxes",
    "invert_keypoints",
    "invert_masks",
    "invert_predictions",
    "move_instances",
    "move_label_maps",
    "place_annotations",
    "place_label_maps",
]
