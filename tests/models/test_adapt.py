"""adapt_classifier: any size at and above the minimum, and at the native size the same output."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from resflow.errors import ConfigError
from resflow.models import adapt_classifier, spatial_spec
from resflow.models.probe import Probe
from tests.models.networks import Block, Tutorial, flattening, torchvision_model


class FlatResNet(nn.Module):
    """Residual blocks, then a flattening head; where a branch alone is averaged, the sum no longer fits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.body = nn.Sequential(Block(4, 2), Block(4, 2))
        self.head = nn.Linear(4 * 6 * 6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.flatten(self.body(self.stem(x)), 1))
        return out


def transformer() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model


SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "tutorial": (Tutorial, 32),
    "flattening": (flattening, 48),
    "residual": (FlatResNet, 48),
    "transformer": (transformer, 32),
}


def outputs(model: nn.Module, height: int, width: int) -> torch.Tensor:
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))
    with torch.no_grad():
        out: torch.Tensor = model(image)
    return out


@pytest.mark.parametrize("name", SMALL)
def test_other_sizes_are_taken_and_the_native_output_is_the_same(name: str) -> None:
    build, side = SMALL[name]
    model = build().eval()
    before, names = outputs(model, side, side), list(model.state_dict())
    classes = before.shape[1]
    assert adapt_classifier(model) is model
    assert torch.equal(outputs(model, side, side), before), "not a bit changes"
    assert list(model.state_dict()) == names
    spec = spatial_spec(model)
    assert spec.fixed_size is None
    low = spec.minimum
    for height, width in (low, (low[0] + 1, low[1] + 7), (side + 5, 3 * side), (2 * side, side - 1)):
        assert outputs(model, height, width).shape == (2, classes)
    with pytest.raises((RuntimeError, ConfigError)):
        outputs(model, low[0] - 1, low[1] - 1)


def test_a_pooling_that_changes_the_native_output_would_be_caught() -> None:
    model = flattening().eval()
    before = outputs(model, 48, 48)
    model[5].register_forward_hook(lambda *_: torch.zeros(2, 8, 12, 12))
    assert not torch.equal(outputs(model, 48, 48), before)


@pytest.mark.parametrize("name", SMALL)
def test_adapted_models_are_copied_pickled_trained_and_adapted_again(name: str) -> None:
    build, side = SMALL[name]
    model = adapt_classifier(build().eval())
    before = outputs(model, side + 8, side + 16)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), adapt_classifier(model)):
        assert torch.equal(outputs(twin, side + 8, side + 16), before)
    assert sum(len(module._forward_hooks) for module in model.modules()) <= 1
    model.train()(torch.rand(2, 3, side + 8, side)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_model_that_takes_any_size_is_left_as_it_is() -> None:
    model = torchvision_model("resnet18", device="cpu")
    before = copy.deepcopy(model)
    assert adapt_classifier(model) is model
    assert repr(model) == repr(before)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_transformers_embedding_follows_the_grid_and_gradients_reach_it() -> None:
    model = adapt_classifier(transformer())
    assert spatial_spec(model).minimum == (8, 8)
    model(torch.rand(1, 3, 40, 64)).sum().backward()
    assert model.encoder.pos_embedding.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="images of 7x40 hold no whole patch of 8x8 pixels"):
        model(torch.rand(1, 3, 7, 40))


@pytest.mark.slow
def test_what_cannot_be_adapted_is_refused_with_the_layer() -> None:
    model = torchvision_model("maxvit_t")
    message = r"MaxVit takes images of 224x224 only, because of layer blocks\.0.*partition_op.*mends that"
    with pytest.raises(ConfigError, match=message):
        adapt_classifier(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_derived_transformer_is_refused() -> None:
    class Derived(torchvision.models.VisionTransformer):  # type: ignore[misc]
        pass

    with pytest.raises(ConfigError, match="got Derived, which is derived from it"):
        adapt_classifier(Derived(32, 8, 1, 2, 16, 32))


REFUSED = {"maxvit_t"}
SMALLEST = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t",
    "swin_v2_t", "vgg11", "vit_b_32",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_classifier_of_torchvision_takes_any_size(name: str) -> None:
    model = torchvision_model(name).eval()
    if name in REFUSED:
        with pytest.raises(ConfigError, match="takes images of 224x224 only"):
            adapt_classifier(model)
        return
    described = repr(model)
    adapt_classifier(model)
    if not name.startswith("vit"):  # it is the same model, so its output is the same
        assert repr(model) == described
        assert not any(module._forward_hooks for module in model.modules())
    height, width = spatial_spec(model).minimum
    probe = Probe(model)
    for shape in ((height, width), (height + 33, width + 64), (3 * height + 1, width)):
        assert probe.accepts(*shape), shape


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_of_each_family_really_runs(name: str) -> None:
    model = torchvision_model(name, device="cpu").eval()
    native = (299, 299) if name == "inception_v3" else (224, 224)
    if name.startswith("vit"):
        nn.init.normal_(model.heads.head.weight)  # zeros at first
    before = outputs(model, *native)
    adapt_classifier(model)
    assert before.abs().max() > 0
    assert torch.equal(outputs(model, *native), before)
    height, width = spatial_spec(model).minimum
    for shape in ((height, width), (height + 33, width + 64)):
        got = outputs(model, *shape)
        assert got.shape == before.shape
        assert torch.isfinite(got).all()
