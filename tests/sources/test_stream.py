from __future__ import annotations

import http.server
import tarfile
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.utils.data

from resflow.errors import ConfigError, HeaderError, ShardError
from resflow.plan import World
from resflow.sources import Sample, Store
from resflow.sources.stream import ShardStream, read_shard, stream_names


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `folder`; the first part of the address says how it misbehaves."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        how, _, name = self.path.strip("/").partition("/")
        if how == "html":
            self._answer(b"<!doctype html><title>Sign in</title>" + b" " * 2000)
        elif how == "broken":
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif not (path := self.folder / name).is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            data = path.read_bytes()
            announced = None if how == "unannounced" else len(data)
            cut = int(how) if how.isdigit() else len(data)
            if how.startswith("unannounced-"):
                announced, cut = None, int(how.removeprefix("unannounced-"))
            self._answer(data[:cut], announced)

    def _answer(self, data: bytes, announced: int | None = -1) -> None:
        self.send_response(200)
        if announced is not None:
            self.send_header("Content-Length", str(len(data) if announced == -1 else announced))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[str]:
    """The address of a server of tmp_path, to be followed by how it is to behave."""
    handler = type("Here", (Handler,), {"folder": tmp_path})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def contents(samples: Iterator[Sample]) -> list[tuple[str, list[tuple[str, bytes]], bytes]]:
    return [(s.key, sorted((name, bytes(data)) for name, data in s.members.items()), bytes(s.image)) for s in samples]


