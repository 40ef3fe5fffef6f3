"""The code in README and docs runs, where the page says so: blocks below a line `<!-- runs -->`, from top to bottom."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from resflow.demo.drawing import CLASSES, drawn_samples
from resflow.images import read_header
from resflow.sources import build_index, index_path, write_index, write_shards

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- runs -->\n+```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(text: str) -> list[tuple[int, str]]:
    """The first line of each block that runs, and its code."""
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in BLOCK.finditer(text)]


def run(path: Path, text: str) -> None:
    """Run a page's blocks in one namespace; lines of errors are those of the page."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for line, code in blocks(text):
        exec(compile("\n" * line + code, str(path), "exec", dont_inherit=True), names)


PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if blocks(path.read_text())
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages' code reads: indexed shards, class folders, the same in a zip, and a COCO file."""
    folder = tmp_path_factory.mktemp("data")
    for part, count in (("train", 96), ("val", 24)):
        drawn = drawn_samples(count, prefix=part)
        (folder / "shards").mkdir(exist_ok=True)
        write_shards(drawn, str(folder / "shards" / f"{part}-%06d.tar"), max_samples=24, max_bytes=1 << 30)
        pattern = f"{folder}/shards/{part}-{{000000..{count // 24 - 1:06d}}}.tar"
        write_index(build_index(pattern, workers=1), index_path(pattern))
    images, annotations = [], []
    (folder / "coco").mkdir()
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for number, sample in enumerate(drawn_samples(24)):
            encoded, name = bytes(sample["jpg"]), f"{sample['__key__']}.jpg"
            place = Path("photos") / CLASSES[number % len(CLASSES)].replace(" ", "-") / name
            (folder / place.parent).mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(encoded)
            archive.writestr(place.as_posix(), encoded)
            (folder / "coco" / name).write_bytes(encoded)
            header = read_header(encoded)
            images.append({"id": number, "file_name": name, "height": header.height, "width": header.width})
            box = [header.width / 4, header.height / 4, header.width / 2, header.height / 2]
            one = {"id": number + 1, "image_id": number, "category_id": 1 + number % 3, "bbox": box, "iscrowd": 0}
            annotations.append(one | {"area": box[2] * box[3]})
    kinds = [{"id": number, "name": f"kind {number}"} for number in (1, 2, 3)]
    found = {"images": images, "annotations": annotations, "categories": kinds}
    (folder / "coco" / "instances.json").write_text(json.dumps(found))
    return folder


@pytest.mark.parametrize("name", PAGES)
def test_a_pages_code_runs(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other cost a small model most of its time
    try:
        run(PAGES[name], PAGES[name].read_text())
    finally:
        torch.set_num_threads(threads)


def test_the_pages_for_newcomers_have_code_that_runs() -> None:
    start = ["docs/start/dataloader.md", "docs/start/streaming.md", "docs/start/detection.md", "docs/extend.md"]
    assert set(start) <= set(PAGES)


def test_a_wrong_block_is_found_and_its_line_told() -> None:
    page = "# A page\n\n```python\nthis is no code\n```\n\n<!-- runs -->\n```python\nx = 1\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run(Path("page.md"), page)
    assert (caught.traceback[-1].lineno, str(caught.traceback[-1].path)[-7:]) == (9, "page.md")
