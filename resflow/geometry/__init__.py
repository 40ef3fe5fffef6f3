"""Geometry: affine transforms, placement of images into shapes, random views. NumPy only."""

from resflow.geometry.affine import Geometry, Matrices
from resflow.geometry.fit import Fit
from resflow.geometry.views import (
    Affine,
    HorizontalFlip,
    RandomResizedCrop,
    Rotate,
    VerticalFlip,
    View,
    apply_views,
)

__all__ = [
    "Affine",
    "Fit",
    "Geometry",
    "HorizontalFlip",
    "Matrices",
    "RandomResizedCrop",
    "Rotate",
    "VerticalFlip",
    "View",
    "apply_views",
]
