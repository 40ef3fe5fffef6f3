"""A dataset's own code, run with images that open lazily.

What a dataset opens, in which order, and what it returns is for its own `__getitem__` to know, so it is not written
again here. It runs as it is, on a copy of the dataset whose class sees another `PIL.Image.open`. Nothing outside that
copy changes.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import PIL
import PIL.Image
from torchvision import get_image_backend
from torchvision.datasets import folder
from torchvision.tv_tensors._dataset_wrapper import VisionDatasetTVTensorWrapper

from resflow.fusion.lazy import opener

LOADERS = ("loader", "_loader")
"""Attributes in which torchvision's datasets keep the function that opens an image."""

_OPEN_PATHS = (folder.default_loader, folder.pil_loader)


class _Module:
    """A module with another value for some of its names."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Globals(dict[str, Any]):
    """A module's globals, some of them replaced; the others are looked up there when they are asked for."""

    def __init__(self, module: dict[str, Any], replaced: dict[str, Any]) -> None:
        super().__init__(replaced)
        self._module = module

    def __missing__(self, name: str) -> Any:
        return self._module[name]


def copied(function: Any, instead: Callable[[Any], Any]) -> Any:
    """A copy of a function that sees other values of the names it uses.

    Args:
        function: any value; what is not a Python function is returned as it is.
        instead: what to use for a global value, or one of an enclosing function; the value itself to keep it.

    Returns:
        The copy; the function itself if nothing is replaced.
    """
    if not isinstance(function, types.FunctionType):
        return function
    found = function.__globals__
    replaced = {name: instead(found[name]) for name in _names(function.__code__) if name in found}
    replaced = {name: value for name, value in replaced.items() if value is not found[name]}
    cells = tuple(_cell(cell, instead) for cell in function.__closure__ or ())
    if not replaced and all(one is other for one, other in zip(cells, function.__closure__ or (), strict=True)):
        return function
    names = _Globals(found, replaced)
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names that a function, and those within it, use."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _names(part)


def _cell(cell: types.CellType, instead: Callable[[Any], Any]) -> types.CellType:
    try:
        value = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    changed = instead(value)
    return cell if changed is value else types.CellType(changed)


class Openings:
    """What stands in for the functions that open images.

    Args:
        exact: decode at full size.
    """

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.open = opener(exact)
        self._image = _Module(PIL.Image, open=self.open)
        self._pil = _Module(PIL, Image=self._image)

    def load(self, path: Any) -> Any:
        """See `torchvision.datasets.folder.pil_loader`."""
        return self.open(path).convert("RGB")

    def instead(self, value: Any) -> Any:
        """What stands in for a value; the value itself if nothing does."""
        if value is PIL.Image:
            return self._image
        if value is PIL:
            return self._pil
        if value is PIL.Image.open:
            return self.open
        if any(value is loader for loader in _OPEN_PATHS) and get_image_backend() == "PIL":
            return self.load
        return value

    def function(self, function: Any) -> Any:
        """A function that opens lazily; the same function if it opens nothing."""
        return copied(function, self.instead)

    def loader(self, loader: Callable[..., Any]) -> Callable[..., Any]:
        """A dataset's `loader` that opens lazily; the same one if that cannot be."""
        found = self.instead(loader)
        if found is loader and isinstance(loader, functools.partial):
            inner = self.loader(loader.func)
            return loader if inner is loader.func else functools.partial(inner, *loader.args, **loader.keywords)
        return found if found is not loader else self.function(loader)  # type: ignore[no-any-return]

    def opens(self, cls: type) -> dict[str, Callable[..., Any]]:
        """The methods of a class that open images, opening lazily."""
        methods: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                copy = self.function(value)
                methods.pop(name, None)
                if copy is not value and name != "__init__":
                    methods[name] = copy
        return methods

    def copy(self, dataset: Any, read_item: Callable[..., Any] | None = None) -> Any:
        """A copy of a dataset, of the same state, that opens lazily.

        Args:
            dataset: of any class.
            read_item: stands in for its `__getitem__`.
        """
        cls = type(dataset)
        methods = {**self.opens(cls), "__module__": cls.__module__}
        if read_item is not None:
            methods["__getitem__"] = read_item
        copy: Any = object.__new__(type(cls.__name__, (cls,), methods))
        self.update(copy, dataset.__dict__)
        return copy

    def update(self, copy: Any, state: dict[str, Any]) -> None:
        """Take over attributes."""
        copy.__dict__.update(state)
        if "_dataset" in state and isinstance(copy, VisionDatasetTVTensorWrapper):
            copy.__dict__["_dataset"] = self.copy(state["_dataset"])
        for name in LOADERS:
            if callable(state.get(name)):
                copy.__dict__[name] = self.loader(state[name])
