"""Shards in a Google Cloud Storage of one bucket, served here. Skipped without gcsfs: pip install 'resflow[gs]'."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from resflow.sources import ShardSource, ShardStream, Store
from resflow.storage import fsspec_store
from tests.storage.remote_sets import check_equal, fails_within, make_served, plain

# By default gcsfs first asks Google itself, by gRPC, what kind of bucket it is; nothing here answers that.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
pytest.importorskip("gcsfs", reason="needs gcsfs: pip install 'resflow[gs]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Google's packages

URL = "gs://bucket/set/train-{0000..0002}.tar"


class Cloud(http.server.ThreadingHTTPServer):
    """Serves a folder as `bucket/set`; `status`, where it is set, is the answer to requests for a shard's bytes."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.generation, self.status = folder, "1", 0
        super().__init__(("127.0.0.1", 0), _Answers)

    def handle_error(self, *_: object) -> None:
        """Clients that go away are no fault."""

    def store(self, deadline: float = 10) -> Store:
        address = f"http://127.0.0.1:{self.server_port}"
        return Store(deadline=deadline, options={"token": "anon", "endpoint_url": address, "project": "SECRET"})


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Cloud
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        place = re.fullmatch(r"/(?:download/)?storage/v1/b/bucket/o/set%2F(.+)", address.path)
        path = self.server.folder / unquote(place[1]) if place else Path("/nowhere")
        if not path.is_file():
            return self.answer(404, b"{}")
        data = path.read_bytes()
        if "alt=media" not in address.query:
            about = {"name": f"set/{path.name}", "size": str(len(data)), "generation": self.server.generation}
            return self.answer(200, json.dumps(about | {"etag": f"E{self.server.generation}"}).encode())
        if self.server.status and path.suffix == ".tar":
            return self.answer(self.server.status, b'{"error": {"message": "no, SECRETtoken"}}')
        start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())  # type: ignore[union-attr]
        return self.answer(206, data[start : end + 1])

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    make_served(tmp_path)
    with Cloud(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_reads_and_streams_are_equal_to_local_ones(cloud: Cloud) -> None:
    local = ShardSource(f"{cloud.folder}/{Path(URL).name}")
    remote = ShardSource(URL, store=cloud.store())
    check_equal(remote, local)
    assert plain(list(ShardStream(URL, store=cloud.store()))) == plain(local.read(np.arange(12)))
    remote.close()


def test_an_object_that_changes_or_goes_is_noticed(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec_store, "_LOOK", 0.0)
    remote = ShardSource(URL, store=cloud.store())
    remote.read(np.array([0, 5]))
    cloud.generation = "2"
    with fails_within(10, "its ETag is etag E2, etag E1 when it was first read: the shard changed"):
        remote.read(np.array([1]))
    (cloud.folder / "train-0001.tar").unlink()
    with fails_within(10, "there is no such file"):
        remote.read(np.array([5]))
    remote.close()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"HTTP status 401 \(Unauthorized\): credentials are missing, wrong or expired"),
        (403, r"refused: Forbidden: (?s:.*)\. Check the credentials"),
        (503, "deadline of 2 s"),
        (429, "deadline of 2 s"),
    ],
)
def test_what_is_refused_is_a_typed_error_in_time(cloud: Cloud, status: int, message: str) -> None:
    remote = ShardSource(URL, store=cloud.store(deadline=2))
    cloud.status = status
    with fails_within(
        0.5 if status in (401, 403) else 2, rf"^gs://bucket/set/train-0000\.tar at byte \d+: (?s:.*){message}"
    ):
        remote.read(np.array([0]))
    remote.close()
