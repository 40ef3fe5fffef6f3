"""spatial_spec, beside gradients, beside running the models, and beside published figures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import Permute

from resflow.errors import ConfigError
from resflow.models import SpatialSpec, spans, spatial_spec
from tests.models.networks import Block, Dense, SpaceToDepth, Tutorial, UNet, flattening, torchvision_model


def linear_twin(model: nn.Module) -> nn.Module:
    """The same geometry with positive weights and averages for maxima, so that gradients show all that is seen."""
    twin = copy.deepcopy(model).double().eval()
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight.fill_(1 / module.weight[0].numel())
                if module.bias is not None:
                    module.bias.zero_()
    return twin


def support(model: nn.Module, shape: tuple[int, int], rows: int = 1) -> tuple[int, int]:
    """Height and width of the pixels that a position in the middle of the model's output depends on: the most of any.

    The output is [B, C, H, W]; `rows` positions in a row and a column are tried, since transposed convolutions and
    interpolation see windows that differ by phase.
    """
    image = torch.rand(1, 3, *shape, dtype=torch.float64, requires_grad=True)
    output = linear_twin(model)(image)
    most = [0, 0]
    for step in range(rows):
        y, x = output.shape[-2] // 2 + step, output.shape[-1] // 2 + step
        (gradient,) = torch.autograd.grad(output[0, :, y, x].sum(), image, retain_graph=True)
        seen = gradient[0].abs().sum(0) > 0
        for axis in (0, 1):
            places = seen.any(dim=1 - axis).nonzero()
            most[axis] = max(most[axis], int(places.max() - places.min()) + 1)
    return most[0], most[1]


EXACT: dict[str, Callable[[], list[nn.Module]]] = {
    "convolutions": lambda: [nn.Conv2d(3, 4, 5, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 3), nn.Conv2d(4, 2, 2)],
    "oblong": lambda: [nn.Conv2d(3, 4, (7, 1), (1, 2)), nn.Conv2d(4, 4, (1, 5), padding=(0, 2), dilation=3)],
    "pooling": lambda: [nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3), nn.AvgPool2d(2)],
    "ceil": lambda: [nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, 2)],
    "residual": lambda: [nn.Conv2d(3, 4, 3), Block(4, 2), Block(4), Block(4, 2)],
    "dilated": lambda: [nn.Conv2d(3, 4, 3, 2), Block(4, 1, 2), Block(4, 1, 4)],
    "dense": lambda: [Dense(3), Dense(12), nn.AvgPool2d(2), Dense(30)],
    "padding": lambda: [nn.Conv2d(3, 4, 5, padding="same"), nn.ReflectionPad2d(2), nn.Conv2d(4, 4, 5)],
    "channels last": lambda: [Permute([0, 2, 3, 1]), nn.Linear(3, 4), Permute([0, 3, 1, 2]), nn.Conv2d(4, 4, 7, 4)],
}
BOUNDED: dict[str, Callable[[], list[nn.Module]]] = {
    "unet": lambda: [UNet(3)],
    "nearest": lambda: [nn.Conv2d(3, 4, 3, 4), nn.Upsample(scale_factor=4), nn.Conv2d(4, 4, 3)],
    "bilinear": lambda: [nn.Conv2d(3, 4, 3, 4), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 3)],
    "transposed": lambda: [nn.Conv2d(3, 4, 3, 4), nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.Conv2d(4, 4, 3)],
    "depth": lambda: [SpaceToDepth()],
}


@pytest.mark.parametrize("name", EXACT)
def test_the_receptive_field_is_what_gradients_reach(name: str) -> None:
    model = nn.Sequential(*EXACT[name]())
    assert spatial_spec(model, channels=3).receptive_field == support(model, (96, 96))


@pytest.mark.parametrize("name", BOUNDED)
def test_the_receptive_field_bounds_what_gradients_reach(name: str) -> None:
    model = nn.Sequential(*BOUNDED[name]())
    bound, got = spatial_spec(model, channels=3).receptive_field, support(model, (96, 96), rows=8)
    for most, seen in zip(bound, got, strict=True):
        assert seen <= most <= seen + 16, (bound, got)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param("resnet18", None, marks=pytest.mark.slow),
        ("alexnet", "features"),
        pytest.param("squeezenet1_1", "features", marks=pytest.mark.slow),
    ],
)
def test_the_receptive_field_of_torchvisions(name: str, part: str | None) -> None:
    model = torchvision_model(name, device="cpu")
    body = getattr(model, part) if part else nn.Sequential(*list(model.children())[:-2])
    assert spatial_spec(model).receptive_field[0] == support(body, (640, 96))[0]


def test_a_forgotten_dilation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*EXACT["dilated"]())
    sound = spans.RULES["convolution"]

    def planted(dims: Any, given: dict[str, Any], size: Any, out: Any) -> Any:
        return sound(dims, {**given, "dilation": [1, 1]}, size, out)

    monkeypatch.setitem(spans.RULES, "convolution", planted)
    assert spatial_spec(model).receptive_field != support(model, (96, 96))


# stride, minimum in evaluation, receptive field, whole image. Receptive fields of AlexNet, VGG-16 and Inception as
# Araujo et al. publish them (https://distill.pub/2019/computing-receptive-fields).
TORCHVISION = [
    ("alexnet", 32, 63, 195, False),
    ("fcn_resnet50", 8, 1, 459, False),
    ("resnet18", 32, 1, 435, False),
    ("vgg16", 32, 32, 212, False),
    *(
        pytest.param(*row, marks=pytest.mark.slow)
        for row in (
            ("convnext_tiny", 32, 32, 1688, False),
            ("deeplabv3_resnet50", 8, 1, 1035, True),
            ("efficientnet_b0", 32, 1, 851, True),
            ("densenet121", 32, 29, 2071, False),
            ("inception_v3", 32, 75, 1311, False),
            ("mobilenet_v3_small", 32, 1, 639, True),
            ("swin_t", 32, 4, 2240, False),
        )
    ),
]


@pytest.mark.parametrize(("name", "stride", "minimum", "field", "whole"), TORCHVISION)
def test_torchvisions_models(name: str, stride: int, minimum: int, field: int, whole: bool) -> None:
    spec = spatial_spec(torchvision_model(name).eval())
    assert (spec.stride, spec.minimum, spec.whole_image) == (stride, (minimum, minimum), whole)
    assert spec.receptive_field == (field, field)
    assert spec.fixed_size is None


def takes(model: nn.Module, height: int, width: int) -> bool:
    """Whether the model really runs, with weights and pixels."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, height, width))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(
    "name",
    ["alexnet", "squeezenet1_0", *(pytest.param(n, marks=pytest.mark.slow) for n in ("densenet121", "googlenet"))],
)
def test_the_minimum_is_where_the_model_stops_running(name: str) -> None:
    model = torchvision_model(name, device="cpu").eval()
    spec = spatial_spec(model)
    height, width = spec.minimum
    assert takes(model, height, width + 3)
    assert not takes(model, height - 1, width + 3)
    assert not takes(model, height + 3, width - 1)
    assert spec.layer is not None
    assert spec.layer in dict(model.named_modules())


