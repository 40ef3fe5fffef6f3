"""Which tiers to make: those that make decoding cheapest for what a pipeline draws, within a budget of bytes.

What the loader would read is known before any tier is made: each drawn crop needs a least density of pixels, hence a
least side, and is served by the smallest tier of at least that side. So the cost of a choice of tiers is a sum over
neighbouring sides, and the best choice within the budget is found exactly, by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError
from resflow.plan.buckets import Sizes
from resflow.plan.tier_cost import DecodeCost, Draws, Floats, decode_work, tier_bytes
from resflow.plan.tiers import choose_tiers, tier_size

STEP = 32
"""Candidates are multiples of it, in pixels."""
MOST_SIDE = 1024
"""Largest candidate, in pixels."""
_SAME = 1e-12  # relative difference of sums that were added up in another order


@dataclass(frozen=True, slots=True)
class TierProposal:
    """Tiers to make, and what they are predicted to cost and bring.

    Args:
        sides: short sides in pixels, ascending; none where no tier pays within the budget.
        bytes_share: bytes of the tiers' images as a share of the originals'.
        used: share of the draws that is served by each tier; the others read originals.
        read_share: bytes of images that are read, as a share of what is read without tiers.
        milliseconds: processor time of an image, in the mean over the draws.
        without: the same without tiers.
    """

    sides: tuple[int, ...]
    bytes_share: float
    used: tuple[float, ...]
    read_share: float
    milliseconds: float
    without: float

    @property
    def speedup(self) -> float:
        """How much faster images come than without tiers, as far as decoding limits it."""
        return self.without / self.milliseconds


def propose_tiers(
    size: Sizes,
    image_bytes: npt.NDArray[np.int64],
    draws: Draws,
    *,
    budget: float,
    quality: float = 1.0,
    most: int = 4,
    candidates: Sequence[int] | None = None,
    cost: DecodeCost | None = None,
) -> TierProposal:
    """The tiers that make decoding cheapest for what is drawn, within a budget of bytes.

    Args:
        size: int32 [N, 2], height and width of the originals in pixels: of all samples, or of some drawn evenly.
        image_bytes: int64 [N], bytes of their images.
        draws: what the pipeline draws of them, over its whole schedule.
        budget: most bytes of all tiers together, as a share of the originals'; above 0.
        quality: `Pipeline.tier_quality`.
        most: number of tiers, at least 1; beyond a few, another one brings little.
        candidates: sides to choose from, in pixels, ascending; by default multiples of 32, up to the largest that any
            draw needs.
        cost: of decoding.

    Returns:
        The optimum over all sets of so many candidates; of equally cheap ones, the one of fewest bytes.

    Raises:
        ConfigError: no samples or draws, or a budget, quality, number or candidates out of range.
    """
    if not len(size) or not len(draws):
        raise ConfigError(f"tiers are proposed for samples and draws; got {len(size)} samples, {len(draws)} draws")
    if not (np.isfinite(budget) and budget > 0):
        raise ConfigError(
            f"the budget of tiers must be a share of the originals' bytes above 0, e.g. 0.3; got {budget!r}"
        )
    if not (np.isfinite(quality) and quality > 0):
        raise ConfigError(f"quality must be a number above 0 (Pipeline.tier_quality); got {quality!r}")
    if most < 1:
        raise ConfigError(f"the number of tiers must be at least 1; got {most!r}")
    cost = cost or DecodeCost()
    sides = _candidates(size, draws, quality) if candidates is None else tuple(candidates)
    if any(type(side) is not int or side < 1 for side in sides) or any(np.diff(sides) <= 0):
        raise ConfigError(f"candidates must be whole numbers of pixels, ascending; got {sides!r}")
    service = _serve(size, image_bytes, draws, sides, quality)
    spent = np.array([np.bincount(service.need, cost.of(work), len(sides) + 1) for work in service.work])
    return _told(sides, _best(spent, service.share, budget, most), service, cost)


def predict_tiers(
    size: Sizes,
    image_bytes: npt.NDArray[np.int64],
    draws: Draws,
    sides: Sequence[int],
    *,
    quality: float = 1.0,
    cost: DecodeCost | None = None,
) -> TierProposal:
    """What given tiers are predicted to cost and bring; arguments as of `propose_tiers`, sides ascending."""
    service = _serve(size, image_bytes, draws, sides, quality)
    return _told(sides, tuple(range(len(sides))), service, cost or DecodeCost())


class _Service(NamedTuple):
    """How K candidates would serve M draws: what all depends on."""

    need: npt.NDArray[np.int64]  # [M], number of the smallest candidate that suffices; K: none
    work: Floats  # [K + 1, M, 4], what it takes to serve each draw from a candidate, where it has an entry; K: original
    has: npt.NDArray[np.bool_]  # [K, M]
    share: list[float]  # bytes of each candidate's images, of the originals'


def _serve(
    size: Sizes, image_bytes: npt.NDArray[np.int64], draws: Draws, sides: Sequence[int], quality: float
) -> _Service:
    own, own_bytes = size[draws.row], image_bytes[draws.row].astype(np.float64)
    need = np.full(len(draws), len(sides))
    work, has = np.empty((len(sides) + 1, len(draws), 4)), np.empty((len(sides), len(draws)), np.bool_)
    share = []
    for number, side in enumerate(sides):
        kept = tier_bytes(size, image_bytes, side)
        share.append(float(kept[np.isfinite(kept)].sum()) / float(image_bytes.sum()))
        has[number] = np.isfinite(kept)[draws.row]
        enough = choose_tiers(draws.matrix, own, [side], np.ones((1, len(own)), np.bool_), quality) == 0
        need[enough] = np.minimum(need[enough], number)
        stored = np.where(has[number][:, None], tier_size(own, side), own)
        work[number] = decode_work(draws, own, stored, np.where(has[number], kept[draws.row], own_bytes))
    work[-1] = decode_work(draws, own, own, own_bytes)
    return _Service(need, work, has, share)


def _told(sides: Sequence[int], chosen: tuple[int, ...], service: _Service, cost: DecodeCost) -> TierProposal:
    # Draws that need candidate n read the first chosen one from n on; an image that has no entry there has none above.
    first = np.array([next((c for c in chosen if c >= n), len(sides)) for n in range(len(sides) + 1)])
    reads = first[service.need]
    work = service.work[reads, np.arange(len(reads))]
    return TierProposal(
        sides=tuple(sides[c] for c in chosen),
        bytes_share=sum(service.share[c] for c in chosen),
        used=tuple(float(((reads == c) & service.has[c]).mean()) for c in chosen),
        read_share=float(work[:, 1].sum() / service.work[-1, :, 1].sum()),
        milliseconds=float(cost.of(work).mean()),
        without=float(cost.of(service.work[-1]).mean()),
    )


def _candidates(size: Sizes, draws: Draws, quality: float) -> tuple[int, ...]:
    """Multiples of 32 below the largest image, up to the first that suffices for all draws."""
    density = np.linalg.norm(draws.matrix[:, :2, :2], axis=1).max(axis=1)
    most = float((quality * density * size[draws.row].min(axis=1)).max())
    limit = min(MOST_SIDE, int(size.min(axis=1).max()) - 1, -(-int(np.ceil(most)) // STEP) * STEP)
    return tuple(range(STEP, limit + 1, STEP))


class _State(NamedTuple):
    """A choice of tiers up to the last of them."""

    cost: float
    share: float
    sides: tuple[int, ...]


def _best(spent: Floats, weights: Sequence[float], budget: float, most: int) -> tuple[int, ...]:
    """Numbers of the candidates of the cheapest choice.

    Args:
        spent: float64 [K + 1, K + 1], milliseconds of the draws that need candidate n if c serves them; K: originals.
        weights: share of each candidate's bytes.
        budget: most of them together.
        most: candidates.
    """
    count = len(weights)
    total = np.concatenate([np.zeros((count + 1, 1)), spent.cumsum(axis=1)], axis=1)  # [c, n]: those that need below n
    ends = [_State(total[count, count + 1], 0.0, ())]
    fronts = [[_State(0.0, 0.0, ())]]  # choices of so many tiers by the last, plus one; none is beaten in both numbers
    for _ in range(most):
        longer: list[list[_State]] = [[]]
        for last, weight in enumerate(weights):
            found = [
                _State(state.cost + total[last, last + 1] - total[last, at], state.share + weight, (*state.sides, last))
                for at, front in enumerate(fronts[: last + 1])
                for state in front
                if state.share + weight <= budget
            ]
            longer.append(_unbeaten(found))
            rest = total[count, count + 1] - total[count, last + 1]
            ends += [state._replace(cost=state.cost + rest) for state in longer[-1]]
        fronts = longer
    least = min(state.cost for state in ends) * (1 + _SAME)
    return min(
        (state for state in ends if state.cost <= least), key=lambda state: (state.share, len(state.sides))
    ).sides


def _unbeaten(states: list[_State]) -> list[_State]:
    kept: list[_State] = []
    for state in sorted(states, key=lambda state: (state.share, state.cost)):
        if not kept or state.cost < kept[-1].cost * (1 - _SAME):
            kept.append(state)
    return kept
