"""What is drawn on a contact sheet's tiles: targets, padding, transforms."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from resflow.batch import Batch
from resflow.geometry import Geometry
from resflow.viz import contact_sheet
from resflow.viz.captions import transform_text
from resflow.viz.content import Objects, Shown, shown
from resflow.viz.overlay import Tile, with_label_map, with_masks
from resflow.viz.plotting import DPI, class_colour, class_name, ink_on, load_matplotlib, text_width, wrap
from resflow.viz.tile import draw_tile

SHAPE = (120, 180)
BOXES = torch.tensor([[20.0, 30.0, 90.0, 100.0], [100.0, 10.0, 160.0, 60.0]])


def turned(
    angle: float, mirror: bool, scale: tuple[float, float], place: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Mirror left to right, scale, turn clockwise on the screen, move."""
    radians = np.radians(angle)
    matrix = np.eye(3)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    matrix[:2, :2] = turn @ np.diag([-scale[0] if mirror else scale[0], scale[1]])
    matrix[:2, 2] = place
    return matrix


def make_batch(targets: object, count: int = 2, matrix: npt.NDArray[np.float64] | None = None) -> Batch:
    matrix = np.tile(np.eye(3) if matrix is None else matrix, (count, 1, 1))
    size = np.full((count, 2), SHAPE, np.int32)
    geometry = Geometry(matrix, size, SHAPE)
    return Batch(
        images=torch.zeros((count, 3, *SHAPE), dtype=torch.uint8),
        targets=targets,
        transform=torch.from_numpy(matrix).float(),
        valid=torch.from_numpy(geometry.valid),
        source_size=torch.from_numpy(size),
        sample_ids=torch.arange(count),
        keys=tuple(map(str, range(count))),
        resolution=144,
    )


