"""Proposals of tiers against brute force, the loader's own choice, and bytes that were really written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from resflow.errors import ConfigError
from resflow.geometry import Fit, RandomResizedCrop, apply_views
from resflow.images import read_header
from resflow.plan import propose
from resflow.plan.propose import TierProposal, predict_tiers, propose_tiers
from resflow.plan.tier_cost import DecodeCost, Draws, decode_work, tier_bytes
from resflow.plan.tiers import choose_tiers, tier_size
from resflow.sources.tier_images import shrink
from tests.data import real

COST = DecodeCost()


def made_up(seed: int, count: int, outputs: Sequence[int]) -> tuple[np.ndarray, np.ndarray, Draws]:
    """Images of 100 to 700 pixels, and a random window of each for each output's side."""
    rng = np.random.default_rng(seed)
    size = rng.integers(100, 700, (count, 2)).astype(np.int32)
    lengths = (size.prod(axis=1) * rng.uniform(0.15, 0.8, count)).astype(np.int64)
    rows = np.arange(count, dtype=np.int64)
    crop = [RandomResizedCrop(scale=(0.25, 1.0))]
    drawn = [
        apply_views(crop, Fit().place(size, (o, o)), size, (o, o), seed=seed, epoch=n, sample_ids=rows)
        for n, o in enumerate(outputs)
    ]
    shape = np.repeat(np.array(outputs, np.int32), count)[:, None].repeat(2, axis=1)
    return size, lengths, Draws(np.tile(rows, len(outputs)), np.concatenate(drawn), shape)


def by_hand(
    size: np.ndarray, lengths: np.ndarray, draws: Draws, sides: Sequence[int], quality: float
) -> tuple[float, float]:
    """Mean milliseconds and share of bytes of a choice, as the loader would choose for each draw."""
    kept = np.array([tier_bytes(size, lengths, side) for side in sides]).reshape(len(sides), len(size))
    own = size[draws.row]
    chosen = choose_tiers(draws.matrix, own, sides, np.isfinite(kept[:, draws.row]), quality)
    stored, stored_bytes = own.copy(), lengths[draws.row].astype(float)
    for number, side in enumerate(sides):
        stored[chosen == number] = tier_size(own, side)[chosen == number]
        stored_bytes[chosen == number] = kept[number, draws.row][chosen == number]
    work = decode_work(draws, own, stored, stored_bytes)
    return float(COST.of(work).mean()), float(kept[np.isfinite(kept)].sum() / lengths.sum())


def brute_force(
    size: np.ndarray,
    lengths: np.ndarray,
    draws: Draws,
    candidates: Sequence[int],
    budget: float,
    quality: float,
    most: int,
) -> float:
    """The least milliseconds over all subsets within the budget."""
    subsets = itertools.chain.from_iterable(itertools.combinations(candidates, n) for n in range(most + 1))
    results = (by_hand(size, lengths, draws, subset, quality) for subset in subsets)
    return min(cost for cost, share in results if share <= budget)


GRID = [
    (outputs, budget, quality, most)
    for outputs in ([128], [96, 224], [64, 128, 192])
    for budget in (0.02, 0.1, 0.3, 2.0)
    for quality, most in ((1.0, 2), (1.0, 6), (1.5, 3))
]


@pytest.mark.parametrize(("outputs", "budget", "quality", "most"), GRID)
def test_it_is_the_best_of_all_subsets(outputs: list[int], budget: float, quality: float, most: int) -> None:
    candidates = (64, 96, 160, 192, 256, 352)
    size, lengths, draws = made_up(len(outputs), 120, outputs)
    found = propose_tiers(size, lengths, draws, budget=budget, quality=quality, most=most, candidates=candidates)
    cost, share = by_hand(size, lengths, draws, found.sides, quality)
    assert found.milliseconds == pytest.approx(cost)
    assert found.bytes_share == pytest.approx(share)
    assert share <= budget
    assert len(found.sides) <= most
    assert cost == pytest.approx(brute_force(size, lengths, draws, candidates, budget, quality, most))
    assert found.without == pytest.approx(by_hand(size, lengths, draws, (), quality)[0])


def test_the_law_catches_a_choice_that_takes_the_cheapest_tier_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(_spent: object, share: Sequence[float], budget: float, _most: int) -> tuple[int, ...]:
        total, chosen = 0.0, []
        for number, one in enumerate(share):
            if total + one <= budget:
                chosen.append(number)
                total += one
        return tuple(chosen)

    monkeypatch.setattr(propose, "_best", greedy)
    with pytest.raises(AssertionError):
        test_it_is_the_best_of_all_subsets([96, 224], 0.3, 1.0, 6)


