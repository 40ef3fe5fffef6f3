"""Batches as one HTML page: each image, a zoom on it, the source it was cut from, and the transform between them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from resflow.errors import ConfigError
from resflow.geometry.affine import transform_points
from resflow.geometry.fit import coverage
from resflow.images import whole_header
from resflow.images.pillow import open_image
from resflow.sources.base import Sample
from resflow.viz.captions import transform_text
from resflow.viz.content import Shown, pixels, shown
from resflow.viz.overlay import with_label_map, with_masks
from resflow.viz.plotting import class_colour, class_name

if TYPE_CHECKING:
    from resflow.batch import Batch
    from resflow.normalize import Normalize
    from resflow.sources import Source

_SIDE = 640  # pixels of the longer side of a source image on the page
_HEADING = re.compile(r"(?<!step)(?<!resolution)(?<! ) {2,}")  # between the parts of a line
_DOT = " \u00b7 "
_INCH = 1 / 96  # a pixel on a screen, as overlays measure their lines
Names = Sequence[str] | Mapping[int, str] | None

_STYLE = """
:root{color-scheme:light dark;--line:#8885;--soft:#8882}
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1300px;padding:0 1rem}
h2{font-size:1.05rem;margin:2rem 0 .2rem}p{margin:.2rem 0 .8rem}
.batch{display:flex;flex-wrap:wrap;gap:.9rem}
.tile{border:1px solid var(--line);border-radius:6px;padding:.4rem;background:var(--soft);cursor:zoom-in;font:inherit;
 color:inherit;text-align:left}.tile small{display:block;max-width:17rem;overflow:hidden;text-overflow:ellipsis;
 white-space:nowrap}
