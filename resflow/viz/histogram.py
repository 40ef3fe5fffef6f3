"""A histogram of aspect ratios, with the buckets that take them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.viz.plotting import DPI, INK, load_matplotlib, save, size_text

if TYPE_CHECKING:
    from resflow.plan import Buckets

_BINS = 48
_HISTOGRAM_SIZE = (9.0, 5.0)  # inches
_LEGEND_BOX = (0.07, 0.70, 0.91, 0.21)  # left, bottom, width, height, as shares of the figure
_LEGEND_ASPECT = _HISTOGRAM_SIZE[0] * _LEGEND_BOX[2] / (_HISTOGRAM_SIZE[1] * _LEGEND_BOX[3])
_MARKS = tuple(map(Fraction, ("1/8", "1/5", "1/4", "1/3", "1/2", "2/3", "1", "3/2", "2", "3", "4", "5", "8")))


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
    figure_class, patches, colormaps = load_matplotlib()
    bucket = np.searchsorted(buckets.edges, ratios, side="right")
    shapes = buckets.shapes[-1]  # [K, 2]
    colours = colormaps["viridis"](np.linspace(0.08, 0.88, len(buckets)))
    low, high = min(ratios.min(), 0.9), max(ratios.max(), 1 / 0.9)
    bins = np.geomspace(low / 1.02, high * 1.02, _BINS + 1)

    figure = figure_class(figsize=_HISTOGRAM_SIZE, dpi=DPI, facecolor="white")
    legend = figure.add_axes(_LEGEND_BOX)
    axes = figure.add_axes((0.07, 0.12, 0.91, 0.54))
    figure.text(
        0.07,
        0.945,
        f"{len(ratios):,} images in {len(buckets)} buckets; shapes at resolution {buckets.resolutions[-1]}",
        fontsize=11,
        weight="bold",
        color=INK,
    )
    stacks = [ratios[bucket == k] for k in range(len(buckets))]
    axes.hist(stacks, bins=bins, stacked=True, color=colours, edgecolor="white", linewidth=0.4)
    for edge in buckets.edges:
        axes.axvline(edge, color=INK, linestyle=(0, (4, 3)), linewidth=0.9)
    axes.plot(shapes[:, 1] / shapes[:, 0], np.zeros(len(shapes)), "^", color=INK, markersize=7, clip_on=False, zorder=5)
    axes.set_xscale("log")
    axes.set_xlim(bins[0], bins[-1])
    marks = [mark for mark in _MARKS if bins[0] <= mark <= bins[-1]]
    axes.set_xticks([float(m) for m in marks], [f"{m.numerator}:{m.denominator}" for m in marks])
    axes.minorticks_off()
    axes.set_xlabel("aspect ratio W:H (log scale); dashed: edges of the buckets, triangles: their shapes", color=INK)
    axes.set_ylabel("images", color=INK)
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
        label = f"{size_text(height, width)}\n{share:.0%}"
        legend.text(x, -0.5 * tallest - 0.12 * label_space, label, ha="center", va="top", fontsize=8, color=INK)
    legend.set_xlim(0, len(buckets) * cell)
    legend.set_ylim(-0.5 * tallest - label_space, 0.5 * tallest)
    return save(figure, path)
