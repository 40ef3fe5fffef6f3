"""Per-image transforms in a pipeline: what they are handed, what they draw, what is refused."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as v1
from PIL import Image, ImageOps
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812

import resflow as rf
from resflow.augment.per_image import sample_seeds, transform_images
from resflow.augment.per_image_text import transform_text
from resflow.errors import ConfigError, StateError, TransformError
from tests.shards import make_shards

COUNT, BATCH = 22, 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("per-image"), COUNT, per_shard=8)


def noise(image: torch.Tensor) -> torch.Tensor:
    """Draws from all three generators."""
    added = torch.randint(-20, 21, (1, *image.shape[1:])) + random.randint(-9, 9) + np.random.randint(-9, 10)
    return (image.int() + added).clamp(0, 255).to(torch.uint8)


class Brighten:
    """A class of one's own."""

    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return (image.int() + self.by).clamp(0, 255).byte()


RECIPE = (v1.RandAugment(), noise, v2.ColorJitter(0.4, 0.4, 0.4), v2.RandomErasing(p=0.5))


def pipeline(*transforms: Any, **options: Any) -> rf.Pipeline:
    options = {"resolution": 48, "buckets": 2, "stride": 16, "views": [rf.views.HorizontalFlip()]} | options
    return rf.Pipeline(transforms=list(transforms), **options)


def loader(shards: str, *transforms: Any, options: Any = None, **arguments: Any) -> rf.DataLoader[Any]:
    arguments = {"batch_size": BATCH, "shuffle": True, "seed": 5} | arguments
    return rf.DataLoader(shards, pipeline=pipeline(*transforms, **(options or {})), **arguments)


def by_id(batches: Any) -> dict[int, torch.Tensor]:
    return {
        int(number): image for batch in batches for number, image in zip(batch.sample_ids, batch.images, strict=True)
    }


def one(transform: Any, image: torch.Tensor | None = None, seed: int = 3) -> torch.Tensor:
    image = torch.arange(3 * 8 * 12, dtype=torch.uint8).reshape(1, 3, 8, 12) if image is None else image[None]
    batch = image.clone(memory_format=torch.channels_last)
    transform_images([transform] if callable(transform) else transform, batch, [seed])
    return batch[0]


# What is drawn


def test_the_pixels_are_those_of_the_callables_run_by_hand(shards: str) -> None:
    plain, transformed = by_id(loader(shards)), loader(shards, *RECIPE)
    for batch in transformed:
        assert batch.images.is_contiguous()
        assert batch.mixed  # RandAugment moves pixels as no matrix tells
        for number, image in zip(batch.sample_ids.tolist(), batch.images, strict=True):
            [seed] = sample_seeds(5, 0, np.array([number])).tolist()
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            expected: Any = RECIPE[0](F.to_pil_image(plain[number]))
            expected = noise(F.pil_to_tensor(expected))
            expected = F.pil_to_tensor(RECIPE[2](F.to_pil_image(expected)))
            assert torch.equal(RECIPE[3](expected), image)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_pixel(shards: str, workers: int) -> None:
    here, there = loader(shards, *RECIPE), loader(shards, *RECIPE, num_workers=workers)
    for epoch in range(2):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        for left, right in zip(here, there, strict=True):
            assert left.sample_ids.tolist() == right.sample_ids.tolist()
            assert torch.equal(left.images, right.images)


