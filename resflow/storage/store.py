"""How shards are read from remote stores: what a user may choose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from resflow.checks import check_fields, is_number, is_whole
from resflow.errors import ConfigError
from resflow.storage.addresses import scheme_of, shown

SCHEMES = (
    "http",
    "https",
    "s3",
    "s3a",
    "gs",
    "gcs",
    "az",
    "abfs",
    "abfss",
    "oss",
    "hf",
    "hdfs",
    "sftp",
    "memory",
    "file",
)
"""What a URL may start with unless `Store.schemes` says otherwise."""


@dataclass(frozen=True, slots=True)
class Store:
    """How shards at URLs are read: how long to try, and where to keep them.

    Args:
        cache: folder on a local disk that whole shards are kept in (in a folder of its own there, open to its user
            alone), shared by all processes of one user on a host; None: nothing is kept.
        cache_bytes: most bytes that are kept there, those of downloads under way included; the least recently used
            shards go first.
        piece_bytes: bytes of the pieces that are downloaded and kept instead of whole shards, each when a sample in
            it is first wanted: for datasets larger than the cache, of which a plan reads stretch after stretch
            (docs/scale.md). None: whole shards.
        deadline: seconds within which a read succeeds or fails, waits and further tries included.
        stall: seconds without a byte after which a try is given up.
        retries: further tries after one that brought nothing; a try that brought bytes starts the count anew.
        connections: requests that a process has under way at once.
        check_etag: whether a shard whose ETag is another than when it was first read is refused; switch it off for
            mirrors that serve equal bytes with unequal ETags. Sizes are always checked.
        schemes: what URLs, and what they are redirected to, may start with.
        options: what the store needs: of http(s) `headers`, of others the arguments of their fsspec file system, such
            as `endpoint_url`, `key`, `anon`. Never shown.

    Raises:
        ConfigError: a value is out of range or of another type.
    """

    cache: str | Path | None = None
    cache_bytes: int = 100 << 30
    piece_bytes: int | None = None
    deadline: float = 60.0
    stall: float = 15.0
    retries: int = 5
    connections: int = 16
    check_etag: bool = True
    schemes: tuple[str, ...] = SCHEMES
    options: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        least = [("cache_bytes", 1), ("retries", 0), ("connections", 1)]
        if self.piece_bytes is not None:
            least.append(("piece_bytes", 1 << 16))
        rules = [
            ("cache", self.cache is None or isinstance(self.cache, str | os.PathLike), "a folder or None"),
            *(
                (
                    name,
                    is_whole(getattr(self, name), low),
                    f"a whole number from {low} on",
                )
                for name, low in least
            ),
            *(
                (name, is_number(getattr(self, name)) and getattr(self, name) > 0, "seconds above 0")
                for name in ("deadline", "stall")
            ),
            ("check_etag", isinstance(self.check_etag, bool), "True or False"),
            (
                "schemes",
                isinstance(self.schemes, tuple) and all(isinstance(scheme, str) for scheme in self.schemes),
                'a tuple of texts such as ("https", "s3")',
            ),
        ]
        check_fields(self, rules)
        if self.piece_bytes is not None and self.cache is None:
            raise ConfigError(
                "Store.piece_bytes says how a cache keeps shards, and there is none. Name a folder: Store(cache=...)."
            )
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"Store.options is of type {type(self.options).__name__}; expected a dict by name.")

    def check_scheme(self, url: str) -> str:
        """The scheme of a URL.

        Raises:
            ConfigError: it is not allowed.
        """
        scheme = scheme_of(url)
        if scheme not in self.schemes:
            raise ConfigError(
                f"{shown(url)}: {scheme} is not among the allowed schemes {', '.join(self.schemes)}. Correct the "
                "address, or allow it: rf.sources.Store(schemes=(...))."
            )
        return scheme
