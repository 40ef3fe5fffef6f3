from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import kornia.augmentation as kornia
import numpy as np
import pytest
import torch
from torch import nn

import resflow.augment.kornia as adapter
from resflow.augment import Augment, Augmented, CutMix, MixUp, Mosaic, Ramped
from resflow.errors import ConfigError
from resflow.schedules import Ramp
from resflow.targets import Instances, Targets

BATCH, HEIGHT, WIDTH = 10, 96, 128
ALL = Targets(masks=True, keypoints=True)
REACH = 10.0  # pixels around a blob's middle that must lie in the frame for its centroid to be measured


def rotated(**arguments: Any) -> kornia.RandomRotation:
    return kornia.RandomRotation(25.0, **arguments)


def affine(**arguments: Any) -> kornia.RandomAffine:
    return kornia.RandomAffine(15.0, (0.1, 0.2), (0.8, 1.25), (-8.0, 8.0), **arguments)


GEOMETRIC: dict[str, Callable[[], list[Any]]] = {
    "horizontal flip": lambda: [kornia.RandomHorizontalFlip(p=1.0)],
    "vertical flip": lambda: [kornia.RandomVerticalFlip(p=1.0)],
    "flips of some": lambda: [kornia.RandomHorizontalFlip(p=0.5), kornia.RandomVerticalFlip(p=0.5)],
    "rotation": lambda: [rotated(p=1.0)],
    "rotation, edges aligned": lambda: [rotated(p=1.0, align_corners=False)],
    "quarter turns": lambda: [kornia.RandomRotation90((-1, 2), p=1.0)],
    "affine": lambda: [affine(p=1.0)],
    "affine of some": lambda: [affine(p=0.5)],
    "affine of some batches": lambda: [affine(p=0.7, same_on_batch=True)],
    "affine, corners aligned": lambda: [affine(p=1.0, align_corners=True)],
    "affine, borders repeated": lambda: [kornia.RandomAffine(15.0, scale=(0.7, 0.9), padding_mode="border", p=1.0)],
    "translation": lambda: [kornia.RandomTranslate((-0.2, 0.2), (-0.1, 0.3), p=1.0)],
    "shear": lambda: [kornia.RandomShear((-10.0, 10.0, -5.0, 5.0), p=1.0)],
    "scale": lambda: [kornia.RandomAffine(0.0, scale=(0.5, 1.5), p=1.0)],
    "one after the other": lambda: [affine(p=0.6), kornia.RandomHorizontalFlip(), rotated(p=0.6)],
    "a container": lambda: [
        kornia.AugmentationSequential(affine(p=0.6), kornia.RandomHorizontalFlip(), data_keys=["input", "bbox"])
    ],
    "containers in containers": lambda: [
        kornia.AugmentationSequential(
            kornia.ImageSequential(rotated(p=0.8), kornia.RandomVerticalFlip()),
            kornia.AugmentationSequential(affine(p=0.5), data_keys=["input"]),
            kornia.RandomHorizontalFlip(),
            data_keys=["input"],
        )
    ],
    "some of many, again and again": lambda: [
        kornia.ImageSequential(rotated(p=1.0), kornia.RandomHorizontalFlip(), random_apply=4)
    ],
    "a policy": lambda: [
        kornia.auto.RandAugment(n=2, m=15, policy=[[("rotate", -15.0, 15.0)], [("shear_x", -0.2, 0.2)]])
    ],
    "a ramp": lambda: [Ramped(kornia.RandomRotation, degrees=Ramp(1.0, 30.0), p=1.0)],
}


