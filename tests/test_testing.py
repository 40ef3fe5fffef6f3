"""The fakes keep the contracts of what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resflow import DataLoader, Fit, Pipeline, Skip
from resflow.decode import open_engine, register_engine
from resflow.decode.registry import EngineOptions
from resflow.errors import DecodeError, SampleError
from resflow.geometry import Geometry
from resflow.geometry.affine import scale_translate
from resflow.images import read_header
from resflow.sources import NO_TARGET, Source
from resflow.testing import ArrayDecoder, MemorySource
from tests.decode import samples

SIZES = [(40, 60), (50, 30), (7, 9)]
IMAGES = [np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8) for seed, size in enumerate(SIZES)]


def test_a_source_in_memory_is_a_source_that_notes_what_is_read() -> None:
    source = MemorySource([*IMAGES, samples.jpeg(24, 40)], targets="abcd")
    assert isinstance(source, Source)
    assert source.index.size.tolist() == [*map(list, SIZES), [24, 40]]
    assert source.name(2) == ("MemorySource", "2")
    read = source.read(np.array([3, 0, 0]))
    assert [sample.target for sample in read] == ["d", "a", "a"]
    assert read_header(bytes(read[0].image)).height == 24
    assert np.array_equal(read[1].image, IMAGES[0])
    source.read(np.array([1]))
    assert source.reads == [[3, 0, 0], [1]]
    source.close()
    assert source.closed == 1
    assert MemorySource(IMAGES).read(np.array([0]))[0].target is NO_TARGET
    with pytest.raises(ValueError, match="shorter"):
        MemorySource(IMAGES, targets=[1])


def test_a_fault_is_raised_where_its_sample_is_read_and_costs_that_sample_alone() -> None:
    source = MemorySource(IMAGES, range(3), faults={1: SampleError("gone", shard="memory", key="1")})
    with pytest.raises(SampleError, match="gone"):
        source.read(np.array([0, 1]))
    assert len(source.read(np.array([0, 2]))) == 2
    pipeline = Pipeline(resolution=32, targets="class", on_error=Skip(budget=1.0))
    loader = DataLoader(source, batch_size=3, pipeline=pipeline)
    labels = [label for batch in loader for label in batch.targets.tolist()]
    assert sorted(labels) == [-100, 0, 2]


@pytest.mark.parametrize("mirrored", [False, True])
def test_arrays_are_placed_as_the_reference_places_their_nearest_pixels(mirrored: bool) -> None:
    size = np.array(SIZES, np.int32)
    matrix = Fit(max_crop=0.2).place(size, (32, 48))
    if mirrored:
        matrix = scale_translate(np.array([[-1.0, 1.0]] * 3), np.array([[48.0, 0.0]] * 3)) @ matrix
    where, fill = Geometry(matrix, size, (32, 48)), (9, 8, 7)
    decoder, out = ArrayDecoder(EngineOptions(fill=fill)), torch.empty(3, 3, 32, 48, dtype=torch.uint8)
    placed = decoder.decode(IMAGES, where, out.contiguous(memory_format=torch.channels_last))
    assert torch.equal(placed, open_engine("pillow", fill=fill).decode(IMAGES, where, interpolation="nearest"))
    shifted = scale_translate(np.ones((3, 2)), np.ones((3, 2))) @ matrix  # the check sees a pixel
    assert not torch.equal(placed, decoder.decode(IMAGES, Geometry(shifted, size, (32, 48))))
    assert decoder.batches == [3, 3]


def test_encoded_images_and_other_sizes_are_refused_by_position() -> None:
    where = Geometry(np.eye(3)[None].repeat(2, 0), np.array([[40, 60], [24, 40]], np.int32), (8, 8))
    with pytest.raises(DecodeError, match="image 1 of the batch is encoded") as caught:
        ArrayDecoder().decode([IMAGES[0], samples.jpeg(24, 40)], where)
    assert caught.value.position == 1
    with pytest.raises(DecodeError, match="it is 50x30"):
        ArrayDecoder().decode([IMAGES[0], IMAGES[1]], where)


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "fork"), (1, "spawn")])
def test_both_serve_a_loader(workers: int, context: str | None) -> None:
    register_engine("array", ArrayDecoder)
    pipeline = Pipeline(resolution=32, targets="class", engine="array", normalize=None)
    loader = DataLoader(
        MemorySource(IMAGES, range(3)), 2, num_workers=workers, multiprocessing_context=context, pipeline=pipeline
    )
    for batch in loader:
        images = [IMAGES[label] for label in batch.targets.tolist()]
        placed = ArrayDecoder(EngineOptions(fill=pipeline.fit.fill)).decode(images, batch.geometry)
        assert (batch.images == placed).float().mean() > 0.99  # the batch's matrix has float32's digits
    assert len(loader) == 2
