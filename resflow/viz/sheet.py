"""Contact sheets: batches as the model sees them, with what was done to each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.geometry.fit import coverage
from resflow.viz.captions import transform_text
from resflow.viz.content import Shown, pixels, shown
from resflow.viz.overlay import Tile, ignores
from resflow.viz.plotting import (
    DPI,
    INK,
    Classes,
    class_colour,
    class_name,
    load_matplotlib,
    save,
    shorten,
    size_text,
    text_width,
    wrap,
)
from resflow.viz.tile import FONT, LINE, draw_tile

if TYPE_CHECKING:
    from resflow.batch import Batch
    from resflow.normalize import Normalize

_NARROW, _WIDE = 11.0, 16.0  # inches across the sheet: for images alone, for images in which much is drawn
_SQUARES = 8.5  # square tiles of the largest resolution across a sheet whose tiles show the resolution by their size
_COLUMNS, _TALLEST = 6, 3.6  # the most tiles to a line, and inches of the tallest, where a number of tiles is asked for
_HEADING, _GAP, _EDGE = 0.26, 0.10, 0.15  # inches: for a heading, between tiles, around all
_HEADING_FONT, _LEGEND_FONT = 9.0, 7.0  # points
_SWATCH = 0.12  # inches


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A batch on its way to the sheet: images uint8 [n, H, W, 3], and what is drawn on and above each."""

    batch: Batch
    images: npt.NDArray[np.uint8]
    shown: list[Shown]
    titles: list[list[str]]
    columns: int
    scale: float  # inches a pixel

    @property
    def title_height(self) -> float:
        return max(map(len, self.titles), default=0) * LINE + 0.05

    @property
    def line_height(self) -> float:
        """Of one line of tiles."""
        return self.title_height + float(self.images.shape[1] * self.scale) + _GAP

    @property
    def has_legend(self) -> bool:
        return any(one.label_map is not None for one in self.shown)

    @property
    def height(self) -> float:
        lines = -(-len(self.images) // self.columns)
        return _HEADING * (1 + self.has_legend) + lines * self.line_height + _GAP

    def tile(self, place: int, top: float) -> Tile:
        """Where an image lies, given where the first title begins."""
        height, width = (side * self.scale for side in self.images.shape[1:3])
        line, column = divmod(place, self.columns)
        left = _EDGE + column * (width + _GAP)
        return Tile(left, top + line * self.line_height + self.title_height, width, height, self.scale)


def contact_sheet(
    batches: Sequence[Batch],
    path: str | Path,
    *,
    denormalize: Normalize | None = None,
    classes: Classes | None = None,
    ignore_index: int = 255,
    tiles: int | None = None,
) -> Path:
    """Picture batches with their targets: padding hatched; source size, shape and transform above each image.

    Drawn are boxes with the names of their classes (a crowd's dashed), masks, keypoints (hidden ones as rings), classes
    of pixels, and single or mixed labels in words; targets of another kind are left out. The transform is told as its
    scale (along x and y, if they differ), an arrow for a mirror, degrees clockwise, and where the placed image's left
    and upper end lies, in the batch's pixels.

    Args:
        batches: at least one; images uint8, or floating in [0, 1] once `denormalize` is undone.
        path: the file to write; its suffix chooses the format (.png, .pdf, .svg).
        denormalize: the normalisation that the batches went through, to be undone; None for images not normalised.
        classes: names of the classes by number; numbers are written where there is none.
        ignore_index: class of pixels that do not count, shown as grey stripes.
        tiles: the most images shown of each batch, as large as the sheet allows; None: as many as fit into one line,
            each as large on the sheet as its resolution says.

    Returns:
        The path.

    Raises:
        ConfigError: no batches, floating images outside [0, 1] without `denormalize`, no matplotlib, or a file that
            cannot be written.
    """
    if not batches:
        raise ConfigError("contact_sheet needs at least one batch; got none")
    if tiles is not None and tiles < 1:
        raise ConfigError(f"contact_sheet must show at least one tile of each batch, or None; got tiles={tiles}")
    figure_class, patches, _ = load_matplotlib()
    width = _NARROW if tiles is None else _WIDE
    largest = max(float(np.sqrt(batch.images.shape[2] * batch.images.shape[3])) for batch in batches)
    rows = [_row(batch, classes, denormalize, width, largest, tiles) for batch in batches]
    height = sum(row.height for row in rows) + 2 * _EDGE
    figure = figure_class(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_autoscale_on(False)
    top = _EDGE
    for row in rows:
        heading = shorten(_heading(row.batch), width - 2 * _EDGE, _HEADING_FONT)
        axes.text(_EDGE, top + 0.05, heading, fontsize=_HEADING_FONT, color=INK, va="top", weight="bold")
        if row.has_legend:
            _draw_legend(axes, patches, row.shown, classes, ignore_index, top + _HEADING, width)
        first = top + _HEADING * (1 + row.has_legend)
        for place, (image, one, title) in enumerate(zip(row.images, row.shown, row.titles, strict=True)):
            draw_tile(
                axes, patches, row.batch, place, image, one, title, row.tile(place, first),
                classes=classes, ignore_index=ignore_index,
            )  # fmt: skip
        top += row.height
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return save(figure, path)


def _row(
    batch: Batch,
    classes: Classes | None,
    denormalize: Normalize | None,
    sheet_width: float,
    largest: float,
    tiles: int | None,
) -> _Row:
    height, width = batch.images.shape[2:]
    room = sheet_width - 2 * _EDGE
    if tiles is None:
        scale = room / (_SQUARES * largest)
        columns = count = max(1, int((room + _GAP) / (width * scale + _GAP)))
    else:
        count = tiles
        columns = -(-tiles // -(-tiles // _COLUMNS))  # spread evenly over as few lines as can be
        scale = min((room - (columns - 1) * _GAP) / columns / width, _TALLEST / height)
    images, drawn = pixels(batch, denormalize, count), shown(batch, classes)[:count]
    geometry = batch.geometry
    titles = []
    for place, one in enumerate(drawn):
        source = (int(geometry.source_size[place, 0]), int(geometry.source_size[place, 1]))
        told = ("mixed",) if batch.mixed else transform_text(geometry.matrix[place], source)
        lines = wrap([size_text(*source), f"\u2192 {size_text(height, width)}", *told], width * scale, FONT)
        titles.append([*lines, shorten(one.caption, width * scale, FONT)] if one.caption else lines)
    return _Row(batch, images, drawn, titles, columns, scale)


def _heading(batch: Batch) -> str:
    number = f"{len(batch)} image" + "s" * (len(batch) != 1)
    said = f"{size_text(*batch.images.shape[2:])}   {number}, resolution {batch.resolution}"
    if not len(batch) or batch.mixed:
        return said + ", mixed" * batch.mixed
    padded, cropped = coverage(batch.geometry)
    return f"{said}, {padded.mean():.1%} of pixels padded (hatched), {cropped.mean():.1%} of images cropped away"


def _draw_legend(
    axes: Any,
    patches: Any,
    drawn: Sequence[Shown],
    classes: Classes | None,
    ignore_index: int,
    top: float,
    sheet_width: float,
) -> None:
    """The classes of a row's pixels with their colours, the most frequent first, as many as there is room for."""
    maps = np.concatenate([one.label_map.ravel() for one in drawn if one.label_map is not None])
    ignored = ignores(maps, ignore_index)
    numbers, counts = np.unique(maps[~ignored], return_counts=True)
    entries = [("ignored", (0.55, 0.55, 0.55), ignored.mean())]
    for place in np.argsort(-counts, kind="stable").tolist():
        number = int(numbers[place])
        entries.append((class_name(number, classes), class_colour(number), counts[place] / len(maps)))
    left = _EDGE
    for name, colour, share in entries:
        text = f"{name} {share:.1%}"
        width = _SWATCH + 0.05 + text_width(text, _LEGEND_FONT) + 0.08
        if left + width > sheet_width - _EDGE:
            return
        swatch = patches.Rectangle((left, top + 0.03), _SWATCH, _SWATCH, facecolor=colour, edgecolor=INK, linewidth=0.5)
        axes.add_patch(swatch)
        axes.text(
            left + _SWATCH + 0.05, top + 0.03 + _SWATCH / 2, text, fontsize=_LEGEND_FONT, color=INK,
            va="center_baseline", parse_math=False,
        )  # fmt: skip
        left += width
