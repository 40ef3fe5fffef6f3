"""What loops do with a batch: unpack it, index it, ask its length, give it to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

import resflow as rf
from resflow.errors import ConfigError

COUNT = 6


class Dataset:
    """Images and what a function gives beside them."""

    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> Any:
        return self.item(Image.new("RGB", (64, 48), (number, 0, 0)), number)


PIPELINE = rf.Pipeline(resolution=32, buckets=1, fit=rf.Fit.stretch(), normalize=rf.IMAGENET)


def pair(image: Image.Image, number: int) -> Any:
    return image, number


def first(item: Any = pair, *, pipeline: rf.Pipeline = PIPELINE, **arguments: Any) -> Any:
    return next(iter(rf.DataLoader(Dataset(item), 4, pipeline=pipeline, **arguments)))


def test_a_batch_is_indexed_like_its_pair() -> None:
    batch = first()
    images, targets = batch
    assert batch[0] is images
    assert batch[1] is targets
    assert batch[-1] is targets
    assert batch[:] == (images, targets)
    assert len(batch) == 4
    with pytest.raises(IndexError, match=r"by 0 and 1; got 2\. len\(batch\) is the number of its images, 4"):
        batch[2]


def test_the_plain_pair_is_one_argument_away() -> None:
    batch = first(collate_fn=tuple)
    assert type(batch) is tuple
    assert len(batch) == 2
    assert isinstance(first(collate_fn=default_collate), rf.Batch)


def test_a_batch_given_to_a_model_says_what_to_do() -> None:
    batch = first()
    with pytest.raises(TypeError, match=r"conv2d takes tensors; got a Batch\. Unpack it .*collate_fn=tuple"):
        torch.nn.Conv2d(3, 4, 3)(batch)
    with pytest.raises(AttributeError, match=r"no attribute 'shape'\. A tensor has it: unpack it"):
        batch.shape  # noqa: B018
    assert not hasattr(batch, "shape")


def test_collate_functions_of_samples_are_told_what_they_are_given() -> None:
    with pytest.raises(ValueError, match="unpack") as caught:
        first(collate_fn=lambda samples: torch.stack([image for image, _, _ in samples]))
    assert "given a finished Batch, not a list of samples" in str(caught.value.__notes__)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("normalize", [None, rf.IMAGENET])
def test_images_lie_in_memory_as_pytorchs_do(normalize: rf.Normalize | None, workers: int) -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        pipeline = rf.Pipeline(resolution=32, buckets=1, normalize=normalize, memory_format=memory_format)
        images = first(pipeline=pipeline, num_workers=workers).images
        assert images.is_contiguous(memory_format=memory_format)
    default = first(pipeline=rf.Pipeline(resolution=32, buckets=1, normalize=normalize)).images
    assert torch.equal(default.view(4, -1), images.reshape(4, -1))


def test_memory_format_after_augmentation(tmp_path: Path) -> None:
    import kornia.augmentation as kornia

    augment = [kornia.RandomGrayscale(p=1.0)]
    assert first(pipeline=rf.Pipeline(resolution=32, buckets=1, augment=augment)).images.is_contiguous()
    path = tmp_path / "pipeline.yaml"
    path.write_text("resolution: 32\nmemory_format: channels_last\n")
    assert rf.Pipeline.from_yaml(path).memory_format == torch.channels_last
    path.write_text("resolution: 32\nmemory_format: nchw\n")
    with pytest.raises(ConfigError, match=r":2: memory_format must be one of .*; got 'nchw'"):
        rf.Pipeline.from_yaml(path)
    with pytest.raises(ConfigError, match=r"memory_format must be torch.contiguous_format or torch.channels"):
        rf.Pipeline(resolution=32, memory_format="channels_last")  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_dicts_are_collated_as_pytorch_does(workers: int) -> None:
    def item(image: Any, number: int) -> dict[str, Any]:
        return {"image": image, "label": number, "weight": number / 2, "name": str(number), "more": {"a": number}}

    batch = first(item, num_workers=workers)
    expected = default_collate([{k: v for k, v in item(None, i).items() if k != "image"} for i in range(4)])
    assert batch.targets.keys() == expected.keys()
    for name in ("label", "weight"):
        assert torch.equal(batch[name], expected[name])
        assert batch[name].dtype == expected[name].dtype
    assert batch["name"] == expected["name"]
    assert torch.equal(batch["more"]["a"], expected["more"]["a"])
    assert batch["image"] is batch.images
    with pytest.raises(KeyError, match=r"batch\['label'\].*got 'labels'"):
        batch["labels"]


def test_a_dict_of_two_is_indexed_by_its_keys() -> None:
    batch = first(lambda image, number: {"label": number, "pixel_values": image})
    assert batch["pixel_values"] is batch.images
    assert batch["label"].tolist() == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        first()["label"]


def test_dict_targets_of_a_pair() -> None:
    targets = first(lambda image, number: (image, {"y": number, "ragged": torch.zeros(number)})).targets
    assert targets["y"].tolist() == [0, 1, 2, 3]
    assert [len(one) for one in targets["ragged"]] == [0, 1, 2, 3]


def test_blank_places_in_dicts() -> None:
    def item(image: Any, number: int) -> dict[str, Any]:
        return {"image": b"no image" if number == 1 else image, "label": number, "name": str(number)}

    pipeline = rf.Pipeline(resolution=32, buckets=1, on_error=rf.Skip(budget=0.5))
    batch = first(item, pipeline=pipeline, sizes=[[48, 64]] * COUNT)
    assert batch["label"].tolist() == [0, -100, 2, 3]
    assert batch["name"] == ["0", None, "2", "3"]