@pytest.mark.filterwarnings("ignore:the short batch of an epoch has")
def test_world_sizes_change_no_pixel(shards: str) -> None:
    alone = by_id(loader(shards, *RECIPE))
    for world in (2, 4):
        parts = [
            loader(shards, *RECIPE, batch_size=BATCH // world, world=rf.World(rank, world)) for rank in range(world)
        ]
        ranks = [by_id(part) for part in parts]
        numbers = [number for part in ranks for number in part]
        assert set(numbers) == set(alone)
        assert len(numbers) == len(alone) + max(0, world - len(alone) % BATCH)  # no rank's last batch is empty
        for part in ranks:
            assert all(torch.equal(alone[number], image) for number, image in part.items())


def test_resuming_at_every_step_changes_no_pixel(shards: str) -> None:
    whole = [(batch.sample_ids.tolist(), batch.images) for batch in loader(shards, *RECIPE)]
    for step in range(len(whole)):
        first, states = loader(shards, *RECIPE), []
        batches = iter(first)
        for _ in range(step):
            next(batches)
        states.append(first.state_dict())
        torch.rand(7)
        random.random()
        rest = loader(shards, *RECIPE)
        rest.load_state_dict(states[0])
        got = list(rest)
        assert [batch.sample_ids.tolist() for batch in got] == [ids for ids, _ in whole[step:]]
        assert all(torch.equal(batch.images, images) for batch, (_, images) in zip(got, whole[step:], strict=True))


def test_epochs_and_seeds_draw_anew_and_the_order_of_a_batch_does_not(shards: str) -> None:
    options = {"views": ()}
    runs = [loader(shards, noise, seed=seed, options=options) for seed in (5, 6)]
    runs.append(loader(shards, noise, shuffle=False, options=options))
    for run in runs:
        run.set_epoch(0)
    first, other, ordered = map(by_id, runs)
    runs[0].set_epoch(1)
    later = by_id(runs[0])
    same = [number for number in first if first[number].shape == ordered[number].shape]
    assert len(same) > COUNT // 2
    assert all(torch.equal(first[number], ordered[number]) for number in same)
    for drawn_anew in (other, later):
        alike = [number for number in first if first[number].shape == drawn_anew[number].shape]
        assert alike
        assert not any(torch.equal(first[number], drawn_anew[number]) for number in alike)


def test_the_global_generators_are_left_as_they_were(shards: str) -> None:
    def draws() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())

    for generator in (torch.manual_seed, random.seed, np.random.seed):
        generator(11)
    expected = draws()
    for generator in (torch.manual_seed, random.seed, np.random.seed):
        generator(11)
    one(noise)
    with pytest.raises(TransformError):
        one(lambda image: image + noise(image)[0, 0, 0] / 0.1)
    assert draws() == expected


def test_a_skipped_neighbour_changes_no_pixel(shards: str) -> None:
    def fails(image: torch.Tensor) -> torch.Tensor:
        if bad and torch.equal(image, bad[0]):
            raise ValueError("not this one")
        return noise(image)

    bad: list[torch.Tensor] = []
    options = {"on_error": rf.Skip(budget=0.1)}
    sound = by_id(loader(shards, fails, options=options))
    bad.append(by_id(loader(shards))[9])
    run = loader(shards, fails, options=options)
    found = by_id(run)
    assert [skipped.key for skipped in run.skipped] == ["00009"]
    assert "transforms[0] (test_a_skipped_neighbour" in run.skipped[0].reason
    assert all(torch.equal(found[number], sound[number]) for number in sound if number != 9)


# What they are handed


class Seen:
    """Tells what it was handed."""

    def __init__(self) -> None:
        self.types: list[Any] = []

    def __call__(self, image: Any) -> Any:
        self.types.append(type(image))
        return image


class SeenByV1(v1.ColorJitter):
    def forward(self, img: Any) -> Any:
        SEEN.append(type(img))
        return img


class SeenByV2(v2.Transform):
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        SEEN.append(type(inpt))
        assert inpt.is_contiguous()
        return inpt


SEEN: list[Any] = []


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ([SeenByV1()], Image.Image),
        ([SeenByV2()], tv_tensors.Image),
        ([v2.ColorJitter(), SeenByV2()], tv_tensors.Image),
        ([v1.RandomErasing(p=1.0), SeenByV1()], Image.Image),
        ([v1.ToTensor(), SeenByV1()], torch.Tensor),
        ([v2.ToImage(), SeenByV1()], tv_tensors.Image),
        ([nn.Sequential(SeenByV1())], torch.Tensor),
        ([v2.RandomApply([SeenByV2()], p=1.0)], tv_tensors.Image),
        ([v1.Compose([SeenByV1(), v1.ToTensor()])], Image.Image),
    ],
)
def test_librarys_own_are_handed_what_their_authors_expect(transforms: list[Any], expected: type) -> None:
    SEEN.clear()
    before = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    after = one(transforms, before)
    assert [expected] == SEEN
    if not any(isinstance(transform, v1.RandomErasing) for transform in transforms):
        assert torch.equal(before, after)


def test_functions_and_modules_are_handed_a_tensor_of_bytes() -> None:
    seen = Seen()
    for transforms in (
        [seen],
        [v1.ColorJitter(), seen],
        [v2.ToDtype(torch.float32, scale=True), seen],
        [v2.Lambda(seen)],
    ):
        one(transforms)
    assert seen.types == [torch.Tensor] * 4
    one([v1.ToPILImage(), seen])
    one([v1.Compose([seen, v1.ToTensor()])])  # written for what torchvision's datasets give
    assert seen.types[4:] == [Image.Image] * 2


