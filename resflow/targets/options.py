"""How spatial targets are made: a field of `Pipeline`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resflow.checks import check_fields, is_number
from resflow.errors import ConfigError
from resflow.targets.boxes import BOX_FORMATS
from resflow.targets.mirror import KeypointPairs, as_pairs
from resflow.targets.values import checked_values

FORMATS = ("list", "tv_tensors", "padded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """How boxes, masks, keypoints and label maps are read, clipped, filtered and handed out.

    Objects keep their order. An object is dropped from boxes, masks and keypoints alike when less than `min_visible`
    of its box lies on the image's part of the batch, or when a side of its clipped box is shorter than `min_side`.

    Args:
        member: extension of a shard's member that holds them: "json" for objects, "seg.png" or another .png for a
            class for each pixel; None takes the one that the sample has. Of no meaning where the source brings targets.
        format: of objects: "list" (a dict for each image, as torchvision's detectors take them), "tv_tensors" (the
            same with BoundingBoxes and Mask), or "padded" (a dict of tensors [B, M, ...] with `count` [B]).
        masks: whether objects come with masks, uint8 [N, H, W].
        box_as_mask: whether an object without a mask gets its box as its mask; else it is an error beside masks.
        keypoints: whether objects come with keypoints, float32 [N, K, 3].
        min_visible: least visible share of an object's box, in [0, 1].
        min_side: least width and height of an object's clipped box, in pixels of the batch, at least 0.
        box_format: what the four numbers of a box are, in a dataset's own dicts and in COCO's records: "xyxy", "xywh"
            or "cxcywh" in pixels, or "xyxy_norm", "xywh_norm" or "cxcywh_norm" as shares of the image. None: "xyxy"
            beside `labels`, "xywh" in COCO's records; boxes that look like shares are then refused.
        keypoint_pairs: which keypoints swap places in a mirrored image: pairs of places ((1, 2), (3, 4)), or a
            permutation of all ([0, 2, 1, 4, 3], as YOLO's `flip_idx`); () if none do. None takes what the source knows.
        values: classes of numbers in label maps that mean others than themselves, such as {255: 1} for masks of 0 and
            255; numbers that are not named stay.
        ignore_index: class of pixels that show no image, in label maps; in [-32768, 65535].

    Raises:
        ConfigError: a field has a wrong type or value.
    """

    member: str | None = None
    format: str = "list"
    masks: bool = False
    box_as_mask: bool = False
    keypoints: bool = False
    keypoint_pairs: KeypointPairs | Sequence[int] | None = None
    min_visible: float = 0.0
    min_side: float = 1.0
    box_format: str | None = None
    values: Mapping[int, int] | None = None
    ignore_index: int = 255

    def __post_init__(self) -> None:
        checks = (
            ("member", self.member is None or isinstance(self.member, str), "the extension of a member, or None"),
            ("format", self.format in FORMATS, f"one of {', '.join(FORMATS)}"),
            ("masks", isinstance(self.masks, bool), "True or False"),
            ("box_as_mask", isinstance(self.box_as_mask, bool), "True or False"),
            ("keypoints", isinstance(self.keypoints, bool), "True or False"),
            ("min_visible", is_number(self.min_visible) and 0 <= self.min_visible <= 1, "a share in [0, 1]"),
            (
                "min_side",
                is_number(self.min_side) and self.min_side >= 0,
                "a number of pixels, at least 0",
            ),
            ("box_format", self.box_format in (None, *BOX_FORMATS), f"one of {', '.join(BOX_FORMATS)}, or None"),
            (
                "ignore_index",
                type(self.ignore_index) is int and -32768 <= self.ignore_index <= 65535,
                "a whole number in [-32768, 65535]",
            ),
        )
        check_fields(self, checks)
        if self.values is not None:
            object.__setattr__(self, "values", checked_values(self.values, "Targets.values"))
        if self.keypoint_pairs is not None:
            try:
                object.__setattr__(self, "keypoint_pairs", as_pairs(self.keypoint_pairs))
            except ValueError as error:
                raise ConfigError(f"Targets.keypoint_pairs: {error}") from error
