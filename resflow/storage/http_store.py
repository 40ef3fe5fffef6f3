"""Bytes over HTTP(S), with the standard library alone: every wait has an end, every answer is checked.

Proxies of the environment are not used, and no cookies are kept.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import os
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from resflow.errors import ConfigError
from resflow.storage.addresses import scheme_of, shown
from resflow.storage.store import Store
from resflow.storage.transport import Answer, GiveUp, Stamp, TryAgain, status_failure

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_REDIRECTS = (301, 302, 303, 307, 308)
_HOPS = 5  # redirections followed
_REST = 64 * 1024  # bytes of an answer without use that are read to keep its connection rather than dropped with it
_PATIENCE = 0.1  # seconds that this may take
_BUFFER = 64 * 1024


class HttpTransport:
    """Asks HTTP(S) servers; connections are kept between requests.

    Args:
        store: what is allowed and how long to wait.

    Raises:
        ConfigError: an option other than `headers`.
    """

    def __init__(self, store: Store) -> None:
        headers = store.options.get("headers", {})
        if set(store.options) - {"headers"} or not isinstance(headers, Mapping):
            raise ConfigError(
                f"Store.options of http and https may have headers alone, a dict; got {sorted(store.options)}."
            )
        self._store = store
        self._headers = {str(name): str(value) for name, value in headers.items()}
        self._idle: _Idle = {}
        weakref.finalize(self, _close_all, self._idle)
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def get(self, url: str, start: int, end: int | None, until: float) -> Answer:
        """See `Transport.get`."""
        ranged = start > 0 or end is not None
        headers = {"Accept-Encoding": "identity", "User-Agent": "resflow"} | self._headers
        if ranged:
            headers["Range"] = f"bytes={start}-" + ("" if end is None else str(end - 1))
        for _ in range(_HOPS + 1):
            answer = self._ask(url, headers, until)
            if answer.status not in _REDIRECTS:
                return self._judge(answer, start, end, ranged)
            target = urljoin(url, answer.header("Location") or "")
            answer.close()
            if scheme_of(target) not in {"https", scheme_of(url)} & set(self._store.schemes):
                raise GiveUp(f"the server redirects to {shown(target)}, which is not allowed from {scheme_of(url)}")
            if urlsplit(target).netloc != urlsplit(url).netloc:  # whoever else it is must not see what is not for them
                headers = {name: value for name, value in headers.items() if name not in self._headers}
            url = target
        raise GiveUp(f"the server redirects more than {_HOPS} times")

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            _close_all(self._idle)

    def forget(self) -> None:
        """Close what a fork brought along: this process's copies, no lock taken, nothing said to the servers."""
        _close_all(self._idle)

    def _ask(self, url: str, headers: dict[str, str], until: float) -> _HttpAnswer:
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        if user:
            headers = {"Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"} | headers
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
        key = (parts.scheme.lower(), parts.netloc.rpartition("@")[2])
        try:
            while (connection := self._kept(key)) is not None:
                try:
                    return self._send(connection, key, target, headers, until)
                except (ConnectionError, http.client.HTTPException):
                    connection.close()  # the server closed it while it was idle: that is no failed try
            return self._send(self._connect(parts), key, target, headers, until)
        except ssl.SSLCertVerificationError as error:
            raise GiveUp(f"the server's certificate is not trusted: {error.verify_message}") from error
        except http.client.InvalidURL:  # which quotes the query; the next one quotes headers
            raise ConfigError(f"{shown(url)} is not an address. Correct it.") from None
        except ValueError:
            raise ConfigError(f"{shown(url)}: its port or a header has characters that may not be there.") from None
        except (OSError, http.client.HTTPException) as error:
            raise TryAgain(_reason(error)) from error

    def _send(
        self,
        connection: _Connection | _SecureConnection,
        key: tuple[str, str],
        target: str,
        headers: dict[str, str],
        until: float,
    ) -> _HttpAnswer:
        try:
            connection.until = until
            connection.request("GET", target, headers=headers)
            return _HttpAnswer(self, connection, key, connection.getresponse())
        except BaseException:
            connection.close()
            raise

    def _judge(self, answer: _HttpAnswer, start: int, end: int | None, ranged: bool) -> _HttpAnswer:
        """An answer with the bytes asked for, or those of the whole file; else the failure that it is."""
        try:
            kind = (answer.header("Content-Type") or "").partition(";")[0].strip().lower()
            if answer.status in (200, 206) and (answer.header("Content-Encoding") or "identity").lower() != "identity":
                raise GiveUp(f"the server compressed it unasked ({answer.header('Content-Encoding')})")
            if answer.status in (200, 206) and kind in ("text/html", "application/xhtml+xml"):
                raise GiveUp(
                    f"the server sent a web page ({kind}) where a shard should be, perhaps to sign in",
                    "Check the address and the credentials.",
                )
            etag = answer.header("ETag") or answer.header("Last-Modified")
            if answer.status == 200:
                length = answer.header("Content-Length") or ""
                answer.stamp, answer.whole = Stamp(int(length) if length.isdecimal() else None, etag), True
                return answer
            if answer.status != 206:
                raise status_failure(answer.status, answer.header("Retry-After"))
            said = answer.header("Content-Range") or "none"
            found = _RANGE.fullmatch(said.strip())
            first, last = (int(found[1]), int(found[2])) if found else (-1, -1)
            size = int(found[3]) if found and found[3] != "*" else None
            most = last if end is None else end - 1
            if not ranged or first != start or not first <= last <= most or (size is not None and last >= size):
                asked = f"bytes {start}-{'' if end is None else end - 1}" if ranged else "the whole"
                raise GiveUp(
                    f"{asked} was asked for, and the server answers with the range {said[:80]!r}",
                    "Its ranges cannot be trusted: use another server, or stream the shards without their index.",
                )
            answer.stamp, answer.start, answer.expected = Stamp(size, etag), first, last + 1 - first
            return answer
        except BaseException:
            answer.close()
            raise

    def _kept(self, key: tuple[str, str]) -> _Connection | _SecureConnection | None:
        with self._lock:
            idle = self._idle.get(key)
            return idle.pop() if idle else None

    def keep(self, key: tuple[str, str], connection: _Connection | _SecureConnection) -> None:
        """Keep a connection whose answer was read to its end, for the next request."""
        with self._lock:
            idle = self._idle.setdefault(key, [])
            if len(idle) < self._store.connections:
                idle.append(connection)
                return
        connection.close()

    def _connect(self, parts: SplitResult) -> _Connection | _SecureConnection:
        host, port, stall = parts.hostname or "", parts.port, self._store.stall
        if not host:
            raise http.client.InvalidURL("no host")
        if parts.scheme.lower() == "http":
            return _Connection(host, port, stall)
        if self._context is None:
            self._context = ssl.create_default_context()
        return _SecureConnection(host, port, stall, self._context)


