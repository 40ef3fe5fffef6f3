"""Pictures of what a loader does: a contact sheet of its batches, a histogram of aspect ratios with its buckets.

Both need matplotlib: `pip install 'resflow[plots]'`. It is imported when a picture is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError

if TYPE_CHECKING:
    from resflow.batch import Batch
    from resflow.normalize import Normalize
    from resflow.plan import Buckets

_INK, _FAINT = "#222222", "#777777"
_DPI = 120
_SHEET_WIDTH = 11.0  # inches
_SQUARES = 8.5  # how many square tiles a row of the sheet holds
_HEADING, _TITLE, _GAP, _EDGE = 0.30, 0.30, 0.10, 0.15  # inches: above a row, above a tile, between tiles, around all
_BINS = 48
_HISTOGRAM_SIZE = (9.0, 5.0)  # inches
_LEGEND_BOX = (0.07, 0.70, 0.91, 0.21)  # left, bottom, width, height, as shares of the figure
_LEGEND_ASPECT = _HISTOGRAM_SIZE[0] * _LEGEND_BOX[2] / (_HISTOGRAM_SIZE[1] * _LEGEND_BOX[3])
_MARKS = tuple(map(Fraction, ("1/8", "1/5", "1/4", "1/3", "1/2", "2/3", "1", "3/2", "2", "3", "4", "5", "8")))


def contact_sheet(batches: Sequence[Batch], path: str | Path, *, denormalize: Normalize | None = None) -> Path:
    """Picture batches, one row each: as many of its images as fit, padding hatched, source size and shape above.

    Args:
        batches: at least one; images uint8, or floating with `denormalize` given.
        path: the file to write; its suffix chooses the format (.png, .pdf, .svg).
        denormalize: the normalisation that the batches went through, to be undone; None for uint8 images.

    Returns:
        The path.

    Raises:
        ConfigError: no batches, floating images without `denormalize`, no matplotlib, or a file that cannot be written.
    """
    if not batches:
        raise ConfigError("contact_sheet needs at least one batch; got none")
    figure_class, patches, _ = _matplotlib()
    pictures = [_pictures(batch, denormalize) for batch in batches]
    largest = max(float(np.sqrt(p.shape[1] * p.shape[2])) for p in pictures)
    scale = (_SHEET_WIDTH - 2 * _EDGE) / (_SQUARES * largest)  # inches a pixel
    heights = [_HEADING + _TITLE + p.shape[1] * scale + _GAP for p in pictures]
    height = sum(heights) + 2 * _EDGE
    figure = figure_class(figsize=(_SHEET_WIDTH, height), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    top = _EDGE
    for batch, images, row in zip(batches, pictures, heights, strict=True):
        axes.text(_EDGE, top + 0.08, _heading(batch), fontsize=9, color=_INK, va="top", weight="bold")
        tile_height, tile_width = images.shape[1] * scale, images.shape[2] * scale
        upper = top + _HEADING + _TITLE
        for column in range(_columns(len(images), tile_width)):
            left = _EDGE + column * (tile_width + _GAP)
            axes.imshow(
                images[column],
                extent=(left, left + tile_width, upper + tile_height, upper),
                interpolation="lanczos",
                aspect="auto",
            )
            valid = batch.valid[column].cpu().numpy() * scale
            for x, y, w, h in _padding(valid, tile_width, tile_height):
                strip = patches.Rectangle(
                    (left + x, upper + y), w, h, facecolor="#f2f2f2", edgecolor="#c23b22", hatch="//////", linewidth=0
                )
                axes.add_patch(strip)
            outline = patches.Rectangle(
                (left, upper), tile_width, tile_height, fill=False, edgecolor=_INK, linewidth=0.8
            )
            axes.add_patch(outline)
            source_height, source_width = batch.source_size[column].tolist()
            title = f"{_size(source_height, source_width)}\n→ {_size(*images.shape[1:3])}"
            axes.text(left + tile_width / 2, upper - 0.04, title, fontsize=6, color=_FAINT, ha="center", va="bottom")
        top += row
    axes.set_xlim(0, _SHEET_WIDTH)
    axes.set_ylim(height, 0)
    return _save(figure, path)


def ratio_histogram(aspect_ratios: npt.NDArray[np.floating], buckets: Buckets, path: str | Path) -> Path:
    """Picture how often each aspect ratio occurs, on a log axis, and which bucket takes it to which shape.

    Args:
        aspect_ratios: floating [N], W/H, at least one, all above 0.
        buckets: shapes are shown at their highest resolution.
        path: the file to write; its suffix chooses the format (.png, .pdf, .svg).

    Returns:
        The path.

    Raises:
        ConfigError: no ratios, a ratio that is not above 0, no matplotlib, or a file that cannot be written.
    """
    ratios = np.asarray(aspect_ratios, dtype=np.float64)
    if ratios.ndim != 1 or not len(ratios) or not (np.isfinite(ratios) & (ratios > 0)).all():
        raise ConfigError(
            f"aspect_ratios must be [N] with N >= 1, all finite and above 0; got {list(ratios.shape)} "
            f"with least value {ratios.min() if ratios.size else 'none'}"
        )
    figure_class, patches, colormaps = _matplotlib()
    bucket = np.searchsorted(buckets.edges, ratios, side="right")
    shapes = buckets.shapes[-1]  # [K, 2]
    colours = colormaps["viridis"](np.linspace(0.08, 0.88, len(buckets)))
    low, high = min(ratios.min(), 0.9), max(ratios.max(), 1 / 0.9)
    bins = np.geomspace(low / 1.02, high * 1.02, _BINS + 1)

    figure = figure_class(figsize=_HISTOGRAM_SIZE, dpi=_DPI, facecolor="white")
    legend = figure.add_axes(_LEGEND_BOX)
    axes = figure.add_axes((0.07, 0.12, 0.91, 0.54))
    figure.text(
        0.07,
        0.945,
        f"{len(ratios):,} images in {len(buckets)} buckets; shapes at resolution {buckets.resolutions[-1]}",
        fontsize=11,
        weight="bold",
        color=_INK,
    )
    stacks = [ratios[bucket == k] for k in range(len(buckets))]
    axes.hist(stacks, bins=bins, stacked=True, color=colours, edgecolor="white", linewidth=0.4)
    for edge in buckets.edges:
        axes.axvline(edge, color=_INK, linestyle=(0, (4, 3)), linewidth=0.9)
    axes.plot(
        shapes[:, 1] / shapes[:, 0], np.zeros(len(shapes)), "^", color=_INK, markersize=7, clip_on=False, zorder=5
    )
    axes.set_xscale("log")
    axes.set_xlim(bins[0], bins[-1])
    marks = [mark for mark in _MARKS if bins[0] <= mark <= bins[-1]]
    axes.set_xticks([float(m) for m in marks], [f"{m.numerator}:{m.denominator}" for m in marks])
    axes.minorticks_off()
    axes.set_xlabel("aspect ratio W:H (log scale); dashed: edges of the buckets, triangles: their shapes", color=_INK)
    axes.set_ylabel("images", color=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

    legend.set_axis_off()
    legend.set_aspect("equal")
    label_space, tallest = 0.95 * float(np.sqrt(shapes.prod(axis=1).mean())), float(shapes[:, 0].max())
    cell = max(1.3 * float(shapes[:, 1].max()), (tallest + label_space) * _LEGEND_ASPECT / len(buckets))
    for k, (height, width) in enumerate(shapes.tolist()):
        x = (k + 0.5) * cell
        legend.add_patch(patches.Rectangle((x - width / 2, -height / 2), width, height, color=colours[k]))
        share = len(stacks[k]) / len(ratios)
        label = f"{_size(height, width)}\n{share:.0%}"
        legend.text(x, -0.5 * tallest - 0.12 * label_space, label, ha="center", va="top", fontsize=8, color=_INK)
    legend.set_xlim(0, len(buckets) * cell)
    legend.set_ylim(-0.5 * tallest - label_space, 0.5 * tallest)
    return _save(figure, path)


def require_matplotlib() -> None:
    """Check that pictures can be made, before work is done for them.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    _matplotlib()


