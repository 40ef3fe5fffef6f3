"""Copy-paste: objects of one image of the batch laid over another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from resflow.augment.mixing import chosen, refuse_classes, ring
from resflow.augment.objects import join_objects, select_objects, take_images
from resflow.augment.state import Augmented, Moved, around
from resflow.errors import ConfigError, TargetError
from resflow.geometry.ramp import Magnitude, check_probability
from resflow.targets import Instances, Targets
from resflow.targets.draw import bounds


@dataclass(frozen=True, slots=True)
class CopyPaste:
    """Lay objects of a partner over each image, by their masks and at their places.

    Of a partner's objects each is taken with probability 1/2, crowds never. What they cover is taken out of the masks
    below; boxes and areas of covered objects become those of the mask that is left, and objects of which too little is
    left are dropped by `min_visible` and `min_side`; keypoints whose pixel is covered, or was not taken along, become
    hidden (visibility 1). Of label maps, each class of the partner is taken with probability 1/2 (ClassMix). Scale and
    flip images before, as the paper does.
    `transform` and image ids stay those of the image below, `valid` holds both.

    Args:
        p: probability that an image has objects laid over it.

    Raises:
        ConfigError: `p` is not in [0, 1].

    Source: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation" (2021);
    for label maps Olsson et al., "ClassMix" (2021).
    """

    p: Magnitude = 0.5

    def __post_init__(self) -> None:
        check_probability("CopyPaste", self.p)

    def check(self, *, spatial: bool) -> None:
        """See `Mixing`."""
        if not spatial:
            raise ConfigError(
                "CopyPaste needs masks or label maps. Set Pipeline(targets=Targets(masks=True)) where the dataset has "
                "them; for classes of images, use MixUp or CutMix."
            )

    def __call__(self, state: Augmented, options: Targets, generator: torch.Generator) -> Augmented:
        """See `Mixing`."""
        refuse_classes("CopyPaste", state.targets)
        device = state.images.device
        partner = ring(len(state.images), generator)[1].to(device)
        which = chosen(len(state.images), self.p, generator).to(device)
        if len(state.images) == 1:
            return state  # an image laid over itself is itself, its objects would be there twice
        targets: Moved
        if isinstance(state.targets, Instances):
            targets, over = _pasted_objects(state.targets, partner, which, options, generator)
        else:
            targets, over = _pasted_classes(state.targets, partner, which, options, generator)
        edges = bounds(over).to(torch.int32)
        return replace(
            state,
            images=torch.where(over[:, None], state.images[partner], state.images),
            targets=targets,
            valid=around(state.valid, edges),
        )


def _pasted_objects(
    below: Instances, partner: torch.Tensor, which: torch.Tensor, options: Targets, generator: torch.Generator
) -> tuple[Instances, torch.Tensor]:
    """The objects of both images, and bool [B, H, W] of the pixels that show the partner."""
    if below.masks is None:
        raise TargetError("CopyPaste cuts objects out by their masks, and there are none. Set Targets(masks=True).")
    pasted = take_images(below, partner)
    heads = torch.rand(len(pasted.boxes), generator=generator).to(which.device) < 0.5
    pasted = select_objects(pasted, heads & (pasted.iscrowd == 0) & which[pasted.image])
    masks = pasted.masks if pasted.masks is not None else below.masks[:0]
    layers = torch.zeros((len(which), *below.masks.shape[1:]), dtype=torch.int16, device=which.device)
    over = layers.index_add_(0, pasted.image, masks.to(torch.int16)) > 0
    if pasted.keypoints is not None:  # those that do not lie on what was pasted are not seen
        outside = ~_under(pasted.keypoints, over[pasted.image])
        pasted = replace(pasted, keypoints=torch.where(outside[..., None], _hidden(pasted.keypoints), pasted.keypoints))
    return join_objects([_covered(below, over, options), pasted]), over


def _covered(objects: Instances, over: torch.Tensor, options: Targets) -> Instances:
    """Objects below what was pasted: masks, boxes, areas, visible shares and keypoints of what is left of them."""
    masks = objects.masks
    if masks is None:
        return objects
    hidden = over[objects.image]  # [M, H, W]
    left = masks.masked_fill(hidden, 0)
    before, after = (part.sum((1, 2), dtype=torch.int64) for part in (masks, left))
    covered = after < before
    share = after / before.clamp(min=1)
    boxes = torch.where(covered[:, None], bounds(left).float(), objects.boxes)
    visible = torch.where(covered, objects.visible * share, objects.visible)
    keypoints = objects.keypoints
    if keypoints is not None:
        keypoints = torch.where(_under(keypoints, hidden)[..., None], _hidden(keypoints), keypoints)
    result = replace(
        objects,
        masks=left,
        boxes=boxes,
        area=torch.where(covered, objects.area * share, objects.area),
        visible=visible,
        keypoints=keypoints,
    )
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    sound = (after > 0) & (visible >= options.min_visible) & (sides >= options.min_side)
    return select_objects(result, sound | ~covered)


def _under(keypoints: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """bool [M, K]: whether the pixel that a keypoint lies on was covered."""
    height, width = hidden.shape[1:]
    column = keypoints[..., 0].long().clamp(0, width - 1)
    row = keypoints[..., 1].long().clamp(0, height - 1)
    return hidden.flatten(1).gather(1, row * width + column)


def _hidden(keypoints: torch.Tensor) -> torch.Tensor:
    return torch.cat([keypoints[..., :2], keypoints[..., 2:].clamp(max=1)], -1)


def _pasted_classes(
    below: torch.Tensor | None,
    partner: torch.Tensor,
    which: torch.Tensor,
    options: Targets,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The label maps, and bool [B, H, W] of the pixels that show the partner."""
    if below is None:
        raise TargetError("CopyPaste needs masks or label maps; got no targets")
    above = below[partner]
    classes = above.long().clamp(min=0)
    known = int(classes.max()) + 1 if classes.numel() else 1
    heads = torch.rand((len(below), known), generator=generator).to(below.device) < 0.5
    over = heads.gather(1, classes.flatten(1)).view_as(classes)
    over &= (above != options.ignore_index) & which[:, None, None]
    return torch.where(over, above, below), over