def rendered(batch: Batch, one: Shown, path: Path, **options: Any) -> npt.NDArray[np.int64]:
    """The first tile alone, one pixel for each of the batch's: int64 [H, W, 3]."""
    figure_class, patches, _ = load_matplotlib()
    height, width = (side / DPI for side in SHAPE)
    figure = figure_class(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    tile = Tile(0.0, 0.0, width, height, 1 / DPI)
    image = batch.images[0].permute(1, 2, 0).numpy()
    draw_tile(axes, patches, batch, 0, image, one, [], tile, **{"classes": None, "ignore_index": 255} | options)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    figure.savefig(path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.int64)


def near(picture: npt.NDArray[np.int64], label: int) -> npt.NDArray[np.bool_]:
    """Pixels of a class's colour."""
    return np.asarray(np.abs(picture - np.round(255 * np.array(class_colour(label)))).max(axis=2) < 30)


def box_errors(picture: npt.NDArray[np.int64], boxes: npt.NDArray[Any], labels: list[int]) -> list[float]:
    """How far each frame lies from where it should, in pixels, at the worst side."""
    errors = []
    for box, label in zip(boxes.tolist(), labels, strict=True):
        rows, columns = np.nonzero(near(picture, label))
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        errors.append(float(np.abs(np.array(found) - box).max()))
    return errors


def of_boxes(boxes: torch.Tensor = BOXES) -> Objects:
    (one,) = shown(make_batch([{"boxes": boxes}], 1))
    assert one.objects is not None
    return one.objects


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    numbers = [0, 1]  # without labels there are no names beside the boxes, and each box has a colour of its own
    picture = rendered(make_batch(None), Shown(objects=of_boxes()), tmp_path / "a.png")
    assert max(box_errors(picture, BOXES.numpy(), numbers)) <= 2
    assert max(box_errors(picture, BOXES.numpy() + 5, numbers)) > 2  # the check can fail
    crowd = dataclasses.replace(of_boxes(), iscrowd=np.array([True, False]))
    dashed = rendered(make_batch(None), Shown(objects=crowd), tmp_path / "b.png")
    assert near(dashed, 0).sum() < 0.8 * near(picture, 0).sum()
    assert near(dashed, 1).sum() == near(picture, 1).sum()


def test_a_box_has_its_name_and_crowded_names_do_not_pile_up(tmp_path: Path) -> None:
    named = dataclasses.replace(of_boxes(), labels=np.array([0, 1]))
    bare = rendered(make_batch(None), Shown(objects=of_boxes()), tmp_path / "a.png")
    picture = rendered(make_batch(None), Shown(objects=named), tmp_path / "b.png", classes={0: "cat", 1: "a $dog$"})
    assert near(picture, 0).sum() > near(bare, 0).sum() + 50
    many = of_boxes(BOXES[:1].repeat(40, 1))
    many = dataclasses.replace(many, labels=np.zeros(40, np.int64))
    crowded = rendered(make_batch(None), Shown(objects=many), tmp_path / "c.png", classes=["cat"])
    assert near(crowded, 0).mean() < 0.25


def test_visible_keypoints_are_discs_hidden_ones_rings_and_others_nothing(tmp_path: Path) -> None:
    def picture(*visibility: int) -> npt.NDArray[np.int64]:
        points = np.array([[[40.0 + 50 * place, 60.0, seen] for place, seen in enumerate(visibility)]])
        objects = Objects(np.array([[1.0, 1, 5, 5]]), None, np.zeros(1, np.bool_), None, points)
        return rendered(make_batch(None), Shown(objects=objects), tmp_path / "k.png")

    drawn = picture(2, 1, 0)
    assert drawn[59:61, 39:41].sum() > 500  # the disc's middle
    assert drawn[59:61, 89:91].sum() < 200  # the ring's
    assert drawn[52:68, 82:98].sum() > 2000  # the ring
    assert drawn[52:68, 132:148].sum() == 0


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("angle", [0, 12, -35, 90, 170])
def test_hatching_covers_what_shows_no_image(angle: float, mirror: bool, tmp_path: Path) -> None:
    matrix = turned(angle, mirror, (0.6, 0.7), (0, 0))
    matrix[:2, 2] = np.array([90, 60]) - matrix[:2, :2] @ np.array([90, 60])
    batch = make_batch(None, 1, matrix)
    hatched = rendered(batch, Shown(), tmp_path / "h.png").sum(axis=2) > 250
    outside = ~batch.geometry.valid_mask()[0]
    assert (hatched != outside).mean() < 0.03
    assert (hatched != outside[:, ::-1]).mean() > 0.03 or angle in (0, 90)  # the check can fail
    assert outside.mean() > 0.4


def test_a_mixed_batch_is_hatched_by_its_valid_part_alone(tmp_path: Path) -> None:
    batch = dataclasses.replace(make_batch(None, 1, turned(20, False, (1, 1), (0, 0))), mixed=True)
    batch = dataclasses.replace(batch, valid=torch.tensor([[0, 0, 180, 60]], dtype=torch.int32))
    picture = rendered(batch, Shown(), tmp_path / "m.png").sum(axis=2)
    assert (picture[62:-2, 2:-2] > 250).all()
    assert (picture[2:58, 2:-2] == 0).all()


def test_transforms_are_told_in_words() -> None:
    grid = itertools.product((0, 30, -75, 120), (False, True), ((0.5, 0.5), (2.0, 0.25)))
    for angle, mirror, scale in grid:
        matrix = turned(angle, mirror, scale, (0, 0))
        corners = np.array([[0, 0], [80, 0], [0, 40], [80, 40]]) @ matrix[:2, :2].T
        matrix[:2, 2] = np.array([7, -9]) - corners.min(axis=0)
        expected = ["\u00d70.5" if scale[0] == scale[1] else "\u00d72,0.25"]
        expected += ["\u2194"] * mirror
        expected += [("\u21bb" if angle > 0 else "\u21ba") + f"{abs(angle)}\u00b0"] * (angle != 0)
        assert transform_text(matrix, (40, 80)) == (*expected, "at 7,-9")
    upside_down = np.array([[1.0, 0, 0], [0, -1, 40], [0, 0, 1]])
    assert transform_text(upside_down, (40, 80)) == ("\u00d71", "\u2195", "at 0,0")
    assert transform_text(np.diag([-1.0, -1.0, 1.0]), (40, 80)) == ("\u00d71", "\u21bb180\u00b0", "at -80,-40")
    sheared = np.array([[1.0, np.tan(np.radians(20)), 0], [0, 1, 0], [0, 0, 1]])
    assert "shear 20\u00b0" in transform_text(sheared, (40, 80))


def padded(masks: bool = False) -> dict[str, torch.Tensor]:
    boxes = torch.zeros(2, 3, 4)
    boxes[1, :2] = BOXES
    targets = {
        "count": torch.tensor([0, 2]),
        "boxes": boxes,
        "labels": torch.tensor([[0, 0, 0], [3, 4, 0]]),
        "iscrowd": torch.tensor([[0, 0, 0], [0, 1, 0]]),
        "image_id": torch.tensor([5, 6]),
    }
    return targets | ({"masks": torch.ones(2, 3, *SHAPE, dtype=torch.uint8)} if masks else {})


def test_targets_of_each_kind_are_known() -> None:
    names = ["cat", "dog"]
    assert [one.caption for one in shown(make_batch(torch.tensor([1, 7])), names)] == ["dog", "7"]
    mixed = torch.tensor([[0.3, 0.7, 0.0], [1.0, 0.0, 0.0]])
    assert [one.caption for one in shown(make_batch(mixed), names)] == ["dog 70% + cat 30%", "cat 100%"]
    maps = torch.randint(0, 5, (2, *SHAPE))
    for one, label_map in zip(shown(make_batch(maps)), maps, strict=True):
        np.testing.assert_array_equal(one.label_map, label_map.numpy())

    boxes = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=SHAPE)  # type: ignore[call-overload]
    masks = tv_tensors.Mask(torch.ones(2, *SHAPE, dtype=torch.uint8))
    listed = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}, {"boxes": boxes, "masks": masks}]
    for targets in (padded(True), listed):
        empty, full = (one.objects for one in shown(make_batch(targets)))
        assert empty is not None
        assert full is not None
        assert (len(empty), len(full)) == (0, 2)
        np.testing.assert_array_equal(full.boxes, BOXES.numpy())
        assert full.masks is not None
        assert full.masks.all()
        assert full.masks.shape == (2, *SHAPE)
    full = shown(make_batch(padded()))[1].objects
    assert full is not None
    assert full.labels is not None
    assert full.labels.tolist() == [3, 4]
    assert full.iscrowd.tolist() == [False, True]
    assert full.masks is None