def scene() -> tuple[torch.Tensor, Instances]:
    """One blob and its middle as a keypoint, and one rectangle with box and mask, in each image."""
    draw = np.random.default_rng(3)
    middle = draw.uniform((35, 30), (WIDTH - 35, HEIGHT - 30), (BATCH, 2))
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    blobs = np.exp(-((x - middle[:, 0, None, None]) ** 2 + (y - middle[:, 1, None, None]) ** 2) / (2 * 2.0**2))
    corner = draw.integers((20, 15), (50, 40), (BATCH, 2))
    boxes = np.concatenate([corner, corner + draw.integers(20, 50, (BATCH, 2))], 1)
    masks = (x >= boxes[:, 0, None, None]) & (x < boxes[:, 2, None, None])
    masks &= (y >= boxes[:, 1, None, None]) & (y < boxes[:, 3, None, None])
    images = np.stack([blobs, masks, np.ones_like(blobs)], 1)
    objects = Instances(
        counts=torch.ones(BATCH, dtype=torch.int64),
        boxes=torch.from_numpy(boxes).float(),
        labels=torch.arange(BATCH),
        area=torch.ones(BATCH),
        iscrowd=torch.zeros(BATCH, dtype=torch.int64),
        image_id=torch.arange(BATCH) + 100,
        visible=torch.ones(BATCH),
        masks=torch.from_numpy(masks.astype(np.uint8)),
        keypoints=torch.from_numpy(np.concatenate([middle, np.full((BATCH, 1), 2)], 1)[:, None]).float(),
    )
    return torch.from_numpy(images).float(), objects


def augmented(operations: Sequence[Any], seed: int = 0, progress: float = 0.5) -> Augmented:
    return Augment(operations)(*scene(), options=ALL, seed=seed, progress=progress)


def centroid_error(result: Augmented, points: torch.Tensor) -> float:
    """The largest distance, in pixels, of blobs found in the pixels from where points say that they are."""
    x, y = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT) + 0.5
    frame, found = torch.tensor([WIDTH, HEIGHT]), 0
    worst = 0.0
    for image, point in zip(result.images[:, 0].double(), points.double(), strict=True):
        if ((point < REACH) | (point > frame - REACH)).any():
            continue
        weight = image / image.sum()
        seen = torch.stack([(weight.sum(0) * x).sum(), (weight.sum(1) * y).sum()])
        worst, found = max(worst, float((seen - point).norm())), found + 1
    assert found >= BATCH // 3
    return worst


def moved_points(matrix: torch.Tensor) -> torch.Tensor:
    points = scene()[1].keypoints
    assert points is not None
    matrix = matrix.double()
    return (matrix[:, :2, :2] @ points[:, 0, :2, None].double())[..., 0] + matrix[:, :2, 2]