def test_height_and_width_may_differ() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, (9, 3)), nn.MaxPool2d((1, 4)), nn.Conv2d(2, 2, 1))
    spec = spatial_spec(model)
    assert (spec.minimum, spec.stride, spec.receptive_field) == ((9, 6), 4, (9, 6))
    assert spec.layer == "0"


def test_multiples_of_the_stride_move_the_map_by_whole_features() -> None:
    for name, side in (("resnet18", 96), ("fcn_resnet50", 64)):
        model = torchvision_model(name).eval()
        spec = spatial_spec(model)
        body = model.backbone if name.startswith("fcn") else nn.Sequential(*list(model.children())[:-2])
        sizes = []
        for height in (side, side + spec.stride):
            out = body(torch.empty(1, 3, height, side, device="meta"))
            sizes.append((out["out"] if isinstance(out, dict) else out).shape[-2])
        assert sizes[1] == sizes[0] + 1, name


def test_a_unet_takes_multiples_of_its_stride() -> None:
    spec = spatial_spec(UNet(4))
    assert (spec.stride, spec.minimum, spec.fixed_size) == (16, (16, 16), None)
    model = UNet(4)
    assert takes(model, 32, 48)
    assert not takes(model, 40, 48)


@pytest.mark.slow
def test_the_mode_counts() -> None:
    model = torchvision_model("inception_v3")
    training = spatial_spec(model.train())
    assert training.minimum == (299, 299)
    assert training.layer == "AuxLogits.conv1.conv"
    assert training.stride == 32, "of what does not only train"