def test_what_comes_back_as_floating_shares_is_rounded_to_bytes() -> None:
    image = torch.randint(0, 256, (3, 8, 12), dtype=torch.uint8)
    for transform in (
        v1.ToTensor(),
        lambda image: image / 255,
        lambda image: (image / 255).half(),
        lambda image: image.permute(1, 2, 0).numpy().astype(np.float64) / 255,
        v1.Compose([v1.ToTensor(), lambda image: image]),
    ):
        assert torch.equal(one(transform, image), image)
    assert torch.equal(one([v1.ToTensor(), lambda image: 1 - image], image), 255 - image)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image: image.float(), r"values from 0 to 255; expected uint8, or floating in \[0, 1\]"),
        (lambda image: image / 255 - 0.5, "values from -0.5"),
        (lambda image: image.int(), "int32"),
        (lambda image: None, "returned NoneType; expected an image"),
        (lambda image: image / torch.nan, "nan"),
        (lambda image: undefined, r"NameError: name 'undefined' is not defined \(test_per_image.py:\d+\)"),  # noqa: F821
        (ImageOps.invert, r"failed on a tensor uint8 \[3, 8, 12\].*Put torchvision's ToPILImage\(\)"),
    ],
)
def test_what_is_no_image_of_bytes_is_an_error(transform: Any, message: str) -> None:
    with pytest.raises(TransformError, match=message) as caught:
        one(transform)
    assert "transforms[0]" in str(caught.value)
    assert caught.value.position == 0


def test_an_error_carries_the_samples_key(shards: str) -> None:
    def fails(image: torch.Tensor) -> torch.Tensor:
        raise ValueError("no good")

    for workers in (0, 1):
        with pytest.raises(TransformError, match=r"no good .*train-000000.tar/0000"):
            list(loader(shards, fails, shuffle=False, num_workers=workers))


# What is refused

REFUSED: list[tuple[Any, str]] = [
    (v1.Resize(32), "Resize changes the shape.*resolution="),
    (v2.RandomResizedCrop(32), r"RandomResizedCrop changes the shape.*views=\[rf.views.RandomResizedCrop"),
    (v2.CenterCrop(32), "CenterCrop.*fit="),
    (v1.FiveCrop(8), "FiveCrop needs more than one"),
    (v1.RandomHorizontalFlip(), r"RandomHorizontalFlip moves pixels.*rf.views.HorizontalFlip"),
    (v2.RandomAffine(5), "rf.views.Affine"),
    (v2.RandomApply([v2.RandomRotation(5)]), "RandomRotation moves.*rf.views.Rotate"),
    (v1.Compose([v1.ColorJitter(), v1.RandomVerticalFlip()]), "rf.views.VerticalFlip"),
    (functools.partial(F.rotate, angle=5), "rf.views.Rotate"),
    (F.hflip, "rf.views.HorizontalFlip"),
    (
        v1.Normalize((0.5,) * 3, (0.2,) * 3),
        r"Pipeline\(normalize=rf.Normalize\(\(0.5, 0.5, 0.5\), \(0.2, 0.2, 0.2\)\)\)",
    ),
    (v2.MixUp(num_classes=3), "MixUp, CutMix or Mosaic of resflow.augment"),
    (v2.SanitizeBoundingBoxes(), "rf.Targets"),
    (v1.ColorJitter, "the class ColorJitter; make an instance"),
    ("color_jitter", "callables of one image"),
]


