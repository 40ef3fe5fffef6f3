"""URLs of shards: which scheme, what may be shown of them, and what of them is a secret."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SIGNED = re.compile(
    r"^(x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|sig|sign|expires|policy|key-pair-id|se|sp|sv|sr|st|spr|"
    r"sk[a-z]*|.*token.*|.*secret.*|.*password.*|.*api_?key.*|auth.*)$",
    re.IGNORECASE,
)
_SHORTEST = 4  # characters; less would blot out parts of ordinary words


def is_remote(shard: object) -> bool:
    """Whether a shard is named by a URL rather than a path."""
    return isinstance(shard, str) and _URL.match(shard) is not None


def scheme_of(url: str) -> str:
    """The scheme of a URL, in lower case."""
    return url.partition("://")[0].lower()


def shown(url: str) -> str:
    """A URL as messages may show it: without user, password, query and fragment.

    Args:
        url: a URL, a pattern of URLs, or a path, which stays as it is.
    """
    if not is_remote(url):
        return url
    scheme, _, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def identity(url: str) -> str:
    """What stays of a URL when it is signed anew: all but user, password, signature and fragment."""
    if not is_remote(url):
        return url
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, True) if not _SIGNED.match(name)]
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2], parts.path, urlencode(query), ""))


def split_query(url: str) -> tuple[str, str]:
    """A URL, or a pattern of URLs, without its query; and the query with its question mark, or nothing."""
    path, mark, query = url.partition("?")
    return path, mark + query


def secrets(url: str, options: Mapping[str, object]) -> list[str]:
    """What must not be shown: user, password and query of a URL, and all texts among a store's options.

    Args:
        url: of a shard.
        options: of its store, nested as they may be.

    Returns:
        Texts, the longest first.
    """
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    found = {user, *user.split(":"), parts.query, *(value for _, value in parse_qsl(parts.query))}
    found |= {base64.b64encode(unquote(user).encode()).decode()} if user else set()
    found |= {word for text in _texts(options.values()) for word in (text, *text.split())}
    found |= {unquote(text) for text in found}
    return sorted((text for text in found if len(text) >= _SHORTEST), key=len, reverse=True)


def scrub(text: str, url: str, options: Mapping[str, object]) -> str:
    """A text of unknown origin, such as a store's error, without what must not be shown."""
    for secret in secrets(url, options):
        text = text.replace(secret, "***")
    return re.sub(r"\?[^\s'\"]*=[^\s'\"]*", "?***", text)


def _texts(values: Iterable[object]) -> list[str]:
    found: list[str] = []
    for value in values:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, bytes):
            found.append(value.decode(errors="replace"))
        elif isinstance(value, Mapping):
            found.extend(_texts(value.values()))
        elif isinstance(value, list | tuple):
            found.extend(_texts(value))
    return found
