"""Pipeline.for_model: stride and least size come from the model."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from resflow.errors import ConfigError
from resflow.pipeline import Pipeline
from resflow.plan import Buckets, Linear
from tests.models.networks import UNet, flattening, torchvision_model


def test_the_stride_is_the_models() -> None:
    pipeline = Pipeline.for_model(UNet(4), resolution=128, buckets=4)
    assert pipeline == Pipeline(resolution=128, buckets=4, stride=16)
    assert Pipeline.for_model(UNet(3), resolution=128, stride=64).stride == 64
    with pytest.raises(
        ConfigError, match=r"Pipeline\.stride must be a multiple of UNet's total stride of 16 pixels; got 8"
    ):
        Pipeline.for_model(UNet(4), resolution=128, stride=8)


def test_a_resolution_that_pools_to_nothing_is_refused() -> None:
    model = torchvision_model("vgg11")
    assert Pipeline.for_model(model, resolution=32).stride == 32
    message = r"images of 24x24 are below the model's minimum of 32x32: nothing would be left at layer features\.20"
    with pytest.raises(ConfigError, match=message):
        Pipeline.for_model(model, resolution=24)
    with pytest.raises(ConfigError, match=message):
        Pipeline.for_model(model, resolution=Linear(24, 64, epochs=3))


def test_a_resolution_whose_square_is_rounded_down_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 33, 16))
    Pipeline.for_model(model, resolution=40)
    with pytest.raises(ConfigError, match=r"images of 32x32 are below the model's minimum of 33x33.*layer 0"):
        Pipeline.for_model(model, resolution=36)


def buckets(*shapes: tuple[int, int], stride: int, resolution: int) -> Buckets:
    return Buckets(
        edges=np.arange(1.0, len(shapes)),
        resolutions=np.array([resolution], dtype=np.int32),
        shapes=np.array([shapes], dtype=np.int32),
        stride=stride,
    )


def test_long_buckets_are_looked_at() -> None:
    model = torchvision_model("alexnet")
    Pipeline.for_model(model, resolution=128, buckets=buckets((128, 128), (64, 256), stride=32, resolution=128))
    with pytest.raises(ConfigError, match=r"images of 32x512 are below the model's minimum of 63x63"):
        Pipeline.for_model(model, resolution=128, buckets=buckets((128, 128), (32, 512), stride=32, resolution=128))


def test_a_model_of_one_size_gets_one_square() -> None:
    for model, side in ((flattening(52), 52), (torchvision_model("vit_b_16"), 224)):
        pipeline = Pipeline.for_model(model)
        assert pipeline.shapes() == ((side, side),)
        assert pipeline.evaluation().shapes() == ((side, side),)
        with pytest.raises(ConfigError, match=rf"takes images of {side}x{side} only.*; got 128x128"):
            Pipeline.for_model(model, resolution=128)
        with pytest.raises(ConfigError, match=r"so Pipeline\.buckets must be 1; got 8\. resflow\.models\.adapt_cl"):
            Pipeline.for_model(model, buckets=8)


def test_without_a_resolution() -> None:
    with pytest.raises(ConfigError, match=r"for_model needs a resolution: UNet takes any from 16x16 pixels up"):
        Pipeline.for_model(UNet(4))


def test_other_fields_are_checked_as_ever() -> None:
    with pytest.raises(ConfigError, match=r"Pipeline\.device must be"):
        Pipeline.for_model(UNet(2), resolution=64, device="cpus")
