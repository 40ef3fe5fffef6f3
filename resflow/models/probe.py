"""Run a model at a size without its weights or any pixels, and say which layer refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from resflow.errors import ConfigError
from resflow.extras import loaded_class
from resflow.models.walk import Walk

BATCH = 2  # batch normalisation in training needs two values a channel


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a model does not take a size.

    Args:
        layer: name of the module that failed, as `model.get_submodule` takes it; "" is the model's own forward.
        reason: what PyTorch said.
        mismatch: features that a fully connected layer got and wanted, where that was it.
    """

    layer: str
    reason: str
    mismatch: tuple[int, int] | None = None


class Probe:
    """A model to be run at sizes, on the meta device: no weights are copied, no pixels computed, nothing changed.

    Args:
        model: takes one tensor [B, C, H, W]; is run in the mode it is in.
        channels: C; None takes what the first convolution or fully connected layer wants.

    Raises:
        ConfigError: the model takes lists of images and resizes them itself, or channels cannot be told.
    """

    def __init__(self, model: nn.Module, channels: int | None = None) -> None:
        refuse_detectors(model)
        self.model = model
        self.channels = _channels(model) if channels is None else channels
        self._weights = {
            name: torch.empty_like(tensor, device="meta")
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        floating = [weight.dtype for weight in self._weights.values() if weight.is_floating_point()]
        self._dtype = floating[0] if floating else torch.float32
        self._answers: dict[tuple[int, int], Refusal | None] = {}

    def accepts(self, height: int, width: int) -> bool:
        """Whether the model runs at a size."""
        return self.refusal(height, width) is None

    def refusal(self, height: int, width: int) -> Refusal | None:
        """Why the model does not run at a size; None where it runs."""
        if (height, width) not in self._answers:
            self._answers[height, width] = self._run(self._image(height, width))
        return self._answers[height, width]

    def walk(self, size: tuple[int, int]) -> Walk:
        """Follow the pixels of a size the model takes, in evaluation mode, without branches that only train."""
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            self.model.eval()
            image = self._image(*size)
            walk = Walk(image)
            with walk:
                self._run(image)
            return walk
        finally:
            for module, training in modes:
                module.training = training

    def maps(self, size: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
        """Modules that give a map and end after the last convolution begins, in the order in which they end.

        Returns:
            Names, and heights and widths of the maps [B, C, H, W]; modules that run more than once are left out.
        """
        found: list[tuple[str, tuple[int, int]]] = []
        runs: Counter[str] = Counter()

        def leaving(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                runs[name] += 1
                if isinstance(output, torch.Tensor) and output.ndim == 4:
                    found.append((name, (output.shape[-2], output.shape[-1])))

            return hook

        def convolving(module: nn.Module, inputs: Any) -> None:
            found.clear()

        handles = [module.register_forward_hook(leaving(name)) for name, module in self.model.named_modules() if name]
        handles += [
            module.register_forward_pre_hook(convolving)
            for module in self.model.modules()
            if isinstance(module, nn.Conv2d)
        ]
        try:
            self._run(self._image(*size))
        finally:
            for handle in handles:
                handle.remove()
        return [(name, shape) for name, shape in found if runs[name] == 1]

    def _image(self, height: int, width: int) -> torch.Tensor:
        return torch.empty(BATCH, self.channels, height, width, device="meta", dtype=self._dtype)

    def _run(self, image: torch.Tensor) -> Refusal | None:
        with _entered(self.model) as (inside, seen), torch.no_grad():
            try:
                output = functional_call(self.model, self._weights, (image,))
            except (RuntimeError, ValueError, AssertionError, IndexError, ArithmeticError) as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                layer = inside[-1] if inside else ""
                return Refusal(layer, lines[0].rstrip("."), self._mismatch(layer, seen))
        for tensor in tensors_of(output):
            if tensor.ndim and len(tensor) != BATCH:  # as of x.view(-1, features)
                reason = f"a batch of {BATCH} became one of {len(tensor)}"
                return Refusal(next((name for name, shape in seen if shape[0] != BATCH), ""), reason)
        return None

    def _mismatch(self, layer: str, seen: list[tuple[str, torch.Size]]) -> tuple[int, int] | None:
        module = self.model.get_submodule(layer)
        if isinstance(module, nn.Linear) and seen and seen[-1][0] == layer and seen[-1][1][-1] != module.in_features:
            return seen[-1][1][-1], module.in_features
        return None


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in what a model returned: a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_of(part)


@contextmanager
def _entered(model: nn.Module) -> Iterator[tuple[list[str], list[tuple[str, torch.Size]]]]:
    """The names of the modules that are running, outermost first; and those that were given [N, F], with that."""
    inside: list[str] = []
    seen: list[tuple[str, torch.Size]] = []

    def entering(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            inside.append(name)
            if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim == 2:
                seen.append((name, inputs[0].shape))

        return hook

    def leaving(module: nn.Module, inputs: Any, output: Any) -> None:
        inside.pop()

    handles = []
    for name, module in model.named_modules():
        if name:
            handles += [module.register_forward_pre_hook(entering(name), prepend=True)]
            handles += [module.register_forward_hook(leaving)]
    try:
        yield inside, seen
    finally:
        for handle in handles:
            handle.remove()


def refuse_detectors(model: nn.Module) -> None:
    """Refuse torchvision's detectors, which take lists of images of any size and resize them.

    Raises:
        ConfigError: the model is one.
    """
    detector = loaded_class("torchvision.models.detection.transform", "GeneralizedRCNNTransform")
    if any(isinstance(module, detector) for module in model.children()):
        raise ConfigError(
            f"{type(model).__name__} takes a list of images and resizes them itself (GeneralizedRCNNTransform), so it "
            "has no input size. Pass its backbone: spatial_spec(model.backbone)."
        )


def _channels(model: nn.Module) -> int:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ConfigError(
        f"{type(model).__name__} has no Conv2d to tell how many channels its images have. Pass channels=."
    )
