"""A server of a folder, and its shards as a local source; each module says what is in `folder`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resflow.sources import ShardSource
from tests.servers import HostileServer, hostile_server


@pytest.fixture(scope="module")
def name() -> str:
    return "train-{0000..0002}.tar"


@pytest.fixture
def server(folder: Path) -> Iterator[HostileServer]:
    with hostile_server(folder) as running:
        yield running


@pytest.fixture
def local(folder: Path, name: str) -> ShardSource:
    return ShardSource(f"{folder}/{name}")
