"""Objects read from what COCO, torchvision and Pascal VOC write, and the member of a shard that holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.errors import TargetError
from resflow.extras import needed_for
from resflow.targets.boxes import PIXEL_FORMATS, box_edges, check_pixels
from resflow.targets.flags import as_whole, read_flag
from resflow.targets.mirror import KeypointPairs
from resflow.targets.segmentations import plain_mask
from resflow.targets.types import Annotation, Segmentation

_WAY_OUT = (
    "Give COCO annotations, or a dict of boxes and labels; a dataset's target_transform can turn others into these."
)
_SHARES = (
    "For shares pass rf.Targets(box_format=...) as 'xyxy_norm', 'xywh_norm' or 'cxcywh_norm'; for pixels as 'xyxy', "
    "'xywh' or 'cxcywh'."
)
_POINTS = "Multiply them by the image's width and height."


def annotation_from(
    value: object,
    *,
    image_id: int | None = None,
    classes: Mapping[str, int] | None = None,
    keypoint_pairs: KeypointPairs | None = None,
    box_format: str | None = None,
) -> Annotation:
    """Read the objects of one image.

    Args:
        value: a list of COCO annotations, as torchvision's CocoDetection gives them (bbox as x, y, width, height;
            category_id; and if there segmentation, area, iscrowd, keypoints, image_id); the dict of a shard's member
            (see `annotation_json`); torchvision's dict of tensors (boxes, labels, and if there masks, keypoints, area,
            iscrowd, image_id), where boxes of tv_tensors may be XYXY, XYWH or CXCYWH; the dict of VOCDetection.
        image_id: of the image, where the value has none; else -1.
        classes: class numbers by name, for VOCDetection. Its objects that are "difficult" become crowds, as
            evaluation passes over both.
        keypoint_pairs: which keypoints swap places when an image is mirrored, where the value has neither
            `keypoint_pairs` nor `flip_idx`; None where it is not known.
        box_format: one of `BOX_FORMATS`, what the four numbers of a box are; None: "xywh" in COCO's records and "xyxy"
            beside `labels`. tv_tensors know it themselves.

    Raises:
        TargetError: another kind of value, a missing field, a wrong length, a number that is not finite, or shares of
            the image where pixels are expected.
    """
    if isinstance(value, Annotation):
        return value
    if isinstance(value, Mapping):
        pairs = value.get("keypoint_pairs", value.get("flip_idx", keypoint_pairs))
        if "annotations" in value:
            given = _whole(value["image_id"], "image_id") if "image_id" in value else image_id
            return _from_coco(value["annotations"], given, pairs, box_format)
        if "boxes" in value:
            return _from_tensors(value, image_id, pairs, box_format)
        if "annotation" in value:
            return _from_voc(value["annotation"], image_id, classes)
        raise TargetError(f"no objects in a dict of {', '.join(map(repr, value)) or 'nothing'}. {_WAY_OUT}")
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _from_coco(value, image_id, keypoint_pairs, box_format)
    raise TargetError(f"objects must be a list of COCO annotations or a dict; got {type(value).__name__}. {_WAY_OUT}")


def annotation_from_json(encoded: bytes | str, *, box_format: str | None = None) -> Annotation:
    """Read the member of a shard that holds objects: what `annotation_json` wrote, or a bare list of COCO annotations.

    Args:
        encoded: JSON.
        box_format: as in `annotation_from`.

    Raises:
        TargetError: not JSON, or what `annotation_from` refuses.
    """
    try:
        value = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise TargetError(f"objects must be JSON; got {len(encoded)} bytes from {encoded[:40]!r} ({error})") from error
    return annotation_from(value, box_format=box_format)


def annotation_json(annotation: Annotation) -> dict[str, Any]:
    """The objects of one image as a dict for JSON, which `annotation_from_json` reads back number for number.

    Returns:
        {"image_id", "annotations": COCO annotations, and "keypoint_pairs" where there are any}. Masks given as pixels
        are written as run lengths. A box whose right or bottom no width or height gives to the last bit has "corners",
        too: left, top, right, bottom.
    """
    boxes, areas = annotation.boxes.tolist(), annotation.area.tolist()
    records = []
    for place, (left, top, right, bottom) in enumerate(boxes):
        lengths = _length(left, right), _length(top, bottom)
        record: dict[str, Any] = {
            "image_id": annotation.image_id,
            "category_id": int(annotation.labels[place]),
            "bbox": [left, top, *lengths],
            "area": areas[place],
            "iscrowd": int(annotation.iscrowd[place]),
        }
        if (left + lengths[0], top + lengths[1]) != (right, bottom):
            record["corners"] = boxes[place]
        mask = None if annotation.masks is None else annotation.masks[place]
        if mask is not None:
            record["segmentation"] = _plain_mask(mask)
        if annotation.keypoints is not None:
            points = annotation.keypoints[place]
            record["keypoints"] = points.reshape(-1).tolist()
            record["num_keypoints"] = int((points[:, 2] > 0).sum())
        records.append(record)
    value: dict[str, Any] = {"image_id": annotation.image_id, "annotations": records}
    if annotation.keypoint_pairs is not None:
        value["keypoint_pairs"] = [list(pair) for pair in annotation.keypoint_pairs]
    return value


def _from_coco(records: Any, image_id: int | None, pairs: Any, form: str | None) -> Annotation:
    if not isinstance(records, Sequence) or not all(isinstance(record, Mapping) for record in records):
        raise TargetError(f"COCO annotations must be a list of dicts; got {_shown(records)}. {_WAY_OUT}")
    boxes = np.array([_numbers(record, "bbox", place, 4) for place, record in enumerate(records)]).reshape(-1, 4)
    if form is None:
        check_pixels(boxes, "the boxes", _SHARES)
    form = form or "xywh"
    if not form.startswith("xyxy") and (negative := (boxes[:, 2:] < 0).any(axis=1)).any():
        place = int(np.argmax(negative))
        raise TargetError(
            f"bbox must be x, y, width, height with neither side negative; got {_shown(records[place]['bbox'])} "
            f"for object {place}"
        )
    corners = box_edges(boxes, form)
    for place, record in enumerate(records):
        if "corners" in record:
            corners[place] = _numbers(record, "corners", place, 4)
    sides = corners[:, 2:] - corners[:, :2]
    stated: Sequence[Mapping[str, Any]] = [{}] * len(records) if form.endswith("_norm") else records  # of what unit?
    area = [_number(record, "area", place, float(sides[place].prod())) for place, record in enumerate(stated)]
    labels = [_whole(_field(record, "category_id", place), "category_id") for place, record in enumerate(records)]
    numbers = {_whole(record["image_id"], "image_id") for record in records if "image_id" in record}
    if len(numbers) > 1:
        raise TargetError(f"annotations of one image must have one image_id; got {sorted(numbers)}")
    if image_id is None:
        image_id = numbers.pop() if numbers else -1
    return Annotation(
        boxes=corners,
        labels=np.array(labels, np.int64),
        area=np.array(area, np.float64),
        iscrowd=_flags([record.get("iscrowd") for record in records], "iscrowd"),
        image_id=image_id,
        masks=_masks([plain_mask(record.get("segmentation")) for record in records]),
        keypoints=_coco_keypoints(records),
        keypoint_pairs=pairs,
        normalized=form.endswith("_norm"),
    )


def _coco_keypoints(records: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64] | None:
    """float64 [N, K, 3]; an object without keypoints beside others with has K that are not labelled."""
    having = [place for place, record in enumerate(records) if record.get("keypoints")]
    if not having:
        return None
    first = records[having[0]]["keypoints"]
    if not isinstance(first, Sequence) or len(first) % 3:
        raise TargetError(f"keypoints must be x, y, visibility of each; got {_shown(first)} for object {having[0]}")
    length = len(first)
    keypoints = np.zeros((len(records), length // 3, 3))
    for place in having:
        keypoints[place] = np.reshape(_numbers(records[place], "keypoints", place, length), (-1, 3))
    check_pixels(keypoints[..., :2], "the keypoints", _POINTS)
    return keypoints


def _from_tensors(value: Mapping[str, Any], image_id: int | None, pairs: Any, form: str | None) -> Annotation:
    boxes = _array(value["boxes"], "boxes", np.float64)
    known = getattr(getattr(value["boxes"], "format", None), "name", "").lower()  # of tv_tensors.BoundingBoxes
    if known and known not in PIXEL_FORMATS:
        raise TargetError(
            f"boxes must be {', '.join(PIXEL_FORMATS).upper()}; got {known.upper()}. Rotated boxes are not supported."
        )
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise TargetError(f"boxes must be [N, 4]; got {list(boxes.shape)}")
    if form is None or known:
        check_pixels(boxes, "the boxes", _SHARES)
    form = known or form or "xyxy"
    boxes = box_edges(boxes, form)
    if "labels" not in value:
        raise TargetError(f"no labels beside boxes; got {', '.join(map(repr, value))}. {_WAY_OUT}")
    count = len(boxes)
    crowd = value.get("iscrowd", [False] * count)
    crowd = _flags(crowd.reshape(-1).tolist() if hasattr(crowd, "reshape") else crowd, "iscrowd")
    shares = form.endswith("_norm")
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    area = _array(value["area"], "area", np.float64) if "area" in value and not shares else area
    masks = _mask_pixels(value["masks"]) if value.get("masks") is not None else None
    keypoints = _array(value["keypoints"], "keypoints", np.float64) if value.get("keypoints") is not None else None
    if keypoints is not None and keypoints.ndim == 3:
        check_pixels(keypoints[..., :2], "the keypoints", _POINTS)
    number = value.get("image_id", image_id)
    return Annotation(
        boxes=boxes,
        labels=_array(value["labels"], "labels", np.int64).reshape(-1),
        area=area.reshape(-1),
        iscrowd=crowd,
        image_id=-1 if number is None else _whole(number, "image_id"),
        masks=None if masks is None else tuple(masks),
        keypoints=keypoints,
        keypoint_pairs=pairs,
        normalized=shares,
    )


def _from_voc(value: Any, image_id: int | None, classes: Mapping[str, int] | None) -> Annotation:
    """Pascal VOC counts pixels from 1 and includes the last: its box 1, 1, 1, 1 is the edges 0, 0, 1, 1."""
    if classes is None:
        raise TargetError(
            "Pascal VOC annotations name their classes, and no class numbers were given. Use resflow.sources.Voc(...), "
            "or a target_transform that calls annotation_from(target, classes={'aeroplane': 1, ...})."
        )
    objects = value.get("object", []) if isinstance(value, Mapping) else None
    objects = [objects] if isinstance(objects, Mapping) else objects
    if not isinstance(objects, list):
        raise TargetError(f"a Pascal VOC annotation must be a dict with a list 'object'; got {_shown(value)}")
    boxes, labels, difficult = np.zeros((len(objects), 4)), [], []
    for place, one in enumerate(objects):
        name, box = _field(one, "name", place), _field(one, "bndbox", place)
        if name not in classes:
            raise TargetError(f"class {name!r} of object {place} is not among {', '.join(classes)}")
        boxes[place] = [_number(box, side, place) for side in ("xmin", "ymin", "xmax", "ymax")]
        labels.append(classes[name])
        difficult.append(one.get("difficult"))
    boxes[:, :2] -= 1
    return Annotation(
        boxes=boxes,
        labels=np.array(labels, np.int64),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        iscrowd=_flags(difficult, "difficult"),
        image_id=-1 if image_id is None else image_id,
    )


def _masks(masks: list[Segmentation | None]) -> tuple[Segmentation | None, ...] | None:
    for mask in masks:
        if isinstance(mask, list) and mask and isinstance(mask[0], list) and max(map(_size_of, mask[0]), default=2) < 2:
            check_pixels(np.array(mask[0], np.float64), "the polygons", _POINTS)
    return None if masks and all(mask is None for mask in masks) else tuple(masks)


def _size_of(number: Any) -> float:
    return abs(number) if isinstance(number, int | float) else math.inf


def _plain_mask(mask: Segmentation) -> Any:
    if isinstance(mask, np.ndarray):
        with needed_for("masks need"):
            from pycocotools import mask as coco

        mask = coco.encode(np.asfortranarray(mask, np.uint8))
    if isinstance(mask, Mapping):
        counts = mask["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        return {"size": [int(side) for side in mask["size"]], "counts": counts}
    return [[float(number) for number in polygon] for polygon in mask]


def _length(start: float, end: float) -> float:
    """The length that makes `end` again when added to `start`, if there is one, as short in decimals as it can be."""
    length = end - start
    near = [round(length, digits) for digits in (2, 6, 10)]
    candidates = (*near, length, math.nextafter(length, math.inf), math.nextafter(length, 0.0))
    return next((one for one in candidates if start + one == end and one >= 0), length)


def _array(value: Any, name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if array.dtype.kind not in "biuf" or (np.issubdtype(dtype, np.integer) and array.dtype.kind == "f"):
            array = array if array.size == 0 else np.asarray(array, dtype=object)
        return array.astype(dtype, casting="unsafe" if array.size == 0 else "same_kind")
    except (TypeError, ValueError, OverflowError) as error:
        expected = "whole numbers" if np.issubdtype(dtype, np.integer) else "numbers"
        raise TargetError(f"{name} must be a tensor of {expected}; got {_shown(value)} ({error})") from error


def _mask_pixels(value: Any) -> npt.NDArray[Any]:
    """uint8 [N, h, w], not 0 where the objects are; not copied where given as bytes."""
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    whole = array.dtype.kind in "iu" and array.dtype != np.uint8
    return _array(array != 0 if whole else value, "masks", np.uint8)


def _flags(values: Any, name: str) -> npt.NDArray[np.bool_]:
    try:
        return np.array([read_flag(value) for value in values], np.bool_)
    except (TypeError, ValueError) as error:
        raise TargetError(f"{name}: {error if isinstance(values, Sequence) else f'got {values!r}'}") from error


def _field(record: Any, name: str, place: int) -> Any:
    if not isinstance(record, Mapping) or name not in record:
        raise TargetError(f"no {name!r} in object {place}; got {_shown(record)}")
    return record[name]


def _number(record: Any, name: str, place: int, default: float | None = None) -> float:
    value = _field(record, name, place) if default is None else record.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise TargetError(f"{name} must be a finite number; got {_shown(value)} for object {place}")
    return number


def _numbers(record: Mapping[str, Any], name: str, place: int, length: int) -> list[float]:
    value = _field(record, name, place)
    try:
        numbers = [float(one) for one in value]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != length or not all(map(math.isfinite, numbers)):
        raise TargetError(f"{name} must be {length} finite numbers; got {_shown(value)} for object {place}")
    return numbers


def _whole(value: Any, name: str) -> int:
    try:
        number = as_whole(value.item() if hasattr(value, "item") else value)
        if int(number) == number and not isinstance(number, str) and -(1 << 63) <= number < 1 << 63:
            return int(number)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise TargetError(f"{name} must be a whole number; got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