@pytest.mark.parametrize(
    "targets",
    [
        None,
        "text",
        ["a", "b"],
        {"caption": ["a", "b"]},
        torch.zeros(5),
        torch.zeros(2, 3, 4, 5),
        [{"boxes": torch.zeros(3)}, {"labels": torch.zeros(2)}],
        {"count": torch.tensor([1, 1]), "boxes": torch.zeros(2, 1)},
        {"count": torch.tensor([1, 1]), "boxes": torch.zeros(2)},
        {"count": torch.tensor(1), "boxes": torch.zeros(2, 1, 4)},
        torch.tensor(3),
    ],
)
def test_targets_of_no_known_kind_are_left_out(targets: object, tmp_path: Path) -> None:
    assert all(map(_bare, shown(make_batch(targets))))
    contact_sheet([make_batch(targets)], tmp_path / "a.png")


def _bare(one: Shown) -> bool:
    return one.caption == "" and one.objects is None and one.label_map is None


def test_masks_are_translucent_with_an_edge_and_leave_the_rest() -> None:
    masks = np.zeros((1, *SHAPE), np.bool_)
    masks[0, 20:60, 30:90] = True
    objects = Objects(np.array([[30.0, 20, 90, 60]]), np.array([4]), np.zeros(1, np.bool_), masks, None)
    image = np.full((*SHAPE, 3), 200, np.uint8)
    painted = with_masks(image, objects, 1 / 72)
    colour = 255 * np.array(class_colour(4))
    np.testing.assert_array_equal(painted[~masks[0]], image[~masks[0]])
    np.testing.assert_allclose(painted[40, 60], 200 + 0.45 * (colour - 200), atol=1)
    np.testing.assert_allclose(painted[20, 60], colour, atol=1)
    assert (image == 200).all()


def test_label_maps_are_coloured_and_ignored_pixels_are_grey() -> None:
    label_map = np.zeros(SHAPE, np.int64)
    label_map[:40], label_map[80:], label_map[:, :10] = 3, 255, -100
    image = np.full((*SHAPE, 3), 100, np.uint8)
    painted = with_label_map(image, label_map, 255, 1 / 72)
    for label in (0, 3):
        colours = painted[label_map == label]
        np.testing.assert_allclose(colours, np.broadcast_to(colours[0], colours.shape))
        np.testing.assert_allclose(colours[0], 100 + 0.55 * (255 * np.array(class_colour(label)) - 100), atol=1)
    ignored = painted[(label_map == 255) | (label_map == -100)]
    assert (ignored[:, 0] == ignored[:, 1]).all()
    assert (ignored[:, 0] == ignored[:, 2]).all()
    assert len(np.unique(ignored)) == 2  # stripes


def test_colours_are_bright_and_those_of_neighbours_differ() -> None:
    colours = np.array([class_colour(number) for number in range(100)])
    assert (colours @ np.array([0.299, 0.587, 0.114]) >= 0.47).all()
    assert colours.max() <= 1
    assert np.abs(np.diff(colours, axis=0)).max(axis=1).min() > 0.3
    assert {ink_on((1.0, 1.0, 1.0)), ink_on((0.0, 0.0, 0.0))} == {"black", "white"}


def test_names_and_lines() -> None:
    assert [class_name(1, classes) for classes in (None, ["a", "b"], {1: "c"}, ["a"], {0: "a"})] == [
        *("1", "b", "c", "1", "1")
    ]
    parts = ["427\u00d7640", "\u2192 640\u00d7864", "\u00d71.35", "at 0,13"]
    for width in (0.3, 0.8, 1.5, 5):
        lines = wrap(parts, width, 6.5)
        assert all(text_width(line, 6.5) <= width for line in lines)
        if width >= 0.8:
            assert "  ".join(lines).split() == " ".join(parts).split()
    assert len(wrap(parts, 5, 6.5)) == 1


@pytest.mark.parametrize("tiles", [None, 1, 7])
def test_a_sheet_takes_batches_of_all_kinds(tmp_path: Path, tiles: int | None) -> None:
    batches = [
        make_batch(targets) for targets in (padded(True), torch.randint(0, 4, (2, *SHAPE)), torch.tensor([0, 1]))
    ]
    empty = make_batch(None, 1)
    empty = dataclasses.replace(
        empty,
        **{
            name: getattr(empty, name)[:0]
            for name in ("images", "transform", "valid", "source_size", "sample_ids", "keys")
        },
    )
    path = contact_sheet([*batches, empty], tmp_path / "a.png", tiles=tiles, classes={0: "cat"})
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 20