.over{position:relative;display:inline-block;line-height:0}
.over img{height:auto}.over svg{position:absolute;inset:0;width:100%;height:100%}
.tile img{max-width:17rem}
dialog{border:1px solid var(--line);border-radius:10px;padding:1rem 1.2rem;max-width:96vw;max-height:94vh}
dialog::backdrop{background:#000a}.pair{display:flex;gap:1.2rem;align-items:flex-start}
.view{overflow:auto;max-width:54vw;max-height:80vh;border:1px solid var(--line)}.view img{image-rendering:pixelated}
.source{flex:none;overflow:hidden;padding:0 48px}.source .over{margin:48px 0}
.source img{max-width:28vw}table{position:relative}
@media(max-width:800px){.pair{flex-wrap:wrap}.view,.source img{max-width:84vw}}
table{border-collapse:collapse;margin-top:.6rem}td{padding:.1rem .8rem .1rem 0;vertical-align:top}
td:first-child{opacity:.7}code{white-space:pre}.bar{display:flex;gap:.5rem;margin-bottom:.6rem;align-items:center}
.bar b{flex:1;overflow-wrap:anywhere}
"""

_SCRIPT = """
const tiles=[...document.querySelectorAll('.tile')];
function show(i){const t=tiles[(i+tiles.length)%tiles.length],d=document.getElementById(t.dataset.zoom);
 document.querySelectorAll('dialog[open]').forEach(o=>o.close());
 d.querySelector('.view .over').innerHTML=t.querySelector('.over').innerHTML;
 scale(d,d.dataset.scale||fitting(d));d.showModal()}
function fitting(d){const m=d.querySelector('.view img');
 return [4,2].find(by=>m.naturalWidth*by<.42*innerWidth*devicePixelRatio)||1}
function scale(d,by){d.dataset.scale=by;const m=d.querySelector('.view img');
 m.style.width=m.naturalWidth*by/devicePixelRatio+'px'}
tiles.forEach((t,i)=>t.onclick=()=>show(i));
document.addEventListener('click',e=>{const d=e.target.closest('dialog');if(!d)return;
 const i=tiles.findIndex(t=>t.dataset.zoom===d.id),a=e.target.dataset;
 if(a.scale)scale(d,a.scale);else if(a.go)show(i+Number(a.go));else if(a.close||e.target===d)d.close()});
document.addEventListener('keydown',e=>{const d=document.querySelector('dialog[open]');if(!d)return;
 const by={ArrowRight:1,ArrowLeft:-1}[e.key];if(by)show(tiles.findIndex(t=>t.dataset.zoom===d.id)+by)});
"""


def write_page(
    batches: Sequence[Batch],
    lines: Sequence[str],
    source: Source,
    path: Path,
    *,
    denormalize: Normalize | None,
    classes: Names,
    ignore_index: int,
) -> Path:
    """Write the page; it needs nothing but itself.

    Args:
        batches: as the loader gave them.
        lines: what is said of each.
        source: where their images come from.
        path: the file to write.
        denormalize: the normalisation to undo.
        classes: names by number.
        ignore_index: class of pixels that do not count.

    Returns:
        The path.

    Raises:
        ConfigError: the file cannot be written.
    """
    sections, zooms = [], []
    for number, (batch, line) in enumerate(zip(batches, lines, strict=True)):
        tiles = []
        samples, bad = _samples(source, batch), {record.sample_id: record.reason for record in batch.skipped}
        images, targets = pixels(batch, denormalize, len(batch)), shown(batch, classes)
        for place, (sample, image, target) in enumerate(zip(samples, images, targets, strict=True)):
            name = f"z{number}-{place}"
            over = _over(_painted(image, target, ignore_index), _boxes(target, image.shape, classes), "PNG")
            label = bad.get(int(batch.sample_ids[place])) or _label(target, classes)
            tiles.append(
                f'<button class="tile" data-zoom="{name}" title="{escape(sample.key)}"><span class="over">{over}</span>'
                f"<small>{escape(sample.key)}</small><small>{escape(label)}&nbsp;</small></button>"
            )
            zooms.append(_zoom(name, batch, place, sample, label))
        sections.append(f'<h2>{escape(_HEADING.sub(_DOT, line))}</h2><div class="batch">{"".join(tiles)}</div>')
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>resflow preview</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>What the model sees</h1>"
        "<p>Click an image for its pixels, its source with the part that is shown, and its transform; arrow keys go "
        f"on.</p>{''.join(sections)}{''.join(zooms)}<script>{_SCRIPT}</script></body></html>\n"
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the page {path} cannot be written: {error.strerror or error}. Choose another path."
        ) from error
    return path


def _zoom(name: str, batch: Batch, place: int, sample: Sample, label: str) -> str:
    """The dialog of one sample."""
    geometry = batch.geometry
    matrix, (height, width) = geometry.matrix[place], geometry.source_size[place].tolist()
    rows = [("sample", f"{sample.shard} / {sample.key}"), ("source", f"{height} x {width} pixels (H x W)")]
    rows.append(("batch", f"{geometry.output_size[0]} x {geometry.output_size[1]} pixels"))
    outline = ""
    if batch.mixed:
        rows.append(("transform", "mixed with other images of its batch: there is no one transform"))
    else:
        padded, cropped = coverage(geometry)
        rows.append(("shown", f"{padded[place]:.1%} of the pixels are padding, {cropped[place]:.1%} is cropped off"))
        rows.append(("transform", "  ".join(transform_text(matrix, (height, width)))))
        numbers = "\n".join("  ".join(f"{value:9.3f}" for value in row) for row in matrix)
        rows.append(("matrix", f"{numbers}\nsource pixels to output pixels"))
        out_height, out_width = geometry.output_size
        corners = np.array([[0, 0], [out_width, 0], [out_width, out_height], [0, out_height]], np.float64)
        outline = _polygon(transform_points(np.linalg.inv(matrix), corners), width, height)
    if label:
        rows.append(("target", label))
    table = "".join(f"<tr><td>{key}</td><td><code>{escape(value)}</code></td></tr>" for key, value in rows)
    scales = "".join(f'<button data-scale="{by}">{by}&times;</button>' for by in (1, 2, 4, 8))
    return (
        f'<dialog id="{name}"><div class="bar"><b>{escape(sample.key)}</b><button data-go="-1">&larr;</button>'
        f'<button data-go="1">&rarr;</button>{scales}<button data-close="1">close</button></div>'
        f'<div class="pair"><div class="view"><span class="over"></span></div>'
        f'<div class="source"><span class="over">{_over(_source(sample), outline, "JPEG")}</span><table>{table}'
        "</table></div></div></dialog>"
    )


def _over(image: npt.NDArray[np.uint8], drawn: str, form: str) -> str:
    """An image with what is drawn over it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **({"quality": 85} if form == "JPEG" else {}))
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = image.shape[:2]
    return f'<img width="{width}" height="{height}" alt="" src="data:image/{form.lower()};base64,{data}">{drawn}'


