"""One dataset whose own code runs on images that open lazily, and what keeps a dataset from being one."""

from __future__ import annotations

import copy
import inspect
import io
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import VisionDataset
from torchvision.datasets.vision import StandardTransform

from resflow.fusion.buffers import BatchBuffer
from resflow.fusion.check import difference
from resflow.fusion.rehost import LOADERS, Openings
from resflow.fusion.runner import JointRunner, Runner
from resflow.fusion.split import Split, Step, marks, split

_MISSING = object()
_READ = "give it the methods read(i), the encoded bytes of image i, and target(i)"
_KNOWN = ("torchvision.datasets.", "torchvision.tv_tensors.", "timm.data.")


class Leaf:
    """A dataset that is no part of another, fused.

    Args:
        dataset: the user's.
        transform: of its images, where the dataset has none.
        exact: decode at full size.
    """

    def __init__(self, dataset: Any, transform: Step | None, exact: bool) -> None:
        self.dataset, self.transform, self._exact = dataset, transform, exact
        self._openings = Openings(exact)
        self._copy: Any = None
        self._state: dict[str, Any] = {}
        self._runners: list[Runner] = []
        self._seen: list[Any] = []
        self._gains = True  # else the dataset itself gives its items, and nothing is lost

    @property
    def split(self) -> Split:
        """The steps of its transform."""
        joint = _joint(self.dataset)
        if joint is not None:
            return split(joint)
        found = {name: getattr(self.dataset, name) for name in _transforms(self.dataset)}
        own = self.transform or found.get("transform") or next(iter(found.values()), None)
        return split(own or self.dataset.__dict__.get("transform"))

    def begin(self, buffer: BatchBuffer | None) -> bool:
        """Begin to read: items of a batch into its buffer, or one item.

        Whatever has changed in the dataset or in its transform since the last time is taken over.

        Returns:
            Whether anything is gained; else `dataset[number]` is the item.
        """
        seen = self._marks()
        if len(seen) != len(self._seen) or not all(map(operator.is_, seen, self._seen)):
            self._prepare()
            self._seen = seen
        for runner in self._runners:
            runner.begin(buffer)
        return self._gains

    def _marks(self) -> list[Any]:
        state = self.dataset.__dict__
        found = [*state, *state.values()]
        for value in (self.transform, *state.values(), _joint(self.dataset)):
            if callable(value) and type(value) is not StandardTransform:  # which holds two of the others
                marks(value, found)
        return found

    def _prepare(self) -> None:
        self._runners = []
        self._gains = self._may_gain()
        if not self._gains:
            return
        state = self.dataset.__dict__
        if self._copy is None:
            read_item = _read_item(self._openings) if _reads(self.dataset) else None
            self._copy = self._openings.copy(self.dataset, read_item)
        else:
            changed = {name: value for name, value in state.items() if self._state.get(name, _MISSING) is not value}
            self._openings.update(self._copy, changed)
        self._state = dict(state)
        copied, joint = self._copy.__dict__, _joint(self.dataset)
        if joint is not None:
            copied["transforms"] = JointRunner(joint)
            return
        for name in {"transform", *_transforms(self.dataset)}:
            own = state.get(name)
            transform = self.transform if own is None and name == "transform" else own
            if transform is None and not _is_known(self.dataset) and not _reads(self.dataset):
                continue  # what a class does without one is its own
            copied[name] = Runner(transform, waits=_is_known(self.dataset) or _reads(self.dataset))
            self._runners.append(copied[name])
        if "transforms" in state and isinstance(self.dataset, VisionDataset):
            copied["transforms"] = StandardTransform(copied["transform"], state.get("target_transform"))

    def items(self, numbers: Sequence[Any], positions: Sequence[int] = ()) -> list[Any]:
        """Items, read one after another.

        Args:
            numbers: of the items in the dataset.
            positions: of them in the batch.
        """
        if not self._gains:
            return [self.dataset[number] for number in numbers]
        found = []
        for row, number in enumerate(numbers):
            for runner in self._runners:
                runner.at(positions[row : row + 1])
            found.append(self._copy[number])
        return found

    def finish(self) -> list[Callable[[], None]]:
        """End a batch; what is still to be done for it."""
        return [job for runner in self._runners for job in runner.finish()]

    def _may_gain(self) -> bool:
        """Whether anything is to be saved; what a class of the user's own does, nobody can tell."""
        if self.transform is not None or not _is_known(self.dataset):
            return True
        parts = self.split
        if _joint(self.dataset) is not None:  # numbers are made by the user's own steps
            parts = replace(parts, convert=[])
        return parts.gains

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "transform": self.transform, "exact": self._exact}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def why_not(dataset: Any) -> str:
    """Why a dataset cannot be fused, and what to add; "" if it can.

    Args:
        dataset: any dataset but a `Subset` or a `ConcatDataset`.
    """
    cls = type(dataset)
    if isinstance(dataset, IterableDataset) or not hasattr(cls, "__getitem__") or not hasattr(cls, "__len__"):
        return "it has no length and no items by number; only map-style datasets can be fused"
    if not hasattr(dataset, "__dict__"):
        return "it keeps its state outside of its attributes"
    if _reads(dataset):
        return ""
    if not _is_known(dataset):
        owner = _owner(cls)
        held = next((name for name, value in vars(dataset).items() if isinstance(value, Dataset)), "")
        if held and not _has_paths(dataset):
            return (
                f"{owner.__qualname__} has a __getitem__ of its own around the dataset in `{held}`. Fuse that one, "
                "with the transform: rf.fuse(that_dataset, transform=your_transform) gives (image, target)"
            )
        if not _has_paths(dataset):
            return (
                f"{owner.__qualname__} overrides __getitem__. If that opens files with PIL.Image.open, give the "
                f"dataset an attribute `paths`, the file of each item; else {_READ}"
            )
    loader = _loader(dataset)
    if loader is not None and Openings(False).loader(loader) is loader:
        return (
            f"its loader {getattr(loader, '__name__', loader)!r} does not open files with PIL. Leave the loader out, "
            "or open with PIL.Image.open in it"
        )
    if not _is_known(dataset) and loader is None and not Openings(False).opens(cls):
        return f"it has `paths`, but no method of {cls.__qualname__} calls PIL.Image.open. Instead {_READ}"
    return ""


