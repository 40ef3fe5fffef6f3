"""What an engine for a kind of store is: one request, once. Trying again, deadlines and messages are `fetch`'s."""

from __future__ import annotations

import email.utils
import http
import time
from dataclasses import dataclass
from typing import Protocol

_PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses after which another try may succeed


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another.

    Args:
        size: bytes, None where the store does not say.
        etag: ETag, else when it was written, None where the store says neither.
    """

    size: int | None
    etag: str | None


class Answer(Protocol):
    """The bytes that a request brought, to be read forward."""

    @property
    def stamp(self) -> Stamp:
        """Of the whole file."""

    @property
    def start(self) -> int:
        """Where in the file the answer starts."""

    @property
    def whole(self) -> bool:
        """Whether it is the whole file, be it that a range was asked for."""

    def read(self, count: int, until: float) -> bytes:
        """At least one byte and at most `count`; none at the end. `until`: of `time.monotonic`, when to give up.

        Raises:
            TryAgain: the connection broke, or no byte came.
        """

    def close(self) -> None:
        """Give the connection back."""


class Transport(Protocol):
    """Asks stores of one kind for bytes; safe to share between threads, not to carry over a fork."""

    def get(self, url: str, start: int, end: int | None, until: float) -> Answer:
        """Ask once.

        Args:
            url: of a file.
            start: first byte.
            end: byte after the last; None: to the end.
            until: time of `time.monotonic` at which to give up.

        Raises:
            TryAgain: another try may succeed.
            GiveUp: none will.
        """

    def close(self) -> None:
        """Close all connections."""


class TryAgain(Exception):
    """A try that failed in a way that may pass.

    Args:
        reason: what happened, for the message.
        wait: seconds the store asks to wait, None where it does not say.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class GiveUp(Exception):
    """A failure that stays.

    Args:
        reason: what happened, for the message.
        advice: the way out; None: the usual one.
        missing: whether there is no such file.
    """

    def __init__(self, reason: str, advice: str | None = None, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.advice, self.missing = reason, advice, missing


def status_failure(status: int, retry_after: str | None = None, code: str = "") -> TryAgain | GiveUp:
    """What an HTTP status that is no success means.

    Args:
        status: 100 to 599.
        retry_after: the header of that name.
        code: the store's own word, such as SlowDown.
    """
    phrase = code or (http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "")
    reason = f"HTTP status {status}" + (f" ({phrase})" if phrase else "")
    if status in (404, 410):
        return GiveUp(f"there is no such file (HTTP status {status})", missing=True)
    if status == 416:
        return GiveUp(f"it is shorter than its index says ({reason})", "Index it again (resflow index).")
    if status in (400, 401, 403, 407) and (status != 400 or "token" in code.lower()):
        return GiveUp(f"{reason}: credentials are missing, wrong or expired", "Renew them, then resume the loader.")
    if status in _PASSING or (status >= 500 and status != 501):
        return TryAgain(reason, _seconds(retry_after))
    return GiveUp(reason)


def _seconds(retry_after: str | None) -> float | None:
    """Seconds to wait, of a Retry-After header."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