@pytest.mark.parametrize("name", GEOMETRIC)
def test_keypoints_boxes_masks_and_transform_tell_where_the_pixels_went(name: str) -> None:
    result = augmented(GEOMETRIC[name]())
    assert not result.mixed
    assert result.images.shape == (BATCH, 3, HEIGHT, WIDTH)
    border = 0.06 if "repeated" in name else 0.04
    assert centroid_error(result, moved_points(result.transform)) < border
    objects = result.targets
    assert isinstance(objects, Instances)
    assert objects.masks is not None
    assert objects.keypoints is not None
    assert len(objects.boxes) >= BATCH // 2
    for place, image in enumerate(objects.image.tolist()):
        rows, columns = torch.where(result.images[image, 1] > 0.5)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (found - objects.boxes[place]).abs().max() <= 1.05
        differing = (objects.masks[place] > 0) != (result.images[image, 1] > 0.5)
        assert differing.float().mean() < 0.006  # along the rectangle's border
        if objects.keypoints[place, 0, 2] > 0:
            expected = moved_points(result.transform)[image]
            torch.testing.assert_close(objects.keypoints[place, 0, :2].double(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["horizontal flip", "rotation", "affine", "translation", "containers in containers"])
def test_the_law_sees_a_matrix_of_pixel_centres(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_edges", lambda matrix: matrix.double())
    result = augmented(GEOMETRIC[name]())
    error = centroid_error(result, moved_points(result.transform))
    assert (error < 0.04) == (name == "translation")  # which is the same in both


def test_the_law_sees_an_operation_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    unheard = nn.Identity().register_forward_hook(lambda *arguments: None)
    monkeypatch.setattr(kornia.RandomRotation, "register_forward_hook", lambda *arguments: unheard)
    result = augmented(GEOMETRIC["containers in containers"]())
    assert centroid_error(result, moved_points(result.transform)) > 1


def turned(degrees: torch.Tensor) -> np.ndarray:
    """float64 [B, 3, 3], counter-clockwise about the middle of the frame in pixel edges."""
    angle = np.deg2rad(degrees.double().numpy())
    matrix = np.tile(np.eye(3), (len(angle), 1, 1))
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle)
    matrix[:, 0, 1], matrix[:, 1, 0] = np.sin(angle), -np.sin(angle)
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    matrix[:, :2, 2] = middle - matrix[:, :2, :2] @ middle
    return matrix


def scaled(factor: torch.Tensor) -> np.ndarray:
    matrix = np.tile(np.eye(3), (len(factor), 1, 1))
    matrix[:, [0, 1], [0, 1]] = factor.double().numpy()
    matrix[:, :2, 2] = (1 - factor.double().numpy()) * np.array([WIDTH / 2, HEIGHT / 2])
    return matrix


@pytest.mark.parametrize(
    ("module", "reference"),
    [
        (kornia.RandomHorizontalFlip(p=1.0), lambda p: [[[-1.0, 0, WIDTH], [0, 1, 0], [0, 0, 1]]] * BATCH),
        (kornia.RandomVerticalFlip(p=1.0), lambda p: [[[1.0, 0, 0], [0, -1, HEIGHT], [0, 0, 1]]] * BATCH),
        (rotated(p=1.0), lambda p: turned(p["degrees"])),
        (kornia.RandomRotation90((-1, 2), p=1.0), lambda p: turned(90 * p["times"].round())),
        (kornia.RandomAffine(20.0, p=1.0), lambda p: turned(-p["angle"])),
        (kornia.RandomAffine(0.0, scale=(0.5, 1.5, 0.7, 1.0), p=1.0), lambda p: scaled(p["scale"])),
    ],
    ids=["horizontal", "vertical", "rotation", "quarters", "clockwise", "scale"],
)
def test_points_agree_with_float64_from_what_was_drawn(module: Any, reference: Callable[[Any], Any]) -> None:
    result = augmented([module])
    expected = torch.as_tensor(np.asarray(reference(module._params)), dtype=torch.float64)
    torch.testing.assert_close(moved_points(result.transform), moved_points(expected), atol=1e-4, rtol=0)


def test_the_transform_is_composed_with_what_was_there() -> None:
    images, _ = scene()
    before = torch.tensor([[0.5, 0, 3], [0, 2, -7], [0, 0, 1]]).expand(BATCH, 3, 3)
    result = Augment([kornia.RandomHorizontalFlip(p=1.0)])(images, transform=before, seed=0)
    expected = torch.tensor([[-0.5, 0, WIDTH - 3], [0, 2, -7], [0, 0, 1]])
    torch.testing.assert_close(result.transform, expected.expand(BATCH, 3, 3))


COLOURS = [
    kornia.ColorJiggle(0.3, 0.3, 0.3, 0.1, p=1.0),
    kornia.RandomErasing(p=1.0),
    kornia.RandomGaussianBlur((3, 3), (0.1, 2.0), p=1.0),
    kornia.RandomGrayscale(p=1.0),
    kornia.RandomGaussianNoise(p=1.0),
    kornia.RandomEqualize(p=1.0),
    kornia.RandomSolarize(p=1.0),
    kornia.PatchSequential(kornia.ColorJiggle(0.3, p=1.0), grid_size=(2, 2), patchwise_apply=False),
]


@pytest.mark.parametrize("module", COLOURS, ids=lambda module: type(module).__name__)
def test_operations_on_colours_leave_places_alone(module: Any) -> None:
    images, objects = scene()
    augment = Augment([module])
    augment.check(spatial=True)
    result = augment(images, objects, options=ALL, seed=1)
    assert not torch.equal(result.images, images)
    torch.testing.assert_close(result.transform, torch.eye(3).expand(BATCH, 3, 3))
    assert isinstance(result.targets, Instances)
    torch.testing.assert_close(result.targets.boxes, objects.boxes)
    assert not augment.mixed


@pytest.mark.parametrize("operation", [affine(p=1.0), rotated(p=0.5), kornia.RandomTranslate((0.3, 0.4), p=1.0)])
def test_label_maps_and_valid_are_honest_where_no_image_is(operation: Any) -> None:
    images, _ = scene()
    maps = torch.full((BATCH, HEIGHT, WIDTH), 7, dtype=torch.uint8)
    result = Augment([operation])(images, maps, options=Targets(ignore_index=200), seed=4)
    ones, labels = result.images[:, 2], result.targets
    assert isinstance(labels, torch.Tensor)
    assert labels.dtype == torch.uint8
    assert (labels[ones < 0.01] == 200).all()
    assert (labels[ones > 0.99] == 7).all()
    left, top, right, bottom = result.valid.T[:, :, None, None]
    row, column = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    inside = (column >= left) & (column < right) & (row >= top) & (row < bottom)
    assert (labels[~inside] == 200).all()
    for image in range(BATCH):  # the box is tight
        rows, columns = torch.where(labels[image] == 7)
        tight = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (result.valid[image] - tight).abs().max() <= 1


def test_what_has_left_the_frame_does_not_come_back() -> None:
    there = kornia.RandomTranslate((0.4, 0.4), p=1.0)
    back = kornia.RandomTranslate((-0.4, -0.4), p=1.0)
    maps = torch.full((BATCH, HEIGHT, WIDTH), 7, dtype=torch.uint8)
    for operations in ([there, back], [kornia.AugmentationSequential(there, back, data_keys=["input"])]):
        result = Augment(operations)(scene()[0], maps, options=Targets(), seed=0)
        torch.testing.assert_close(result.transform, torch.eye(3).expand(BATCH, 3, 3), atol=1e-4, rtol=0)
        labels = result.targets
        assert isinstance(labels, torch.Tensor)
        assert ((labels == 255) == (result.images[:, 2] < 0.5)).float().mean() > 0.98
        assert (labels == 255).float().mean() > 0.35
        assert (result.valid[:, 2] < WIDTH * 0.62).all()


def test_padding_keeps_its_place_in_valid() -> None:
    valid = torch.tensor([[10, 0, 118, 96]], dtype=torch.int32).expand(BATCH, 4)
    result = Augment([kornia.RandomTranslate((0.125, 0.125), p=1.0)])(scene()[0], valid=valid, seed=0)
    assert result.valid.tolist() == [[26, 0, 128, 96]] * BATCH
    flipped = Augment([kornia.RandomHorizontalFlip(p=1.0)])(scene()[0], valid=valid + 1, seed=0)
    assert flipped.valid.tolist() == [[9, 1, 117, 96]] * BATCH


def test_bytes_and_shares_give_the_same() -> None:
    images = (scene()[0] * 255).round().to(torch.uint8).contiguous(memory_format=torch.channels_last)
    operations = [affine(p=0.5), COLOURS[0]]
    from_bytes, from_shares = (Augment(operations)(one, seed=5) for one in (images, images.float() / 255))
    torch.testing.assert_close(from_bytes.images, from_shares.images)
    assert from_bytes.images.dtype == torch.float32
    assert from_bytes.images.max() <= 1
    assert from_bytes.images.is_contiguous(memory_format=torch.channels_last)
    assert Augment([])(images, seed=0).images.max() == 1
    half = Augment(operations)(images.half() / 255, seed=5)
    assert half.images.dtype == torch.float32


def same(one: Augmented, other: Augmented) -> bool:
    assert isinstance(one.targets, Instances)
    assert isinstance(other.targets, Instances)
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.transform, other.transform)
        and torch.equal(one.targets.boxes, other.targets.boxes)
    )


