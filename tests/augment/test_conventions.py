"""Kornia's coordinates are as matrices here take for granted; where a new Kornia changes them, this says how."""

from __future__ import annotations

import kornia.augmentation
import pytest
import torch

from resflow.augment import conventions


def test_kornia_counts_as_we_do() -> None:
    assert conventions.kornia_difference() == ""


def test_another_convention_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class EdgesMirrored(kornia.augmentation.RandomHorizontalFlip):  # type: ignore[misc]
        def compute_transformation(self, *args: object, **kwargs: object) -> torch.Tensor:
            matrix = super().compute_transformation(*args, **kwargs).clone()
            matrix[:, 0, 2] += 1  # W - x: pixel edges
            return matrix

    monkeypatch.setattr(conventions, "RandomHorizontalFlip", EdgesMirrored)
    assert "expected [-1, 0, W - 1 = 4]" in conventions.kornia_difference()

    def half(image: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return (image + image.roll(1, -1)) / 2

    monkeypatch.undo()
    monkeypatch.setattr(conventions, "warp_affine", half)
    assert "whole pixels" in conventions.kornia_difference()