@pytest.mark.parametrize(("transform", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_what_cannot_stand_here_is_refused_by_name(transform: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(transform)


def test_kornias_modules_are_sent_to_augment() -> None:
    import kornia.augmentation

    with pytest.raises(ConfigError, match=r"ColorJiggle is Kornia's.*augment=\["):
        pipeline(kornia.augmentation.ColorJiggle(0.1, 0.1, 0.1, 0.1))


def test_a_single_callable_is_told_to_go_into_a_list() -> None:
    with pytest.raises(ConfigError, match="transforms must be a sequence of callables; put one in a list"):
        rf.Pipeline(resolution=32, transforms=noise)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image: image[:, :4], r"<lambda>\) changes the shape of the image from 8x12 to 4x12"),
        (lambda image: image.flip(-1), "moves pixels.*rf.views"),
        (lambda image: image.flip(1), "moves pixels"),
        (v2.Lambda(lambda image: image.flip(-1)), "moves pixels"),
        (v1.Grayscale(), r"num_output_channels=3"),
        (lambda image: image[0], "changes the shape"),
    ],
)
def test_what_moves_pixels_is_found_when_it_runs(transform: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        one(transform)


def test_an_image_that_looks_mirrored_is_not_held_against_a_transform() -> None:
    ramp = torch.arange(0, 252, 12, dtype=torch.uint8).expand(3, 8, 21)
    assert torch.equal(240 - ramp, ramp.flip(-1))

    def inverted(image: torch.Tensor) -> torch.Tensor:
        return 240 - image

    assert torch.equal(one([inverted, noise], ramp), one([lambda image: 240 - image, noise], ramp))
    with pytest.raises(ConfigError, match="moves pixels"):
        one([noise, lambda image: image.flip(-1) if random.random() < 0.99 else image], ramp)


def test_turning_a_square_is_found_and_a_symmetric_image_is_none() -> None:
    square = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    for turned in (lambda image: image.mT, lambda image: torch.rot90(image, 1, (1, 2))):
        with pytest.raises(ConfigError, match="moves pixels"):
            one(turned, square)
    assert torch.equal(one(lambda image: image, torch.zeros(3, 8, 8, dtype=torch.uint8)), torch.zeros(3, 8, 8))


def test_targets_with_places_refuse_what_may_move_pixels() -> None:
    for transform in (v2.RandAugment(), v1.AutoAugment(), v2.ElasticTransform(), v2.RandomPerspective()):
        pipeline(transform)
        with pytest.raises(ConfigError, match=f"{type(transform).__name__} may move pixels"):
            pipeline(transform, targets=rf.Targets())
    pipeline(v2.ColorJitter(0.1), v2.RandomPhotometricDistort(), noise, targets=rf.Targets())


def test_boxes_are_left_alone(tmp_path: Path) -> None:
    image = Image.effect_noise((60, 50), 80).convert("RGB")
    item = (image, {"boxes": torch.tensor([[5.0, 6.0, 40.0, 30.0]]), "labels": torch.tensor([3])})

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            return item

    runs = []
    for transforms in ((), (v2.ColorJitter(0.5, 0.5, 0.5), v2.RandomErasing(p=1.0))):
        options = pipeline(*transforms, targets=rf.Targets())
        [batch] = rf.DataLoader(Items(), batch_size=3, pipeline=options, seed=5)
        runs.append(batch)
    assert not torch.equal(runs[0].images, runs[1].images)
    assert not runs[1].mixed
    for left, right in zip(runs[0].targets, runs[1].targets, strict=True):
        assert torch.equal(left["boxes"], right["boxes"])


def test_a_gpu_decodes_on_the_cpu_where_there_are_transforms() -> None:
    assert pipeline(device="cuda").decoder == "dali"
    assert pipeline(noise, device="cuda").decoder == "turbo"
    with pytest.raises(ConfigError, match="Leave engine at"):
        pipeline(noise, device="cuda", engine="dali")


# What a state is checked against


def test_a_state_knows_its_transforms(shards: str) -> None:
    state = loader(shards, v2.ColorJitter(0.4), Brighten(3)).state_dict()
    loader(shards, v2.ColorJitter(0.4), Brighten(3)).load_state_dict(state)
    for others in ((), (v2.ColorJitter(0.5), Brighten(3)), (v2.ColorJitter(0.4), Brighten(4))):
        with pytest.raises(StateError, match=r"config.transforms differs"):
            loader(shards, *others).load_state_dict(state)
    assert "transforms" not in loader(shards).state_dict()["config"]


def closing_over(value: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda image: image + value


def test_a_transforms_text_tells_it_apart_and_holds_no_address() -> None:
    def made() -> list[Any]:
        return [
            noise,
            Brighten(1),
            Brighten(2),
            closing_over(1),
            closing_over(2),
            functools.partial(F.adjust_gamma, gamma=1.0),
            functools.partial(F.adjust_gamma, gamma=2.0),
            v1.RandomApply([v1.ColorJitter(0.1)], p=0.3),
            v1.RandomApply([v1.ColorJitter(0.2)], p=0.3),
            v2.RandomApply([v2.ColorJitter(0.1)], p=0.4),
            v2.Compose([Brighten(1), v2.Lambda(noise)]),
            v2.Compose([Brighten(1), v2.Lambda(closing_over(1))]),
            v2.RandAugment(num_ops=2),
            v2.RandAugment(num_ops=3),
            nn.Sequential(v2.GaussianBlur(3)),
            nn.Sequential(v2.GaussianBlur(5)),
        ]

    texts = list(map(transform_text, made()))
    assert texts == list(map(transform_text, made()))
    assert len(set(texts)) == len(texts)
    assert not any("0x" in text for text in texts)


# YAML


def test_yaml_names_torchvisions_transforms(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "resolution: 64\n"
        "transforms:\n"
        "  - trivial_augment_wide\n"
        "  - color_jitter: {brightness: [0.6, 1.4], hue: 0.1}\n"
        "  - random_apply: {transforms: [{gaussian_blur: {kernel_size: 3}}], p: 0.2}\n"
        "  - RandomErasing:\n"
    )
    built = pipeline(
        v2.TrivialAugmentWide(),
        v2.ColorJitter(brightness=(0.6, 1.4), hue=0.1),
        v2.RandomApply([v2.GaussianBlur(3)], p=0.2),
        v2.RandomErasing(),
        resolution=64,
        buckets=8,
        stride=32,
        views=(),
    )
    assert rf.Pipeline.from_yaml(path).describe() == built.describe()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("  - colour_jitter", "pipeline.yaml:3: there is no transform 'colour_jitter'; did you mean ColorJitter"),
        ("  - color_jitter: {brightness: -1}", "pipeline.yaml:3: ColorJitter refuses"),
        ("  - random_horizontal_flip", "pipeline.yaml:3: .*rf.views.HorizontalFlip"),
        ("  - os.system: {command: ls}", "there is no transform 'os.system'"),
        ("  - {a: 1, b: 2}", "one name with its fields"),
        ("  - random_apply: {transforms: [nothing]}", "there is no transform 'nothing'"),
    ],
)
def test_yaml_names_the_line_of_what_is_wrong(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"resolution: 64\ntransforms:\n{lines}\n")
    with pytest.raises(ConfigError, match=message):
        rf.Pipeline.from_yaml(path)


