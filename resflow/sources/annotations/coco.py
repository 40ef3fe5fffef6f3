"""COCO annotation files: instances and person keypoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.sources.annotations.annotated import AnnotatedSource
from resflow.sources.annotations.coco_json import CocoFile, coco_images, is_panoptic, read_coco
from resflow.sources.annotations.lint import Problem, check_on_error
from resflow.sources.annotations.objects import Found
from resflow.sources.annotations.orientation import Upright
from resflow.sources.annotations.run_lengths import run_lengths_box
from resflow.sources.annotations.selection import checked_pairs, open_objects
from resflow.targets.boxes import BOX_FORMATS, box_edges
from resflow.targets.flags import read_flag
from resflow.targets.mirror import KeypointPairs
from resflow.targets.segmentations import plain_mask

_LOG = logging.getLogger("resflow")


class Coco(AnnotatedSource):
    """Images with the objects of a COCO annotation file: boxes, polygons, RLE crowds, keypoints.

    Samples come in the order of the images' numbers, those without objects too, as torchvision's CocoDetection has
    them. Labels are the file's category ids, as torchvision's references and weights use them. Coordinates are taken
    as they stand (no half pixel is added to keypoints), as pycocotools and torchvision do; boxes become edges
    (x, y, x + w, y + h), and what hangs over the image's edge by up to a pixel is clipped.

    Args:
        images: folder that the file names in the annotations are relative to.
        annotations: a file (instances or person_keypoints); or several of the same images, whose records are joined
            by their ids: so instances and person_keypoints give all objects, those of persons with keypoints.
        box_format: what the four numbers of `bbox` are: "xywh" as COCO has them (None, too), "xyxy" or "cxcywh", in
            pixels; or "xywh_norm", "xyxy_norm" or "cxcywh_norm", shares of the image, which None refuses.
        keypoint_pairs: which keypoints swap places in a mirrored image: pairs of places, or a permutation of all
            (YOLO's `flip_idx`); () if none do. None takes those whose names differ by the side alone (left_eye and
            right_eye, L_Eye, eye.L, LHip, "Right Ear", ...).
        upright: where images have an EXIF orientation, whether coordinates are those of the image that it turns, as
            OpenCV opens it (True), or of the stored pixels, as PIL opens it and COCO's own are (False). "file":
            coordinates are upright whatever the stated sizes, which may be stored ones, as Label Studio writes them.
            None: False, and a warning where there are such images.
        on_error: "raise" refuses a dataset with problems and names them; "drop" leaves out the objects (and the
            images that cannot be read, or have another size than stated), logs how many, and keeps the report; of an
            object whose mask, keypoints or area alone are wrong that part is left out. "clip" does the same, but cuts
            boxes, polygons and keypoints over the border there.

    Attributes:
        categories: names by category id.
        problems: the `LintReport`.
        keypoint_names: names of an object's keypoints, () where there are none.
        keypoint_pairs: places of keypoints that a mirror swaps; None where it is not known.
        skeleton: pairs of places of keypoints that are joined, counted from 0.

    Raises:
        ConfigError: a file that cannot be read or is none of COCO's, or no image is left.
        TargetError: there are problems, and `on_error` is "raise".
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path | Sequence[str | Path],
        *,
        box_format: str | None = None,
        keypoint_pairs: KeypointPairs | Sequence[int] | None = None,
        upright: Upright = None,
        on_error: str = "raise",
    ) -> None:
        check_on_error(on_error)
        if box_format not in (None, *BOX_FORMATS):
            raise ConfigError(f"box_format must be one of {', '.join(BOX_FORMATS)}, or None; got {box_format!r}")
        coco = read_coco(annotations)
        if is_panoptic(coco):
            raise ConfigError(f"{coco.where} is a panoptic file. Open it as CocoPanoptic(images, annotations, masks).")
        self.keypoint_names, self.skeleton = _keypoints(coco)
        self.keypoint_pairs = checked_pairs(keypoint_pairs, self.keypoint_names)
        files, sizes, turned, numbers, problems = coco_images(coco, images, upright)
        places = {number: place for place, number in enumerate(coco.images)}
        found = []
        for record in coco.annotations:
            item = _object(record, places, coco.where, box_format or "xywh", sizes)
            if isinstance(item, Problem):
                problems.append(item)
            else:
                found.append(item)
        kept = open_objects(
            found,
            files,
            sizes,
            numbers,
            name=coco.where,
            problems=coco.problems + problems,
            categories=set(coco.categories),
            pixels=box_format is not None,
            keypoints=len(self.keypoint_names),
            pairs=self.keypoint_pairs,
            where=lambda item: f"{coco.where} annotation {item.line}",
            on_error=on_error,
            turned=turned,
        )
        super().__init__(
            kept.files,
            kept.sizes,
            kept.objects,
            categories=coco.names,
            problems=kept.report,
            described=kept.objects.described(),
        )


