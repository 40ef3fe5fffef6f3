"""Mosaic: four images of a batch in one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812

from resflow.augment.mixing import chosen, refuse_classes, ring
from resflow.augment.objects import join_objects, select_objects, take_images
from resflow.augment.state import Augmented, around, moved_targets, moved_valid
from resflow.errors import ConfigError
from resflow.geometry.ramp import Magnitude, check_probability
from resflow.targets import Instances, Targets

_INNER = (0.25, 0.75)  # where the corner that the four share may lie, in shares of width and height


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Lay four images of the batch around a point of the frame, each scaled to fill its quarter.

    The point is drawn for the batch, in the middle half of width and height, at a pixel's corner. Each image is scaled,
    antialiased and by the same factor along both axes (but for rounding to whole pixels), until it just fills its
    quarter; its corner lies at the point, and what reaches beyond the frame is cut off. The image itself lies upper
    left, its partners upper right, lower left and lower right. Boxes, masks, keypoints and label maps are moved, cut
    and filtered as everywhere. `transform` and image ids become those of the image upper left.

    Args:
        p: probability that an image becomes a mosaic.

    Raises:
        ConfigError: `p` is not in [0, 1].

    Source: Bochkovskiy et al., "YOLOv4" (2020), section 3.3.
    """

    p: Magnitude = 1.0

    def __post_init__(self) -> None:
        check_probability("Mosaic", self.p)

    def check(self, *, spatial: bool) -> None:
        """See `Mixing`."""
        if not spatial:
            raise ConfigError(
                "Mosaic needs boxes, masks or label maps. Set Pipeline(targets=Targets()) where the dataset has "
                "them; for classes of images, use MixUp or CutMix."
            )

    def __call__(self, state: Augmented, options: Targets, generator: torch.Generator) -> Augmented:
        """See `Mixing`."""
        refuse_classes("Mosaic", state.targets)
        (height, width), device = state.shape, state.images.device
        partners = [partner.to(device) for partner in ring(len(state.images), generator, 3)]
        share = torch.rand(2, generator=generator) * (_INNER[1] - _INNER[0]) + _INNER[0]
        x, y = (min(max(round(float(s) * side), 1), side - 1) for s, side in zip(share, (width, height), strict=True))
        which = chosen(len(state.images), self.p, generator).to(device)
        if min(height, width) < 2 or not bool(which.any()):
            return state
        images, transform = state.images.clone(), state.transform.clone()
        valid = torch.zeros_like(state.valid)
        targets = state.targets
        maps = None if targets is None or isinstance(targets, Instances) else targets.clone()
        parts: list[Instances] = []
        for quarter, partner in enumerate(partners):
            right, below = bool(quarter % 2), quarter >= 2
            columns = slice(x, width) if right else slice(0, x)
            rows = slice(y, height) if below else slice(0, y)
            matrix, size = _placement(state.shape, (x, y), right, below)
            left, top = (0 if right else size[1] - x), (0 if below else size[0] - y)
            source = state.images[partner[which]]
            scaled = F.interpolate(source, size=size, mode="bilinear", align_corners=False, antialias=True)
            crop = scaled[..., top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]
            images[which, :, rows, columns] = crop
            moves = matrix.to(device).expand(len(images), 3, 3)
            valid = around(valid, moved_valid(state.valid[partner], moves, state.shape))
            if isinstance(targets, Instances):
                part = take_images(targets, partner)
                part = select_objects(part, which[part.image])
                moved = moved_targets(part, moves, state.shape, options)
                parts += [moved] if isinstance(moved, Instances) else []
            elif maps is not None and isinstance(targets, torch.Tensor):
                shown = (_nearest(rows, top, size[0], height), _nearest(columns, left, size[1], width))
                source = targets[partner[which]]
                maps[which, rows, columns] = source[:, shown[0].to(device)][:, :, shown[1].to(device)]
            if quarter == 0:
                transform[which] = matrix.to(device) @ state.transform[which]
        if isinstance(targets, Instances):
            parts.append(select_objects(targets, ~which[targets.image]))
        return replace(
            state,
            images=images,
            targets=join_objects(parts) if parts else maps,
            transform=transform,
            valid=torch.where(which[:, None], valid, state.valid),
        )


def _nearest(quarter: slice, first: int, scaled: int, side: int) -> torch.Tensor:
    """int64 [n]: the rows or columns of an image on which lie the centres of a quarter's pixels."""
    centre = torch.arange(first, first + quarter.stop - quarter.start, dtype=torch.float64) + 0.5
    return (centre * side / scaled).floor_().long()


def _placement(
    shape: tuple[int, int], point: tuple[int, int], right: bool, below: bool
) -> tuple[torch.Tensor, tuple[int, int]]:
    """float64 [3, 3] that places an image into a quarter, and the height and width that it is scaled to."""
    (height, width), (x, y) = shape, point
    room = (height - y if below else y, width - x if right else x)
    scale = max(room[0] / height, room[1] / width)
    size = max(round(scale * height), room[0]), max(round(scale * width), room[1])
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 0], matrix[1, 1] = size[1] / width, size[0] / height
    matrix[0, 2], matrix[1, 2] = x if right else x - size[1], y if below else y - size[0]
    return matrix, size