def test_prediction_reads_what_the_loader_would_read() -> None:
    size, lengths, draws = made_up(0, 400, [128, 224])
    sides = (96, 160, 256)
    told = predict_tiers(size, lengths, draws, sides)
    kept = np.array([np.isfinite(tier_bytes(size, lengths, side)) for side in sides])
    chosen = choose_tiers(draws.matrix, size[draws.row], sides, kept[:, draws.row], 1.0)
    assert told.used == tuple((chosen == n).mean() for n in range(3))
    assert 0 < told.read_share < 1
    assert told.speedup > 1


def test_candidates_reach_up_to_what_any_draw_needs() -> None:
    size, lengths, draws = made_up(0, 200, [128])
    found = propose_tiers(size, lengths, draws, budget=9.0)
    assert all(side % 32 == 0 for side in found.sides)
    # The smallest window is a quarter of an image: half its sides, by up to 4/3 in ratio.
    assert 128 < found.sides[-1] <= 320
    assert found == propose_tiers(size, lengths, draws, budget=9.0)
    assert propose_tiers(size, lengths, draws, budget=1e-6).sides == ()


def test_work_of_a_whole_image_and_of_its_upper_left_quarter() -> None:
    size = np.array([[400, 800], [400, 800]], np.int32)
    matrix = np.array([np.diag([0.25, 0.25, 1.0]), np.diag([0.5, 0.5, 1.0])])
    draws = Draws(np.arange(2), matrix, np.array([[100, 200], [100, 200]], np.int32))
    work = decode_work(draws, size, size, np.array([50_000.0, 50_000.0]))
    # Four pixels an output pixel: decoded at half size; two pixels an output pixel: at full size.
    np.testing.assert_allclose(work, [[1, 50, 0.08, 0.02], [1, 25, 0.08, 0.02]])
    half = decode_work(draws, size, size // 2, np.array([20_000.0, 20_000.0]))
    np.testing.assert_allclose(half, [[1, 20, 0.08, 0.02], [1, 10, 0.02, 0.02]])


def test_bytes_are_those_that_are_written() -> None:
    files = [path.read_bytes() for path in sorted(real("imagenet500").iterdir())[::5]]
    headers = [read_header(encoded) for encoded in files]
    size = np.array([(header.height, header.width) for header in headers], np.int32)
    lengths = np.array(list(map(len, files)))
    sides = (64, 160, 256)
    made = [shrink(e, (h.height, h.width), sides) for e, h in zip(files, headers, strict=True)]
    for number, side in enumerate(sides):
        written = sum(len(one[number] or b"") for one in made)
        predicted = tier_bytes(size, lengths, side)
        assert predicted[np.isfinite(predicted)].sum() == pytest.approx(written, rel=0.15)
        assert np.isfinite(predicted).mean() == pytest.approx(
            np.mean([one[number] is not None for one in made]), abs=0.05
        )


def test_all_of_a_schedule_is_proposed_for_in_little_time() -> None:
    size, lengths, draws = made_up(1, 2000, [128, 160, 192, 224])
    found = propose_tiers(size, lengths, draws, budget=0.5)
    assert isinstance(found, TierProposal)
    assert len(found.used) == len(found.sides) > 1


def test_what_is_wrong_is_named() -> None:
    size, lengths, draws = made_up(0, 10, [64])
    with pytest.raises(ConfigError, match=r"budget of tiers must be a share of .* above 0, e\.g\. 0\.3; got 0"):
        propose_tiers(size, lengths, draws, budget=0)
    with pytest.raises(ConfigError, match=r"quality must be a number above 0 \(Pipeline\.tier_quality\); got nan"):
        propose_tiers(size, lengths, draws, budget=1, quality=float("nan"))
    with pytest.raises(ConfigError, match=r"candidates must be whole numbers of pixels, ascending; got \(64, 32\)"):
        propose_tiers(size, lengths, draws, budget=1, candidates=(64, 32))
    with pytest.raises(ConfigError, match="number of tiers must be at least 1; got 0"):
        propose_tiers(size, lengths, draws, budget=1, most=0)
    with pytest.raises(ConfigError, match="got 0 samples, 10 draws"):
        propose_tiers(size[:0], lengths[:0], draws, budget=1)
    with pytest.raises(ConfigError, match="DecodeCost must be finite milliseconds of at least 0"):
        DecodeCost(image=-1)