def unlike(leaf: Any) -> str:
    """How the items of a dataset of the user's own would change; "" if they stay the same."""
    dataset = leaf.dataset
    if (
        not isinstance(leaf, Leaf)
        or _is_known(dataset)
        or not len(dataset)
        or (leaf.transform is not None and not _has_paths(dataset))
    ):
        return ""

    def own() -> Any:
        with _transforms_kept(dataset):
            return dataset[0]

    def fused() -> Any:
        with _transforms_kept(dataset):
            leaf.begin(None)
            return leaf.items([0])[0]

    found = difference(own, fused)
    return found and f"its first item would be another: {found}"


@contextmanager
def _transforms_kept(dataset: Any) -> Iterator[None]:
    """Have copies of a dataset's transforms run, since some hold random numbers of their own, as albumentations' do."""
    state = dataset.__dict__
    held = {key: value for key, value in state.items() if callable(value) and not inspect.ismethod(value)}
    try:
        copies = copy.deepcopy(held)
    except Exception:  # noqa: BLE001 (whatever a user's object raises)
        copies = held
    state.update(copies)
    try:
        yield
    finally:
        state.update(held)


def _loader(dataset: Any) -> Any:
    """The function that a dataset keeps to open images with."""
    return next((dataset.__dict__[name] for name in LOADERS if callable(dataset.__dict__.get(name))), None)


def _owner(cls: type) -> type:
    """The class that defines how items are read."""
    return next(base for base in cls.__mro__ if "__getitem__" in vars(base))


def _is_known(dataset: Any) -> bool:
    """Whether items are read by code that is known to hand an image on as its transform returned it."""
    return _owner(type(dataset)).__module__.startswith(_KNOWN)


def _has_paths(dataset: Any) -> bool:
    paths = getattr(dataset, "paths", None)
    return paths is not None and not callable(paths) and hasattr(paths, "__len__") and len(paths) == len(dataset)


def _reads(dataset: Any) -> bool:
    """Whether a dataset of the user's own says how an image and its target are read."""
    return callable(getattr(dataset, "read", None)) and callable(getattr(dataset, "target", None))


def _read_item(openings: Openings) -> Callable[[Any, int], Any]:
    def read_item(self: Any, number: int) -> Any:
        """An item, by `read` and `target`."""
        image = openings.open(io.BytesIO(self.read(number))).convert("RGB")
        return self.transform(image), self.target(number)

    return read_item


def _joint(dataset: Any) -> Step | None:
    """A dataset's transform of images and targets together."""
    joint = getattr(dataset, "transforms", None)
    if joint is None or isinstance(joint, StandardTransform) or not isinstance(dataset, VisionDataset):
        return None
    return joint  # type: ignore[no-any-return]


def _transforms(dataset: Any) -> list[str]:
    """Attributes that hold transforms of images."""
    if _is_known(dataset) or _reads(dataset):
        return ["transform"] if getattr(dataset, "transform", None) is not None else []
    found = []
    for name, value in dataset.__dict__.items():
        if callable(value) and not isinstance(value, type) and name != "target_transform":
            parts = split(value)
            if parts.geometric or parts.convert:
                found.append(name)
    return found