def _painted(image: npt.NDArray[np.uint8], target: Shown, ignore_index: int) -> npt.NDArray[np.uint8]:
    if target.label_map is not None:
        image = with_label_map(image, target.label_map, ignore_index, _INCH)
    return image if target.objects is None else with_masks(image, target.objects, _INCH)


def _boxes(target: Shown, shape: tuple[int, ...], classes: Names) -> str:
    """Boxes and keypoints, which follow the image's size on the page."""
    found = target.objects
    if found is None:
        return ""
    drawn = []
    for place, (left, top, right, bottom) in enumerate(found.boxes.tolist()):
        number = 0 if found.labels is None else int(found.labels[place])
        colour = "#" + "".join(f"{round(255 * part):02x}" for part in class_colour(max(number, 0)))
        drawn.append(
            f'<rect x="{left:.2f}" y="{top:.2f}" width="{right - left:.2f}" height="{bottom - top:.2f}" fill="none" '
            f'stroke="{colour}" stroke-width="2" vector-effect="non-scaling-stroke">'
            f"<title>{escape(class_name(number, classes))}</title></rect>"
        )
        for x, y, seen in [] if found.keypoints is None else found.keypoints[place].tolist():
            if seen:
                drawn.append(
                    f'<circle cx="{x:.2f}" cy="{y:.2f}" r="1.5" fill="{colour}" stroke="#fff" stroke-width=".5"/>'
                )
    return f'<svg preserveAspectRatio="none" viewBox="0 0 {shape[1]} {shape[0]}">{"".join(drawn)}</svg>'


def _polygon(corners: npt.NDArray[np.float64], width: int, height: int) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners.tolist())
    return (
        f'<svg preserveAspectRatio="none" viewBox="0 0 {width} {height}" style="overflow:visible"><polygon '
        f'points="{points}" fill="#ffb00020" stroke="#ffb000" stroke-width="2" vector-effect="non-scaling-stroke"/>'
        "</svg>"
    )


def _label(target: Shown, classes: Names) -> str:
    if target.objects is not None:
        labels = [] if target.objects.labels is None else target.objects.labels.tolist()
        names = sorted({class_name(int(number), classes) for number in labels})
        return f"{len(target.objects)} object{'s' * (len(target.objects) != 1)}" + (
            f": {', '.join(names)}" if names else ""
        )
    return target.caption


def _samples(source: Source, batch: Batch) -> list[Sample]:
    """The batch's samples; of one that was skipped, a black pixel, for it may be anything."""
    ids = batch.sample_ids.cpu().numpy()
    present = np.ones(len(ids), np.bool_) if batch.present is None else batch.present.cpu().numpy()
    sound = iter(source.read(ids[present]))
    shards = {record.sample_id: record.shard for record in batch.skipped}
    return [
        next(sound) if there else Sample(key, shards[number], np.zeros((1, 1, 3), np.uint8), {})
        for there, number, key in zip(present, ids.tolist(), batch.keys, strict=True)
    ]


def _source(sample: Sample) -> npt.NDArray[np.uint8]:
    """The source, upright, at most as large as the page has use for."""
    if isinstance(sample.image, np.ndarray):
        image = Image.fromarray(sample.image)
    else:
        with open_image(sample.image, whole_header(sample.image).format) as opened:
            opened.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            image = ImageOps.exif_transpose(opened).convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)