def _close_all(idle: _Idle) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()
    idle.clear()


class _HttpAnswer:
    """The body of a response."""

    def __init__(
        self,
        transport: HttpTransport,
        connection: _Connection | _SecureConnection,
        key: tuple[str, str],
        response: http.client.HTTPResponse,
    ) -> None:
        self._transport, self._connection, self._key, self._response = transport, connection, key, response
        self._count, self._open = 0, True
        self.status = response.status
        self.stamp, self.start, self.whole = Stamp(None, None), 0, False
        self.expected: int | None = response.length  # None where the body is chunked, or ends with the connection

    def header(self, name: str) -> str | None:
        return self._response.getheader(name)

    def read(self, count: int, until: float) -> bytes:
        self._connection.until = until
        try:
            data = self._response.read1(count)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TryAgain(_reason(error)) from error
        self._count += len(data)
        if not data and self.expected is not None and self._count < self.expected:
            raise TryAgain(f"the connection ended after {self._count} of {self.expected} bytes")
        return data

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self.status not in (200, 206):
            self._drain()
        whole = self._response.isclosed() or self._response.length == 0
        keep = whole and not self._response.will_close
        self._response.close()
        if keep:
            self._transport.keep(self._key, self._connection)
        else:
            self._connection.close()

    def _drain(self) -> None:
        """Read the few bytes of an answer that nobody wants, for the connection's sake."""
        self._connection.until = time.monotonic() + _PATIENCE
        if self._response.length is not None and self._response.length <= _REST:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._response.read()


class _Timed:
    """A connected socket whose waits each end by a time, however slowly bytes drip in."""

    def __init__(self, connected: socket.socket, owner: _Connection | _SecureConnection) -> None:
        self._socket, self._owner = connected, owner

    def arm(self) -> None:
        """Allow the next wait no more than a stall's length, nor than is left."""
        self._socket.settimeout(self._owner.patience())

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self, self._socket.makefile("rb", buffering=0)), _BUFFER)

    def sendall(self, data: bytes) -> None:
        self.arm()
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: _Timed, raw: Any) -> None:
        self._timed, self._raw = timed, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._timed.arm()
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, port: int | None, stall: float) -> None:
        super().__init__(host, port)
        self.stall, self.until = stall, float("inf")

    def patience(self) -> float:
        """Seconds that the next wait may take; TimeoutError where the time is over."""
        return _patience(self.stall, self.until)

    def connect(self) -> None:
        self.timeout = self.patience()
        super().connect()
        self.sock: Any = _Timed(self.sock, self)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, host: str, port: int | None, stall: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, context=context)
        self.stall, self.until = stall, float("inf")

    def patience(self) -> float:
        """Seconds that the next wait may take; TimeoutError where the time is over."""
        return _patience(self.stall, self.until)

    def connect(self) -> None:
        self.timeout = self.patience()
        super().connect()
        self.sock: Any = _Timed(self.sock, self)


_Idle: TypeAlias = dict[tuple[str, str], list[_Connection | _SecureConnection]]


def _patience(stall: float, until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return min(stall, left)


def _reason(error: Exception) -> str:
    """What happened to a connection, in words that hold nothing the server sent."""
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return "the server sent nothing for a while (TimeoutError)"
    if isinstance(error, OSError):
        text = error.strerror or (os.strerror(error.errno) if error.errno else "the connection broke")
        return f"{text} ({name})"
    return f"the connection broke ({name})"