# Other libraries


def test_albumentations_are_handed_arrays_and_draw_for_each_sample(shards: str) -> None:
    A = pytest.importorskip("albumentations")  # noqa: N806
    recipe = A.Compose([A.RandomBrightnessContrast(p=0.7), A.CoarseDropout(p=0.5)])
    first, second = by_id(loader(shards, recipe)), by_id(loader(shards, recipe, num_workers=2))
    plain = by_id(loader(shards))
    assert all(torch.equal(first[number], second[number]) for number in first)
    assert sum(not torch.equal(first[number], plain[number]) for number in first) > COUNT // 3
    for number in (0, 7):
        [seed] = sample_seeds(5, 0, np.array([number])).tolist()
        recipe.set_random_state(np.random.default_rng(seed), random.Random(seed))
        expected = recipe(image=plain[number].permute(1, 2, 0).numpy())["image"]
        assert np.array_equal(first[number].permute(1, 2, 0), expected)
    for refused, message in (
        (A.HorizontalFlip(), "rf.views.HorizontalFlip"),
        (A.Compose([A.Affine()]), "rf.views.Affine"),
        (A.RandomCrop(8, 8), "changes the shape"),
        (A.D4(), "D4 moves pixels"),
        (A.GridDistortion(), "GridDistortion moves pixels"),
        (A.Normalize(), "Pipeline\\(normalize=rf.Normalize\\(\\(0.485"),
    ):
        with pytest.raises(ConfigError, match=message):
            pipeline(refused)


def test_timms_auto_augmentation_is_handed_pil_images(shards: str) -> None:
    auto = pytest.importorskip("timm.data.auto_augment")
    recipe = auto.rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_const": 10})
    first, second = by_id(loader(shards, recipe)), by_id(loader(shards, recipe, num_workers=1))
    assert all(torch.equal(first[number], second[number]) for number in first)
    with pytest.raises(ConfigError, match="RandAugment may move pixels"):
        pipeline(recipe, targets=rf.Targets())


# Evaluation


def test_evaluation_keeps_what_is_not_random() -> None:
    grey, sequence = v2.Grayscale(3), v1.Compose([v1.Grayscale(3), v1.ToTensor()])
    found = pipeline(v2.RandAugment(), grey, v1.RandomApply([grey]), sequence, v2.ToDtype(torch.float32, scale=True))
    assert found.evaluation().transforms[:2] == (grey, sequence)
    assert len(found.evaluation().transforms) == 3
    for unknown in (noise, v2.Lambda(noise), v2.Compose([noise])):
        with pytest.raises(ConfigError, match=r"cannot tell whether .* is random.*evaluation\(transforms=\[...\]\)"):
            pipeline(unknown, v2.RandAugment()).evaluation()
        assert pipeline(unknown).evaluation(transforms=[]).transforms == ()
        assert pipeline(unknown).evaluation(transforms=[unknown]).transforms == (unknown,)
