"""One image of a contact sheet, with its targets, its padding and its title."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resflow.geometry.affine import is_axis_aligned, transform_points
from resflow.viz.content import Shown
from resflow.viz.overlay import Tile, draw_objects, with_label_map, with_masks
from resflow.viz.plotting import FAINT, INK, Classes

if TYPE_CHECKING:
    from resflow.batch import Batch

FONT = 6.5  # points
LINE = FONT * 1.3 / 72  # inches


def draw_tile(
    axes: Any,
    patches: Any,
    batch: Batch,
    place: int,
    image: npt.NDArray[np.uint8],
    shown: Shown,
    title: list[str],
    tile: Tile,
    *,
    classes: Classes | None,
    ignore_index: int,
) -> None:
    """Draw one image of a batch.

    Args:
        axes: of the sheet, in inches.
        patches: matplotlib's.
        batch: says where the image shows padding.
        place: of the image in the batch.
        image: uint8 [H, W, 3].
        shown: what is drawn on it.
        title: lines above it.
        tile: where it lies.
        classes: names by number.
        ignore_index: class of pixels that do not count.
    """
    if shown.label_map is not None:
        image = with_label_map(image, shown.label_map, ignore_index, tile.scale)
    if shown.objects is not None:
        image = with_masks(image, shown.objects, tile.scale)
    right, bottom = tile.left + tile.width, tile.top + tile.height
    axes.imshow(image, extent=(tile.left, right, bottom, tile.top), interpolation="lanczos", aspect="auto")
    outline = patches.Rectangle(
        (tile.left, tile.top), tile.width, tile.height, fill=False, edgecolor=INK, linewidth=0.8, zorder=6
    )
    axes.add_patch(outline)
    _hatch(axes, patches, batch, place, tile)
    if shown.objects is not None:
        draw_objects(axes, tile, shown.objects, classes, outline)
    axes.text(
        tile.left + tile.width / 2, tile.top - 0.03, "\n".join(title), fontsize=FONT, color=FAINT, ha="center",
        va="bottom", parse_math=False, linespacing=1.15,
    )  # fmt: skip


def padding(valid: npt.NDArray[np.float64], width: float, height: float) -> list[tuple[float, float, float, float]]:
    """The strips (x, y, width, height) of a tile that lie outside `valid` (left, top, right, bottom)."""
    left, top, right, bottom = valid.tolist()
    strips = [
        (0.0, 0.0, width, top),
        (0.0, bottom, width, height - bottom),
        (0.0, top, left, bottom - top),
        (right, top, width - right, bottom - top),
    ]
    return [strip for strip in strips if strip[2] > 1e-6 and strip[3] > 1e-6]


def _hatch(axes: Any, patches: Any, batch: Batch, place: int, tile: Tile) -> None:
    """Hatch what shows no image: all outside `valid`, and what a turned image leaves of it."""
    from matplotlib.path import Path

    look = {"facecolor": "#f2f2f2", "edgecolor": "#c23b22", "hatch": "//////", "linewidth": 0, "zorder": 2}
    valid = batch.valid[place].cpu().numpy() * tile.scale
    for x, y, across, down in padding(valid, tile.width, tile.height):
        axes.add_patch(patches.Rectangle((tile.left + x, tile.top + y), across, down, **look))
    matrix = batch.geometry.matrix[place]
    if batch.mixed or is_axis_aligned(matrix):
        return
    origin, (height, width) = np.array([tile.left, tile.top]), batch.source_size[place].tolist()
    around = np.array([[0, 0], [tile.width, 0], [tile.width, tile.height], [0, tile.height]]) + origin
    corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], dtype=np.float64)
    if np.linalg.det(matrix[:2, :2]) < 0:
        corners = corners[::-1]  # always the other way round than `around`, so that the image is a hole
    turned = origin + transform_points(matrix, corners) * tile.scale
    rings = np.concatenate([around, around[:1], turned, turned[:1]])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * 2
    rest = patches.PathPatch(Path(rings, codes), **look)
    axes.add_patch(rest)
    left, top, right, bottom = valid.tolist()
    corner = (tile.left + left, tile.top + top)
    rest.set_clip_path(patches.Rectangle(corner, right - left, bottom - top, transform=axes.transData))
