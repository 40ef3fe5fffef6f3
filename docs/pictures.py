"""Draw the pictures of the concept pages from drawn data, with the library's own code.

python docs/pictures.py          # writes docs/images/{buckets,fit,schedules,tiers,coordinates,flow}.png
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import resflow as rf
from resflow.decode import open_engine
from resflow.demo.drawing import draw_image, drawn_samples
from resflow.geometry import Geometry
from resflow.geometry.affine import transform_points
from resflow.geometry.fit import coverage
from resflow.geometry.views import apply_views
from resflow.images import read_header
from resflow.plan.learn import learn_buckets
from resflow.plan.tiers import ORIGINAL, choose_tiers, tier_size
from resflow.viz import ratio_histogram
from resflow.viz.plotting import INK, load_matplotlib, save, size_text
from resflow.viz.tile import padding

_COLOURS = 128  # of a picture, so that files stay small
_HATCH = {"facecolor": "#f2f2f2", "edgecolor": "#c23b22", "hatch": "//////", "linewidth": 0}


def photograph(height: int, width: int) -> Image.Image:
    """A drawn image of about a size's ratio, resized to it."""
    rng = np.random.default_rng(7)
    while True:
        image = draw_image(int(rng.integers(6)), rng)
        if abs(image.shape[1] / image.shape[0] * height / width - 1) < 0.05:
            return Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)


