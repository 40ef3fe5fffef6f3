from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import resflow as rf
from resflow.errors import ConfigError
from resflow.geometry import (
    Affine,
    HorizontalFlip,
    Ramp,
    RandomResizedCrop,
    Rotate,
    VerticalFlip,
    View,
    apply_views,
    at,
    has_ramp,
    read_ramps,
    resolution_progress,
)
from resflow.geometry.affine import identity

SHAPE, COUNT = (96, 160), 50
SIZES = np.tile(np.array([[300, 400]], dtype=np.int32), (COUNT, 1))
PROGRESS = (0.0, 0.25, 0.5, 1.0)


def placed(view: View, progress: float | None) -> np.ndarray:
    ids = np.arange(COUNT)
    return apply_views([view], identity(COUNT), SIZES, SHAPE, seed=1, epoch=2, sample_ids=ids, progress=progress)


@pytest.mark.parametrize("ends", [(0.0, 15.0), (0.5, 0.08), (-3, 7), (2.0, 2.0), (1e-9, 1e9)])
@pytest.mark.parametrize("progress", PROGRESS)
def test_a_ramp_is_linear_and_meets_its_ends(ends: tuple[float, float], progress: float) -> None:
    assert Ramp(*ends)(progress) == pytest.approx(np.interp(progress, (0, 1), ends))
    assert (Ramp(*ends)(0.0), Ramp(*ends)(1.0)) == ends


def test_progress_follows_the_resolution() -> None:
    resolutions = rf.schedules.Linear(128, 224, epochs=16).resolutions
    assert [resolution_progress(size, resolutions) for size in resolutions] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    falling = rf.schedules.Linear(224, 128, epochs=16).resolutions
    assert resolution_progress(128, falling) == 0


def test_a_schedule_of_one_resolution_has_no_progress() -> None:
    with pytest.raises(ConfigError, match=r"stays at 224 pixels. Give a schedule such as .*, or a number in place"):
        resolution_progress(224, rf.schedules.Constant(224).resolutions)


RAMPED: list[tuple[Any, Any]] = [
    (lambda r: RandomResizedCrop(scale=(r(0.5, 0.08), 1.0)), "crop"),
    (lambda r: RandomResizedCrop(scale=(0.1, r(0.3, 0.9)), ratio=(r(0.9, 0.75), r(1.1, 1.5))), "crop of ramps"),
    (lambda r: HorizontalFlip(p=r(0.1, 0.9)), "mirror"),
    (lambda r: VerticalFlip(p=r(1, 0)), "vertical mirror"),
    (lambda r: Rotate(degrees=r(0, 15)), "rotation"),
    (lambda r: Rotate(degrees=(r(-5, -40), 10)), "rotation in a range"),
    (lambda r: Affine(r(0, 9), (r(0, 0.3), 0.1), (r(1, 0.5), r(1, 2)), r(0, 20)), "affine"),
]


@pytest.mark.parametrize("make", [make for make, _ in RAMPED], ids=[name for _, name in RAMPED])
@pytest.mark.parametrize("progress", PROGRESS)
def test_a_view_with_ramps_is_the_view_with_the_numbers_between(make: Any, progress: float) -> None:
    ramped = make(Ramp)
    plain = make(lambda lo, hi: lo + (hi - lo) * progress)
    assert has_ramp(ramped)
    assert not has_ramp(plain)
    np.testing.assert_allclose(placed(ramped, progress), placed(plain, None), atol=1e-9)
    resolved = at(ramped, progress)
    assert type(resolved) is type(ramped)
    assert not has_ramp(resolved)


def test_the_law_sees_a_ramp_that_does_not_follow() -> None:
    ramped = Rotate(degrees=Ramp(0, 15))
    assert not np.allclose(placed(ramped, 0.25), placed(Rotate(degrees=15), None))


def test_a_value_without_ramps_is_passed_through() -> None:
    view = Affine(degrees=10, translate=(0.1, 0.1))
    assert at(view, 0.3) is view
    assert at("text", 0.3) == "text"
    assert at((1, (2, Ramp(0, 4))), 0.5) == (1, (2, 2.0))


def test_ramps_deep_in_other_dataclasses_are_found() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        strength: float | Ramp
        label: str = "x"

    @dataclasses.dataclass(frozen=True)
    class Outer:
        parts: tuple[Inner, ...]
        size: int = dataclasses.field(default=3, init=False)

    outer = Outer((Inner(1.0), Inner(Ramp(0, 10))))
    assert has_ramp([outer])
    assert at(outer, 0.1) == Outer((Inner(1.0), Inner(1.0)))


def test_a_view_with_a_ramp_needs_the_progress() -> None:
    with pytest.raises(ConfigError, match=r"HorizontalFlip.p is Ramp\(lo=0, hi=1\): resolve it first"):
        placed(HorizontalFlip(p=Ramp(0, 1)), None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ramp(0, math.nan), "Ramp must be two finite numbers.*got 0 and nan"),
        (lambda: Ramp(0, "1"), "Ramp must be two finite numbers"),
        (lambda: Ramp(0, 1)(1.5), r"progress of a Ramp must be in \[0, 1\]; got 1.5"),
        (lambda: RandomResizedCrop(scale=(Ramp(0.5, 0.0), 1.0)), "RandomResizedCrop.scale at the highest resolution"),
        (lambda: RandomResizedCrop(scale=(Ramp(0.5, 0.1), 0.3)), "RandomResizedCrop.scale at the lowest resolution"),
        (lambda: HorizontalFlip(p=Ramp(0, 1.1)), r"HorizontalFlip.p must be a probability in \[0, 1\]; got Ramp"),
        (lambda: HorizontalFlip(p=Ramp(-0.1, 1)), "HorizontalFlip.p must be a probability"),
        (lambda: Rotate(degrees=Ramp(-5, 5)), "Rotate.degrees at the lowest resolution must be two finite numbers"),
        (lambda: Affine(shear=Ramp(0, 90)), "Affine.shear at the highest resolution"),
        (lambda: Affine(translate=(Ramp(0, 1.1), 0)), r"Affine.translate must be two shares in \[0, 1\]"),
        (lambda: read_ramps({"ramp": (1,)}), r"ramp must be two numbers, \[lo, hi\]; got \(1,\)"),
    ],
)
def test_a_ramp_out_of_range_is_refused_at_either_end(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_plain_values_become_ramps() -> None:
    assert read_ramps({"degrees": {"ramp": (0, 15)}, "p": 0.5, "scale": [{"ramp": [1, 2]}, 3]}) == {
        "degrees": Ramp(0, 15),
        "p": 0.5,
        "scale": (Ramp(1, 2), 3),
    }
