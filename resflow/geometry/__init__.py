"""Geometry: affine transforms, placement of images into shapes, random views. NumPy only."""

from resflow.geometry.affine import Geometry, Matrices
from resflow.geometry.fit import Fit
from resflow.geometry.ramp import Ramp, at, has_ramp, read_ramps, resolution_progress
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
    "Ramp",
    "RandomResizedCrop",
    "Rotate",
    "VerticalFlip",
    "View",
    "apply_views",
    "at",
    "has_ramp",
    "read_ramps",
    "resolution_progress",
]
