import dataclasses
import pickle

import numpy as np
import pytest

from resflow.errors import ConfigError
from resflow.plan import Constant, Cosine, Cyclic, Linear, RandomMultiScale, Schedule, Steps, as_schedule

ALL: list[Schedule] = [
    Constant(224),
    Linear(128, 224, epochs=16),
    Linear(224, 100, epochs=5, step=48),
    Linear(128, 224, epochs=3, within_epoch=True),
    Cosine(128, 224, epochs=16),
    Cosine(64, 250, epochs=4, step=16, within_epoch=True),
    Steps({0: 128, 6: 160, 12: 192}),
    Cyclic(128, 224, period=4),
    Cyclic(128, 224, period=0.5, within_epoch=True),
    RandomMultiScale((128, 160, 192)),
    RandomMultiScale((128, 160, 192), every=640),
]


def by_epoch(schedule: Schedule, epochs: int, size: int = 1000) -> list[int]:
    """Resolution of each epoch; fails if it changes within one."""
    given = schedule(np.arange(epochs * size, dtype=np.int64), size, 0).reshape(epochs, size)
    assert (given == given[:, :1]).all()
    return [int(resolution) for resolution in given[:, 0]]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_every_schedule_gives_known_resolutions_and_no_state(schedule: Schedule) -> None:
    samples = np.random.default_rng(0).integers(0, 40_000, 5000)
    given = schedule(samples, 1000, 7)
    assert given.dtype == np.int32
    assert given.shape == (5000,)
    assert list(schedule.resolutions) == sorted(set(schedule.resolutions))
    assert not np.setdiff1d(given, schedule.resolutions).size
    assert given.tolist() == [int(schedule(samples[i : i + 1], 1000, 7)[0]) for i in range(5000)]
    assert schedule(np.empty(0, dtype=np.int64), 1000, 7).shape == (0,)
    assert isinstance(schedule, Schedule)
    assert hash(pickle.loads(pickle.dumps(schedule))) == hash(schedule)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, dataclasses.fields(schedule)[0].name, 1)  # type: ignore[arg-type]


def test_linear_by_epoch() -> None:
    assert by_epoch(Linear(128, 224, epochs=16), 18) == [128] * 3 + [160] * 5 + [192] * 5 + [224] * 5
    assert Linear(128, 224, epochs=16).resolutions == (128, 160, 192, 224)
    assert by_epoch(Linear(224, 128, epochs=4), 6) == [224, 192, 160, 128, 128, 128]
    assert by_epoch(Linear(128, 130, epochs=2), 3) == [128, 130, 130]
    assert by_epoch(Linear(128, 128, epochs=2), 3) == [128, 128, 128]


@pytest.mark.parametrize("kind", [Linear, Cosine])
@pytest.mark.parametrize(("start", "stop"), [(128, 224), (224, 128), (100, 333), (96, 97)])
@pytest.mark.parametrize("epochs", [2, 3, 16, 90])
@pytest.mark.parametrize("step", [1, 16, 32, 500])
def test_ramps_hold_both_ends_and_never_turn(
    kind: type[Linear] | type[Cosine], start: int, stop: int, epochs: int, step: int
) -> None:
    given = by_epoch(kind(start, stop, epochs, step), epochs + 3, size=3)
    assert given[0] == start
    assert given[epochs - 1 :] == [stop] * 4
    steps = np.diff(given)
    assert (steps >= 0).all() if stop > start else (steps <= 0).all()
    within = kind(start, stop, epochs, step, within_epoch=True)(np.arange(epochs * 500 + 9), 500, 0)
    assert within[0] == start
    assert within[-9:].tolist() == [stop] * 9
    assert np.abs(np.diff(within)).max() <= step


def test_linear_against_the_formula() -> None:
    for epoch, given in enumerate(by_epoch(Linear(100, 300, epochs=41, step=5), 41)):
        assert given == 100 + 200 * epoch / 40
    cosine = by_epoch(Cosine(100, 300, epochs=41, step=1), 41)
    for epoch, given in enumerate(cosine):
        assert abs(given - (200 - 100 * np.cos(np.pi * epoch / 40))) <= 0.5 + 1e-9


def test_steps() -> None:
    steps = Steps({12: 192, 0: 128, 6: 160})
    assert by_epoch(steps, 15) == [128] * 6 + [160] * 6 + [192] * 3
    assert steps == Steps({0: 128, 6: 160, 12: 192})
    assert steps.resolutions == (128, 160, 192)