EVERYTHING: list[Any] = [
    affine(p=0.5),
    kornia.ImageSequential(rotated(), kornia.RandomHorizontalFlip(), *COLOURS[:3], random_apply=3),
    Ramped(kornia.ColorJiggle, brightness=Ramp(0.1, 0.4), p=0.8),
    Mosaic(p=0.5),
]


def test_one_seed_gives_one_result_whatever_was_drawn_before() -> None:
    first = augmented(EVERYTHING, seed=11)
    torch.manual_seed(123)
    torch.rand(7)
    state = torch.get_rng_state()
    assert same(first, augmented(EVERYTHING, seed=11))
    assert torch.equal(state, torch.get_rng_state())
    assert not same(first, augmented(EVERYTHING, seed=12))
    assert same(first, augmented(pickle.loads(pickle.dumps(EVERYTHING)), seed=11))


def test_the_generators_are_put_back_after_an_error() -> None:
    class Broken(kornia.IntensityAugmentationBase2D):
        def apply_transform(self, *arguments: Any, **named: Any) -> torch.Tensor:
            raise ValueError("broken")

    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="broken") as caught:
        augmented([Broken(p=1.0)])
    assert "raised by the augmentation Broken(" in caught.value.__notes__[0]
    assert torch.equal(state, torch.get_rng_state())


