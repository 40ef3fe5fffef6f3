"""Remote shards against a local server that misbehaves: bytes equal to the local ones, or a typed error in time."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import ssl
import time
from pathlib import Path

import numpy as np
import pytest

import resflow as rf
from resflow.errors import ConfigError, IndexFileError, ShardError
from resflow.sources import ShardSource, ShardStream, Store
from resflow.sources.stream import read_shard
from resflow.storage import fetch, http_store
from resflow.storage.addresses import identity, shown
from resflow.storage.transport import status_failure
from tests.servers import HostileServer, certificate, hostile_server
from tests.storage import remote_sets
from tests.storage.remote_sets import check_equal, check_silent, fails_within, make_served, plain

QUICK = Store(deadline=3, stall=0.3, retries=2)
ALL = np.arange(12)

# Forks beside threads are what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote")
    make_served(path)
    return path


@pytest.mark.parametrize("how", ["plain", "drop", "shortrange", "redirect", "flaky", "once", "busy-0", "busy-1"])
def test_reads_are_equal_to_local_ones(
    how: str, server: HostileServer, local: ShardSource, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FIRST", 0.02)
    remote = ShardSource(server.address(how, name), store=Store(deadline=10, stall=0.5))
    assert remote.name(0)[0].startswith("http://")
    check_equal(remote, local)
    remote.close()
    check_equal(remote, local, rounds=1)
    remote.close()


@pytest.mark.parametrize("how", ["plain", "drop", "redirect", "flaky", "once", "norange"])
def test_streams_are_equal_to_local_ones(
    how: str, server: HostileServer, local: ShardSource, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FIRST", 0.02)
    stream = ShardStream(server.address(how, name), store=Store(deadline=10, stall=0.5))
    assert plain(list(stream)) == plain(local.read(ALL))


def test_the_comparison_catches_a_byte_that_no_checksum_guards(
    server: HostileServer, local: ShardSource, name: str
) -> None:
    remote = ShardSource(server.address("flip", name), store=QUICK)
    with pytest.raises(AssertionError):
        check_equal(remote, local)
    remote.close()


FAILURES = {
    "stall": (0.8, r"at byte \d+: cannot be read: .*deadline of 0.8 s is over"),
    "drip": (0.8, r"at byte \d+: cannot be read: .*deadline of 0.8 s is over"),
    "dripheaders": (0.8, r"cannot be read: .*deadline of 0.8 s is over"),
    "gone": (3, r"cannot be read: there is no such file \(HTTP status 404\)\. Check the address"),
    "busy-3600": (3, r"HTTP status 429 \(Too Many Requests\): the store asks to wait 3600 s, longer than the deadline"),
    "broken": (3, r"HTTP status 500 \(Internal Server Error\), 3 tries in 0\.\d s\. Check the address"),
    "wrongrange": (3, r"bytes \d+-\d+ was asked for, and the server answers with the range 'bytes \d+-\d+/\d+'\. Its"),
    "html": (3, r"the server sent a web page \(text/html\) where a shard should be, perhaps to sign in\. Check"),
    "circle": (3, r"the server redirects more than 5 times"),
    "elsewhere": (3, r"redirects to file:///etc/passwd, which is not allowed from http"),
    "guarded": (3, r"HTTP status 403 \(Forbidden\): credentials are missing, wrong or expired\. Renew them"),
}


@pytest.mark.parametrize("how", [*FAILURES, "norange"])
def test_what_cannot_be_read_is_a_typed_error_in_time(
    how: str, server: HostileServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FIRST", 0.1)
    no_ranges = (3, r"\d+ were asked for, \d+ came: the whole file \(HTTP status 200\), so the server does not serve")
    seconds, message = FAILURES.get(how, no_ranges)
    store = Store(deadline=seconds, stall=0.3 if how == "stall" else 30, retries=9 if how == "stall" else 2)
    url = server.address(how, name)
    message = message.replace(r"\d+ were", r"\d+ bytes were")
    if how == "dripheaders":
        with fails_within(seconds, f"^{shown(url).partition('{')[0]}.*{message}"):
            next(iter(ShardStream(url, store=store)))
        return
    remote = ShardSource(url, store=store)
    with fails_within(seconds, f"^{shown(url).partition('{')[0]}.*{message}"):
        remote.read(np.array([0]))
    remote.close()
    if how not in ("norange", "wrongrange"):
        with fails_within(seconds, message):
            list(ShardStream(url, store=store))


def test_the_law_of_deadlines_catches_a_wait_without_end(
    server: HostileServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_store, "_patience", lambda stall, until: 1.5)
    monkeypatch.setattr(remote_sets, "SLACK", 1.0)
    remote = ShardSource(server.address("stall", name), store=Store(deadline=0.1))
    began = time.monotonic()
    with pytest.raises(AssertionError, match="took"), fails_within(0.1, "deadline"):
        remote.read(np.array([0]))
    assert time.monotonic() - began < 5
    remote.close()


def test_retry_after_is_waited_for(server: HostileServer, name: str) -> None:
    remote = ShardSource(server.address("busy-1", name), store=Store(deadline=10))
    remote.read(np.array([0]))
    times = [request[5] for request in server.requests if request[1].endswith(".tar")]
    assert len(times) == 3
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(times))
    remote.close()


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), (None, None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)]
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert getattr(status_failure(429, header), "wait", "none") == seconds


def test_waits_grow_and_differ(server: HostileServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", waits.append)
    remote = ShardSource(server.address("broken", name), store=Store(deadline=60, retries=6))
    for _ in range(2):
        with pytest.raises(ShardError, match="7 tries"):
            remote.read(np.array([0]))
    first, second = waits[:6], waits[6:]
    assert all(0.1 * 2**n <= wait <= 0.2 * 2**n for n, wait in enumerate(first))
    assert first != second
    remote.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_changes_in_mid_epoch_is_noticed(
    server: HostileServer, name: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = rf.Pipeline(resolution=64, buckets=1, stride=32, normalize=None)
    loader = rf.DataLoader(
        ShardSource(server.address("plain", name), store=QUICK),
        batch_size=2,
        num_workers=workers,
        pipeline=pipeline,
        shuffle=True,
        **({"prefetch_factor": 1} if workers else {}),
    )
    batches = iter(loader)
    next(batches)
    for number in range(3):
        server.etags[f"train-{number:04d}.tar"] = "two"
    with pytest.raises(
        ShardError, match='its ETag is "two", "one" when it was first read: the shard changed'
    ) as caught:
        list(batches)
    check_silent(caught.value)
    # Whoever comes later, and has seen nothing of the old one, knows of it, too.
    with pytest.raises(ShardError, match='"one" when it was first read'):
        list(loader)


def test_a_shard_that_has_another_size_is_noticed(server: HostileServer, name: str, folder: Path) -> None:
    remote = ShardSource(server.address("plain", name), store=QUICK)
    path = folder / "train-0001.tar"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole + b"\0" * 512)
        with fails_within(
            1, rf"has {len(whole) + 512} bytes, {len(whole)} when it was indexed: the shard changed\. Index"
        ):
            remote.read(np.array([4]))
        path.write_bytes(whole[:1024])
        with fails_within(1, r"the shard changed|it is shorter than its index says"):
            remote.read(np.array([7]))
    finally:
        path.write_bytes(whole)
    remote.close()


def test_another_etag_is_no_matter_where_etags_are_not_checked(
    server: HostileServer, local: ShardSource, name: str
) -> None:
    remote = ShardSource(server.address("plain", name), store=Store(check_etag=False))
    remote.read(np.array([0, 5, 9]))
    server.etags = {f"train-{number:04d}.tar": "two" for number in range(3)}
    check_equal(remote, local, rounds=1)
    remote.close()


def test_a_stream_whose_file_changes_while_it_is_read_is_refused(server: HostileServer) -> None:
    samples = read_shard(server.address("drop", "train-0000.tar"), Store(retries=1))
    next(samples)
    server.etags["train-0000.tar"] = "two"
    with pytest.raises(ShardError, match=r'another ETag|its ETag is "two", "one" when'):
        list(samples)


SECRET_URLS = [
    ("http://SECRETuser:SECRETword@{host}/{how}/{name}", {}),
    ("http://{host}/{how}/{name}?X-Amz-Signature=SECRETsig&X-Amz-Credential=SECRETkey", {}),
    ("http://{host}/{how}/{name}", {"headers": {"Authorization": "Bearer SECRETtoken"}}),
]


@pytest.mark.parametrize(("url", "options"), SECRET_URLS)
@pytest.mark.parametrize("how", ["guarded", "broken", "gone", "stall", "elsewhere", "wrongrange"])
def test_credentials_are_in_no_message(url: str, options: dict, how: str, server: HostileServer, name: str) -> None:
    store = Store(deadline=1, stall=0.2, retries=0, options=options)
    address = url.format(host=f"127.0.0.1:{server.server_port}", how=how, name=name)
    assert "SECRET" not in repr(store)
    source = ShardSource(address, store=store)
    with fails_within(1, "cannot be read"):
        source.read(np.array([0]))
    if how != "wrongrange":
        with fails_within(1, "cannot be read"):
            list(ShardStream(address, store=store))
    assert "SECRET" not in source.name(0)[0]
    source.close()


def test_the_law_of_secrets_catches_an_address_that_is_shown(
    server: HostileServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "shown", lambda url: url)
    source = ShardSource(f"{server.address('gone', name)}?sig=SECRETsig", store=QUICK)
    with pytest.raises(AssertionError, match="SECRET"), fails_within(3, "cannot be read"):
        source.read(np.array([0]))


def test_credentials_reach_the_server_and_nobody_else(server: HostileServer, local: ShardSource, name: str) -> None:
    host = f"127.0.0.1:{server.server_port}"
    for url, options in (
        (f"http://{host}/guarded/{name}?sig=good", {}),
        (f"http://{host}/guarded/{name}", {"headers": {"Authorization": "good"}}),
        (f"http://Z29vZ:x@{host}/plain/{name}", {}),
    ):
        remote = ShardSource(url, store=Store(options=options))
        check_equal(remote, local, rounds=1)
        remote.close()


def test_urls_that_are_signed_anew_are_the_same_set(name: str) -> None:
    one, two = (ShardStream(f"https://h/{name}?part=1&X-Amz-Signature={sign}").fingerprint for sign in "ab")
    assert one == two != ShardStream(f"https://h/{name}?part=2&X-Amz-Signature=a").fingerprint
    assert identity("https://u:p@h/a.tar?part=1&sig=x#f") == "https://h/a.tar?part=1"
    assert shown("s3://key:word@bucket/a.tar?versionId=7") == "s3://bucket/a.tar"
    assert shown("/data/what?.tar") == "/data/what?.tar"


def test_connections_are_kept_and_not_shared_over_a_fork(server: HostileServer, local: ShardSource, name: str) -> None:
    remote = ShardSource(server.address("plain", name), store=Store(connections=2))
    check_equal(remote, local, rounds=1)
    before = {request[3] for request in server.requests}
    assert len(before) <= 4  # two at once, the index's, and one that a late answer kept
    count = len(server.requests)
    child = os.fork()
    if child == 0:
        try:
            check_equal(remote, local, seed=1)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    childs = {request[3] for request in server.requests[count:]}
    assert childs
    assert not childs & before
    count = len(server.requests)
    check_equal(remote, local, seed=2)
    after = {request[3] for request in server.requests[count:]}
    assert after & before  # what the parent had was not closed by the child
    assert not after & childs
    check_equal(pickle.loads(pickle.dumps(remote)), local, rounds=1)
    remote.close()


def test_neighbours_are_read_with_one_request(server: HostileServer, name: str) -> None:
    remote = ShardSource(server.address("plain", name), store=QUICK)
    count = len(server.requests)
    remote.read(ALL)
    assert len(server.requests) - count == 3
    remote.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_over_a_bad_line_gives_what_a_local_one_gives(
    server: HostileServer, folder: Path, name: str, workers: int
) -> None:
    def keys(dataset: object) -> list[str]:
        pipeline = rf.Pipeline(resolution=64, buckets=1, stride=32)
        loader = rf.DataLoader(dataset, batch_size=3, num_workers=workers, pipeline=pipeline, shuffle=True, seed=4)
        return [key for batch in loader for key in batch.keys]

    assert keys(server.address("drop", name)) == keys(f"{folder}/{name}")


def test_https_is_read_where_the_certificate_is_trusted_and_nowhere_else(
    folder: Path, local: ShardSource, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with hostile_server(folder, context) as server:
        url = server.address("drop", name).replace("http:", "https:")
        with fails_within(3, "the server's certificate is not trusted: self.signed certificate"):
            ShardSource(url, store=QUICK)
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        remote = ShardSource(url, store=Store(deadline=10))
        check_equal(remote, local, rounds=1)
        stalled = ShardSource(url.replace("drop", "stall"), store=Store(deadline=0.5, stall=0.2))
        with fails_within(0.5, "cannot be read"):
            stalled.read(np.array([0]))
        remote.close()
        with pytest.raises(ShardError, match=r"redirects to http://.*, which is not allowed from https"):
            ShardSource(url.replace("drop", "down"), store=QUICK).read(np.array([0]))


def test_shards_without_an_index_and_wrong_stores_are_refused(server: HostileServer, name: str, folder: Path) -> None:
    with pytest.raises(IndexFileError, match=r"there is no index of these shards.*stream them without"):
        ShardSource(server.address("plain", "train-{0000..0001}.tar"))
    with pytest.raises(ConfigError, match="gopher is not among the allowed schemes"):
        ShardSource("gopher://host/train-{0000..0001}.tar")
    with pytest.raises(ConfigError, match="http is not among the allowed schemes https"):
        ShardSource(server.address("plain", name), store=Store(schemes=("https",)))
    with pytest.raises(ConfigError, match="these are local files"):
        ShardSource(f"{folder}/{name}", store=Store())
    with pytest.raises(ConfigError, match=r"may have headers alone, a dict; got \['key'\]"):
        ShardSource(server.address("plain", name), store=Store(options={"key": "SECRET"}))
    with pytest.raises(ConfigError, match=r"one folder; got \['https://h/a', 'https://h/b'\]"):
        ShardSource(["https://u:SECRET@h/a/1.tar", "https://u:SECRET@h/b/1.tar"])


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1:port/a.tar?sig=SECRET", {}),
        ("http://127.0.0.1/a.tar?sig=SECRET word", {}),
        ("http:///a.tar?sig=SECRET", {}),
        ("http://127.0.0.1:1/a.tar", {"Authorization": "SECRET\nword"}),
    ],
)
def test_addresses_and_headers_that_cannot_be_are_refused_silently(url: str, headers: dict) -> None:
    with fails_within(1, r"is not an address\. Correct|characters that may not be there", ConfigError):
        list(ShardStream(url, store=Store(options={"headers": headers})))


@pytest.mark.parametrize(
    "arguments",
    [{"deadline": 0}, {"stall": -1}, {"retries": 1.5}, {"cache": 3}, {"cache_bytes": 0}, {"schemes": "http"}],
)
def test_a_store_that_cannot_be_is_refused(arguments: dict) -> None:
    [(field, value)] = arguments.items()
    with pytest.raises(ConfigError, match=rf"Store\.{field} must be .*; got {re.escape(repr(value))}$"):
        Store(**arguments)