@pytest.mark.parametrize(
    ("build", "size", "layer"),
    [
        (lambda: torchvision_model("vit_b_16"), 224, ""),
        pytest.param(
            lambda: torchvision_model("maxvit_t"),
            224,
            "blocks.0.layers.0.layers.window_attention.partition_op",
            marks=pytest.mark.slow,
        ),
        (lambda: flattening(48), 48, "7"),
        (Tutorial, 32, ""),
    ],
    ids=["vit", "maxvit", "flattening", "tutorial"],
)
def test_models_of_one_size(build: Callable[[], nn.Module], size: int, layer: str) -> None:
    spec = spatial_spec(build())
    assert spec.fixed_size == spec.minimum == (size, size)
    assert spec.layer == layer
    spec.check([(size, size)])
    with pytest.raises(ConfigError, match=rf"takes images of {size}x{size} only, because of .*; got 500x{size}\. Use"):
        spec.check([(size, size), (500, size)])


def test_an_unknown_operation_leaves_the_stride() -> None:
    class Deformed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            height, width = x.shape[-2] // 2, x.shape[-1] // 2
            offset = x.new_zeros(len(x), 8, height, width)
            weight = x.new_zeros(4, 4, 2, 2)
            out: torch.Tensor = torchvision.ops.deform_conv2d(x, offset, weight, stride=2)
            return out

    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Deformed(), nn.Conv2d(4, 4, 3, 2, 1))
    spec = spatial_spec(model)
    assert (spec.stride, spec.whole_image) == (8, True)


def test_a_known_size_is_taken_at_its_word() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[-1] != 77:
                raise ValueError("only 77")
            out: torch.Tensor = self.conv(x)
            return out

    assert spatial_spec(Odd(), size=77).fixed_size == (77, 77)
    with pytest.raises(ConfigError, match=r"no size was found at which Odd runs.*says: only 77\. Pass size="):
        spatial_spec(Odd())


def test_check_names_the_layer() -> None:
    spec = spatial_spec(torchvision_model("vgg16"))
    spec.check([(32, 32), (64, 320)])
    message = r"images of 16x320 are below the model's minimum of 32x32: nothing would be left at layer features\.30"
    with pytest.raises(ConfigError, match=message):
        spec.check([(32, 32), (16, 320)])


def test_nothing_of_the_model_changes() -> None:
    model = torchvision_model("resnet18", device="cpu")
    model.layer1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    spatial_spec(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_detectors_are_refused_and_their_backbones_taken() -> None:
    with torch.device("meta"):
        model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    with pytest.raises(ConfigError, match="FasterRCNN takes a list of images and resizes them itself"):
        spatial_spec(model)
    spec = spatial_spec(model.backbone)
    assert (spec.stride, spec.minimum) == (64, (1, 1))


def test_no_channels_to_tell() -> None:
    with pytest.raises(ConfigError, match=r"Sequential has no Conv2d .* Pass channels="):
        spatial_spec(nn.Sequential(nn.MaxPool2d(2)))
    assert spatial_spec(nn.Sequential(nn.MaxPool2d(2)), channels=1) == SpatialSpec(
        stride=2,
        minimum=(2, 2),
        receptive_field=(2, 2),
        whole_image=False,
        layer="0",
        reason=spatial_spec(nn.Sequential(nn.MaxPool2d(2)), channels=1).reason,
    )
