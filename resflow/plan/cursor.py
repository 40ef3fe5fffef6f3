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
    "config": "Make the pipeline with the saved settings",
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
        config: hash of all else that the plan or the pixels depend on.
        version: of this format.

    Raises:
        StateError: a field of a wrong type or out of range, or of another version.
    """

    epoch: int
    step: int
    seed: int
    global_batch_size: int | None
    fingerprint: str
    config: str
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
        for name in ("fingerprint", "config"):
            if not isinstance(getattr(self, name), str):
                raise StateError(
                    f"saved state: {name} must be a string; got {getattr(self, name)!r}. "
                    "The state is damaged; use an earlier one."
                )
        if self.version != VERSION:
            raise StateError(
                f"saved state: version must be {VERSION}; got {self.version}. Load it with the Resflow that saved it."
            )

    def to_json(self) -> dict[str, int | str | None]:
        """The fields as plain JSON values."""
        return asdict(self)

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

    def check(self, *, seed: int, global_batch_size: int | None, fingerprint: str, config: str) -> None:
        """Refuse to resume under a plan other than the saved one.

        Args:
            seed: the current run's seed.
            global_batch_size: the current global batch size; None with a pixel budget.
            fingerprint: of the current data.
            config: hash of the current settings.

        Raises:
            StateError: names the first field that differs, in the order data, seed, batch size, settings.
        """
        current = {
            "fingerprint": fingerprint,
            "seed": seed,
            "global_batch_size": global_batch_size,
            "config": config,
        }
        for name, value in current.items():
            if getattr(self, name) != value:
                raise StateError(
                    f"saved state: {name} differs: saved {getattr(self, name)!r}, current {value!r}. "
                    f"{_REMEDY[name]}, or start without the state."
                )
