from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from resflow.augment import Augment, Augmented, CopyPaste, CutMix, MixUp, Mosaic
from resflow.augment.mixing import ring
from resflow.errors import ConfigError, TargetError
from resflow.schedules import Ramp
from resflow.targets import Instances, Targets, move_label_maps

BATCH, HEIGHT, WIDTH, CLASSES = 6, 48, 64, 10
ALL = Targets(masks=True, keypoints=True)
SEEDS = range(6)


def grounds(batch: int = BATCH) -> torch.Tensor:
    """Images that tell which they are: image i is i + 1 hundredths in its first channel."""
    images = torch.zeros(batch, 3, HEIGHT, WIDTH)
    images[:, 0] = ((torch.arange(batch) + 1) / 100)[:, None, None]
    return images


def scene(batch: int = BATCH, each: int = 2) -> tuple[torch.Tensor, Instances]:
    """Object m is (m + 1) / 100 in the second channel; its mask is its box, and a keypoint lies on its middle."""
    draw = np.random.default_rng(5)
    images, total = grounds(batch), batch * each
    corner = draw.integers((2, 2), (30, 20), (total, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + draw.integers(8, 25, (total, 2))], 1))
    masks = torch.zeros(total, HEIGHT, WIDTH, dtype=torch.uint8)
    for number in range(total):
        left, top, right, bottom = boxes[number].tolist()
        image = number // each
        masks[image * each : number, top:bottom, left:right] = 0  # the later object lies in front
        masks[number, top:bottom, left:right] = 1
        images[image, 1, top:bottom, left:right] = (number + 1) / 100
    points = torch.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, torch.full((total,), 2)], 1)
    tight = torch.stack([edges(mask) for mask in masks])
    return images, Instances(
        counts=torch.full((batch,), each),
        boxes=tight.float(),
        labels=torch.arange(total) + 1,
        area=masks.sum((1, 2)).float(),
        iscrowd=torch.zeros(total, dtype=torch.int64),
        image_id=torch.arange(batch) + 100,
        visible=torch.ones(total),
        masks=masks,
        keypoints=points[:, None].float(),
    )