def test_cyclic() -> None:
    assert by_epoch(Cyclic(128, 192, period=4), 9) == [128, 160, 192, 160, 128, 160, 192, 160, 128]
    wave = Cyclic(100, 200, period=0.5, step=25, within_epoch=True)(np.arange(0, 2000, 50), 1000, 0)
    assert wave[[0, 2, 5, 8]].tolist() == [100, 150, 200, 150]
    assert wave[:10].tolist() == wave[10:20].tolist() == wave[30:].tolist()


def test_random_multi_scale_is_even_and_depends_on_the_seed() -> None:
    schedule = RandomMultiScale((192, 128, 160))
    assert schedule.resolutions == (128, 160, 192)
    samples = np.arange(30_000, dtype=np.int64) * 64
    given = schedule(samples, 1_000_000, 3)
    for resolution in schedule.resolutions:
        assert np.mean(given == resolution) == pytest.approx(1 / 3, abs=0.015)
    assert np.mean(given[1:] == given[:-1]) == pytest.approx(1 / 3, abs=0.015)
    assert np.mean(given == schedule(samples, 1_000_000, 4)) == pytest.approx(1 / 3, abs=0.015)
    every = RandomMultiScale((128, 160, 192), every=640)(samples, 1_000_000, 3)
    assert (every.reshape(-1, 10) == every.reshape(-1, 10)[:, :1]).all()
    assert (given == schedule(samples, 77, 3)).all()


def test_draws_stay_the_same() -> None:
    given = RandomMultiScale((1, 2, 3, 4, 5, 6, 7, 8))(np.arange(12), 100, 2024)
    assert given.tolist() == [2, 5, 2, 7, 7, 5, 1, 3, 4, 7, 7, 2]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Linear(128, 224, epochs=1), 224),
        (Linear(224, 128, epochs=1), 128),
        (Cosine(128, 224, epochs=1), 224),
        (Cyclic(128, 224, period=1), 128),
        (Steps({0: 128, 6: 224}), 128),
    ],
)
def test_a_trial_of_one_epoch_has_one_resolution(schedule: Schedule, expected: int) -> None:
    given = schedule(np.arange(0, 200, 10), 100, 0)
    assert given.tolist() == [expected] * 20
    assert expected in schedule.resolutions


def test_as_schedule() -> None:
    assert as_schedule(224) == Constant(224)
    assert as_schedule(np.int64(96)) == Constant(96)  # type: ignore[arg-type]
    linear = Linear(128, 224, 16)
    assert as_schedule(linear) is linear
    for wrong in (2.5, "224", True, None, Linear):
        with pytest.raises(ConfigError, match="resolution must be a whole number of pixels or a schedule; got"):
            as_schedule(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0), "Constant.resolution must be a whole number of at least 1; got 0"),
        (lambda: Constant(2.5), "Constant.resolution must be a whole number of at least 1; got 2.5"),  # type: ignore[arg-type]
        (lambda: Linear(0, 224, 16), "Linear.start must be"),
        (lambda: Linear(128, 224, 0), "Linear.epochs must be a whole number of at least 1; got 0"),
        (lambda: Cyclic(128, 224, 1.5), "Cyclic.period must be at least 2 epochs .*; got 1.5"),
        (lambda: Cosine(128, 224, 4, step=0), "Cosine.step must be a whole number of at least 1; got 0"),
        (lambda: Steps({6: 160}), r"Steps.at must map epochs to resolutions and name epoch 0; got \{6: 160\}"),
        (lambda: Steps({0: 128, -1: 160}), "Steps.at epoch must be a whole number of at least 0; got -1"),
        (lambda: Steps({0: 128, 3: 0}), r"Steps.at\[3\] must be a whole number of at least 1; got 0"),
        (lambda: Cyclic(224, 128, 4), "Cyclic needs low <= high; got low 224, high 128. Swap them."),
        (
            lambda: Cyclic(128, 224, 0.5),
            "Cyclic.period must be at least 2 epochs .*; got 0.5. Lengthen it, or set within",
        ),
        (lambda: Cyclic(128, 224, 0, within_epoch=True), "Cyclic.period must be"),
        (lambda: RandomMultiScale(()), "must name at least one resolution; got none"),
        (
            lambda: RandomMultiScale((128, 0)),
            "RandomMultiScale.resolutions must be a whole number of at least 1; got 0",
        ),
        (lambda: RandomMultiScale((128,), every=0), "RandomMultiScale.every must be"),
    ],
)
def test_bad_fields_are_refused(make: type, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