def encoded(image: Image.Image) -> bytes:
    """The image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def placed(image: Image.Image, geometry: Geometry) -> np.ndarray[Any, Any]:
    """uint8 [H, W, 3]: what the reference engine makes of the image."""
    engine = open_engine("pillow", fill=(242, 242, 242))
    pixels: torch.Tensor = engine.decode([encoded(image)], geometry)
    engine.close()
    return pixels[0].permute(1, 2, 0).numpy()


def buckets(path: Path) -> None:
    """Eight shapes learned from 1,200 drawn images."""
    headers = [read_header(sample["jpg"]) for sample in drawn_samples(1200)]
    sizes = np.array([[header.height, header.width] for header in headers], np.int32)
    learned = learn_buckets(sizes, 8, resolutions=[224], stride=32)
    ratio_histogram(sizes[:, 1] / sizes[:, 0], learned, path)


def fit(path: Path) -> None:
    """One image of 2:1 in a shape of 192×256, placed in five ways."""
    figure_class, patches, _ = load_matplotlib()
    image, shape = photograph(160, 320), (192, 256)
    ways = {
        "Fit()": rf.Fit(),
        "Fit(max_crop=0.1)": rf.Fit(max_crop=0.1),
        "Fit(max_crop=0.2)": rf.Fit(max_crop=0.2),
        "Fit(max_crop=1)": rf.Fit(max_crop=1.0),
        "Fit.stretch()": rf.Fit.stretch(),
    }
    figure = figure_class(figsize=(8.0, 4.9), dpi=68, facecolor="white")
    panels = figure.subplots(2, 3).ravel()
    panels[0].imshow(image)
    panels[0].set_title(f"source, {size_text(160, 320)} (height, width)", fontsize=9.5, color=INK)
    for axes, (name, way) in zip(panels[1:], ways.items(), strict=True):
        size = np.array([[image.height, image.width]], np.int32)
        geometry = Geometry(way.place(size, shape), size, shape)
        axes.imshow(placed(image, geometry))
        for x, y, width, height in padding(geometry.valid[0].astype(np.float64), shape[1], shape[0]):
            axes.add_patch(patches.Rectangle((x - 0.5, y - 0.5), width, height, **_HATCH))
        padded, cropped = (float(share[0]) for share in coverage(geometry))
        axes.set_title(f"{name}\n{padded:.0%} padded, {cropped:.0%} cropped", fontsize=9.5, color=INK)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
    figure.tight_layout(pad=0.6, h_pad=1.5)
    save(figure, path)


def schedules(path: Path) -> None:
    """Resolution over 16 epochs of 100 batches, as five schedules give it."""
    figure_class, _, _ = load_matplotlib()
    kinds = {
        "Linear(128, 224, epochs=12)": rf.schedules.Linear(128, 224, epochs=12),
        "Cosine(128, 224, epochs=12, within_epoch=True)": rf.schedules.Cosine(128, 224, epochs=12, within_epoch=True),
        "Steps({0: 128, 6: 160, 10: 224})": rf.schedules.Steps({0: 128, 6: 160, 10: 224}),
        "Cyclic(128, 224, period=6)": rf.schedules.Cyclic(128, 224, period=6),
        "RandomMultiScale((128, 160, 192, 224), every=4000)": rf.schedules.RandomMultiScale((128, 160, 192, 224), 4000),
    }
    epoch, batch = 6400, 64
    samples = np.arange(0, 16 * epoch, batch, dtype=np.int64)
    figure = figure_class(figsize=(9.0, 5.6), dpi=90, facecolor="white")
    panels = figure.subplots(len(kinds), 1, sharex=True)
    for axes, (name, kind) in zip(panels, kinds.items(), strict=True):
        axes.step(samples / epoch, kind(samples, epoch, 0), where="post", color="#31688e", linewidth=1.4)
        axes.set_title(name, fontsize=9, loc="left", color=INK, pad=3, family="monospace")
        axes.set_yticks([128, 160, 192, 224])
        axes.tick_params(labelsize=7.5)
        axes.set_ylim(116, 236)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[-1].set_xlim(0, 16)
    panels[-1].set_xticks(range(0, 17, 2))
    panels[-1].set_xlabel("epoch", fontsize=9, color=INK)
    figure.tight_layout(pad=0.6)
    save(figure, path)


def tiers(path: Path) -> None:
    """The sizes of one image and its tiers, and how often each is read while the resolution grows."""
    figure_class, _, colormaps = load_matplotlib()
    sides, size = (96, 160, 256), np.array([[375, 500]], np.int32)
    image = photograph(375, 500)
    figure = figure_class(figsize=(10.0, 3.3), dpi=90, facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=[1.45, 1])
    at = 0
    for side in (*sides, None):
        height, width = (375, 500) if side is None else tier_size(size, side)[0].tolist()
        shown = image.resize((width, height), Image.Resampling.LANCZOS)
        left.imshow(shown, extent=(at, at + width, 0, height), interpolation="lanczos")
        name = "original" if side is None else f"tier {side}"
        left.text(
            at + width / 2, height + 12, f"{name}\n{size_text(height, width)}", fontsize=8, color=INK, ha="center"
        )
        at += width + 40
    left.set_xlim(0, at - 40)
    left.set_ylim(0, 460)
    left.set_axis_off()

    count, resolutions = 4000, (64, 96, 128, 160, 192, 224)
    many = np.repeat(size, count, axis=0)
    crop = rf.views.RandomResizedCrop(scale=(0.25, 1.0))
    shares = []
    for resolution in resolutions:
        shape = (resolution, resolution)
        matrix = apply_views(
            [crop], rf.Fit().place(many, shape), many, shape, seed=0, epoch=0, sample_ids=np.arange(count)
        )
        chosen = choose_tiers(matrix, many, sides, np.ones((len(sides), count), np.bool_), 1.0)
        shares.append([(chosen == tier).mean() for tier in (*range(len(sides)), ORIGINAL)])
    bottom = np.zeros(len(resolutions))
    colours = colormaps["viridis"](np.linspace(0.85, 0.15, len(sides) + 1))
    names = (*(f"tier {side}" for side in sides), "original")
    for name, share, colour in zip(names, np.array(shares).T, colours, strict=True):
        right.bar([str(one) for one in resolutions], share, bottom=bottom, color=colour, label=name, width=0.75)
        bottom += share
    right.set_xlabel("resolution", fontsize=9, color=INK)
    right.set_ylabel("share of samples read from", fontsize=9, color=INK)
    right.tick_params(labelsize=8)
    right.set_ylim(0, 1)
    right.legend(fontsize=7.5, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, handlelength=1)
    for side in ("top", "right"):
        right.spines[side].set_visible(False)
    figure.tight_layout(pad=0.6)
    save(figure, path)


def coordinates(path: Path) -> None:
    """A source of 4 by 6 pixels, mirrored and enlarged, with a box and a point in both."""
    figure_class, patches, _ = load_matplotlib()
    size, shape = np.array([[4, 6]], np.int32), (8, 9)
    matrix = rf.Fit().place(size, shape)
    mirrored = apply_views(
        [rf.views.HorizontalFlip(p=1.0)], matrix, size, shape, seed=0, epoch=0, sample_ids=np.zeros(1, np.int64)
    )
    geometry = Geometry(mirrored, size, shape)
    grey = np.random.default_rng(5).integers(110, 235, (4, 6, 1)).repeat(3, axis=2).astype(np.uint8)
    shown = placed(Image.fromarray(grey), geometry)
    box, point = np.array([[1.0, 1.0], [3.0, 3.0]]), np.array([[1.5, 1.5]])  # the point: the centre of pixel (1, 1)

    figure = figure_class(figsize=(9.5, 4.2), dpi=90, facecolor="white")
    panels = figure.subplots(1, 2, width_ratios=[6, 9])
    for axes, image, name in ((panels[0], grey, "source"), (panels[1], shown, "batch")):
        height, width = image.shape[:2]
        axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest")
        axes.set_xticks(range(width + 1))
        axes.set_yticks(range(height + 1))
        axes.grid(color="white", linewidth=0.8)
        axes.set_title(name, fontsize=9.5, color=INK)
        axes.tick_params(labelsize=8)
    plate = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
    left, top, right, bottom = geometry.valid[0].tolist()
    for x, y, width, height in padding(geometry.valid[0].astype(np.float64), shape[1], shape[0]):
        panels[1].add_patch(patches.Rectangle((x, y), width, height, **_HATCH))
    for axes, move in ((panels[0], np.eye(3)), (panels[1], geometry.matrix[0])):
        corners, dot = transform_points(move, box), transform_points(move, point)[0]
        low, high = corners.min(axis=0), corners.max(axis=0)
        axes.add_patch(patches.Rectangle(low, *(high - low), fill=False, edgecolor="#c23b22", linewidth=2.2))
        text = "box " + ", ".join(f"{value:.4g}" for value in (*low, *high))
        axes.text(low[0] + 0.05, high[1] + 0.12, text, fontsize=8, color="#c23b22", va="top", bbox=plate)
        axes.plot(*dot, "o", color="#1f3f77", markersize=6)
        axes.text(
            dot[0] + 0.12,
            dot[1] + 0.1,
            f"({dot[0]:.4g}, {dot[1]:.4g})",
            fontsize=8,
            color="#1f3f77",
            va="top",
            bbox=plate,
        )
    rows = "\n".join("  ".join(f"{value:7.3f}" for value in row) for row in geometry.matrix[0])
    said = f"M =\n{rows}\nvalid = {left}, {top}, {right}, {bottom}"
    figure.tight_layout(pad=0.8, rect=(0, 0, 0.8, 1))
    figure.text(0.805, 0.5, said, fontsize=8, family="monospace", color=INK, va="center")
    save(figure, path)


def flow(path: Path) -> None:
    """The way of a batch: three lanes by where the work is done, the package of each step in its box."""
    figure_class, patches, _ = load_matplotlib()
    lanes = (  # name, colour, boxes: (left, package, what it does)
        (
            "Ahead of time,\nmain process",
            "#dfeaf5",
            [(0, "sources/", "Index\nkey, offset, size"), (1, "plan/", "plan_epoch\norder, buckets, shapes"),
             (2, "plan/", "EpochPlan.rank\nthis rank's part"), (3, "session/", "Session\nnext request, position")],
        ),
        (
            "Per batch,\nworker or thread:\nBatchBuilder",
            "#e3f1de",
            [(0, "geometry/", "Fit, views\none matrix per image"),
             (1, "sources/, storage/", "Source.read\nencoded bytes, targets"),
             (2, "decode/, images/", "Decoder.decode\nwindow to uint8 batch"),
             (3, "targets/", "Targets\nmoved by the matrix")],
        ),
        (
            "Per batch,\nmain process, device:\nBatchFinalizer",
            "#f8ead6",
            [(0, "batch.py", "Batch.to(device)\none copy"), (1, "augment/", "Augment\nwhole batch, with targets"),
             (2, "normalize.py", "Normalize\nuint8 to float"), (3, "batch.py", "Batch\nimages, targets, transform")],
        ),
    )  # fmt: skip
    wide, high, step, rise = 2.0, 0.95, 2.45, 1.75
    figure = figure_class(figsize=(11.0, 5.1), dpi=90, facecolor="white")
    axes = figure.subplots()
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    for row, (name, colour, boxes) in enumerate(lanes):
        y = -row * rise
        band = patches.Rectangle((-1.75, y - 0.3), 4 * step + 1.6, high + 0.6, facecolor=colour, edgecolor="none")
        axes.add_patch(band)
        axes.text(-1.65, y + high / 2, name, fontsize=9, color=INK, va="center")
        for column, package, does in boxes:
            x = column * step
            axes.add_patch(patches.Rectangle((x, y), wide, high, facecolor="white", edgecolor=INK, linewidth=0.9))
            axes.text(x + wide / 2, y + 0.34, does, fontsize=8.5, color=INK, ha="center", va="center")
            axes.text(x + wide / 2, y + 0.78, package, fontsize=7.5, color="#31688e", ha="center", family="monospace")
            if column:
                axes.annotate("", (x, y + high / 2), (x - step + wide, y + high / 2), arrowprops=arrow)
        if row:  # from the end of the lane above to the start of this one, between the two bands
            between = y + high + (rise - high) / 2
            right, left = 3 * step + wide / 2, wide / 2
            axes.plot([right, right, left], [y + rise, between, between], color=INK, linewidth=1.2)
            axes.annotate("", (left, y + high), (left, between), arrowprops=arrow)
    axes.set_xlim(-1.8, 4 * step - 0.1)
    axes.set_ylim(-2 * rise - 0.35, high + 0.35)
    axes.set_axis_off()
    figure.tight_layout(pad=0.3)
    save(figure, path)


def main(arguments: list[str] | None = None) -> None:
    """Draw all, or those named."""
    kinds = {one.__name__: one for one in (buckets, fit, schedules, tiers, coordinates, flow)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *kinds], help="which; all if none is named")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "images")
    given = parser.parse_args(arguments)
    for name in given.names or kinds:
        path = given.folder / f"{name}.png"
        kinds[name](path)
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
