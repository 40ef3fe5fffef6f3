"""Augmentations by their names, as YAML writes them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from resflow.errors import ConfigError
from resflow.extras import needed_for
from resflow.geometry.ramp import has_ramp


def named_operation(name: str, fields: Mapping[str, Any]) -> Any:
    """An augmentation of Kornia's or of ours.

    Args:
        name: of the class, with underscores: "random_horizontal_flip", "color_jiggle", "mosaic".
        fields: its arguments; a `Ramp` may stand in place of any number. The operations of "random_choice" are names,
            or mappings of a name to its arguments.

    Returns:
        The augmentation; of Kornia's with a ramp, a `Ramped`.

    Raises:
        ConfigError: there is no augmentation of that name, or it refuses its arguments.
    """
    with needed_for(f"{name!r} in augment needs"):
        import kornia.augmentation.auto

    from resflow.augment.copy_paste import CopyPaste
    from resflow.augment.mixing import CutMix, MixUp
    from resflow.augment.mosaic import Mosaic
    from resflow.augment.ramped import Ramped
    from resflow.augment.random_choice import RandomChoice

    ours = (Mosaic, MixUp, CutMix, CopyPaste, RandomChoice)
    kinds: dict[str, Any] = {own.__name__: own for own in ours}
    modules = vars(kornia.augmentation) | vars(kornia.augmentation.auto)
    kinds |= {kind: cls for kind, cls in modules.items() if isinstance(cls, type) and kind not in kinds}
    plain = {_plain(kind): kind for kind in kinds}
    if _plain(name) not in plain:
        close = difflib.get_close_matches(_plain(name), plain, n=1)
        way_out = f"did you mean {plain[close[0]]}?" if close else "Name a class of kornia.augmentation."
        raise ConfigError(f"there is no augmentation {name!r}; {way_out}")
    kind = plain[_plain(name)]
    if kind == "RandomChoice" and isinstance(fields.get("operations"), tuple):
        fields = dict(fields) | {"operations": [_nested(part) for part in fields["operations"]]}
    try:
        if has_ramp(tuple(fields.values())) and kinds[kind] not in ours:
            return Ramped(kinds[kind], **fields)
        return kinds[kind](**fields)
    except ConfigError:
        raise
    except Exception as error:  # Kornia raises what it likes
        raise ConfigError(f"{kind} refuses {dict(fields)}: {error}") from error


def _nested(value: Any) -> Any:
    """An operation within another: its name, or a mapping of it to its arguments."""
    if isinstance(value, str):
        return named_operation(value, {})
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(f"an operation must be one name with its fields; got {value!r}")
    [(name, fields)] = value.items()
    return named_operation(name, fields or {})


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