def by_tarfile(path: Path) -> list[tuple[str, list[tuple[str, bytes]], bytes]]:
    """The samples of a shard as Python's tarfile reads them."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as archive:
        for info in archive:
            folder, _, base = info.name.rpartition("/")
            stem, _, extension = base.partition(".")
            file = archive.extractfile(info)
            assert file is not None
            found.setdefault(f"{folder}/{stem}", {})[extension.lower()] = file.read()
    return [(key, sorted(members.items()), members["jpg"]) for key, members in found.items()]


@pytest.mark.parametrize("where", ["disk", "http with a length", "http without", "memory"])
def test_samples_are_those_that_tarfile_reads(make_shards: Callable[..., list[Path]], serve: str, where: str) -> None:
    [path] = make_shards(1, each=9)
    expected = by_tarfile(path)
    assert len(expected) == 9
    names = {"disk": str(path), "http with a length": f"{serve}/whole/{path.name}"}
    names["http without"] = f"{serve}/unannounced/{path.name}"
    if where == "memory":
        import fsspec

        fsspec.filesystem("memory").pipe("/stream-test.tar", path.read_bytes())
        names["memory"] = "memory://stream-test.tar"
    assert contents(read_shard(names[where])) == expected
    assert contents(read_shard(names[where])) == expected


def test_the_comparison_with_tarfile_catches_a_planted_fault(make_shards: Callable[..., list[Path]]) -> None:
    [path] = make_shards(1, each=3)
    found = contents(read_shard(str(path)))
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        data[archive.getmember("part0/s0001.jpg").offset_data + 20] ^= 1  # which no checksum guards
    path.write_bytes(data)
    assert by_tarfile(path) != found
    assert contents(read_shard(str(path))) == by_tarfile(path)


@pytest.mark.parametrize("how", ["", "unannounced-"])
def test_a_connection_that_ends_early_is_never_a_silent_end(
    make_shards: Callable[..., list[Path]], serve: str, how: str
) -> None:
    [path] = make_shards(1, each=3)
    size = path.stat().st_size
    cuts = [0, 1, 511, 512, 513, 1024, size // 2, size - 10_240, size - 1024, size - 1]
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512  # of the last member's blocks; two blocks of zeros must follow
    for cut in [*cuts, end, end + 512]:
        address = f"{serve}/{how}{cut}/{path.name}"
        if how and cut >= end + 1024:  # nobody can know that more padding was to come
            assert len(list(read_shard(address))) == 3
            continue
        with pytest.raises(ShardError) as caught:
            list(read_shard(address, Store(retries=0)))
        assert caught.value.shard == address
        assert caught.value.offset is not None
        assert 0 <= caught.value.offset <= -(-cut // 512) * 512
        assert str(caught.value).startswith(f"{address} at byte ")


def test_a_file_that_is_cut_short_is_never_a_silent_end(make_shards: Callable[..., list[Path]]) -> None:
    [path] = make_shards(1, each=2)
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for cut in range(0, end + 1024, 97):
        path.write_bytes(data[:cut])
        with pytest.raises(ShardError, match=r"at byte \d+: truncated"):
            list(read_shard(str(path)))
    path.write_bytes(data[: end + 1024])
    assert len(list(read_shard(str(path)))) == 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("html", r"at byte 0: damaged header: the header's checksum does not match, so this is not a tar archive"),
        ("broken", r"at byte 0: cannot be read: HTTP status 500 .*Check the address and the connection"),
        ("whole/missing", r"at byte 0: cannot be read: there is no such file \(HTTP status 404\)"),
    ],
)
def test_what_is_no_shard_is_refused_naming_the_address(serve: str, how: str, message: str) -> None:
    address = f"{serve}/{how}/train.tar"
    with pytest.raises(ShardError, match=f"^{address} {message}"):
        list(read_shard(address, Store(retries=0)))


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ShardError, match=r"^http://127\.0\.0\.1:1/a\.tar at byte 0: cannot be read: .*Connect"):
        list(read_shard("http://127.0.0.1:1/a.tar", Store(retries=1)))


def test_a_damaged_header_in_the_middle_is_named(make_shards: Callable[..., list[Path]], serve: str) -> None:
    [path] = make_shards(1, each=4)
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[5].offset
    data = bytearray(path.read_bytes())
    data[offset + 3] ^= 0xFF
    path.write_bytes(data)
    for name in (str(path), f"{serve}/whole/{path.name}"):
        samples = read_shard(name)
        with pytest.raises(ShardError, match=f"at byte {offset}: damaged header"):
            list(samples)


def test_a_sample_without_an_image_and_an_empty_shard_are_named(make_tar: Callable[..., Path]) -> None:
    with pytest.raises(HeaderError, match=r"no image among its members \['cls'\].*a\.tar/x"):
        list(read_shard(str(make_tar("a.tar", [("x.cls", b"1")]))))
    with pytest.raises(ShardError, match="holds no samples"):
        list(read_shard(str(make_tar("b.tar", [("README", b"1")]))))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "shuffle_buffer": 5}])
def test_each_sample_comes_once_over_all_ranks_and_workers(
    make_shards: Callable[..., list[Path]], ranks: int, workers: int, options: dict
) -> None:
    paths = make_shards(7, each=5)
    expected = Counter(f"{path}/{key}" for path in paths for key, _, _ in by_tarfile(path))
    found: list[str] = []
    for rank in range(ranks):
        stream = ShardStream(paths, world=World(rank, ranks), **options)
        loader = torch.utils.data.DataLoader(Names(stream), batch_size=None, num_workers=workers)
        found += list(loader)
    assert Counter(found) == expected
    assert Counter(found[1:]) != expected


class Names(torch.utils.data.IterableDataset):
    def __init__(self, stream: ShardStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[str]:
        return (f"{sample.shard}/{sample.key}" for sample in self.stream)


def test_the_order_is_the_epochs_own_and_the_archives_without_shuffling(
    make_shards: Callable[..., list[Path]],
) -> None:
    paths = make_shards(6, each=4)
    plain = [key for path in paths for key, _, _ in by_tarfile(path)]
    assert [sample.key for sample in ShardStream(paths)] == plain
    for options in ({"shuffle": True}, {"shuffle_buffer": 6}, {"shuffle": True, "shuffle_buffer": 6}):
        stream = ShardStream(paths, seed=3, **options)
        orders = []
        for epoch in (0, 1, 0):
            stream.set_epoch(epoch)
            orders.append([sample.key for sample in stream])
        assert orders[0] == orders[2] != plain
        assert orders[0] != orders[1]
        assert sorted(orders[0]) == sorted(plain)
        assert orders[0] != [sample.key for sample in ShardStream(paths, seed=4, **options)]


def test_files_are_closed_where_the_loop_ends_early(make_shards: Callable[..., list[Path]]) -> None:
    before = _open_files()
    for _ in range(3):
        samples = iter(ShardStream(make_shards(2)))
        next(samples)
        del samples
    assert _open_files() == before


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ("pipe:curl http://x/a.tar", "would be run by a shell, which Resflow does not do"),
        ([], "no shards were named"),
        (["http://x/a.tar", "http://x/a.tar"], "shard http://x/a.tar is named twice"),
        ("http://x/a-{0..3.tar", "braces do not close in the shard pattern"),
    ],
)
def test_shards_that_cannot_be_are_refused(shards: str | list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShardStream(shards)


def test_a_scheme_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="nosuch is not among the allowed schemes http, https, s3"):
        list(ShardStream("nosuch://host/a.tar"))


def test_addresses_keep_their_order_and_two_streams_differ_by_fingerprint(tmp_path: Path) -> None:
    names = stream_names("https://host/{b,a}-{00..01}.tar")
    assert names == tuple(f"https://host/{part}.tar" for part in ("b-00", "b-01", "a-00", "a-01"))
    one = ShardStream("https://host/a-{0..3}.tar").fingerprint
    assert one == ShardStream([f"https://host/a-{i}.tar" for i in range(4)]).fingerprint
    assert one != ShardStream("https://host/a-{0..2}.tar").fingerprint
    assert one != ShardStream("https://host/a-{0..3}.tar", shuffle=True).fingerprint


@pytest.mark.parametrize(("ranks", "workers"), [(4, 1), (2, 2), (1, 4)])
def test_fewer_shards_than_streams_are_refused(
    make_shards: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch, ranks: int, workers: int
) -> None:
    stream = ShardStream(make_shards(3), world=World(0, ranks))
    message = rf"3 shard\(s\) cannot be dealt out to 4 streams \({ranks} rank\(s\) with {workers} worker"
    with pytest.raises(ConfigError, match=message):
        stream.check_parts(ranks, workers)
    info = types.SimpleNamespace(id=0, num_workers=workers)
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: info)
    with pytest.raises(ConfigError, match=message):
        iter(stream)