def edges(mask: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.where(mask > 0)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def mixed(operation: Any, images: torch.Tensor, targets: Any, seed: int = 0, options: Targets = ALL) -> Augmented:
    return Augment([operation])(images, targets, options=options, seed=seed)


def objects_of(result: Augmented) -> Instances:
    assert isinstance(result.targets, Instances)
    objects = result.targets
    assert int(objects.counts.sum()) == len(objects.boxes) == len(objects.labels) == len(objects.visible)
    assert torch.equal(objects.image_id, torch.arange(len(objects)) + 100)
    return objects


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_partners_are_a_ring(count: int) -> None:
    rings = [ring(count, torch.Generator().manual_seed(seed), 3) for seed in range(20)]
    for partners in rings:
        for shift, partner in enumerate(partners):
            assert sorted(partner.tolist()) == list(range(count))
            if shift % count:
                assert not (partner == torch.arange(count)).any()
    if count > 2:
        assert len({tuple(partners[1].tolist()) for partners in rings}) > 1


@pytest.mark.parametrize("operation", [MixUp(0.8, CLASSES), CutMix(1.0, CLASSES)])
@pytest.mark.parametrize("seed", SEEDS)
def test_class_labels_tell_the_shares_of_the_pixels(operation: Any, seed: int) -> None:
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    result = mixed(operation, grounds(), labels, seed)
    soft = result.targets
    assert isinstance(soft, torch.Tensor)
    assert soft.dtype == torch.float32
    assert soft.shape == (BATCH, CLASSES)
    torch.testing.assert_close(soft.sum(1), torch.ones(BATCH))
    # An image's mean is own * lam + partner's * (1 - lam), and so is a soft label of its image numbers.
    one_hot = Augment([type(operation)(operation.alpha, BATCH)])(grounds(), torch.arange(BATCH), seed=seed).targets
    assert isinstance(one_hot, torch.Tensor)
    expected = one_hot @ ((torch.arange(BATCH) + 1) / 100)
    torch.testing.assert_close(result.images[:, 0].mean((1, 2)), expected)
    torch.testing.assert_close(soft, one_hot @ torch.nn.functional.one_hot(labels, CLASSES).float())
    wrong = result.images[:, 0].flip(0).mean((1, 2))
    assert not torch.allclose(wrong, expected)  # the planted fault: the pixels of others


@pytest.mark.parametrize(("ours", "theirs"), [(MixUp, v2.MixUp), (CutMix, v2.CutMix)])
def test_labels_look_like_torchvisions(ours: Any, theirs: Any) -> None:
    labels = torch.arange(BATCH)
    _, reference = theirs(alpha=1.0, num_classes=CLASSES)(grounds(), labels)
    soft = mixed(ours(1.0, CLASSES), grounds(), labels).targets
    assert isinstance(soft, torch.Tensor)
    assert (soft.dtype, soft.shape) == (reference.dtype, reference.shape)
    assert ((soft > 0).sum(1) <= 2).all()


def test_lam_is_distributed_as_beta() -> None:
    from scipy.stats import beta, kstest

    pair = torch.tensor([0, 1])
    drawn = [
        float(Augment([MixUp(0.4, 2)])(torch.zeros(2, 3, 2, 2), pair, seed=seed).targets[0, 0])  # type: ignore[index]
        for seed in range(150)
    ]
    assert kstest(drawn, beta(0.4, 0.4).cdf).statistic < 0.11


def test_soft_labels_are_mixed_again_and_absent_ones_count_for_nothing() -> None:
    soft = torch.eye(CLASSES)[:BATCH]
    again = mixed(MixUp(1.0), grounds(), soft).targets
    assert isinstance(again, torch.Tensor)
    torch.testing.assert_close(again.sum(1), torch.ones(BATCH))
    some = mixed(MixUp(1.0, CLASSES), grounds(), torch.tensor([0, 1, -100, 3, 4, 5]), seed=1).targets
    assert isinstance(some, torch.Tensor)
    assert (some.sum(1) < 0.9999).sum() == 2


def test_alpha_follows_the_resolution_and_zero_mixes_nothing() -> None:
    images, labels = grounds(), torch.arange(BATCH)
    augment = Augment([MixUp(Ramp(0.0, 1.0), BATCH)])
    low, high = (augment(images, labels, seed=0, progress=progress) for progress in (0.0, 1.0))
    torch.testing.assert_close(low.images, images)
    assert not torch.allclose(high.images, images)
    assert torch.equal(mixed(CutMix(0.0, BATCH), images, labels).images, images)


def test_cutmix_pastes_label_maps_as_the_pixels() -> None:
    maps = torch.arange(BATCH, dtype=torch.uint8)[:, None, None].expand(BATCH, HEIGHT, WIDTH)
    for seed in SEEDS:
        result = mixed(CutMix(1.0), grounds(), maps, seed)
        assert isinstance(result.targets, torch.Tensor)
        assert torch.equal(result.targets, (result.images[:, 0] * 100).round().to(torch.uint8) - 1)


def test_mixup_keeps_the_objects_of_both() -> None:
    images, before = scene()
    result = mixed(MixUp(1.0), images, before)
    objects = objects_of(result)
    assert objects.counts.tolist() == [4] * BATCH
    assert sorted(objects.labels.tolist()) == sorted(before.labels.tolist() * 2)
    for place, image in enumerate(objects.image.tolist()):
        number = int(objects.labels[place]) - 1
        torch.testing.assert_close(objects.boxes[place], before.boxes[number])
        assert before.masks is not None
        assert objects.masks is not None
        assert torch.equal(objects.masks[place], before.masks[number])
        inside = result.images[image, 1][objects.masks[place] > 0]
        assert (inside > 0).all()  # something of the object shows


def owners(result: Augmented) -> torch.Tensor:
    """int64 [B, H, W]: which image of the batch each pixel shows, from the first channel."""
    return (result.images[:, 0] * 100).round().long() - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mosaics_boxes_hold_pixels_of_the_right_image_and_object(seed: int) -> None:
    result = mixed(Mosaic(), *scene(), seed)
    objects, owner = objects_of(result), owners(result)
    assert len(objects.boxes) > BATCH
    assert objects.masks is not None
    assert mosaic_faults(result, objects, owner) == 0
    for image in range(BATCH):
        assert len(owner[image].unique()) == 4
        assert result.valid[image].tolist() == [0, 0, WIDTH, HEIGHT]
        assert owner[image, 0, 0] == image
    for place, mask in enumerate(objects.masks):
        assert (edges(mask) - objects.boxes[place]).abs().max() <= 1
    # the planted fault: boxes of a neighbour
    shifted = Instances(
        **{name: getattr(objects, name) for name in Instances.__slots__} | {"boxes": objects.boxes.roll(1, 0)}
    )
    assert mosaic_faults(result, shifted, owner) > 0


def mosaic_faults(result: Augmented, objects: Instances, owner: torch.Tensor) -> int:
    """How many objects are not at the middle of their box, in pixels of their own image; in front of others is fair."""
    faults = 0
    for place, image in enumerate(objects.image.tolist()):
        left, top, right, bottom = objects.boxes[place].tolist()
        if min(right - left, bottom - top) < 4:
            continue  # antialiasing blends all of it with what is beside
        shown = result.images[image, 1, int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        number = int(objects.labels[place])
        there = (shown * 100 - number).abs() < 0.3
        of_image = owner[image, int((top + bottom) / 2), int((left + right) / 2)] == (number - 1) // 2
        faults += not (bool(there.any()) and bool(of_image))
    return faults


def test_a_mosaics_keypoints_lie_on_their_objects() -> None:
    for seed in SEEDS:
        objects = objects_of(mixed(Mosaic(), *scene(each=1), seed))
        assert objects.keypoints is not None
        seen = objects.keypoints[:, 0, 2] > 0
        assert seen.sum() > BATCH
        x, y = objects.keypoints[seen, 0, 0], objects.keypoints[seen, 0, 1]
        left, top, right, bottom = objects.boxes[seen].T
        assert ((x >= left - 1) & (x <= right + 1) & (y >= top - 1) & (y <= bottom + 1)).all()


def test_a_mosaics_label_maps_follow_and_transform_is_of_the_first() -> None:
    maps = torch.arange(BATCH, dtype=torch.uint8)[:, None, None].expand(BATCH, HEIGHT, WIDTH)
    for seed in SEEDS:
        result = mixed(Mosaic(p=0.7), grounds(), maps, seed)
        assert isinstance(result.targets, torch.Tensor)
        assert torch.equal(result.targets.long(), owners(result))
        for image in range(BATCH):
            corner = result.transform[image] @ torch.tensor([WIDTH, HEIGHT, 1.0])
            x, y = round(float(corner[0])), round(float(corner[1]))
            quarter = owners(result)[image, :y, :x]
            assert (quarter == image).all()
            assert x == WIDTH or (owners(result)[image, :y, x] != image).all()


def test_a_mosaics_label_maps_are_moved_as_every_label_map() -> None:
    maps = torch.randint(0, 200, (1, HEIGHT, WIDTH), dtype=torch.uint8)
    for seed in SEEDS:
        result = mixed(Mosaic(), grounds(1), maps, seed)
        assert isinstance(result.targets, torch.Tensor)
        moved = move_label_maps(maps, result.transform.double(), (HEIGHT, WIDTH), Targets())
        quarter = moved != 255
        assert torch.equal(result.targets[quarter], moved[quarter])
        assert quarter.any()


def test_some_images_stay_as_they_are() -> None:
    images, objects = scene()
    for operation in (Mosaic(p=0.0), CopyPaste(p=0.0)):
        result = mixed(operation, images, objects)
        assert torch.equal(result.images, images)
        torch.testing.assert_close(objects_of(result).boxes, objects.boxes)
        torch.testing.assert_close(result.transform, torch.eye(3).expand(BATCH, 3, 3))


@pytest.mark.parametrize("seed", SEEDS)
def test_pasted_objects_hide_what_is_below(seed: int) -> None:
    images, before = scene()
    result = mixed(CopyPaste(p=1.0), images, before, seed)
    objects, owner = objects_of(result), owners(result)
    assert objects.masks is not None
    assert objects.keypoints is not None
    assert before.keypoints is not None
    assert len(objects.boxes) > len(before.boxes)
    for image in range(BATCH):
        assert objects.masks[objects.image == image].sum(0).max() == 1  # disjoint
    for place, image in enumerate(objects.image.tolist()):
        number, mask = int(objects.labels[place]), objects.masks[place] > 0
        assert (result.images[image, 1][mask] * 100).round().unique().tolist() == [number]
        assert (owner[image][mask] == (number - 1) // 2).all()
        torch.testing.assert_close(objects.boxes[place], edges(mask).float())
        assert objects.area[place] == pytest.approx(int(mask.sum()), rel=1e-4)
        x, y, visibility = objects.keypoints[place, 0].tolist()
        other = result.images[image, 0, int(y), int(x)] != images[(number - 1) // 2, 0, 0, 0]
        assert visibility == (1 if other else 2)
    planted = objects.masks.roll(1, 0) > 0
    assert any(
        (result.images[image, 1][planted[place]] * 100).round().unique().tolist() != [int(objects.labels[place])]
        for place, image in enumerate(objects.image.tolist())
    )


def test_covered_objects_are_dropped_by_the_same_options() -> None:
    lax, strict = (
        [
            objects_of(mixed(CopyPaste(p=1.0), *scene(), seed, Targets(masks=True, keypoints=True, min_visible=share)))
            for seed in SEEDS
        ]
        for share in (0.0, 0.9)
    )
    assert sum(len(objects.boxes) for objects in strict) < sum(len(objects.boxes) for objects in lax)
    assert all((objects.visible >= 0.9).all() for objects in strict)


def test_crowds_are_not_pasted() -> None:
    images, objects = scene()
    objects.iscrowd.fill_(1)
    assert torch.equal(mixed(CopyPaste(p=1.0), images, objects).images, images)


def test_classes_of_pixels_are_pasted_as_the_pixels() -> None:
    images, _ = scene()
    maps = (images[:, 1] * 100).round().to(torch.uint8)
    maps[:, :4] = 255
    images[:, 2] = maps / 255
    for seed in SEEDS:
        result = mixed(CopyPaste(p=1.0), images, maps, seed)
        assert isinstance(result.targets, torch.Tensor)
        assert torch.equal(result.targets, (result.images[:, 2] * 255).round().to(torch.uint8))
        pasted = owners(result) != torch.arange(BATCH)[:, None, None]
        assert pasted.any()
        assert (result.targets[pasted] != 255).all()


@pytest.mark.parametrize("operation", [Mosaic(), MixUp(1.0), CopyPaste(p=1.0)])
def test_a_batch_of_one_and_a_batch_without_objects(operation: Any) -> None:
    one = mixed(operation, *scene(batch=1))
    assert len(objects_of(one).counts) == 1
    none = mixed(operation, *scene_without_objects())
    assert objects_of(none).counts.tolist() == [0] * BATCH


def scene_without_objects() -> tuple[torch.Tensor, Instances]:
    _, objects = scene()
    empty = {
        name: part[:0] if isinstance(part := getattr(objects, name), torch.Tensor) else part
        for name in Instances.__slots__
    }
    empty |= {"counts": torch.zeros(BATCH, dtype=torch.int64), "image_id": objects.image_id}
    return grounds(), Instances(**empty)


def test_classes_of_a_batch_of_one() -> None:
    for operation in (MixUp(1.0, CLASSES), CutMix(1.0, CLASSES)):
        result = mixed(operation, grounds(1), torch.tensor([4]))
        torch.testing.assert_close(result.images, grounds(1))
        torch.testing.assert_close(result.targets, torch.eye(CLASSES)[4:5])


def test_the_seed_alone_decides() -> None:
    for operation in (Mosaic(0.5), MixUp(1.0), CopyPaste()):
        first, again, other = (mixed(operation, *scene(), seed) for seed in (3, 3, 4))
        assert torch.equal(first.images, again.images)
        assert not torch.equal(first.images, other.images)
        assert torch.equal(objects_of(first).boxes, objects_of(again).boxes)


def without_masks() -> Instances:
    objects = scene()[1]
    return Instances(**{name: getattr(objects, name) for name in Instances.__slots__} | {"masks": None})


MAPS = torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("operation", "targets", "message"),
    [
        (MixUp(), MAPS, "MixUp cannot mix label maps: a pixel has one class. Use CutMix"),
        (CutMix(), scene()[1], "CutMix cannot mix boxes.*Use Mosaic, MixUp or CopyPaste"),
        (Mosaic(), torch.arange(BATCH), "Mosaic needs boxes, masks or label maps. For classes of images, use MixUp"),
        (CopyPaste(), None, "CopyPaste needs boxes, masks or label maps"),
        (CopyPaste(), without_masks(), r"there are none. Set Targets\(masks=True\)"),
        (MixUp(), torch.arange(BATCH), r"MixUp needs num_classes.*MixUp\(num_classes=1000\)"),
        (CutMix(1.0, 3), torch.arange(BATCH), r"CutMix\(num_classes=3\) got the classes \[0, 1, 2, 3, 4, 5\]"),
        (
            CutMix(1.0, 3),
            torch.zeros(BATCH, 4),
            r"CutMix mixes classes int64 \[B\], or float \[B,3\]; got torch.float32",
        ),
    ],
)
def test_targets_that_cannot_be_mixed_are_refused(operation: Any, targets: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        mixed(operation, grounds(), targets, options=Targets())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixUp(-1.0), "MixUp.alpha must be a finite number, at least 0; got -1.0"),
        (lambda: CutMix(Ramp(1.0, -1.0)), "CutMix.alpha must be a finite number"),
        (lambda: MixUp(1.0, 0), "MixUp.num_classes must be a whole number above 0"),
        (lambda: Mosaic(1.2), r"Mosaic.p must be a probability in \[0, 1\]; got 1.2"),
        (lambda: CopyPaste(Ramp(0, 2)), "CopyPaste.p must be a probability"),
        (
            lambda: Augment([CopyPaste()]).check(spatial=False),
            r"CopyPaste needs masks or label maps. Set Pipeline\(targets=Targets\(masks=True\)\)",
        ),
        (lambda: Augment([Mosaic()]).check(spatial=False), r"Mosaic needs .*Set Pipeline\(targets=Targets\(\)\)"),
    ],
)
def test_wrong_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
