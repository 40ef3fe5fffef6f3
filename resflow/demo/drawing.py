"""A drawn dataset: images of many aspect ratios, with a shape and a texture to tell apart in each.

Ratio, size, background, colours and the places, scales and angles of the figures are drawn independently of the class,
so only the figures give it away. Each image shows its figure several times, also near the borders.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from resflow.errors import ConfigError

Floats = npt.NDArray[np.float32]

LARGEST_RATIO = 3.0  # aspect ratios lie between its inverse and itself
_LEAST_AREA, _LARGEST_AREA = 20_000, 100_000  # pixels
_LEAST_RADIUS, _LARGEST_RADIUS = 0.24, 0.4  # of a figure, as shares of the image's short side
_PLACES = 24  # places tried for figures


def _disc(u: Floats, v: Floats) -> Floats:
    return np.hypot(u, v) - np.float32(0.82)


def _triangle(u: Floats, v: Floats) -> Floats:
    half = np.float32(math.sqrt(0.75))
    return np.maximum(np.maximum(v, half * u - v / 2), -half * u - v / 2) - np.float32(0.5)


def _stripes(u: Floats, v: Floats) -> Floats:
    return np.sin(u)


def _checks(u: Floats, v: Floats) -> Floats:
    return np.sin(u) * np.sin(v)


def _plain(u: Floats, v: Floats) -> Floats:
    return np.full_like(u, np.inf)


_Field = Callable[[Floats, Floats], Floats]
_SHAPES: dict[str, _Field] = {"disc": _disc, "triangle": _triangle}
_TEXTURES: dict[str, _Field] = {"plain": _plain, "striped": _stripes, "checked": _checks}

CLASSES: tuple[str, ...] = tuple(f"{texture} {shape}" for shape in _SHAPES for texture in _TEXTURES)
"""Names of the classes; a label is a place in it."""


def drawn_samples(count: int, *, seed: int = 0, prefix: str = "drawn") -> Iterator[dict[str, object]]:
    """Samples for `write_shards`: drawn JPEGs of 0.02 to 0.1 megapixels, aspect ratios from 1:3 to 3:1.

    Args:
        count: how many, at least 1. Classes take turns, so they are equally frequent up to one image.
        seed: at least 0. An image depends on `seed`, `prefix` and its number alone, not on `count`.
        prefix: start of each key; another prefix gives other images.

    Yields:
        Samples with "__key__", "jpg" (bytes) and "cls" (int).

    Raises:
        ConfigError: `count` is below 1 or `seed` below 0.
    """
    if count < 1 or seed < 0:
        raise ConfigError(f"drawn_samples needs count >= 1 and seed >= 0; got count {count}, seed {seed}")
    for number in range(count):
        label = number % len(CLASSES)
        rng = np.random.default_rng([seed, number, *prefix.encode()])
        buffer = io.BytesIO()
        Image.fromarray(draw_image(label, rng)).save(buffer, "JPEG", quality=88)
        yield {"__key__": f"{prefix}-{number:06d}", "jpg": buffer.getvalue(), "cls": label}


def draw_image(label: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw one image of a class.

    Args:
        label: in [0, len(CLASSES)).
        rng: decides all else.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = _size(rng)
    image = _background(height, width, rng)
    shape = list(_SHAPES.values())[label // len(_TEXTURES)]
    texture = list(_TEXTURES.values())[label % len(_TEXTURES)]
    for x, y, radius in _places(height, width, rng):
        _draw_figure(image, x, y, radius, shape, texture, rng)
    return image


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width: log ratio bell-shaped between its bounds, log area uniform."""
    log_ratio = math.log(LARGEST_RATIO) * (2 * rng.beta(2.2, 2.2) - 1)
    side = math.exp(rng.uniform(math.log(_LEAST_AREA), math.log(_LARGEST_AREA)) / 2)
    return round(side * math.exp(-log_ratio / 2)), round(side * math.exp(log_ratio / 2))


def _background(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]: a smooth mixture of a few muted colours, with grain."""
    rows, columns = rng.integers(2, 5, 2)
    grey, tint = rng.integers(70, 170, (rows, columns, 1)), rng.integers(-30, 31, (rows, columns, 3))
    # The bicubic overshoots its 40 to 200 by a sixth of their distance at most, so adding grain cannot wrap around.
    smooth = Image.fromarray((grey + tint).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth) + rng.integers(0, 25, (height, width, 1), dtype=np.uint8)


def _places(height: int, width: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centre x, y and radius of each figure; no two overlap, and none loses more than a corner at a border."""
    short = min(height, width)
    placed: list[tuple[float, float, float]] = []
    most = int(rng.integers(2, 7))
    for _ in range(_PLACES):
        radius = short * rng.uniform(_LEAST_RADIUS, _LARGEST_RADIUS)
        margin = 0.8 * radius
        x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
        if all(math.hypot(x - x2, y - y2) > radius + r2 for x2, y2, r2 in placed):
            placed.append((x, y, radius))
        if len(placed) == most:
            break
    return placed


def _draw_figure(
    image: npt.NDArray[np.uint8],
    x: float,
    y: float,
    radius: float,
    shape: _Field,
    texture: _Field,
    rng: np.random.Generator,
) -> None:
    """Draw one antialiased, textured figure in place, at a random angle and in two random colours, one light."""
    height, width, _ = image.shape
    top, bottom = max(0, math.floor(y - radius)), min(height, math.ceil(y + radius))
    left, right = max(0, math.floor(x - radius)), min(width, math.ceil(x + radius))
    angle, turn = rng.uniform(0, 2 * math.pi, 2)
    across = ((np.arange(left, right) + 0.5 - x) / radius).astype(np.float32)[None, :]
    down = ((np.arange(top, bottom) + 0.5 - y) / radius).astype(np.float32)[:, None]
    u, v = _rotated(across, down, angle)
    alpha = np.clip(0.5 - shape(u, v) * np.float32(radius), 0, 1)[..., None]

    frequency = 2 * math.pi * rng.uniform(1.3, 1.8)  # radians a radius
    phase = rng.uniform(0, 2 * math.pi, 2)
    p, q = _rotated(across, down, turn)
    wave = texture(np.float32(frequency) * p + np.float32(phase[0]), np.float32(frequency) * q + np.float32(phase[1]))
    share = np.clip(0.5 + wave * np.float32(radius / frequency), 0, 1)[..., None]
    dark, light = rng.uniform(0, 90, 3).astype(np.float32), rng.uniform(165, 255, 3).astype(np.float32)
    window = image[top:bottom, left:right].astype(np.float32)
    window += alpha * (dark + share * (light - dark) - window)
    image[top:bottom, left:right] = window


def _rotated(x: Floats, y: Floats, angle: float) -> tuple[Floats, Floats]:
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x
