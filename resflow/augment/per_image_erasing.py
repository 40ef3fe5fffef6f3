"""RandomErasing as it was written behind ToTensor and Normalize, on images that are still bytes."""

from __future__ import annotations

from typing import Any

import torch


class ErasingOfBytes:
    """Erases with the values that an erasing of normalised images has: its 0 is the mean colour.

    Args:
        erasing: torchvision's or timm's RandomErasing; draws as it would.
        mean: of red, green and blue, as shares of full intensity, by which images are normalised afterwards.
        std: the same.
    """

    def __init__(self, erasing: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.erasing, self.mean, self.std = erasing, mean, std
        self._in_place = bool(getattr(erasing, "inplace", True))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """The image with what was erased.

        Args:
            image: [3, H, W], uint8 or floating in [0, 1].
        """
        blank = torch.full((1, 1, 1), torch.nan).expand(image.shape)
        if self._in_place:
            blank = blank.clone()
        erased = self.erasing(blank)
        if erased is blank and not self._in_place:
            return image
        kept = erased.isnan()
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        shares = (erased * std + mean).nan_to_num(0).clamp(0, 1)
        levels = shares.to(image.dtype) if image.is_floating_point() else (shares * 255).round().to(torch.uint8)
        return torch.where(kept, image, levels)