def _keypoints(coco: CocoFile) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Names and skeleton (counted from 0) of the keypoints of all categories that have some."""
    try:
        kinds = {
            (
                tuple(map(str, record["keypoints"])),
                tuple((int(a) - 1, int(b) - 1) for a, b in record.get("skeleton", ())),
            )
            for record in coco.categories.values()
            if record.get("keypoints")
        }
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{coco.where} has a category whose keypoints are no list of names, or whose skeleton is no list of pairs "
            f"of numbers ({error}). Correct the category."
        ) from error
    if len({names for names, _ in kinds}) > 1:
        _LOG.warning(
            "%s has categories with different keypoints: %s; its boxes are read, its keypoints are not. Split the file "
            "by category to have them.",
            coco.where,
            sorted({names for names, _ in kinds}),
        )
        return (), ()
    return max(kinds, key=lambda kind: (len(kind[1]), kind)) if kinds else (_unnamed(coco), ())


def _unnamed(coco: CocoFile) -> tuple[str, ...]:
    """Numbers for names, where categories name no keypoints and all objects that have some have equally many."""
    lists = [record["keypoints"] for record in coco.annotations if isinstance(record.get("keypoints"), list)]
    counts = sorted({len(points) / 3 for points in lists if points})
    if len(counts) == 1 and counts[0].is_integer():
        return tuple(map(str, range(int(counts[0]))))
    if counts:
        _LOG.warning(
            "%s has objects of %s keypoints, which its categories do not name; its boxes are read, its keypoints are "
            'not. Name them: "keypoints" of each category.',
            coco.where,
            ", ".join(f"{count:g}" for count in counts),
        )
    return ()


def _crowd(record: dict[str, Any]) -> bool:
    try:
        return read_flag(record.get("iscrowd"))
    except ValueError as error:
        raise ValueError(f"iscrowd: {error}") from error


def _hull(mask: Any, form: str) -> tuple[float, ...]:
    """The box around a mask, as [x, y, w, h], for an annotation that has none of its own."""
    if form == "xywh" and isinstance(mask, dict):
        return run_lengths_box(mask)
    if form != "xywh" or not isinstance(mask, list) or not all(isinstance(part, list) for part in mask):
        raise KeyError("bbox")
    points = np.concatenate([np.asarray(part, np.float64).reshape(-1, 2) for part in mask])
    low, high = points.min(axis=0), points.max(axis=0)
    return (*low.tolist(), *(high - low).tolist())


def _object(
    record: dict[str, Any], places: dict[int, int], where: str, form: str, sizes: npt.NDArray[np.int32]
) -> Found | Problem:
    number = record["id"]
    where = f"{where} annotation {number}"
    try:
        image, label = record["image_id"], record["category_id"]
        mask = plain_mask(record.get("segmentation"))
        left, top, width, height = map(float, record.get("bbox") or _hull(mask, form))
        area, points = record.get("area"), record.get("keypoints")
        if image not in places:
            return Problem("unknown image", "", where, f"image {image!r} is not in the list of images")
        if type(label) is not int:
            return Problem("unknown category", "", where, f"category {label!r} is neither an id nor a name")
        box = (left, top, left + width, top + height)
        if form != "xywh":
            unit = sizes[places[image], [1, 0, 1, 0]] if form.endswith("_norm") else 1.0
            box = tuple((box_edges(np.array([[left, top, width, height]]), form)[0] * unit).tolist())
            area = None  # of what unit?
        return Found(
            image=places[image],
            line=number,
            label=label,
            box=box,
            area=None if area is None else float(area),
            iscrowd=_crowd(record),
            mask=mask,
            keypoints=None if not points else np.asarray(points, np.float64).ravel().tolist(),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        return Problem(
            "unreadable annotation", "", where, f"{said}; expected image_id, category_id and bbox [x, y, w, h]"
        )
