"""What all pictures share: matplotlib without global state, ink, text and files."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from resflow.errors import ConfigError
from resflow.extras import needed_for

INK, FAINT = "#222222", "#666666"
DPI = 120
_CHARACTER = 0.62  # width of a character, as a share of the font's size
_DARKEST = 0.48  # luminance of a class's colour, at least
_FIRST, _GOLDEN = 0.44, 0.618034  # hue of class 0, and of the circle of hues between one class and the next

Colour: TypeAlias = tuple[float, float, float]
"""Red, green and blue in [0, 1]."""

Classes: TypeAlias = Sequence[str] | Mapping[int, str]
"""Names of classes by number."""


def require_matplotlib() -> None:
    """Check that pictures can be made, before work is done for them.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    load_matplotlib()


def load_matplotlib() -> tuple[Any, Any, Any]:
    """matplotlib's Figure, patches and colormaps; without pyplot, so no global state and no display."""
    with needed_for("pictures need"):
        from matplotlib import colormaps, patches
        from matplotlib.figure import Figure
    return Figure, patches, colormaps


def save(figure: Any, path: str | Path) -> Path:
    """Write a figure; the path's suffix chooses the format."""
    target = Path(path)
    try:
        figure.savefig(target)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the picture {target} cannot be written: {error}. Choose another path.") from error
    return target


def class_colour(number: int) -> Colour:
    """A colour for a class: bright, and far in hue from those of the classes beside it."""
    strength = (0.9, 0.6)[number // 5 % 2]
    red, green, blue = colorsys.hsv_to_rgb((_FIRST + number * _GOLDEN) % 1, strength, 1.0)
    luminance = _luminance((red, green, blue))
    white = max(0.0, (_DARKEST - luminance) / (1 - luminance))  # blue is dark at full strength
    return red + white * (1 - red), green + white * (1 - green), blue + white * (1 - blue)


def ink_on(colour: Colour) -> str:
    """Black or white, whichever reads better on a colour."""
    return "black" if _luminance(colour) > 0.4 else "white"


def _luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def class_name(number: int, classes: Classes | None) -> str:
    """The name of a class; its number where it has none."""
    if isinstance(classes, Mapping):
        return classes.get(number, str(number))
    return classes[number] if classes is not None and 0 <= number < len(classes) else str(number)


def size_text(height: int, width: int) -> str:
    """Height and width as they are written in pictures."""
    return f"{height}\u00d7{width}"


def text_width(text: str, points: float) -> float:
    """About how wide a text is, in inches."""
    return len(text) * points * _CHARACTER / 72


def shorten(text: str, width: float, points: float) -> str:
    """The text, cut to a width in inches."""
    room = max(1, int(width / text_width("x", points)))
    return text if len(text) <= room else text[: room - 1] + "\u2026"


def wrap(parts: Sequence[str], width: float, points: float) -> list[str]:
    """Parts of a text in lines of at most a width in inches; a part that is longer is cut."""
    lines: list[str] = []
    for part in parts:
        joined = f"{lines[-1]}  {part}" if lines else part
        if lines and text_width(joined, points) <= width:
            lines[-1] = joined
        else:
            lines.append(shorten(part, width, points))
    return lines