def test_an_operation_more_leaves_the_draws_of_those_before() -> None:
    alone, followed = augmented([affine(p=0.5)]), augmented([affine(p=0.5), COLOURS[4]])
    assert torch.equal(alone.transform, followed.transform)
    other = augmented([COLOURS[4], affine(p=0.5)])
    assert not torch.equal(alone.transform, other.transform)


def test_no_hook_and_no_gradient_is_left_behind() -> None:
    module = kornia.auto.RandAugment(n=2, m=10)
    result = augmented([module])
    assert not result.images.requires_grad
    assert not any(part._forward_hooks for part in module.modules())


def test_a_ramp_follows_the_progress() -> None:
    operation = Ramped(kornia.RandomRotation, degrees=Ramp(0.0, 40.0), p=1.0)
    angles = []
    for progress in (0.0, 0.5, 1.0):
        matrix = augmented([operation], progress=progress).transform
        angles.append(float(torch.atan2(matrix[:, 0, 1], matrix[:, 0, 0]).abs().max()))
    assert angles[0] == 0
    assert angles[1] == pytest.approx(angles[2] / 2, rel=1e-3)
    assert math.radians(20) < angles[2] <= math.radians(40)
    assert operation.module(0.5) is operation.module(0.5)
    assert operation == Ramped(kornia.RandomRotation, degrees=Ramp(0.0, 40.0), p=1.0)
    assert repr(operation) == "Ramped(RandomRotation, degrees=Ramp(lo=0.0, hi=40.0), p=1.0)"


class Doubled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.repeat(1, 1, 2, 1)


