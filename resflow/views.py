"""Random views of an image, drawn before decoding: `rf.views.RandomResizedCrop(scale=(0.35, 1.0))` and the like."""

from resflow.geometry.views import Affine, HorizontalFlip, RandomResizedCrop, Rotate, VerticalFlip, View

__all__ = ["Affine", "HorizontalFlip", "RandomResizedCrop", "Rotate", "VerticalFlip", "View"]
