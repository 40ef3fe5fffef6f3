"""Images that EXIF turns: whether a dataset's coordinates are those of the stored or of the upright pixels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.sources.annotations.lint import OVERHANG
from resflow.sources.annotations.objects import Found

_LOG = logging.getLogger("resflow")

_WAYS = (
    "Pass upright=False if that is right (COCO, PIL), upright=True for the upright image (OpenCV), upright='file' for "
    "upright coordinates beside stored sizes (Label Studio); `resflow preview` draws them."
)

Upright: TypeAlias = bool | str | None
"""True: coordinates and sizes are those of the upright image; False: of the stored pixels; "file": coordinates of the
upright image beside sizes of either; None: False, and said where it matters."""


def is_upright(upright: Upright) -> bool:
    """Whether images are turned as their EXIF orientation says.

    Raises:
        ConfigError: neither a bool, None nor "file".
    """
    if upright not in (True, False, None, "file"):
        raise ConfigError(f"upright must be True, False or 'file'; got {upright!r}")
    return upright in (True, "file")


def size_problem(stated: tuple[int, int], found: tuple[int, int], orientation: int, upright: Upright) -> str | None:
    """What is wrong with a stated size, and the way out; None if nothing is.

    Args:
        stated: height and width.
        found: those of the image as it is read.
        orientation: EXIF's, 1 to 8.
        upright: how it is read.
    """
    turned = orientation >= 5 and stated == found[::-1]
    if stated == found or (turned and upright == "file"):
        return None
    hint = ""
    if turned and is_upright(upright):
        hint = (
            " That is the size of the stored pixels. Boxes may lie in the stored pixels, too (upright=False), or in "
            "the upright image beside stored sizes, as Label Studio writes them (upright='file'): look at a few, as "
            "`resflow preview` draws them."
        )
    elif turned:
        hint = " That is the size of the upright image: pass upright=True."
    return f"stated {stated[0]} x {stated[1]} (H x W), the file has {found[0]} x {found[1]}.{hint}"


@dataclass(frozen=True, slots=True, eq=False)
class Orientations:
    """What EXIF says of N images, and how a dataset takes it.

    Args:
        orientation: uint8 [N], 1 to 8.
        upright: how images are read.
        stated: N sizes that the annotations state, None where they state none; () if they never do.
        sizes: int32 [N, 2], height and width as the images are read, (0, 0) where they cannot be.
    """

    orientation: npt.NDArray[np.uint8]
    upright: Upright
    stated: Sequence[tuple[int, int] | None]
    sizes: npt.NDArray[np.int32]

    def notes(self, found: Sequence[Found], name: str) -> tuple[str, ...]:
        """How many images EXIF turns, how they are read, and which reading sizes and objects fit.

        It is logged, too, where nobody said how coordinates are meant.

        Args:
            found: all objects.
            name: of the dataset.

        Returns:
            A sentence; none where no image is turned.
        """
        turned = np.flatnonzero(self.orientation != 1)
        if not len(turned):
            return ()
        counts = Counter(self.orientation[turned].tolist())
        shown = ", ".join(f"{number}: {count:,}" for number, count in sorted(counts.items()))
        read, other = ("upright", "stored") if is_upright(self.upright) else ("stored", "upright")
        said = [
            f"{len(turned):,} of {len(self.orientation):,} images have an EXIF orientation ({shown}); coordinates are "
            f"taken as those of the {read} pixels"
        ]
        sizes = self.sizes
        aside = {n for n in turned.tolist() if self.orientation[n] >= 5 and sizes[n, 0] != sizes[n, 1]}
        fits: Counter[str] = Counter()
        for place in aside & set(range(len(self.stated))):
            if (size := self.stated[place]) is not None:
                here = (int(sizes[place, 0]), int(sizes[place, 1]))
                fits[read if size == here else other if size == here[::-1] else "neither"] += 1
        if fits:
            said.append("stated sizes are " + ", ".join(f"{name} in {count:,}" for name, count in sorted(fits.items())))
        objects: Counter[str] = Counter()
        for item in found:
            if item.image in aside:
                height, width = sizes[item.image].tolist()
                fit = [_inside(item.box, size) for size in ((height, width), (width, height))]
                objects[read if fit == [True, False] else other if fit == [False, True] else ""] += 1
        del objects[""]
        if objects:
            said.append("objects fit only " + ", only ".join(f"{name} in {n:,}" for name, n in sorted(objects.items())))
        blind = len(turned) - len(aside)
        if blind:
            said.append(f"of {blind:,} no size can tell")
        note = "; ".join(said)
        if self.upright is None:
            _LOG.warning("%s: %s. %s", name, note, _WAYS)
        return (note,)


def _inside(box: Sequence[float], size: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    return min(left, top) >= -OVERHANG and right <= size[1] + OVERHANG and bottom <= size[0] + OVERHANG
