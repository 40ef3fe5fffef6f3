from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms as v1
from torchvision.transforms import v2

from resflow.errors import ConfigError
from resflow.geometry import Affine, Fit, HorizontalFlip, RandomResizedCrop, Rotate
from resflow.normalize import IMAGENET, Normalize
from resflow.pipeline import Pipeline
from resflow.plan import Linear, RandomMultiScale, Steps, learn_buckets
from resflow.skip import Skip

PIPELINES = Path(__file__).parents[1] / "pipelines"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return path


def test_yaml_and_python_build_the_same_value(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        resolution: {linear: {start: 128, stop: 224, epochs: 16}}
        buckets: 6
        stride: 16
        area_tolerance: 0.2
        fit: {max_crop: 0.1, max_upscale: 2.0, fill: [1, 2, 3]}
        views:
          - random_resized_crop: {scale: [0.35, 1.0]}
          - horizontal_flip
          - rotate: {degrees: 10}
          - affine: {degrees: [-5, 5], translate: [0.1, 0.1]}
        normalize: {mean: [0.5, 0.5, 0.5], std: [0.1, 0.2, 0.3]}
        dtype: bfloat16
        targets: label
        engine: pillow
        device: cuda:1
        """,
    )
    assert Pipeline.from_yaml(path) == Pipeline(
        resolution=Linear(128, 224, epochs=16),
        buckets=6,
        stride=16,
        area_tolerance=0.2,
        fit=Fit(max_crop=0.1, max_upscale=2.0, fill=(1, 2, 3)),
        views=[
            RandomResizedCrop(scale=(0.35, 1.0)),
            HorizontalFlip(),
            Rotate(degrees=10),
            Affine(degrees=(-5, 5), translate=(0.1, 0.1)),
        ],
        normalize=Normalize(mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3)),
        dtype=torch.bfloat16,
        targets="label",
        engine="pillow",
        device="cuda:1",
    )


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("resolution: 224", "resolution", 224),
        ("resolution: {steps: {at: {0: 128, 6: 160}}}", "resolution", Steps({0: 128, 6: 160})),
        ("resolution: {random_multi_scale: {resolutions: [96, 128]}}", "resolution", RandomMultiScale((96, 128))),
        ("{resolution: 224, fit: stretch}", "fit", Fit.stretch()),
        ("{resolution: 224, normalize: imagenet}", "normalize", IMAGENET),
        ("{resolution: 224, normalize: null}", "normalize", None),
        ("{resolution: 224, targets: null}", "targets", None),
        ("{resolution: 224, on_error: raise}", "on_error", "raise"),
        ("{resolution: 224, on_error: skip}", "on_error", Skip()),
        ("{resolution: 224, on_error: {skip: {budget: 0.002, grace: 0}}}", "on_error", Skip(0.002, 0)),
    ],
)
def test_short_forms(tmp_path: Path, text: str, field: str, value: object) -> None:
    assert getattr(Pipeline.from_yaml(written(tmp_path, text)), field) == value


def test_policies_of_kornia_have_names(tmp_path: Path) -> None:
    text = "resolution: 224\naugment:\n  - rand_augment: {n: 2, m: 9}\n  - trivial_augment\n"
    operations = Pipeline.from_yaml(written(tmp_path, text)).augment
    assert [type(one).__name__ for one in operations] == ["RandAugment", "TrivialAugment"]


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_ready_pipelines_are_valid(path: Path) -> None:
    assert isinstance(Pipeline.from_yaml(path), Pipeline)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "is empty; expected a mapping of pipeline fields"),
        ("resolution: 224\nbukets: 8", 2, "pipeline has no key `bukets`; did you mean `buckets`?"),
        ("resolution: 224\nxyz: 8", 2, "pipeline has no key `xyz`; known: resolution, buckets"),
        ("buckets: 8", 1, "pipeline lacks the key `resolution`"),
        ("resolution: 224\nbuckets: 8\nbuckets: 9", 3, "has the key `buckets` twice"),
        (
            "resolution: 224\nbuckets: zero",
            2,
            "Pipeline.buckets must be a whole number above 0, or Buckets; got 'zero'",
        ),
        ("resolution: 224\n\nstride: -32", 3, "Pipeline.stride must be a whole number of pixels above 0; got -32"),
        ("resolution: 224\narea_tolerance: 1.5", 2, r"Pipeline.area_tolerance must be a share in \[0, 1\); got 1.5"),
        (
            "resolution: 224\nengine: tensorrt",
            2,
            "Pipeline.engine must be one of auto, turbo, dali, pillow, wide; got 'tensor",
        ),
        ("resolution: 224\ndevice: tpu", 2, "Pipeline.device must be"),
        (
            "resolution: 224\non_error: ignore",
            2,
            "on_error must be `raise`, `skip`, or `skip` with its fields; got 'ig",
        ),
        (
            "resolution: 224\non_error:\n  skip: {budget: 2}",
            3,
            r"Skip.budget must be a share of an epoch's samples in \[0, 1\]; got 2",
        ),
        ("resolution: 224\ndtype: int8", 2, "dtype must be one of float32, float16, bfloat16; got 'int8'"),
        ("resolution: 224\nnormalize: cifar", 2, "normalize knows imagenet, unit, or mean and std; got 'cifar'"),
        ("resolution: 224\nnormalize:\n  mean: [0, 0, 0]", 3, "normalize lacks the key `std`"),
        (
            "resolution: 224\nfit:\n  max_crop: 0.1\n  max_upscale: big",
            4,
            r"Fit.max_upscale must be above 0, or None for no limit; got 'big'",
        ),
        ("resolution: 224\nfit:\n  max_crop: 2", 3, r"Fit.max_crop must be in \[0, 1\]; got 2"),
        (
            "resolution: 224\nviews:\n  - horizontal_flop",
            3,
            "no view `horizontal_flop`; did you mean `horizontal_flip`",
        ),
        (
            "resolution: 224\nviews:\n  - horizontal_flip: {p: 2}",
            3,
            r"HorizontalFlip.p must be a probability in \[0, 1\]",
        ),
        ("resolution: 224\nviews: horizontal_flip", 2, "views must be a sequence; got 'horizontal_flip'"),
        (
            "resolution: 224\nviews: [horizontal_flip, random_resized_crop]",
            2,
            "RandomResizedCrop replaces the placement, so it must stand first",
        ),
        ("resolution:\n  linear:\n    start: 128\n    stop: 224", 3, "linear lacks the key `epochs`"),
        ("resolution:\n  linear:\n    start: 128\n    stop: 224\n    epochs: 0", 5, "Linear.epochs must be"),
        ("resolution: large", 1, "there is no schedule `large`; known: constant, linear"),
        ("resolution: 0", 1, "must be a whole number of at least 1; got 0"),
        ("resolution: [128, 224]", 1, "schedule must be a mapping"),
        ("resolution: 224\nfit: !!python/object:os.system {}", 2, "only plain YAML is read"),
        ("resolution: {224", 1, "is not YAML"),
        ("- 224", 1, "pipeline must be a mapping"),
        ("resolution: 224\n? [a, b]\n: 1", 2, "a key of pipeline must be a name"),
        ("resolution: 224\nfit: {? {a: 1} : 2}", 2, "only plain YAML is read: found unhashable key"),
        ("[" * 2000, None, "is not YAML, or too deeply nested"),
    ],
)
def test_wrong_yaml_is_refused_with_file_and_line(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    path = written(tmp_path, text)
    place = f"{path}:" if line is None else f"{path}:{line}: "
    with pytest.raises(ConfigError, match=message) as caught:
        Pipeline.from_yaml(path)
    assert str(caught.value).startswith(place)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file or directory. Check the path."):
        Pipeline.from_yaml(tmp_path / "none.yaml")


def test_evaluation_leaves_nothing_random() -> None:
    pipeline = Pipeline(
        resolution=Linear(128, 224, epochs=16), views=[HorizontalFlip()], normalize=IMAGENET, fit=Fit(max_crop=0.1)
    )
    evaluation = pipeline.evaluation()
    assert (evaluation.resolution, evaluation.views) == (224, ())
    assert (evaluation.fit, evaluation.normalize) == (pipeline.fit, IMAGENET)
    assert pipeline.evaluation(resolution=288).resolution == 288


def test_evaluation_learns_anew_where_given_buckets_lack_its_resolution() -> None:
    buckets = learn_buckets(np.array([[100, 100], [100, 200]], dtype=np.int32), 2, resolutions=[128], stride=32)
    pipeline = Pipeline(resolution=128, buckets=buckets)
    assert pipeline.evaluation().buckets is buckets
    assert pipeline.evaluation(resolution=160).buckets == 2


def test_describe_tells_what_decides_a_batch() -> None:
    pipeline = Pipeline(resolution=224)
    assert pipeline.describe() == Pipeline(resolution=224, device="cuda").describe()
    for changed in (
        Pipeline(resolution=192),
        Pipeline(resolution=224, views=[HorizontalFlip()]),
        Pipeline(resolution=224, normalize=IMAGENET),
        Pipeline(resolution=224, dtype=torch.float16),
        Pipeline(resolution=224, engine="pillow"),
    ):
        assert pipeline.describe() != changed.describe()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": 5}, "Pipeline.views must be a sequence of views; got 5"),
        ({"views": None}, "Pipeline.views must be a sequence of views; got None"),
        ({"views": [HorizontalFlip]}, "Pipeline.views must be a sequence of views"),
        ({"fit": 0.1}, "Pipeline.fit must be a Fit; got 0.1"),
        ({"normalize": "imagenet"}, "Pipeline.normalize must be a Normalize, or None; got 'imagenet'"),
        ({"resolution": "224"}, "resolution must be a whole number of pixels or a schedule; got '224'"),
    ],
)
def test_a_field_of_another_type_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(**{"resolution": 224, **arguments})


def test_buckets_of_another_stride_are_refused() -> None:
    buckets = learn_buckets(np.array([[100, 100]], dtype=np.int32), 1, resolutions=[128], stride=16)
    with pytest.raises(
        ConfigError, match=r"Pipeline.stride is 32, but the shapes of Pipeline.buckets are multiples of 16"
    ):
        Pipeline(resolution=128, buckets=buckets)


@pytest.mark.parametrize("wrong", [{"budget": -0.1}, {"budget": 1.5}, {"budget": True}, {"grace": -1}, {"grace": 1.0}])
def test_a_skip_refuses_what_is_no_budget(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"Skip.{next(iter(wrong))} must be a .*; got"):
        Skip(**wrong)
    with pytest.raises(ConfigError, match=r'Pipeline.on_error must be "raise", or a Skip; got 0.01'):
        Pipeline(resolution=224, on_error=0.01)


def test_a_skip_allows_its_share_rounded_down_and_always_its_grace() -> None:
    assert [Skip(0.07, 0).allowed(samples) for samples in (0, 14, 15, 100, 1_000_000)] == [0, 0, 1, 7, 70_000]
    assert [Skip(0.01, 10).allowed(samples) for samples in (0, 999, 1_099, 1_100)] == [10, 10, 10, 11]


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([v2.RandomHorizontalFlip()], r"got RandomHorizontalFlip of torchvision\. Write rf\.views\.HorizontalFlip\("),
        ([v1.RandomResizedCrop(64)], r"RandomResizedCrop of torchvision\. Write rf\.views\.RandomResizedCrop\("),
        ([v2.RandomRotation(9)], r"Write rf\.views\.Rotate\("),
        ([v2.ColorJitter(0.1)], r"got ColorJitter of torchvision\. .*Pipeline\(transforms=\[\.\.\.\]\)"),
        ([v2.Resize(64)], r"resolution=.*evaluation\(resize=256, crop=224\)"),
        ([v1.ToTensor()], r"Drop it: .*normalize=rf\.IMAGENET"),
        ([HorizontalFlip], r"got the class HorizontalFlip\. Write HorizontalFlip\(\.\.\.\)"),
        (HorizontalFlip(), r"must be a sequence of views; got HorizontalFlip"),
    ],
)
def test_what_is_no_view_is_named_with_the_way_out(views: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(resolution=64, views=views)
