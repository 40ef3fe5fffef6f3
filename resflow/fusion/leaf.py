"""One dataset whose own code runs on images that open lazily, and what keeps a dataset from being one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import IterableDataset
from torchvision.datasets import VisionDataset
from torchvision.datasets.vision import StandardTransform

from resflow.fusion.rehost import LOADERS, Openings
from resflow.fusion.runner import JointRunner, Runner
from resflow.fusion.split import Split, Step

_MISSING = object()
_TRANSFORMS = ("transform", "transforms")


class Leaf:
    """A dataset that is no part of another, fused.

    Args:
        dataset: the user's.
        transform: of its images, where the dataset has none.
        exact: decode at full size.
    """

    def __init__(self, dataset: Any, transform: Step | None, exact: bool) -> None:
        self.dataset, self.transform = dataset, transform
        self._openings = Openings(exact)
        self._copy: Any = None
        self._state: dict[str, Any] = {}

    @property
    def split(self) -> Split:
        """The steps of its transform."""
        return self._runner().split

    def items(self, numbers: Sequence[int], *, batch: bool) -> list[Any]:
        """Items of the dataset, in the order asked for.

        Args:
            numbers: of the items.
            batch: whether they are read as one batch, into one buffer.
        """
        runner = self._runner()
        copy = self._refreshed(runner)
        if not batch or isinstance(runner, JointRunner):
            return [copy[number] for number in numbers]
        runner.begin(len(numbers))
        items = []
        try:
            for position, number in enumerate(numbers):
                runner.at(position)
                items.append(copy[number])
        finally:
            runner.finish()
        return items

    def _runner(self) -> Runner | JointRunner:
        joint = getattr(self.dataset, "transforms", None)
        if joint is not None and not isinstance(joint, StandardTransform) and isinstance(self.dataset, VisionDataset):
            return JointRunner(joint)
        own = getattr(joint if isinstance(joint, StandardTransform) else self.dataset, "transform", None)
        return Runner(own if self.transform is None else self.transform)

    def _refreshed(self, runner: Runner | JointRunner) -> Any:
        """The copy that runs, with what has changed in the dataset since."""
        state = self.dataset.__dict__
        if self._copy is None:
            self._copy = self._openings.copy(self.dataset)
        else:
            changed = {name: value for name, value in state.items() if self._state.get(name, _MISSING) is not value}
            self._openings.update(self._copy, changed)
        self._state = dict(state)
        copied = self._copy.__dict__
        if isinstance(runner, JointRunner):
            copied["transforms"] = runner
            return self._copy
        if "transform" in state or self.transform is not None:
            copied["transform"] = runner
        if "transforms" in state:
            copied["transforms"] = StandardTransform(runner, state.get("target_transform"))
        return self._copy

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copy": None, "_state": {}, "_openings": self._openings.exact}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._openings = Openings(state["_openings"])


def why_not(dataset: Any, transform: Step | None) -> str:
    """Why a dataset cannot be fused, and what to add; "" if it can.

    Args:
        dataset: any dataset but a `Subset` or a `ConcatDataset`.
        transform: that was given for it.
    """
    cls = type(dataset)
    if isinstance(dataset, IterableDataset) or not hasattr(cls, "__getitem__") or not hasattr(cls, "__len__"):
        return "it has no length and no items by number; only map-style datasets can be fused"
    if not hasattr(dataset, "__dict__"):
        return "it keeps its state outside of its attributes"
    owner = next(base for base in cls.__mro__ if "__getitem__" in vars(base))
    home = owner.__module__
    if not home.startswith(("torchvision.datasets.", "torchvision.tv_tensors.", "timm.data.")):
        add = "Give it read(i), which returns the encoded bytes of image i, and target(i)."
        return f"its __getitem__ is defined in {home} ({owner.__name__}), and may do anything. {add}"
    loader = next((dataset.__dict__[name] for name in LOADERS if callable(dataset.__dict__.get(name))), None)
    if loader is not None and Openings(False).loader(loader) is loader:
        return (
            f"its loader {getattr(loader, '__name__', loader)!r} does not open files with PIL. "
            "Leave the loader out, or open with PIL.Image.open in it."
        )
    return ""