def _heading(batch: Batch) -> str:
    from resflow.geometry.fit import coverage

    height, width = batch.images.shape[2:]
    padded, cropped = coverage(batch.geometry)
    return (
        f"{_size(height, width)}   {len(batch)} images, resolution {batch.resolution}, "
        f"{padded.mean():.1%} of pixels padded (hatched), {cropped.mean():.1%} of images cropped away"
    )


def _size(height: int, width: int) -> str:
    return f"{height}\u00d7{width}"


def _columns(images: int, tile_width: float) -> int:
    """How many tiles go into a row; at least one."""
    return max(1, min(images, int((_SHEET_WIDTH - 2 * _EDGE + _GAP) / (tile_width + _GAP))))


def _padding(valid: npt.NDArray[np.float64], width: float, height: float) -> list[tuple[float, float, float, float]]:
    """The strips (x, y, width, height) of a tile that lie outside `valid` (left, top, right, bottom)."""
    left, top, right, bottom = valid.tolist()
    strips = [
        (0.0, 0.0, width, top),
        (0.0, bottom, width, height - bottom),
        (0.0, top, left, bottom - top),
        (right, top, width - right, bottom - top),
    ]
    return [strip for strip in strips if strip[2] > 1e-6 and strip[3] > 1e-6]


def _pictures(batch: Batch, denormalize: Normalize | None) -> npt.NDArray[np.uint8]:
    """uint8 [B, H, W, 3]."""
    images = batch.images.permute(0, 2, 3, 1).cpu()
    if images.dtype.is_floating_point:
        if denormalize is None:
            raise ConfigError(
                f"contact_sheet was given {images.dtype} images, which have been normalised. "
                "Pass denormalize= the pipeline's `normalize`."
            )
        std, mean = np.asarray(denormalize.std), np.asarray(denormalize.mean)
        intensity = 255 * (images.float().numpy() * std + mean)
        return np.asarray(np.clip(np.round(intensity), 0, 255), dtype=np.uint8)
    return np.asarray(images.numpy())


def _matplotlib() -> tuple[Any, Any, Any]:
    """matplotlib's Figure, patches and colormaps; without pyplot, so no global state and no display."""
    try:
        from matplotlib import colormaps, patches
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"pictures need matplotlib ({error}). Run: pip install 'resflow[plots]'") from error
    return Figure, patches, colormaps


def _save(figure: Any, path: str | Path) -> Path:
    target = Path(path)
    try:
        figure.savefig(target)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the picture {target} cannot be written: {error}. Choose another path.") from error
    return target
