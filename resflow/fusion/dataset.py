"""`fuse`: a dataset whose images are decoded no further than its own transforms show."""

from __future__ import annotations

import bisect
import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from resflow.errors import ConfigError
from resflow.fusion.buffers import BatchBuffer
from resflow.fusion.hub import HubLeaf, is_hub, why_not_hub
from resflow.fusion.leaf import Leaf, unlike, why_not
from resflow.fusion.runner import do
from resflow.fusion.split import Step, describe

_LOG = logging.getLogger("resflow")


def fuse(dataset: Any, transform: Step | None = None, exact: bool = False) -> Any:
    """Make a dataset decode only the part of each image that its transforms show, straight to the size they show.

    Items stay what they were: the same types, dtypes, ranges and layout, from the same random numbers, so the dataset
    goes into any loader with any sampler, collate function and trainer. Batches are written once; `rf.DataLoader` hands
    them over without stacking. `print` what is returned to see which steps are decoded as one window, which run on its
    pixels, and why.

    Args:
        dataset: a map-style dataset of torchvision or timm, `Subset` and `ConcatDataset` of them, or one of your own
            with `read(i)`, the encoded bytes of image i, and `target(i)`. Any other is returned as it is, and the log
            ("resflow", WARNING) says why and what to add.
        transform: of the images of a dataset that has none.
        exact: decode each JPEG at full size before it is resized, which is nearer to Pillow and slower; by default
            a JPEG may be decoded at a half, a quarter or an eighth, if that leaves 1.5 pixels for each one shown.

    Returns:
        A dataset with the same items and attributes.

    Raises:
        ConfigError: `transform` beside a transform of the dataset's own.
    """
    if holds_fused(dataset):
        return dataset
    for leaf in _leaves(dataset):
        if transform is not None and (
            getattr(leaf, "transform", None) is not None or getattr(leaf, "transforms", None) is not None
        ):
            raise ConfigError(
                f"fuse got a transform, but {type(leaf).__name__} has one of its own: {leaf.transform!r}. "
                "Leave one of them out."
            )
    fused = None
    reasons: dict[str, str] = {}
    for leaf in _leaves(dataset):
        reason = why_not_hub(leaf, transform) if is_hub(leaf) else why_not(leaf)
        reasons |= {type(leaf).__name__: reason} if reason else {}
    if not reasons:
        fused = FusedDataset(dataset, transform, exact)
        reasons = {type(leaf.dataset).__name__: reason for leaf in fused._fused if (reason := unlike(leaf))}
    if reasons and transform is not None:
        name, reason = next(iter(reasons.items()))
        raise ConfigError(f"fuse cannot apply a transform to {name}: {reason}")
    for name, reason in reasons.items():
        _LOG.warning("rf.fuse leaves %s as it is: %s.", name, reason.rstrip("."))
    return dataset if reasons else fused


class FusedDataset(Dataset[Any]):
    """What `fuse` returns. It has the attributes of the dataset it was made of; setting one sets it there.

    Args:
        dataset: the dataset.
        transform: of its images, where it has none.
        exact: decode at full size.
    """

    def __init__(self, dataset: Any, transform: Step | None, exact: bool) -> None:
        leaves: dict[int, Leaf | HubLeaf] = {}
        for leaf in _leaves(dataset):
            kind = HubLeaf if is_hub(leaf) else Leaf
            leaves.setdefault(id(leaf), kind(leaf, transform, exact))
        self.__dict__.update(_wrapped=dataset, _fused=list(leaves.values()), _given=(transform, exact), _alike=False)

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str | slice):  # a column or a part of one of Hugging Face's
            return self._wrapped[index]
        leaf, number = self._place(index)
        return leaf.items([number])[0] if leaf.begin(None) else leaf.dataset[number]

    def __getitems__(self, indices: Sequence[Any]) -> list[Any]:
        """The items of a batch, whose images are written to one buffer.

        Args:
            indices: of the items.
        """
        places = [self._place(index) for index in indices]
        leaves = {id(leaf): leaf for leaf, _ in places}.values()
        buffer, jobs = BatchBuffer(len(places), self._alike), []  # a batch tells what to expect of the next
        gains = [leaf.begin(buffer) for leaf in leaves]
        if not any(gains):
            return [leaf.dataset[number] for leaf, number in places]
        try:
            if len(leaves) == 1:
                items = places[0][0].items([number for _, number in places], range(len(places)))
            else:
                items = [leaf.items([number], [at])[0] for at, (leaf, number) in enumerate(places)]
        finally:
            for leaf in leaves:
                jobs += leaf.finish()
        do(jobs)
        self.__dict__["_alike"] = buffer.alike
        return items

    def _place(self, index: Any) -> tuple[Leaf | HubLeaf, Any]:
        """The leaf that holds an item, and the item's number there."""
        dataset: Any = self._wrapped
        if self._fused[0].dataset is dataset:
            return self._fused[0], index
        while type(dataset) in (Subset, ConcatDataset):
            if type(dataset) is Subset:
                dataset, index = dataset.dataset, dataset.indices[index]
                continue
            index = len(dataset) + index if index < 0 else index
            part = bisect.bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
        return next(leaf for leaf in self._fused if leaf.dataset is dataset), index

    def __getattr__(self, name: str) -> Any:
        if "_wrapped" not in self.__dict__:  # being unpickled
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __copy__(self) -> FusedDataset:
        return FusedDataset(copy.copy(self._wrapped), *self._given)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._wrapped)})

    def __repr__(self) -> str:
        lines = [f"Fused {self._wrapped!r}"]
        for leaf in self._fused:
            lines += _told(leaf)
        return "\n".join(lines)


def holds_fused(dataset: Any) -> bool:
    """Whether a dataset is fused, or a subset or concatenation with a fused one in it."""
    return any(isinstance(leaf, FusedDataset) for leaf in _leaves(dataset))


def _told(leaf: Leaf | HubLeaf) -> list[str]:
    """Lines that say what becomes of a leaf's transform."""
    parts = leaf.split
    groups = {
        "decoded as one window": parts.geometric[: parts.window],
        "then on its pixels": parts.geometric[parts.window :] + parts.colour,
        "written to the batch": parts.convert,
        "then on the tensor": parts.after,
    }
    lines = [f"    {title}: {', '.join(map(describe, steps))}" for title, steps in groups.items() if steps]
    return [*lines, f"    {parts.reason}"] if parts.reason else lines


def _leaves(dataset: Any) -> Iterator[Any]:
    """The datasets that a dataset is made of."""
    if type(dataset) is Subset:
        yield from _leaves(dataset.dataset)
    elif type(dataset) is ConcatDataset:
        for part in dataset.datasets:
            yield from _leaves(part)
    else:
        yield dataset