class Plain(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1 - images


class Projective(kornia.GeometricAugmentationBase2D):
    def compute_transformation(self, images: torch.Tensor, params: Any, flags: Any) -> torch.Tensor:
        return torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.001, 0, 1]]).expand(len(images), 3, 3)

    def apply_transform(self, images: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        return images


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (kornia.RandomCrop((32, 32)), "RandomCrop changes the shape of the images, but the plan owns the shape"),
        (kornia.CenterCrop(32), "CenterCrop changes the shape.*views="),
        (kornia.Resize((32, 32)), "Resize changes the shape"),
        (kornia.LongestMaxSize(32), "LongestMaxSize changes the shape"),
        (kornia.SmallestMaxSize(32), "SmallestMaxSize changes the shape"),
        (kornia.PadTo((200, 200)), "PadTo changes the shape"),
        (kornia.RandomResizedCrop((96, 128)), "RandomResizedCrop changes the shape"),
        (kornia.ImageSequential(kornia.RandomCrop((8, 8))), "RandomCrop changes the shape"),
        (kornia.RandomMixUpV2(), "RandomMixUpV2 mixes images without their targets. Use MixUp"),
        (kornia.RandomMosaic(), "RandomMosaic mixes images"),
        (kornia.RandomTransplantation(), "RandomTransplantation mixes images"),
        (
            kornia.AugmentationSequential(kornia.RandomCutMixV2(use_correct_lambda=True), data_keys=["input"]),
            "RandomCutMixV2 mixes images",
        ),
        (kornia.Normalize(0.5, 0.5), r"Normalize takes intensities out of \[0, 1\].*Pipeline\(normalize=...\)"),
        (kornia.RandomRotation3D(15.0), r"RandomRotation3D is not for batches of images \[B, 3, H, W\]"),
        (kornia.VideoSequential(kornia.RandomHorizontalFlip()), "VideoSequential is not for batches"),
        (lambda images: images, "augment takes modules of kornia.augmentation.*Put a function into the forward"),
        (kornia.RandomHorizontalFlip, "augment takes modules of kornia.augmentation"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_cannot_stand_in_a_pipeline_is_refused(operation: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augment([operation])


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (kornia.RandomPerspective(), "RandomPerspective moves pixels by no affine transform.*use RandomAffine"),
        (kornia.RandomElasticTransform(), "RandomElasticTransform moves pixels by no affine"),
        (kornia.RandomThinPlateSpline(), "RandomThinPlateSpline moves pixels by no affine"),
        (
            kornia.RandomFisheye(torch.tensor([-0.3, 0.3]), torch.tensor([-0.3, 0.3]), torch.tensor([0.9, 1.0])),
            "RandomFisheye moves pixels by no affine",
        ),
        (kornia.RandomJigsaw(), "RandomJigsaw moves pixels by no affine"),
        (
            kornia.PatchSequential(kornia.RandomRotation(9.0), patchwise_apply=False),
            "PatchSequential moves pixels by no affine",
        ),
        (kornia.ImageSequential(kornia.RandomPerspective()), "RandomPerspective moves pixels"),
        (Plain(), "Plain is a module of which nobody can tell.*make it a kornia.augmentation.Intensity"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_no_matrix_describes_is_refused_where_targets_have_places(operation: Any, message: str) -> None:
    augment = Augment([operation])
    augment.check(spatial=False)
    with pytest.raises(ConfigError, match=message):
        augment.check(spatial=True)
    with pytest.raises(ConfigError, match=message):
        augmented([operation])
    assert augment.mixed


def test_without_places_any_module_may_stand_that_keeps_the_shape() -> None:
    images, classes = scene()[0], torch.arange(BATCH)
    result = Augment([Plain(), kornia.RandomPerspective(p=1.0)])(images, classes, seed=0)
    assert result.mixed
    assert result.targets is classes
    with pytest.raises(ConfigError, match=r"Doubled changes the shape of the images from \[10, 3, 96, 128\] to"):
        Augment([Doubled()])(images, classes, seed=0)


def test_a_projective_matrix_of_a_users_operation_is_refused() -> None:
    with pytest.raises(ConfigError, match="Projective moves pixels by a projective matrix"):
        augmented([Projective(p=1.0)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augment(kornia.RandomHorizontalFlip()), "augment must be a sequence.*Put it in a list"),
        (lambda: Augment(kornia.ImageSequential(COLOURS[0])), "augment must be a sequence"),
        (lambda: Ramped(kornia.ColorJiggle(0.1)), "Ramped takes a class and its arguments"),
        (lambda: Ramped(kornia.RandomRotation, Ramp(0, 400)), "cannot be built at the highest resolution: "),
        (lambda: Ramped(kornia.RandomRotation, Ramp(0, 4), q=1), "cannot be built at the lowest resolution: "),
        (
            lambda: Augment([])(torch.zeros(3, 4, 4), seed=0),
            r"images must be uint8, uint16 or floating \[B,C,H,W\]; got",
        ),
        (lambda: Augment([])(torch.zeros(1, 3, 4, 4, dtype=torch.int32), seed=0), "got torch.int32"),
        (lambda: Augment([Mosaic()]).check(spatial=False), "Mosaic needs boxes, masks or label maps"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("operation", [MixUp(num_classes=5), CutMix(num_classes=5)])
def test_mixing_marks_the_batch(operation: Any) -> None:
    result = Augment([operation])(scene()[0], torch.arange(BATCH) % 5, seed=0)
    assert result.mixed
