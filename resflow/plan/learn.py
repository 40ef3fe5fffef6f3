"""Learning buckets from the data: the shapes that waste the fewest pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from resflow.errors import ConfigError, PlanError
from resflow.plan.buckets import Buckets, Sizes, fit_loss

Floats = npt.NDArray[np.float64]

_MOST_BINS = 1024
_MOST_CANDIDATES = 192  # shapes considered at one resolution
_WIDEST = 8.0  # aspect ratio beyond which no shape is considered while a squarer one exists
_LARGEST = 65_535  # pixels: no format holds more along a side
_WORK = 1.5e8  # candidates x bins x bins that one pass of the search may take
_ROWS = 64  # rows of the cost matrix worked on at a time, so that they stay in cache
_LOOKED_AT, _STRETCHES = 1 << 22, 1 << 10  # images, and in how many stretches
_CHUNK = 1 << 20  # samples handled at a time, so that temporaries stay small


def learn_buckets(
    size: Sizes,
    k: int,
    *,
    resolutions: Sequence[int],
    stride: int,
    max_crop: float = 0.0,
    area_tolerance: float = 0.15,
) -> Buckets:
    """Choose the K shapes, at each resolution, that waste the fewest pixels on these images.

    Candidates at resolution r are the shapes (H, W), multiples of `stride`, with |H W - r r| <= area_tolerance r r
    and aspect ratios within those of the data (at most 8:1), or the nearest beyond. What is minimised, over all
    partitions of the images by ratio into K intervals and one candidate for each interval and resolution, is

        sum over images and resolutions of A (padded + cropped)  /  sum over images and resolutions of A,

    where A = H W / r^2 and the shares padded and cropped are those of `fit_loss`. With one resolution and
    max_crop=0 that is padded pixels over all pixels (before contents are rounded to whole pixels). The ratio of
    sums is minimised by Dinkelbach's iteration, each pass of it by dynamic programming over the sorted ratios.
    That is exact up to about a thousand distinct ratios and 192 candidates; beyond, ratios are gathered in bins of
    equal width in log ratio, symmetrical about 1:1, and of the candidates of nearly equal ratio the one of area
    nearest r r is kept.

    Args:
        size: int32 [N, 2], height and width of each image in pixels.
        k: buckets wanted, at least 1; fewer come back if fewer help.
        resolutions: the resolutions in use, pixels.
        stride: pixels; heights and widths are its multiples.
        max_crop: share of an image that may be cropped away, in [0, 1].
        area_tolerance: how far a shape's area may lie from r r, in [0, 1).

    Returns:
        The buckets, narrow to wide.

    Raises:
        ConfigError: an argument is out of range.
        PlanError: there are no images, or no candidate exists at a resolution.

    Source:
        W. Dinkelbach, On Nonlinear Fractional Programming (1967).
    """
    size = _stretches(size)
    _check(size, k, resolutions, stride, max_crop, area_tolerance)
    extreme = max(float(np.abs(_log_ratio(size[part])).max()) for part in _parts(len(size)))
    wanted = sorted({int(r) for r in resolutions})
    candidates = [_candidates(r, stride, area_tolerance, extreme) for r in wanted]
    total = sum(len(shapes) for shapes in candidates)
    ratio, weight = _histogram(size, int(np.clip(np.sqrt(_WORK / total), 128, _MOST_BINS)))
    losses, areas = [], []
    for resolution, shapes in zip(wanted, candidates, strict=True):
        area = shapes.prod(axis=1) / resolution**2  # [C]
        padded, cropped = fit_loss(ratio[None, :], _log_ratio(shapes)[:, None], max_crop)  # [C, M]
        losses.append(area[:, None] * weight * (padded + cropped))
        areas.append(area[:, None] * weight)
    bounds, chosen = _minimise(losses, areas, min(k, len(ratio)))
    shapes = np.stack([c[pick] for c, pick in zip(candidates, chosen, strict=True)])  # [R, K, 2]
    # Neighbours that are alike are one bucket.
    fresh = np.append(True, (shapes[:, 1:] != shapes[:, :-1]).any(axis=(0, 2)))
    shapes, firsts = shapes[:, fresh], bounds[:-1][fresh][1:]
    # The boundary: half-way between the two shapes, but kept in the gap between the two intervals' images.
    low, high = ratio[firsts - 1], ratio[firsts]
    middle = _log_ratio(shapes.reshape(-1, 2)).reshape(shapes.shape[:2]).mean(axis=0)
    edges = np.clip((middle[1:] + middle[:-1]) / 2, low + (high - low) / 4, high - (high - low) / 4)
    return Buckets(np.exp(edges), np.array(wanted, dtype=np.int32), shapes, stride, max_crop)


def _stretches(size: Sizes) -> Sizes:
    """At most 4 Mi of the sizes: all, or stretches evenly spaced from the first row to the last."""
    if len(size) <= _LOOKED_AT:
        return size
    length = _LOOKED_AT // _STRETCHES
    starts = np.linspace(0, len(size) - length, _STRETCHES).astype(np.int64)
    return np.concatenate([size[start : start + length] for start in starts.tolist()])


def _check(
    size: Sizes, k: int, resolutions: Sequence[int], stride: int, max_crop: float, area_tolerance: float
) -> None:
    """Refuse arguments out of range."""
    if size.ndim != 2 or size.shape[1] != 2 or not np.issubdtype(size.dtype, np.integer):
        raise ConfigError(f"size must be int32 [N,2], height and width; got {size.dtype} {list(size.shape)}")
    if not len(size):
        raise PlanError("no buckets can be learned from no images; got size [0,2]. Name a dataset with images in it.")
    if int(size.min()) < 1:
        raise ConfigError(f"size must be positive; got {int(size.min())} for sample {int(size.min(axis=1).argmin())}")
    for name, number in (("k", k), ("stride", stride)):
        if number < 1:
            raise ConfigError(f"{name} must be at least 1; got {number}")
    if not len(resolutions) or min(resolutions) < 1:
        raise ConfigError(f"resolutions must name at least one positive resolution; got {list(resolutions)}")
    if max(resolutions) > _LARGEST:
        raise ConfigError(f"resolutions must be at most {_LARGEST} pixels; got {max(resolutions)}")
    if min(resolutions) < stride:
        raise PlanError(
            f"no shape at resolution {min(resolutions)}: it is below stride {stride}, and no side can be shorter than "
            "that. Raise the resolution or lower the stride."
        )
    if not 0.0 <= max_crop <= 1.0:
        raise ConfigError(f"max_crop must be in [0, 1]; got {max_crop!r}")
    if not 0.0 <= area_tolerance < 1.0:
        raise ConfigError(f"area_tolerance must be in [0, 1); got {area_tolerance!r}")


def _candidates(resolution: int, stride: int, tolerance: float, extreme: float) -> npt.NDArray[np.int32]:
    """int32 [C, 2], narrow to wide: the shapes allowed at a resolution for log ratios within +-extreme."""
    target = (resolution / stride) ** 2  # area in cells of stride x stride
    least, most = (1.0 - tolerance) * target - 1e-9, (1.0 + tolerance) * target + 1e-9
    height = np.arange(1, int(most) + 1)
    first, last = np.ceil(least / height).astype(np.int64), np.floor(most / height).astype(np.int64)
    first, count = np.maximum(first, 1), np.maximum(last - np.maximum(first, 1) + 1, 0)
    rows = np.repeat(height, count)
    columns = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    cells = np.stack([rows, columns], axis=1)
    if not len(cells):
        raise PlanError(
            f"no shape at resolution {resolution}: no height and width that are multiples of stride {stride} have an "
            f"area within {tolerance:.0%} of {resolution}x{resolution}. Raise the resolution, lower the stride, or "
            "widen area_tolerance."
        )
    skew = np.abs(_log_ratio(cells))
    limit = min(extreme, np.log(_WIDEST))
    beyond = skew[skew >= limit - 1e-12]
    cells = cells[skew <= (beyond.min() if len(beyond) else np.inf) + 1e-12]
    cells = cells[np.lexsort((cells[:, 0], _log_ratio(cells)))]
    cell = 2.0**-12
    kept = np.arange(len(cells))
    while len(kept) > _MOST_CANDIDATES:  # of those in one narrow range of ratios, keep the best area
        cell *= 2
        key = np.rint(_log_ratio(cells) / cell)
        best = np.lexsort((np.abs(cells.prod(axis=1) - target), key))
        kept = best[np.append(True, np.diff(key[best]) > 0)]
    return (cells[kept] * stride).astype(np.int32)


def _histogram(size: Sizes, bins: int) -> tuple[Floats, Floats]:
    """Log ratios float64 [M <= bins], ascending, and how many images each stands for, float64 [M]."""
    fine = 2.0**-16
    if len(size) <= 1 << 16:
        values, counts = np.unique(np.round(_log_ratio(size), 12), return_counts=True)
        weight = counts.astype(np.float64)
    else:
        half = int(np.ceil(32 * np.log(2) / fine))  # no int32 ratio lies beyond
        weight, sums = np.zeros(2 * half + 1), np.zeros(2 * half + 1)
        for part in _parts(len(size)):
            ratio = _log_ratio(size[part])
            key = np.rint(ratio / fine).astype(np.int64) + half
            low = int(key.min())
            span = slice(low, int(key.max()) + 1)
            weight[span] += np.bincount(key - low)
            sums[span] += np.bincount(key - low, weights=ratio)
        used = weight > 0
        values, weight = sums[used] / weight[used], weight[used]
    moment, cell = values * weight, fine
    merged, mass = values, weight
    while len(merged) > bins:
        cell *= 2
        key = np.rint(values / cell)  # symmetrical about zero
        first = np.flatnonzero(np.diff(key, prepend=-np.inf))
        mass = np.add.reduceat(weight, first)
        merged = np.add.reduceat(moment, first) / mass
    return merged, mass


def _minimise(
    losses: list[Floats], areas: list[Floats], k: int
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]:
    """Minimise sum of losses over sum of areas ([C, M] for each resolution) over partitions into k intervals.

    Returns:
        (bounds, chosen): int64 [k+1], the first bin of each interval and M; for each resolution int64 [k], the
        candidate of each interval.
    """
    # [C, M+1]: what the bins before each position would cost in each candidate
    loss_before = [np.pad(np.cumsum(loss, axis=1), ((0, 0), (1, 0))) for loss in losses]
    area_before = [np.pad(np.cumsum(area, axis=1), ((0, 0), (1, 0))) for area in areas]
    share, previous = 0.0, np.inf
    while True:
        before = [loss - share * area for loss, area in zip(loss_before, area_before, strict=True)]
        bounds = _partition(_interval_cost(before), k)
        chosen = [np.diff(cost[:, bounds], axis=1).argmin(axis=0) for cost in before]
        share = _total(loss_before, bounds, chosen) / _total(area_before, bounds, chosen)
        if share >= previous - 1e-12:
            return bounds, chosen
        previous = share


def _interval_cost(before: list[Floats]) -> Floats:
    """float64 [M+1, M+1]: cost of bins i..j-1 as one interval, the best candidate at each resolution; inf for j <=
    i."""
    width = before[0].shape[1]
    cost = np.full((width, width), np.inf)
    for top in range(0, width, _ROWS):
        rows = slice(top, min(top + _ROWS, width))
        cost[rows, top:] = 0.0
        for prefix in before:  # [C, M+1]
            least = np.full((rows.stop - top, width - top), np.inf)
            span = np.empty_like(least)
            for candidate in prefix:
                np.subtract(candidate[None, top:], candidate[rows, None], out=span)
                np.minimum(least, span, out=least)
            cost[rows, top:] += least
    cost[np.tril_indices(width)] = np.inf
    return cost


def _partition(cost: Floats, k: int) -> npt.NDArray[np.int64]:
    """int64 [k+1]: bounds of the k intervals of least total cost."""
    total = np.full(len(cost), np.inf)  # [j]: least cost of the bins before j
    total[0] = 0.0
    previous = []
    for _ in range(k):
        through = total[:, None] + cost  # [i, j]
        previous.append(through.argmin(axis=0))
        total = through.min(axis=0)
    bounds = [len(cost) - 1]
    for step in reversed(previous):
        bounds.append(int(step[bounds[-1]]))
    return np.array(bounds[::-1], dtype=np.int64)


def _total(before: list[Floats], bounds: npt.NDArray[np.int64], chosen: list[npt.NDArray[np.int64]]) -> float:
    """The sum over resolutions and intervals under the chosen candidates."""
    parts = zip(before, chosen, strict=True)
    return float(sum((prefix[pick, bounds[1:]] - prefix[pick, bounds[:-1]]).sum() for prefix, pick in parts))


def _log_ratio(size: npt.NDArray[np.integer]) -> Floats:
    """float64 [N]: log(W/H), exactly antisymmetric in H and W."""
    return np.asarray(np.log(size[:, 1]) - np.log(size[:, 0]))


def _parts(n: int) -> Iterator[slice]:
    """Slices of at most _CHUNK samples that cover [0, n)."""
    return (slice(start, start + _CHUNK) for start in range(0, n, _CHUNK))
