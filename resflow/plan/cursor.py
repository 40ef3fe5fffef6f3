"""The place in a run where a saved state was taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from resflow.errors import StateError

VERSION = 1

_REMEDY = {
    "seed": "Make the loader with the saved seed",
    "global_batch_size": "Use the saved global batch size (per-rank batch size times world size)",
    "fingerprint": "Point the loader at the data the state was saved with, or index it again",
    "config": "Make the loader and its pipeline with the saved settings",
}


@dataclass(frozen=True, slots=True)
class Cursor:
    """Which batch comes next, and what the plan was made of.

    Args:
        epoch: at least 0.
        step: batches of the epoch already handed out, at least 0.
        seed: the run's seed, in [0, 2**64).
        global_batch_size: samples of a global batch; None with a pixel budget (which `config` covers).
        fingerprint: of the data (`Index.fingerprint`).
        config: all else that the plan or the pixels depend on, as text by name.
        version: of this format.

    Raises:
        StateError: a field of a wrong type or out of range, or of another version.
    """

    epoch: int
    step: int
    seed: int
    global_batch_size: int | None
    fingerprint: str
    config: Mapping[str, str]
    version: int = VERSION

    def __post_init__(self) -> None:
        for name in ("version", "epoch", "step", "seed", "global_batch_size"):
            value, least = getattr(self, name), 1 if name == "global_batch_size" else 0
            if value is None and name == "global_batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 64:
                raise StateError(
                    f"saved state: {name} must be a whole number of at least {least}; got {value!r}. "
                    "The state is damaged; use an earlier one."
                )
        if not isinstance(self.fingerprint, str):
            raise StateError(
                f"saved state: fingerprint must be a string; got {self.fingerprint!r}. "
                "The state is damaged; use an earlier one."
            )
        config = self.config
        if not isinstance(config, Mapping) or not all(
            isinstance(part, str) for pair in config.items() for part in pair
        ):
            raise StateError(
                f"saved state: config must be a mapping of strings; got {config!r}. "
                "The state is damaged; use an earlier one."
            )
        if self.version != VERSION:
            raise StateError(
                f"saved state: version must be {VERSION}; got {self.version}. Load it with the Resflow that saved it."
            )

    def to_json(self) -> dict[str, object]:
        """The fields as plain JSON values."""
        return asdict(self) | {"config": dict(self.config)}

    @classmethod
    def from_json(cls, state: Mapping[str, object]) -> Cursor:
        """Read what `to_json` gave.

        Args:
            state: the fields by name, all and no others.

        Returns:
            The cursor.

        Raises:
            StateError: not a mapping; a field is missing, unknown, of a wrong type or out of range; another
                version.
        """
        if not isinstance(state, Mapping):
            raise StateError(f"saved state must be a mapping; got {type(state).__name__}. Pass what state_dict() gave.")
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in state]
        unknown = [repr(name) for name in state if name not in names]
        if missing or unknown:
            wrong = [
                f"{what} {', '.join(which)}" for what, which in (("missing", missing), ("unknown", unknown)) if which
            ]
            raise StateError(
                f"saved state: {' and '.join(wrong)}; expected the fields {', '.join(names)}. "
                "Pass what state_dict() gave."
            )
        return cls(**state)  # type: ignore[arg-type]  # __post_init__ checks the types

    def check(self, current: Cursor) -> None:
        """Refuse to resume under a plan other than the saved one.

        Args:
            current: a cursor of the loader that is to resume; its epoch and step do not matter.

        Raises:
            StateError: names the first field that differs, in the order data, seed, batch size, settings.
        """
        for name in ("fingerprint", "seed", "global_batch_size"):
            _compare(name, getattr(self, name), getattr(current, name), _REMEDY[name])
        for name in sorted({*self.config, *current.config}):
            _compare(f"config.{name}", self.config.get(name), current.config.get(name), _REMEDY["config"])


def _compare(name: str, saved: object, current: object, remedy: str) -> None:
    if saved != current:
        raise StateError(
            f"saved state: {name} differs: saved {saved!r}, current {current!r}. {remedy}, or start without the state."
        )
