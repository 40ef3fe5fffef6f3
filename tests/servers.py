"""Local servers that misbehave: HTTP, and moto's S3 behind a door that turns requests away."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DROP = 64 * 1024


class HostileServer(http.server.ThreadingHTTPServer):
    """Serves files of a folder; the first part of the address says how it misbehaves.

    Attributes:
        requests: (how, name, Range, port of the client, query, time) of each request.
        etags: ETag by name; others have "one".
        over: set when stalled answers are to end.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str, str, int, str, float]] = []
        self.etags: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Hostile)

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the plan."""

    def address(self, how: str, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{how}/{name}"


@contextmanager
def hostile_server(folder: Path, context: ssl.SSLContext | None = None) -> Iterator[HostileServer]:
    """A server in a thread; with a context it speaks TLS."""
    with HostileServer(folder) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


class _Hostile(http.server.BaseHTTPRequestHandler):
    server: HostileServer
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        how, _, name = parts.path.strip("/").partition("/")
        self.server.requests.append(
            (how, name, self.headers.get("Range", ""), self.client_address[1], parts.query, time.monotonic())
        )
        path = self.server.folder / name
        shard = name.endswith(".tar")  # the index comes as it should
        if not path.is_file():
            return self.plain(404)
        self.server.counts[how] += shard
        action: Callable[[bytes, str], None] | None = getattr(self, f"how_{how.partition('-')[0]}", None)
        if action is None or not shard:
            return self.file(path.read_bytes(), name)
        return action(path.read_bytes(), name)

    def plain(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def file(
        self,
        data: bytes,
        name: str,
        *,
        ranges: bool = True,
        cut: int | None = None,
        shift: int = 0,
        send: Callable[[bytes], None] | None = None,
    ) -> None:
        """Answer as a good server does, but for what the arguments say."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if ranges else None
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(data)) if asked and asked[2] else len(data)
        if start >= len(data):
            return self.plain(416, Content_Range=f"bytes */{len(data)}")
        body = data[start : end if cut is None else min(end, start + cut)]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start + shift}-{start + len(body) - 1 + shift}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{self.server.etags.get(name, "one")}"')
        self.end_headers()
        (send or self.wfile.write)(body)
        return None

    def how_drop(self, data: bytes, name: str) -> None:
        def send(body: bytes) -> None:
            self.wfile.write(body[:DROP])
            self.close_connection = True

        self.file(data, name, send=send)

    def how_stall(self, data: bytes, name: str) -> None:
        def send(body: bytes) -> None:
            self.wfile.write(body[:1000])
            self.server.over.wait()
            self.close_connection = True

        self.file(data, name, send=send)

    def how_drip(self, data: bytes, name: str) -> None:
        self.file(data, name, send=self.slowly)

    def how_dripheaders(self, data: bytes, name: str) -> None:
        self.slowly(b"HTTP/1.1 206 Partial Content\r\n" + b"X-Wait: yes\r\n" * 100)

    def slowly(self, body: bytes) -> None:
        """One byte a second."""
        self.close_connection = True
        for place in range(len(body)):
            self.wfile.write(body[place : place + 1])
            if self.server.over.wait(1.0):
                return

    def how_once(self, data: bytes, name: str) -> None:
        """Stalls at the first request alone."""
        if self.server.counts["once"] == 1:
            return self.how_stall(data, name)
        return self.file(data, name)

    def how_gone(self, _data: bytes, _name: str) -> None:
        self.plain(404)

    def how_busy(self, data: bytes, name: str) -> None:
        """Too many requests, at the first two; its address says how long to wait."""
        how = urlsplit(self.path).path.strip("/").partition("/")[0]
        if self.server.counts[how] <= 2:
            return self.plain(429, Retry_After=how.partition("-")[2])
        return self.file(data, name)

    def how_flaky(self, data: bytes, name: str) -> None:
        """Fails the first two of three requests for the same bytes."""
        asked = f"flaky {name} {self.headers.get('Range')}"
        self.server.counts[asked] += 1
        if self.server.counts[asked] % 3:
            return self.plain(500, b"stack trace")
        return self.file(data, name)

    def how_broken(self, _data: bytes, _name: str) -> None:
        self.plain(500, b"stack trace")

    def how_norange(self, data: bytes, name: str) -> None:
        self.file(data, name, ranges=False)

    def how_wrongrange(self, data: bytes, name: str) -> None:
        self.file(data, name, shift=512)

    def how_shortrange(self, data: bytes, name: str) -> None:
        """Fewer bytes than asked for, as the standard allows."""
        self.file(data, name, cut=50_000)

    def how_html(self, _data: bytes, _name: str) -> None:
        self.plain(200, b"<!doctype html><title>Sign in</title>" + b" " * 2000, Content_Type="text/html; charset=utf-8")

    def how_redirect(self, _data: bytes, name: str) -> None:
        self.plain(302, Location=f"/plain/{name}")

    def how_down(self, _data: bytes, name: str) -> None:
        self.plain(302, Location=f"http://127.0.0.1:1/plain/{name}")

    def how_circle(self, _data: bytes, name: str) -> None:
        self.plain(302, Location=f"/circle/{name}")

    def how_elsewhere(self, _data: bytes, _name: str) -> None:
        self.plain(302, Location="file:///etc/passwd?sig=SECRETSIG")

    def how_guarded(self, data: bytes, name: str) -> None:
        """Wants credentials, and repeats those it got."""
        got = f"{self.headers.get('Authorization')} {self.path}"
        if "good" in got:
            return self.file(data, name)
        return self.plain(403, got.encode(), X_Got=got)

    def how_flip(self, data: bytes, name: str) -> None:
        """One byte of each shard is another one: what no checksum of a tar finds in an image."""
        self.file(data[:20_000] + bytes([data[20_000] ^ 1]) + data[20_001:], name)


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that is signed by nobody but itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    signed = made.add_extension(address, critical=False).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(secret + signed.public_bytes(encoding))
    return path


class Door:
    """A WSGI application before moto's: turns away requests for objects as S3 does.

    Attributes:
        slow: how many requests for ranges are still to be answered with SlowDown.
        seen: how many came.
    """

    def __init__(self, inner: Any) -> None:
        self.inner, self.slow, self.seen = inner, 0, 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] == "GET" and environ.get("HTTP_RANGE"):
            self.seen += 1
            if "EXPIREDKEY" in environ.get("HTTP_AUTHORIZATION", ""):
                return _s3_error(start_response, "400 Bad Request", "ExpiredToken", "The provided token has expired.")
            if self.slow:
                self.slow -= 1
                return _s3_error(start_response, "503 Slow Down", "SlowDown", "Please reduce your request rate.")
        return self.inner(environ, start_response)


@contextmanager
def s3_server() -> Iterator[tuple[Door, str]]:
    """moto's S3 behind a door, and its address."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    door = Door(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield door, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _s3_error(start_response: Callable[..., Any], status: str, code: str, message: str) -> list[bytes]:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
    return [text]
