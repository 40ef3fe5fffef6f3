import dataclasses
import json

import pytest

from resflow.errors import StateError
from resflow.plan import Cursor

CURSOR = Cursor(
    epoch=3, step=17, seed=(1 << 64) - 1, global_batch_size=256, fingerprint="f00", config={"fit": "0.1", "k": "8"}
)


@pytest.mark.parametrize("cursor", [CURSOR, dataclasses.replace(CURSOR, global_batch_size=None)])
def test_json_round_trip(cursor: Cursor) -> None:
    assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Cursor)])
def test_a_missing_field_is_refused(field: str) -> None:
    state = CURSOR.to_json()
    del state[field]
    with pytest.raises(
        StateError, match=rf"saved state: missing {field}; expected the fields epoch, step, seed, global"
    ):
        Cursor.from_json(state)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(
        StateError, match=r"saved state: missing seed and unknown 'sed', 'x'; expected the fields .* Pass what"
    ):
        Cursor.from_json({("sed" if k == "seed" else k): v for k, v in CURSOR.to_json().items()} | {"x": 1})
    with pytest.raises(StateError, match="saved state must be a mapping; got list"):
        Cursor.from_json([1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epoch", -1, "epoch must be a whole number of at least 0; got -1"),
        ("step", 1.0, "step must be a whole number of at least 0; got 1.0"),
        ("step", "3", "step must be a whole number of at least 0; got '3'"),
        ("seed", True, "seed must be a whole number of at least 0; got True"),
        ("seed", 1 << 64, "seed must be a whole number"),
        ("seed", None, "seed must be a whole number of at least 0; got None"),
        ("global_batch_size", 0, "global_batch_size must be a whole number of at least 1; got 0"),
        ("fingerprint", 3, "fingerprint must be a string; got 3"),
        ("config", None, "config must be a mapping of strings; got None"),
        ("config", {"k": 8}, "config must be a mapping of strings; got {'k': 8}"),
        ("version", 2, "version must be 1; got 2. Load it with the Resflow that saved it."),
    ],
)
def test_a_wrong_value_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(StateError, match=f"saved state: {message}"):
        Cursor.from_json(CURSOR.to_json() | {field: value})


def test_check_passes_when_all_but_the_place_agree() -> None:
    CURSOR.check(dataclasses.replace(CURSOR, epoch=0, step=0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fingerprint", "bad", "fingerprint differs: saved 'f00', current 'bad'. Point the loader at the data"),
        ("seed", 1, "seed differs: saved 18446744073709551615, current 1. Make the loader with the saved seed"),
        ("global_batch_size", None, "global_batch_size differs: saved 256, current None. Use the saved global"),
        (
            "config",
            {"fit": "0.2", "k": "8"},
            "config.fit differs: saved '0.1', current '0.2'. Make the loader and its pipeline",
        ),
        ("config", {"fit": "0.1"}, "config.k differs: saved '8', current None. .*, or start without the state."),
        ("config", {**CURSOR.config, "x": "1"}, "config.x differs: saved None, current '1'."),
    ],
)
def test_check_names_what_differs(field: str, value: object, message: str) -> None:
    with pytest.raises(StateError, match=f"saved state: {message}"):
        CURSOR.check(dataclasses.replace(CURSOR, **{field: value}))  # type: ignore[arg-type]


def test_check_names_the_first_that_differs() -> None:
    with pytest.raises(StateError, match="fingerprint differs"):
        CURSOR.check(Cursor(0, 0, 1, 1, "x", {}))
    with pytest.raises(StateError, match="seed differs"):
        CURSOR.check(Cursor(0, 0, 1, 1, "f00", {}))
    with pytest.raises(StateError, match=r"config\.fit differs"):
        CURSOR.check(dataclasses.replace(CURSOR, config={"fit": "", "k": ""}))
