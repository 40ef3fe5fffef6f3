"""Bytes out of any store that fsspec has a package for; S3 by its own requests, which tell the ETag each time."""

from __future__ import annotations

import asyncio
import inspect
import queue
import re
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from resflow.errors import ConfigError
from resflow.storage.addresses import scheme_of, scrub, shown
from resflow.storage.store import Store
from resflow.storage.transport import Answer, GiveUp, Stamp, TryAgain, status_failure

_BLOCK = 4 << 20  # bytes asked for at a time where the end is not given
_LOOK = 30.0  # seconds after which a store that tells a file's state apart from its bytes is asked for it again
_STATE = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
_S3 = ("s3", "s3a")
_PASSING = ("aiohttp", "aiobotocore", "botocore", "urllib3")  # packages whose errors are mostly the network's
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


class FsspecTransport:
    """Asks one fsspec file system, made anew for it.

    Args:
        url: any of the store's.
        store: what is allowed, how long to wait, the file system's arguments.

    Raises:
        ConfigError: the scheme is unknown, its package is not installed, or an option is wrong.
    """

    def __init__(self, url: str, store: Store) -> None:
        self._store, scheme = store, scheme_of(url)
        options: dict[str, Any] = {"skip_instance_cache": True}
        if scheme in _S3:
            given: Any = store.options.get("config_kwargs", {})
            options["config_kwargs"] = {
                "connect_timeout": store.stall,
                "read_timeout": store.stall,
                "retries": {"total_max_attempts": 1},
                "max_pool_connections": store.connections,
            } | given
        try:
            import fsspec  # type: ignore[import-untyped]

            self._files: Any = fsspec.filesystem(scheme, **(dict(store.options) | options))
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            way_out = f"Run: pip install 'resflow[{extra}]'" if extra else "Install it."
            raise ConfigError(
                f"reading {shown(url)} needs a package that is not installed: {error}. {way_out}"
            ) from error
        except (ValueError, TypeError) as error:
            reason = scrub(str(error), url, store.options)
            raise ConfigError(f"{shown(url)}: {reason}. Name a scheme that fsspec knows, and its options.") from None
        if scheme in _S3:
            self._files.retries = 1  # trying again is `fetch`'s part
        self._s3 = scheme in _S3
        self._seen: dict[str, tuple[Stamp, float]] = {}

    def get(self, url: str, start: int, end: int | None, until: float) -> Answer:
        """See `Transport.get`."""
        answer = _Blocks(self, url, start, end)
        answer.fill(until)
        return answer

    def close(self) -> None:
        """Nothing: fsspec closes its connections when the file system is let go."""

    def block(self, url: str, start: int, count: int, until: float) -> tuple[bytes, Stamp]:
        """At most `count` bytes from `start` on, and the state of the file that they are of."""
        path = self._files._strip_protocol(url)
        if self._s3:
            found: tuple[bytes, Stamp] = self._run(url, lambda: self._s3_block(path, start, count), until)
            return found
        stamp, known = self._seen.get(url, (Stamp(None, None), -float("inf")))
        if time.monotonic() - known >= _LOOK:
            stamp = self._stamp(url, path, until)
            self._seen[url] = stamp, time.monotonic()
        end = start + count if stamp.size is None else min(start + count, stamp.size)
        if start >= end:
            return b"", stamp
        if hasattr(self._files, "_cat_file") and self._files.async_impl:
            return self._run(url, lambda: self._files._cat_file(path, start=start, end=end), until), stamp
        return self._run(url, lambda: self._files.cat_file(path, start=start, end=end), until), stamp

    def _stamp(self, url: str, path: str, until: float) -> Stamp:
        def look() -> Any:
            self._files.invalidate_cache(self._files._parent(path))
            return self._files._info(path) if self._files.async_impl else self._files.info(path)

        found = self._run(url, look, until)
        state = next((f"{name} {found[name]}" for name in _STATE if found.get(name) is not None), None)
        return Stamp(found.get("size"), state)

    async def _s3_block(self, path: str, start: int, count: int) -> tuple[bytes, Stamp]:
        bucket, key, version = self._files.split_path(path)
        request = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{start + count - 1}"}
        answer = await self._files._call_s3("get_object", **request, **({"VersionId": version} if version else {}))
        try:
            data = await answer["Body"].read()
        finally:
            answer["Body"].close()
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.get("ContentRange") or "")
        if found is None or int(found[1]) != start or len(data) > count:
            raise GiveUp(
                f"bytes {start}-{start + count - 1} were asked for, and the store answers with the range "
                f"{answer.get('ContentRange')!r}",
                "Its ranges cannot be trusted: use another endpoint.",
            )
        return data, Stamp(int(found[2]), answer.get("ETag"))

    def _run(self, url: str, action: Callable[[], Any], until: float) -> Any:
        """What an action of the store gives, within the time; a coroutine is run, and ended when time is over."""
        try:
            return _within(action, self._files, until)
        except (GiveUp, TryAgain):
            raise
        except TimeoutError:
            raise TryAgain("the store did not answer (TimeoutError)") from None
        except Exception as error:  # noqa: BLE001 (stores raise errors of many trees, which may quote credentials)
            raise _failure(error, url, self._store) from None


class _Blocks:
    """A file read forward, block by block."""

    def __init__(self, transport: FsspecTransport, url: str, start: int, end: int | None) -> None:
        self._transport, self._url = transport, url
        self._position, self._end = start, end
        self._data = memoryview(b"")
        self.start, self.stamp, self.whole = start, Stamp(None, None), False

    def fill(self, until: float) -> None:
        """Ask for the next block."""
        end = self._end if self._end is not None else self.stamp.size
        count = _BLOCK if self._end is None else self._end - self._position
        if end is not None and self._position >= end:
            return
        data, stamp = self._transport.block(self._url, self._position, count, until)
        if self.stamp != Stamp(None, None) and stamp != self.stamp:
            raise TryAgain("it changed while it was read")  # the next try tells how
        self.stamp, self._data, self._position = stamp, memoryview(data), self._position + len(data)

    def read(self, count: int, until: float) -> bytes:
        if not self._data:
            self.fill(until)
        part, self._data = self._data[:count], self._data[count:]
        return bytes(part)

    def close(self) -> None:
        self._data = memoryview(b"")


def _within(action: Callable[[], Any], files: Any, until: float) -> Any:
    """Run an action elsewhere, and wait for it no longer than there is time."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    if files.async_impl:

        async def run() -> Any:
            result = action()
            return await asyncio.wait_for(result, left) if inspect.isawaitable(result) else result

        running: Coroutine[Any, Any, Any] = run()
        return asyncio.run_coroutine_threadsafe(running, files.loop).result(left + 1)
    # A store without coroutines cannot be stopped: where it hangs, its thread is left behind and ends with the process.
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((action(), None))
        except BaseException as error:  # noqa: BLE001 (it is raised where it was asked for)
            results.put((None, error))

    threading.Thread(target=work, daemon=True, name="resflow-store").start()
    try:
        value, error = results.get(timeout=left)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value


def _failure(error: Exception, url: str, store: Store) -> TryAgain | GiveUp:
    """What a store's error means."""
    if isinstance(error, FileNotFoundError):
        return GiveUp("there is no such file", missing=True)
    links = [link for link in (error, error.__cause__, error.__context__) if link is not None]
    name = type(links[1] if len(links) > 1 and type(error) is OSError else error).__name__
    reason = f"{scrub(str(error), url, store.options) or 'the store failed'} ({name})"
    for link in links:
        response = getattr(link, "response", None)
        meta = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        code = str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
        status: Any = meta.get("HTTPStatusCode") or getattr(link, "status", None) or getattr(link, "code", None)
        if str(status).isdecimal() and 300 <= int(status) <= 599:
            return status_failure(int(status), meta.get("HTTPHeaders", {}).get("retry-after"), code)
    forbidden = str(error).startswith("Forbidden: ")  # an OSError like any other, of gcsfs
    if isinstance(error, PermissionError) or "Credentials" in name or forbidden:
        return GiveUp(f"refused: {reason}", "Check the credentials, renew them, then resume the loader.")
    passing = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in (
        "aiohttp",
        "botocore",
        "urllib3",
    )
    return TryAgain(reason) if passing and not isinstance(error, IsADirectoryError) else GiveUp(reason)
