"""Whether Kornia counts coordinates as this package does; it is to settle on one convention for all its operations."""

from __future__ import annotations

import torch
from kornia.augmentation import RandomHorizontalFlip, RandomRotation
from kornia.geometry.transform import warp_affine


def kornia_difference() -> str:
    """What the installed Kornia does otherwise than matrices and warps here take for granted, "" if nothing.

    Kornia counts pixel centres: a mirrored image of width W maps x to W - 1 - x, a quarter turn has its centre at
    ((W - 1) / 2, (H - 1) / 2), a warp by whole pixels moves them, and mirroring is exact.
    """
    image = torch.arange(15.0).reshape(1, 1, 3, 5)
    flip = RandomHorizontalFlip(p=1.0)
    mirrored = flip(image)
    if not torch.equal(mirrored, image.flip(-1)):
        return "RandomHorizontalFlip does not mirror pixels exactly"
    if not torch.allclose(flip.transform_matrix[0, 0], torch.tensor([-1.0, 0.0, 4.0])):
        return f"RandomHorizontalFlip maps x by {flip.transform_matrix[0, 0].tolist()}, expected [-1, 0, W - 1 = 4]"
    turn = RandomRotation((90.0, 90.0), p=1.0)
    turn(image)
    centre = turn.transform_matrix[0] @ torch.tensor([2.0, 1.0, 1.0])
    if not torch.allclose(centre, torch.tensor([2.0, 1.0, 1.0]), atol=1e-4):
        return f"RandomRotation maps the centre (2, 1) of 5x3 pixels to {centre[:2].tolist()}"
    moved = warp_affine(image, torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]]), (3, 5), align_corners=True)
    if not torch.allclose(moved[..., 1:], image[..., :-1], atol=1e-4):
        return "warp_affine with align_corners=True does not move whole pixels by a translation of 1"
    return ""
