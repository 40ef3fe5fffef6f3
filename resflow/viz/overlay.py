"""Objects and classes of pixels, drawn over an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resflow.viz.content import Objects
from resflow.viz.plotting import Classes, class_colour, class_name, ink_on, load_matplotlib, shorten, text_width

_MASK, _LABEL_MAP = 0.45, 0.55  # how opaque
_STRIPE = 5.0  # points between the stripes of ignored pixels
_EDGE = 1.0  # points: edge of a mask
_LINE, _HALO = 1.3, 2.6  # points: line of a box, and the dark line under it
_POINT = 3.2  # points: a keypoint
_FONT = 6.0  # points
_NAME = 1.0  # inches: the longest name of a class on a box


@dataclass(frozen=True, slots=True)
class Tile:
    """Where an image lies on the sheet, in inches from the sheet's upper left corner.

    Args:
        left: of the image.
        top: of the image.
        width: of the image.
        height: of the image.
        scale: inches a pixel.
    """

    left: float
    top: float
    width: float
    height: float
    scale: float


def with_masks(image: npt.NDArray[np.uint8], objects: Objects, scale: float) -> npt.NDArray[np.uint8]:
    """An image with its objects' masks over it: translucent, with an edge.

    Args:
        image: uint8 [H, W, 3].
        objects: of the image.
        scale: inches a pixel on the sheet.

    Returns:
        uint8 [H, W, 3].
    """
    if objects.masks is None or not len(objects):
        return image
    painted = image.astype(np.float32)
    steps = max(1, round(_EDGE / 72 / scale))
    for place in np.argsort(-objects.masks.sum(axis=(1, 2)), kind="stable").tolist():  # small ones on top
        mask, colour = objects.masks[place], 255 * np.array(_colour(objects, place), np.float32)
        painted[mask] += _MASK * (colour - painted[mask])
        painted[mask & ~_eroded(mask, steps)] = colour
    return painted.round().astype(np.uint8)


def with_label_map(
    image: npt.NDArray[np.uint8], label_map: npt.NDArray[Any], ignore_index: int, scale: float
) -> npt.NDArray[np.uint8]:
    """An image with its classes of pixels over it: translucent colours, grey stripes where the class is ignored.

    Args:
        image: uint8 [H, W, 3].
        label_map: int [H, W].
        ignore_index: the class that is ignored; so are numbers below 0.
        scale: inches a pixel on the sheet.

    Returns:
        uint8 [H, W, 3].
    """
    numbers, place = np.unique(label_map, return_inverse=True)
    colours = np.array([class_colour(max(0, number)) for number in numbers.tolist()], np.float32)
    painted = image + _LABEL_MAP * (255 * colours[place.reshape(label_map.shape)] - image)
    row, column = np.arange(label_map.shape[0])[:, None], np.arange(label_map.shape[1])
    stripe = (row + column) * scale * 72 % _STRIPE < _STRIPE / 2  # bool [H, W]
    grey = image.mean(axis=2) * 0.35 + np.where(stripe, 130.0, 60.0)
    ignored = ignores(label_map, ignore_index)
    painted[ignored] = grey[ignored][:, None]
    return np.asarray(painted.round().astype(np.uint8))


def ignores(label_map: npt.NDArray[Any], ignore_index: int) -> npt.NDArray[np.bool_]:
    """bool [H, W]: where the class of a pixel does not count."""
    return np.asarray((label_map == ignore_index) | (label_map < 0))


def draw_objects(axes: Any, tile: Tile, objects: Objects, classes: Classes | None, clip: Any) -> None:
    """Draw boxes with names and keypoints on a tile.

    A crowd's box is dashed. A visible keypoint is a disc, a hidden one a ring; the same keypoint has the same colour on
    every object. A name that finds no free place near its box is left out.

    Args:
        axes: of the sheet, in inches.
        tile: where the image lies.
        objects: of the image.
        classes: names by number.
        clip: the patch that nothing may leave.
    """
    _, patches, colormaps = load_matplotlib()
    from matplotlib.patheffects import Normal, Stroke

    origin = np.array([tile.left, tile.top] * 2)
    boxes = origin + objects.boxes.astype(np.float64) * tile.scale  # [N, 4], inches
    largest_first = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable").tolist()
    halo = [Stroke(linewidth=_HALO, foreground=(0, 0, 0, 0.6)), Normal()]
    taken: list[tuple[float, float, float, float]] = []
    for place in largest_first:
        left, top, right, bottom = boxes[place].tolist()
        colour = _colour(objects, place)
        frame = patches.Rectangle(
            (left, top), right - left, bottom - top,
            fill=False, edgecolor=colour, linewidth=_LINE, linestyle=(0, (2, 1.5)) if objects.iscrowd[place] else "-",
            path_effects=halo, zorder=3,
        )  # fmt: skip
        axes.add_patch(frame)
        frame.set_clip_path(clip)
        if objects.labels is not None:
            name = shorten(class_name(int(objects.labels[place]), classes), _NAME, _FONT)
            _write(axes, tile, name, (left, top, right, bottom), colour, taken)
    if objects.keypoints is not None and objects.keypoints.size:
        points = objects.keypoints  # [N, K, 3]
        colours = np.tile(colormaps["gist_rainbow"](np.linspace(0, 1, points.shape[1])), (len(points), 1, 1))
        at = origin[:2] + points[..., :2] * tile.scale
        for chosen, face in ((points[..., 2] == 1, False), (points[..., 2] > 1, True)):
            axes.scatter(
                at[chosen][:, 0], at[chosen][:, 1], s=_POINT**2, marker="o",
                facecolors=colours[chosen] if face else "none",
                edgecolors=(0, 0, 0, 0.9) if face else colours[chosen], linewidths=0.5 if face else 1.1,
                path_effects=[] if face else [Stroke(linewidth=1.9, foreground=(0, 0, 0, 0.6)), Normal()],
                zorder=4, clip_path=clip,
            )  # fmt: skip


def _write(
    axes: Any,
    tile: Tile,
    name: str,
    box: tuple[float, float, float, float],
    colour: tuple[float, float, float],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Write a box's name above it, inside it or below it, where there is room."""
    width, height = text_width(name, _FONT) + 0.02, _FONT * 1.25 / 72
    left, top, right, bottom = box
    leftmost = min(max(left, tile.left), tile.left + tile.width - width)
    rightmost = max(min(right, tile.left + tile.width) - width, tile.left)
    tops = (top - height, max(top, tile.top), bottom - height, bottom)
    for x, y in ((x, y) for y in tops for x in (leftmost, rightmost)):
        inside = tile.top - 1e-6 <= y <= tile.top + tile.height - height + 1e-6
        free = all(x >= x1 or x + width <= x0 or y >= y1 or y + height <= y0 for x0, y0, x1, y1 in taken)
        if inside and free:
            taken.append((x, y, x + width, y + height))
            axes.text(
                x + 0.01, y + height / 2, name, fontsize=_FONT, color=ink_on(colour), va="center_baseline", ha="left",
                parse_math=False, zorder=5, clip_on=True,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6, "alpha": 0.9},
            )  # fmt: skip
            return


def _colour(objects: Objects, place: int) -> tuple[float, float, float]:
    return class_colour(place if objects.labels is None else int(objects.labels[place]))


def _eroded(mask: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.bool_]:
    """A mask without the pixels nearest to its edge; the image's border is no edge."""
    for _ in range(steps):
        wide = np.pad(mask, 1, mode="edge")
        mask = wide[1:-1, 1:-1] & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask
